"""Subtitles (SubRip and WebVTT): what is said, without numbers, times and markup."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gptcli.documents import Document, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.formats.input import Input
from gptcli.fetch.text import lines_of

# A silence of this many seconds begins a new paragraph.
PAUSE_SECONDS = 2.0
# Rolling captions follow one another without a gap; subtitles made by hand leave a frame or two.
ROLLING_GAP_SECONDS = 0.02
MAX_LINE_CHARS = 1 << 20

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"{_TIME}\s*-->\s*{_TIME}")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^\s<>][^<>]*)>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d+:[\d:.]+>|\{\\[^{}]*\}")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")
_TURN = re.compile(r"(?:>>+\s*|[-\u2010-\u2015]\s?(?=[^\W\d_]))")


@dataclass(frozen=True, slots=True)
class _Cue:
    start: float
    end: float
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    """Words of a cue; ``voice`` is the speaker where the markup names one, ``turn`` says that another one begins."""

    words: str
    voice: str = ""
    turn: bool = False


def read_subtitles(file: Input) -> Iterator[Document]:
    """Yield what is said in a .srt or .vtt file as one document; a long pause or another speaker begins a paragraph.

    Raises ``SourceError`` when there is no line of times in it.
    """
    lines = lines_of(file.pieces(), max_chars=MAX_LINE_CHARS, label=file.label)
    start = next(lines, "")
    cues = _cues(itertools.chain([start], lines), is_vtt=start.startswith("WEBVTT"))
    first = next(cues, None)
    if first is None:
        raise SourceError(
            f"{file.label} has no subtitles: a line like 00:01:02,000 --> 00:01:04,000 was expected.",
            f"Read it as the plain text that it is: gptcli fetch {file.label} --as text",
        )
    yield from document_parts(_words(itertools.chain([first], cues)), title=file.title, url=file.url)


def _cues(lines: Iterable[str], *, is_vtt: bool) -> Iterator[_Cue]:
    """Yield the cues: a line of times and the lines below it.

    In WebVTT a blank line ends a cue, and notes and styles may follow; in SubRip only the next number and times do.
    """
    times: tuple[float, float] | None = None
    said: list[str] = []
    for line in lines:
        line = line.strip()
        found = _TIMES.match(line)
        if found:
            if times is not None:
                yield _Cue(*times, tuple(said[:-1] if said and said[-1].isdecimal() else said))
            times, said = (_seconds(found.groups()[:4]), _seconds(found.groups()[4:])), []
        elif times is not None and (line or not is_vtt):
            said.append(line)
        elif times is not None:
            yield _Cue(*times, tuple(said))
            times = None
    if times is not None:
        yield _Cue(*times, tuple(said))


def _seconds(groups: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = groups
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")


def _words(cues: Iterable[_Cue]) -> Iterator[str]:
    """Yield the words of the lines, each with the space or the blank line that stands before it."""
    before: list[_Line] = []
    end, voice, mark = 0.0, "", ""
    for cue in cues:
        lines = [line for raw in cue.lines if (line := _plain(raw)).words]
        if not lines:
            continue
        if mark and cue.start - end > PAUSE_SECONDS:
            mark = "\n\n"
        rolling = cue.start - end <= ROLLING_GAP_SECONDS
        for line in _fresh(before, lines) if rolling else lines:
            other = bool(line.voice) and line.voice != voice
            yield ("\n\n" if mark and (line.turn or other) else mark) + line.words
            voice, mark = line.voice or voice, " "
        before, end = lines, max(cue.start, cue.end)


def _plain(raw: str) -> _Line:
    """Return what is said in a line, and by whom."""
    voice = _VOICE.search(raw)
    words = " ".join(_INVISIBLE.sub("", html.unescape(_TAG.sub("", raw))).split())
    turn = _TURN.match(words)
    return _Line(words[turn.end() :] if turn else words, voice[1].strip() if voice else "", turn is not None)


def _fresh(before: list[_Line], lines: list[_Line]) -> list[_Line]:
    """Return what rolling captions add to the cue before, whose last lines, or all words, they show again."""
    old, new = [line.words for line in before], [line.words for line in lines]
    for shared in range(min(len(old), len(new)), 0, -1):
        if old[-shared:] == new[:shared]:
            return lines[shared:]
    shown, more = " ".join(old), " ".join(new)
    if old and more.startswith(shown + " "):
        return [_Line(more[len(shown) + 1 :], lines[-1].voice)]
    return lines
