"""Conversations as text, for learning and for asking: both write the same, up to where the next answer begins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gptcli.chat_template import ChatTemplate, Message, write_conversation, write_prompt

TEMPLATE = ChatTemplate("<s>", "</s>", "<u>", "</u>", "<a>", "</a>")
TALK = [
    Message("system", " Be kind. "),
    Message("user", "Hi.\n"),
    Message("assistant", " Hello. "),
    Message("user", "Bye?"),
]
roles = st.sampled_from(["system", "user", "assistant"])
talks = st.lists(st.builds(Message, roles, st.text(max_size=8)), max_size=8)


def test_a_conversation_ends_with_its_last_answer() -> None:
    written = write_conversation(TALK, TEMPLATE)
    assert written.text == "<s>Be kind.</s><u>Hi.</u><a> Hello.</a>"
    assert [written.text[start:end] for start, end in written.answers] == [" Hello.</a>"]
    assert write_conversation(TALK[:2], TEMPLATE).text == ""


def test_a_prompt_goes_on_to_where_the_next_answer_begins() -> None:
    assert write_prompt(TALK, TEMPLATE) == ["<s>Be kind.</s><u>Hi.</u><a> Hello.</a>", "<u>Bye?</u><a>"]
    assert write_prompt([], TEMPLATE) == ["<a>"]


@given(talks)
def test_a_model_is_asked_in_the_words_that_it_learned(talk: list[Message]) -> None:
    pieces = write_prompt(talk, TEMPLATE)
    learned = write_conversation([*talk, Message("assistant", "Yes.")], TEMPLATE)
    assert learned.text == "".join(pieces) + " Yes.</a>"
    assert [end for _, end in learned.answers[:-1]] == [len("".join(pieces[: n + 1])) for n in range(len(pieces) - 1)]
