"""A stretch of a corpus to tokens: which of them are scored, and what the index of n-grams needs of them.

Decides where end-of-text stands, as if other documents stood before. Runs in a thread or in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.copies.index import JobGrams, job_grams
from gptcli.documents import Document, Span, placed_documents, segments
from gptcli.shards import Mask, SplitName
from gptcli.split import Before, SplitPlan, split_documents
from gptcli.tokenizer import Tokenizer, encode_pieces


class Task(NamedTuple):
    """What all stretches of a corpus have in common."""

    path: str
    mode: str
    val_fraction: float
    cut_at: int | None
    indexed: bool
    """Whether the n-grams of train are wanted."""


class Stretch(NamedTuple):
    """Some lines of a corpus, and what of its split plan they need; ordinals count from the first of ``sides``."""

    span: Span
    before: Before
    sides: npt.NDArray[np.uint8]
    lengths: list[tuple[int, int]]


class Piece(NamedTuple):
    """Text that may be encoded apart from what is before and behind it."""

    text: str
    separated: bool
    """True when end-of-text comes before it."""
    scored: bool = True
    ended: bool = False
    """True when it is the end of an answer, after which comes end-of-text."""
    conversation: int | None = None
    """The number of its conversation."""
    title: str | None = None
    """That of the document which begins with it; None where it goes on."""


class Encoded(NamedTuple):
    """What a job gives to one split."""

    ids: npt.NDArray[Any]
    n_bytes: int
    documents: int
    answers: int
    separated: bool
    """True when end-of-text stands first, which parts the text from what is before it."""
    ended: bool
    """True when end-of-text stands last."""
    scored: Mask | None
    """Which tokens are scored; None where all of them are."""
    lengths: list[int]
    """Of each conversation, in tokens."""
    grams: JobGrams | None
    """What the index of n-grams needs."""


def encode_stretch(stretch: Stretch, task: Task, tokenizer: Tokenizer) -> dict[SplitName, Encoded]:
    """Encode a stretch for the splits it has text of; raises ``FormatError`` for damaged documents."""
    plan = SplitPlan(
        mode=task.mode,  # type: ignore[arg-type]
        val_fraction=task.val_fraction,
        split_at=None,
        reason="",
        documents=0,
        characters=0,
        cut_at=task.cut_at,
        sides=stretch.sides.tobytes(),
        lengths=dict(stretch.lengths),
    )
    lines = (item for _, item in placed_documents(Path(task.path), stretch.span))
    return encode_job(split_documents(lines, plan, stretch.before), tokenizer, indexed=task.indexed)


def encode_job(
    documents: Iterable[tuple[SplitName, Document]], tokenizer: Tokenizer, *, indexed: bool
) -> dict[SplitName, Encoded]:
    """Encode documents that follow on others; with ``indexed`` the n-grams of train come along.

    End-of-text (where the tokenizer has one) stands before every part 0; later parts follow seamlessly. In a
    conversation it stands after every answer instead, questions and answers are encoded apart, and only the answers
    with their end-of-text are scored; of other documents every token is.
    """
    by_split: dict[SplitName, list[Document]] = {}
    for split, item in documents:
        if item.text:
            by_split.setdefault(split, []).append(item)
    return {split: _encode(items, tokenizer, indexed=indexed and split == "train") for split, items in by_split.items()}


def _encode(items: list[Document], tokenizer: Tokenizer, *, indexed: bool) -> Encoded:
    """Encode the documents of one split one after the other."""
    pieces = list(_pieces(items))
    texts = [piece.text for piece in pieces]
    grams = job_grams((piece.text, piece.title) for piece in pieces) if indexed else None
    scored, lengths = None, list[int]()
    if any(item.answers for item in items):
        ids, scored, lengths = _encode_conversations(pieces, tokenizer)
    else:
        ids = tokenizer.encode_texts(texts, [piece.separated for piece in pieces])
    return Encoded(
        ids,
        n_bytes=sum(len(text) if text.isascii() else len(text.encode()) for text in texts),
        documents=sum(item.part == 0 for item in items),
        answers=sum(len(item.answers) for item in items),
        separated=pieces[0].separated and tokenizer.end_of_text is not None,
        ended=_ends_with_answer(items[-1]),
        scored=None if scored is None or scored.all() else scored,
        lengths=lengths,
        grams=grams,
    )


def _pieces(items: Iterable[Document]) -> Iterator[Piece]:
    """Cut the documents of a split into pieces that may be encoded apart."""
    ended, conversation = False, -1
    for item in items:
        separated = item.part == 0 and not ended
        title = item.title if item.part == 0 else None
        ended = _ends_with_answer(item)
        if not item.answers:
            for text in encode_pieces(item.text):
                yield Piece(text, separated, title=title)
                separated, title = False, None
            continue
        conversation += 1
        for segment, answer in segments(item):
            pieces = list(encode_pieces(segment))
            for left, text in zip(reversed(range(len(pieces))), pieces, strict=True):
                yield Piece(text, separated, answer, answer and not left, conversation, title)
                separated, title = False, None


def _ends_with_answer(item: Document) -> bool:
    return bool(item.answers) and item.answers[-1][1] == len(item.text)


def _encode_conversations(pieces: list[Piece], tokenizer: Tokenizer) -> tuple[npt.NDArray[Any], Mask, list[int]]:
    """Return the ids of pieces, some of conversations, which of them are scored, and how many each conversation has."""
    ids: list[npt.NDArray[Any]] = []
    scored: list[Mask] = []
    lengths: list[int] = []
    for piece in pieces:
        encoded = tokenizer.encode(piece.text)
        end = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], encoded.dtype)
        parts = [*([end] if piece.separated else []), encoded, *([end] if piece.ended else [])]
        for part in parts:
            ids.append(part)
            # What parts two documents is scored, as it is between ordinary ones.
            scored.append(np.full(part.size, piece.scored or (piece.separated and part is end)))
        if piece.conversation is not None:
            lengths += [0] * (piece.conversation + 1 - len(lengths))
            lengths[piece.conversation] += encoded.size + (end.size if piece.ended else 0)
    return np.concatenate(ids), np.concatenate(scored), lengths
