"""Text on stdout as it comes: wrapped, inert, and apart from what was given."""

from __future__ import annotations

import io
import os
import select
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from wcwidth import wcswidth

from gptcli import text_stream
from gptcli.text_stream import ExactText, WrappedText, open_text_stream


def wrapped(pieces: list[str], width: int, *, colours: bool = False) -> str:
    file = io.StringIO()
    stream = WrappedText(Console(file=file, width=width, force_terminal=colours, highlight=False, markup=False))
    for piece in pieces:
        stream.drawn(piece)
    stream.end()
    return file.getvalue()


def test_words_go_to_the_next_line_whole() -> None:
    assert wrapped(["the quick brown fox"], 10) == "the quick\nbrown fox\n"
    assert wrapped(list("the quick brown fox"), 10) == "the quick\nbrown fox\n"


def test_line_ends_and_indentation_stay() -> None:
    assert wrapped(["ROMEO:\n\n  What light\n"], 30) == "ROMEO:\n\n  What light\n"


def test_word_wider_than_the_window_is_cut_at_it() -> None:
    assert wrapped(["a " + "x" * 25], 10) == "a\n" + "x" * 10 + "\n" + "x" * 10 + "\n" + "x" * 5 + "\n"


def test_line_may_end_between_wide_characters() -> None:
    assert wrapped(["\u6625\u7720\u4e0d\u89ba\u6681"], 6) == "\u6625\u7720\u4e0d\n\u89ba\u6681\n"


@pytest.mark.parametrize("whole", ["e\u0301e\u0301", "\U0001f469\u200d\U0001f680", "\U0001f44d\U0001f3fd"])
def test_marks_and_joined_emoji_stay_with_what_they_change(whole: str) -> None:
    assert whole in wrapped([f"ab {character}" if i == 0 else character for i, character in enumerate(whole)], 5)


def test_marks_without_a_width_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def counting(text: str) -> int:
        counted.append(len(text))
        return columns(text)

    counted: list[int] = []
    columns = text_stream._columns
    monkeypatch.setattr(text_stream, "_columns", counting)
    wrapped(["a" + "\u0301" * 1000], 10)
    assert sum(counted) < 10_000


def test_tab_goes_to_the_next_stop() -> None:
    assert wrapped(["a\tb"], 40) == "a       b\n"
    assert wrapped(["a \tb"], 40) == "a       b\n"


@given(st.text(max_size=60), st.integers(2, 20))
def test_no_line_is_wider_than_the_window_and_nothing_is_lost(text: str, width: int) -> None:
    shown = wrapped([text], width)
    assert all(wcswidth(line) <= width + 1 for line in shown.splitlines())
    from gptcli.figures import visible

    assert "".join(shown.split()) == "".join(visible(text).split())


@given(st.text(alphabet="ab \n\t\u6625\U0001f469\u200d", max_size=40), st.integers(2, 12), st.data())
def test_lines_do_not_depend_on_how_the_text_was_cut_into_pieces(text: str, width: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert wrapped(pieces, width) == wrapped([text], width)


def test_nothing_in_a_text_commands_a_terminal() -> None:
    shown = wrapped(["\x1b[31m[red]\x1b]52;c;eA==\x07\u202e\r\x08 :smile:"], 80, colours=True)
    assert shown == "\u241b[31m[red]\u241b]52;c;eA==\u2407<U+202E>\u240d\u2408 :smile:\n"


def test_given_text_is_dimmed_also_inside_a_word() -> None:
    file = io.StringIO()
    stream = WrappedText(Console(file=file, width=20, force_terminal=True, color_system="standard"))
    stream.given("RO")
    stream.drawn("MEO: x")
    stream.end()
    assert file.getvalue() == "\x1b[2mRO\x1b[0mMEO: x\n"


def test_end_ends_a_line_once() -> None:
    file = io.StringIO()
    stream = WrappedText(Console(file=file, width=20))
    stream.drawn("one")
    stream.end()
    stream.end()
    stream.drawn("two\n")
    stream.end()
    assert file.getvalue() == "one\ntwo\n"


def test_pipe_gets_the_exact_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        stream = open_text_stream()
        assert isinstance(stream, ExactText)
        stream.given("\x1b[31m\udce9 " + "word " * 40)
        stream.drawn("\t\U0001f469")
        stream.end()
        stream.end()
    expected = b"\x1b[31m\xe9 " + b"word " * 40 + "\t\U0001f469\n".encode()
    assert (tmp_path / "out").read_bytes() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_window_is_asked_anew_for_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import struct
    import termios

    def resize(columns: int) -> None:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    ours, theirs = os.openpty()
    try:
        with os.fdopen(theirs, "w", closefd=False) as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            resize(40)
            stream = open_text_stream()
            stream.drawn("one two three ")
            resize(10)
            stream.drawn("four five six ")
            stream.end()
        shown = ""
        while not shown.endswith("six\r\n") and select.select([ours], [], [], 10)[0]:
            shown += os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown == "one two three\r\nfour five\r\nsix\r\n"
