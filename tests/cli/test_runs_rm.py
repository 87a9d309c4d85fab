"""``runs rm``: it asks, says what it left, and refuses what is trained."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from gptcli.runs import RunDir
from tests.cli.conftest import ROOT, run_cli
from tests.test_run_lock import hold
from tests.training import NewRun, finish, interrupt


@pytest.fixture
def runs(tmp_path: Path, new_run: NewRun) -> Path:
    """A folder with the stopped runs a and b."""
    for name in ("a", "b"):
        interrupt(new_run(name), 3)
    return tmp_path


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "runs").iterdir())


def test_runs_that_were_named_are_gone_and_no_other(runs: Path, new_run: NewRun) -> None:
    new_run("c")
    done = run_cli(runs, "runs", "rm", "a", "b", "a", "--yes")
    assert (done.code, done.stdout.splitlines()) == (0, [str(Path("runs", "a")), str(Path("runs", "b"))])
    assert done.stderr == ""
    assert left(runs) == ["c"]


def test_a_run_that_is_named_in_several_ways_is_removed_once(runs: Path) -> None:
    path = os.fspath(Path("runs", "a"))
    ways = (path, "a", f"{path}{os.sep}", f"{os.curdir}{os.sep}{path}", os.fspath(runs / "runs" / "a"))
    done = run_cli(runs, "runs", "rm", *ways, "--yes")
    assert (done.code, done.stdout.splitlines(), done.stderr) == (0, [str(Path("runs", "a"))], "")
    assert left(runs) == ["b"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_removed_before_an_error_is_told(runs: Path, tmp_path: Path, as_json: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    (runs / "runs" / "b" / "checkpoints").rename(tmp_path / "elsewhere" / "checkpoints")
    (runs / "runs" / "b" / "checkpoints").symlink_to(tmp_path / "elsewhere" / "checkpoints")
    done = run_cli(runs, "runs", "rm", "a", "b", "--yes", *(["--json"] if as_json else []))
    assert (done.code, left(runs)) == (1, ["b"])
    assert "leads out of" in done.stderr
    told = [row["folder"] for row in json.loads(done.stdout)["removed"]] if as_json else done.stdout.splitlines()
    assert told == [str(Path("runs", "a"))]


def test_json_says_how_many_bytes_were_freed(runs: Path) -> None:
    n_bytes = sum(path.stat().st_size for path in (runs / "runs" / "a").rglob("*") if path.is_file())
    (removed,) = run_cli(runs, "runs", "rm", "a", "--yes", "--json").json()["removed"]
    assert (removed["run"], removed["left"]) == ("a", [])
    assert removed["bytes"] == pytest.approx(n_bytes, abs=500)  # the lock that is held meanwhile


def test_what_somebody_else_wrote_is_named_and_left(runs: Path) -> None:
    for number in range(7):
        (runs / "runs" / "a" / f"note-{number}.txt").write_text("mine", "utf-8")
    done = run_cli(runs, "runs", "rm", "a", "--yes")
    assert (done.code, done.stdout) == (0, "")  # the folder is not gone
    assert "stays: gptcli did not write note-0.txt, " in done.stderr
    assert "and 2 more." in done.stderr
    assert len(left(runs)) == 2
    assert len(list((runs / "runs" / "a").iterdir())) == 7
    assert [row["run"] for row in run_cli(runs, "runs", "list", "--json").json()["runs"]] == ["b"]


def test_nothing_is_removed_where_nobody_can_be_asked(runs: Path) -> None:
    done = run_cli(runs, "runs", "rm", "a", stdin="y\n")
    assert done.code == 1
    assert "--yes" in done.stderr
    assert left(runs) == ["a", "b"]


@pytest.mark.parametrize("names", [("a", "nobody"), ("nobody", "a"), ("a", ""), ("a", ".."), ("a", "/")])
def test_nothing_is_removed_where_one_name_is_wrong(runs: Path, names: tuple[str, ...]) -> None:
    done = run_cli(runs, "runs", "rm", *names, "--yes")
    assert (done.code, done.stdout) == (1, "")
    assert left(runs) == ["a", "b"]


def test_run_that_is_trained_is_refused_and_nothing_of_the_others_is_removed(runs: Path) -> None:
    with hold(RunDir(runs / "runs" / "b")):
        done = run_cli(runs, "runs", "rm", "a", "b", "--yes")
    assert done.code == 1
    assert "'b' is being trained, so nothing was removed" in done.stderr
    assert left(runs) == ["a", "b"]
    finish(RunDir(runs / "runs" / "a"))


def test_run_whose_profile_is_damaged_can_be_removed(runs: Path) -> None:
    (runs / "runs" / "a" / "profile.yaml").write_text("model: [", "utf-8")
    (runs / "runs" / "b" / "profile.yaml").unlink()
    assert run_cli(runs, "runs", "rm", "a", "b", "--yes").code == 0
    assert left(runs) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("answer", "code", "expected"), [("y", 0, ["b"]), ("n", 1, ["a", "b"]), ("", 1, ["a", "b"])])
def test_person_is_asked_and_the_answer_counts(runs: Path, answer: str, code: int, expected: list[str]) -> None:
    pexpect = pytest.importorskip("pexpect")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    child = pexpect.spawn(
        sys.executable,
        ["-m", "gptcli", "runs", "rm", "a"],
        cwd=str(runs),
        env=environment,
        encoding="utf-8",
        timeout=60,
    )
    child.expect_exact("Remove it for good? [y/N]")
    assert "kB" in child.before
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code
    assert left(runs) == expected


def test_run_that_others_began_from_can_be_removed_and_they_stay_whole(trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    tune = ("finetune", "docs", "--from", "tiny", "--run", "child", "--set", "max_steps=2", "--device", "cpu")
    assert run_cli(tmp_path, *tune, "--set", "finetune.lora_rank=2").code == 0
    said = run_cli(tmp_path, "runs", "rm", "tiny")
    assert "child began from it and stays whole" in said.stderr
    shutil.copytree(tmp_path / "runs" / "child", tmp_path / "runs" / "second")
    said = run_cli(tmp_path, "runs", "rm", "tiny")
    assert "began from it and stay whole" in said.stderr
    assert run_cli(tmp_path, "runs", "rm", "tiny", "--yes").code == 0
    assert run_cli(tmp_path, "sample", "child", "--prompt", "The", "--max-new-tokens", "3").code == 0
