"""What one pass over a corpus finds: which documents there are twice, how long they are, where to begin reading.

Spans of a corpus are surveyed apart, in any number of processes, and added up in their order. About 30 bytes a
document are held at the most, one afterwards. Knows nothing of how a corpus is split.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.documents import ContentDigest, Document, Span, in_val

TRAIN, VAL, LEFT_OUT = 0, 1, 2
DIGEST_BYTES = 16
# Characters of text between two places where reading may begin.
STRETCH_CHARS = 1024 * 1024
# Digests are sorted in so many shares, one at a time.
SHARES = 16

Ints = npt.NDArray[np.int64]


class Found(NamedTuple):
    """What a span of whole documents holds."""

    digests: npt.NDArray[np.uint8]
    """Of each document `DIGEST_BYTES`."""
    sides: npt.NDArray[np.uint8]
    """Of each document `VAL` where its hash gives it to val, else `TRAIN`."""
    sizes: Ints
    """Of each document its characters."""
    lengths: Ints
    """Ordinals in the span, and characters, of documents stored in several parts, (n, 2)."""
    begins: Ints
    """Where reading may begin: byte, line, documents begun before, characters of a document that goes on, (n, 4)."""
    answers: int


def survey_documents(
    items: Iterable[tuple[Span, Document]], val_fraction: float, stretch_chars: int = STRETCH_CHARS
) -> Found:
    """Read every document of a span once; each comes with its line."""
    digests, sides, sizes = bytearray(), bytearray(), array("q")
    lengths: dict[int, int] = {}
    begins: list[tuple[int, int, int, int]] = []
    running = ContentDigest()
    answers, since = 0, stretch_chars
    for line, item in items:
        answers += len(item.answers)
        begun = item.part == 0 or not sizes
        if since >= stretch_chars and (begun or sizes[-1]):
            begins.append((line.start, line.line, len(sizes), 0 if begun else sizes[-1]))
            since = 0
        since += len(item.text)
        if begun:
            digests += running.digest() if sizes else b""
            running = ContentDigest().update(item.text)
            sides.append(VAL if in_val(running.digest(), val_fraction) else TRAIN)
            sizes.append(len(item.text))
        else:
            running.update(item.text)
            sizes[-1] += len(item.text)
            lengths[len(sizes) - 1] = sizes[-1]
    digests += running.digest() if sizes else b""
    return Found(
        np.frombuffer(digests, np.uint8),
        np.frombuffer(sides, np.uint8),
        np.frombuffer(sizes, np.int64),
        np.array(list(lengths.items()), np.int64).reshape(-1, 2),
        np.array(begins, np.int64).reshape(-1, 4),
        answers,
    )


class Survey:
    """All spans of a corpus together, in their order.

    ``documents``, ``characters`` and ``val_characters`` are without duplicates, and known when these are left out.
    """

    def __init__(self) -> None:
        self.documents = self.characters = self.val_characters = self.answers = 0
        self.sides = bytearray()
        self.lengths: dict[int, int] = {}
        self._digests = bytearray()
        self._sizes = array("q")
        self._begins = array("q")

    def add(self, found: Found) -> None:
        """Add what the next span holds."""
        begun = len(self._sizes)
        self.lengths.update((begun + ordinal, length) for ordinal, length in found.lengths.tolist())
        for byte, line, ordinal, of_document in found.begins.tolist():
            self._begins.extend((byte, line, begun + ordinal - 1, of_document))
        self._digests += found.digests.tobytes()
        self._sizes.frombytes(found.sizes.tobytes())
        self.sides += found.sides.tobytes()
        self.answers += found.answers

    def leave_out_duplicates(self) -> None:
        """Mark every document that has the text of an earlier one, and count the others."""
        sides = np.frombuffer(self.sides, np.uint8)
        sides[_again(np.frombuffer(self._digests, np.uint8).reshape(-1, DIGEST_BYTES))] = LEFT_OUT
        self._digests = bytearray()
        sizes = np.frombuffer(self._sizes, np.int64)
        self.documents = int(np.count_nonzero(sides != LEFT_OUT))
        self.characters = int(sizes.sum(where=sides != LEFT_OUT))
        self.val_characters = int(sizes.sum(where=sides == VAL))

    def begins(self) -> Ints:
        """Return where reading may begin, a row each: byte, line, ordinal of the last document begun before, characters
        of all kept text before, characters of its own document before, (n, 5)."""
        sides, sizes = np.frombuffer(self.sides, np.uint8), np.frombuffer(self._sizes, np.int64)
        rows = np.frombuffer(self._begins, np.int64).reshape(-1, 4)
        kept = np.zeros(len(rows), np.int64)
        total = seen = 0
        for number, (_, _, ordinal, of_document) in enumerate(rows.tolist()):
            # A document that goes on counts as far as it has come.
            whole = ordinal if of_document else ordinal + 1
            total += int(sizes[seen:whole].sum(where=sides[seen:whole] != LEFT_OUT))
            seen = whole
            kept[number] = total + (of_document if of_document and sides[ordinal] != LEFT_OUT else 0)
        return np.column_stack([rows[:, :3], kept, rows[:, 3]])


def _again(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Say of each digest whether it has come before."""
    again = np.zeros(len(digests), np.bool_)
    for share in range(SHARES):
        places = np.flatnonzero(digests[:, 0] % SHARES == share)
        found: npt.NDArray[Any] = digests[places].view(f"S{DIGEST_BYTES}").ravel()
        first = np.unique(found, return_index=True)[1]
        again[places] = True
        again[places[first]] = False
    return again
