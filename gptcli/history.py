"""What a run's metrics say it has been through: its curves, samples and pace, as plain values.

Reads ``metrics.jsonl`` and believes none of its types; draws nothing, and opens no weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gptcli.metrics import read_events
from gptcli.runs import RunDir

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """One report of the training loss; ``seconds`` is the training time of the whole run up to it."""

    step: int
    train_loss: float | None
    seconds: float
    record: Record


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation; losses in nats a token."""

    step: int
    val_loss: float
    val_loss_stderr: float | None
    bits_per_byte: float | None
    seconds: float
    record: Record


@dataclass(frozen=True, slots=True)
class DrawnSample:
    """What the model wrote at ``step``."""

    step: int
    prompt: str
    text: str


@dataclass(slots=True)
class History:
    """A run so far. ``step`` is the last one that anything was written down of; 0 before the first."""

    step: int = 0
    tokens_seen: int = 0
    reports: list[Report] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    samples: list[DrawnSample] = field(default_factory=list)
    notices: list[tuple[int, str]] = field(default_factory=list)
    tokens_per_second: float | None = None
    started: Record = field(default_factory=dict)
    """What was said when the run began or last went on; empty before that."""
    last: Record = field(default_factory=dict)
    """The last event, whatever it is."""
    damaged_lines: list[int] = field(default_factory=list)
    _seconds_before: float = 0.0
    _seconds_here: float = 0.0

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest val_loss; the first of equals."""
        return min(self.evaluations, key=lambda e: e.val_loss, default=None)

    @property
    def seconds(self) -> float:
        """Seconds that all parts of the run took together, as far as they were written down."""
        return self._seconds_before + self._seconds_here

    def add(self, event: Record) -> None:
        """Take one event of the metrics; values of a wrong type count as absent."""
        kind, step = event.get("event"), whole(event.get("step")) or 0
        self.last, self.step = event, max(self.step, step)
        self.tokens_seen = max(self.tokens_seen, whole(event.get("tokens_seen")) or 0)
        if kind == "run_started":
            # What a run that goes on has dropped is counted there; lines of before do not have it.
            self._seconds_before = max(self.seconds, number(event.get("seconds_before")) or 0.0)
            self._seconds_here = 0.0
            self.started = event
        self._seconds_here = max(self._seconds_here, number(event.get("elapsed")) or 0.0)
        if kind == "step_logged":
            self.reports.append(Report(step, number(event.get("train_loss")), self.seconds, event))
            self.tokens_per_second = number(event.get("tokens_per_second")) or self.tokens_per_second
        elif kind == "evaluated":
            self._add_evaluation(step, event)
        elif kind == "sample_drawn":
            self.samples.append(DrawnSample(step, text(event.get("prompt")), text(event.get("text"))))
        elif kind == "notice":
            self.notices.append((step, text(event.get("text"))))

    def _add_evaluation(self, step: int, event: Record) -> None:
        loss = number(event.get("val_loss"))
        if loss is None:
            return
        stderr, bits = number(event.get("val_loss_stderr")), number(event.get("bits_per_byte"))
        self.evaluations.append(Evaluation(step, loss, stderr, bits, self.seconds, event))


def read_history(run: RunDir, *, brief: bool = False) -> History:
    """Read all that the run's metrics hold; damaged lines are counted and left out.

    ``brief`` spares the reports of training that another follows at once; all else is as it is with them.
    """
    return build_history(read_events(run.metrics_path, (damaged := list[int]()).append, brief=brief), damaged)


def build_history(events: Iterable[Record], damaged_lines: list[int] | None = None) -> History:
    """Put a history together from events in their order."""
    history = History(damaged_lines=[] if damaged_lines is None else damaged_lines)
    for event in events:
        history.add(event)
    return history


def number(value: object) -> int | float | None:
    """Return what is a number; anything else that a damaged line may hold is nothing, as is one without end."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


def whole(value: object) -> int | None:
    """Return what is a whole number that could count something."""
    found = number(value)
    return found if isinstance(found, int) and 0 <= found < 2**63 else None


def text(value: object) -> str:
    """Return what is a text, else an empty one."""
    return value if isinstance(value, str) else ""
