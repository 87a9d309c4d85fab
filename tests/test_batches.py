"""Training windows come once an epoch in an order that can be resumed; evaluation scores every token once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.batches import Batch, BatchStream, eval_batches
from gptcli.errors import CorpusError
from gptcli.shard_writer import ShardWriter
from gptcli.shards import TokenArray, TokenReader


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


def test_a_stream_that_is_cut_anew_goes_on_at_its_share_of_the_epoch(tokens: TokenReader) -> None:
    batches = stream(tokens, epoch=2, index=30, batch_size=2)
    longer = batches.recut(16, 1)
    assert longer.next_batch().inputs.shape == (1, 16)
    assert longer.position == (2, 30 * longer.windows_per_epoch // batches.windows_per_epoch + 1)
    assert longer.epochs == pytest.approx(batches.epochs + 1 / longer.windows_per_epoch, abs=1 / 31)


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


class Masked:
    """Tokens that are their own positions, of which some are scored."""

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self.mask = mask
        self.ids = np.arange(mask.size, dtype=np.uint16)
        self.nbytes = self.ids.nbytes

    def __len__(self) -> int:
        return self.ids.size

    def read(self, start: int, count: int) -> TokenArray:
        return self.ids[start : start + count]

    def scored(self, start: int, count: int) -> npt.NDArray[np.bool_] | None:
        return self.mask[start : start + count]


masks = st.lists(st.booleans(), min_size=9, max_size=200).map(np.array).filter(lambda mask: bool(mask[1:].any()))


@settings(deadline=None)
@given(mask=masks, seed=st.integers(0, 100), block_size=st.integers(1, 8))
def test_windows_of_conversations_hold_an_answer_and_score_nothing_else(
    mask: npt.NDArray[np.bool_], seed: int, block_size: int
) -> None:
    batches = BatchStream(Masked(mask), block_size=block_size, batch_size=1, seed=seed)
    every = BatchStream(Masked(np.ones(mask.size, np.bool_)), block_size=block_size, batch_size=1, seed=seed)
    expected = [every.next_batch() for _ in range(every.windows_per_epoch)]
    kept = [batch for batch in expected if mask[batch.targets].any()]
    assert batches.windows_per_epoch == len(kept)
    for ordinary in kept:
        batch = batches.next_batch()
        assert (batch.inputs == ordinary.inputs).all()
        assert (batch.targets == np.where(mask[ordinary.targets], ordinary.targets, -1)).all()
    batch = batches.next_batch()
    assert batches.position[0] >= 1
    assert (batch.targets >= 0).any(), "an epoch whose windows hold no answer is passed over"


@settings(deadline=None)
@given(mask=masks, skipped=st.integers(0, 30))
def test_a_stream_over_conversations_goes_on_from_its_position(mask: npt.NDArray[np.bool_], skipped: int) -> None:
    first = BatchStream(Masked(mask), block_size=8, batch_size=3, seed=5)
    for _ in range(skipped):
        first.next_batch()
    epoch, index = first.position
    second = BatchStream(Masked(mask), block_size=8, batch_size=3, seed=5, epoch=epoch, index=index)
    for _ in range(5):
        assert as_lists(first.next_batch()) == as_lists(second.next_batch())


@settings(deadline=None)
@given(mask=masks, block_size=st.integers(1, 9), batch_size=st.integers(1, 4), limit=st.none() | st.integers(1, 50))
def test_evaluation_scores_every_token_of_an_answer_once(
    mask: npt.NDArray[np.bool_], block_size: int, batch_size: int, limit: int | None
) -> None:
    found: list[int] = []
    for inputs, targets in eval_batches(Masked(mask), block_size=block_size, batch_size=batch_size, limit=limit):
        scored = targets >= 0
        assert scored.any(axis=1).all()
        assert (targets[scored] == inputs[scored] + 1).all()
        # What stands before a scored target is read as it is, from the beginning of its window.
        for row, flags in zip(inputs, scored, strict=True):
            read = row[: np.flatnonzero(flags)[-1] + 1]
            assert (np.diff(read) == 1).all()
            assert read[0] % block_size == 0
        found += targets[scored].tolist()
    expected = (np.flatnonzero(mask[1:]) + 1).tolist()
    assert found == expected[:limit]


def test_tokens_without_an_answer_are_refused() -> None:
    nothing = Masked(np.arange(40) == 0)  # the first token is never a target
    with pytest.raises(CorpusError, match="The train split has no answer to be scored") as caught:
        BatchStream(nothing, block_size=8, batch_size=1, seed=0)
    assert "gptcli prepare" in caught.value.hint
    with pytest.raises(CorpusError, match="The val split has no answer to be scored"):
        next(eval_batches(nothing, block_size=8, batch_size=1))


def test_ordinary_tokens_come_in_the_order_of_numpy_s_permutation_and_that_alone(tokens: TokenReader) -> None:
    batches = stream(tokens, seed=3, epoch=2)
    rng = np.random.default_rng([3, 2])
    offset = int(rng.integers(8))
    order = rng.permutation(np.arange((499 - offset) // 8, dtype=np.uint32)).astype(np.int64) * 8 + offset
    found = np.concatenate([batches.next_batch().inputs[:, 0] for _ in range(order.size // 3)])
    assert (found == order[: found.size]).all()


# Draws batches of far more tokens than memory holds, and tells the peak of its own memory.
MEASURE = """
import sys
from pathlib import Path
from gptcli.batches import BatchStream
from gptcli.shards import HEADER_BYTES, SHARD_TOKENS, Shard, TokenReader, shard_header
folder, shards = Path(sys.argv[1]), []
for number in range(86):
    shard = Shard(f"train-{number:05}.bin", SHARD_TOKENS, "0" * 64)
    with (folder / shard.name).open("wb") as file:
        file.write(shard_header("uint16", SHARD_TOKENS))
        file.truncate(HEADER_BYTES + 2 * SHARD_TOKENS)
    shards.append(shard)
tokens = TokenReader(folder, shards, "uint16", 50257)
stream = BatchStream(tokens, block_size=1024, batch_size=4, seed=1)
assert all(stream.next_batch().inputs.shape == (4, 1024) for _ in range(20))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(len(tokens), peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="files with holes, and the peak of memory as Linux tells it")
def test_nine_billion_tokens_are_drawn_from_in_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    n_tokens, peak_kb = map(int, done.stdout.split())
    assert n_tokens > 9e9
    assert peak_kb < 300_000, "the tokens are 18 GB"
