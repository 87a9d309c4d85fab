"""Text to token files: documents are encoded in threads or processes and written in their order, in flat memory.

It is handed documents with the split each belongs to, a tokenizer and writers; it decides where end-of-text stands,
which tokens of a conversation are scored, and nothing else.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from gptcli.copies.index import IndexWriter
from gptcli.documents import Document, segments
from gptcli.encode_job import Encoded, Piece, encode_job
from gptcli.encode_processes import EncodeProcesses, usable_cores
from gptcli.shards import Conversations, ShardWriter, SplitName
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


def encode_documents(
    documents: Iterable[tuple[SplitName, Document]],
    tokenizer: Tokenizer,
    writers: Mapping[SplitName, ShardWriter],
    on_bytes: Callable[[int], None],
    index: IndexWriter | None = None,
    processes: EncodeProcesses | None = None,
) -> dict[SplitName, SplitTotals]:
    """Encode the documents of both splits into their writers and return what each split got.

    End-of-text (where the tokenizer has one) stands between the documents of a split, before every part 0 but the
    first; later parts follow seamlessly. In a conversation it stands after every answer instead, questions and answers
    are encoded apart, and only the answers with their end-of-text are scored; of other documents every token is.
    ``bytes`` are UTF-8 bytes of text, and ``on_bytes`` is called with their number so far after each job. The text of
    train goes into ``index`` too. With ``processes`` they do the work, else threads.
    """
    totals: dict[SplitName, SplitTotals] = {"train": SplitTotals(), "val": SplitTotals()}
    jobs = _jobs(_pieces(documents, totals))
    indexed, threads = index is not None, min(MAX_THREADS, usable_cores())
    work: Callable[[list[Piece]], dict[SplitName, Encoded]] = partial(encode_job, tokenizer=tokenizer, indexed=indexed)
    if processes is not None:
        processes.open(tokenizer, indexed=indexed)
        work, threads = processes.encode, processes.count
    for encoded in _in_order(jobs, work, threads):
        for split, part in encoded.items():
            writers[split].write(part.ids, part.scored)
            totals[split].bytes += part.n_bytes
            for number, n_tokens in part.lengths:
                totals[split].lengths[number] += n_tokens
            if index is not None and part.grams is not None:
                index.add(part.grams)
        on_bytes(sum(total.bytes for total in totals.values()))
    return totals


def _pieces(documents: Iterable[tuple[SplitName, Document]], totals: dict[SplitName, SplitTotals]) -> Iterator[Piece]:
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
                yield Piece(split, text, separated, title=title)
                separated, title = False, None
            continue
        total.answers += len(document.answers)
        total.lengths.append(0)
        for segment, answer in segments(document):
            pieces = list(encode_pieces(segment))
            for left, text in zip(reversed(range(len(pieces))), pieces, strict=True):
                yield Piece(split, text, separated, answer, answer and not left, len(total.lengths) - 1, title)
                separated, title = False, None


def _jobs(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Gather pieces into jobs of about ``JOB_CHARS``."""
    job: list[Piece] = []
    size = 0
    for piece in pieces:
        job.append(piece)
        size += len(piece.text)
        if size >= JOB_CHARS:
            yield job
            job, size = [], 0
    if job:
        yield job


def _in_order(
    jobs: Iterable[list[Piece]], work: Callable[[list[Piece]], dict[SplitName, Encoded]], threads: int
) -> Iterator[dict[SplitName, Encoded]]:
    """Run ``work`` on the jobs in threads and yield the results in order.

    At most two jobs a thread are under way, so memory does not grow with the corpus.
    """
    waiting: deque[Future[dict[SplitName, Encoded]]] = deque()
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
