"""A picture of losses: train and val of one run or several, as PNG, SVG or PDF.

The only module that imports matplotlib, and never its ``pyplot``: no window, no global state. Knows histories; where
the picture lies and what it is called is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gptcli.errors import RunError
from gptcli.figures import visible
from gptcli.files import atomic_write
from gptcli.history import History, read_history
from gptcli.runs import RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Axis = Literal["step", "tokens", "time"]
Points = Sequence[tuple[float, float]]
SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours (2008), told apart by all kinds of colour vision; yellow and black left out on white.
# In this order neighbours differ in luminance too, by 1.3 to 1 or more: a copy in grey tells them apart.
COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00", "#009E73")
INK, FAINT, GRID = "#262626", "#8a8a8a", "#e3e3e3"
# What a page has in two colours, for light and for dark.
THEMED = {INK: "ink", FAINT: "faint", GRID: "grid", "#ffffff": "card", COLOURS[0]: "curve"}
INCHES, DPI = (8.0, 4.8), 160
# Steps at the beginning whose losses may lie above the picture: they would press the rest flat.
FIRST_SHARE = 0.03
HEADROOM = 0.04


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn of one run."""

    name: str
    history: History
    expected_val_loss: float | None = None
    """The promise of its profile, drawn where there is one run."""


def curve_of(run: RunDir, history: History | None = None) -> Curve:
    """Return what is drawn of a run."""
    return Curve(visible(run.name), history or read_history(run), run.profile().expects.val_loss)


def check_format(path: Path) -> None:
    """Raise ``RunError`` for a file name that does not end in what can be drawn."""
    if path.suffix.lower() not in SUFFIXES:
        raise RunError(
            f"{path}: a picture is a file in {', '.join(SUFFIXES)}; found {path.suffix or 'no ending'!r}.",
            "Type: gptcli runs plot -o loss.png",
        )


def save_plot(curves: Sequence[Curve], path: Path, *, x: Axis = "step", log: bool = False) -> None:
    """Draw the curves into a file, by its ending, whole or not at all.

    Raises ``RunError`` when nothing has been written down yet in any of them, or for another ending.
    """
    check_format(path)
    figure = draw(curves, x=x, log=log)
    kind = path.suffix.lower()[1:]
    # Equal runs give equal files: no date.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with _style(), atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)


def draw_svg(curve: Curve) -> str:
    """Return the picture of one run as an SVG element for a page that has the colours of ``THEMED`` as variables."""
    figure = draw([curve])
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    file = io.BytesIO()
    with _style():
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for size in ("width", "height"):  # the page decides
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    for colour, variable in THEMED.items():
        svg = re.sub(colour, f"var(--{variable})", svg, flags=re.IGNORECASE)
    return svg


def draw(curves: Sequence[Curve], *, x: Axis = "step", log: bool = False) -> Figure:
    """Draw train_loss (thin) and val_loss (thick, with a band of its standard error), the best val_loss marked.

    Runs in other tokens or on another text have bits per byte in place of losses, which compare across tokenizers.
    """
    # Its notes about fonts and caches are for its own developers.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    drawn = [curve for curve in curves if curve.history.evaluations or curve.history.reports]
    if not drawn:
        names = ", ".join(curve.name for curve in curves)
        raise RunError(f"There is no loss to draw yet: {names}.", "Look again after its first report.")
    bits = _in_bits(drawn)
    with _style():
        figure = Figure(figsize=INCHES, layout="constrained")
        axes = figure.add_subplot()
        points = list[tuple[float, float]]()
        for number, curve in enumerate(drawn):
            points += _draw_curve(axes, curve, COLOURS[number % len(COLOURS)], x=x, bits=bits, alone=len(drawn) == 1)
        if len(drawn) == 1 and (promise := drawn[0].expected_val_loss) is not None:
            axes.axhline(promise, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label=f"promised, {promise:g}")
            points.append((math.inf, promise))
        _frame(axes, drawn, points, x=x, bits=bits, log=log)
    return figure


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Set what is wanted where a figure is made and where it is written: ids without chance, and text as text."""
    import matplotlib as mpl

    style = mpl.rc_context({"svg.hashsalt": "gptcli", "svg.fonttype": "none", "text.parse_math": False})
    with style, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter of a name that its font lacks is a box
        yield


def _in_bits(curves: Sequence[Curve]) -> bool:
    """Say whether the losses would not compare: nats a token of other tokens, or scored on another val."""
    keys = ("tokenizer", "vocab_size", "corpus", "val_tokens")
    return len({tuple(curve.history.started.get(key) for key in keys) for curve in curves}) > 1


def _draw_curve(
    axes: Axes, curve: Curve, colour: str, *, x: Axis, bits: bool, alone: bool
) -> list[tuple[float, float]]:
    """Draw one run; returns the points of its lines."""
    history, ratio = curve.history, _bits_per_nat(curve.history) if bits else 1.0
    train = [(r, r.train_loss * ratio) for r in history.reports if r.train_loss is not None]
    steps = _middles([_place(r.step, r.record.get("tokens_seen"), r.seconds, x) for r, _ in train])
    axes.plot(steps, [y for _, y in train], color=colour, linewidth=0.9, alpha=0.55,
              label="train_loss" if alone else None)  # fmt: skip
    val = history.evaluations
    places = [_place(e.step, e.record.get("tokens_seen"), e.seconds, x) for e in val]
    losses = [e.val_loss * ratio for e in val]
    errors = [(e.val_loss_stderr or 0.0) * ratio for e in val]
    low, high = ([y + sign * e for y, e in zip(losses, errors, strict=True)] for sign in (-1, 1))
    axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(places, losses, color=colour, linewidth=2.0, marker="o" if len(val) <= 40 else None, markersize=3.5,
              label="val_loss ± standard error" if alone else _label(curve, ratio))  # fmt: skip
    if history.best is not None:
        _mark_best(axes, curve, colour, places[val.index(history.best)], history.best.val_loss * ratio, alone=alone)
    return [*zip(steps, (y for _, y in train), strict=True), *zip(places, losses, strict=True)]


def _label(curve: Curve, ratio: float) -> str:
    best = curve.history.best
    return curve.name if best is None else f"{curve.name}, best {best.val_loss * ratio:.4f}"


def _mark_best(axes: Axes, curve: Curve, colour: str, place: float, loss: float, *, alone: bool) -> None:
    best = curve.history.best
    assert best is not None, "the caller has one"
    axes.plot([place], [loss], marker="*", markersize=13, color=colour, markeredgecolor="#ffffff", linestyle="none",
              label=f"best, {loss:.4f} at step {best.step:,}" if alone else None, zorder=5)  # fmt: skip


def _frame(axes: Axes, curves: Sequence[Curve], points: Points, *, x: Axis, bits: bool, log: bool) -> None:
    """Axes, grid, legend and title, with as little ink as they need."""
    unit = "bits per byte" if bits else "loss (nats a token)"
    axes.set_xlabel({"step": "step", "tokens": "tokens seen", "time": "training time (minutes)"}[x], color=INK)
    axes.set_ylabel(unit, color=INK)
    low, high = _limits(points)
    axes.set_ylim(max(low, 1e-6) if log else low, high)
    if log:
        axes.set_yscale("log")
        _plain_ticks(axes)
    axes.set_xlim(left=0)
    if x == "tokens":
        _engineering_ticks(axes)
    axes.grid(visible=True, which="both", axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK)
    title = curves[0].name if len(curves) == 1 else "val (thick) and train (thin)"
    axes.set_title(title, loc="left", color=INK, fontweight="bold", fontsize=11)
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)


def _limits(points: Points) -> tuple[float, float]:
    """Return the losses that the picture reaches from and to: all but those of the first steps fit."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    last = max((x for x, _ in points if math.isfinite(x)), default=0.0)
    values = [y for x, y in points if x > FIRST_SHARE * last] or [y for _, y in points] or [0.0]
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * HEADROOM
    return low - 1.5 * room, high + room


def _place(step: int, tokens: object, seconds: float, x: Axis) -> float:
    if x == "time":
        return seconds / 60
    return float(tokens) if x == "tokens" and isinstance(tokens, int) else float(step)


def _middles(places: Sequence[float]) -> list[float]:
    """Return where the means of losses belong that are reported at the ends of their intervals."""
    return [(before + place) / 2 for before, place in zip((0.0, *places), places, strict=False)]


def _bits_per_nat(history: History) -> float:
    """Return the bits per byte of one nat a token of this val, which is what train_loss is converted with too."""
    best = history.best
    if best is None or not best.bits_per_byte or not best.val_loss:
        return math.nan
    return best.bits_per_byte / best.val_loss


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _engineering_ticks(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
