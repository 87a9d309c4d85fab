"""Text to token files: documents are encoded in threads and written in their order, in flat memory.

It is handed documents with the split each belongs to, a tokenizer and writers; it decides where end-of-text stands
and nothing else.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.documents import Document
from gptcli.shards import ShardWriter, SplitName
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


class _Piece(NamedTuple):
    split: SplitName
    text: str
    separated: bool
    """True when end-of-text comes before it."""


class _Encoded(NamedTuple):
    ids: npt.NDArray[Any]
    n_bytes: int


def encode_documents(
    documents: Iterable[tuple[SplitName, Document]],
    tokenizer: Tokenizer,
    writers: Mapping[SplitName, ShardWriter],
    on_bytes: Callable[[int], None],
) -> dict[SplitName, SplitTotals]:
    """Encode the documents of both splits into their writers and return what each split got.

    End-of-text (where the tokenizer has one) stands between the documents of a split, before every part 0 but the
    first; later parts follow seamlessly. ``bytes`` are UTF-8 bytes of text, and ``on_bytes`` is called with their
    number so far after each job.
    """
    totals: dict[SplitName, SplitTotals] = {"train": SplitTotals(), "val": SplitTotals()}
    jobs = _jobs(_pieces(documents, totals))
    for encoded in _in_order(jobs, lambda job: _encode(job, tokenizer)):
        for split, part in encoded.items():
            writers[split].write(part.ids)
            totals[split].bytes += part.n_bytes
        on_bytes(sum(total.bytes for total in totals.values()))
    return totals


def _pieces(documents: Iterable[tuple[SplitName, Document]], totals: dict[SplitName, SplitTotals]) -> Iterator[_Piece]:
    """Cut documents into pieces that may be encoded apart, and count the documents of each split."""
    for split, document in documents:
        if not document.text:
            continue
        separated = document.part == 0 and totals[split].documents > 0
        totals[split].documents += document.part == 0
        for text in encode_pieces(document.text):
            yield _Piece(split, text, separated)
            separated = False


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


def _encode(job: list[_Piece], tokenizer: Tokenizer) -> dict[SplitName, _Encoded]:
    ids: dict[SplitName, list[npt.NDArray[Any]]] = {}
    n_bytes: dict[SplitName, int] = {}
    for piece in job:
        parts = ids.setdefault(piece.split, [])
        encoded = tokenizer.encode(piece.text)
        if piece.separated and tokenizer.end_of_text is not None:
            parts.append(np.array([tokenizer.end_of_text], encoded.dtype))
        parts.append(encoded)
        n_bytes[piece.split] = n_bytes.get(piece.split, 0) + len(piece.text.encode())
    return {split: _Encoded(np.concatenate(parts), n_bytes[split]) for split, parts in ids.items()}


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
