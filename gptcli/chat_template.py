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
    text, answers, kept = "", [], 0
    for message in messages:
        if message.role == "assistant":
            text += template.answer_start
            start = len(text)
            text += " " + message.content.strip() + template.answer_end
            answers.append((start, len(text)))
            kept = len(text)
        elif message.role == "system":
            text += template.system_start + message.content.strip() + template.system_end
        else:
            text += template.user_start + message.content.strip() + template.user_end
    return Conversation(text[:kept], tuple(answers))


def write_prompt(messages: Sequence[Message], template: ChatTemplate) -> list[str]:
    """Return the pieces of text after which the model's next answer follows; end-of-text stands between pieces."""
    pieces, text = [], ""
    for message in messages:
        if message.role == "assistant":
            pieces.append(text + template.answer_start + " " + message.content.strip() + template.answer_end)
            text = ""
        elif message.role == "system":
            text += template.system_start + message.content.strip() + template.system_end
        else:
            text += template.user_start + message.content.strip() + template.user_end
    return [*pieces, text + template.answer_start]
