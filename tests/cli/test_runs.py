"""``runs list`` and ``runs show``: states, ages, families, damage; a line a run in a pipe."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gptcli.cli.runs_view import Problem, age_text, list_lines
from gptcli.config import ExpectConfig
from gptcli.errors import RunError
from gptcli.files import write_json
from gptcli.history import read_history
from gptcli.metrics import read_events
from gptcli.profiles import write_profile
from gptcli.removal import remove_run
from gptcli.run_facts import children, run_facts
from gptcli.runs import RunDir, change_run
from tests.cli.conftest import Cli, run_cli, start_cli
from tests.training import NewRun, finish, interrupt

NOW = dt.datetime(2026, 5, 4, 12, tzinfo=dt.timezone.utc)


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in run_cli(folder, "runs", "list", "--json").json()["runs"]}


def shown(folder: Path, *names: str) -> dict[str, str]:
    """The ``key: value`` lines of ``runs show`` in a pipe."""
    done = run_cli(folder, "runs", "show", *names)
    assert (done.code, done.stderr) == (0, "")
    return dict(line.split(": ", 1) for line in done.stdout.split("\n\n")[0].splitlines())


@pytest.mark.parametrize("args", [("runs", "list"), ("runs", "list", "--json")])
def test_no_runs_is_an_empty_list(cli: Cli, args: tuple[str, ...]) -> None:
    done = cli(*args)
    assert done.code == 0
    assert (done.stdout, done.stderr) in (
        ("", "There are no runs here yet: gptcli train CORPUS\n"),
        ('{"runs": []}\n', ""),
    )


def test_runs_say_how_far_they_have_come(trained: Path) -> None:
    (line,) = run_cli(trained, "runs", "list").stdout.splitlines()
    name, state, step, loss, bits, pace, size, corpus, profile, age = line.split()
    assert (name, state, step, corpus, profile) == ("tiny", "done", "12/12", "docs", "tiny")
    assert re.fullmatch(r"\d+[smhd]", age)
    told = run_cli(trained, "runs", "show", "--json").json()
    assert (told["run"], told["corpus"], told["tokenizer"], told["step"]) == ("tiny", "docs", "bpe:300", 12)
    assert float(loss) == pytest.approx(told["best_val_loss"], abs=1e-3)
    assert float(bits) == pytest.approx(told["bits_per_byte"], abs=1e-3)
    assert pace[0].isdigit()
    assert size == "23.0k"
    assert told["profile"]["model"]["n_embd"] == 32


def test_page_of_a_run_in_a_pipe_is_facts_then_its_curve_then_its_last_sample(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    more = run_cli(tmp_path, "train", "docs", "--profile", "tiny.yaml", "--run", "r", "--set", "sample_interval=6")
    assert more.code == 0, more.stderr
    facts, curve, sample = run_cli(tmp_path, "runs", "show", "r").stdout.split("\n\n", 2)
    keys = [line.split(": ")[0] for line in facts.splitlines()]
    assert keys == ["run", "corpus", "tokenizer", "model", "steps", "best", "checkpoints", "next"]
    assert "step 12 (best and latest)" in facts
    assert facts.endswith("next: gptcli sample r")
    heading, *picture = curve.splitlines()
    assert heading == "⠤ train_loss   o val_loss   * best val_loss"
    assert len(picture) == 14
    assert any("*" in line for line in picture)
    assert sample.startswith("-- sample at step 12 --\n")


def test_page_as_json_has_evaluations_checkpoints_and_the_last_sample(trained: Path) -> None:
    told = run_cli(trained, "runs", "show", "tiny", "--json").json()
    assert [e["step"] for e in told["evaluations"]] == [6, 12]
    assert all(e["val_loss"] > 0 and e["val_loss_stderr"] > 0 and e["bits_per_byte"] > 0 for e in told["evaluations"])
    assert [(c["step"], c["latest"]) for c in told["checkpoints"]][-1] == (12, True)
    assert all(c["bytes"] > 10_000 for c in told["checkpoints"])
    assert told["sample"] is None
    assert (told["state"], told["parent"], told["children"]) == ("done", None, [])


@pytest.mark.parametrize("content", [b"model: {n_layr: 1}\ntrain: {max_iters: 2}\n", b"model: [", b"\xff"])
def test_run_that_cannot_be_read_does_not_hide_the_others(trained: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    shutil.copytree(tmp_path / "runs" / "tiny", tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "profile.yaml").write_bytes(content)
    done = run_cli(tmp_path, "runs", "list")
    assert (done.code, done.stderr) == (0, "")
    broken, tiny = sorted(done.stdout.splitlines())
    assert broken.startswith("broken  ")
    assert "profile" in broken
    assert tiny.split()[:3] == ["tiny", "done", "12/12"]
    found = rows(tmp_path)
    assert "profile" in found["broken"]["problem"]
    assert found["tiny"]["step"] == 12
    assert run_cli(tmp_path, "runs", "show", "broken").code == 1


BEST = '{"event": "evaluated", "best": true, "step": 0, "bits_per_byte": [], "val_loss": '


@pytest.mark.parametrize(
    "line",
    [
        *("[]", "5", '{"event": "evaluated", "best": true}', "{", '{"event": "evaluated", "step": "x"}'),
        *('{"event": "a", "step": 1' + "0" * 400 + "}", '{"event": "a", "step": true}' + "\n5"),
        *(BEST + value + "}" for value in ('"x"', "[1]", "{}", "true", "NaN", "1e400", "1" + "0" * 400)),
    ],
    ids=lambda line: line[-80:],
)
def test_damaged_metrics_do_not_hide_a_run(trained: Path, tmp_path: Path, line: str) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "tiny" / "metrics.jsonl").write_text(line + "\n", "utf-8")
    listed = run_cli(tmp_path, "runs", "list").stdout.split()
    assert listed[:8] == ["tiny", "stopped", "0/12", "-", "-", "23.0k", "docs", "tiny"]
    assert shown(tmp_path)["best"] == "not evaluated yet"
    run_cli(tmp_path, "runs", "show", "--json").json()


def test_half_written_metrics_do_not_hide_a_run(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])
    facts = shown(tmp_path)
    assert facts["run"].startswith(f"{Path('runs', 'tiny')}, stopped ")
    assert "damaged" not in facts


def test_damaged_lines_in_the_middle_are_told_by_their_numbers(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join([*lines[:2], b"{}\n", *lines[2:], b"?\n"]))
    assert shown(tmp_path)["damaged"] == f"lines 3, {len(lines) + 2} of metrics.jsonl cannot be read"


def test_run_without_a_loss_yet_has_no_curve(tmp_path: Path, new_run: NewRun) -> None:
    new_run("new")
    facts = shown(tmp_path, "new")
    assert facts["best"] == "not evaluated yet"
    assert facts["steps"] == "0 of 12"
    assert facts["next"] == "gptcli train --resume --run new"
    assert run_cli(tmp_path, "runs", "show", "new").stdout.count("\n\n") == 0
    assert rows(tmp_path)["new"]["state"] == "stopped"


def test_run_that_was_interrupted_is_stopped_and_done_when_it_was_resumed(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r")
    interrupt(run, 6)
    assert (rows(tmp_path)["r"]["state"], shown(tmp_path)["next"]) == ("stopped", "gptcli train --resume --run r")
    finish(run)
    assert (rows(tmp_path)["r"]["state"], shown(tmp_path)["next"]) == ("done", "gptcli sample r")


def test_run_whose_val_loss_no_longer_fell_is_done(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r", "max_steps=400", "patience=1", "eval_interval=2", "learning_rate=2.0")
    finish(run)
    facts = run_facts(run)
    assert 0 < facts.step < 400
    assert facts.state == "done"


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_run_is_running_while_another_process_trains_it_and_stopped_when_that_is_gone(folder: Path, cli: Cli) -> None:
    assert cli("fetch", "docs.txt").code == 0
    more = ("--set", "max_steps=100000", "--set", "save_interval=5", "--set", "eval_interval=10")
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        name = number.name.lower()
        process = start_cli(folder, "train", "docs", "--profile", "tiny.yaml", "--run", name, *more)
        try:
            best = folder / "runs" / name / "checkpoints" / "best"
            while not best.exists():
                assert process.poll() is None
            assert rows(folder)[name]["state"] == "running"
            facts = shown(folder, name)
            assert facts["run"] == f"{Path('runs', name)}, running"
            assert facts["next"] == f"gptcli runs show {name} --watch"
            assert cli("runs", "list").stdout.split()[:2] == [name, "running"]
        finally:
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        assert process.returncode == code, error
        assert rows(folder)[name]["state"] == "stopped"


def test_run_that_was_stopped_says_after_which_step_it_goes_on(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r", "max_steps=40")
    interrupt(run, 4)
    latest = run_cli(tmp_path, "runs", "show", "r", "--json").json()["checkpoints"][-1]["step"]
    assert shown(tmp_path, "r")["steps"].endswith(f", goes on after step {latest}")
    finish(run)
    assert "goes on" not in shown(tmp_path, "r")["steps"]


def test_run_that_an_error_ended_has_failed_with_its_reason_and_goes_on(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r", "optimizer=adamw", "warmup_steps=0", "schedule=constant", "max_steps=40", "learning_rate=1e37")
    with pytest.raises(RunError) as caught:
        finish(run)
    *_, last = read_events(run.metrics_path)
    assert (last["event"], last["text"]) == ("run_failed", caught.value.message)
    assert rows(tmp_path)["r"]["failure"] == caught.value.message
    facts = shown(tmp_path)
    assert facts["run"].startswith(f"{Path('runs', 'r')}, failed ")
    assert (facts["failed"], facts["next"]) == (caught.value.message, "gptcli train --resume --run r")
    finish(run, change_run(run, ["learning_rate=0.003"]))
    assert "run_failed" not in {event["event"] for event in read_events(run.metrics_path)}
    assert (rows(tmp_path)["r"]["state"], rows(tmp_path)["r"]["failure"]) == ("done", None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3599, "60m"),
        (3600, "1h"),
        (90_000, "1d"),
        (86_400 * 400, "400d"),
    ],
)
def test_age_is_one_number_and_its_unit(seconds: float, text: str) -> None:
    changed = NOW - dt.timedelta(seconds=seconds)
    assert age_text(changed.isoformat(), NOW) == text


@pytest.mark.parametrize("changed", ["", "yesterday", "2026-05-04T12:00:00"])
def test_age_of_what_is_no_time_is_nothing(changed: str) -> None:
    assert age_text(changed, NOW) == ""


def test_finetune_knows_its_parent_and_the_parent_its_children(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for name, *more in (("whole",), ("lora", "--set", "finetune.lora_rank=2")):
        done = run_cli(
            tmp_path,
            "finetune",
            "docs",
            "--from",
            "tiny",
            "--run",
            name,
            "--set",
            "max_steps=4",
            "--device",
            "cpu",
            *more,
        )
        assert done.code == 0, done.stderr
    assert sorted(shown(tmp_path, "tiny")["went into"].split(", ")) == ["lora", "whole"]
    facts = shown(tmp_path, "lora")
    assert facts["from"] == "tiny, its step 12"
    assert "adapters of rank 2 trained" in facts["model"]
    told = run_cli(tmp_path, "runs", "show", "whole", "--json").json()
    assert (told["parent"], told["parent_step"], told["base"]) == ("tiny", 12, "tiny")
    assert "adapters" not in shown(tmp_path, "whole")["model"]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_list_in_a_window_has_a_heading_and_never_a_line_that_is_too_long(
    tmp_path: Path, new_run: NewRun, width: int
) -> None:
    facts = [run_facts(new_run("a")), run_facts(new_run("b"))]
    lines = [line.plain for line in list_lines(facts, width)]
    assert lines[0].split()[0] == "run"
    assert len(lines) == (3 if width >= 120 else 5)
    assert all(len(line) <= width for line in lines)
    assert {line.split()[0] for line in lines[1 :: 1 if width >= 120 else 2]} == {"a", "b"}


@pytest.mark.parametrize("width", [20, 30, 40])
def test_list_in_a_narrow_window_has_all_of_a_run_below_its_name(tmp_path: Path, new_run: NewRun, width: int) -> None:
    facts = run_facts(new_run("a"))
    lines = [line.plain for line in list_lines([facts, Problem("b", "runs/b", "lost")], width)]
    assert (lines[0], lines[-1]) == ("a", "b  lost")
    assert all(line.startswith("  ") and len(line) <= width for line in lines[1:-1])
    said = " ".join(" ".join(lines[1:-1]).split())
    for word in (facts.state, f"step {facts.step}/{facts.max_steps}", "val_loss", "corpus", "parameters"):
        assert word in said


@pytest.mark.parametrize("width", [None, 80])
def test_list_of_problems_alone_has_no_heading(width: int | None) -> None:
    (line,) = list_lines([Problem("r", "runs/r", "two\nlines")], width)
    assert line.plain == "r  two lines"


def test_list_leaves_out_what_is_removed_beside_it_and_makes_nothing_anew(tmp_path: Path, new_run: NewRun) -> None:
    source = new_run("r")
    interrupt(source, 3)
    (source.path / ".writer.json").write_text("{}", "utf-8")  # so that the lock is asked
    ended = threading.Event()

    def make_and_remove() -> None:
        for number in itertools.takewhile(lambda _: not ended.is_set(), itertools.count()):
            copy = RunDir(tmp_path / "runs" / f"copy-{number}")  # of one name, another would be there when it is gone
            shutil.copytree(source.path, tmp_path / "runs" / ".new")
            (tmp_path / "runs" / ".new").rename(copy.path)
            remove_run(copy)
            assert not copy.path.exists()

    with ThreadPoolExecutor(1) as threads:
        removing = threads.submit(make_and_remove)
        try:
            for _ in range(60):
                listed = rows(tmp_path)
                assert "r" in listed
                assert not [row for row in listed.values() if "problem" in row]
        finally:
            ended.set()
        removing.result()


def test_a_run_whose_files_vanish_while_it_is_looked_at_is_the_oldest(new_run: NewRun) -> None:
    run = new_run("r")
    assert run.changed_at > 0
    shutil.rmtree(run.path)
    assert run.changed_at == 0


def test_a_finetune_of_another_folder_s_run_of_the_same_name_is_no_child_of_this_one(
    new_run: NewRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "runs", tmp_path / "other" / "runs"
    new_run("tiny")
    shutil.copytree(here / "tiny", there / "tiny")
    typed = {
        "named": "tiny",
        "path": str(Path("runs", "tiny")),
        "whole-path": str(here / "tiny"),
        "other": str(Path("other", "runs", "tiny")),
        "other-whole": str(there / "tiny"),
        "no-path": "runs/tiny\0",
    }
    for name, base in typed.items():
        shutil.copytree(here / "tiny", here / name)
        (here / name / "base").mkdir()
        value = {"format_version": 1, "name": base, "kind": "run", "origin": {"run": "tiny", "step": 3}, "files": {}}
        write_json(here / name / "base" / "base.json", value)
    assert set(children(RunDir(here / "tiny"))) == {"named", "path", "whole-path"}
    monkeypatch.chdir(tmp_path)
    assert set(children(RunDir(Path("runs", "tiny")))) == {"named", "path", "whole-path"}


def test_what_a_list_says_is_what_the_whole_metrics_say(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r", "log_interval=1", "sample_interval=5", "max_steps=40", "eval_interval=10")
    interrupt(run, 17)
    assert run_facts(run) == run_facts(run, read_history(run))
    finish(run)
    assert run_facts(run) == run_facts(run, read_history(run))
    assert len(list(read_events(run.metrics_path, brief=True))) < len(list(read_events(run.metrics_path))) - 20
    lines = run.metrics_path.read_bytes().splitlines(keepends=True)
    reports = [number for number, line in enumerate(lines, start=1) if b'"step_logged"' in line]
    damaged = [reports[1], reports[8], reports[30]]
    for number, line in zip(damaged, (b"{}\n", lines[reports[8] - 1].replace(b'": 0', b'": 1', 1), b"?"), strict=True):
        lines[number - 1] = line
    run.metrics_path.write_bytes(b"".join(lines)[:-20])
    assert run_facts(run) == run_facts(run, read_history(run))
    assert set(damaged[:2]) <= set(run_facts(run).damaged_lines)


def test_promise_is_not_kept_yet_where_a_run_was_stopped_and_missed_where_it_has_ended(
    tmp_path: Path, new_run: NewRun
) -> None:
    run = new_run("r", "max_steps=40", "log_interval=1", "eval_interval=4")
    write_profile(run.profile_path, run.profile().model_copy(update={"expects": ExpectConfig(val_loss=0.01)}))
    interrupt(run, 8)
    assert shown(tmp_path, "r")["promised"] == "val_loss 0.01: not yet, the run is not complete"
    finish(run)
    assert shown(tmp_path, "r")["promised"].startswith("val_loss 0.01: not reached, missed by ")
