"""Finding in an index what a text has copied: runs of equal bits that are too long to be chance.

Each way to lay the text along the training text compares its bits with others. A run of m equal bits happens by chance
in about one of 2^m places, so it counts only when there are far fewer places than that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gptcli.copies.grams import CYCLE, GRAM_WORDS, Codes, Pattern, codes_of, gram_hashes, pattern
from gptcli.copies.index import NgramIndex
from gptcli.copies.words import ONE_TEXT, Hashes, Places

# How likely it is that a text that copies nothing is said to copy something.
CHANCE = 0.01
# Of the bits that are needed, so many have to be of different words: loops are alike wherever they are found.
OWN_SHARE = 0.75
SEGMENT_WORDS, OVERLAP_WORDS = 1 << 15, 1 << 11
SLICE_WORDS = 4096
CHUNK_BYTES = 1 << 17
TABLE_BITS = 22
MAX_WINDOW = 56
# A licence that stands in every document matches as often; so many of the best places are looked at.
MAX_PLACES = 500


class Run(NamedTuple):
    """Words ``start`` to ``end`` of a text, which stand in the training text from its word ``place`` on."""

    start: int
    end: int
    place: int


class _Line(NamedTuple):
    """The bits of a text whose first word has a certain number in the cycle of 64: of which words, at which slots."""

    bits: Codes
    words: Places
    slots: Places


def bits_needed(index: NgramIndex, words: int) -> int:
    """Return how many equal bits in a row a text of that many words does not have by chance."""
    places = max(1.0, index.words * index.rate / CYCLE) * max(1, words)
    return max(8, math.ceil(math.log2(places / 2 / CHANCE)))


def shortest_run(index: NgramIndex, words: int) -> int:
    """Return the shortest run of words that is always found in a text of that many words."""
    return pattern(index.rate).words_for(bits_needed(index, words)) + GRAM_WORDS - 1


def find_runs(index: NgramIndex, hashes: Hashes, begins: Places = ONE_TEXT) -> list[Run]:
    """Return all runs of the words of texts, given by their hashes, that stand in the training text.

    ``begins`` are the words that a text begins with; no run goes on from one text into the next.

    A run may be too long by a word or two at either end, whose bits are equal by chance. A long text is searched in
    segments, so a run of more than ``OVERLAP_WORDS`` words may be given as several.
    """
    needed = bits_needed(index, hashes.size)
    runs = []
    for begin in range(0, hashes.size, SEGMENT_WORDS):
        segment = hashes[begin : begin + SEGMENT_WORDS + OVERLAP_WORDS]
        query = _Query(index, segment, np.unique(np.maximum(begins - begin, 0)), needed)
        for start, end, place in _find_in_segment(query, segment.size):
            runs.append(Run(begin + start, begin + end, place))
    return runs


def _find_in_segment(query: _Query, size: int) -> list[Run]:
    places: dict[int, int] = {}
    for start in range(0, size, SLICE_WORDS):
        found, hits = query.places(start)
        for place, n_hits in zip(found.tolist(), hits.tolist(), strict=True):
            places[place] = places.get(place, 0) + n_hits
    best = sorted(places, key=lambda place: (-places[place], place))[:MAX_PLACES]
    return [run for place in best for run in query.runs(place)]


class _Query:
    """Texts to be looked for in an index; of the bits of one so many have to be equal."""

    def __init__(self, index: NgramIndex, hashes: Hashes, begins: Places, needed: int) -> None:
        self._index, self._pattern, self._needed, self._begins = index, pattern(index.rate), needed, begins
        self._window = min(self._needed, MAX_WINDOW)
        grams = gram_hashes(hashes, begins)
        self._codes = codes_of(grams)
        self._before = _last_seen(grams)
        self._line = functools.lru_cache(CYCLE)(self._make_line)

    def _make_line(self, phase: int) -> _Line:
        """Lay the text with its first word at ``phase``."""
        kept: Pattern = self._pattern
        n_words = self._codes.size
        cycles = np.arange(-(-(phase + n_words) // CYCLE), dtype=np.int64) * CYCLE - phase
        words = (cycles[:, None] + kept.words).ravel()
        slots = np.tile(np.arange(kept.rate, dtype=np.int64), cycles.size)
        bits = np.tile(kept.bits, cycles.size)
        inside = (words >= 0) & (words < n_words)
        words, slots, bits = words[inside], slots[inside], bits[inside]
        return _Line((self._codes[words] >> (1 - bits)) & 1, words, slots)

    def _keys(self, start: int) -> tuple[Hashes, Places]:
        """Return sorted keys of the windows that begin in a slice of the text, and the word each begins at.

        A key is the window's bits and then its slot. What goes round in circles has few bits of its own: no window.
        """
        keys, words = [], []
        for phase in range(CYCLE):
            line = self._line(phase)
            first, last = np.searchsorted(line.words, (start, start + SLICE_WORDS))
            count = min(int(last), line.bits.size - self._window + 1) - int(first)
            if count <= 0:
                continue
            part = slice(int(first), int(first) + count + self._window - 1)
            own = np.concatenate([[0], np.cumsum(line.words[part] - self._before[line.words[part]] > CYCLE)])
            good = own[self._window :] - own[:count] >= self._window / 2
            values = next(_windows(np.packbits(line.bits[part]), self._window))[1].ravel()[:count]
            keys.append((values << np.uint64(7) | line.slots[part][:count].astype(np.uint64))[good])
            words.append(line.words[part][:count][good])
        if not keys:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        unique, which = np.unique(np.concatenate(keys), return_index=True)
        return unique, np.concatenate(words)[which]

    def places(self, start: int) -> tuple[Places, Places]:
        """Return where the text may lie for windows from a slice of it to be equal, and how many of them are.

        A place is the number in the training text at which the first word of this text would stand.
        """
        keys, words = self._keys(start)
        if not keys.size:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        table = np.zeros(1 << TABLE_BITS, np.bool_)
        table[_rows(keys >> np.uint64(7))] = True
        found = []
        for first, values in _windows(self._index.stream, self._window):
            hits = np.flatnonzero(table[_rows(values)])
            bits = hits + 8 * first
            wanted = values.ravel()[hits] << np.uint64(7) | (bits % self._index.rate).astype(np.uint64)
            at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
            equal = keys[at] == wanted
            cycle, slot = np.divmod(bits[equal], self._index.rate)
            places, hits = np.unique(cycle * CYCLE + self._pattern.words[slot] - words[at[equal]], return_counts=True)
            best = np.argsort(-hits, kind="stable")[:MAX_PLACES]
            found.append((places[best], hits[best]))
        return np.concatenate([places for places, _ in found]), np.concatenate([hits for _, hits in found])

    def runs(self, place: int) -> Iterator[Run]:
        """Yield the runs of equal bits that are no chance where the text lies at ``place``."""
        line, index = self._line(place % CYCLE), self._index
        there = line.words + place
        inside = (there >= 0) & (there < index.words)
        words, there = line.words[inside], there[inside]
        bits = there // CYCLE * index.rate + line.slots[inside]
        equal = ((index.stream[bits >> 3] >> (7 - (bits & 7)).astype(np.uint8)) & 1) == line.bits[inside]
        document = np.searchsorted(index.ends, there, "right")
        text = np.searchsorted(self._begins, words, "right")
        parted = (document[1:] != document[:-1]) | (text[1:] != text[:-1])
        cuts = np.flatnonzero((equal[1:] != equal[:-1]) | parted) + 1
        bounds = np.concatenate([[0], cuts, [equal.size]])
        for number in np.flatnonzero(np.diff(bounds) >= self._needed).tolist():
            first, last = bounds[number : number + 2].tolist()
            kept = words[first:last]
            if equal[first] and (self._before[kept] < kept[0]).sum() >= OWN_SHARE * self._needed:
                begin = int(index.ends[document[first] - 1]) if document[first] else 0
                start = max(int(kept[0]) - GRAM_WORDS + 1, begin - place, int(self._begins[text[first] - 1]))
                yield Run(start, int(kept[-1]) + 1, start + place)


def _last_seen(grams: Hashes) -> Places:
    """Return for each the place of the same one before it, far below 0 where there is none."""
    order = np.argsort(grams, kind="stable")
    before = np.full(grams.size, -(1 << 40), np.int64)
    same = grams[order][1:] == grams[order][:-1]
    before[order[1:][same]] = order[:-1][same]
    return before


def _rows(values: Hashes) -> Hashes:
    """Return the rows of the table that windows belong to."""
    rows: Hashes = (values * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - TABLE_BITS)).ravel()
    return rows


def _windows(stream: Codes, width: int) -> Iterator[tuple[int, Hashes]]:
    """Yield numbers of bytes, and of the bits from there on the windows of ``width`` bits, 8 a byte.

    Behind the end are zeros.
    """
    padded = np.concatenate([stream, np.zeros(8, np.uint8)])
    shifts = np.arange(8, dtype=np.uint64)
    for first in range(0, stream.size, CHUNK_BYTES):
        count = min(CHUNK_BYTES, stream.size - first)
        eights = np.ndarray((count,), ">u8", padded, first, (1,)).astype(np.uint64)
        yield first, (eights[:, None] << shifts) >> np.uint64(64 - width)
