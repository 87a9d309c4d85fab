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
from gptcli.shards import SMALL_BYTES, Mask, TokenArray

Int64 = npt.NDArray[np.int64]
NOT_SCORED = -1
# Tokens whose mask is looked at together.
MASK_TOKENS = 4 * 1024 * 1024


class Tokens(Protocol):
    """One long sequence of tokens, on disk (``shards.TokenReader``) or in memory (``shards.ArrayTokens``)."""

    @property
    def nbytes(self) -> int:
        """Bytes the tokens take."""

    def __len__(self) -> int: ...

    def read(self, start: int, count: int) -> TokenArray:
        """Return ``count`` tokens from ``start`` on, 1-D."""

    def scored(self, start: int, count: int) -> Mask | None:
        """Return which of ``count`` tokens from ``start`` on are scored, 1-D; None where every token is."""


class Batch(NamedTuple):
    """Windows of tokens and what follows each of them."""

    inputs: Int64
    """(B, T)"""
    targets: Int64
    """(B, T); -1 where a position is not scored."""


class BatchStream:
    """An endless stream of training batches; every window of an epoch comes exactly once.

    Epoch ``e`` cuts the tokens into windows of ``block_size`` from an offset of its own and shuffles them, both
    drawn from ``default_rng([seed, e])``; a batch goes over into the next epoch where one ends. Windows in which no
    target is scored, as inside a long question, are then struck from the shuffled ones, which tokens, seed and epoch
    decide as well. ``epoch`` and ``index`` are an earlier stream's ``position``. Raises ``CorpusError`` when not one
    window fits, when nothing is scored, and when the position lies outside these tokens.
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
        _check_scored(tokens, "train")
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
    def block_size(self) -> int:
        """Tokens of a window."""
        return self._block_size

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and index of the next window; a stream made with them goes on exactly here."""
        return self._epoch, self._index

    @property
    def windows_per_epoch(self) -> int:
        """Windows in this epoch; epochs differ a little, as their offsets do."""
        return int(self._starts.size)

    @property
    def epochs(self) -> float:
        """Passes over the tokens so far."""
        return self._epoch + self._index / max(1, self._starts.size)

    def recut(self, block_size: int, batch_size: int) -> BatchStream:
        """Return a stream of other windows that goes on at the same share of the epoch, to the window before."""
        other = BatchStream(
            self._tokens, block_size=block_size, batch_size=batch_size, seed=self._seed, epoch=self._epoch
        )
        other._index = self._index * other.windows_per_epoch // max(1, self.windows_per_epoch)
        return other

    def next_batch(self, rank: int = 0, world_size: int = 1) -> Batch:
        """Return the next ``batch_size`` windows and move on; of several processes, each its own part of them."""
        starts: list[Int64] = []
        missing = self._batch_size
        while missing:
            if self._index == self._starts.size:
                self._start_epoch(self._epoch + 1)
            taken = self._starts[self._index : self._index + missing]
            self._index += taken.size
            missing -= taken.size
            starts.append(taken.astype(np.int64) * self._block_size + self._offset)
        each = self._batch_size // world_size
        chosen = np.concatenate(starts)[rank * each : (rank + 1) * each]
        rows = self._gather(chosen)
        targets = rows[:, 1:].copy()
        for row, start in zip(targets, chosen, strict=True):
            scored = self._tokens.scored(int(start) + 1, self._block_size)
            if scored is None:
                break
            row[~scored] = NOT_SCORED
        return Batch(np.ascontiguousarray(rows[:, :-1]), targets)

    def _start_epoch(self, epoch: int) -> None:
        """Draw the epoch's offset and order; ``_starts`` counts windows, in four bytes to keep 10 G tokens cheap."""
        rng = np.random.default_rng([self._seed, epoch])
        n_targets = len(self._tokens) - 1
        self._offset = int(rng.integers(min(self._block_size, n_targets - self._block_size + 1)))
        n_windows = (n_targets - self._offset) // self._block_size
        starts: npt.NDArray[np.uint32] = rng.permutation(np.arange(n_windows, dtype=np.uint32))
        holding = _holding_scored(self._tokens, self._offset + 1, n_windows, self._block_size)
        self._starts = starts if holding is None else starts[holding[starts]]
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
    """Yield non-overlapping windows in order, in which every scored token but the first is a target exactly once.

    ``limit`` scores only the first that many targets. The last window is padded (inputs 0, targets -1), windows in
    which nothing is scored are left out, and so a batch may have fewer rows. Raises ``CorpusError`` when there are
    fewer than two tokens, and when none of them is scored.
    """
    if len(tokens) < 2:
        raise CorpusError(
            "The val split has fewer than 2 tokens, so there is nothing to score.",
            "Add text to the corpus, or set more of it apart: --set data.val_fraction=0.2",
        )
    _check_scored(tokens, "val")
    left = len(tokens) if limit is None else limit
    for start in range(0, len(tokens) - 1, batch_size * block_size):
        count = min(batch_size * block_size, len(tokens) - 1 - start)
        mask = tokens.scored(start + 1, count)
        mask = np.ones(count, np.bool_) if mask is None else mask
        mask = mask & (np.cumsum(mask) <= left)
        if (n_scored := int(mask.sum())) == 0:
            continue
        left -= n_scored
        last = int(np.flatnonzero(mask)[-1]) + 1
        chunk = tokens.read(start, last + 1)
        targets = _windows(np.where(mask[:last], chunk[1:].astype(np.int64), NOT_SCORED), block_size, NOT_SCORED)
        rows = (targets != NOT_SCORED).any(axis=1)
        yield Batch(_windows(chunk[:-1], block_size, 0)[rows], targets[rows])
        if left == 0:
            return


def _check_scored(tokens: Tokens, split: str) -> None:
    """Raise ``CorpusError`` when no target is scored: the windows that hold one would be looked for in vain."""
    starts = range(1, len(tokens), MASK_TOKENS)
    masks = (tokens.scored(start, min(MASK_TOKENS, len(tokens) - start)) for start in starts)
    if starts and not any(mask is None or bool(mask.any()) for mask in masks):
        raise CorpusError(
            f"The {split} split has no answer to be scored.",
            "Add conversations to the corpus, or cut it elsewhere: gptcli prepare CORPUS --split-at 0.8",
        )


def _holding_scored(tokens: Tokens, first: int, n_windows: int, block_size: int) -> Mask | None:
    """Return which windows, whose targets begin at ``first``, have one that is scored; None where all are."""
    if tokens.scored(0, 0) is None:
        return None
    together = max(1, MASK_TOKENS // block_size)
    holding = np.empty(n_windows, np.bool_)
    for window in range(0, n_windows, together):
        count = min(together, n_windows - window)
        mask = tokens.scored(first + window * block_size, count * block_size)
        assert mask is not None
        holding[window : window + count] = mask.reshape(count, block_size).any(axis=1)
    return holding


def _windows(chunk: npt.NDArray[Any], block_size: int, fill: int) -> Int64:
    rows = np.full((-(-chunk.size // block_size), block_size), fill, np.int64)
    rows.reshape(-1)[: chunk.size] = chunk
    return rows
