"""A session with a model that was tuned on conversations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gptcli.chat.events import Choices, Columns, Drawn, EditRequest, Ended, Given, Ranked, Said, Wrong
from gptcli.chat_template import ChatTemplate, Message
from gptcli.reading import read_content
from gptcli.sample import chat_ids
from gptcli.writing import WritingModel
from tests.chat.desks import Desk, only


@pytest.fixture
def desk(talker: WritingModel) -> Desk:
    return Desk(talker, max_new_tokens=20)


def test_the_model_answers_a_turn_and_ends_it(desk: Desk) -> None:
    events = desk.send("hi")
    assert not [event for event in events if isinstance(event, Given)]
    assert "".join(event.text for event in events if isinstance(event, Drawn)) == "fine"
    assert only(events, Ended).finish_reason == "end_of_text"
    assert desk.text == "User: hi\nAssistant: fine\n"
    desk.send("hi")
    assert desk.text == "User: hi\nAssistant: fine\n" * 2


def test_the_model_reads_its_own_template_with_ends_of_text_between(talker: WritingModel) -> None:
    said = [Message("user", "hi"), Message("assistant", "fine"), Message("user", "hi")]
    end = talker.tokenizer.end_of_text
    assert end is not None
    first, second = (
        talker.tokenizer.encode(text).tolist() for text in ("User: hi\nAssistant: fine", "User: hi\nAssistant:")
    )
    assert read_content(talker, said).tolist() == [*first, end, *second]
    assert torch.equal(read_content(talker, said), chat_ids(talker.tokenizer, said, ChatTemplate()))


def test_more_goes_on_with_the_last_answer(desk: Desk) -> None:
    desk.send("/set max_new_tokens 3", "hi")
    assert desk.text == "User: hi\nAssistant: fi\n"
    desk.send("/set max_new_tokens 20", "/more")
    assert desk.text == "User: hi\nAssistant: fine\n"
    desk.send("/undo")
    assert desk.text == "User: hi\nAssistant: fi\n"


def test_an_answer_stopped_before_its_first_word_begins_again(desk: Desk) -> None:
    desk.stop_after(1, "hi")
    assert desk.text == "User: hi\nAssistant: \n"
    desk.send("/more")
    assert desk.text == "User: hi\nAssistant: fine\n"


def test_a_model_that_plays_the_user_is_stopped(actor: WritingModel) -> None:
    desk = Desk(actor, max_new_tokens=30)
    assert only(desk.send("hi"), Ended).finish_reason == "stop"
    assert desk.text == "User: hi\nAssistant: ok\n"
    assert desk.session.config.stop == ()


@pytest.mark.parametrize("n_tokens", range(3, 10))
def test_no_beginning_of_the_users_turn_is_left_by_the_limit(actor: WritingModel, n_tokens: int) -> None:
    desk = Desk(actor, max_new_tokens=n_tokens)
    desk.send("hi")
    assert desk.text == "User: hi\nAssistant: ok\n"


@pytest.mark.parametrize("line", ["", "  \n"])
def test_an_empty_turn_is_not_sent(desk: Desk, line: str) -> None:
    assert "/more" in only(desk.send(line), Said).text
    assert desk.text == ""


@pytest.mark.parametrize("line", ["/more", "/best-of", "/next"])
def test_there_must_be_something_to_answer(desk: Desk, line: str) -> None:
    assert only(desk.send(line), Wrong).text == "Nothing was asked yet."


def test_edit_asks_the_last_question_otherwise(desk: Desk) -> None:
    assert desk.send("hi", "what?", "/edit") == [EditRequest("what?")]
    desk.send("/edit  why? ")
    assert desk.text == "User: hi\nAssistant: fine\nUser: why?\nAssistant: fine\n"
    desk.send("/undo", "/undo", "/undo")
    assert desk.text == ""


def test_best_of_gives_other_answers_to_the_last_question(talker: WritingModel) -> None:
    desk = Desk(talker, temperature=4.0, max_new_tokens=6)
    desk.send("hi", "what?")
    before = desk.text
    texts = only(desk.send("/best-of 3"), Choices).texts
    assert not [text for text in texts if text.startswith("  ")]
    desk.send("3")
    assert desk.text == before.rpartition("Assistant:")[0] + f"Assistant: {texts[2].strip()}\n"
    desk.send("/undo")
    assert desk.text == before


def test_next_goes_on_with_the_answer(desk: Desk) -> None:
    rows = only(desk.send("hi", "/next"), Ranked).rows
    assert rows[0][0] == "<end of text>"


def test_compare_with_a_model_that_has_no_template_reads_the_same_text(
    talker: WritingModel, actor: WritingModel
) -> None:
    plain = replace(talker, name="plain", chat=None)
    desk = Desk(talker, actor, plain, max_new_tokens=5)
    desk.send("hi")
    assert only(desk.send("/compare plain"), Columns) == Columns("talker", "fine", "plain", "fine")
    assert only(desk.send("/compare actor"), Columns).right == "ok"


def test_a_conversation_longer_than_the_context_is_told(talker: WritingModel) -> None:
    desk = Desk(talker)
    desk.send("hi")
    assert only(desk.send("hi"), Said).text.startswith("The conversation is longer than the 32 tokens")


def test_undo_shows_the_conversation_that_is_left(desk: Desk) -> None:
    desk.send("hi", "what?")
    assert desk.send("/undo")[1] == Given("User: hi\nAssistant: fine\n")
