"""The train/val split: a plan from one pass over the documents, carried out in a second one.

Duplicates are removed on the way, so none straddles the split. Neither pass holds more than one part of a text.
Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from gptcli.documents import Document, Span, cut_out, nearest_break
from gptcli.errors import CorpusError
from gptcli.survey import LEFT_OUT, VAL, Survey, survey_documents

Split = Literal["train", "val"]
_NOWHERE = Span(0, 0, 0)


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How a corpus is split, and why.

    ``document``: a hash of each document decides. ``paragraph``: the tail of each document from a paragraph on is val.
    ``position``: the texts as one string are cut at the character ``cut_at``. ``documents`` and ``characters`` count
    what is left after duplicates; ``sides`` has a byte for each document, `TRAIN` or `VAL` by its hash, or `LEFT_OUT`,
    and ``lengths`` the characters of documents stored in several parts by their ordinals (from 0). ``answers`` counts
    those of all conversations, which are only ever cut behind one.
    """

    mode: Literal["document", "paragraph", "position"]
    val_fraction: float
    split_at: float | None
    reason: str
    documents: int
    characters: int
    cut_at: int | None = None
    duplicates: int = 0
    answers: int = 0
    sides: bytes = b""
    lengths: Mapping[int, int] = field(default_factory=dict)


class Before(NamedTuple):
    """What stands before a line: the ordinal of the last document begun, characters that are kept, those of its own."""

    ordinal: int = -1
    kept: int = 0
    of_document: int = 0


def plan_split(
    documents: Iterable[Document],
    *,
    mode: Literal["auto", "document", "paragraph"] = "auto",
    split_at: float | None = None,
    val_fraction: float = 0.1,
) -> SplitPlan:
    """Decide how to split, in one pass over the documents; ``split_at`` overrides ``mode``.

    ``auto`` splits by document when there are at least two and val gets between a fifth and three times
    ``val_fraction`` of the characters, else at paragraphs; conversations, which have none, go to val from a position
    on. Raises ``CorpusError`` when there is no document.
    """
    survey = Survey()
    survey.add(survey_documents(((_NOWHERE, item) for item in documents), val_fraction))
    return plan_of(survey, mode=mode, split_at=split_at, val_fraction=val_fraction)


def plan_of(
    survey: Survey,
    *,
    mode: Literal["auto", "document", "paragraph"] = "auto",
    split_at: float | None = None,
    val_fraction: float = 0.1,
) -> SplitPlan:
    """Decide how to split what was surveyed with the same ``val_fraction``, as ``plan_split`` does."""
    survey.leave_out_duplicates()
    if survey.documents == 0:
        raise CorpusError("The corpus has no documents.", "gptcli fetch SOURCE fetches one.")
    chosen: Literal["document", "paragraph", "position"]
    if split_at is not None:
        chosen, reason = "position", "the text is cut at character {} of {}, as asked for"
    elif mode == "auto":
        chosen, reason = _choose(survey, val_fraction)
        split_at = round(1 - val_fraction, 6) if chosen == "position" else None
    else:
        chosen, reason = mode, f"split by {mode}, as asked for"
    cut_at = None if split_at is None else int(survey.characters * split_at)
    if cut_at is not None:
        reason = reason.format(f"{cut_at:,}", f"{survey.characters:,}")
    return SplitPlan(
        mode=chosen,
        val_fraction=val_fraction,
        split_at=split_at,
        reason=reason,
        documents=survey.documents,
        characters=survey.characters,
        cut_at=cut_at,
        duplicates=len(survey.sides) - survey.documents,
        answers=survey.answers,
        sides=bytes(survey.sides),
        lengths=survey.lengths,
    )


def _choose(survey: Survey, val_fraction: float) -> tuple[Literal["document", "paragraph", "position"], str]:
    near = f"a paragraph near {1 - val_fraction:.0%}"
    if survey.documents == 1:
        return "paragraph", f"a one-document corpus is split at {near}"
    share = survey.val_characters / max(survey.characters, 1)
    if val_fraction / 5 <= share <= val_fraction * 3:
        return "document", f"a hash of each document decides; {share:.1%} of the characters are val"
    if survey.answers:
        return "position", (
            f"a split by document would give val {share:.1%} of the characters, so the last conversations are val, "
            "from character {} of {} on"
        )
    return "paragraph", (
        f"a split by document would give val {share:.1%} of the characters, so each document is split at {near}"
    )


def split_documents(
    documents: Iterable[Document], plan: SplitPlan, before: Before | None = None
) -> Iterator[tuple[Split, Document]]:
    """Yield the documents the plan was made from with their side, duplicates left out; or those after ``before``.

    A document that is cut gives pieces to both sides; on each side its first piece has part 0 and those that go on
    seamlessly have higher ones. The cut of ``position`` is nanoGPT's ``text[:int(n * split_at)]``. Any cut through a
    conversation is moved behind the nearest answer.
    """
    ordinal, kept, place = before or Before()
    for item in documents:
        if item.part == 0 or ordinal < 0:
            ordinal, place = ordinal + 1, 0
        if plan.sides[ordinal] == LEFT_OUT:
            continue
        size = len(item.text)
        if plan.mode == "document":
            yield "val" if plan.sides[ordinal] == VAL else "train", item
            continue
        if plan.mode == "position":
            assert plan.cut_at is not None
            target = plan.cut_at - kept
            cut = _position_cut(item, target)
        else:
            length = plan.lengths.get(ordinal, size)
            target = int(length * (1 - plan.val_fraction)) - place
            cut = _paragraph_cut(item, target, length, 1 - plan.val_fraction)
        if cut:
            yield "train", cut_out(item, 0, cut, item.part)
        if cut < size:
            # The cut lies in an earlier part where the target does, and val goes on.
            yield "val", cut_out(item, cut, size, item.part if place and target < 0 else 0)
        kept, place = kept + size, place + size


def _position_cut(item: Document, target: int) -> int:
    """Return how much of a document is train where the cut is ``target`` characters behind its start."""
    size = len(item.text)
    if item.answers and 0 < target < size:
        return min((0, *(end for _, end in item.answers), size), key=lambda end: abs(end - target))
    return min(max(target, 0), size)


def _paragraph_cut(item: Document, target: int, length: int, fraction: float) -> int:
    """Return how much of this part is train, for one of a document of ``length`` characters."""
    text = item.text
    if item.answers:
        return min((end for _, end in item.answers), key=lambda end: abs(end - int(length * fraction)))
    if target < 0:
        return 0
    if target >= len(text):
        return len(text)
    return nearest_break(text, target, int(length * min(fraction, 1 - fraction) / 2))
