"""Text to token files: documents are encoded in threads and written in their order, in flat memory.

It is handed documents with the split each belongs to, a tokenizer and writers; it decides where end-of-text stands,
which tokens of a conversation are scored, and nothing else.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.copies.index import IndexWriter, JobGrams, job_grams
from gptcli.documents import Document, segments
from gptcli.shards import Conversations, Mask, ShardWriter, SplitName
from gptcli.tokenizer import Tokenizer, encode_pieces

# Characters one thread encodes at a time; many short documents share a job.
JOB_CHARS = 1024 * 1024
# More threads than this only wait for the JSON reader, and each holds a job's tokens.
MAX_THREADS = 16


@dataclass(slots=True)
class SplitTotals:
    """What has gone into one split so far."""

    documents: int = 0
    bytes: int = 0
    answers: int = 0
    lengths: array[int] = field(default_factory=lambda: array("q"))
    """Of each conversation, in tokens."""
    ended: bool = False
    """Whether end-of-text stands last already."""

    def conversations(self, scored_tokens: int) -> Conversations:
        """Sum the conversations up."""
        lengths = np.sort(np.array(self.lengths, np.int64)) if self.lengths else np.zeros(1, np.int64)
        median, most = (int(lengths[int(share * (lengths.size - 1))]) for share in (0.5, 0.9))
        return Conversations(len(self.lengths), self.answers, scored_tokens, median, most, int(lengths[-1]))


class _Piece(NamedTuple):
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


class _Encoded(NamedTuple):
    ids: npt.NDArray[Any]
    n_bytes: int
    scored: Mask | None
    """Which tokens are scored; None where all of them are."""
    lengths: list[tuple[int, int]]
    """Numbers of conversations, and how many tokens each got."""
    grams: JobGrams | None
    """What the index of n-grams needs."""


def encode_documents(
    documents: Iterable[tuple[SplitName, Document]],
    tokenizer: Tokenizer,
    writers: Mapping[SplitName, ShardWriter],
    on_bytes: Callable[[int], None],
    index: IndexWriter | None = None,
) -> dict[SplitName, SplitTotals]:
    """Encode the documents of both splits into their writers and return what each split got.

    End-of-text (where the tokenizer has one) stands between the documents of a split, before every part 0 but the
    first; later parts follow seamlessly. In a conversation it stands after every answer instead, questions and answers
    are encoded apart, and only the answers with their end-of-text are scored; of other documents every token is.
    ``bytes`` are UTF-8 bytes of text, and ``on_bytes`` is called with their number so far after each job. The text of
    train goes into ``index`` too.
    """
    totals: dict[SplitName, SplitTotals] = {"train": SplitTotals(), "val": SplitTotals()}
    jobs = _jobs(_pieces(documents, totals))
    for encoded in _in_order(jobs, lambda job: _encode(job, tokenizer, indexed=index is not None)):
        for split, part in encoded.items():
            writers[split].write(part.ids, part.scored)
            totals[split].bytes += part.n_bytes
            for number, n_tokens in part.lengths:
                totals[split].lengths[number] += n_tokens
            if index is not None and part.grams is not None:
                index.add(part.grams)
        on_bytes(sum(total.bytes for total in totals.values()))
    return totals


def _pieces(documents: Iterable[tuple[SplitName, Document]], totals: dict[SplitName, SplitTotals]) -> Iterator[_Piece]:
    """Cut documents into pieces that may be encoded apart, and count the documents of each split."""
    for split, document in documents:
        if not document.text:
            continue
        total = totals[split]
        separated = document.part == 0 and total.documents > 0 and not total.ended
        total.documents += document.part == 0
        title = document.title if document.part == 0 else None
        total.ended = bool(document.answers) and document.answers[-1][1] == len(document.text)
        if not document.answers:
            for text in encode_pieces(document.text):
                yield _Piece(split, text, separated, title=title)
                separated, title = False, None
            continue
        total.answers += len(document.answers)
        total.lengths.append(0)
        for segment, answer in segments(document):
            pieces = list(encode_pieces(segment))
            for left, text in zip(reversed(range(len(pieces))), pieces, strict=True):
                yield _Piece(split, text, separated, answer, answer and not left, len(total.lengths) - 1, title)
                separated, title = False, None


def _jobs(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Gather pieces into jobs of about ``JOB_CHARS``."""
    job: list[_Piece] = []
    size = 0
    for piece in pieces:
        job.append(piece)
        size += len(piece.text)
        if size >= JOB_CHARS:
            yield job
            job, size = [], 0
    if job:
        yield job


def _encode(job: list[_Piece], tokenizer: Tokenizer, *, indexed: bool) -> dict[SplitName, _Encoded]:
    by_split: dict[SplitName, list[_Piece]] = {}
    for piece in job:
        by_split.setdefault(piece.split, []).append(piece)
    return {
        split: _encode_pieces(pieces, tokenizer, indexed=indexed and split == "train")
        for split, pieces in by_split.items()
    }


def _encode_pieces(pieces: list[_Piece], tokenizer: Tokenizer, *, indexed: bool) -> _Encoded:
    """Encode the pieces of one split one after the other."""
    texts = [piece.text for piece in pieces]
    n_bytes = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
    grams = job_grams((piece.text, piece.title) for piece in pieces) if indexed else None
    if any(piece.conversation is not None for piece in pieces):
        ids, scored, lengths = _encode_conversations(pieces, tokenizer)
        return _Encoded(ids, n_bytes, None if scored.all() else scored, lengths, grams)
    return _Encoded(tokenizer.encode_texts(texts, [piece.separated for piece in pieces]), n_bytes, None, [], grams)


def _encode_conversations(
    pieces: list[_Piece], tokenizer: Tokenizer
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


def _in_order(
    jobs: Iterable[list[_Piece]], work: Callable[[list[_Piece]], dict[SplitName, _Encoded]]
) -> Iterator[dict[SplitName, _Encoded]]:
    """Run ``work`` on the jobs in threads (the tokenizers release the GIL) and yield the results in order.

    At most two jobs a thread are under way, so memory does not grow with the corpus.
    """
    threads = min(MAX_THREADS, _cores())
    waiting: deque[Future[dict[SplitName, _Encoded]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _cores() -> int:
    """Cores this process may use, which in a container are often fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1
