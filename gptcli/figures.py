"""Figures and table rows as plain text: losses, counts, durations, the columns of the loss table, inert text.

One place for how a number looks. Knows events but no terminal: what is live or coloured is ``display``'s business.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gptcli.events import Evaluated, StepLogged

# Controls but newline and tab, marks that reorder or break lines, and halves of surrogate pairs (from file names).
HOSTILE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
KEPT_ROWS = 500


def visible(text: str) -> str:
    """Return ``text`` with every character that could command a terminal replaced by one that shows it.

    C0 controls become their pictures (ESC is U+241B), C1 and bidi controls and line separators ``<U+202E>``.
    Newlines and tabs stay.
    """
    return HOSTILE.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def loss_text(loss: float | None) -> str:
    """A loss in nats: 1.2345; three decimals from 10 on, 1.2e+09 where that is too wide; empty when there is none."""
    if loss is None:
        return ""
    if not abs(loss) < 1000:
        return f"{loss:.1e}"
    return f"{loss:.4f}" if loss < 10 else f"{loss:.3f}"


def loss_error_text(loss: float | None, stderr: float | None) -> str:
    """A loss with its standard error: 1.2345 ± 0.0123."""
    return loss_text(loss) if loss is None or stderr is None else f"{loss_text(loss)} ± {loss_text(stderr)}"


def count_text(number: float) -> str:
    """A large number in three digits: 999, 1.20k, 12.3k, 124M, 1.56B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return f"{number:.0f}"


def bytes_text(number: int) -> str:
    """Bytes in a unit that fits: 512 bytes, 12 kB, 3.4 GB."""
    units = ((1e9, "GB", 1), (1e6, "MB", 0), (1e3, "kB", 0))
    found = next(((size, unit, digits) for size, unit, digits in units if number >= size), None)
    return f"{number} bytes" if found is None else f"{number / found[0]:.{found[2]}f} {found[1]}"


def duration_text(seconds: float) -> str:
    """Seconds as 9s, 1m 05s, 2h 07m or 3d 04h."""
    whole = max(0, round(seconds)) if seconds < 1e12 else 0
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{rest}s"
    if whole < 3600:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if whole < 86_400:
        return f"{hours}h {minutes:02d}m"
    return f"{hours // 24}d {hours % 24:02d}h"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the loss table; ``val_loss`` is None for a training report.

    At step 0, a finetune's base before any training, the time left is not known yet.
    """

    step: int
    elapsed: float
    remaining: float
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
    Column(("", "remaining"), 9, lambda row: duration_text(row.remaining) if row.step else "", 5),
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
