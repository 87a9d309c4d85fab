"""The sheet on the desk: the steps that make the text, the way back, the seeds, and how a reply comes onto it.

It owns what is drawn next and what is kept of it in the log. Which line asks for what is the session's business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from gptcli.chat.drafts import content_of
from gptcli.chat.events import ChatEvent, Drawn, Ended, Given, Said
from gptcli.chat.log import ChatLog
from gptcli.chat.page import Step, conversation_text, messages_of, text_of
from gptcli.chat.replies import Drawing, Reply, Seeds
from gptcli.config import SampleConfig
from gptcli.reading import Content, draw_pieces, read_content
from gptcli.sample import TINY, trimmed
from gptcli.writing import WritingModel

if TYPE_CHECKING:
    from torch import Tensor


class Sheet:
    """A text or a conversation with a model; ``config`` is what the next reply is drawn with, but for its seed."""

    def __init__(self, model: WritingModel, config: SampleConfig, log: ChatLog | None) -> None:
        self.model, self.config, self.log = model, config, log
        self.last: Step | None = None
        self.earlier: list[Step | None] = []
        """What was last before each step, for /undo."""
        self.seeds = Seeds()
        self.notes: list[str] = []
        """What is to be said when the line is done."""
        self.tokens_per_second: float | None = None
        self._n_steps = 0
        self._sees_all = True
        self._told_certain = False

    @property
    def text(self) -> str:
        """The whole text of a base model, or the conversation as text."""
        if self.model.chat is None:
            return text_of(self.last)
        return conversation_text(messages_of(self.last), self.model.chat)

    def new_id(self) -> int:
        """Return the number of the next step."""
        self._n_steps += 1
        return self._n_steps

    def move(self, step: Step | None) -> None:
        """Make a step the last one, so that /undo leads back; log it first, since Ctrl-C may come between."""
        self.earlier.append(self.last)
        self.last = step

    def read(self, draft: Step) -> tuple[Content, Tensor]:
        """Return what stands before a reply, and its ids."""
        content = content_of(self.model, draft)
        return content, read_content(self.model, content)

    def reply(self, draft: Step, *, seed: int | None = None) -> Iterator[ChatEvent]:
        """Draw what follows a step, and put the step with it here, also when it is stopped or fails on its way."""
        seed = self.seeds.free(self.config.seed) if seed is None else seed
        settings = self.config.model_copy(update={"seed": seed})
        content, ids = self.read(draft)
        yield from self.note_trimming(len(ids))
        drawing = Drawing(settings)
        reply = drawing.replies[0]
        try:
            if draft.given and self.model.chat is None:
                yield Given(draft.given)
            with contextlib.closing(draw_pieces(self.model, content, ids, settings)) as pieces:
                for piece in drawing.follow(pieces):
                    yield Drawn(piece.text)
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            if reply.tokens or isinstance(error, GeneratorExit):
                self.commit(draft, reply, settings, drawing.seconds)
            if reply.tokens and isinstance(error, Exception):
                self.notes.append("What was drawn until then is kept; /undo takes it back.")
            raise
        self.commit(draft, reply, settings, drawing.seconds)
        yield Ended(reply.finish_reason, reply.tokens, drawing.seconds)
        if reply.finish_reason == "stop" and not reply.text:
            yield Said("Nothing was added: the model wrote a stop string at once. /retry draws again.")

    def commit(self, draft: Step, reply: Reply, settings: SampleConfig, seconds: float) -> None:
        """Put a step with its reply on the sheet."""
        step = replace(draft, id=self.new_id(), drawn=reply.text, settings=settings)
        self.keep(
            "reply",
            id=step.id,
            after=step.before.id if step.before else 0,
            line=step.line,
            given=step.given,
            text=step.drawn,
            seed=settings.seed,
            tokens=reply.tokens,
            finish_reason=reply.finish_reason,
            seconds=round(seconds, 3),
        )
        self.move(step)
        self.seeds.use(settings)
        self.note_speed(reply.tokens, seconds)

    def keep(self, event: str, **values: object) -> None:
        """Log an event; where that cannot be, a note says so once and the session goes on."""
        if self.log is None:
            return
        try:
            self.log.write(event, **values)
        except OSError as error:
            self.notes.append(f"This session is not kept: {self.log.path} cannot be written ({error.strerror}).")

    def note_speed(self, tokens: int, seconds: float) -> None:
        """Remember how fast tokens came."""
        self.tokens_per_second = tokens / seconds if tokens and seconds > 0 else self.tokens_per_second

    def note_trimming(self, n_tokens: int) -> Iterator[ChatEvent]:
        """Say when the model begins to see less than all."""
        block_size = self.model.decoder.config.block_size
        lost = trimmed(n_tokens, self.model.decoder.config)
        if lost and self._sees_all:
            what = "text" if self.model.chat is None else "conversation"
            yield Said(
                f"The {what} is longer than the {block_size:,} tokens the model reads; "
                f"it sees the last {n_tokens - lost:,}."
            )
        self._sees_all = not lost

    def note_certainty(self) -> None:
        """Say once that another seed draws nothing else where chance has no part."""
        if self.config.temperature < TINY and not self._told_certain:
            self._told_certain = True
            self.notes.append("At temperature 0 every seed draws the same; /set temperature 0.8 lets them differ.")
