"""A loss curve as lines of characters, for a terminal: braille dots for train, a mark for every evaluation.

Pure functions of points and a size; which losses a picture shows, and where, is the same here and in ``plot``. Knows no
terminal, no colours and no runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

Points = Sequence[tuple[float, float]]

# Bits of a braille cell, two dots wide and four high, from U+2800 on.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
VAL, BEST = "o", "*"
# Share of the x axis at its beginning whose losses may lie above the picture: they would press the rest flat.
FIRST_SHARE = 0.03


def draw_curve(train: Points, val: Points, *, width: int, height: int, ascii_only: bool = False) -> list[str]:
    """Return ``height`` rows of a plot and one of steps below, ``width`` cells wide with the labels of the axes.

    ``train`` and ``val`` are pairs of step and loss. Train is drawn in dots (``.`` where ``ascii_only``), val in ``o``,
    the lowest val in ``*``. Losses that are not finite are left out; no points give no lines.
    """
    last = max((1.0, *(x for x, y in (*train, *val) if math.isfinite(y))))
    train, val = ([(x, y) for x, y in points if math.isfinite(y)] for points in (in_the_middle(train), val))
    if not train and not val:
        return []
    low, high = loss_range(train, val)
    labels = [_label(high - (high - low) * row / (height - 1)) for row in range(height)]
    margin = max(map(len, labels))
    columns = max(8, width - margin - 2)
    cells = [[0] * columns for _ in range(height)]
    dots = [(_place(x / last, 2 * columns), (high - y) / (high - low) * 4 * height) for x, y in train]
    for column, place in _joined(dots):
        if place >= 0:
            row = min(4 * height - 1, int(place))
            cells[row // 4][column // 2] |= DOTS[row % 4][column % 2]
    drawn = [[_character(bits, ascii_only=ascii_only) for bits in row] for row in cells]
    best = min(val, key=lambda point: point[1], default=None)
    for x, y in val:
        if y <= high:
            row, column = _place((high - y) / (high - low), height), _place(x / last, columns)
            if drawn[row][column] != BEST:
                drawn[row][column] = BEST if (x, y) == best else VAL
    every = max(1, (height - 1) // 4)
    shown = [label if row % every == 0 or row == height - 1 else "" for row, label in enumerate(labels)]
    lines = [f"{label:>{margin}} {'|' if ascii_only else '│'}{''.join(row)}".rstrip() for label, row in
             zip(shown, drawn, strict=True)]  # fmt: skip
    end = f"{last:,.0f}"
    return [*lines, f"{'':>{margin}} 0{'step':^{max(4, columns - len(end))}}{end}"]


def _joined(dots: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """Yield a dot for every column from the first to the last, on straight lines between those that are given."""
    for (column, place), (then, next_place) in itertools.pairwise(dots):
        for between in range(column, then):
            yield between, place + (next_place - place) * (between - column) / (then - column)
    yield from dots


def in_the_middle(means: Points) -> Points:
    """Move means that are reported at the ends of their intervals to the middles, where they belong.

    One that lies before the one before it is where it was: the run went back to an earlier step.
    """
    befores = (0.0, *(x for x, _ in means))
    return [((before + x) / 2 if before < x else x, y) for before, (x, y) in zip(befores, means, strict=False)]


def loss_range(train: Points, val: Points) -> tuple[float, float]:
    """Return the losses that a picture reaches from and to: the high ones of the first steps are cut off.

    Those that are not finite count for nothing.
    """
    train, val = ([(x, y) for x, y in points if math.isfinite(y)] for points in (train, val))
    last = max((x for x, _ in (*train, *val)), default=0.0)
    later = [y for x, y in (*train, *val) if x > FIRST_SHARE * last] or [y for _, y in (*train, *val)] or [0.0]
    low, high = min([*later, *(y for _, y in val)]), max(later)
    return low, high if high > low else low + max(1e-3, abs(low) * 0.01)


def _place(share: float, cells: int) -> int:
    return min(cells - 1, max(0, int(share * cells)))


def _label(loss: float) -> str:
    return f"{loss:.2f}" if loss < 1000 else f"{loss:.1e}"


def _character(bits: int, *, ascii_only: bool) -> str:
    if not bits:
        return " "
    return "." if ascii_only else chr(0x2800 + bits)
