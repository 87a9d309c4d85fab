"""The rows and columns of the loss table as plain text.

Knows events but no terminal: what is live or coloured is ``display``'s business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gptcli.events import Evaluated, StepLogged
from gptcli.figures import count_text, duration_text, loss_error_text, loss_text

KEPT_ROWS = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the loss table; ``val_loss`` is None for a training report."""

    step: int
    elapsed: float
    remaining: float | None
    train_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    val_loss: float | None = None
    val_loss_stderr: float | None = None
    bits_per_byte: float | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column: two lines of heading, its width in cells, and how a row fills it."""

    heading: tuple[str, str]
    width: int
    cell: Callable[[Row], str]
    drop: int
    """Columns leave a narrow terminal in this order; 0 stays."""


COLUMNS = (
    Column(("", "step"), 7, lambda row: str(row.step), 0),
    Column(("", "train_loss"), 10, lambda row: loss_text(row.train_loss), 0),
    Column(
        ("", "val_loss ± error "),
        17,
        lambda row: loss_error_text(row.val_loss, row.val_loss_stderr) + ("*" if row.best else " "),
        0,
    ),
    Column(("bits/", "byte"), 6, lambda row: "" if row.bits_per_byte is None else f"{row.bits_per_byte:.3f}", 3),
    Column(("learning", "rate"), 8, lambda row: "" if row.learning_rate is None else f"{row.learning_rate:.2e}", 2),
    Column(("", "tokens/s"), 8, lambda row: count_text(row.tokens_per_second) if row.tokens_per_second else "", 4),
    Column(("", "elapsed"), 7, lambda row: duration_text(row.elapsed), 1),
    Column(("", "remaining"), 9, lambda row: "" if row.remaining is None else duration_text(row.remaining), 5),
)


def fitting_columns(width: int) -> tuple[Column, ...]:
    """Return the columns that a line of ``width`` cells can hold, the most telling ones kept longest."""
    columns = list(COLUMNS)
    for column in sorted((c for c in COLUMNS if c.drop), key=lambda column: column.drop):
        if line_width(columns) <= width:
            break
        columns.remove(column)
    return tuple(columns)


def line_width(columns: Iterable[Column]) -> int:
    """Return the cells that a line of these columns takes."""
    return sum(column.width + 1 for column in columns) - 1


def row_line(row: Row, columns: Sequence[Column]) -> str:
    """Lay one row out, every cell right-aligned."""
    return " ".join(column.cell(row).rjust(column.width) for column in columns).rstrip()


def heading_lines(columns: Sequence[Column]) -> list[str]:
    """Return the one or two lines above the rows."""
    lines = (" ".join(column.heading[i].rjust(column.width) for column in columns).rstrip() for i in (0, 1))
    return [line for line in lines if line]


class LossTable:
    """The rows of a run so far. Reports since the last evaluation stay until the next one folds them into its row."""

    def __init__(self) -> None:
        self.best: Row | None = None
        self._rows: deque[Row] = deque(maxlen=KEPT_ROWS)
        self._report: Row | None = None

    def add_report(self, event: StepLogged) -> Row:
        """Add a training report and return its row."""
        row = Row(
            event.step,
            event.elapsed,
            event.remaining,
            train_loss=event.train_loss,
            learning_rate=event.learning_rate,
            tokens_per_second=event.tokens_per_second,
        )
        self._rows.append(row)
        self._report = row
        return row

    def add_evaluation(self, event: Evaluated) -> Row:
        """Fold the reports since the last evaluation into one row; a new best takes the mark from the old.

        The row has the train_loss and learning rate of its own step only, where there was a report of it.
        """
        report = self._report
        if report is None or report.step != event.step:
            report = Row(event.step, event.elapsed, event.remaining)
        row = replace(
            report,
            step=event.step,
            elapsed=event.elapsed,
            remaining=event.remaining,
            val_loss=event.val_loss,
            val_loss_stderr=event.val_loss_stderr,
            bits_per_byte=event.bits_per_byte,
            best=event.best,
        )
        kept = [old for old in self._rows if old.val_loss is not None]
        if row.best:
            kept = [replace(old, best=False) for old in kept]
            self.best = row
        self._rows = deque((*kept, row), maxlen=KEPT_ROWS)
        return row

    def tail(self, height: int) -> list[Row]:
        """Return the last ``height`` rows; the best one takes the place of the first when it would be out of sight."""
        rows = list(self._rows)[-max(1, height) :]
        if self.best is not None and len(rows) > 1 and rows[0].step > self.best.step:
            rows[0] = self.best
        return rows
