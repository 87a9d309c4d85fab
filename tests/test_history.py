"""What metrics tell of a run: parts add up, wrong types are absent, events survive their file, tails miss nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptcli.events import (
    CheckpointSaved,
    Evaluated,
    Notice,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleDrawn,
    StepLogged,
    TrainEvent,
    WentBack,
    from_record,
    to_record,
)
from gptcli.history import build_history, read_history
from gptcli.metrics import Metrics, Tail, parse_event, write_event
from tests.training import NewRun, finish, interrupt

KINDS = (RunStarted, StepLogged, Evaluated, CheckpointSaved, SampleDrawn, Notice, WentBack, RunFinished, RunFailed)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    "step",
    "elapsed",
    "val_loss",
    "train_loss",
    "tokens_seen",
    "tokens_per_second",
    "text",
    "prompt",
    "bits_per_byte",
)
NAMES = ("run_started", "step_logged", "evaluated", "sample_drawn", "notice", "went_back", "run_finished", "other")
EVENTS = st.lists(
    st.builds(
        lambda name, values: {**values, "event": name},
        st.sampled_from(NAMES),
        st.dictionaries(st.sampled_from(KEYS), ANY, max_size=9),
    ),
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(*map(st.from_type, KINDS)))
def test_every_event_comes_back_from_its_line(event: TrainEvent) -> None:
    record = to_record(event)
    again = from_record(json.loads(json.dumps(record)))
    assert again is None or type(again) is type(event)
    plain = {key: value for key, value in record.items() if value is not None}
    if again is not None:
        assert {key: value for key, value in to_record(again).items() if value is not None} == plain
    required = {"learning_rate", "tokens_per_second", "elapsed", "epoch", "learning_rate_factor", "seconds_before"}
    lost = [key for key in required & record.keys() if record[key] is None]
    if record.get("best_val_loss") is not None or record.get("reason") == "stopped_early":
        lost += ["best_step"] * (record.get("best_step", 0) is None)
    assert (again is None) == bool(lost), lost


@pytest.mark.parametrize(
    "record", [{}, {"event": "unknown"}, {"event": 5}, {"event": "notice"}, {"event": "notice", "step": "x", "text": 1}]
)
def test_line_that_tells_of_no_event_is_none(record: dict[str, object]) -> None:
    assert from_record(record) is None


def test_what_json_has_no_number_for_is_no_number_again() -> None:
    event = Evaluated(1, 2, math.nan, 0.1, math.inf, 1.0, 5, False, 1.0, 2.0)
    again = from_record(to_record(event))
    assert isinstance(again, Evaluated)
    assert math.isnan(again.val_loss)
    assert math.isnan(again.perplexity)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_any_values_make_a_history(events: list[dict[str, object]]) -> None:
    history = build_history(events)
    assert history.seconds >= 0
    assert all(math.isfinite(evaluation.val_loss) for evaluation in history.evaluations)
    assert all(report.train_loss is None or math.isfinite(report.train_loss) for report in history.reports)
    assert isinstance(history.step, int)
    assert history.step >= 0
    assert all(isinstance(sample.text, str) and isinstance(sample.prompt, str) for sample in history.samples)


def test_seconds_of_resumed_parts_add_up() -> None:
    def part(first: int, *seconds: float) -> list[dict[str, object]]:
        logged = [
            {"event": "step_logged", "step": first + i, "train_loss": 1.0, "elapsed": s} for i, s in enumerate(seconds)
        ]
        return [{"event": "run_started", "step": first}, *logged]

    history = build_history([*part(1, 2.0, 5.0), *part(3, 1.0, 4.0), *part(5, 0.5)])
    assert [report.seconds for report in history.reports] == [2.0, 5.0, 6.0, 9.0, 9.5]
    assert history.seconds == 9.5


def test_history_of_a_real_run_that_was_interrupted(new_run: NewRun) -> None:
    run = new_run("r", "sample_interval=4")
    interrupt(run, 6)
    before = read_history(run).reports[-1].seconds
    finish(run)
    history = read_history(run)
    assert history.seconds > before > 0
    assert [report.step for report in history.reports][-1] == history.step == 12
    assert [evaluation.step for evaluation in history.evaluations] == [4, 8, 12]
    assert [sample.step for sample in history.samples] == [4, 8, 12]
    assert history.best == min(history.evaluations, key=lambda evaluation: evaluation.val_loss)
    assert history.last["event"] == "run_finished"
    assert (history.tokens_seen, history.damaged_lines) == (12 * 64, [])


def record(step: int, text: str = "x") -> dict[str, object]:
    return to_record(Notice(step, text))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 400), max_size=12), n=st.integers(0, 8))
def test_tail_gives_every_event_once_however_the_file_grows(tmp_path: Path, cuts: list[int], n: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.unlink(missing_ok=True)
    events = [record(number, "é" * number) for number in range(n)]
    content, tail, seen = b"".join(map(write_event, events)), Tail(path), list[dict[str, object]]()
    assert tail.new_events() == []
    written = 0
    for cut in sorted(min(cut, len(content)) for cut in [*cuts, len(content)]):
        with path.open("ab") as file:
            file.write(content[written:cut])
        written = cut
        seen += tail.new_events()
        assert len(seen) == content[:cut].count(b"\n")
    assert seen == events
    assert tail.new_events() == []


def test_tail_of_a_run_that_goes_back_gives_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail, metrics = Tail(path), Metrics(path)
    for step in range(1, 9):
        metrics.append(record(step), durable=False)
    assert [event["step"] for event in tail.new_events()] == list(range(1, 9))
    metrics.cut_back(5, {})
    assert tail.new_events() == []
    metrics.append(record(6, "again"), durable=False)
    metrics.append(record(7, "again"), durable=False)
    assert [(event["step"], event["text"]) for event in tail.new_events()] == [(6, "again"), (7, "again")]
    metrics.close()
    path.unlink()
    assert tail.new_events() == []


def test_tail_misses_nothing_of_a_file_that_another_of_its_length_and_inode_took_the_place_of(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(write_event(record(step)) for step in (1, 2, 3)))
    tail = Tail(path)
    assert len(tail.new_events()) == 3
    for text in ("a", "b"):  # the same file for the system, and as long as before
        path.write_bytes(b"".join(write_event(record(step, text if step > 1 else "x")) for step in (1, 2, 3)))
        assert [(event["step"], event["text"]) for event in tail.new_events()] == [(2, text), (3, text)]
        assert tail.new_events() == []


@pytest.mark.parametrize("step", ["", ', "step": -1', ', "step": true', ', "step": 1.0', f', "step": {10**400}'])
def test_line_without_a_step_is_damaged(step: str) -> None:
    assert parse_event(b'{"event": "checkpoint_saved", "step": 1}') is not None
    assert parse_event(f'{{"event": "checkpoint_saved"{step}}}'.encode()) is None


def test_number_that_no_run_writes_is_read_as_none() -> None:
    line = b'{"event": "evaluated", "step": 1, "val_loss": %s, "bits_per_byte": %s, "elapsed": %s}'
    for loss, figure in ((b"1e6", b"1e308"), (b"-0.1", b"1" * 400), (b"NaN", b"-1e999"), (b"Infinity", b"NaN")):
        assert parse_event(line % (loss, loss, figure)) == {
            "event": "evaluated", "step": 1, "val_loss": None, "bits_per_byte": None, "elapsed": None,
        }  # fmt: skip
    event = {"event": "evaluated", "step": 1, "val_loss": 999_999.5, "bits_per_byte": 0, "elapsed": 9e18}
    assert parse_event(write_event(event)) == event


def test_tail_leaves_damaged_lines_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        write_event(record(1)) + b"{damaged\n" + write_event(record(2))[:-9] + b'"}\n' + write_event(record(3))
    )
    assert [event["step"] for event in Tail(path).new_events()] == [1, 3]
