"""``profiles``, ``corpora`` and ``runs``: list and show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli, run_cli


def test_profiles_list_has_a_name_and_a_description_a_line(cli: Cli) -> None:
    lines = cli("profiles", "list").stdout.splitlines()
    quickstart = next(line for line in lines if line.startswith("quickstart "))
    assert len(quickstart.split()) > 3


def test_profile_of_the_working_folder_wins_over_the_builtin_one(folder: Path, cli: Cli) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "quickstart.yaml").write_text("description: mine\n", "utf-8")
    rows = {row["name"]: row for row in cli("profiles", "list", "--json").json()["profiles"]}
    assert (rows["quickstart"]["description"], rows["quickstart"]["builtin"]) == ("mine", False)


def test_profile_that_cannot_be_read_does_not_hide_the_others(folder: Path, cli: Cli) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "broken.yaml").write_text("model: {n_layr: 1}\n", "utf-8")
    done = cli("profiles", "list")
    assert done.code == 0
    assert "quickstart" in done.stdout
    assert "n_layr" in done.stdout


def test_corpora_list_has_the_fetched_ones_and_the_recipes(folder: Path, cli: Cli) -> None:
    assert "python-docs" in cli("corpora", "list").stdout
    cli("fetch", "docs.txt")
    cli("prepare", "docs", "--tokenizer", "char")
    rows = cli("corpora", "list", "--json").json()["corpora"]
    assert (rows[0]["name"], rows[0]["tokens"], rows[0]["fetched"]) == ("docs", ["char"], True)
    assert {row["name"] for row in rows if not row["fetched"]} >= {"python-docs", "shakespeare"}


def test_corpora_list_says_which_one_is_damaged(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt")
    (folder / "corpora" / "docs" / "source.json").write_text("{", "utf-8")
    done = cli("corpora", "list")
    assert done.code == 0
    assert "damaged" in done.stdout
    assert "python-docs" in done.stdout


def test_corpus_made_by_hand_is_listed_and_shown(folder: Path, cli: Cli) -> None:
    (folder / "corpora" / "mine").mkdir(parents=True)
    (folder / "corpora" / "mine" / "documents.jsonl").write_text('{"id": "0", "text": "The rest."}\n', "utf-8")
    first = cli("corpora", "list").stdout.splitlines()[0]
    assert " ".join(first.split()) == "mine made by hand, 33 bytes of documents, tokens: none yet"
    assert "kind: made by hand" in cli("corpora", "show", "mine").stdout


def test_corpus_shows_where_it_came_from(cli: Cli) -> None:
    cli("fetch", "docs.txt")
    assert "kind: file" in cli("corpora", "show").stdout
    shown = cli("corpora", "show", "docs", "--json").json()
    assert shown["source"] == "docs.txt"
    assert len(shown["sha256"]) == 64


@pytest.mark.parametrize("args", [("runs", "list"), ("runs", "list", "--json")])
def test_no_runs_is_an_empty_list(cli: Cli, args: tuple[str, ...]) -> None:
    done = cli(*args)
    assert done.code == 0
    assert done.stdout in ("", '{"runs": []}\n')


def test_runs_say_how_far_they_have_come(trained: Path) -> None:
    line = run_cli(trained, "runs", "list").stdout.strip()
    assert line.startswith("tiny  step 12/12  val_loss ")
    shown = run_cli(trained, "runs", "show", "--json").json()
    assert (shown["run"], shown["corpus"], shown["tokenizer"], shown["step"]) == ("tiny", "docs", "bpe:300", 12)
    assert shown["best_val_loss"] > 0
    assert shown["profile"]["model"]["n_embd"] == 32


@pytest.mark.parametrize("content", [b"model: {n_layr: 1}\ntrain: {max_iters: 2}\n", b"model: [", b"\xff"])
def test_run_that_cannot_be_read_does_not_hide_the_others(trained: Path, tmp_path: Path, content: bytes) -> None:
    import shutil

    shutil.copytree(trained / "runs", tmp_path / "runs")
    shutil.copytree(tmp_path / "runs" / "tiny", tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "profile.yaml").write_bytes(content)
    done = run_cli(tmp_path, "runs", "list")
    assert (done.code, done.stderr) == (0, "")
    lines = sorted(done.stdout.splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("broken  ")
    assert "profile" in lines[0]
    assert lines[1].startswith("tiny    step 12/12")
    rows = {row["run"]: row for row in run_cli(tmp_path, "runs", "list", "--json").json()["runs"]}
    assert "profile" in rows["broken"]["problem"]
    assert rows["tiny"]["step"] == 12
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
    import shutil

    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "tiny" / "metrics.jsonl").write_text(line + "\n", "utf-8")
    assert run_cli(tmp_path, "runs", "list").stdout == "tiny  step 0/12  val_loss -  docs\n"


def test_half_written_metrics_do_not_hide_a_run(trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained / "runs", tmp_path / "runs")
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])
    assert run_cli(tmp_path, "runs", "show").stdout.splitlines()[0] == "run: tiny"
