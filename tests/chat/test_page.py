from __future__ import annotations

import pytest

from gptcli.chat.page import Step, conversation_text, drawn_of, joint, last_sent, messages_of, steps, text_of
from gptcli.chat_template import ChatTemplate, Message


@pytest.mark.parametrize(
    ("text", "line", "between"),
    [
        ("", "ROMEO:", ""),
        ("", "once", ""),
        ("the en", "JULIET:", "\n"),
        ("My lord.", "He laughed.", "\n"),
        ("My lord.", "\u201cNo\u201d", "\n"),
        ("My lord.", "- a point", "\n"),
        ("My lord.", "12 men", "\n"),
        ("\u7b2c\u4e00", "\u7ae0", "\n"),
        ("He opened the door and", "found a letter", " "),
        ("He opened the door", ", and left", ""),
        ("He opened the door", "... and", ""),
        ("My lord.\n", "JULIET:", ""),
        ("My lord. ", "he said", ""),
        ("My lord.", " He laughed.", ""),
        ("My lord.", "\nJULIET:", ""),
        ("wal", "\u00e9t\u00e9", " "),
    ],
)
def test_a_line_joins_the_text_as_a_writer_expects(text: str, line: str, between: str) -> None:
    assert joint(text, line) == between


def test_a_chain_of_steps_makes_the_text() -> None:
    first = Step(id=1, line="a", given="a", drawn="b")
    more = Step(id=2, before=first, drawn="c")
    last = Step(id=3, before=more, line="d", given="\nd", drawn="e")
    assert [step.id for step in steps(last)] == [1, 2, 3]
    assert text_of(last) == "abc\nde"
    assert text_of(None) == ""
    assert drawn_of(last) == ["bc", "e"]
    assert last_sent(more) is first
    assert last_sent(None) is None


def test_what_was_loaded_is_not_drawn() -> None:
    loaded = Step(id=1, given="once upon ")
    assert drawn_of(Step(id=2, before=loaded, drawn="a time")) == ["a time"]
    assert drawn_of(loaded) == []


def test_a_chain_of_steps_makes_a_conversation() -> None:
    loaded = Step(id=1, loaded=(Message("system", "Be kind."), Message("user", "hi")))
    answered = Step(id=2, before=loaded, drawn="hello")
    went_on = Step(id=3, before=answered, drawn=" there")
    last = Step(id=4, before=went_on, line="how?", given="how?", drawn="")
    assert messages_of(last) == [
        Message("system", "Be kind."),
        Message("user", "hi"),
        Message("assistant", "hello there"),
        Message("user", "how?"),
        Message("assistant", ""),
    ]
    assert conversation_text(messages_of(went_on), ChatTemplate()) == ("Be kind.\n\nUser: hi\nAssistant: hello there\n")
