"""Pictures of losses: valid files, equal for equal runs, what is drawn in them, and colours for all eyes."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gptcli.comparison import Scoring
from gptcli.events import Notice, RunFinished
from gptcli.figures import visible
from gptcli.history import build_history, read_history
from gptcli.plot import COLOURS, Axis, Curve, curve_of, draw, draw_svg, save_plot
from gptcli.runs import RunDir
from gptcli.train import StopRequest, train
from tests.cli.conftest import run_cli, start_cli
from tests.faults import Faults
from tests.training import NewRun, finish, interrupt

OKABE_ITO = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000"}
SVG = "{http://www.w3.org/2000/svg}"
STARTED: dict[str, object] = {"event": "run_started", "step": 0}
SCORING = Scoring("tokens", ("text",))


@pytest.fixture
def done(new_run: NewRun) -> RunDir:
    run = new_run("r", "max_steps=40", "log_interval=2")
    finish(run)
    return run


def width_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def svg(path: Path) -> ET.Element:
    return ET.parse(path).getroot()  # noqa: S314 - our own


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_picture_is_what_its_name_says_and_equal_runs_give_equal_bytes(
    done: RunDir, tmp_path: Path, suffix: str
) -> None:
    first, second = (tmp_path / f"{name}{suffix}" for name in "ab")
    for path in (first, second):
        save_plot([curve_of(done)], path)
    content = first.read_bytes()
    assert content == second.read_bytes()
    if suffix.lower() == ".png":
        from matplotlib.image import imread

        assert width_of(content) == (1280, 768)
        assert np.asarray(imread(first)).shape[:2] == (768, 1280)
    elif suffix == ".pdf":
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
    else:
        assert svg(first).tag == f"{SVG}svg"


def test_picture_has_both_curves_the_band_the_star_and_the_names_of_its_axes(done: RunDir, tmp_path: Path) -> None:
    save_plot([curve_of(done)], tmp_path / "a.svg")
    root = svg(tmp_path / "a.svg")
    texts = [element.text for element in root.iter(f"{SVG}text")]
    best = read_history(done).best
    assert best is not None
    for text in ("r", "step", "loss (nats a token)", "train_loss", "val_loss ± standard error"):
        assert text in texts
    assert f"best, {best.val_loss:.4f} at step {best.step}" in texts
    (axes,) = draw([curve_of(done)]).axes
    history = read_history(done)
    train_line, val_line, star = axes.lines
    assert list(np.asarray(val_line.get_xdata(), float)) == [e.step for e in history.evaluations]
    assert list(np.asarray(val_line.get_ydata(), float)) == [e.val_loss for e in history.evaluations]
    assert list(np.asarray(train_line.get_ydata(), float)) == [r.train_loss for r in history.reports]
    assert list(np.asarray(train_line.get_xdata(), float)) == [r.step - 1 for r in history.reports]
    assert (star.get_marker(), float(np.asarray(star.get_xdata(), float)[0])) == ("*", best.step)
    (band,) = axes.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert heights.max() == pytest.approx(max(e.val_loss + (e.val_loss_stderr or 0) for e in history.evaluations))


@pytest.mark.parametrize(("x", "label", "last"), [("step", "step", 40), ("tokens", "tokens seen", 40 * 64),
                                                  ("time", "training time (minutes)", None)])  # fmt: skip
@pytest.mark.parametrize("log", [False, True])
def test_axes_are_those_that_were_asked_for(done: RunDir, x: Axis, label: str, last: float | None, log: bool) -> None:
    (axes,) = draw([curve_of(done)], x=x, log=log).axes
    assert (axes.get_xlabel(), axes.get_yscale()) == (label, "log" if log else "linear")
    ends = float(np.asarray(axes.lines[1].get_xdata(), float)[-1])
    assert ends == last if last else ends == pytest.approx(read_history(done).evaluations[-1].seconds / 60)


def test_runs_in_other_tokens_are_drawn_in_bits_per_byte() -> None:
    def curve(name: str, tokens: str, ratio: float) -> Curve:
        events: list[dict[str, object]] = [STARTED]
        for step in (4, 8):
            events.append({"event": "step_logged", "step": step, "train_loss": 4.0 / step})
            events.append(
                {"event": "evaluated", "step": step, "val_loss": 8.0 / step, "bits_per_byte": 8.0 / step * ratio}
            )
        return Curve(name, build_history(events), Scoring(tokens, ("text",)))

    (axes,) = draw([curve("a", "char", 1.4), curve("b", "bpe:300", 0.6)]).axes
    assert axes.get_ylabel() == "bits per byte"
    ends = [float(np.asarray(line.get_ydata(), float)[-1]) for line in axes.lines if line.get_linewidth() == 2.0]
    assert ends == [pytest.approx(1.4), pytest.approx(0.6)]
    (axes,) = draw([curve("a", "char", 1.4), curve("b", "char", 1.4)]).axes
    assert axes.get_ylabel() == "loss (nats a token)"


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "events",
    [
        [{"event": "evaluated", "step": 0, "val_loss": 4.5}],
        [{"event": "evaluated", "step": 9, "val_loss": 0.0}],
        [{"event": "step_logged", "step": 3, "train_loss": 2.0}],
        [{"event": "step_logged", "step": 3, "train_loss": None}],
        [{"event": "step_logged", "step": n, "train_loss": None if n % 2 else 1e300 / n} for n in range(1, 9)],
        [{"event": "evaluated", "step": n, "val_loss": 3.0} for n in range(100)],
        [{"event": "evaluated", "step": 9, "val_loss": -1.7e308, "val_loss_stderr": 1.7e308, "elapsed": 1.7e308}],
    ],
    ids=["one-at-0", "nothing-lost", "one-report", "no-number", "gaps", "constant", "damaged"],
)
def test_any_losses_can_be_drawn(events: list[dict[str, object]], log: bool, tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        save_plot([Curve("r", build_history([STARTED, *events]), SCORING)], tmp_path / f"r.{suffix}", log=log)
        assert (tmp_path / f"r.{suffix}").stat().st_size > 3000


@pytest.mark.skipif(os.name == "nt", reason="such names are none on Windows")
@pytest.mark.parametrize("name", ["<script>", "$x^2$ & $", 'a"b', "\x01\x1b[31m\u202e", "_", "a" * 200, "日本"])
def test_any_name_can_be_drawn(done: RunDir, tmp_path: Path, name: str) -> None:
    run = RunDir(done.path.rename(done.path.with_name(name)))
    save_plot([curve_of(run)], tmp_path / "r.svg")
    save_plot([curve_of(run)], tmp_path / "r.png")
    texts = [element.text for element in svg(tmp_path / "r.svg").iter(f"{SVG}text")]
    assert (visible(name) if len(name) < 200 else "a" * 20 + "…" + "a" * 20) in texts


def legend_of(*curves: Curve) -> list[str]:
    legend = draw(curves).axes[0].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_every_run_stands_in_the_legend_and_a_long_name_leaves_room_for_the_curves(tmp_path: Path) -> None:
    history = build_history([STARTED, {"event": "evaluated", "step": 9, "val_loss": 2.0}])
    names = ("one", "_two", "begins-" + 80 * "x" + "-ends")
    told = legend_of(*(Curve(name, history, SCORING) for name in names))
    assert [text.lstrip("\N{ZERO WIDTH SPACE}").partition(",")[0] for text in told[:2]] == ["one", "_two"]
    assert (told[2][:7], told[2].endswith("-ends, best 2.0000"), len(told[2]) < 60) == ("begins-", True, True)
    save_plot([Curve(name, history, SCORING) for name in names], tmp_path / "a.png")  # a warning is an error


def test_legend_hides_the_grid_behind_its_words_and_has_the_colours_of_its_page(done: RunDir) -> None:
    legend = draw([curve_of(done)]).axes[0].get_legend()
    assert legend is not None
    frame = legend.get_frame()
    assert (legend.get_frame_on(), frame.get_alpha(), frame.get_facecolor()[:3]) == (True, 1, (1.0, 1.0, 1.0))
    (box,) = re.findall(r'<g id="legend_1">.*?<path [^>]*?style="([^"]*)"', draw_svg(curve_of(done)), re.DOTALL)
    assert "fill: var(--card)" in box


def test_title_of_a_run_with_a_long_name_is_inside_the_picture() -> None:
    history = build_history([STARTED, {"event": "evaluated", "step": 9, "val_loss": 2.0}])
    title = draw([Curve("begins-" + 85 * "W" + "-ends", history, SCORING)]).axes[0].get_title(loc="left")
    assert title.startswith("begins-")
    assert title.endswith("-ends")
    assert len(title) <= 41


def test_picture_says_where_its_runs_were_scored_on_other_texts() -> None:
    history = build_history([STARTED, {"event": "evaluated", "step": 9, "val_loss": 2.0, "bits_per_byte": 1.0}])

    def title(other: Scoring) -> str:
        (axes,) = draw([Curve("a", history, SCORING), Curve("b", history, other)]).axes
        return axes.get_title(loc="left")

    assert title(SCORING) == title(Scoring("other tokens", ("text",))) == "val (thick) and train (thin)"
    assert title(Scoring("tokens", ("other",))).endswith(", scored on different texts")
    assert title(Scoring("tokens", ("text",), ("tokens", 9))).endswith(", scored on different parts of val")


def test_best_val_before_the_first_report_is_inside_the_picture() -> None:
    events = [
        {"event": "evaluated", "step": step, "val_loss": loss} for step, loss in ((0, 1.0), (50, 2.0), (100, 3.0))
    ]
    low, high = draw([Curve("a", build_history([STARTED, *events]), SCORING)]).axes[0].get_ylim()
    assert low < 1.0 < 3.0 < high


@pytest.mark.parametrize("losses", [(4.2, 2.1), (0.9, 0.3), (3.0, 2.9), (900.0, 0.2)])
def test_logarithmic_axis_has_numbers_to_read(losses: tuple[float, float]) -> None:
    events = [{"event": "evaluated", "step": 9 * n, "val_loss": loss} for n, loss in enumerate(losses, 1)]
    figure = draw([Curve("a", build_history([STARTED, *events]), SCORING)], log=True)
    low, high = figure.axes[0].get_ylim()
    assert 4 <= sum(bool(low <= place <= high) for place in figure.axes[0].get_yticks()) <= 12


@pytest.fixture
def plot_with(done: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], tuple[int, str]]:
    """Draw the run in a process whose user has such settings of matplotlib; returns exit code and stderr."""

    def plot(settings: bytes) -> tuple[int, str]:
        (tmp_path / "settings").write_bytes(settings)
        monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "settings"))
        monkeypatch.setenv("MPLBACKEND", "no-such-backend")
        plotting = start_cli(tmp_path, "runs", "plot", done.name)
        _, stderr = plotting.communicate(timeout=120)
        return plotting.returncode, stderr

    return plot


def test_settings_that_a_user_has_for_matplotlib_change_nothing(
    done: RunDir, plot_with: Callable[[bytes], tuple[int, str]]
) -> None:
    before = done.picture_path.read_bytes()
    settings = b"font.size: 30\naxes.facecolor: red\ntext.usetex: True\nsavefig.bbox: tight\n"
    assert plot_with(settings) == (0, "")
    assert done.picture_path.read_bytes() == before


def test_settings_that_matplotlib_cannot_read_are_an_error_that_names_them(
    plot_with: Callable[[bytes], tuple[int, str]],
) -> None:
    code, stderr = plot_with(b"\xff\xfe")
    assert code == 1
    assert stderr.startswith("Error: matplotlib")
    assert "Mend or remove the file matplotlibrc" in stderr


def test_drawing_imports_no_pyplot_which_takes_longer_than_the_drawing(done: RunDir) -> None:
    code = f"""
import sys
from pathlib import Path
from gptcli.plot import curve_of, save_plot
from gptcli.runs import RunDir
save_plot([curve_of(RunDir(Path({str(done.path)!r})))], Path({str(done.path / "drawn.png")!r}))
print("matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8", timeout=120)
    assert told.stdout == "True False\n"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_are_told_apart_by_all_eyes() -> None:
    assert set(COLOURS) <= OKABE_ITO
    assert len(set(COLOURS)) == len(COLOURS)
    for first, second in zip(COLOURS, (*COLOURS[1:], COLOURS[0]), strict=True):
        lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) > 1.2, (first, second)


def test_run_that_is_done_holds_its_picture_and_draws_it_only_when_there_was_something_to_do(new_run: NewRun) -> None:
    run = new_run("r")
    interrupt(run, 4)
    first = run.picture_path.read_bytes()
    finish(run)
    assert run.picture_path.read_bytes() != first
    assert width_of(run.picture_path.read_bytes()) == (1280, 768)
    run.picture_path.write_bytes(b"mine")
    finish(run)
    assert run.picture_path.read_bytes() == b"mine"
    run.picture_path.unlink()
    finish(run)
    assert run.picture_path.exists()


def test_finetune_and_a_run_that_stopped_early_hold_their_pictures(new_run: NewRun, new_finetune: NewRun) -> None:
    early = new_run("early", "max_steps=400", "patience=1", "eval_interval=2", "learning_rate=2.0")
    assert any(isinstance(event, RunFinished) and event.reason == "stopped_early" for event in finish(early))
    tuned = new_finetune("tuned")
    finish(tuned)
    assert all(width_of(run.picture_path.read_bytes()) == (1280, 768) for run in (early, tuned))


def test_run_that_is_told_to_end_at_once_does_not_wait_for_a_picture(new_run: NewRun) -> None:
    run, stop = new_run("r"), StopRequest()
    for event in train(run, stop=stop):
        stop.reason = "terminated" if event.step >= 3 else None
    assert not run.picture_path.exists()


def test_run_that_is_stopped_before_its_first_loss_says_nothing_of_a_picture(new_run: NewRun) -> None:
    run = new_run("r")
    assert not any(isinstance(event, Notice) for event in interrupt(run, 0))
    assert not run.picture_path.exists()


def test_picture_that_cannot_be_drawn_ends_no_run(new_run: NewRun) -> None:
    run = new_run("r")
    run.picture_path.mkdir()
    (run.picture_path / "mine").touch()
    *_, notice, finished = finish(run)
    assert isinstance(finished, RunFinished)
    assert finished.reason == "completed"
    assert "No loss.png could be drawn: " in getattr(notice, "text", "")
    assert (run.picture_path / "mine").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the command is forked")
def test_plot_on_a_full_disk_is_an_error_and_leaves_the_picture_before(tmp_path: Path, done: RunDir) -> None:
    before = done.picture_path.read_bytes()
    with Faults() as faults:
        writes = faults.run(tmp_path, "runs", "plot", "r").writes
        assert writes > 0
        done.picture_path.write_bytes(before)
        for fault in range(writes):
            outcome = faults.run(tmp_path, "runs", "plot", "r", fault=fault, error=errno.ENOSPC)
            assert done.picture_path.read_bytes() == before
            if outcome.code:
                assert re.search("No space left on device", outcome.stderr)
    assert sorted(path.name for path in done.path.glob(".*tmp")) == []
    assert run_cli(tmp_path, "runs", "plot", "r").code == 0
