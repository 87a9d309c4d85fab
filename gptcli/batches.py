"""Batches of training and validation windows, drawn from the tokens of one split.

Training windows come without replacement in an order that (seed, epoch) fixes, so a position of two numbers
resumes them exactly. Nothing here knows files, tokenizers or torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gptcli.errors import CorpusError
from gptcli.shards import SMALL_BYTES, TokenArray

Int64 = npt.NDArray[np.int64]
NOT_SCORED = -1


class Tokens(Protocol):
    """One long sequence of tokens, on disk (``shards.TokenReader``) or in memory (``shards.ArrayTokens``)."""

    @property
    def nbytes(self) -> int:
        """Bytes the tokens take."""

    def __len__(self) -> int: ...

    def read(self, start: int, count: int) -> TokenArray:
        """Return ``count`` tokens from ``start`` on, 1-D."""


class Batch(NamedTuple):
    """Windows of tokens and what follows each of them."""

    inputs: Int64
    """(B, T)"""
    targets: Int64
    """(B, T); -1 where a position is not scored."""


class BatchStream:
    """An endless stream of training batches; every window of an epoch comes exactly once.

    Epoch ``e`` cuts the tokens into windows of ``block_size`` from an offset of its own and shuffles them, both
    drawn from ``default_rng([seed, e])``; a batch goes over into the next epoch where one ends. ``epoch`` and
    ``index`` are an earlier stream's ``position``. Raises ``CorpusError`` when not one window fits, and when the
    position lies outside these tokens.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        block_size: int,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        index: int = 0,
    ) -> None:
        if len(tokens) <= block_size:
            largest = max(1, len(tokens) - 1)
            raise CorpusError(
                f"The train split has {len(tokens):,} tokens; a block_size of {block_size} needs at least "
                f"{block_size + 1:,}.",
                f"Add text to the corpus, or shorten the context: --set model.block_size={min(largest, 64)}",
            )
        self._tokens = tokens
        self._whole = np.array(tokens.read(0, len(tokens))) if tokens.nbytes <= SMALL_BYTES else None
        self._block_size, self._batch_size, self._seed = block_size, batch_size, seed
        self._steps = np.arange(block_size + 1)
        self._start_epoch(epoch)
        if not 0 <= index <= self._starts.size:
            raise CorpusError(
                f"Window {index} of epoch {epoch} does not exist: the epoch has {self._starts.size}. These tokens are "
                "not the ones the position was saved with.",
                "Train on the corpus and with the block_size of the run, or start a new run.",
            )
        self._index = index

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and index of the next window; a stream made with them goes on exactly here."""
        return self._epoch, self._index

    @property
    def windows_per_epoch(self) -> int:
        """Windows in this epoch; epochs differ by one at most, as their offsets do."""
        return int(self._starts.size)

    @property
    def epochs(self) -> float:
        """Passes over the tokens so far."""
        return self._epoch + self._index / self._starts.size

    def next_batch(self) -> Batch:
        """Return the next ``batch_size`` windows and move on."""
        starts: list[Int64] = []
        missing = self._batch_size
        while missing:
            if self._index == self._starts.size:
                self._start_epoch(self._epoch + 1)
            taken = self._starts[self._index : self._index + missing]
            self._index += taken.size
            missing -= taken.size
            starts.append(taken.astype(np.int64) * self._block_size + self._offset)
        rows = self._gather(np.concatenate(starts))
        return Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]))

    def _start_epoch(self, epoch: int) -> None:
        """Draw the epoch's offset and order; ``_starts`` counts windows, in four bytes to keep 10 G tokens cheap."""
        rng = np.random.default_rng([self._seed, epoch])
        n_targets = len(self._tokens) - 1
        self._offset = int(rng.integers(min(self._block_size, n_targets - self._block_size + 1)))
        n_windows = (n_targets - self._offset) // self._block_size
        self._starts: npt.NDArray[np.uint32] = rng.permutation(np.arange(n_windows, dtype=np.uint32))
        self._epoch, self._index = epoch, 0

    def _gather(self, starts: Int64) -> Int64:
        """Return the windows that begin at ``starts`` (B,) with the token after each: (B, T + 1)."""
        if self._whole is not None:
            gathered: Int64 = self._whole[starts[:, None] + self._steps].astype(np.int64)
            return gathered
        rows = np.empty((starts.size, self._steps.size), np.int64)
        for row, start in zip(rows, starts, strict=True):
            row[:] = self._tokens.read(int(start), self._steps.size)
        return rows


def eval_batches(tokens: Tokens, *, block_size: int, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """Yield non-overlapping windows in order, in which every token but the first is a target exactly once.

    ``limit`` scores only the first that many targets. The last window is padded (inputs 0, targets -1) and the last
    batch has as many rows as are left. Raises ``CorpusError`` when there are fewer than two tokens.
    """
    if len(tokens) < 2:
        raise CorpusError(
            "The val split has fewer than 2 tokens, so there is nothing to score.",
            "Add text to the corpus, or set more of it apart: --set data.val_fraction=0.2",
        )
    n_targets = min(len(tokens) - 1, len(tokens) if limit is None else limit)
    for start in range(0, n_targets, batch_size * block_size):
        count = min(batch_size * block_size, n_targets - start)
        chunk = tokens.read(start, count + 1)
        yield Batch(_windows(chunk[:-1], block_size, 0), _windows(chunk[1:], block_size, NOT_SCORED))


def _windows(chunk: npt.NDArray[Any], block_size: int, fill: int) -> Int64:
    rows = np.full((-(-chunk.size // block_size), block_size), fill, np.int64)
    rows.reshape(-1)[: chunk.size] = chunk
    return rows
