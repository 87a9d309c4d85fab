"""Threads change neither the tokens nor their order, and end-of-text stands exactly between documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from gptcli.chat_template import Message, write_conversation
from gptcli.copies.index import IndexWriter, job_grams, parse_ngrams
from gptcli.documents import Document, document, document_parts
from gptcli.encode import SplitTotals, encode_documents
from gptcli.errors import TokenizerError
from gptcli.shards import Conversations, ShardWriter, SplitName, TokenReader, dtype_for
from gptcli.tokenizer import Tokenizer, char_tokenizer, train_bpe

TEXTS = [text for _, text in sorted(topics.items())][:30]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(TEXTS, 300)


def encode(
    folder: Path, documents: Sequence[tuple[SplitName, Document]], tokenizer: Tokenizer
) -> tuple[dict[SplitName, list[int]], dict[SplitName, SplitTotals], list[int]]:
    """Encode into shards; returns the ids of both splits, the totals and what was reported."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = dtype_for(tokenizer.vocab_size)
    reported: list[int] = []
    with ShardWriter(folder, "train", dtype) as train, ShardWriter(folder, "val", dtype) as val:
        totals = encode_documents(iter(documents), tokenizer, {"train": train, "val": val}, reported.append)

    def read(writer: ShardWriter) -> list[int]:
        ids: list[int] = TokenReader(folder, writer.shards, dtype).read(0, writer.tokens).tolist()
        return ids

    return {"train": read(train), "val": read(val)}, totals, reported


def test_each_split_is_its_documents_in_order_with_end_of_text_between(
    tmp_path: Path, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptcli.encode.JOB_CHARS", 3000)  # many jobs, so that threads finish out of order
    documents: list[tuple[SplitName, Document]] = [
        ("val" if number % 3 == 0 else "train", document(text)) for number, text in enumerate(TEXTS)
    ]
    ids, totals, reported = encode(tmp_path, documents, bpe)
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


def test_parts_of_a_document_follow_seamlessly(tmp_path: Path, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.documents.PART_CHARS", 500)
    whole = TEXTS[0] + TEXTS[1]
    parts = list(document_parts([whole]))
    assert len(parts) > 5
    ids, totals, _ = encode(tmp_path, [("train", part) for part in parts], bpe)
    assert ids["train"] == bpe.encode(whole).tolist()
    assert totals["train"].documents == 1


def test_a_document_cut_in_two_counts_in_both_splits(tmp_path: Path) -> None:
    tokenizer = char_tokenizer(["ab"], end_of_text=True)
    documents: list[tuple[SplitName, Document]] = [
        ("train", document("aa")),
        ("val", document("bb")),
        ("val", document("ab", part=1)),
        ("train", document("ab")),
        ("val", document("ba")),
    ]
    ids, totals, _ = encode(tmp_path, documents, tokenizer)
    assert ids == {"train": [0, 0, 2, 0, 1], "val": [1, 1, 0, 1, 2, 1, 0]}
    assert (totals["train"].documents, totals["val"].documents) == (2, 2)


def test_empty_documents_leave_no_end_of_text_behind(tmp_path: Path) -> None:
    tokenizer = char_tokenizer(["ab"], end_of_text=True)
    ids, totals, _ = encode(
        tmp_path, [("train", document("")), ("train", document("a")), ("train", document(""))], tokenizer
    )
    assert ids["train"] == [0]
    assert totals["train"].documents == 1


def test_a_tokenizer_without_end_of_text_joins_documents(tmp_path: Path) -> None:
    tokenizer = char_tokenizer(["ab"], end_of_text=False)
    ids, _, _ = encode(tmp_path, [("train", document("ab")), ("train", document("ba"))], tokenizer)
    assert ids["train"] == [0, 1, 1, 0]


def test_an_error_in_a_thread_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.encode.JOB_CHARS", 10)
    tokenizer = char_tokenizer(["ab"], end_of_text=False)
    documents: list[tuple[SplitName, Document]] = [("train", document("ab" * 10))] * 50
    with pytest.raises(TokenizerError, match="'z'"):
        encode(tmp_path, [*documents, ("train", document("zebra")), *documents], tokenizer)


def test_bytes_are_those_of_utf_8(tmp_path: Path) -> None:
    text = "Ärger, 漢字 und 🎭"
    tokenizer = char_tokenizer([text], end_of_text=False)
    ids, totals, _ = encode(tmp_path, [("val", document(text))], tokenizer)
    assert totals["val"].bytes == len(text.encode())
    assert tokenizer.decode(np.array(ids["val"])) == text


def talk(question: str, *answers: str) -> Document:
    conversation = write_conversation([Message("user", question), *(Message("assistant", text) for text in answers)])
    return document(conversation.text, answers=conversation.answers)


def encode_masked(
    folder: Path, documents: Sequence[Document], tokenizer: Tokenizer
) -> tuple[list[int], list[bool], Conversations]:
    dtype = dtype_for(tokenizer.vocab_size)
    with ShardWriter(folder, "train", dtype, shard_tokens=37, masked=True) as train:
        items = [("train", item) for item in documents]
        totals = encode_documents(items, tokenizer, {"train": train}, lambda _: None)  # type: ignore[arg-type]
    reader = TokenReader(folder, train.shards, dtype)
    mask = reader.scored(0, len(reader))
    assert mask is not None
    assert train.scored_tokens == mask.sum()
    return reader.read(0, len(reader)).tolist(), mask.tolist(), totals["train"].conversations(train.scored_tokens)


def test_every_answer_of_a_conversation_ends_with_end_of_text_and_is_all_that_is_scored(
    tmp_path: Path, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptcli.encode.JOB_CHARS", 30)  # one conversation goes over several jobs
    ids, mask, found = encode_masked(tmp_path, [talk("Why?", "Because.", "Really."), talk("Who?", "Nobody.")], bpe)
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


def test_ordinary_documents_among_conversations_are_scored_whole(tmp_path: Path, bpe: Tokenizer) -> None:
    ids, mask, found = encode_masked(
        tmp_path, [document("One."), talk("Why?", "So."), document("Two."), document("3")], bpe
    )
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
    monkeypatch.setattr("gptcli.encode.JOB_CHARS", 3000)
    dtype = dtype_for(tokenizer.vocab_size)
    index, expected = IndexWriter(), IndexWriter()
    with (
        ShardWriter(tmp_path, "train", dtype, masked=True) as train,
        ShardWriter(tmp_path, "val", dtype, masked=True) as val,
    ):
        encode_documents(iter(documents), tokenizer, {"train": train, "val": val}, lambda _: None, index)
    pieces = [(item.text, item.title if item.part == 0 else None) for split, item in documents if split == "train"]
    expected.add(job_grams(pieces))
    assert index.write(tmp_path / "one", 200_000) == expected.write(tmp_path / "other", 200_000) is not None
    assert parse_ngrams((tmp_path / "one").read_bytes(), "one").titles[-2:] == ["a conversation", "in parts"]
