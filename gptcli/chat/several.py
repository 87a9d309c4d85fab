"""Replies beside the text: several of one model to choose from, and one of another model to compare with.

Nothing of them stands in the text until one is taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator

from gptcli.chat.commands import CommandError, whole_number
from gptcli.chat.drafts import alternative, content_of, undrawn
from gptcli.chat.events import ChatEvent, Columns, Drawn, Ended, Said
from gptcli.chat.page import Step
from gptcli.chat.replies import Drawing, Offer
from gptcli.chat.sheet import Sheet
from gptcli.errors import TokenizerError
from gptcli.reading import draw_pieces, read_content
from gptcli.sample import Piece
from gptcli.writing import WritingModel

MAX_CHOICES = 64


def draw_several(sheet: Sheet, argument: str) -> Generator[ChatEvent, None, Offer | None]:
    """Draw as many continuations as the argument says (4 without one); return them, or None when that was stopped."""
    n = whole_number(argument or "4")
    if n is None or not 1 <= n <= MAX_CHOICES:
        raise CommandError(
            f"/best-of draws from 1 to {MAX_CHOICES} continuations, not {argument}.", "Such as: /best-of 4"
        )
    settings = sheet.config.model_copy(update={"seed": sheet.seeds.free(sheet.config.seed, n), "num_samples": n})
    draft = alternative(sheet.model, sheet.last)
    content, ids = sheet.read(draft)
    yield from sheet.note_trimming(len(ids))
    drawing = Drawing(settings)
    try:
        yield from _silent(drawing, draw_pieces(sheet.model, content, ids, settings))
    except KeyboardInterrupt:
        yield Said("Stopped; the text stays as it was.")
        return None
    sheet.seeds.use(settings)
    sheet.note_speed(drawing.tokens, drawing.seconds)
    sheet.keep("choices", texts=[reply.text for reply in drawing.replies], seed=settings.seed)
    if n > 1:
        sheet.note_certainty()
    return Offer(draft, settings, drawing)


def choice_of(offer: Offer, answer: str) -> int:
    """Return which reply of an offer a line takes, from 0; ``CommandError`` for one that takes none of them."""
    number, n = whole_number(answer), len(offer.drawing.replies)
    if number is None or not 1 <= number <= n:
        raise CommandError(
            f"{answer!r} is none of the {n} continuations.",
            f"Type a number from 1 to {n}, or nothing to take none.",
        )
    return number - 1


def take_choice(sheet: Sheet, offer: Offer, choice: int) -> Iterator[ChatEvent]:
    """Put a reply of an offer, counted from 0, on the sheet."""
    reply, drawing = offer.drawing.replies[choice], offer.drawing
    sheet.commit(offer.draft, reply, offer.settings_of(choice), drawing.seconds)
    sheet.note_speed(drawing.tokens, drawing.seconds)
    yield Drawn(reply.text)
    yield Ended(reply.finish_reason, reply.tokens, drawing.seconds)


def compare_reply(sheet: Sheet, last: Step, other: WritingModel) -> Iterator[ChatEvent]:
    """Let another model draw the reply of a step, from the same text with the same settings."""
    assert last.settings is not None, "a reply has settings"
    content = content_of(sheet.model, undrawn(last))
    try:
        ids = read_content(other, content, sheet.model.chat)
    except TokenizerError as error:
        raise CommandError(f"{other.name} cannot read this text. {error.message}", error.hint) from error
    drawing = Drawing(last.settings)
    reply = drawing.replies[0]
    with contextlib.suppress(KeyboardInterrupt):
        yield from _silent(drawing, draw_pieces(other, content, ids, last.settings))
    sheet.keep("compare", model=other.name, text=reply.text, seed=last.settings.seed, tokens=reply.tokens)
    yield Columns(sheet.model.name, last.drawn or "", other.name, reply.text)


def _silent(drawing: Drawing, pieces: Generator[Piece]) -> Iterator[ChatEvent]:
    """Draw without showing, with an occasion to stop at every token."""
    with contextlib.closing(pieces):
        for _ in drawing.follow(pieces):
            yield Drawn("")
