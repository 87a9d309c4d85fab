"""What stands on the desk: a chain of steps, each a line and what was drawn behind it, and the text they make.

Steps never change, so that going back is going to another step. Nothing here reads or draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gptcli.chat_template import ChatTemplate, Message
from gptcli.config import SampleConfig

# What a line begins with that goes on in a sentence; a space before these would be one too many.
_CLOSING = ",.;:!?…)]}%"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of a text: what came from the person, and then what the model drew."""

    id: int = 0
    """From 1 in the order of their making; 0 for one that is yet to be drawn."""
    before: Step | None = field(default=None, repr=False)
    line: str | None = None
    """As it was sent; None where nothing was: /more, /load."""
    given: str = ""
    """The line with what joins it to the text before; of a conversation, the turn."""
    loaded: tuple[Message, ...] | None = None
    """The conversation that this step begins with."""
    drawn: str | None = None
    """What the model wrote; None where it was not asked."""
    settings: SampleConfig | None = None
    """With the seed in it: what the reply was drawn with."""


def steps(last: Step | None) -> list[Step]:
    """Return the chain that ends with ``last``, the first first."""
    chain = []
    while last is not None:
        chain.append(last)
        last = last.before
    return chain[::-1]


def text_of(last: Step | None) -> str:
    """Return the text of a chain."""
    return "".join(step.given + (step.drawn or "") for step in steps(last))


def messages_of(last: Step | None) -> list[Message]:
    """Return the conversation of a chain; an answer that was not drawn to its end is one as far as it goes."""
    messages: list[Message] = []
    for step in steps(last):
        if step.loaded is not None:
            messages = list(step.loaded)
        if step.line is not None:
            messages.append(Message("user", step.given))
        if step.drawn is not None:
            if messages and messages[-1].role == "assistant":
                messages[-1] = Message("assistant", messages[-1].content + step.drawn)
            else:
                messages.append(Message("assistant", step.drawn))
    return messages


def conversation_text(messages: Iterable[Message], template: ChatTemplate) -> str:
    """Return a conversation as a person reads it, in the words of its template, a turn on its own line."""
    text = ""
    for message in messages:
        if message.role == "assistant":
            text += f"{template.answer_start} {message.content.strip()}\n"
        elif message.role == "system":
            text += f"{template.system_start}{message.content.strip()}{template.system_end}"
        else:
            text += f"{template.user_start}{message.content.strip()}{template.user_end}"
    return text


def drawn_of(last: Step | None) -> list[str]:
    """Return all that the model wrote, in one text for each stretch with nothing of the person's in between."""
    parts: list[str] = []
    for step in steps(last):
        if step.given or step.loaded or not parts:
            parts.append("")
        parts[-1] += step.drawn or ""
    return [part for part in parts if part]


def last_sent(last: Step | None) -> Step | None:
    """Return the step of the last line that was sent."""
    return next((step for step in reversed(steps(last)) if step.line is not None), None)


def joint(text: str, line: str) -> str:
    """Return what belongs between a text and the line that is sent after it.

    Nothing before the first line, nor where either side has white space already. A line that begins with a small
    letter goes on in the sentence, after a space, and one with a comma or the like right there. Any other begins
    on a line of its own, as it does on the screen; begin it with a space to stay in the line.
    """
    if not text or text[-1].isspace() or line[:1].isspace() or line[:1] in _CLOSING:
        return ""
    return " " if line[0].islower() else "\n"
