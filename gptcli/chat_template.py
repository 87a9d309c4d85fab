"""How a conversation is written as text: who speaks is a word and a colon, an answer ends with end-of-text.

``User: How are you?\nAssistant: Fine.<end-of-text>``: words any tokenizer has, and the one token that no text can
contain. It knows nothing of files, tokens or models; a run keeps the template it was tuned with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Message(NamedTuple):
    """One turn: ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """What stands before and after what each side says; after ``answer_end`` comes end-of-text."""

    system_start: str = ""
    system_end: str = "\n\n"
    user_start: str = "User: "
    user_end: str = "\n"
    answer_start: str = "Assistant:"
    """Ends without a space, and every answer begins with one: the first token of an answer holds it."""
    answer_end: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as text, and the (start, end) characters of its answers; end-of-text follows each answer."""

    text: str
    answers: tuple[tuple[int, int], ...]


def write_conversation(messages: Sequence[Message], template: ChatTemplate = ChatTemplate()) -> Conversation:
    """Write messages as text up to the last answer; what follows it is left out.

    Without any answer the text is empty. Answers include the space before their first word.
    """
    text, answers = "", []
    for read, answer in _exchanges(messages, template)[0]:
        text += read + answer
        answers.append((len(text) - len(answer), len(text)))
    return Conversation(text, tuple(answers))


def write_prompt(messages: Sequence[Message], template: ChatTemplate) -> list[str]:
    """Return the pieces of text after which the model's next answer follows; end-of-text stands between pieces."""
    exchanges, rest = _exchanges(messages, template)
    return [*(read + answer for read, answer in exchanges), rest + template.answer_start]


def _exchanges(messages: Sequence[Message], template: ChatTemplate) -> tuple[list[tuple[str, str]], str]:
    """Return each answer behind all that is read before it, and what is read behind the last one."""
    exchanges, read = [], ""
    for message in messages:
        content = message.content.strip()
        if message.role == "assistant":
            exchanges.append((read + template.answer_start, " " + content + template.answer_end))
            read = ""
        elif message.role == "system":
            read += template.system_start + content + template.system_end
        else:
            read += template.user_start + content + template.user_end
    return exchanges, read
