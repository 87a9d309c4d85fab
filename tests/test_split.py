from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.chat_template import Message, write_conversation
from gptcli.documents import Document, content_digest, document, document_parts, in_val
from gptcli.errors import CorpusError
from gptcli.split import SplitPlan, plan_split, split_documents
from gptcli.survey import LEFT_OUT

Mode = Literal["auto", "document", "paragraph"]
texts = st.lists(st.text(st.sampled_from("abc \n"), min_size=1, max_size=40), min_size=1, max_size=12)


def carried_out(documents: list[Document], plan: SplitPlan) -> tuple[list[Document], list[Document]]:
    pieces = list(split_documents(documents, plan))
    return [item for side, item in pieces if side == "train"], [item for side, item in pieces if side == "val"]


def joined(documents: Iterable[Document]) -> str:
    return "".join(item.text for item in documents)


def paragraphs(count: int) -> list[Document]:
    return [document(f"This is text number {number}, and it has some words.\n") for number in range(count)]


def test_many_documents_are_split_whole_by_a_hash_of_their_text() -> None:
    documents = paragraphs(300)
    plan = plan_split(documents)
    train, val = carried_out(documents, plan)
    assert plan.mode == "document"
    assert "a hash of each document decides" in plan.reason
    assert 15 < len(val) < 60
    assert sorted([*train, *val], key=lambda item: item.text) == sorted(documents, key=lambda item: item.text)


def test_adding_text_never_moves_a_document() -> None:
    before, after = paragraphs(200), [*paragraphs(400)[200:], *paragraphs(200)]
    old = {item.id: side for side, item in split_documents(before, plan_split(before, mode="document"))}
    new = {item.id: side for side, item in split_documents(after, plan_split(after, mode="document"))}
    assert {key: new[key] for key in old} == old


def test_duplicates_are_removed_and_the_first_one_stays() -> None:
    documents = [document("One text."), document("Other."), document("One\n text. ", title="copy"), document("Other.")]
    plan = plan_split(documents, mode="document")
    assert (plan.documents, plan.characters, plan.duplicates) == (2, 15, 2)
    assert [side == LEFT_OUT for side in plan.sides] == [False, False, True, True]
    train, val = carried_out(documents, plan)
    assert sorted(item.text for item in [*train, *val]) == ["One text.", "Other."]


def test_a_long_document_is_one_for_the_hash_and_for_duplicates() -> None:
    long = list(document_parts(["All work and no play.\n\n" * 250_000]))
    other = list(document_parts(["All work and no play.\n\n" * 250_000 + "Not quite."]))
    documents = [*long, document("Short."), *other, *long]
    plan = plan_split(documents, mode="document", val_fraction=0.5)
    assert (plan.documents, plan.duplicates, plan.sides.index(LEFT_OUT)) == (3, 1, 3)
    assert plan.lengths == {0: 5_750_000, 2: 5_750_010, 3: 5_750_000}
    sides = [(side, item.part) for side, item in split_documents(documents, plan)]
    side = "val" if in_val(content_digest(long[0].text), 0.5) else "train"
    assert sides[:2] == [(side, 0), (side, 1)]
    assert sides[3:] == [(side, 0), (side, 1)]


def test_one_document_is_split_at_a_paragraph_and_the_plan_says_so(shared_data: Path) -> None:
    text = (shared_data / "gutenberg" / "863-0.txt").read_text("utf-8-sig")
    documents = [document(text, title="Styles", licence="public domain")]
    plan = plan_split(documents)
    (train,), (val,) = carried_out(documents, plan)
    assert plan.reason == "a one-document corpus is split at a paragraph near 90%"
    assert train.text + val.text == text
    assert train.text.endswith("\n\n")
    assert not val.text[0].isspace()
    assert 0.09 < len(val.text) / len(text) < 0.11
    assert (val.part, val.title, val.licence) == (0, "Styles", "public domain")


def test_copies_of_one_document_are_a_one_document_corpus() -> None:
    assert "one-document" in plan_split([document("Same text."), document("Same  text.")]).reason


def test_documents_too_uneven_for_the_hash_are_split_at_paragraphs() -> None:
    val_side = next(str(number) for number in range(999) if in_val(content_digest(str(number)), 0.1))
    train_side = next(str(number) for number in range(999) if not in_val(content_digest(str(number)), 0.1))
    plan = plan_split([document(val_side), document(train_side)])
    assert plan.mode == "paragraph"
    assert "would give val" in plan.reason


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.123])
def test_split_at_is_nanogpts_split(shared_data: Path, fraction: float) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_text("utf-8")
    documents = [document(text)]
    train, val = carried_out(documents, plan_split(documents, split_at=fraction))
    assert joined(train) == text[: int(len(text) * fraction)]
    assert joined(val) == text[int(len(text) * fraction) :]


@given(texts, st.floats(0.01, 0.99))
def test_split_at_cuts_the_documents_as_one_string(found: list[str], fraction: float) -> None:
    documents = [document(f"{number} {text}") for number, text in enumerate(found)]
    plan = plan_split(documents, split_at=fraction)
    train, val = carried_out(documents, plan)
    whole = joined(documents)
    assert (joined(train), joined(val)) == (whole[: plan.cut_at], whole[plan.cut_at :])
    assert [item.part for item in [*train, *val]] == [0] * (len(train) + len(val))


@given(texts, st.sampled_from(["auto", "document", "paragraph"]), st.floats(0.01, 0.5))
def test_no_text_is_lost_or_doubled(found: list[str], mode: Mode, val_fraction: float) -> None:
    documents = [document(f"{number} {text}") for number, text in enumerate(found)]
    plan = plan_split(documents, mode=mode, val_fraction=val_fraction)
    pieces = [item for _, item in split_documents(documents, plan)]
    assert all(item.text for item in pieces)
    if plan.mode == "document":
        assert pieces == documents
    else:
        assert joined(pieces) == joined(documents)


@pytest.mark.parametrize(("mode", "split_at"), [("paragraph", None), ("auto", 0.9), ("auto", 0.3)])
def test_pieces_of_a_long_document_join_seamlessly_on_each_side(mode: Mode, split_at: float | None) -> None:
    text = "".join(f"Paragraph number {number} has a few words.\n\n" for number in range(230_000))
    documents = list(document_parts([text]))
    assert len(documents) == 3
    plan = plan_split(documents, mode=mode, split_at=split_at)
    train, val = carried_out(documents, plan)
    assert joined(train) + joined(val) == text
    assert [item.part for item in train] == list(range(len(train)))
    assert [item.part for item in val] == list(range(len(val)))
    assert abs(len(joined(train)) / len(text) - (split_at or 0.9)) < 0.01
    if mode == "paragraph":
        assert joined(val).startswith("Paragraph number")


def test_position_counts_what_is_left_after_duplicates() -> None:
    documents = [document("aaaa"), document("aaaa"), document("bbbb")]
    train, val = carried_out(documents, plan_split(documents, split_at=0.5))
    assert (joined(train), joined(val)) == ("aaaa", "bbbb")


def test_an_explicit_mode_is_followed_even_by_one_document() -> None:
    documents = [document("Only one.")]
    plan = plan_split(documents, mode="document")
    assert len(list(split_documents(documents, plan))) == 1
    assert plan.reason == "split by document, as asked for"


def test_no_documents_is_an_error() -> None:
    with pytest.raises(CorpusError, match="has no documents"):
        plan_split([])


def talks(count: int, turns: int = 1) -> list[Document]:
    found = []
    for number in range(count):
        turn = [Message("user", f"What is {number}?"), Message("assistant", f"It is the number {number}.")]
        conversation = write_conversation(turn * turns)
        found.append(document(conversation.text, answers=conversation.answers))
    return found


def test_conversations_are_split_whole_by_a_hash_of_their_text() -> None:
    plan = plan_split(talks(300))
    train, val = carried_out(talks(300), plan)
    assert (plan.mode, plan.answers) == ("document", 300)
    assert 15 < len(val) < 60
    assert all(len(item.answers) == 1 for item in [*train, *val])


def test_a_few_conversations_are_split_at_a_position_that_goes_through_none() -> None:
    few = next(
        talks(count) for count in range(3, 20) if not any(in_val(content_digest(t.text), 0.1) for t in talks(count))
    )
    plan = plan_split(few)
    train, val = carried_out(few, plan)
    assert (plan.mode, plan.split_at) == ("position", 0.9)
    assert "the last conversations are val" in plan.reason
    assert plan.cut_at is not None
    assert f"{plan.cut_at:,} of {plan.characters:,}" in plan.reason
    assert [*train, *val] == few


@pytest.mark.parametrize("split_at", [0.1, 0.5, 0.77])
def test_a_cut_at_a_position_is_moved_behind_the_nearest_answer(split_at: float) -> None:
    documents = talks(2, turns=5)
    plan = plan_split(documents, split_at=split_at)
    train, val = carried_out(documents, plan)
    assert joined(train) + joined(val) == joined(documents)
    assert all(item.answers[-1][1] == len(item.text) for item in [*train, *val])
    assert abs(len(joined(train)) - (plan.cut_at or 0)) <= len(documents[0].text) / 10 + 1


def test_one_long_conversation_is_split_behind_an_answer() -> None:
    (whole,) = talks(1, turns=40)
    plan = plan_split([whole])
    train, val = carried_out([whole], plan)
    assert plan.mode == "paragraph"
    assert [len(item.answers) for item in (*train, *val)] == [36, 4]
    assert val[0].text.startswith("User:")
