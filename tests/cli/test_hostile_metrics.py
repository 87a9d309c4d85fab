"""Metrics that somebody sent or a disk damaged: every command on the run answers, and none with a traceback."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from gptcli.metrics import read_events, write_event
from tests.cli.conftest import run_cli

COMMANDS = (
    ("runs", "list"),
    ("runs", "list", "--json"),
    ("runs", "show", "bad"),
    ("runs", "show", "bad", "--json"),
    ("runs", "show", "bad", "--watch"),
    ("runs", "compare", "bad", "tiny"),
    ("runs", "compare", "bad", "tiny", "--json"),
    ("runs", "plot", "bad", "tiny", "--output", "two.svg"),
    ("runs", "plot", "bad", "--log", "--x", "tokens", "--output", "one.png"),
    ("runs", "plot", "bad", "--x", "time", "--output", "one.svg"),
    ("runs", "report", "bad", "--no-draw"),
    ("runs", "export-metrics", "bad"),
    (),
)
VALUES = st.sampled_from(
    (
        *(1e308, -1e308, 1e300, -1e7, 5e-324, 0.0, -0.0, math.nan, math.inf, -math.inf, 1e12, 3.5),
        *(
            10**400,
            -(10**400),
            2**63,
            2**62,
            -1,
            0,
            1,
            True,
            None,
            "",
            "5",
            "nan",
            "\x1b[2J",
            [],
            {},
            [1e308],
            {"a": 1},
        ),
    )
)
CHANGE = st.tuples(st.integers(0, 30), st.integers(0, 30), VALUES | st.just(KeyError))
JUNK = st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"") + b"\n")


@pytest.fixture(scope="module")
def work(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("tiny", "bad"):
        shutil.copytree(trained / "runs" / "tiny", folder / "runs" / name)
    return folder


def unanswered(folder: Path) -> list[tuple[object, int, str]]:
    """Return which commands that read metrics end neither with a result nor with a sentence on what is wrong."""
    done = [(command, run_cli(folder, *command)) for command in COMMANDS]  # raises what a command raised
    return [(command, d.code, d.stderr) for command, d in done if d.code != 0 and not (d.code == 1 and d.stderr)]


def write_changed(folder: Path, changes: list[tuple[int, int, Any]], junk: list[bytes]) -> None:
    """Write the honest run's metrics with fields changed or left out, each with its checksum, and junk."""
    events = list(read_events(folder / "runs" / "tiny" / "metrics.jsonl"))
    for line, field, value in changes:
        event = events[line % len(events)]
        key = [*event][field % len(event)]
        if value is KeyError:
            del event[key]
        else:
            event[key] = value
    with (folder / "runs" / "bad" / "metrics.jsonl").open("wb") as file:
        file.writelines([*map(write_event, filter(None, events)), *junk])


@settings(
    max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(st.lists(CHANGE, max_size=12), st.lists(JUNK, max_size=3))
@example([], [b'{"event": "evaluated", "step": 1, "val_loss": 1e308}\n', b"[" * 5000 + b"\n", b"1" * 5000 + b"\n"])
def test_any_metrics_are_answered_with_a_result_or_a_sentence(
    work: Path, changes: list[tuple[int, int, Any]], junk: list[bytes]
) -> None:
    write_changed(work, changes, junk)
    assert unanswered(work) == []


FIGURES = {
    *("step", "tokens_seen", "train_loss", "val_loss", "val_loss_stderr", "bits_per_byte", "elapsed", "remaining"),
    *("tokens_per_second", "best_val_loss", "best_step", "max_steps", "eval_interval", "learning_rate"),
}


@pytest.mark.parametrize("value", [1e308, -1e308, 10**400, -1, 2**63 - 1, None, "x"], ids=lambda value: f"{value!r:.9}")
@pytest.mark.parametrize("kept", [set[str](), {"step", "val_loss"}, {"step", "best_val_loss", "max_steps"}], ids=len)
def test_figure_that_no_run_writes_is_answered_wherever_it_stands(work: Path, value: object, kept: set[str]) -> None:
    events = list(read_events(work / "runs" / "tiny" / "metrics.jsonl"))
    changed = [{key: value if key in FIGURES - kept else old for key, old in event.items()} for event in events]
    (work / "runs" / "bad" / "metrics.jsonl").write_bytes(b"".join(map(write_event, changed)))
    assert unanswered(work) == []


@pytest.mark.parametrize("reason", ["completed", "stopped_early", "interrupted"])
def test_end_that_does_not_know_its_best_step_is_answered(work: Path, reason: str) -> None:
    events = list(read_events(work / "runs" / "tiny" / "metrics.jsonl"))
    for loss in (1.5, None):
        last = {**events[-1], "reason": reason, "best_step": None, "best_val_loss": loss}
        (work / "runs" / "bad" / "metrics.jsonl").write_bytes(b"".join(map(write_event, [*events[:-1], last])))
        assert unanswered(work) == []
