"""The stream of the index: two bits of each three words in a row, and which of those bits an index keeps.

Words are numbered through all training text. An index of rate r keeps r bits of every 64 words, by a pattern that
repeats; a rate that is a power of two keeps every second bit of the next one, so a stream can be thinned on the way.
Knows nothing of files.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.copies.words import Hashes, Places, mix

GRAM_WORDS = 3
CYCLE = 64
MAX_RATE = 2 * CYCLE
Codes = npt.NDArray[np.uint8]

FACTORS = (np.uint64(0xD6E8FEB86659FD93), np.uint64(0xC2B2AE3D27D4EB4F))


class Pattern(NamedTuple):
    """Which bits of 64 words are kept, in their order: of which word, and which bit of its code."""

    words: Places
    bits: Codes

    @property
    def rate(self) -> int:
        """How many bits are kept of 64 words."""
        return self.words.size

    def stream_bits(self, words: int) -> int:
        """Return how many bits are kept of that many words."""
        cycles, rest = divmod(words, CYCLE)
        return cycles * self.rate + int(np.searchsorted(self.words, rest))

    def words_for(self, bits: int) -> int:
        """Return how many words in a row always hold at least that many kept bits."""
        cycles = bits // self.rate + 2
        kept = np.tile(np.bincount(self.words, minlength=CYCLE), cycles)
        before = np.concatenate([[0], np.cumsum(kept)])
        return max(int(np.searchsorted(before, before[start] + bits)) - start for start in range(CYCLE))


def full_rate(rate: int) -> int:
    """Return the smallest power of two that is no less than a rate."""
    return 1 << (rate - 1).bit_length()


def pattern(rate: int) -> Pattern:
    """Return the pattern of a rate from 1 to 128: evenly spread bits of that of its ``full_rate``."""
    assert 1 <= rate <= MAX_RATE
    full = full_rate(rate)
    slots = np.arange(full, dtype=np.int64) * (MAX_RATE // full)
    kept = slots[np.arange(rate, dtype=np.int64) * full // rate]
    return Pattern(kept // 2, (kept % 2).astype(np.uint8))


def gram_hashes(hashes: Hashes, begins: Places) -> Hashes:
    """Return the hash of each word with the two before it; a document that begins at a word has none before it."""
    one, two = np.zeros_like(hashes), np.zeros_like(hashes)
    one[1:], two[2:] = hashes[:-1], hashes[:-2]
    begins = begins[begins < hashes.size]
    one[begins] = two[begins] = 0
    two[begins[begins + 1 < hashes.size] + 1] = 0
    return mix(hashes + one * FACTORS[0] + two * FACTORS[1])


def codes_of(grams: Hashes) -> Codes:
    """Return the two bits of each."""
    codes: Codes = (grams >> np.uint64(62)).astype(np.uint8)
    return codes
