"""A session at the writing desk: what each line that comes does to the text, told in events.

A base model goes on with the text; one tuned on conversations answers. The session owns the text, its undoing and
the seeds, and it prints nothing. Every reply has a seed of its own, so that the same lines give the same text again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from gptcli.chat.commands import COMMANDS, CommandError, Order, help_text, read_line
from gptcli.chat.drafts import SEND_FIRST, alternative, content_of, gone_on, replied, sent, undrawn
from gptcli.chat.events import (
    ChatEvent,
    Choices,
    Columns,
    Drawn,
    EditRequest,
    Ended,
    Given,
    Leave,
    Ranked,
    Said,
    Wrong,
)
from gptcli.chat.log import ChatLog
from gptcli.chat.page import Step, conversation_text, drawn_of, last_sent, messages_of, text_of
from gptcli.chat.replies import N_SEEDS, Drawing, Offer, Reply, Seeds
from gptcli.chat.saving import load_conversation, load_text, named_file, save_conversation, save_text
from gptcli.chat.settings import changed_settings, read_settings, settings_table, shown_value
from gptcli.config import SampleConfig
from gptcli.documents import normalize_newlines, well_formed
from gptcli.errors import GptcliError, TokenizerError
from gptcli.reading import Content, draw_pieces, read_content
from gptcli.runs import RunDir
from gptcli.sample import Piece, next_tokens, trimmed
from gptcli.writing import WritingModel

if TYPE_CHECKING:
    from torch import Tensor

    from gptcli.copies.check import CopyIndex

MAX_CHOICES = 64
N_RANKED = 10


class Session:
    """A text or a conversation with a model, changed line by line.

    ``config`` is what /set changes; ``open_model`` opens what /compare names, ``open_copies`` what /copies asks.
    """

    def __init__(
        self,
        model: WritingModel,
        *,
        open_model: Callable[[str], WritingModel],
        open_copies: Callable[[RunDir], CopyIndex],
        log: ChatLog | None,
        config: SampleConfig | None = None,
    ) -> None:
        self.config = (config or model.defaults).model_copy(update={"prompt": "", "num_samples": 1})
        self.tokens_per_second: float | None = None
        """Of the last reply; of /best-of all its tokens together."""
        self._model = model
        self._open_model, self._models = open_model, {model.name: model}
        self._open_copies = open_copies
        self._copies: CopyIndex | None = None
        self._log = log
        self._notes: list[str] = []
        self._last: Step | None = None
        self._earlier: list[Step | None] = []
        self._n_steps = 0
        self._seeds = Seeds()
        self._offer: Offer | None = None
        self._sees_all = True
        if log is not None:
            log.facts = {
                "model": model.name,
                "step": model.step,
                "val_loss": model.val_loss,
                "conversation": model.chat is not None,
                "settings": self.config.model_dump(mode="json", exclude={"prompt", "num_samples"}),
            }

    @property
    def choosing(self) -> bool:
        """Whether the next line is a choice between the texts of /best-of."""
        return self._offer is not None

    @property
    def text(self) -> str:
        """The whole text of a base model, or the conversation as text."""
        if self._model.chat is None:
            return text_of(self._last)
        return conversation_text(messages_of(self._last), self._model.chat)

    def completions(self) -> list[str]:
        """Return every command as it is typed, with what it does."""
        return [f"{command.usage}  {command.summary}" for command in COMMANDS]

    def feed(self, line: str) -> Iterator[ChatEvent]:
        """Take one input, which may hold several lines, and tell what comes of it.

        Closing the iterator stops a reply and keeps what was drawn; so does ``KeyboardInterrupt`` while the model
        draws, and then ``Ended`` says so. What the person cannot do is told as ``Wrong`` and changes nothing.
        """
        line = well_formed(normalize_newlines(line))
        if self._log is not None and (self._log.begun or not line.startswith("/")):
            self._keep("input", line=line)
        try:
            yield from self._take(line)
        except GptcliError as error:
            yield Wrong(error.message, error.hint)
        notes, self._notes = self._notes, []
        for text in notes:
            yield Said(text)

    def _take(self, line: str) -> Iterator[ChatEvent]:
        if self._offer is not None and (not line.startswith("/") or line.startswith("//")):
            return self._choose(self._offer, line.strip())
        order = read_line(line)
        if not isinstance(order, Order):
            return self._send(order)
        if self._offer is not None:
            self._offer = None
            if order.name == "undo":
                return iter((Said("None was taken."),))
        return self._orders()[order.name](order.argument)

    def _orders(self) -> dict[str, Callable[[str], Iterator[ChatEvent]]]:
        return {
            "more": self._more,
            "retry": self._retry,
            "undo": self._undo,
            "edit": self._edit,
            "best-of": self._best_of,
            "next": self._next,
            "set": self._set,
            "params": self._params,
            "compare": self._compare,
            "save": self._save,
            "load": self._load,
            "copies": self._ask_copies,
            "new": self._new,
            "help": lambda name: iter((Said(help_text(name)),)),
            "quit": lambda _: iter((Leave(),)),
        }

    # What changes the text.

    def _send(self, line: str) -> Iterator[ChatEvent]:
        if not line or (self._model.chat is not None and not line.strip()):
            what = "text" if self._model.chat is None else "last answer"
            return iter((Said(f"An empty line sends nothing; /more goes on with the {what}."),))
        return self._reply(sent(self._model, self._last, line))

    def _more(self, _: str) -> Iterator[ChatEvent]:
        return self._reply(gone_on(self._model, self._last))

    def _retry(self, argument: str) -> Iterator[ChatEvent]:
        last = replied(self._last, "draw again")
        if not argument:
            return self._reply(undrawn(last))
        seed = _number(argument)
        if seed is None or seed >= N_SEEDS:
            raise CommandError(
                f"{argument!r} is no seed; expected is a whole number from 0 to 2**63 - 1.", "Such as: /retry 42"
            )
        return self._reply(undrawn(last), seed=seed)

    def _edit(self, text: str) -> Iterator[ChatEvent]:
        asked = last_sent(self._last)
        if asked is None or asked.line is None:
            raise CommandError("No line was sent yet that could be edited.", SEND_FIRST)
        if not text.strip():
            return iter((EditRequest(asked.line),))
        return self._reply(sent(self._model, asked.before, text))

    def _undo(self, _: str) -> Iterator[ChatEvent]:
        if not self._earlier:
            raise CommandError("There is nothing to take back.", SEND_FIRST)
        self._last = self._earlier.pop()
        self._keep("undo", head=self._last.id if self._last else 0)
        yield Said("Took back the last step." if self.text else "Took back the last step; the text is empty now.")
        if self.text:
            yield Given(self.text)

    def _new(self, _: str) -> Iterator[ChatEvent]:
        if self._last is None:
            return iter((Said("The text is empty already."),))
        self._move(None)
        self._keep("new", head=0)
        return iter((Said("A new text begins. /undo brings the old one back."),))

    def _load(self, argument: str) -> Iterator[ChatEvent]:
        path = named_file(_needed(argument, "load", "a file", "/load story.txt"))
        if self._model.chat is None:
            step = Step(id=self._new_id(), given=load_text(path))
        else:
            step = Step(id=self._new_id(), loaded=load_conversation(path))
        self._read(step)
        self._move(step)
        messages = [message._asdict() for message in step.loaded or ()] or None
        self._keep("load", id=step.id, after=0, file=str(path), given=step.given, messages=messages)
        yield Given(self.text)

    # How replies come about.

    def _reply(self, draft: Step, *, seed: int | None = None) -> Iterator[ChatEvent]:
        """Draw what follows a step, and put the step with it on the page, also when it is stopped."""
        seed = self._seeds.free(self.config.seed) if seed is None else seed
        settings = self.config.model_copy(update={"seed": seed})
        content, ids = self._read(draft)
        yield from self._note_trimming(len(ids))
        drawing = Drawing(settings)
        reply = drawing.replies[0]
        try:
            if draft.given and self._model.chat is None:
                yield Given(draft.given)
            with contextlib.closing(draw_pieces(self._model, content, ids, settings)) as pieces:
                for piece in drawing.follow(pieces):
                    yield Drawn(piece.text)
        except GeneratorExit:
            self._commit(draft, reply, settings, drawing.seconds)
            raise
        except KeyboardInterrupt:
            pass
        self._commit(draft, reply, settings, drawing.seconds)
        yield Ended(reply.finish_reason, reply.tokens, drawing.seconds)
        if reply.finish_reason == "stop" and not reply.text:
            yield Said("Nothing was added: the model wrote a stop string at once. /retry draws again.")

    def _read(self, draft: Step) -> tuple[Content, Tensor]:
        """Return what stands before a reply, and its ids."""
        content = content_of(self._model, draft)
        return content, read_content(self._model, content)

    def _commit(self, draft: Step, reply: Reply, settings: SampleConfig, seconds: float) -> None:
        """Put a step with its reply on the page."""
        step = replace(draft, id=self._new_id(), drawn=reply.text, settings=settings)
        self._move(step)
        self._seeds.use(settings)
        self._note_speed(reply.tokens, seconds)
        self._keep(
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

    def _move(self, step: Step | None) -> None:
        self._earlier.append(self._last)
        self._last = step

    def _new_id(self) -> int:
        self._n_steps += 1
        return self._n_steps

    def _note_speed(self, tokens: int, seconds: float) -> None:
        self.tokens_per_second = tokens / seconds if tokens and seconds > 0 else self.tokens_per_second

    def _note_trimming(self, n_tokens: int) -> Iterator[ChatEvent]:
        block_size = self._model.decoder.config.block_size
        lost = trimmed(n_tokens, self._model.decoder.config)
        if lost and self._sees_all:
            what = "text" if self._model.chat is None else "conversation"
            yield Said(
                f"The {what} is longer than the {block_size:,} tokens the model reads; "
                f"it sees the last {n_tokens - lost:,}."
            )
        self._sees_all = not lost

    # Several replies at once.

    def _best_of(self, argument: str) -> Iterator[ChatEvent]:
        n = _number(argument or "4")
        if n is None or not 1 <= n <= MAX_CHOICES:
            raise CommandError(
                f"/best-of draws from 1 to {MAX_CHOICES} continuations, not {argument}.", "Such as: /best-of 4"
            )
        settings = self.config.model_copy(update={"seed": self._seeds.free(self.config.seed, n), "num_samples": n})
        draft = alternative(self._model, self._last)
        content, ids = self._read(draft)
        yield from self._note_trimming(len(ids))
        drawing = Drawing(settings)
        try:
            yield from _silent(drawing, draw_pieces(self._model, content, ids, settings))
        except KeyboardInterrupt:
            yield Said("Stopped; the text stays as it was.")
            return
        self._seeds.use(settings)
        self._note_speed(drawing.tokens, drawing.seconds)
        self._offer = Offer(draft, settings, drawing)
        texts = [reply.text for reply in drawing.replies]
        self._keep("choices", texts=texts, seed=settings.seed)
        yield Choices(texts)

    def _choose(self, offer: Offer, answer: str) -> Iterator[ChatEvent]:
        replies = offer.drawing.replies
        if not answer:
            self._offer = None
            yield Said("None was taken.")
            return
        number = _number(answer)
        if number is None or not 1 <= number <= len(replies):
            raise CommandError(
                f"{answer!r} is none of the {len(replies)} continuations.",
                f"Type a number from 1 to {len(replies)}, or nothing to take none.",
            )
        self._offer = None
        reply = replies[number - 1]
        self._commit(offer.draft, reply, offer.settings_of(number - 1), offer.drawing.seconds)
        self._note_speed(offer.drawing.tokens, offer.drawing.seconds)
        yield Drawn(reply.text)
        yield Ended(reply.finish_reason, reply.tokens, offer.drawing.seconds)

    def _compare(self, argument: str) -> Iterator[ChatEvent]:
        name = _needed(argument, "compare", "another model", "/compare RUN")
        last = replied(self._last, "compare")
        assert last.settings is not None, "a reply has settings"
        if name not in self._models:
            self._models[name] = self._open_model(name)
        other = self._models[name]
        content = content_of(self._model, undrawn(last))
        try:
            ids = read_content(other, content, self._model.chat)
        except TokenizerError as error:
            raise CommandError(f"{other.name} cannot read this text. {error.message}", error.hint) from error
        drawing = Drawing(last.settings)
        reply = drawing.replies[0]
        with contextlib.suppress(KeyboardInterrupt):
            yield from _silent(drawing, draw_pieces(other, content, ids, last.settings))
        self._keep("compare", model=other.name, text=reply.text, seed=last.settings.seed, tokens=reply.tokens)
        yield Columns(self._model.name, last.drawn or "", other.name, reply.text)

    # What only looks, sets and keeps.

    def _next(self, _: str) -> Iterator[ChatEvent]:
        ids = self._read(gone_on(self._model, self._last))[1]
        found = next_tokens(self._model.decoder, self._model.tokenizer, ids, N_RANKED)
        end = self._model.tokenizer.end_of_text
        rows = [("<end of text>" if token.token_id == end else token.text, token.probability) for token in found]
        yield Ranked(rows)

    def _set(self, argument: str) -> Iterator[ChatEvent]:
        self.config, names = read_settings(argument, self.config)
        if "seed" in names:
            self._seeds.clear()
        values = self.config.model_dump(mode="json")
        self._keep("set", settings={name: values[name] for name in names})
        yield Said(", ".join(f"{name} {shown_value(getattr(self.config, name))}" for name in names))

    def _params(self, _: str) -> Iterator[ChatEvent]:
        yield Said(settings_table(self.config, self._model.defaults, self._seeds.free(self.config.seed)))

    def _ask_copies(self, _: str) -> Iterator[ChatEvent]:
        drawn = drawn_of(self._last)
        if self._model.run is None:
            raise CommandError(
                f"{self._model.name} is no run, so its training text is not known.", "gptcli runs list shows the runs."
            )
        if not drawn:
            raise CommandError("Nothing was drawn yet that could be a copy.", SEND_FIRST)
        if self._copies is None:
            self._copies = self._open_copies(self._model.run)
        report = self._copies.check(drawn)
        self._keep("copies", report=report.to_json())
        yield Said("\n".join(report.lines()))

    def _save(self, argument: str) -> Iterator[ChatEvent]:
        path = named_file(_needed(argument, "save", "a file", "/save story.md"))
        facts = {"model": self._model.name, "step": self._model.step}
        facts |= {"seed": self.config.seed, **changed_settings(self.config, SampleConfig())}
        if self._model.chat is None:
            done = save_text(path, self.text, facts)
        else:
            done = save_conversation(path, messages_of(self._last), self._model.chat, facts)
        self._keep("save", file=str(path))
        yield Said(done)

    def _keep(self, event: str, **values: object) -> None:
        """Log an event; where that cannot be, a note says so once and the session goes on."""
        if self._log is None:
            return
        try:
            self._log.write(event, **values)
        except OSError as error:
            self._notes.append(f"This session is not kept: {self._log.path} cannot be written ({error.strerror}).")


def _silent(drawing: Drawing, pieces: Generator[Piece]) -> Iterator[ChatEvent]:
    """Draw without showing, with an occasion to stop at every token."""
    with contextlib.closing(pieces):
        for _ in drawing.follow(pieces):
            yield Drawn("")


def _number(text: str) -> int | None:
    """Return the number that a text is, of up to 30 digits; None for any other."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 30 else None


def _needed(argument: str, command: str, what: str, example: str) -> str:
    if not argument:
        raise CommandError(f"/{command} needs {what}.", f"Such as: {example}")
    return argument
