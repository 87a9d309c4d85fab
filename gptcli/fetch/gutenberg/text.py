"""A Project Gutenberg text: the work without licence, header, footer, credits and transcriber's notes.

Pure text to text, for every form the markers took since 1991. Knows no mirror, no catalogue and no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gptcli.fetch.gutenberg.credits import without_credits, without_notes
from gptcli.fetch.gutenberg.header import Header, read_header

# How much of a text has to be seen to tell that it is one of Gutenberg's.
HEAD_CHARS = 4096
# Between two etexts of one file remains of headers can stand; a work with fewer words than these is no work.
_FEWEST_WORDS = 300
# Credits and notes of a short work may well be longer than the work.
_MUCH = 2000

_FLAGS = re.IGNORECASE | re.MULTILINE
_NAMED = r"\s+OF\s+(?:TH(?:E|IS)\s+)?(?:COPYRIGHTED\s+)?PROJECT\s+GUTENBERG"
# A marker may be wrapped over lines, then it ends with its closing stars; without those it ends with its line.
_TO_ITS_END = r"(?:(?:(?!\n[ \t]*\n)[^*]){0,400}?\*{3}[^\n]*|[^\n]*)"
_MARKER = re.compile(
    rf"(?P<start>^[ \t>]*\*{{2,}}[ \t]*START{_NAMED}{_TO_ITS_END})"
    rf"|(?P<end>^[ \t>]*\*{{2,}}[ \t]*END{_NAMED}{_TO_ITS_END})"
    r"|(?P<small_print_ends>"
    r"^[ \t>]{0,8}\*{0,8}[ \t]{0,8}END[*\s]{1,8}(?:OF[ \t]+)?(?:THE[ \t]+)?SMALL[ \t]+PRINT!?[^\n]*"
    r"|^\[\"Small Print\" V[^\n]*|^[^\n]*\bPROTECTED (?:ETEXTS|EBOOKS)[^\n]*\*END\*[^\n]*)"
    r"|(?P<licence>"
    r"^[ \t>]*\*+[ \t]*START[* \t]+THE SMALL PRINT[^\n]*|^\*+[ \t]*SMALL PRINT! (?:for|from) [^\n]*"
    r"|^\*\*The Legal Small Print\*\*[^\n]*|^\*+[ \t]*START: FULL LICEN[SC]E[^\n]*"
    r"|^[ \t]*THE FULL PROJECT GUTENBERG(?:-tm|™)? LICEN[SC]E[ \t]*$"
    r"|^\*+ ?This file should be named [^\n]*|^Updated editions will (?:replace|be renamed)[^\n]*)",
    _FLAGS,
)
# The owner's notice stands between the plays of etext 100 and its kin.
_NOTICE = re.compile(
    r"\n{0,8}<<\s{0,8}THIS ELECTRONIC VERSION\b[^>]{0,1500}?(?:>>|MEMBERSHIP\.?(?:>>)?)", re.IGNORECASE
)
_OF_GUTENBERG = re.compile(
    rf"^[ \t>]*\*{{2,}}[ \t]*START{_NAMED}|\bthis e-?(?:book|text) is for the use of\s+anyone\b"
    r"|\A\W*(?:the )?project gutenberg(?:['\u2019]s)? (?:e-?(?:text|book)\b|(?<=s )[^\n]{1,80}\bby\b)"
    r"|\bEtexts Readable By Both Humans\b",
    _FLAGS,
)
_FIELDS_END = re.compile(r"^(?:Character set encoding|Language|Author|Title) *:[^\n]*(?:\n[ \t]+\S[^\n]*)*", _FLAGS)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A work and what its header says of it; ``dropped_lines`` is how many went, ``note`` is for the user."""

    text: str
    header: Header
    dropped_lines: int = 0
    note: str = ""


def is_gutenberg_text(head: str) -> bool:
    """Say whether a text that begins like this is one of Project Gutenberg; ``HEAD_CHARS`` of it are enough."""
    return _OF_GUTENBERG.search(head.removeprefix("\ufeff")[:HEAD_CHARS]) is not None


def has_marker(text: str) -> bool:
    """Say whether anything of Project Gutenberg's stands in a text, wherever it is: a header, a marker, a licence."""
    return is_gutenberg_text(text) or _MARKER.search(text) is not None


def clean_gutenberg(text: str) -> Cleaned:
    """Return the work alone: title page, contents, chapters and the captions of pictures stay.

    Where more than half of what stands between the outermost markers would go, all of that stays, and a note says so.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    markers = list(_MARKER.finditer(text))
    header = read_header(text[: _first_start(text, markers)], text)
    body = without_credits(without_notes(_NOTICE.sub("", _framed(text, markers))), header.title).strip()
    whole = text[_first_start(text, markers) : _last_end(text, markers)].strip()
    note = ""
    gone = len(whole) - _legal_chars(text, markers) - len(body)
    if gone > max(len(body), _MUCH):
        body = whole
        note = (
            "More than half of the text looked like licence and notes, so all that stands between the outermost "
            "markers of Project Gutenberg was kept: look it over before you train on it."
        )
    return Cleaned(body, header, text.count("\n") - body.count("\n"), note)


def _framed(text: str, markers: list[re.Match[str]]) -> str:
    """Return what stands inside the markers; of a file of several etexts, all of them."""
    segments = []
    first = _first_start(text, markers)
    at: int | None = first
    for marker in markers:
        if marker.end() <= first:
            continue
        if at is not None:
            segments.append(text[at : marker.start()])
        at = marker.end() if marker["start"] or marker["small_print_ends"] else None
    if at is not None:
        segments.append(text[at:])
    works = [segment.strip() for segment in segments if len(segment.split()) >= _FEWEST_WORDS]
    return "\n\n\n\n".join(works or [max(segments, key=len, default="")])


def _first_start(text: str, markers: list[re.Match[str]]) -> int:
    """Return where the first etext begins: below its marker, else below the fields of its header."""
    for marker in markers:
        # Small print at the bottom of a file ends without anything beginning.
        if marker["start"] or (marker["small_print_ends"] and marker.start() <= len(text) / 2):
            return marker.end()
    head = text[:HEAD_CHARS]
    ends = [field.end() for field in _FIELDS_END.finditer(head)] if is_gutenberg_text(head) else []
    return ends[-1] if ends else 0


def _last_end(text: str, markers: list[re.Match[str]]) -> int:
    first = _first_start(text, markers)
    ends = [marker.start() for marker in markers if marker["end"] and marker.start() >= first]
    return ends[-1] if ends else len(text)


def _legal_chars(text: str, markers: list[re.Match[str]]) -> int:
    """Return how much stands between the beginning of a licence and its end, inside the outermost markers."""
    first, last = _first_start(text, markers), _last_end(text, markers)
    total, at = 0, None
    for marker in markers:
        if not first <= marker.start() < last:
            continue
        if marker["licence"] or marker["end"]:
            at = marker.start() if at is None else at
        elif at is not None:
            total, at = total + marker.end() - at, None
    return total
