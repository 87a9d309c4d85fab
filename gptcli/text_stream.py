"""Text on stdout as it comes: exact bytes to a pipe; to a terminal in wrapped words, what was given dimmed.

Nothing in a text is obeyed in a terminal: neither markup nor control characters. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
from typing import Protocol

from rich.console import Console
from rich.text import Text
from wcwidth import wcswidth, wcwidth

from gptcli.figures import visible

GIVEN, DRAWN = "dim", ""
TAB = 8
JOINER = "\u200d"
SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
PARTS = re.compile(r"\n|[^\S\n]+|\S+")


class TextStream(Protocol):
    """Where a text goes piece by piece."""

    def given(self, text: str) -> None:
        """Show text that stood there before the model wrote, such as a prompt."""

    def drawn(self, text: str) -> None:
        """Show text that the model wrote."""

    def end(self) -> None:
        """End the last line, if it is not ended."""


def open_text_stream() -> TextStream:
    """Return a stream to stdout as it is now: a terminal, a dumb one, a pipe or a file."""
    return WrappedText(Console(highlight=False, markup=False, emoji=False)) if sys.stdout.isatty() else ExactText()


def write_exactly(text: str) -> None:
    """Write UTF-8 to stdout at once, as it is; what was no UTF-8 in a file or an argument goes back as it came."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


class ExactText:
    """A text to a pipe or a file, byte for byte."""

    def __init__(self) -> None:
        self._last = "\n"

    def given(self, text: str) -> None:
        """Write ``text``."""
        self.drawn(text)

    def drawn(self, text: str) -> None:
        """Write ``text``."""
        if text:
            write_exactly(text)
            self._last = text[-1]

    def end(self) -> None:
        """Write a line end after a line without one."""
        if self._last != "\n":
            self.drawn("\n")


class WrappedText:
    """A text to a terminal, word by word, in lines as long as the window is wide at that moment.

    A word is held back until it is whole, or wider than the window. Between wide characters (Chinese, emoji) a line
    may end as between words.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._column = 0
        self._space = ""
        self._word: list[tuple[str, str]] = []
        self._wide = 0
        """How many columns the word held back takes."""
        self._joined = False

    def given(self, text: str) -> None:
        """Show ``text`` dimmed."""
        self._add(text, GIVEN)

    def drawn(self, text: str) -> None:
        """Show ``text``."""
        self._add(text, DRAWN)

    def end(self) -> None:
        """Show what is held back, and end a line that is not ended."""
        self._end_word()
        self._space, self._joined = "", False
        if self._column:
            self._end_line()

    def _add(self, text: str, style: str) -> None:
        for part in PARTS.findall(visible(text)):
            if part == "\n":
                self._end_word()
                self._end_line()
            elif part.isspace():
                self._end_word()
                for character in part:
                    to_stop = TAB - (self._column + len(self._space)) % TAB
                    self._space += " " * to_stop if character == "\t" else character
            else:
                self._add_word(part, style)

    def _add_word(self, part: str, style: str) -> None:
        """Add characters to the word; a wide one is a word of its own, with the marks that follow it."""
        for character in part:
            width = 0 if character in SKIN_TONES or self._joined else wcwidth(character)
            if self._word and (width == 2 or (width == 1 and wcwidth(self._word[0][0]) == 2)):
                self._end_word()
            before = self._word[-1][0] if self._word else ""
            self._word.append((character, style))
            self._wide += _columns(before + character) - _columns(before)
            self._joined = character == JOINER
            if self._wide >= self._window():
                self._end_word()

    def _end_word(self) -> None:
        """Show the word held back, on a line of its own if it does not fit."""
        if not self._word:
            return
        width = _columns("".join(character for character, _ in self._word))
        if self._column and self._column + len(self._space) + width > self._window():
            self._end_line()
        shown = Text(self._space)
        for style, cells in itertools.groupby(self._word, key=lambda cell: cell[1]):
            shown.append("".join(character for character, _ in cells), style)
        self._column += len(self._space) + width
        self._space, self._word, self._wide = "", [], 0
        self._console.print(shown, end="", soft_wrap=True)

    def _end_line(self) -> None:
        self._space, self._column = "", 0
        self._console.print()

    def _window(self) -> int:
        """Return the columns of the window, which may have changed since the last word."""
        with contextlib.suppress(OSError, ValueError):
            if columns := os.get_terminal_size(sys.stdout.fileno()).columns:
                return columns
        return self._console.width


def _columns(text: str) -> int:
    """Return how many columns a text takes in a terminal."""
    width = wcswidth(text)
    return width if width >= 0 else len(text)
