"""``runs compare``: what differs, losses at equal steps, texts of each, and what does not compare."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from gptcli.cli.runs_compare import Row, _table, _tables
from gptcli.comparison import Loss, compare_runs, different, losses_at_equal, losses_at_equal_steps
from gptcli.history import History, build_history
from gptcli.metrics import read_events, write_event
from gptcli.run_facts import run_facts
from gptcli.runs import RunDir
from tests.cli.conftest import TINY, run_cli
from tests.training import NewRun, finish


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """The run ``tiny``, one that is like it but for a rate, one on another text, and two in other tokens of all val."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    (folder / "other.txt").write_text((folder / "docs.txt").read_text("utf-8")[::-1], "utf-8")
    (folder / "chars.yaml").write_text(TINY.replace("bpe:300", "char"), "utf-8")
    assert run_cli(folder, "fetch", "other.txt").code == 0
    for name, corpus, profile, *more in (
        ("slow", "docs", "tiny.yaml", "--set", "learning_rate=0.001"),
        ("full", "docs", "tiny.yaml", "--set", "eval_tokens=100000"),
        ("chars", "docs", "chars.yaml", "--set", "eval_tokens=100000"),
        ("other", "other", "tiny.yaml"),
    ):
        done = run_cli(folder, "train", corpus, "--profile", profile, "--run", name, *more)
        assert done.code == 0, done.stderr
    return folder


def test_comparison_says_what_differs_how_far_each_is_and_what_each_writes(runs: Path) -> None:
    done = run_cli(runs, "runs", "compare", "tiny", "slow", "--prompt", "The ", "--max-new-tokens", "5")
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "A  tiny, done, 23.0k parameters"
    assert lines[1] == "B  slow, done, 23.0k parameters"
    tables = {table.splitlines()[0].split("  ")[0]: table for table in done.stdout.split("\n\n")}
    assert len(tables["what differs"].splitlines()) == 2
    assert tables["what differs"].splitlines()[1].split()[0::2][0] == "train.learning_rate"
    assert "0.001" in tables["what differs"]
    assert [line.split()[0] for line in tables["val_loss at step"].splitlines()[1:]] == ["6", "12"]
    assert "val_loss after tokens" not in tables  # which are equal at equal steps
    best = run_facts(RunDir(runs / "runs" / "tiny")).best_val_loss
    assert f"{best:.4f}" in tables["how far"]
    assert "-- A writes --\nThe " in done.stdout
    assert "-- B writes --\nThe " in done.stdout


def test_comparison_as_json_has_everything(runs: Path) -> None:
    told = run_cli(runs, "runs", "compare", "tiny", "slow", "--max-new-tokens", "4", "--json").json()
    assert [run["run"] for run in told["runs"]] == ["tiny", "slow"]
    assert (told["same_tokens"], told["same_val"]) == (True, True)
    (difference,) = told["differences"]
    assert (difference["key"], difference["values"][1]) == ("train.learning_rate", 0.001)
    assert [row["step"] for row in told["losses"]] == [6, 12]
    assert all(loss > 0 for row in told["losses"] for loss in row["val_loss"] + row["bits_per_byte"])
    assert told["losses_at_tokens"] == []
    assert all(len(row["val_loss"]) == 2 for row in told["losses_at_seconds"])
    assert len(told["samples"]) == 2
    assert all(told["samples"])


def test_runs_in_other_tokens_are_compared_in_bits_per_byte(runs: Path) -> None:
    done = run_cli(runs, "runs", "compare", "full", "chars", "--max-new-tokens", "0")
    assert "bits/byte at step" in done.stdout
    assert "Their tokens differ: val_loss does not compare, bits per byte do." in done.stdout
    assert "data.tokenizer" in done.stdout
    assert "writes --" not in done.stdout


def test_runs_that_were_scored_on_other_texts_are_told_apart(runs: Path) -> None:
    done = run_cli(runs, "runs", "compare", "tiny", "other", "--max-new-tokens", "0")
    assert "They were scored on different texts, so their losses tell little about each other." in done.stdout
    assert "data.corpus" in done.stdout


@pytest.mark.parametrize("other", ["full", "chars"])
def test_runs_that_score_different_parts_of_val_are_told_apart(runs: Path, other: str) -> None:
    compare = ("runs", "compare", "tiny", other, "--max-new-tokens", "0")
    done = run_cli(runs, *compare)
    assert "They were scored on different parts of val, so their losses tell little" in done.stdout
    assert "train.eval_tokens" in done.stdout
    assert (
        run_cli(runs, "runs", "compare", "tiny", other, "--max-new-tokens", "0", "--json").json()["same_val"] is False
    )


@pytest.mark.parametrize(
    ("names", "compared"),
    [
        (["tiny", "slow"], {"best val_loss", "bits/byte", "6", "12"}),
        (["full", "chars"], {"bits/byte", "6", "12"}),
        (["tiny", "other"], set()),
        (["tiny", "full"], set()),
    ],
)
def test_a_run_is_best_only_in_what_compares(runs: Path, names: list[str], compared: set[str]) -> None:
    comparison = compare_runs([RunDir(runs / "runs" / name) for name in names])
    tables = [(title, rows) for title, rows in _tables(comparison) if not title.endswith(" after")]
    best = {label for _, rows in tables for label, _, place in rows if place is not None}
    assert best - {"tokens/s"} == compared  # paces and times are the clock's


@pytest.mark.parametrize("names", [["tiny"], ["tiny"] * 27])
def test_one_run_or_more_than_there_are_letters_is_wrong_use(runs: Path, names: list[str]) -> None:
    done = run_cli(runs, "runs", "compare", *names)
    assert (done.code, done.stdout) == (2, "")
    assert "Name two runs or more" in done.stderr


def test_run_without_checkpoints_or_losses_is_compared_as_far_as_it_goes(tmp_path: Path, new_run: NewRun) -> None:
    finish(new_run("a"))
    new_run("b")
    done = run_cli(tmp_path, "runs", "compare", "a", "b", "--prompt", "The ", "--max-new-tokens", "3")
    assert done.code == 0
    assert "b writes nothing: " in done.stderr
    assert "-- A writes --" in done.stdout
    assert "-- B writes --" not in done.stdout
    run_cli(tmp_path, "runs", "compare", "b", "b", "--json", "--max-new-tokens", "0").json()


def test_comparison_in_a_window_with_no_room_for_a_column_has_a_line_for_each_value() -> None:
    rows: list[Row] = [("train.muon_learning_rate", ("0.03", "0.01"), 1)]
    narrow = [line.plain for line in _table("what differs", rows, label=24, n_runs=2, width=30)]
    assert narrow == ["what differs", "train.muon_learning_rate", "  A  0.03", "  B  0.01"]
    assert len(_table("what differs", rows, label=24, n_runs=2, width=50)) == 2


def test_run_that_is_not_there_is_an_error_with_the_nearest_name(runs: Path) -> None:
    done = run_cli(runs, "runs", "compare", "tiny", "slwo")
    assert done.code == 1
    assert "Did you mean slow?" in done.stderr


def test_what_differs_has_every_key_of_any_row() -> None:
    assert different([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}, {"a": 1, "b": 2, "c": 4}]) == [
        ("b", (2, 3, 2)),
        ("c", (None, None, 4)),
    ]


def test_losses_are_of_steps_that_all_have_or_of_all_steps_where_those_are_too_few() -> None:
    def history(*steps: int) -> History:
        return build_history([{"event": "evaluated", "step": step, "val_loss": 1.0} for step in steps])

    assert [step for step, _ in losses_at_equal_steps([history(2, 4, 6), history(4, 6, 8)])] == [4, 6]
    assert [step for step, _ in losses_at_equal_steps([history(2, 4), history(4, 8)])] == [2, 4, 8]
    assert losses_at_equal_steps([history(), history()]) == []


def test_csv_has_a_row_a_step_and_equals_the_metrics(trained: Path, tmp_path: Path) -> None:
    done = run_cli(trained, "runs", "export-metrics", "tiny")
    assert (done.code, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    events = list(read_events(trained / "runs" / "tiny" / "metrics.jsonl"))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 10, 12]
    for event in events:
        if event["event"] in ("step_logged", "evaluated"):
            (row,) = [row for row in rows if int(row["step"]) == event["step"]]
            for key in ("train_loss", "val_loss", "learning_rate", "bits_per_byte", "grad_norm", "perplexity"):
                if event.get(key) is not None:
                    assert float(row[key]) == event[key]
    assert [row["val_loss"] != "" for row in rows] == [False, False, True, False, False, True]
    told = run_cli(trained, "runs", "export-metrics", "tiny", "-o", str(tmp_path / "a.csv"), "--json").json()
    assert (told["rows"], (tmp_path / "a.csv").read_text("utf-8")) == (6, done.stdout)
    assert [row["step"] for row in run_cli(trained, "runs", "export-metrics", "--json").json()["rows"]][-1] == 12


def test_csv_of_a_run_without_losses_is_its_heading(tmp_path: Path, new_run: NewRun) -> None:
    new_run("r")
    (line,) = run_cli(tmp_path, "runs", "export-metrics", "r").stdout.splitlines()
    assert line.startswith("step,tokens_seen,epoch,train_loss,")


def test_plot_draws_one_run_into_it_and_several_here(runs: Path, tmp_path: Path) -> None:
    picture = Path("runs", "tiny", "loss.png")
    assert run_cli(runs, "runs", "plot", "tiny").stdout == f"{picture}\n"
    told = run_cli(runs, "runs", "plot", "tiny", "slow", "chars", "tiny", "--json").json()
    assert (told["path"], told["runs"]) == ("loss.png", ["tiny", "slow", "chars"])
    assert (runs / "loss.png").read_bytes().startswith(b"\x89PNG")
    for number, options in enumerate((("--log",), ("--x", "tokens"), ("--x", "time", "--log"))):
        done = run_cli(runs, "runs", "plot", "tiny", "-o", str(tmp_path / f"{number}.svg"), *options)
        assert (done.code, done.stderr) == (0, "")


def test_plot_of_what_cannot_be_drawn_or_written_is_an_error(runs: Path, tmp_path: Path, new_run: NewRun) -> None:
    new_run("new")
    done = run_cli(tmp_path, "runs", "plot", "new")
    assert done.code == 1
    assert "There is no loss to draw yet: new." in done.stderr
    (tmp_path / "taken.png").mkdir()
    done = run_cli(runs, "runs", "plot", "tiny", "-o", str(tmp_path / "taken.png"))
    assert done.code == 1
    assert "taken.png" in done.stderr
    assert json.loads(run_cli(runs, "runs", "plot", "tiny", "-o", "b.pdf", "--json").stdout)["path"] == "b.pdf"


COMMANDS = [("plot", ".svg"), ("report", ".html"), ("export-metrics", ".csv")]


@pytest.mark.parametrize(("command", "suffix"), COMMANDS)
def test_file_of_the_same_kind_is_replaced_and_that_is_said(
    trained: Path, tmp_path: Path, command: str, suffix: str
) -> None:
    place = tmp_path / f"a{suffix}"
    done = run_cli(trained, "runs", command, "tiny", "-o", str(place))
    assert (done.code, done.stdout, "Replaced" in done.stderr) == (0, f"{place}\n", False)
    written = place.read_bytes()
    place.write_text("mine", "utf-8")
    done = run_cli(trained, "runs", command, "tiny", "-o", str(place))
    assert (done.code, done.stdout) == (0, f"{place}\n")
    assert done.stderr.endswith(f"Replaced {place}.\n")
    assert place.read_bytes() == written


@pytest.mark.parametrize(("command", "suffix"), COMMANDS)
@pytest.mark.parametrize("name", ["notes.txt", "none", "-", "loss.gif"])
def test_file_of_another_kind_is_left_alone(
    trained: Path, tmp_path: Path, command: str, suffix: str, name: str
) -> None:
    place = tmp_path / name
    place.write_text("mine", "utf-8")
    done = run_cli(trained, "runs", command, "tiny", "-o", str(place))
    assert (done.code, done.stdout) == (2, "")
    assert suffix in done.stderr
    assert place.read_text("utf-8") == "mine"


@pytest.mark.parametrize(("command", "suffix"), COMMANDS)
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_left_alone(trained: Path, tmp_path: Path, command: str, suffix: str, kind: str) -> None:
    place = tmp_path / f"a{suffix}"
    if kind == "folder":
        place.mkdir()
    elif hasattr(os, "mkfifo"):
        os.mkfifo(place)
    else:
        pytest.skip("there are no such pipes on Windows")
    done = run_cli(trained, "runs", command, "tiny", "-o", str(place))
    assert (done.code, done.stdout) == (1, "")
    assert f"a {kind}" in done.stderr.replace("a device or a pipe", "a pipe")
    assert place.exists()
    assert not place.is_file()


def test_text_in_the_place_of_a_number_never_becomes_a_cell(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs" / "tiny", tmp_path / "runs" / "tiny")
    formula = '=HYPERLINK("http://x.example")'
    event = {"event": "evaluated", "step": 12, "val_loss": 2.0, "perplexity": formula, "best": "@SUM(1)"}
    with (tmp_path / "runs" / "tiny" / "metrics.jsonl").open("ab") as file:
        file.write(write_event(event))
    table = run_cli(tmp_path, "runs", "export-metrics", "tiny").stdout
    *_, last = csv.DictReader(io.StringIO(table))
    assert (last["val_loss"], last["perplexity"], last["best"]) == ("2.0", "", "")
    assert not {"=", "@"} & set(table)


def test_losses_at_equal_cost_are_read_off_between_evaluations_and_never_beyond_them() -> None:
    def history(*points: tuple[float, float, float | None]) -> History:
        return build_history(
            {"event": "evaluated", "step": i, "elapsed": seconds, "val_loss": loss, "bits_per_byte": bits}
            for i, (seconds, loss, bits) in enumerate(points)
        )

    quick = history((1, 5.0, 2.5), (2, 4.0, 2.0), (3, 3.0, 1.5))
    slow = history((2, 4.0, None), (4, 2.0, 1.0))
    found = losses_at_equal([quick, slow], lambda evaluation: evaluation.seconds)
    assert found == [(2, (Loss(4.0, 2.0), Loss(4.0, None))), (3, (Loss(3.0, 1.5), Loss(3.0, None)))]
    assert losses_at_equal([quick, history()], lambda evaluation: evaluation.seconds) == []
    assert losses_at_equal([history((1, 2.0, 1.0)), slow], lambda evaluation: evaluation.seconds) == []


def test_runs_of_other_batches_are_compared_at_equal_tokens_too(runs: Path) -> None:
    changes = ("--set", "batch_size=2", "--set", "max_steps=24", "--set", "eval_interval=6")
    assert run_cli(runs, "train", "docs", "--profile", "tiny.yaml", "--run", "small", *changes).code == 0
    arguments = ("runs", "compare", "tiny", "small", "--max-new-tokens", "0")
    told = run_cli(runs, *arguments, "--json").json()
    tiny = [event for event in read_events(runs / "runs" / "tiny" / "metrics.jsonl") if event["event"] == "evaluated"]
    seen = {event["tokens_seen"]: event["val_loss"] for event in tiny}
    assert told["losses_at_tokens"]
    rows = {row["tokens_seen"]: row["val_loss"][0] for row in told["losses_at_tokens"]}
    assert {tokens: rows[tokens] for tokens in seen if tokens in rows} == seen
    assert "val_loss after tokens" in run_cli(runs, *arguments).stdout
