"""The train/val split: a plan from one pass over the documents, carried out in a second one.

Duplicates are removed on the way, so none straddles the split. Neither pass holds more than one part of a text.
Knows nothing of tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gptcli.documents import ContentDigest, Document, cut_out, in_val, nearest_break
from gptcli.errors import CorpusError

Split = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How a corpus is split, and why.

    ``document``: a hash of each document decides. ``paragraph``: the tail of each document from a paragraph on is val.
    ``position``: the texts as one string are cut at the character ``cut_at``. ``documents`` and ``characters`` count
    what is left after duplicates; ``duplicates`` holds the ordinals (from 0) of the documents that are left out, and
    ``lengths`` the characters of documents stored in several parts. ``answers`` counts those of all conversations,
    which are only ever cut behind one.
    """

    mode: Literal["document", "paragraph", "position"]
    val_fraction: float
    split_at: float | None
    reason: str
    documents: int
    characters: int
    cut_at: int | None = None
    duplicates: frozenset[int] = frozenset()
    lengths: Mapping[int, int] = field(default_factory=dict)
    answers: int = 0
    for_val: bytes = b""
    """Of each document 1 where its hash gives it to val, else 0."""


@dataclass(frozen=True, slots=True)
class _Survey:
    """What one pass over the documents finds; ``val_characters`` is what a split by document would give val."""

    documents: int
    characters: int
    val_characters: int
    duplicates: frozenset[int]
    lengths: Mapping[int, int]
    answers: int
    for_val: bytes


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
    survey = _survey(documents, val_fraction)
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
        duplicates=survey.duplicates,
        lengths=survey.lengths,
        answers=survey.answers,
        for_val=survey.for_val,
    )


def _choose(survey: _Survey, val_fraction: float) -> tuple[Literal["document", "paragraph", "position"], str]:
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


def split_documents(documents: Iterable[Document], plan: SplitPlan) -> Iterator[tuple[Split, Document]]:
    """Yield the documents the plan was made from with their side, duplicates left out.

    A document that is cut gives pieces to both sides; on each side its first piece has part 0 and those that go on
    seamlessly have higher ones. The cut of ``position`` is nanoGPT's ``text[:int(n * split_at)]``. Any cut through a
    conversation is moved behind the nearest answer.
    """
    ordinal = -1
    offset = place = cut = 0  # characters of kept text before this part, of this document before it, of train in it
    val_parts = 0
    side: Split = "train"
    for item in documents:
        if item.part == 0 or ordinal < 0:
            ordinal, place, val_parts = ordinal + 1, 0, 0
            if plan.mode == "document":
                side = "val" if plan.for_val[ordinal] else "train"
        if ordinal in plan.duplicates:
            continue
        size = len(item.text)
        if plan.mode == "document":
            yield side, item
            continue
        if plan.mode == "position":
            assert plan.cut_at is not None
            cut = _position_cut(item, plan.cut_at - offset)
        else:
            cut = _paragraph_cut(item, place, plan.lengths.get(ordinal, size), 1 - plan.val_fraction)
        if cut:
            yield "train", cut_out(item, 0, cut, item.part)
        if cut < size:
            yield "val", cut_out(item, cut, size, val_parts)
            val_parts += 1
        offset, place = offset + size, place + size


def _position_cut(item: Document, target: int) -> int:
    """Return how much of a document is train where the cut is ``target`` characters behind its start."""
    size = len(item.text)
    if item.answers and 0 < target < size:
        return min((0, *(end for _, end in item.answers), size), key=lambda end: abs(end - target))
    return min(max(target, 0), size)


def _paragraph_cut(item: Document, place: int, length: int, fraction: float) -> int:
    """Return how much of this part is train, for a part at ``place`` of a document of ``length`` characters."""
    text = item.text
    if item.answers:
        return min((end for _, end in item.answers), key=lambda end: abs(end - int(length * fraction)))
    target = int(length * fraction) - place
    if target < 0:
        return 0
    if target >= len(text):
        return len(text)
    return nearest_break(text, target, int(length * min(fraction, 1 - fraction) / 2))


def _survey(documents: Iterable[Document], val_fraction: float) -> _Survey:
    """Read every document once; keeps 25 bytes a document."""
    digests, for_val, sizes = bytearray(), bytearray(), array("q")
    lengths: dict[int, int] = {}
    answers = 0
    running = ContentDigest()
    for item in documents:
        answers += len(item.answers)
        if item.part == 0 or not sizes:
            digests += running.digest() if sizes else b""
            running = ContentDigest().update(item.text)
            for_val.append(in_val(running.digest(), val_fraction))
            sizes.append(len(item.text))
        else:
            running.update(item.text)
            sizes[-1] += len(item.text)
            lengths[len(sizes) - 1] = sizes[-1]
    if sizes:
        digests += running.digest()
    first = np.unique(np.frombuffer(bytes(digests), dtype="S16"), return_index=True)[1]
    kept = np.zeros(len(sizes), dtype=bool)
    kept[first] = True
    characters = np.frombuffer(sizes, dtype=np.int64)
    val = np.frombuffer(for_val, dtype=bool)
    return _Survey(
        documents=int(kept.sum()),
        characters=int(characters[kept].sum()),
        val_characters=int(characters[kept & val].sum()),
        duplicates=frozenset(np.flatnonzero(~kept).tolist()),
        lengths=lengths,
        answers=answers,
        for_val=bytes(for_val),
    )
