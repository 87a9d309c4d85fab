"""A picture of losses: train and val of one run or several, as PNG, SVG or PDF.

The only module that imports matplotlib, and never its ``pyplot``: no window, no global state. Knows histories; where
the picture lies and what it is called is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptcli.comparison import Scoring, in_bits, scored_apart, scoring
from gptcli.curve import Points, in_the_middle, loss_range
from gptcli.errors import RunError
from gptcli.figures import visible
from gptcli.files import atomic_write
from gptcli.history import Evaluation, History, Report, read_history
from gptcli.runs import RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Axis = Literal["step", "tokens", "time"]
SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours (2008), told apart by all kinds of colour vision; yellow and black left out on white.
# In this order neighbours differ in luminance too, by 1.3 to 1 or more: a copy in grey tells them apart.
COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#CC79A7", "#E69F00", "#009E73")
INK, FAINT, GRID = "#262626", "#8a8a8a", "#e3e3e3"
# What a page has in two colours, for light and for dark.
THEMED = {INK: "ink", FAINT: "faint", GRID: "grid", "#ffffff": "card", COLOURS[0]: "curve"}
INCHES, DPI = (8.0, 4.8), 160
# On a page, which may be as narrow as a phone: smaller, so that letters are larger.
PAGE_INCHES = (6.4, 4.2)
# Letters of a name in a legend or a title: a long one would leave the curves no room, and be cut off at the right.
MAX_NAME = 40
HEADROOM = 0.04
# Above this nothing is a loss or a time but what damage made of one, and axes of such a length cannot be drawn.
MAX_DRAWN = 1e15


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn of one run."""

    name: str
    history: History
    scoring: Scoring
    expected_val_loss: float | None = None
    """The promise of its profile, drawn where there is one run."""


def curve_of(run: RunDir, history: History | None = None) -> Curve:
    """Return what is drawn of a run."""
    return Curve(visible(run.name), history or read_history(run), scoring(run), run.profile().expects.val_loss)


def save_plot(curves: Sequence[Curve], path: Path, *, x: Axis = "step", log: bool = False) -> None:
    """Draw the curves into a file, by its ending, one of ``SUFFIXES``, whole or not at all.

    Raises ``RunError`` when nothing has been written down yet in any of them.
    """
    kind = path.suffix.lower()[1:]
    assert f".{kind}" in SUFFIXES, "whoever asks for a file looks at its name"
    figure = draw(curves, x=x, log=log)
    # Equal runs give equal files: no date.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with _style(), atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)


def draw_svg(curve: Curve) -> str:
    """Return the picture of one run as an SVG element for a page that has the colours of ``THEMED`` as variables."""
    figure = draw([curve], inches=PAGE_INCHES)
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


def draw(
    curves: Sequence[Curve], *, x: Axis = "step", log: bool = False, inches: tuple[float, float] = INCHES
) -> Figure:
    """Draw train_loss (thin) and val_loss (thick, with a band of its standard error), the best val_loss marked.

    Runs in other tokens have bits per byte in place of losses; the title says where they were scored on other texts.
    """
    drawn = [curve for curve in curves if curve.history.evaluations or curve.history.reports]
    if not drawn:
        names = ", ".join(curve.name for curve in curves)
        raise RunError(f"There is no loss to draw yet: {names}.", "Look again after its first report.")
    bits = in_bits(curve.scoring for curve in drawn)
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.add_subplot()
        train, val = list[tuple[float, float]](), list[tuple[float, float]]()
        for number, curve in enumerate(drawn):
            lines = _lines(curve, x=x, bits=bits)
            _draw_lines(axes, curve, lines, COLOURS[number % len(COLOURS)], alone=len(drawn) == 1)
            train += lines.train
            val += lines.val
        low, high = loss_range(train, val)
        if len(drawn) == 1 and (promise := drawn[0].expected_val_loss) is not None:
            axes.axhline(promise, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label=f"promised, {promise:g}")
            low, high = min(low, promise), max(high, promise)
        _frame(axes, drawn, low, high, x=x, bits=bits, log=log)
    return figure


def _load() -> None:
    """Import matplotlib, whatever window the user's other programs draw in; this one has none.

    Raises ``RunError`` where the user's settings keep it from being imported.
    """
    # Its notes about fonts and caches are for its own developers.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl  # noqa: F401 - whoever draws finds it there
    except (ValueError, OSError) as error:
        raise RunError(
            f"matplotlib, which draws the pictures, cannot read its settings: {error}",
            "Mend or remove the file matplotlibrc, here or where MATPLOTLIBRC says.",
        ) from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Set what is wanted where a figure is made and where it is written: ids without chance, and text as text.

    All else is as matplotlib itself has it: equal runs give equal pictures, whatever the user's matplotlibrc says.
    """
    _load()
    import matplotlib as mpl

    # Setting the backend, even to the one it is, would import pyplot: a quarter of a second.
    plain: dict[Any, Any] = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}
    wanted = mpl.rc_context({"svg.hashsalt": "gptcli", "svg.fonttype": "none", "text.parse_math": False})
    with mpl.rc_context(plain), wanted, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter of a name that its font lacks is a box
        yield


@dataclass(frozen=True, slots=True)
class _Lines:
    """The points of one run in the units of the axes, and the standard errors of its val."""

    train: Points
    val: Points
    errors: Sequence[float]
    best: tuple[float, float] | None


def _lines(curve: Curve, *, x: Axis, bits: bool) -> _Lines:
    history, ratio = curve.history, _bits_per_nat(curve.history) if bits else 1.0

    def point(of: Report | Evaluation, loss: float) -> tuple[float, float]:
        return _drawable(_place(of.step, of.record.get("tokens_seen"), of.seconds, x)), _drawable(loss * ratio)

    return _Lines(
        train=in_the_middle([point(r, r.train_loss) for r in history.reports if r.train_loss is not None]),
        val=[point(e, e.val_loss) for e in history.evaluations],
        errors=[_drawable((e.val_loss_stderr or 0.0) * ratio) for e in history.evaluations],
        best=None if history.best is None else point(history.best, history.best.val_loss),
    )


def _draw_lines(axes: Axes, curve: Curve, lines: _Lines, colour: str, *, alone: bool) -> None:
    """Draw one run."""
    axes.plot([x for x, _ in lines.train], [y for _, y in lines.train], color=colour, linewidth=0.9, alpha=0.55,
              label="train_loss" if alone else None)  # fmt: skip
    places, losses = [x for x, _ in lines.val], [y for _, y in lines.val]
    low, high = ([y + sign * e for y, e in zip(losses, lines.errors, strict=True)] for sign in (-1, 1))
    axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(places, losses, color=colour, linewidth=2.0, marker="o" if len(losses) <= 40 else None, markersize=3.5,
              label="val_loss ± standard error" if alone else _label(curve, lines))  # fmt: skip
    if lines.best is not None and curve.history.best is not None:
        place, loss = lines.best
        told = f"best, {loss:.4f} at step {curve.history.best.step:,}" if alone else None
        axes.plot([place], [loss], marker="*", markersize=13, color=colour, markeredgecolor="#ffffff",
                  linestyle="none", label=told, zorder=5)  # fmt: skip


def _label(curve: Curve, lines: _Lines) -> str:
    """Return what a run is called in the legend, from which matplotlib leaves out what begins with ``_``."""
    name = _short(curve.name)
    name = f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
    return name if lines.best is None else f"{name}, best {lines.best[1]:.4f}"


def _short(name: str) -> str:
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}…{name[-half:]}"


def _frame(axes: Axes, curves: Sequence[Curve], low: float, high: float, *, x: Axis, bits: bool, log: bool) -> None:
    """Axes, grid, legend and title, with as little ink as they need."""
    unit = "bits per byte" if bits else "loss (nats a token)"
    axes.set_xlabel({"step": "step", "tokens": "tokens seen", "time": "training time (minutes)"}[x], color=INK)
    axes.set_ylabel(unit, color=INK)
    low, high = _limits(low, high, log=log)
    axes.set_ylim(low, high)
    if log:
        axes.set_yscale("log")
        _plain_ticks(axes, decades=high >= 10 * low)
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
    title = _short(curves[0].name) if len(curves) == 1 else "val (thick) and train (thin)"
    if apart := scored_apart([curve.scoring for curve in curves]):
        title += f", scored on {apart}"
    axes.set_title(title, loc="left", color=INK, fontweight="bold", fontsize=11)
    # Its ground hides the grid, which would go through its words.
    axes.legend(loc="best", labelcolor=INK, facecolor="#ffffff", edgecolor="none", framealpha=1)


def _limits(low: float, high: float, *, log: bool) -> tuple[float, float]:
    """Return the ends of the axis of losses, with some room below the lowest and above the highest."""
    if log:
        low = max(low, 1e-6)
        room = (max(high, 1.01 * low) / low) ** HEADROOM
        return low / room**1.5, max(high, 1.01 * low) * room
    room = (high - low) * HEADROOM
    return low - 1.5 * room, high + room


def _place(step: int, tokens: object, seconds: float, x: Axis) -> float:
    if x == "time":
        return seconds / 60
    return float(tokens) if x == "tokens" and isinstance(tokens, int) else float(step)


def _drawable(value: float) -> float:
    return value if abs(value) < MAX_DRAWN else math.nan


def _bits_per_nat(history: History) -> float:
    """Return the bits per byte of one nat a token of this val, which is what train_loss is converted with too."""
    best = history.best
    if best is None or not best.bits_per_byte or not best.val_loss:
        return math.nan
    return best.bits_per_byte / best.val_loss


def _plain_ticks(axes: Axes, *, decades: bool) -> None:
    """Put plain numbers on the logarithmic axis of losses: few of them where it has ``decades``."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)) if decades else MaxNLocator(8))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _engineering_ticks(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
