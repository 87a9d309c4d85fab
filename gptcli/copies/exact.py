"""Reading the training text again: the longest run of a text's words that stands in it, and which n-grams do.

The text is read as it was when its tokens were made, val left out, a megabyte or so at a time. Words are told apart by
64 bits of hash. Knows nothing of the index.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.copies.words import Hashes, Places, find_words, powers
from gptcli.documents import read_documents
from gptcli.split import SplitPlan, split_documents

BATCH_CHARS = 1 << 20
TABLE_BITS = 20
NGRAMS = (4, 8, 16)
BASE = 0xA0761D6478BD642F
# No word has this hash; it stands between documents.
GAP = np.uint64(0)


class Piece(NamedTuple):
    """A piece of the training text; ``number`` counts its documents from 0."""

    text: str
    number: int
    title: str


class Found(NamedTuple):
    """The longest run: where it starts in the text, its words, its document, and how far into that it starts, 0..1."""

    start: int
    words: int
    number: int
    title: str
    place: float


@dataclass(slots=True)
class Scan:
    """What a pass over the training text found of a text of ``words`` words.

    ``seen`` says of each n-gram of a size whether it stands there. ``documents`` and ``bytes`` are of what was read.
    """

    words: int
    longest: Found | None = None
    seen: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    documents: int = 0
    bytes: int = 0


def train_pieces(documents: Path, plan: SplitPlan) -> Iterator[Piece]:
    """Yield the training text of a corpus; raises ``FormatError`` for damaged documents."""
    number = -1
    for split, item in split_documents(read_documents(documents), plan):
        if split == "train" and item.text:
            number = max(number + (item.part == 0), 0)
            yield Piece(item.text, number, item.title)


def scan(pieces: Iterator[Piece], hashes: Hashes) -> Scan:
    """Look for the words of a text, given by their hashes, in all of the training text."""
    return _Scanner(hashes).run(pieces)


class _Scanner:
    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        self._tables: dict[int, _Ngrams] = {}
        self._sums = _sums(hashes)
        self._scan = Scan(hashes.size)
        self._sizes = [n for n in NGRAMS if n <= hashes.size]
        for n in self._sizes:
            self._scan.seen[n] = np.zeros(self._table(n).values.size, np.bool_)
        self._carried = np.zeros(0, np.uint64)
        # Of all words and gaps read so far, the first ones of documents.
        self._starts = array("q")
        self._read = 0
        self._best, self._best_start, self._best_place, self._best_title = 1, 0, 0, ""

    def run(self, pieces: Iterator[Piece]) -> Scan:
        batch: list[Piece] = []
        size = 0
        for piece in pieces:
            batch.append(piece)
            size += len(piece.text) + 1
            if size >= BATCH_CHARS:
                self._take(batch)
                batch, size = [], 0
        if batch:
            self._take(batch)
        scan = self._scan
        scan.documents = len(self._starts)
        for n in self._sizes:
            scan.seen[n] = scan.seen[n][self._table(n).which]
        if self._best > 1:
            scan.longest = self._longest()
        return scan

    def _longest(self) -> Found:
        number = bisect.bisect_right(self._starts, self._best_place) - 1
        start = self._starts[number]
        end = self._starts[number + 1] - 1 if number + 1 < len(self._starts) else self._read
        place = (self._best_place - start) / max(1, end - start)
        return Found(self._best_start, self._best, number, self._best_title, place)

    def _take(self, batch: list[Piece]) -> None:
        """Look at some pieces, with as many of the words before them as a run may have."""
        texts: list[str] = []
        places: list[int] = []
        titles: dict[int, str] = {}
        size = 0
        for piece in batch:
            if piece.number >= len(self._starts) + len(places):
                texts.append("\n")
                size += 1
                places.append(size)
            titles[piece.number] = piece.title
            texts.append(piece.text)
            size += len(piece.text)
        text = "".join(texts)
        self._scan.bytes += len(text.encode()) - len(places)
        words = find_words(text)
        begins = np.searchsorted(words.starts, np.array(places, np.int64))
        hashes = np.insert(words.hashes, begins, GAP)
        origin = self._read - self._carried.size
        first_words = begins + np.arange(1, begins.size + 1) + self._read
        self._starts.extend(first_words.tolist())
        self._read += hashes.size
        joined = np.concatenate([self._carried, hashes])
        self._carried = joined[max(0, joined.size - self._hashes.size) :]
        self._search(joined, origin, titles)

    def _search(self, there: Hashes, origin: int, titles: dict[int, str]) -> None:
        sums = _sums(there)
        inverses = powers(pow(BASE, -1, 1 << 64), there.size)

        def matches(n: int, among: Places) -> tuple[Places, Places]:
            """Return where n-grams of the text begin, and which of its n-grams these are."""
            among = among[: np.searchsorted(among, there.size - n, "right")]
            return self._table(n).find((sums[among + n] - sums[among]) * inverses[among], among)

        among = np.arange(there.size)
        kept = [(1, among)]
        for n in self._sizes:
            among, which = matches(n, among)
            self._scan.seen[n][which] = True
            kept.append((n, among))
        longer = self._best + 1
        if longer > self._hashes.size:
            return
        among, which = matches(longer, next(places for n, places in reversed(kept) if n <= longer))
        if not among.size:
            return
        # Of n-grams that begin here: of size ``best`` there are some, of size ``over`` there are none.
        best, over = longer, self._hashes.size + 1
        while over - best > 1:
            n = min(2 * best, (best + over) // 2)
            fewer, these = matches(n, among)
            if fewer.size:
                best, among, which = n, fewer, these
            else:
                over = n
        self._best, self._best_place = best, int(among[0]) + origin
        self._best_start = int(self._table(best).first[which[0]])
        number = bisect.bisect_right(self._starts, self._best_place) - 1
        self._best_title = titles[number]

    def _table(self, n: int) -> _Ngrams:
        if n not in self._tables:
            at = np.arange(self._hashes.size - n + 1)
            inverses = powers(pow(BASE, -1, 1 << 64), at.size)
            self._tables[n] = _Ngrams((self._sums[at + n] - self._sums[at]) * inverses)
        return self._tables[n]


class _Ngrams:
    """The n-grams of a text, to be looked up: ``values`` sorted, ``first`` where each begins, ``which`` each is."""

    def __init__(self, grams: Hashes) -> None:
        self.values, self.first, self.which = np.unique(grams, return_index=True, return_inverse=True)
        self._rows = np.zeros(1 << TABLE_BITS, np.bool_)
        self._rows[grams >> np.uint64(64 - TABLE_BITS)] = True

    def find(self, grams: Hashes, places: Places) -> tuple[Places, Places]:
        """Return those of the places whose n-gram is one of the text's, and which it is."""
        maybe = np.flatnonzero(self._rows[grams >> np.uint64(64 - TABLE_BITS)])
        grams, places = grams[maybe], places[maybe]
        at = np.minimum(np.searchsorted(self.values, grams), self.values.size - 1)
        equal = self.values[at] == grams
        return places[equal], at[equal]


def _sums(hashes: Hashes) -> Hashes:
    """Return what n-grams are made of: the sum of all words before each place, times powers of ``BASE``."""
    sums = np.zeros(hashes.size + 1, np.uint64)
    np.cumsum(hashes * powers(BASE, hashes.size), out=sums[1:])
    return sums
