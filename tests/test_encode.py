"""How a corpus is cut into stretches changes no token, and end-of-text stands exactly between documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from gptcli.chat_template import Message, write_conversation
from gptcli.copies.index import IndexWriter, job_grams, parse_ngrams
from gptcli.documents import Document, document, document_parts
from gptcli.encode import SplitTotals, Totals, no_totals, write_encoded
from gptcli.encode_job import encode_job
from gptcli.shard_writer import ShardWriter
from gptcli.shards import Conversations, SplitName, TokenReader, dtype_for
from gptcli.tokenizer import Tokenizer, char_tokenizer, train_bpe

TEXTS = [text for _, text in sorted(topics.items())][:30]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(TEXTS, 300)


def encode(
    folder: Path,
    documents: Sequence[tuple[SplitName, Document]],
    tokenizer: Tokenizer,
    *,
    at_a_time: int = 100,
    shard_tokens: int = 1000,
    masked: bool = False,
    index: IndexWriter | None = None,
) -> tuple[dict[SplitName, ShardWriter], Totals, list[int]]:
    """Encode a few documents at a time into shards; returns the writers, the totals and what was reported."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = dtype_for(tokenizer.vocab_size)
    starts = range(0, len(documents), at_a_time)
    encoded = (encode_job(documents[at : at + at_a_time], tokenizer, indexed=True) for at in starts)
    totals = no_totals()
    with (
        ShardWriter(folder, "train", dtype, shard_tokens=shard_tokens, masked=masked) as train,
        ShardWriter(folder, "val", dtype, shard_tokens=shard_tokens, masked=masked) as val,
    ):
        writers: dict[SplitName, ShardWriter] = {"train": train, "val": val}
        reported = list(write_encoded(encoded, writers, totals, index or IndexWriter()))
    return writers, totals, reported


def read(folder: Path, writers: dict[SplitName, ShardWriter], tokenizer: Tokenizer) -> dict[SplitName, list[int]]:
    dtype = dtype_for(tokenizer.vocab_size)
    return {
        split: TokenReader(folder, writer.shards, dtype).read(0, writer.tokens).tolist()
        for split, writer in writers.items()
    }


@pytest.mark.parametrize("at_a_time", [1, 2, 7, 100])
def test_each_split_is_its_documents_in_order_with_end_of_text_between(
    tmp_path: Path, bpe: Tokenizer, at_a_time: int
) -> None:
    documents: list[tuple[SplitName, Document]] = [
        ("val" if number % 3 == 0 else "train", document(text)) for number, text in enumerate(TEXTS)
    ]
    writers, totals, reported = encode(tmp_path, documents, bpe, at_a_time=at_a_time)
    ids = read(tmp_path, writers, bpe)
    assert bpe.end_of_text is not None
    splits: tuple[SplitName, SplitName] = ("train", "val")
    for split in splits:
        texts = [item.text for side, item in documents if side == split]
        expected: list[int] = []
        for text in texts:
            expected += [bpe.end_of_text, *bpe.encode(text).tolist()]
        assert ids[split] == expected[1:]
        assert totals[split] == SplitTotals(len(texts), sum(len(text.encode()) for text in texts))
    assert reported == sorted(reported)
    assert reported[-1] == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_parts_of_a_document_follow_seamlessly(
    tmp_path: Path, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr("gptcli.documents.PART_CHARS", 500)
    whole = TEXTS[0] + TEXTS[1]
    parts = list(document_parts([whole]))
    assert len(parts) > 5
    writers, totals, _ = encode(tmp_path, [("train", part) for part in parts], bpe, at_a_time=at_a_time)
    assert read(tmp_path, writers, bpe)["train"] == bpe.encode(whole).tolist()
    assert totals["train"].documents == 1


@pytest.mark.parametrize("at_a_time", [1, 2, 100])
def test_a_document_cut_in_two_counts_in_both_splits(tmp_path: Path, at_a_time: int) -> None:
    tokenizer = char_tokenizer(["ab"], end_of_text=True)
    documents: list[tuple[SplitName, Document]] = [
        ("train", document("aa")),
        ("val", document("bb")),
        ("val", document("ab", part=1)),
        ("train", document("ab")),
        ("val", document("ba")),
    ]
    writers, totals, _ = encode(tmp_path, documents, tokenizer, at_a_time=at_a_time)
    assert read(tmp_path, writers, tokenizer) == {"train": [0, 0, 2, 0, 1], "val": [1, 1, 0, 1, 2, 1, 0]}
    assert (totals["train"].documents, totals["val"].documents) == (2, 2)


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_empty_documents_leave_no_end_of_text_behind(tmp_path: Path, at_a_time: int) -> None:
    tokenizer = char_tokenizer(["ab"], end_of_text=True)
    documents: list[tuple[SplitName, Document]] = [("train", document(text)) for text in ("", "a", "")]
    writers, totals, _ = encode(tmp_path, documents, tokenizer, at_a_time=at_a_time)
    assert read(tmp_path, writers, tokenizer)["train"] == [0]
    assert totals["train"].documents == 1


def test_a_tokenizer_without_end_of_text_joins_documents(tmp_path: Path) -> None:
    tokenizer = char_tokenizer(["ab"], end_of_text=False)
    writers, _, _ = encode(tmp_path, [("train", document("ab")), ("train", document("ba"))], tokenizer, at_a_time=1)
    assert read(tmp_path, writers, tokenizer)["train"] == [0, 1, 1, 0]


def test_bytes_are_those_of_utf_8(tmp_path: Path) -> None:
    text = "Ärger, 漢字 und 🎭"
    tokenizer = char_tokenizer([text], end_of_text=False)
    writers, totals, _ = encode(tmp_path, [("val", document(text))], tokenizer)
    assert totals["val"].bytes == len(text.encode())
    assert tokenizer.decode(np.array(read(tmp_path, writers, tokenizer)["val"])) == text


def talk(question: str, *answers: str) -> Document:
    conversation = write_conversation([Message("user", question), *(Message("assistant", text) for text in answers)])
    return document(conversation.text, answers=conversation.answers)


def encode_masked(
    folder: Path, documents: Sequence[Document], tokenizer: Tokenizer, at_a_time: int = 100
) -> tuple[list[int], list[bool], Conversations]:
    items: list[tuple[SplitName, Document]] = [("train", item) for item in documents]
    writers, totals, _ = encode(folder, items, tokenizer, at_a_time=at_a_time, shard_tokens=37, masked=True)
    train = writers["train"]
    reader = TokenReader(folder, train.shards, dtype_for(tokenizer.vocab_size))
    mask = reader.scored(0, len(reader))
    assert mask is not None
    assert train.scored_tokens == mask.sum()
    return reader.read(0, len(reader)).tolist(), mask.tolist(), totals["train"].conversations(train.scored_tokens)


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_every_answer_of_a_conversation_ends_with_end_of_text_and_is_all_that_is_scored(
    tmp_path: Path, bpe: Tokenizer, at_a_time: int
) -> None:
    talks = [talk("Why?", "Because.", "Really."), talk("Who?", "Nobody.")]
    ids, mask, found = encode_masked(tmp_path, talks, bpe, at_a_time)
    expected: list[int] = []
    scored: list[bool] = []
    lengths = [0, 0]
    for number, text, answer in (
        (0, "User: Why?\nAssistant:", False),
        (0, " Because.", True),
        (0, "Assistant:", False),
        (0, " Really.", True),
        (1, "User: Who?\nAssistant:", False),
        (1, " Nobody.", True),
    ):
        assert bpe.end_of_text is not None
        part = [*bpe.encode(text).tolist(), *([bpe.end_of_text] if answer else [])]
        expected += part
        scored += [answer] * len(part)
        lengths[number] += len(part)
    assert (ids, mask) == (expected, scored)
    assert (found.conversations, found.answers, found.scored_tokens) == (2, 3, sum(scored))
    assert (found.median_tokens, found.longest_tokens) == (min(lengths), max(lengths))


@pytest.mark.parametrize("at_a_time", [1, 2, 4])
def test_ordinary_documents_among_conversations_are_scored_whole(
    tmp_path: Path, bpe: Tokenizer, at_a_time: int
) -> None:
    documents = [document("One."), talk("Why?", "So."), document("Two."), document("3")]
    ids, mask, found = encode_masked(tmp_path, documents, bpe, at_a_time)
    end = bpe.end_of_text
    parts: list[tuple[list[int | None], bool]] = [
        ([*bpe.encode("One.").tolist(), end], True),
        (bpe.encode("User: Why?\nAssistant:").tolist(), False),
        ([*bpe.encode(" So.").tolist(), end], True),
        ([*bpe.encode("Two.").tolist(), end, *bpe.encode("3").tolist()], True),
    ]
    assert ids == [token for part, _ in parts for token in part]
    assert mask == [scored for part, scored in parts for _ in part]
    assert found.conversations == 1


def test_no_text_of_a_conversation_becomes_end_of_text(tmp_path: Path, bpe: Tokenizer) -> None:
    ids, mask, _ = encode_masked(tmp_path, [talk("<|endoftext|>", "<|endoftext|>")], bpe)
    assert ids.count(bpe.end_of_text or 0) == 1
    assert bpe.decode(ids) == "User: <|endoftext|>\nAssistant: <|endoftext|>"
    assert bpe.decode([token for token, scored in zip(ids, mask, strict=True) if scored]) == " <|endoftext|>"


def test_the_index_is_of_the_whole_text_of_train_whatever_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = char_tokenizer([*TEXTS, "Why? How?"], end_of_text=True)
    chat = write_conversation([Message("user", "Why? " * 40), Message("assistant", TEXTS[0])])
    documents: list[tuple[SplitName, Document]] = [
        ("val" if number % 3 == 0 else "train", document(text, title=f"topic {number}"))
        for number, text in enumerate(TEXTS)
    ]
    documents.append(("train", document(chat.text, answers=chat.answers, title="a conversation")))
    monkeypatch.setattr("gptcli.documents.PART_CHARS", 2000)
    documents += [("train", part) for part in document_parts(TEXTS, title="in parts")]
    index, expected = IndexWriter(), IndexWriter()
    encode(tmp_path, documents, tokenizer, at_a_time=2, masked=True, index=index)
    pieces = [(item.text, item.title if item.part == 0 else None) for split, item in documents if split == "train"]
    expected.add(job_grams(pieces))
    assert index.write(tmp_path / "one", 200_000) == expected.write(tmp_path / "other", 200_000) is not None
    assert parse_ngrams((tmp_path / "one").read_bytes(), "one").titles[-2:] == ["a conversation", "in parts"]
