"""What ``--log`` writes is what the metrics of the run say, and what goes wrong with it ends no run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gptcli.errors import GptcliError
from gptcli.events import Evaluated, Notice, StepLogged, TrainEvent, WentBack
from gptcli.metrics import read_events
from gptcli.removal import remove_run, run_contents
from gptcli.runs import RunDir
from gptcli.sinks import FIGURES, Sinks, _first_line, check_sinks
from gptcli.train import StopRequest, train
from tests.test_display import evaluated, logged, started
from tests.training import NewRun, interrupt

ROOT = Path(__file__).resolve().parents[1]
EVERY_STEP = ("log_interval=1", "sample_interval=6")


def train_into(run: RunDir, names: Sequence[str], *, break_at: int = -1, stop_at: int = -1) -> list[Notice]:
    """Train with these sinks, and return what they said; at one step their files break, at one the run is stopped."""
    stop, notices = StopRequest(), list[Notice]()
    with Sinks(run, names, notices.append) as sinks, contextlib.closing(train(run, stop=stop)) as events:
        for event in events:
            if isinstance(event, StepLogged) and event.step == break_at:
                break_files(sinks)
            sinks.take(event)
            if isinstance(event, StepLogged) and event.step == stop_at:
                stop.reason = "interrupted"
        if stop.reason is not None:
            sinks.take(logged(stop_at + 1, 99.0))  # a step that no checkpoint has, as a kill leaves it
    return notices


def break_files(sinks: Sinks) -> None:
    """Take away what a sink writes into, as a disk that is gone does."""
    for sink in sinks._sinks:
        os.close(getattr(sink, "_file").fileno())  # noqa: B009 - of TensorBoard alone


def tensorboard(run: RunDir) -> Any:  # noqa: ANN401 - the package has no types
    """Read back what TensorBoard shows of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    shown.Reload()
    return shown


def shown_figures(run: RunDir) -> dict[str, list[tuple[int, Any]]]:
    shown = tensorboard(run)
    return {name: [(value.step, value.value) for value in shown.Scalars(name)] for name in shown.Tags()["scalars"]}


def figures_of_metrics(run: RunDir) -> dict[str, list[tuple[int, Any]]]:
    names = {"step_logged": FIGURES[StepLogged], "evaluated": FIGURES[Evaluated]}
    found: dict[str, list[tuple[int, Any]]] = {}
    for record in read_events(run.metrics_path):
        for name in names.get(record["event"], ()):
            if record[name] is not None:
                found.setdefault(name, []).append((record["step"], pytest.approx(record[name])))
    return found


def text_of(run: RunDir, tag: str) -> list[str]:
    values = tensorboard(run).Tensors(f"{tag}/text_summary")
    return [value.tensor_proto.string_val[0].decode() for value in values]


def test_figures_are_those_of_events_by_their_names() -> None:
    for kind, names in FIGURES.items():
        assert set(names) <= {field.name for field in dataclasses.fields(kind)}


def test_tensorboard_shows_every_figure_of_the_metrics(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("whole", *EVERY_STEP)
    (notice,) = train_into(run, ["tensorboard", "tensorboard"])
    assert notice.text == f"--log tensorboard: tensorboard --logdir {run.path.parent} shows the run."
    assert shown_figures(run) == figures_of_metrics(run)
    assert [step for step, _ in shown_figures(run)["train_loss"]] == list(range(1, 13))
    assert shown_figures(run)["val_loss"][-1][0] == 12


def test_tensorboard_shows_the_profile_and_the_samples_as_they_are(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("texts", *EVERY_STEP)
    train_into(run, ["tensorboard"])
    samples = [event for event in read_events(run.metrics_path) if event["event"] == "sample_drawn"]
    assert len(samples) == 2
    for shown, sample in zip(text_of(run, "sample"), samples, strict=True):
        assert shown == "\n".join(f"    {line}" for line in (sample["prompt"] + sample["text"]).splitlines())
    assert "    max_steps: 12" in "\n".join(text_of(run, "profile")).replace("      ", "    ")
    assert "_hparams_/session_start_info" in tensorboard(run).PluginTagToContent("hparams")


def test_resumed_run_goes_on_in_the_same_log(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("resumed", *EVERY_STEP)
    train_into(run, ["tensorboard"], stop_at=5)
    assert shown_figures(run)["train_loss"][-1] == (6, 99.0)
    train_into(run, ["tensorboard"])
    assert shown_figures(run) == figures_of_metrics(run)
    assert len(list((run.path / "tensorboard").iterdir())) == 2


def test_log_that_is_first_asked_for_on_a_resume_has_all_that_was_before(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("late", *EVERY_STEP)
    interrupt(run, 5)
    train_into(run, ["tensorboard"])
    assert shown_figures(run) == figures_of_metrics(run)
    assert len(text_of(run, "sample")) == 2


def test_error_without_words_is_called_by_its_kind() -> None:
    assert _first_line(TimeoutError("<no message>")) == _first_line(TimeoutError()) == "TimeoutError"
    assert _first_line(OSError(" no route.\nat all ")) == "no route"


def test_run_that_went_back_shows_the_steps_that_count(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("back")
    events: list[TrainEvent] = [
        *(started(step=0), logged(1, 3.0), logged(2, 2.5), evaluated(2, 2.6)),
        *(logged(3, 7.0), logged(4, 8.0), WentBack(2, 4, 0.5), logged(3, 2.4), evaluated(3, 2.5)),
    ]
    with Sinks(run, ["tensorboard"], lambda _: None) as sinks:
        for event in events:
            sinks.take(event)
    assert shown_figures(run)["train_loss"] == [(1, 3.0), (2, 2.5), (3, pytest.approx(2.4))]
    assert shown_figures(run)["val_loss"] == [(2, pytest.approx(2.6)), (3, pytest.approx(2.5))]


def test_log_is_removed_with_its_run_and_what_lies_beside_it_stays(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("removed")
    train_into(run, ["tensorboard"])
    assert run_contents(run).foreign == ()
    notes = run.path / "tensorboard" / "notes.txt"
    notes.write_text("mine", "utf-8")
    remove_run(run)
    assert [path for path in run.path.rglob("*") if path.is_file()] == [notes]


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")
def test_link_that_leads_out_of_the_run_is_not_followed(new_run: NewRun, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run, outside = new_run("linked"), tmp_path / "outside"
    outside.mkdir()
    (run.path / "tensorboard").symlink_to(outside)
    (notice,) = train_into(run, ["tensorboard"])
    assert "this is a symbolic link that leads out of" in notice.text
    assert list(outside.iterdir()) == []


def test_figures_that_are_no_numbers_are_left_out(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("nan")
    with Sinks(run, ["tensorboard"], lambda _: None) as sinks:
        for event in (started(step=0), logged(1, float("nan"))):
            sinks.take(event)
    assert "train_loss" not in shown_figures(run)
    assert "mfu" not in shown_figures(run)
    assert shown_figures(run)["learning_rate"] == [(1, pytest.approx(3e-3))]


def test_sink_that_cannot_begin_is_said_once_and_the_run_goes_on(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("blocked", *EVERY_STEP)
    (run.path / "tensorboard").write_text("in the way", "utf-8")
    (notice,) = train_into(run, ["tensorboard"])
    assert notice.text.startswith("--log tensorboard has failed, so the run goes on without it (")
    assert notice.text.endswith("). metrics.jsonl has all.")
    assert len(figures_of_metrics(run)["train_loss"]) == 12


def test_sink_that_breaks_on_the_way_is_said_once_and_the_run_goes_on(new_run: NewRun) -> None:
    pytest.importorskip("tensorboard")
    run = new_run("broken", *EVERY_STEP)
    _, notice = train_into(run, ["tensorboard"], break_at=4)
    assert notice.step == 4
    assert "--log tensorboard has failed" in notice.text
    assert "Bad file descriptor" in notice.text
    assert [step for step, _ in shown_figures(run)["train_loss"]] == [1, 2, 3]
    assert len(figures_of_metrics(run)["train_loss"]) == 12


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_missing_package_is_an_error_with_its_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()  # what wandb leaves in a working directory is no package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(GptcliError, match=f"--log {name} needs the package {name}, which is not installed") as caught:
        check_sinks([name])
    assert f"pip install 'gptcli[{name}]'" in caught.value.hint


# Feeds a sink in a process of its own: both packages keep threads and settings for as long as theirs lasts.
FEED = """
import sys
from pathlib import Path
from gptcli.events import SampleDrawn
from gptcli.removal import remove_run, run_contents
from gptcli.runs import RunDir
from gptcli.sinks import Sinks
from tests.test_display import evaluated, finished, logged, started
sample = SampleDrawn(2, "The ", "<b>cat</b>")
events = [started(step=0), logged(1, 3.0), logged(2, 2.5), evaluated(2, 2.6), sample, finished()]
with Sinks(RunDir(Path(sys.argv[2])), [sys.argv[1]], lambda notice: print(notice.text, file=sys.stderr)) as sinks:
    for event in events:
        sinks.take(event)
"""


def feed(name: str, run: RunDir, home: Path) -> str:
    """Return what the sink said; stdout, which is data, has nothing of it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "TRACKIO_"))}
    env = {**kept, "PYTHONPATH": str(ROOT), "HOME": str(home), "NETRC": str(home / "netrc")}
    command = [sys.executable, "-c", FEED, name, str(run.path)]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, encoding="utf-8", check=True, timeout=120)
    assert done.stdout == ""
    return done.stderr


def test_wandb_keeps_the_log_in_the_run_where_nobody_is_logged_in(new_run: NewRun, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = new_run("offline")
    for words in (("init", "--quiet"), ("remote", "add", "origin", "https://example.org/mine.git")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, timeout=60)
    said = feed("wandb", run, tmp_path)
    (kept,) = (run.path / "wandb").glob("offline-run-*")
    assert "as nobody is logged in to wandb; wandb sync " in said
    (log,) = kept.glob("*.wandb")
    assert all(name.encode() in log.read_bytes() for name in ("train_loss", "val_loss", "n_layer"))
    assert b"example.org/mine" not in log.read_bytes(), "the address of a repository is not sent"
    (table,) = kept.rglob("sample*.json")
    assert json.loads(table.read_text("utf-8"))["data"] == [[2, "The ", "<b>cat</b>"]]
    feed("wandb", run, tmp_path)
    assert len({path.name.rpartition("-")[2] for path in (run.path / "wandb").glob("offline-run-*")}) == 1
    remove_run(run)
    assert not run.path.exists()


def test_trackio_keeps_the_log_in_the_run(new_run: NewRun, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    run = new_run("local")
    said = feed("trackio", run, tmp_path)
    assert f"TRACKIO_DIR={run.path / 'trackio'} trackio show" in said
    with contextlib.closing(sqlite3.connect(run.path / "trackio" / "gptcli.db")) as database:
        rows = database.execute("SELECT step, metrics FROM metrics WHERE run_name = 'local' ORDER BY id").fetchall()
    assert [step for step, _ in rows] == [1, 2, 2, 2]
    assert b'"train_loss":2.5' in rows[1][1]
    assert b'"val_loss":2.6' in rows[2][1]
    assert b"<b>cat</b>" in rows[3][1]
    remove_run(run)
    assert not run.path.exists()
