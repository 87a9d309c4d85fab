"""What a model reads before it draws, and what ends its reply: plain text, or turns by its own template."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gptcli.chat_template import ChatTemplate, Message, write_prompt
from gptcli.config import SampleConfig
from gptcli.sample import Piece, chat_ids, generate, prompt_ids
from gptcli.writing import WritingModel

Content = str | Sequence[Message]
"""What stands so far: a text, or a conversation whose last message is to be answered or gone on with."""


def read_content(model: WritingModel, content: Content, template: ChatTemplate | None = None) -> Tensor:
    """Return the ids (n,) after which ``model`` goes on with ``content``.

    A conversation is written by the model's own template; a model that has none reads it as text in ``template``.
    Empty answers are left out. ``TokenizerError``: characters that the tokenizer does not have.
    """
    if isinstance(content, str):
        return prompt_ids(model.tokenizer, content)
    messages = [message for message in content if message.content or message.role != "assistant"]
    begun = messages.pop().content if messages and messages[-1].role == "assistant" else ""
    own = model.chat or template
    assert own is not None, "a conversation has a template"
    if model.chat is None:
        return prompt_ids(model.tokenizer, "".join(write_prompt(messages, own)) + (f" {begun}" if begun else ""))
    ids = chat_ids(model.tokenizer, messages, own)
    return torch.cat((ids, prompt_ids(model.tokenizer, f" {begun}"))) if begun else ids


def draw_pieces(
    model: WritingModel, content: Content, ids: Tensor, config: SampleConfig, *, logprobs: bool = False
) -> Generator[Piece]:
    """Yield what ``model`` writes after ``ids``, which ``read_content`` made of ``content``.

    The space before the first word of an answer belongs to the template and is taken away. An answer also ends where
    the model would go on as the person. A character of several tokens that the limit cuts in half is left out.
    """
    guards = () if isinstance(content, str) or model.chat is None else _guards(model.chat)
    config = config.model_copy(update={"stop": (*config.stop, *guards)})
    begins = not isinstance(content, str) and not _goes_on(content)
    begun: set[int] = set()
    for piece in generate(model.decoder, model.tokenizer, ids, config, logprobs=logprobs):
        text = piece.text
        if begins and text and piece.sample not in begun:
            begun.add(piece.sample)
            text = text.removeprefix(" ")
        if piece.finish_reason == "length":
            text = _whole(text, guards)
        yield piece if text == piece.text else replace(piece, text=text)


def _whole(text: str, guards: tuple[str, ...]) -> str:
    """Return the end of a reply without half a character, and without the beginning of a guard."""
    text = text.removesuffix("\ufffd")
    cuts = [guard[:n] for guard in guards for n in range(len(guard) - 1, 0, -1) if text.endswith(guard[:n])]
    return text.removesuffix(cuts[0]) if cuts else text


def _goes_on(content: Sequence[Message]) -> bool:
    """Say whether the last message is an answer that has begun."""
    return bool(content) and content[-1].role == "assistant" and bool(content[-1].content)


def _guards(template: ChatTemplate) -> tuple[str, ...]:
    start = template.user_start.strip()
    return (f"\n{start}",) if start else ()
