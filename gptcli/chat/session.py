"""A session at the writing desk: what each line that comes does to the text, told in events.

A base model goes on with the text; one tuned on conversations answers. The session knows the commands and prints
nothing. Every reply has a seed of its own, so that the same lines give the same text again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gptcli.chat.commands import CommandError, Order, help_text, needed, read_line, whole_number
from gptcli.chat.drafts import SEND_FIRST, gone_on, replied, sent, undrawn
from gptcli.chat.events import ChatEvent, Choices, EditRequest, Given, Leave, Ranked, Said, Wrong
from gptcli.chat.log import ChatLog
from gptcli.chat.page import Step, drawn_of, last_sent, messages_of, text_of
from gptcli.chat.replies import N_SEEDS, Offer
from gptcli.chat.saving import Written, load_conversation, load_text, named_file, save_conversation, save_text
from gptcli.chat.settings import changed_settings, read_settings, settings_table, shown_value
from gptcli.chat.several import choice_of, compare_reply, draw_several, take_choice
from gptcli.chat.sheet import Sheet
from gptcli.config import SampleConfig
from gptcli.documents import normalize_newlines, well_formed
from gptcli.errors import GptcliError, is_out_of_memory
from gptcli.runs import RunDir
from gptcli.sample import next_tokens
from gptcli.writing import WritingModel

if TYPE_CHECKING:
    from gptcli.copies.check import CopyIndex

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
        config = (config or model.defaults).model_copy(update={"prompt": "", "num_samples": 1})
        self._model = model
        self._sheet = Sheet(model, config, log)
        self._open_model, self._models = open_model, {model.name: model}
        self._open_copies = open_copies
        self._copies: CopyIndex | None = None
        self._offer: Offer | None = None
        self._written: Written = {}
        if log is not None:
            log.facts = {
                "model": model.name,
                "step": model.step,
                "val_loss": model.val_loss,
                "conversation": model.chat is not None,
                "settings": config.model_dump(mode="json", exclude={"prompt", "num_samples"}),
            }

    @property
    def config(self) -> SampleConfig:
        """What the next reply is drawn with, but for its seed."""
        return self._sheet.config

    @property
    def tokens_per_second(self) -> float | None:
        """Of the last reply; of /best-of all its tokens together."""
        return self._sheet.tokens_per_second

    @property
    def choosing(self) -> bool:
        """Whether the next line is a choice between the texts of /best-of."""
        return self._offer is not None

    @property
    def text(self) -> str:
        """The whole text of a base model, or the conversation as text."""
        return self._sheet.text

    @property
    def undrawn_text(self) -> str:
        """The text of a base model as it was before the last reply, with the line that asked for it."""
        last = self._sheet.last
        return text_of(last and undrawn(last))

    def feed(self, line: str) -> Iterator[ChatEvent]:
        """Take one input, which may hold several lines, and tell what comes of it.

        Closing the iterator stops a reply and keeps what was drawn; so does ``KeyboardInterrupt`` while the model
        draws, and then ``Ended`` says so. What cannot be done is told as ``Wrong``, and so is what the system refuses;
        it changes nothing, but that a reply which fails on its way is kept as far as it came.
        """
        line = well_formed(normalize_newlines(line))
        log = self._sheet.log
        if log is not None and (log.begun or not line.startswith("/")):
            self._sheet.keep("input", line=line)
        try:
            yield from self._take(line)
        except (GptcliError, OSError, MemoryError, RuntimeError) as error:
            yield _wrong(error)
        notes, self._sheet.notes = self._sheet.notes, []
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
        return self._sheet.reply(sent(self._model, self._sheet.last, line))

    def _more(self, _: str) -> Iterator[ChatEvent]:
        return self._sheet.reply(gone_on(self._model, self._sheet.last))

    def _retry(self, argument: str) -> Iterator[ChatEvent]:
        last = replied(self._sheet.last, "draw again")
        seed = whole_number(argument)
        if argument and (seed is None or seed >= N_SEEDS):
            raise CommandError(
                f"{argument!r} is no seed; expected is a whole number from 0 to 2**63 - 1.", "Such as: /retry 42"
            )
        yield from self._sheet.reply(undrawn(last), seed=seed)
        self._sheet.note_certainty()

    def _edit(self, text: str) -> Iterator[ChatEvent]:
        asked = last_sent(self._sheet.last)
        if asked is None or asked.line is None:
            raise CommandError("No line was sent yet that could be edited.", SEND_FIRST)
        if not text.strip():
            return iter((EditRequest(asked.line),))
        return self._sheet.reply(sent(self._model, asked.before, text))

    def _undo(self, _: str) -> Iterator[ChatEvent]:
        sheet = self._sheet
        if not sheet.earlier:
            raise CommandError("There is nothing to take back.", SEND_FIRST)
        back = sheet.earlier[-1]
        sheet.keep("undo", head=back.id if back else 0)
        sheet.last = sheet.earlier.pop()
        yield Said("Took back the last step." if self.text else "Took back the last step; the text is empty now.")
        if self.text:
            yield Given(self.text)

    def _new(self, _: str) -> Iterator[ChatEvent]:
        if self._sheet.last is None:
            return iter((Said("The text is empty already."),))
        self._sheet.keep("new", head=0)
        self._sheet.move(None)
        return iter((Said("A new text begins. /undo brings the old one back."),))

    def _load(self, argument: str) -> Iterator[ChatEvent]:
        path = named_file(needed(argument, "load", "a file", "/load story.txt"))
        sheet = self._sheet
        if self._model.chat is None:
            step = Step(id=sheet.new_id(), given=load_text(path))
        else:
            step = Step(id=sheet.new_id(), loaded=load_conversation(path))
        sheet.read(step)
        messages = [message._asdict() for message in step.loaded or ()] or None
        sheet.keep("load", id=step.id, after=0, file=str(path), given=step.given, messages=messages)
        sheet.move(step)
        yield Given(self.text)

    # Replies beside the text.

    def _best_of(self, argument: str) -> Iterator[ChatEvent]:
        self._offer = yield from draw_several(self._sheet, argument)
        if self._offer is not None:
            yield Choices([reply.text for reply in self._offer.drawing.replies])

    def _choose(self, offer: Offer, answer: str) -> Iterator[ChatEvent]:
        choice = choice_of(offer, answer) if answer else None
        self._offer = None
        if choice is None:
            yield Said("None was taken.")
        else:
            yield from take_choice(self._sheet, offer, choice)

    def _compare(self, argument: str) -> Iterator[ChatEvent]:
        name = needed(argument, "compare", "another model", "/compare RUN")
        last = replied(self._sheet.last, "compare")
        if name not in self._models:
            self._models[name] = self._open_model(name)
        yield from compare_reply(self._sheet, last, self._models[name])

    # What only looks, sets and keeps.

    def _next(self, _: str) -> Iterator[ChatEvent]:
        ids = self._sheet.read(gone_on(self._model, self._sheet.last))[1]
        found = next_tokens(self._model.decoder, self._model.tokenizer, ids, N_RANKED)
        end = self._model.tokenizer.end_of_text
        rows = [("<end of text>" if token.token_id == end else token.text, token.probability) for token in found]
        yield Ranked(rows)

    def _set(self, argument: str) -> Iterator[ChatEvent]:
        config, names = read_settings(argument, self.config)
        self._sheet.config = config
        if "seed" in names:
            self._sheet.seeds.clear()
        values = config.model_dump(mode="json")
        self._sheet.keep("set", settings={name: values[name] for name in names})
        yield Said(", ".join(f"{name} {shown_value(getattr(config, name))}" for name in names))

    def _params(self, _: str) -> Iterator[ChatEvent]:
        next_seed = self._sheet.seeds.free(self.config.seed)
        yield Said(settings_table(self.config, self._model.defaults, next_seed))

    def _ask_copies(self, _: str) -> Iterator[ChatEvent]:
        drawn = drawn_of(self._sheet.last)
        if self._model.run is None:
            raise CommandError(
                f"{self._model.name} is no run, so its training text is not known.", "gptcli runs list shows the runs."
            )
        if not drawn:
            raise CommandError("Nothing was drawn yet that could be a copy.", SEND_FIRST)
        if self._copies is None:
            self._copies = self._open_copies(self._model.run)
        report = self._copies.check(drawn)
        self._sheet.keep("copies", report=report.to_json())
        yield Said("\n".join(report.lines()))

    def _save(self, argument: str) -> Iterator[ChatEvent]:
        path = named_file(needed(argument, "save", "a file", "/save story.md"))
        facts = {"model": self._model.name, "step": self._model.step}
        facts |= {"seed": self.config.seed, **changed_settings(self.config, SampleConfig())}
        if self._model.chat is None:
            done = save_text(path, self.text, facts, self._written)
        else:
            done = save_conversation(path, messages_of(self._sheet.last), self._model.chat, facts, self._written)
        self._sheet.keep("save", file=str(path))
        yield Said(done)


def _wrong(error: Exception) -> Wrong:
    """Return what the person is told of an error; raises one again that is a mistake of ours."""
    if isinstance(error, GptcliError):
        return Wrong(error.message, error.hint)
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        return Wrong(f"{error.filename}: {what}." if error.filename else f"{what}.")
    if is_out_of_memory(error):
        return Wrong("There is not enough memory for this.", "Draw less at once, such as: /set max_new_tokens 256")
    raise error
