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

from gptcli.copies.words import ONE_TEXT, Hashes, Places, find_words, powers
from gptcli.documents import read_documents
from gptcli.split import SplitPlan, split_documents

BATCH_CHARS = 1 << 20
TABLE_BITS = 20
# Where every text is shorter, those of the longest one's size.
NGRAMS = (4, 8, 16)
OPENING_WORDS, OPENING_CHARS = 6, 40
BASE = 0xA0761D6478BD642F
# No word has this hash; it stands between documents.
GAP = np.uint64(0)


class Passage(NamedTuple):
    """Some training text, a document or a part of one; ``number`` counts its documents from 0.

    ``opening`` is the first words of the document.
    """

    text: str
    number: int
    title: str
    opening: str = ""


class Found(NamedTuple):
    """The longest run: where it starts in the text, its words, its document, and how far into that it starts, 0..1."""

    start: int
    words: int
    number: int
    title: str
    opening: str
    place: float


@dataclass(slots=True)
class Scan:
    """What a pass over the training text found of texts of ``words`` words.

    ``seen`` says of each n-gram of a size whether it stands there, in the order of ``ngram_places``.
    ``documents`` and ``bytes`` are of what was read.
    """

    words: int
    longest: Found | None = None
    seen: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    documents: int = 0
    bytes: int = 0


def train_passages(documents: Path, plan: SplitPlan) -> Iterator[Passage]:
    """Yield the training text of a corpus; raises ``FormatError`` for damaged documents."""
    number, opening = -1, ""
    for split, item in split_documents(read_documents(documents), plan):
        if split == "train" and item.text:
            if item.part == 0 or number < 0:
                number, opening = (
                    number + 1,
                    " ".join(item.text.split(None, OPENING_WORDS)[:OPENING_WORDS])[:OPENING_CHARS],
                )
            yield Passage(item.text, number, item.title, opening)


def scan(passages: Iterator[Passage], hashes: Hashes, begins: Places = ONE_TEXT) -> Scan:
    """Look for the words of texts, given by their hashes, in all of the training text.

    ``begins`` are the words that a text begins with; no run goes on from one text into the next.
    """
    return _Scanner(hashes, begins).run(passages)


def ngram_places(words: int, begins: Places, n: int) -> Places:
    """Return the words that the n-grams of texts begin at; those over the end of a text are none."""
    at = np.arange(max(0, words - n + 1))
    within: Places = at[np.searchsorted(begins, at, "right") == np.searchsorted(begins, at + n - 1, "right")]
    return within


class _Scanner:
    def __init__(self, hashes: Hashes, begins: Places) -> None:
        self._hashes, self._begins = hashes, begins
        self._most = int(np.diff(begins, append=hashes.size).max(initial=0))
        self._tables: dict[int, _Ngrams] = {}
        self._sums = _sums(hashes)
        self._scan = Scan(hashes.size)
        self._sizes = [n for n in NGRAMS if n <= self._most] or [n for n in (self._most,) if n > 1]
        for n in self._sizes:
            self._scan.seen[n] = np.zeros(self._table(n).values.size, np.bool_)
        self._carried = np.zeros(0, np.uint64)
        # Of all words and gaps read so far, the first ones of documents.
        self._starts = array("q")
        self._read = 0
        self._best, self._best_start, self._best_place, self._best_names = 1, 0, 0, ("", "")

    def run(self, passages: Iterator[Passage]) -> Scan:
        batch: list[Passage] = []
        size = 0
        for passage in passages:
            batch.append(passage)
            size += len(passage.text) + 1
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
        return Found(self._best_start, self._best, number, *self._best_names, place)

    def _take(self, batch: list[Passage]) -> None:
        """Look at some passages, with as many of the words before them as a run may have."""
        texts: list[str] = []
        places: list[int] = []
        names: dict[int, tuple[str, str]] = {}
        size = 0
        for passage in batch:
            if passage.number >= len(self._starts) + len(places):
                texts.append("\n")
                size += 1
                places.append(size)
            names[passage.number] = passage.title, passage.opening
            texts.append(passage.text)
            size += len(passage.text)
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
        self._carried = joined[max(0, joined.size - self._most) :]
        self._search(joined, origin, names)

    def _search(self, there: Hashes, origin: int, names: dict[int, tuple[str, str]]) -> None:
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
        if longer > self._most:
            return
        among, which = matches(longer, next(places for n, places in reversed(kept) if n <= longer))
        found = self._proven(longer, there, among, which)
        if found is None:
            return
        # Of n-grams that begin here: of size ``best`` there are some, of size ``over`` there are none.
        best, over = longer, self._most + 1
        while over - best > 1:
            n = min(2 * best, (best + over) // 2)
            fewer, these = matches(n, among)
            proven = self._proven(n, there, fewer, these)
            if proven is None:
                over = n
            else:
                best, among, found = n, fewer, proven
        self._best, self._best_start, self._best_place = best, found[0], found[1] + origin
        number = bisect.bisect_right(self._starts, self._best_place) - 1
        self._best_names = names[number]

    def _proven(self, n: int, there: Hashes, among: Places, which: Places) -> tuple[int, int] | None:
        """Return where an n-gram begins in the texts and here, of those that seem to be the same the first that is."""
        # Long sequences can be made whose sums are equal whatever the words are (Thue and Morse).
        for place, number in zip(map(int, among), map(int, which), strict=True):
            words = there[place : place + n]
            for start in self._table(n).begins(number):
                if np.array_equal(self._hashes[start : start + n], words):
                    return start, place
        return None

    def _table(self, n: int) -> _Ngrams:
        if n not in self._tables:
            at = ngram_places(self._hashes.size, self._begins, n)
            inverses = powers(pow(BASE, -1, 1 << 64), self._hashes.size)
            self._tables[n] = _Ngrams((self._sums[at + n] - self._sums[at]) * inverses[at], at)
        return self._tables[n]


class _Ngrams:
    """The n-grams of texts, which begin ``at`` some words, to be looked up: ``values`` sorted, ``which`` each is."""

    def __init__(self, grams: Hashes, at: Places) -> None:
        self.values, self._first, self.which = np.unique(grams, return_index=True, return_inverse=True)
        self._at = at
        self._rows = np.zeros(1 << TABLE_BITS, np.bool_)
        self._rows[grams >> np.uint64(64 - TABLE_BITS)] = True

    def begins(self, number: int) -> Iterator[int]:
        """Yield the words at which an n-gram of the texts begins, given by its number among ``values``."""
        yield int(self._at[self._first[number]])
        yield from self._at[np.flatnonzero(self.which == number)[1:]].tolist()

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
