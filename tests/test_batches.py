"""Training windows come once an epoch in an order that can be resumed; evaluation scores every token once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.batches import Batch, BatchStream, eval_batches
from gptcli.errors import CorpusError
from gptcli.shards import ShardWriter, TokenReader


def reader(folder: Path, n_tokens: int, shard_tokens: int = 1000) -> TokenReader:
    """Tokens that are their own positions, so that a window tells where it was cut."""
    with ShardWriter(folder, "train", "uint16", shard_tokens=shard_tokens) as writer:
        writer.write(np.arange(n_tokens))
    return TokenReader(folder, writer.shards, "uint16")


@pytest.fixture
def tokens(tmp_path: Path) -> TokenReader:
    return reader(tmp_path, 500)


def stream(tokens: TokenReader, *, seed: int = 1, epoch: int = 0, index: int = 0, batch_size: int = 3) -> BatchStream:
    return BatchStream(tokens, block_size=8, batch_size=batch_size, seed=seed, epoch=epoch, index=index)


def as_lists(batch: Batch) -> tuple[list[list[int]], list[list[int]]]:
    return batch.inputs.tolist(), batch.targets.tolist()


@settings(deadline=None)
@given(
    n_tokens=st.integers(2, 300),
    block_size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 5),
    shard_tokens=st.integers(20, 400),
)
def test_every_window_of_an_epoch_comes_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, n_tokens: int, block_size: int, seed: int, epoch: int, shard_tokens: int
) -> None:
    block_size = min(block_size, n_tokens - 1)
    tokens = reader(tmp_path_factory.mktemp("tokens"), n_tokens, shard_tokens)
    batches = BatchStream(tokens, block_size=block_size, batch_size=1, seed=seed, epoch=epoch)
    starts = []
    for _ in range(batches.windows_per_epoch):
        inputs, targets = batches.next_batch()
        assert (np.diff(np.append(inputs[0], targets[0, -1])) == 1).all()
        assert (targets == inputs + 1).all()
        starts.append(int(inputs[0, 0]))
    assert batches.epochs == epoch + 1
    offset = min(starts)
    assert sorted(starts) == list(range(offset, n_tokens - block_size, block_size))
    assert offset < block_size


def test_a_stream_that_starts_from_a_position_goes_on_with_the_same_batches(tokens: TokenReader) -> None:
    original = stream(tokens)
    for _ in range(50):
        epoch, index = original.position
        resumed = stream(tokens, epoch=epoch, index=index)
        following = stream(tokens, epoch=epoch, index=index)
        expected = as_lists(original.next_batch())
        assert as_lists(resumed.next_batch()) == expected
        assert resumed.position == original.position
        following.next_batch()
        assert as_lists(following.next_batch()) == as_lists(resumed.next_batch())


def test_a_batch_goes_over_into_the_next_epoch(tokens: TokenReader) -> None:
    n_windows = stream(tokens).windows_per_epoch
    batches = stream(tokens, index=n_windows - 1)
    inputs, _ = batches.next_batch()
    assert inputs.shape == (3, 8)
    assert batches.position == (1, 2)
    assert as_lists(Batch(inputs[1:], inputs[1:] + 1)) == as_lists(stream(tokens, epoch=1, batch_size=2).next_batch())


def test_a_batch_may_hold_several_epochs_of_a_tiny_corpus(tmp_path: Path) -> None:
    batches = stream(reader(tmp_path, 20), batch_size=10)
    assert batches.next_batch().inputs.shape == (10, 8)
    assert batches.epochs >= 5


def test_epochs_and_seeds_differ_in_order_and_offset(tokens: TokenReader) -> None:
    orders = [as_lists(stream(tokens, epoch=e, batch_size=50).next_batch()) for e in range(5)]
    orders += [as_lists(stream(tokens, seed=seed, batch_size=50).next_batch()) for seed in range(2, 7)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert len({min(map(min, inputs)) % 8 for inputs, _ in orders}) > 2


def test_batches_are_contiguous_int64(tokens: TokenReader) -> None:
    for batch in (stream(tokens).next_batch(), next(eval_batches(tokens, block_size=8, batch_size=3))):
        for part in batch:
            assert part.dtype == np.int64
            assert part.flags.c_contiguous


def test_windows_read_from_disk_are_those_read_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = reader(tmp_path, 500, shard_tokens=30)
    in_memory = [as_lists(stream(tokens, index=i).next_batch()) for i in range(20)]
    monkeypatch.setattr("gptcli.batches.SMALL_BYTES", 0)
    assert [as_lists(stream(tokens, index=i).next_batch()) for i in range(20)] == in_memory


def test_a_corpus_shorter_than_one_window_is_refused_with_its_size(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="8 tokens; a block_size of 8 needs at least 9") as caught:
        stream(reader(tmp_path, 8))
    assert "--set model.block_size=7" in caught.value.hint


def test_a_corpus_of_exactly_one_window_works(tmp_path: Path) -> None:
    assert stream(reader(tmp_path, 9), batch_size=1).next_batch().inputs.tolist() == [list(range(8))]


def test_a_position_outside_the_tokens_is_refused(tokens: TokenReader) -> None:
    with pytest.raises(CorpusError, match="Window 1000 of epoch 2 does not exist"):
        stream(tokens, epoch=2, index=1000)


@settings(deadline=None)
@given(
    n_tokens=st.integers(2, 200),
    block_size=st.integers(1, 40),
    batch_size=st.integers(1, 5),
    limit=st.none() | st.integers(1, 250),
)
def test_evaluation_scores_every_token_but_the_first_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, n_tokens: int, block_size: int, batch_size: int, limit: int | None
) -> None:
    tokens = reader(tmp_path_factory.mktemp("tokens"), n_tokens, 60)
    scored: list[int] = []
    for inputs, targets in eval_batches(tokens, block_size=block_size, batch_size=batch_size, limit=limit):
        assert inputs.shape == targets.shape
        assert inputs.shape[0] <= batch_size
        assert inputs.shape[1] == block_size
        real = targets != -1
        assert (inputs[real] + 1 == targets[real]).all()
        assert (inputs[~real] == 0).all()
        scored += targets[real].tolist()
    assert scored == list(range(1, n_tokens))[:limit]


def test_evaluation_without_two_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="fewer than 2 tokens"):
        next(eval_batches(reader(tmp_path, 1), block_size=8, batch_size=2))
