"""How much of the work is done: lines with a share, the bar, and the time that is left."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from gptcli.cli.common import progress
from gptcli.config import DataConfig
from gptcli.display import ProgressLine
from gptcli.evaluate import evaluate_run
from gptcli.fetch.fetching import fetch
from gptcli.fetch.web.progress import downloading
from gptcli.prepare import prepare
from gptcli.progress import Portion
from tests.training import NewRun, finish


@given(st.floats(), st.floats(), st.text(max_size=9))
def test_share_is_between_nothing_and_all(done: float, total: float, text: str) -> None:
    portion = Portion(text, done, total)
    assert portion == text
    assert 0 <= portion.share <= 1


def test_time_left_is_that_of_the_pace_so_far() -> None:
    line, begun = ProgressLine(), time.monotonic()
    line.show(Portion("reading", 0, 100))
    assert line.time_left(begun + 10) is None  # nothing done yet
    line.show(Portion("reading", 25, 100))
    assert line.time_left(begun + 0.5) is None  # too early to say
    assert line.time_left(begun + 10) == pytest.approx(30, abs=1)
    line.show(Portion("reading", 50, 100))
    assert line.time_left(begun + 10) == pytest.approx(10, abs=1)


def test_smaller_share_is_the_beginning_of_other_work() -> None:
    line = ProgressLine()
    line.show(Portion("one", 50, 100))
    line.show(Portion("one", 90, 100))
    line.show(Portion("two", 10, 100))
    assert line.time_left(time.monotonic() + 10) is None
    line.show(Portion("two", 55, 100))
    assert line.time_left(time.monotonic() + 10) == pytest.approx(10, abs=1)


def test_text_alone_has_no_share() -> None:
    line = ProgressLine()
    line.show(Portion("one", 1, 2))
    line.show("waiting")
    assert line.time_left(time.monotonic() + 10) is None
    assert drawn(line, 80) == "waiting"


def drawn(line: ProgressLine, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as shown:
        console.print(line)
    return shown.get().rstrip("\n")


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("share", [0, 0.004, 0.5, 1])
@pytest.mark.parametrize(
    "text", ["short", "a long line about reading " * 9, "日本語のテキスト" * 9], ids=["short", "long", "wide"]
)
def test_line_is_one_line_in_every_window(width: int, share: float, text: str) -> None:
    line = ProgressLine()
    line.show(Portion(text, 0, 1))
    line._begun_at -= 100_000
    line.show(Portion(text, share, 1))
    shown = drawn(line, width)
    assert "\n" not in shown
    assert cell_len(shown) <= width
    assert f"{share:.0%}" in shown
    if width == 200 and 0 < share < 1:
        assert shown.endswith(" left")


def test_line_that_says_itself_how_much_is_left_says_it_once() -> None:
    line = ProgressLine()
    line.show(Portion("posts, about 3m left", 0, 1))
    line._begun_at -= 100
    line.show(Portion("posts, about 3m left", 0.5, 1))
    assert drawn(line, 120).count("left") == 1


def test_pipe_gets_plain_lines_and_no_share_of_what_is_soon_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as going_on:
        going_on.show(Portion("reading 1 of 2", 1, 2))
        going_on.show("asking example.org")
        going_on.show("asking example.org again")
        going_on.note("A note.")
    assert capsys.readouterr().err == "asking example.org\nA note.\n"
    with progress(quiet=True) as going_on:
        going_on.show(Portion("reading", 1, 2))
        going_on.note("A note.")
    assert capsys.readouterr().err == ""


def shares(lines: list[str]) -> list[float]:
    found = [line.share for line in lines if isinstance(line, Portion)]
    assert found == sorted(found)
    assert all(0 <= share <= 1 for share in found)
    return found


def test_reading_and_preparing_and_scoring_say_their_shares(
    tmp_path: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(4):
        (texts / f"{number}.txt").write_text(f"{number} days it rained. " * 4000, "utf-8")
    said = list[str]()
    fetch(str(texts), name="rain", corpora_dir=tmp_path / "corpora", on_progress=said.append)
    assert shares(said) == [0, 0.25, 0.5, 0.75]
    said.clear()
    monkeypatch.setattr("gptcli.making.REPORT_BYTES", 10_000)
    prepare("rain", DataConfig(tokenizer="char"), corpora_dir=tmp_path / "corpora", on_progress=said.append)
    assert shares(said)
    run = new_run("r")
    finish(run)
    said.clear()
    evaluate_run(run, device="cpu", on_progress=said.append)
    assert shares(said)[0] == 0


def test_download_of_unknown_length_has_no_share() -> None:
    assert isinstance(downloading("x.org", 5, 10), Portion)
    assert not isinstance(downloading("x.org", 5, None), Portion)
