"""The step that comes next, before anything is drawn for it: a line sent, the text gone on with, an answer anew."""

from __future__ import annotations

from dataclasses import replace

from gptcli.chat.commands import CommandError
from gptcli.chat.page import Step, joint, last_sent, messages_of, text_of
from gptcli.errors import TokenizerError
from gptcli.reading import Content
from gptcli.tokenizer import Tokenizer
from gptcli.writing import WritingModel

SEND_FIRST = "Send a line first, or /more"


def content_of(model: WritingModel, step: Step | None) -> Content:
    """Return what stands up to and with a step: a text, or for a model tuned on conversations its messages."""
    return text_of(step) if model.chat is None else messages_of(step)


def sent(model: WritingModel, before: Step | None, line: str) -> Step:
    """Return the step of a line that is sent behind another: a turn, or text joined to the text before."""
    if model.chat is not None:
        return Step(before=before, line=line, given=line.strip())
    between = joint(text_of(before), line)
    if between and not _knows(model.tokenizer, between):  # a char tokenizer of a text without line ends
        between = " " if _knows(model.tokenizer, " ") else ""
    return Step(before=before, line=line, given=between + line)


def gone_on(model: WritingModel, last: Step | None) -> Step:
    """Return the step that goes on behind ``last``; ``CommandError`` where a conversation has nothing to answer."""
    if model.chat is not None:
        messages = messages_of(last)
        if not messages or messages[-1].role == "system":
            raise CommandError("Nothing was asked yet.", "Type what you want to say.")
    return Step(before=last)


def alternative(model: WritingModel, last: Step | None) -> Step:
    """Return the step that /best-of draws for: what follows the text, or another answer to the last question."""
    asked = last_sent(last)
    return gone_on(model, last) if model.chat is None or asked is None else undrawn(asked)


def undrawn(step: Step) -> Step:
    """Return a step as it was before its reply."""
    return replace(step, id=0, drawn=None, settings=None)


def replied(last: Step | None, what: str) -> Step:
    """Return ``last``, which must end with a reply; ``what`` is to be done to it."""
    if last is None or last.drawn is None:
        raise CommandError(f"There is no reply to {what}.", SEND_FIRST)
    return last


def _knows(tokenizer: Tokenizer, text: str) -> bool:
    try:
        return len(tokenizer.encode(text)) > 0
    except TokenizerError:
        return False
