"""The sentences of the diagnosis: each names the fact, the key and the value that would change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gptcli.batches import BatchStream
from gptcli.chat_template import ChatTemplate
from gptcli.config import ModelConfig, RunProfile, TrainConfig
from gptcli.diagnosis import Finding, diagnose
from gptcli.plan import count_parameters
from gptcli.profiles import override_path
from gptcli.shards import ArrayTokens, Conversations, DatasetManifest, SplitSummary
from gptcli.tokenizer import parse_name

# The numbers of tiny Shakespeare, by characters.
SHAKESPEARE = DatasetManifest(
    corpus="shakespeare",
    corpus_sha256="0" * 64,
    licence="public domain",
    tokenizer="char",
    fingerprint="0" * 16,
    vocab_size=65,
    dtype="uint16",
    split="position",
    split_reason="the text is cut at character 1,003,854 of 1,115,394, as asked for",
    val_fraction=0.1,
    split_at=0.9,
    duplicates_removed=0,
    created_at="2026-11-20T12:00:00+00:00",
    train=SplitSummary(1_003_854, 1_003_854, 1, ()),
    val=SplitSummary(111_540, 111_540, 1, ()),
)
# nanoGPT's baby GPT for a CPU on it, and the one for a GPU.
CPU = RunProfile(
    model=ModelConfig(n_layer=4, n_head=4, n_embd=128, block_size=64),
    train=TrainConfig(batch_size=12, max_steps=2000),
)
GPU = RunProfile(
    model=ModelConfig(n_layer=6, n_head=6, n_embd=384, block_size=256),
    train=TrainConfig(batch_size=64, max_steps=5000),
)


def manifest(*, train: int = 1_003_854, val: int = 111_540, **changes: Any) -> DatasetManifest:  # noqa: ANN401
    return replace(SHAKESPEARE, train=SplitSummary(train, train, 1, ()), val=SplitSummary(val, val, 1, ()), **changes)


def with_dropout(profile: RunProfile, dropout: float) -> RunProfile:
    return profile.model_copy(update={"model": profile.model.model_copy(update={"dropout": dropout})})


def with_steps(profile: RunProfile, max_steps: int) -> RunProfile:
    return profile.model_copy(update={"train": profile.train.model_copy(update={"max_steps": max_steps})})


def level(findings: tuple[Finding, ...], fragment: str) -> str:
    """The level of the one finding that says ``fragment``."""
    found = [finding for finding in findings if fragment in finding.text]
    assert len(found) == 1, f"{fragment!r} in {findings}"
    return found[0].level


def test_a_short_run_on_shakespeare_needs_no_warning() -> None:
    findings = diagnose(SHAKESPEARE, CPU)
    assert "warning" not in {finding.level for finding in findings}
    assert level(findings, "the train text is read 1.5 times") == "ok"
    assert level(findings, "1,743 windows of model.block_size 64") == "ok"


def test_tokens_per_parameter_are_counted_with_the_corpus_vocabulary() -> None:
    parameters = count_parameters(CPU.model.model_copy(update={"vocab_size": 65}))
    fact = f"1.2 for each of the model's {parameters:,} parameters where 20 would do"
    assert level(diagnose(SHAKESPEARE, CPU), f"{fact}; it reads them 1.5 times, too seldom") == "ok"
    assert level(diagnose(SHAKESPEARE, with_steps(CPU, 10_000)), f"{fact}, so it can learn them by heart") == "note"
    assert level(diagnose(manifest(train=30 * parameters), CPU), "30 for each") == "ok"


def test_82_epochs_without_dropout_are_warned_of_with_values_that_stay_below() -> None:
    findings = diagnose(SHAKESPEARE, GPU)
    text = "the train text is read 82 times without dropout; beyond 16 little is gained: set train.max_steps to 980"
    assert level(findings, text) == "warning"
    assert level(findings, "0.094 for each of the model's") == "warning"
    assert "warning" not in {
        finding.level for finding in diagnose(SHAKESPEARE, with_steps(with_dropout(GPU, 0.2), 980))
    }
    assert level(diagnose(SHAKESPEARE, with_steps(GPU, 980)), "the train text is read") == "note"


def test_dropout_in_a_run_of_one_epoch_is_called_useless() -> None:
    assert level(diagnose(SHAKESPEARE, with_dropout(CPU, 0.2)), "set model.dropout to 0.") == "note"


def test_a_run_that_does_not_read_all_of_the_text_gets_the_steps_that_would() -> None:
    findings = diagnose(SHAKESPEARE, with_steps(CPU, 200))
    assert level(findings, "0.15 times, less than once: set train.max_steps to 1,307 to read all of it") == "note"


@pytest.mark.parametrize("n_tokens", [64, 127, 200])
def test_a_split_shorter_than_a_window_gets_a_block_size_that_works(n_tokens: int) -> None:
    findings = diagnose(manifest(train=n_tokens), GPU)
    assert level(findings, "not one window of model.block_size 256") == "warning"
    block_size = int(findings[0].text.removesuffix(".").rsplit(" ", 1)[1])
    assert block_size >= 8
    tokens = ArrayTokens(np.arange(n_tokens, dtype=np.uint16))
    assert BatchStream(tokens, block_size=block_size, batch_size=2, seed=1).windows_per_epoch >= 7
    assert level(diagnose(manifest(val=n_tokens), GPU), "Val has") == "warning"


@pytest.mark.parametrize("n_tokens", [63, 9, 2])
def test_a_split_of_a_few_tokens_needs_text_and_no_tiny_block_size(n_tokens: int) -> None:
    (said,) = [f.text for f in diagnose(manifest(train=n_tokens), CPU) if "not one window" in f.text]
    assert said.endswith("and the token after it: add text.")


def test_few_val_windows_are_warned_of() -> None:
    few = manifest(val=1000, split="paragraph", split_at=None)
    assert level(diagnose(few, CPU), "16 windows of model.block_size 64, so val_loss will have a large") == "warning"
    assert level(diagnose(few, CPU), "set data.val_fraction to 0.2 or add text") == "warning"
    assert level(diagnose(manifest(val=65), CPU), "a single window") == "warning"


@pytest.mark.parametrize(("removed", "text"), [(1, "1 document was"), (1200, "1,200 documents were")])
def test_duplicates_are_named(removed: int, text: str) -> None:
    assert level(diagnose(manifest(duplicates_removed=removed), None), text) == "note"


@pytest.mark.parametrize(
    ("split", "split_at", "advice"),
    [
        ("document", None, "set data.split to paragraph"),
        ("paragraph", None, "set data.split_at to 0.9"),
        ("position", 0.9, "set data.split_at to another fraction"),
    ],
)
def test_an_odd_share_of_val_is_noted(split: str, split_at: float | None, advice: str) -> None:
    odd = manifest(train=700_000, val=300_000, split=split, split_at=split_at)
    assert level(diagnose(odd, None), "Val holds 30.0% of the tokens where 10% was asked for: ") == "note"
    assert level(diagnose(odd, None), advice) == "note"
    assert not diagnose(manifest(train=900_000, val=100_000, split=split, split_at=split_at), None)


def test_a_vocabulary_too_large_for_the_text_gets_a_smaller_one() -> None:
    book = manifest(train=91_919, val=8_887, tokenizer="gpt2", vocab_size=50_257)
    assert level(diagnose(book, None), "only 1.8 times on average, too rarely to learn them") == "warning"
    assert parse_name(diagnose(book, None)[0].text.removesuffix(".").rsplit(" ", 1)[1]) == ("bpe", 512)


def test_warnings_come_first_and_every_key_exists() -> None:
    cases = [
        (SHAKESPEARE, CPU),
        (SHAKESPEARE, GPU),
        (SHAKESPEARE, with_dropout(CPU, 0.1)),
        (SHAKESPEARE, with_steps(CPU, 10)),
        (manifest(train=50, val=10), CPU),
        (manifest(val=700, split="document", split_at=None, tokenizer="gpt2", vocab_size=50_257), GPU),
    ]
    for corpus, profile in cases:
        findings = diagnose(corpus, profile)
        levels = [finding.level for finding in findings]
        assert levels == sorted(levels, key=("warning", "note", "ok").index)
        for finding in findings:
            assert finding.text[0].isupper()
            assert finding.text.endswith(".")
            for word in finding.text.replace(",", " ").replace(";", " ").split():
                if word.startswith(("model.", "data.", "train.")):
                    override_path(word.rstrip("."))


def talks(*, median: int, most: int, mean: int = 40, texts: int = 0) -> DatasetManifest:
    """The manifest of 900 conversations, and of ordinary texts of as many tokens beside them."""
    tokens = 900 * mean
    found = Conversations(900, 1_200, tokens // 3, median, most, most + 50)
    train = SplitSummary(tokens * (2 if texts else 1), 4 * tokens, 900 + texts, (), found)
    talking = manifest(chat=ChatTemplate(), split="document", split_at=None, tokenizer="bpe:512", vocab_size=512)
    return replace(talking, train=train)


def with_block_size(block_size: int) -> RunProfile:
    return CPU.model_copy(update={"model": CPU.model.model_copy(update={"block_size": block_size})})


def about_cuts(corpus: DatasetManifest, block_size: int) -> Finding:
    findings = diagnose(corpus, with_block_size(block_size))
    (finding,) = [f for f in findings if "onversations" in f.text and "model.block_size" in f.text]
    return finding


def test_conversations_and_what_of_them_is_scored_are_said() -> None:
    findings = diagnose(talks(median=40, most=60), None)
    (said,) = [f.text for f in findings if "answers" in f.text]
    assert said.startswith("Train has 900 conversations with 1,200 answers: 12,000 of its 36,000 tokens (33%) are")


@pytest.mark.parametrize(
    ("median", "most", "block_size", "level", "said"),
    [
        (40, 60, 256, "ok", "at most 60 tokens (the longest 110), and windows of model.block_size 256, which begin"),
        (40, 60, 64, "note", "which begin anywhere, cut about 62% of them: set model.block_size to 256"),
        (40, 100, 64, "note", "which begin anywhere, cut about 62% of them: set model.block_size to 512"),
        (80, 100, 64, "warning", "Half of the conversations have more than 80 tokens, and model.block_size 64 cuts"),
    ],
)
def test_a_block_size_is_held_against_the_lengths_of_conversations(
    median: int, most: int, block_size: int, level: str, said: str
) -> None:
    corpus = talks(median=median, most=most)
    finding = about_cuts(corpus, block_size)
    assert finding.level == level
    assert said in finding.text
    if level != "ok":
        assert finding.text.endswith(" to see most of them whole.")
        advised = int(finding.text.split("set model.block_size to ")[1].split()[0])
        assert about_cuts(corpus, advised).level == "ok"


def test_conversations_among_texts_are_judged_by_their_own_lengths() -> None:
    assert "cut about 31% of them" in about_cuts(talks(median=20, most=60, texts=3), 64).text


@pytest.mark.parametrize("block_size", [32, 64, 256])
def test_the_share_of_conversations_that_is_cut_is_that_of_the_windows_of_training(block_size: int) -> None:
    lengths = np.random.default_rng(1).integers(20, 34, size=900)
    ends = np.cumsum(lengths)
    numbered = ArrayTokens(np.arange(int(ends[-1]), dtype=np.uint16))
    whole, epochs = 0, 20
    for epoch in range(epochs):
        stream = BatchStream(numbered, block_size=block_size, batch_size=1, seed=1, epoch=epoch)
        for _ in range(stream.windows_per_epoch):
            first = int(stream.next_batch().inputs[0, 0])
            whole += int(((ends - lengths >= first) & (ends <= first + block_size + 1)).sum())
    cut = 1 - whole / (epochs * lengths.size)
    corpus = talks(median=int(np.median(lengths)), most=int(np.quantile(lengths, 0.9)))
    corpus = replace(corpus, train=replace(corpus.train, tokens=int(ends[-1])))
    said = int(about_cuts(corpus, block_size).text.split(" cut about ")[1].split("%")[0]) / 100
    assert said == pytest.approx(cut, abs=0.08)


def test_a_vocabulary_that_came_with_weights_is_not_too_large() -> None:
    large = manifest(tokenizer="gpt2", vocab_size=50_257)
    assert any("too rarely" in f.text for f in diagnose(large, None))
    assert not any("too rarely" in f.text for f in diagnose(replace(large, given_tokenizer=True), None))
