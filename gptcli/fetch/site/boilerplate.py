"""Lines that repeat over a whole site are no text of its posts: they are found here, dropped, and told.

The texts wait in a temporary file while the lines are counted, so memory stays flat. Knows nothing of pages.
"""

from __future__ import annotations

import heapq
import json
import re
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from gptcli.documents import Origin, content_digest, well_formed

# A line is boilerplate that begins or ends a text in this share of the texts of a site, or stands anywhere in this one.
EDGE_SHARE = 0.2
INNER_SHARE = 0.5
MIN_TEXTS = 5
# So many lines at the beginning and the end of a text count as its edges.
HEAD_LINES, TAIL_LINES = 5, 8
# Short lines inside of a text are headings and code that may well repeat.
MIN_INNER_LETTERS = 30
# A template says a thing once. A line that in more texts than this share of those recurs, or stands elsewhere, is text:
# the name of a speaker, a refrain.
RECURRING_SHARE = 0.1
MAX_EXAMPLES = 3
_BUCKETS = 1 << 21
_DIGITS = re.compile(r"\d+")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Draft:
    """A text before its lines are looked at; ``fetched_at`` says when its bytes came."""

    text: str
    origin: Origin
    fetched_at: str = ""


@dataclass(slots=True)
class Dropped:
    """What went: ``lines`` in all, ``examples`` with the number of texts each stood in, the most frequent first."""

    lines: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def examples(self) -> list[tuple[str, int]]:
        """Return the lines that stood in most texts."""
        return heapq.nsmallest(MAX_EXAMPLES, self.counts.items(), key=lambda item: (-item[1], item[0]))


class Drafts:
    """The texts of a site on their way, in a temporary file; a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gptcli-")
        self._file: IO[bytes] = (Path(self._folder.name) / "drafts.jsonl").open("w+b")
        self._index: list[tuple[str, str, int]] = []
        self._known: set[bytes] = set()
        self._edges = array("I", bytes(4 * _BUCKETS))
        self._inner = array("I", bytes(4 * _BUCKETS))

    def __enter__(self) -> Drafts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._folder.cleanup()

    def __len__(self) -> int:
        return len(self._index)

    def add(self, draft: Draft) -> bool:
        """Take a text in; False where it was there before, the same but for its whitespace."""
        digest = content_digest(draft.text)
        if digest in self._known:
            return False
        self._known.add(digest)
        self._file.seek(0, 2)
        self._index.append((draft.origin.get("date", ""), draft.origin.get("url", ""), self._file.tell()))
        self._file.write(json.dumps({**asdict(draft), "text": well_formed(draft.text)}).encode() + b"\n")
        for counts, keys in zip((self._edges, self._inner), _keys(draft.text), strict=True):
            for bucket in {_bucket(key) for key in keys}:
                counts[bucket] += 1
        return True

    def cleaned(self, dropped: Dropped) -> Iterator[Draft]:
        """Yield the texts without the lines that repeat, the oldest first, undated ones last; ``dropped`` is filled."""
        edges, inner = self._repeated()
        for draft in self._sorted():
            text, gone = _without(draft.text, edges, inner)
            dropped.lines += len(gone)
            dropped.counts.update(set(gone))
            yield Draft(text, draft.origin, draft.fetched_at)

    def _repeated(self) -> tuple[set[str], set[str]]:
        """Return the lines that repeat at the edges and inside of texts; what shares a bucket is counted one by one."""
        buckets = (self._edges, self._inner)
        limits = [max(MIN_TEXTS, share * len(self)) for share in (EDGE_SHARE, INNER_SHARE)]
        if all(max(counts) < limit for counts, limit in zip(buckets, limits, strict=True)):
            return set(), set()
        once: tuple[Counter[str], ...] = (Counter(), Counter())
        recurring: tuple[Counter[str], ...] = (Counter(), Counter())
        for draft in self._sorted():
            found, others = _keys(draft.text), _recurring(draft.text)
            for number, (counts, limit) in enumerate(zip(buckets, limits, strict=True)):
                once[number].update(key for key in found[number] if counts[_bucket(key)] >= limit)
                recurring[number].update(key for key in others[number] if counts[_bucket(key)] >= limit)
        edges, inner = (
            {key for key, count in found.items() if count >= limit and others[key] <= RECURRING_SHARE * count}
            for found, others, limit in zip(once, recurring, limits, strict=True)
        )
        return edges, inner

    def _sorted(self) -> Iterator[Draft]:
        self._file.flush()
        for _, _, offset in sorted(self._index, key=lambda item: (not item[0], *item)):
            self._file.seek(offset)
            yield Draft(**json.loads(self._file.readline()))


def _keys(text: str) -> tuple[set[str], set[str]]:
    """Return by what the lines at the edges and those inside of a text are known."""
    lines = _lines(text)
    edges = {_edge_key(line) for _, line in _edges(lines)}
    inner = {_inner_key(line) for _, line in lines}
    return edges - {""}, inner - {""}


def _recurring(text: str) -> tuple[set[str], set[str]]:
    """Return the lines that stand in a text as in no template: twice, or those of an edge in the midst of it."""
    lines = _lines(text)
    at_edges = {number for number, _ in _edges(lines)}
    edges = Counter(_edge_key(line) for _, line in lines)
    inner = Counter(_inner_key(line) for _, line in lines)
    midst = {_edge_key(line) for number, line in lines if number not in at_edges}
    return midst | {key for key in edges if edges[key] > 1}, {key for key in inner if inner[key] > 1}


def _without(text: str, edges: set[str], inner: set[str]) -> tuple[str, list[str]]:
    """Return the text without the lines that repeat, and those lines."""
    lines = _lines(text)
    gone = {number: line for number, line in _edges(lines) if _edge_key(line) in edges}
    gone |= {number: line for number, line in lines if _inner_key(line) in inner}
    if not gone:
        return text, []
    kept: list[str] = []
    blank = False
    for number, line in enumerate(text.split("\n")):
        if number in gone:
            blank = True
        elif line.strip() or not blank or not kept or kept[-1].strip():
            kept.append(line)
            blank = blank and not line.strip()
    return "\n".join(kept).strip("\n"), [line.strip() for line in gone.values()]


def _lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank with their numbers; indented ones are code, and code repeats itself."""
    return [(number, line) for number, line in enumerate(text.split("\n")) if line[:1].strip()]


def _edges(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    if len(lines) <= HEAD_LINES + TAIL_LINES:
        return lines
    return lines[:HEAD_LINES] + lines[-TAIL_LINES:]


def _edge_key(line: str) -> str:
    """Return the line with each number as 0, since "4 min read" is one line; nothing for a line without words."""
    return _DIGITS.sub("0", " ".join(line.split())) if len(_LETTER.findall(line)) > 2 else ""


def _inner_key(line: str) -> str:
    return " ".join(line.split()) if len(_LETTER.findall(line)) >= MIN_INNER_LETTERS else ""


def _bucket(key: str) -> int:
    return zlib.crc32(key.encode()) % _BUCKETS
