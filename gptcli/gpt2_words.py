"""GPT-2's words in whole arrays of text: where its pattern cuts, and the tokens of the words met before in a table.

The ids are tiktoken's own: it says what every character is and encodes every word the first time, so a long text costs
it only its new and its long words. Knows nothing of vocabularies, names and files.
"""

from __future__ import annotations

import functools
import struct
import sys
import threading
from array import array
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.uint16]

# What a character is to the pattern: blanks are all white space but the space, edges part texts.
LETTER, NUMBER, SIGN, EDGE, BLANK, SPACE, UNKNOWN = range(1, 8)
PROBES = ((r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", BLANK))
# In a joined text, stands between two texts.
EDGE_CHARACTER = "\0"
# The table has words of so many bytes; longer ones are looked up one by one.
MAX_BYTES = 16
# A row has so many tokens; of a word with more it has the place where they stand.
MAX_TOKENS = 4
# Of the words of a chunk, so many may be looked up one by one; beyond, tiktoken takes all of it.
MANY = 1 / 6
MAX_KNOWN = 1 << 17
# 12 MB a thread.
TABLE_BITS = 19
NO_TOKEN, LONG = 0xFFFF, 0xFFFE
MOST_IDS = LONG
ROOM = 24

_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
_FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
# No UTF-8 has it.
_NO_KEY = np.uint64((1 << 64) - 1)
_kinds = np.full(0x110000, UNKNOWN, np.uint8)


class Encoding(Protocol):
    """What is used of tiktoken's class."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text."""


class WordEncoder:
    """Encodes chunks of text with a table of words for each thread that does."""

    def __init__(self, encoding: Encoding, tokens: Sequence[bytes]) -> None:
        assert len(tokens) <= MOST_IDS, "ids are held in 16 bits"
        self._encoding, self._tokens = encoding, tokens
        self._own = threading.local()

    def encode(self, chunk: str, edge: int | None) -> Ids | None:
        """Return the ids of a text, each ``EDGE_CHARACTER`` in it as ``edge``.

        None for one that tiktoken is better at, of new and long words.
        """
        if not hasattr(self._own, "table"):
            self._own.table = _Table(self._encoding, self._tokens)
        table: _Table = self._own.table
        return table.encode(chunk, edge)


def cut_words(text: str) -> tuple[bytes, Bytes, Places]:
    """Return the UTF-8 of a text, the same with room around it, and where in that words start, with the end last.

    The text begins at 1. Each ``EDGE_CHARACTER`` is a word, and what lies on both sides of it is cut as if alone.
    """
    data = text.encode()
    size = len(data)
    padded = np.zeros(size + ROOM, np.uint8)
    padded[1 : size + 1] = np.frombuffer(data, np.uint8)
    kinds = np.full(size + 2, EDGE, np.uint8)
    kinds[1:-1] = np.frombuffer(data.translate(_ascii_kinds()), np.uint8)
    leads, lasts = (np.zeros(0, np.int64),) * 2 if text.isascii() else _mark_wide(data, padded, kinds)
    white, inner, merged = kinds >= BLANK, kinds < EDGE, np.minimum(kinds, BLANK)
    starts = np.zeros(padded.size, np.bool_)
    # A space belongs to the word behind it.
    begins = (merged[1:-1] != merged[:-2]) & ~((kinds[:-2] == SPACE) & inner[1:-1])
    # Of several white characters in a row the last one stands apart, unless the text ends there.
    begins |= white[1:-1] & white[:-2] & inner[2:]
    begins |= kinds[1:-1] == EDGE
    starts[1 : size + 1] = begins
    starts[leads] |= starts[lasts]
    starts[lasts] = False
    _cut_contractions(padded, starts, size)
    return data, padded, np.append(np.flatnonzero(starts), size + 1)


def _mark_wide(data: bytes, padded: Bytes, kinds: Bytes) -> tuple[Places, Places]:
    """Fill in the kinds of what is not ASCII, for each of its bytes; return first and last bytes of white ones."""
    leads = np.flatnonzero(padded >= 0xC0)
    points = np.frombuffer(data.translate(None, bytes(range(128))).decode().encode("utf-32-le"), np.dtype("<u4"))
    found = _kind_of(points)
    widths = 2 + (points >= 0x800) + (points >= 0x10000)
    for place in range(4):
        reached = widths > place
        kinds[leads[reached] + place] = found[reached]
    white = found == BLANK
    return leads[white], (leads + widths - 1)[white]


def _cut_contractions(padded: Bytes, starts: npt.NDArray[np.bool_], size: int) -> None:
    """Cut behind 's, 't, 're, 've, 'm, 'll and 'd, where a word starts with one."""
    quotes = np.flatnonzero((padded == ord("'")) & starts)
    one, two = padded[quotes + 1], padded[quotes + 2]
    single = (one == ord("s")) | (one == ord("d")) | (one == ord("m")) | (one == ord("t"))
    double = ((one == ord("l")) & (two == ord("l"))) | (((one == ord("v")) | (one == ord("r"))) & (two == ord("e")))
    starts[quotes[single | double] + 1] = False
    for ends in (quotes[single] + 2, quotes[double] + 3):
        starts[ends] = True
    starts[size + 1 :] = False


@functools.cache
def _ascii_kinds() -> bytes:
    kinds = _kind_of(np.arange(128, dtype=np.uint32))
    kinds[ord(" ")], kinds[ord(EDGE_CHARACTER)] = SPACE, EDGE
    return kinds.tobytes() + bytes(128)


def _kind_of(points: npt.NDArray[np.uint32]) -> Bytes:
    """Return what each character is, asking tiktoken about those that were never met before."""
    kinds: Bytes = _kinds[points]
    if (kinds == UNKNOWN).any():
        new = np.unique(points[kinds == UNKNOWN])
        of_new = np.full(new.size, SIGN, np.uint8)
        for encoding, kind in _probes():
            matched = bytes(encoding.encode_ordinary("".join(map(chr, new.tolist())))).decode()
            of_new[np.isin(new, [ord(character) for character in matched])] = kind
        _kinds[new] = of_new
        kinds = _kinds[points]
    return kinds


@functools.cache
def _probes() -> list[tuple[Encoding, int]]:
    """Return encodings whose ids are the bytes of the characters of a kind; of others tiktoken says nothing."""
    import tiktoken

    ranks = {bytes([byte]): byte for byte in range(256)}
    return [
        (tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}), kind)
        for pattern, kind in PROBES
    ]


class _Table:
    """The tokens of words, each at one of two rows that its bytes decide."""

    def __init__(self, encoding: Encoding, tokens: Sequence[bytes]) -> None:
        self._encoding = encoding
        self._known: dict[bytes, int] = {}
        # The tokens of words with many, one word after the other, where each starts, and how many it has.
        self._long, self._long_starts, self._long_sizes = array("H"), array("q"), array("q")
        size = 1 << TABLE_BITS
        self._low, self._high = np.full(size, _NO_KEY), np.full(size, _NO_KEY)
        self._values = np.full(size, _packed([]), np.uint64)
        short = [(token, rank) for rank, token in enumerate(tokens) if len(token) <= MAX_BYTES and b"\0" not in token]
        keys = np.frombuffer(b"".join(token.ljust(MAX_BYTES, b"\0") for token, _ in short), "<u8").reshape(-1, 2)
        rows = _rows(keys[:, 0], keys[:, 1])
        self._low[rows], self._high[rows] = keys[:, 0], keys[:, 1]
        self._values[rows] = [_packed([rank]) for _, rank in short]

    def encode(self, chunk: str, edge: int | None) -> Ids | None:
        if len(self._known) > MAX_KNOWN:
            self._forget()
        data, padded, places = cut_words(chunk)
        starts, sizes = places[:-1], np.diff(places)
        # Eight bytes from each place on; words are cut from them.
        eights = np.ndarray((padded.size - 7,), "<u8", padded, 0, (1,)).astype(np.uint64)
        low = eights[starts] & _MASKS[np.minimum(sizes, 8)]
        high = np.zeros_like(low)
        longer = np.flatnonzero(sizes > 8)
        high[longer] = eights[starts[longer] + 8] & _MASKS[np.minimum(sizes[longer] - 8, 8)]
        rows = _rows(low, high)
        values = self._values[rows]
        missed = np.flatnonzero((self._low[rows] != low) | (self._high[rows] != high) | (sizes > MAX_BYTES))
        other = rows[missed] ^ 1
        values[missed] = self._values[other]
        again = (self._low[other] != low[missed]) | (self._high[other] != high[missed]) | (sizes[missed] > MAX_BYTES)
        missed = missed[again]
        most = int(MANY * starts.size) + 16
        few = missed[:most]
        values[few] = np.array(
            [
                self._learn(word, edge) if (known := self._known.get(word := data[start:end])) is None else known
                for start, end in zip((starts[few] - 1).tolist(), (places[few + 1] - 1).tolist(), strict=True)
            ],
            np.uint64,
        )
        # A row taken by another word goes to the newer one.
        kept = few[(sizes[few] <= MAX_BYTES) & (low[few] > 0)]
        into = np.where(self._low[rows[kept]] == _NO_KEY, rows[kept], rows[kept] ^ 1)
        self._low[into], self._high[into], self._values[into] = low[kept], high[kept], values[kept]
        return None if missed.size > most else self._unpacked(values)

    def _learn(self, word: bytes, edge: int | None) -> int:
        """Ask tiktoken for the tokens of a word; return the value of its row."""
        if word == EDGE_CHARACTER.encode():
            return _packed([] if edge is None else [edge])
        ids = self._encoding.encode_ordinary(word.decode())
        if len(ids) > MAX_TOKENS:
            number = len(self._long_starts)
            self._long_starts.append(len(self._long))
            self._long_sizes.append(len(ids))
            self._long.extend(ids)
            ids = [LONG, number & 0xFFFF, number >> 16]
        self._known[word] = found = _packed(ids)
        return found

    def _unpacked(self, values: Keys) -> Ids:
        """Return the tokens of words one after the other."""
        tokens = values.view(np.uint16).reshape(-1, MAX_TOKENS)
        long = np.flatnonzero(tokens[:, 0] == LONG)
        numbers = tokens[long, 1].astype(np.int64) | tokens[long, 2].astype(np.int64) << 16
        tokens[long, 1:3] = NO_TOKEN
        ids: Ids = tokens[tokens != NO_TOKEN]
        if not long.size:
            return ids
        sizes = np.frombuffer(self._long_sizes, np.int64)[numbers]
        counts = np.ones(ids.size, np.int64)
        counts[ids == LONG] = sizes
        whole = np.repeat(ids, counts)
        # From the first token of each long word to where its tokens stand.
        ahead = np.frombuffer(self._long_starts, np.int64)[numbers] - (np.cumsum(sizes) - sizes)
        whole[whole == LONG] = np.frombuffer(self._long, np.uint16)[np.repeat(ahead, sizes) + np.arange(sizes.sum())]
        return whole

    def _forget(self) -> None:
        """Drop the words that were learned, and of the rows those that say where tokens stand."""
        self._known.clear()
        self._long, self._long_starts, self._long_sizes = array("H"), array("q"), array("q")
        long = self._values.view(np.uint16).reshape(-1, MAX_TOKENS)[:, 0] == LONG
        self._low[long] = self._high[long] = _NO_KEY


def _packed(ids: list[int]) -> int:
    """Return up to ``MAX_TOKENS`` ids as one number."""
    return int.from_bytes(struct.pack("=4H", *ids, *[NO_TOKEN] * (MAX_TOKENS - len(ids))), sys.byteorder)


def _rows(low: Keys, high: Keys) -> Places:
    """Return where in the table words stand first."""
    mixed = (low * _FACTORS[0]) ^ (high * _FACTORS[1])
    rows: Places = ((mixed * _FACTORS[0]) >> np.uint64(64 - TABLE_BITS)).view(np.int64)
    return rows
