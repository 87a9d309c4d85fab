from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gptcli.config import ModelConfig
from gptcli.device import Setup
from gptcli.evaluate import evaluate
from gptcli.model import GPT
from gptcli.shards import ArrayTokens, Mask, TokenArray, TokenDataset
from gptcli.tokenizer import byte_lengths

CPU = Setup(torch.device("cpu"), torch.float32, compile=False, reason="")


@pytest.fixture
def model(tiny_dataset: TokenDataset) -> GPT:
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=tiny_dataset.manifest.vocab_size))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def test_every_token_but_the_first_is_scored_once_in_windows_that_do_not_overlap(
    model: GPT, tiny_dataset: TokenDataset
) -> None:
    ids = np.asarray(tiny_dataset.val.read(0, len(tiny_dataset.val))).astype(np.int64)
    losses: list[float] = []
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 16):
            window = torch.from_numpy(ids[start : start + 17])
            logp = model(window[None, :-1]).log_softmax(-1)[0]
            losses += (-logp[torch.arange(len(window) - 1), window[1:]]).tolist()
    result = evaluate(model, tiny_dataset.val, byte_lengths(tiny_dataset.tokenizer()), CPU)
    assert result.n_tokens == len(ids) - 1 == len(losses)
    assert result.val_loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.val_loss))


def test_bits_per_byte_counts_the_bytes_behind_the_scored_tokens(model: GPT, tiny_dataset: TokenDataset) -> None:
    tokenizer = tiny_dataset.tokenizer()
    ids = np.asarray(tiny_dataset.val.read(0, len(tiny_dataset.val)))
    n_bytes = len(tokenizer.decode(ids[1:].tolist()).encode())
    result = evaluate(model, tiny_dataset.val, byte_lengths(tokenizer), CPU)
    assert result.bits_per_byte == pytest.approx(result.val_loss * result.n_tokens / math.log(2) / n_bytes)


def test_the_standard_error_is_that_of_window_means(model: GPT, tiny_dataset: TokenDataset) -> None:
    whole = evaluate(model, tiny_dataset.val, byte_lengths(tiny_dataset.tokenizer()), CPU, limit=16 * 100)
    ids = torch.from_numpy(np.asarray(tiny_dataset.val.read(0, 1601)).astype(np.int64))
    with torch.no_grad():
        losses = model(ids[:-1].view(100, 16), ids[1:].view(100, 16), reduction="none").double().mean(1)
    assert whole.n_tokens == 1600
    assert whole.val_loss_stderr == pytest.approx(float(losses.std(correction=1)) / 10, rel=1e-5)


def test_evaluating_twice_is_bitwise_equal_and_leaves_the_model_training(
    model: GPT, tiny_dataset: TokenDataset
) -> None:
    lengths = byte_lengths(tiny_dataset.tokenizer())
    model.train()
    assert evaluate(model, tiny_dataset.val, lengths, CPU) == evaluate(model, tiny_dataset.val, lengths, CPU)
    assert model.training


def test_one_window_still_has_a_standard_error(model: GPT, tiny_dataset: TokenDataset) -> None:
    result = evaluate(model, tiny_dataset.val, byte_lengths(tiny_dataset.tokenizer()), CPU, limit=16)
    ids = torch.from_numpy(np.asarray(tiny_dataset.val.read(0, 17)).astype(np.int64))
    with torch.no_grad():
        losses = model(ids[None, :-1], ids[None, 1:], reduction="none").double()
    assert result.val_loss_stderr == pytest.approx(float(losses.std(correction=1)) / 4, rel=1e-5)


class Answers(ArrayTokens):
    """The tokens of a text of which some are answers."""

    def __init__(self, ids: TokenArray, mask: Mask) -> None:
        super().__init__(ids)
        self.mask = mask

    def scored(self, start: int, count: int) -> Mask | None:
        return self.mask[start : start + count]


def test_of_conversations_the_answers_alone_are_in_the_figures(model: GPT, tiny_dataset: TokenDataset) -> None:
    tokenizer = tiny_dataset.tokenizer()
    ids = np.asarray(tiny_dataset.val.read(0, 401))
    mask = np.zeros(401, np.bool_)
    mask[[0, 3, 4, 5, 60, 61, 200, 201, 202, 399]] = True  # most windows of 16 hold no answer
    with torch.no_grad():
        windows = torch.from_numpy(ids[:400].astype(np.int64)).view(25, 16)
        targets = torch.from_numpy(ids[1:].astype(np.int64)).view(25, 16)
        losses = model(windows, targets, reduction="none").double().flatten()[torch.from_numpy(mask[1:])]
    result = evaluate(model, Answers(ids, mask), byte_lengths(tokenizer), CPU)
    assert result.n_tokens == 9, "the first token is no target"
    assert result.val_loss == pytest.approx(float(losses.mean()), rel=1e-5)
    n_bytes = len(tokenizer.decode(ids[1:][mask[1:]].tolist()).encode())
    assert result.bits_per_byte == pytest.approx(float(losses.sum()) / math.log(2) / n_bytes, rel=1e-5)
    first = evaluate(model, Answers(ids, mask), byte_lengths(tokenizer), CPU, limit=4)
    assert first.n_tokens == 4
    assert first.val_loss == pytest.approx(float(losses[:4].mean()), rel=1e-5)


def test_the_standard_error_takes_windows_that_hold_an_answer_for_clusters(
    model: GPT, tiny_dataset: TokenDataset
) -> None:
    ids = np.asarray(tiny_dataset.val.read(0, 401))
    mask = np.zeros(401, np.bool_)
    mask[1:33] = mask[209:225] = True  # windows 0, 1 and 13, whole
    result = evaluate(model, Answers(ids, mask), byte_lengths(tiny_dataset.tokenizer()), CPU)
    chosen = torch.from_numpy(np.stack([ids[start : start + 17] for start in (0, 16, 208)]).astype(np.int64))
    with torch.no_grad():
        losses = model(chosen[:, :-1], chosen[:, 1:], reduction="none").double().mean(1)
    assert result.val_loss_stderr == pytest.approx(float(losses.std(correction=1)) / math.sqrt(3), rel=1e-5)
