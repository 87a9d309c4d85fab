"""The words of a text as spans and 64-bit hashes, found in whole arrays at once.

A word is a run of letters, digits and underscores with the marks and apostrophes inside it, in its own case. In
scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) every character is one.
Spaces and punctuation part words and are no words. Nothing here knows documents, files or what the words are for.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.documents import well_formed

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

GAP, LETTER, SINGLE, MARK, APOSTROPHE, UNKNOWN = range(6)
SINGLES = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x312F), (0x31A0, 0x31BF)),
    *((0x31F0, 0x31FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x3FFFF)),
)
APOSTROPHES = {0x27, 0x2019}
# The zero-width non-joiner stands inside Persian words; the variation selector after emoji is no word.
SPECIAL = {0x200C: MARK, 0xFE0F: GAP, ord("_"): LETTER}

# Longer words are told apart by their beginnings alone.
MAX_WORD_CHARS = 256
# Hashed at once; the sums fit the cache.
CHUNK_CHARS = 1 << 15
BLOCK_CHARS = 1 << 16
BASE = 0x9E6C63D0876A9A47 | 1
MASK = (1 << 64) - 1

# With which words texts begin where there is one.
ONE_TEXT: Places = np.zeros(1, np.int64)

_SPACE = re.compile(r"\s")
_kinds = np.full(0x110000, UNKNOWN, np.uint8)


class Words(NamedTuple):
    """The words of a text: where each starts and ends in characters, and its hash; all as long as there are words."""

    starts: Places
    ends: Places
    hashes: Hashes


def find_words_of(texts: Sequence[str]) -> tuple[str, Words, Places]:
    """Find the words of several texts; return these as one, its words, and with which words a text begins."""
    joined = "\n".join(texts)
    words = find_words(joined)
    places = np.cumsum([0, *(len(text) + 1 for text in texts)])
    begins = np.unique(np.searchsorted(words.starts, places))
    return joined, words, begins[begins < words.hashes.size]


def find_words(text: str) -> Words:
    """Find and hash the words of a text; lone surrogates count as U+FFFD."""
    # Arrays of a block fit the cache, those of a long text do not.
    blocks: list[Words] = []
    start = 0
    while start < len(text) or not blocks:
        space = _SPACE.search(text, start + BLOCK_CHARS)
        end = space.start() if space else len(text)
        starts, ends, hashes = _find_in_block(text[start:end])
        blocks.append(Words(starts + start, ends + start, hashes))
        start = end
    return blocks[0] if len(blocks) == 1 else Words(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def _find_in_block(text: str) -> Words:
    if text.isascii():
        plain = text.encode()
        points, kinds = np.frombuffer(plain, np.uint8), np.frombuffer(plain.translate(_low_kinds()), np.uint8)
    else:
        text = well_formed(text)
        points = np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))
        kinds = np.frombuffer(bytearray(text.encode("latin-1", "replace").translate(_low_kinds())), np.uint8)
        wide = np.flatnonzero(points >= 256)
        kinds[wide] = _kind_of(points[wide])
    starts, ends = _spans(kinds)
    return Words(starts, ends, _hash_spans(points, starts, ends))


def mix(values: Hashes) -> Hashes:
    """Return the values with every bit depending on all of theirs (the finalizer of splitmix64); 0 stays 0."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed


def powers(base: int, count: int) -> Hashes:
    """Return ``base`` to the powers 0 .. ``count`` - 1, modulo 2^64."""
    factors = np.full(count, base & MASK, np.uint64)
    factors[:1] = 1
    found: Hashes = np.cumprod(factors, dtype=np.uint64)
    return found


POWERS, INVERSES = powers(BASE, CHUNK_CHARS), powers(pow(BASE, -1, 1 << 64), CHUNK_CHARS)


@functools.cache
def _low_kinds() -> bytes:
    return bytes(_classify(point) for point in range(256))


def _kind_of(points: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return what each character is, looking up in Unicode's table those that were never met before."""
    kinds: npt.NDArray[np.uint8] = _kinds[points]
    if (kinds == UNKNOWN).any():
        for point in np.unique(points[kinds == UNKNOWN]).tolist():
            _kinds[point] = _classify(point)
        kinds = _kinds[points]
    return kinds


def _classify(point: int) -> int:
    category = unicodedata.category(chr(point))[0]
    if point in SPECIAL:
        return SPECIAL[point]
    if point in APOSTROPHES:
        return APOSTROPHE
    if category not in "LN":
        return MARK if category == "M" else GAP
    return SINGLE if any(low <= point <= high for low, high in SINGLES) else LETTER


def _spans(kinds: npt.NDArray[np.uint8]) -> tuple[Places, Places]:
    """Return where words start and end."""
    padded = np.zeros(kinds.size + 2, np.uint8)
    padded[1:-1] = kinds
    inside = (padded != GAP) & (padded != APOSTROPHE)
    quotes = np.flatnonzero(padded == APOSTROPHE)
    inside[quotes[inside[quotes - 1] & (padded[quotes + 1] == LETTER)]] = True
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    single = padded == SINGLE
    if not single.any():
        return edges[::2], edges[1::2]
    begins = inside[1:-1] & (~inside[:-2] | single[1:-1] | (single[:-2] & (padded[1:-1] == LETTER)))
    starts = np.flatnonzero(begins)
    # A word ends where the next one starts, or at the gap before that.
    ends = np.minimum(np.append(starts[1:], kinds.size), edges[1::2][np.searchsorted(edges[1::2], starts, "right")])
    return starts, ends


def _hash_spans(points: npt.NDArray[Any], starts: Places, ends: Places) -> Hashes:
    """Hash spans of characters as polynomials modulo 2^64, from sums over the characters before each place."""
    hashes = np.empty(starts.size, np.uint64)
    ends = np.minimum(ends, starts + MAX_WORD_CHARS)
    first = 0
    while first < starts.size:
        origin = int(starts[first])
        last = int(np.searchsorted(ends, origin + CHUNK_CHARS, "right"))
        piece = points[origin : int(ends[last - 1])]
        sums = np.zeros(piece.size + 1, np.uint64)
        np.cumsum(piece * POWERS[: piece.size], out=sums[1:])
        here, there = starts[first:last] - origin, ends[first:last] - origin
        hashes[first:last] = (sums[there] - sums[here]) * INVERSES[here]
        first = last
    return mix(hashes)
