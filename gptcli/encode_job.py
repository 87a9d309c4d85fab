"""A job's pieces of text to tokens: which of them are scored, and what the index of n-grams needs of them.

Runs in a thread or in a process of its own; knows neither documents nor files.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.copies.index import JobGrams, job_grams
from gptcli.shards import Mask, SplitName
from gptcli.tokenizer import Tokenizer


class Piece(NamedTuple):
    """Text of one split that may be encoded apart from what is before and behind it."""

    split: SplitName
    text: str
    separated: bool
    """True when end-of-text comes before it."""
    scored: bool = True
    ended: bool = False
    """True when it is the end of an answer, after which comes end-of-text."""
    conversation: int | None = None
    """The number of its conversation in the split."""
    title: str | None = None
    """That of the document which begins with it; None where it goes on."""


class Encoded(NamedTuple):
    """What a job gives to one split."""

    ids: npt.NDArray[Any]
    n_bytes: int
    scored: Mask | None
    """Which tokens are scored; None where all of them are."""
    lengths: list[tuple[int, int]]
    """Numbers of conversations, and how many tokens each got."""
    grams: JobGrams | None
    """What the index of n-grams needs."""


def encode_job(job: list[Piece], tokenizer: Tokenizer, *, indexed: bool) -> dict[SplitName, Encoded]:
    """Encode a job for the splits it has pieces of; with ``indexed`` the n-grams of train come along."""
    by_split: dict[SplitName, list[Piece]] = {}
    for piece in job:
        by_split.setdefault(piece.split, []).append(piece)
    return {
        split: _encode_pieces(pieces, tokenizer, indexed=indexed and split == "train")
        for split, pieces in by_split.items()
    }


def _encode_pieces(pieces: list[Piece], tokenizer: Tokenizer, *, indexed: bool) -> Encoded:
    """Encode the pieces of one split one after the other."""
    texts = [piece.text for piece in pieces]
    n_bytes = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
    grams = job_grams((piece.text, piece.title) for piece in pieces) if indexed else None
    if any(piece.conversation is not None for piece in pieces):
        ids, scored, lengths = _encode_conversations(pieces, tokenizer)
        return Encoded(ids, n_bytes, None if scored.all() else scored, lengths, grams)
    return Encoded(tokenizer.encode_texts(texts, [piece.separated for piece in pieces]), n_bytes, None, [], grams)


def _encode_conversations(
    pieces: list[Piece], tokenizer: Tokenizer
) -> tuple[npt.NDArray[Any], Mask, list[tuple[int, int]]]:
    """Return the ids of pieces, some of conversations, which of them are scored, and how many each conversation has."""
    ids: list[npt.NDArray[Any]] = []
    scored: list[Mask] = []
    lengths: list[tuple[int, int]] = []
    for piece in pieces:
        encoded = tokenizer.encode(piece.text)
        end = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], encoded.dtype)
        parts = [*([end] if piece.separated else []), encoded, *([end] if piece.ended else [])]
        for part in parts:
            ids.append(part)
            # What parts two documents is scored, as it is between ordinary ones.
            scored.append(np.full(part.size, piece.scored or (piece.separated and part is end)))
        if piece.conversation is not None:
            lengths.append((piece.conversation, encoded.size + (end.size if piece.ended else 0)))
    return np.concatenate(ids), np.concatenate(scored), lengths
