"""Tokens made of a corpus that is there: surveyed, split, encoded by workers, and gone on with after an end.

Which tokens are wanted, and whether there are some already, is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from gptcli import __version__
from gptcli.chat_template import ChatTemplate
from gptcli.config import DataConfig
from gptcli.copies.index import NGRAMS_NAME
from gptcli.corpora import Corpus
from gptcli.documents import document_spans, read_documents
from gptcli.encode import SplitTotals, stretches, write_encoded
from gptcli.encode_job import Task
from gptcli.errors import FormatError, GptcliError, UnfinishedError
from gptcli.files import atomic_folder, sync_files, write_json
from gptcli.prepare_errors import changed_text, damaged_text, no_answers, no_end_of_text, no_text, too_short
from gptcli.progress import Portion
from gptcli.shard_writer import ShardWriter
from gptcli.shards import (
    MANIFEST_NAME,
    SHARD_TOKENS,
    DatasetManifest,
    SplitMode,
    SplitName,
    SplitSummary,
    dtype_for,
    read_manifest,
)
from gptcli.split import SplitPlan, plan_of, split_documents
from gptcli.survey import Ints, Survey
from gptcli.tokenizer import Tokenizer, char_tokenizer, gpt2_tokenizer, parse_name, train_bpe
from gptcli.unfinished import Progress, forget, is_of, read_progress, write_progress, write_survey
from gptcli.workers import Workers

REPORT_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class Order:
    """Which tokens are wanted; ``manifest`` is that of tokens which can be used as they are, ``stale`` why none can.

    ``given`` is a tokenizer to be used as it is, ``earlier`` the newest manifest of the corpus, whatever its tokenizer.
    """

    corpus: Corpus
    data: DataConfig
    folder: Path
    tokenizer: str
    tokenizer_reason: str
    given: Tokenizer | None
    earlier: DatasetManifest | None
    manifest: DatasetManifest | None
    stale: str
    shard_tokens: int = SHARD_TOKENS

    @property
    def label(self) -> str:
        """What messages call the tokenizer."""
        return "the tokenizer of the weights" if self.tokenizer == "pretrained" else self.tokenizer


def make_tokens(
    order: Order, workers: Workers, *, force: bool, on_progress: Callable[[str], None]
) -> tuple[DatasetManifest, tuple[str, ...]]:
    """Make the tokens in three passes over the documents: survey, vocabulary, encoding; return notes on it too.

    What a prepare of the same order that was ended has left is gone on with, unless ``force``. Raises as ``prepare``
    does, and ``OSError``.
    """
    identity = _identity(order)
    with atomic_folder(order.folder, goes_on=lambda folder: not force and is_of(folder, identity)) as folder:
        try:
            progress = read_progress(folder)
            if progress is None:
                return _begin(folder, identity, order, workers, on_progress), ()
            on_progress(progress.said())
            return _encode(folder, identity, order, progress, workers, on_progress), (progress.said("Went on"),)
        except GptcliError as error:
            changed = _has_changed(order, identity)
            if changed or not isinstance(error, UnfinishedError):
                forget(folder)
            if changed:
                raise changed_text(order.corpus) from error
            raise


def _has_changed(order: Order, identity: dict[str, Any]) -> bool:
    """Say whether the text is another one than when this prepare, or the one it goes on with, began."""
    with contextlib.suppress(OSError):  # what is not there now may come back as it was
        return _identity(order) != identity
    return False


def _identity(order: Order) -> dict[str, Any]:
    """Return what tokens depend on: a prepare with the same goes on where another was ended."""
    file = order.corpus.documents.stat()
    return {
        "gptcli": __version__,
        "corpus": [order.corpus.sha256, file.st_size, file.st_mtime_ns],
        "tokenizer": order.tokenizer,
        "fingerprint": order.given.fingerprint if order.given else None,
        "split": [*_wanted_split(order)],
        "shard_tokens": order.shard_tokens,
    }


def _begin(
    folder: Path, identity: dict[str, Any], order: Order, workers: Workers, on_progress: Callable[[str], None]
) -> DatasetManifest:
    """Survey the text, make the tokenizer, and encode from the first document on."""
    on_progress(f"Reading {order.corpus.name}.")
    plan, begins = _plan_split(order, workers)
    if not plan.characters:
        raise no_text(order.corpus.name)
    tokenizer = order.given or _make_tokenizer(order.tokenizer, order.corpus, plan, on_progress)
    if plan.answers and tokenizer.end_of_text is None:
        raise no_end_of_text(order.corpus.name, tokenizer)
    progress = Progress(plan, begins, tokenizer)
    write_survey(folder, identity, progress)
    return _encode(folder, identity, order, progress, workers, on_progress)


def _encode(
    folder: Path,
    identity: dict[str, Any],
    order: Order,
    progress: Progress,
    workers: Workers,
    on_progress: Callable[[str], None],
) -> DatasetManifest:
    """Encode what is left to be encoded, noting it after each whole shard, and write the manifest last."""
    plan, tokenizer, documents = progress.plan, progress.tokenizer, order.corpus.documents
    dtype, masked = dtype_for(tokenizer.vocab_size), plan.answers > 0
    task = Task(str(documents), plan.mode, plan.val_fraction, plan.cut_at, indexed=True)
    left = stretches(plan, progress.begins, documents.stat().st_size, progress.stretch)
    report = _reporter(order, on_progress)
    with contextlib.ExitStack() as stack:
        writers: dict[SplitName, ShardWriter] = {
            split: stack.enter_context(
                ShardWriter(folder, split, dtype, shard_tokens=order.shard_tokens, masked=masked, begun=begun)
            )
            for split, begun in progress.begun.items()
        }
        n_shards = sum(len(writer.shards) for writer in writers.values())
        encoded = stack.enter_context(contextlib.closing(workers.encode(left, task, tokenizer)))
        done = write_encoded(encoded, writers, progress.totals, progress.index)
        for stretch, n_bytes in enumerate(done, progress.stretch + 1):
            report(n_bytes)
            if (count := sum(len(writer.shards) for writer in writers.values())) > n_shards:
                n_shards = count
                begun = {split: writer.begun() for split, writer in writers.items()}
                write_progress(folder, identity, replace(progress, stretch=stretch, begun=begun))
    if _has_changed(order, identity):
        raise changed_text(order.corpus)
    manifest = _manifest(folder, order, progress, writers)
    write_json(folder / MANIFEST_NAME, manifest.to_json())
    sync_files(folder)  # takes long, and an end on the way must not cost what is there
    forget(folder)
    return manifest


def _manifest(
    folder: Path, order: Order, progress: Progress, writers: Mapping[SplitName, ShardWriter]
) -> DatasetManifest:
    """Write the index of all that was encoded, and sum everything up; raises ``CorpusError`` for a split of nothing."""
    corpus, plan, tokenizer, totals = order.corpus, progress.plan, progress.tokenizer, progress.totals
    return DatasetManifest(
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        licence=corpus.licence,
        tokenizer=order.tokenizer,
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype_for(tokenizer.vocab_size),
        split=plan.mode,
        split_reason=plan.reason,
        val_fraction=plan.val_fraction,
        split_at=plan.split_at,
        duplicates_removed=plan.duplicates,
        created_at=now(),
        train=_summary(corpus.name, "train", writers["train"], totals["train"], plan),
        val=_summary(corpus.name, "val", writers["val"], totals["val"], plan),
        given_tokenizer=_is_given(order),
        chat=ChatTemplate() if plan.answers else None,
        ngrams=progress.index.write(folder / NGRAMS_NAME, sum(total.bytes for total in totals.values())),
    )


def _summary(corpus: str, split: SplitName, writer: ShardWriter, total: SplitTotals, plan: SplitPlan) -> SplitSummary:
    """Sum a split up; raises ``CorpusError`` when nothing in it can be scored."""
    if plan.answers and not writer.scored_tokens:
        raise no_answers(corpus, split, plan)
    if writer.tokens < 2:
        raise too_short(corpus, split, writer.tokens, plan)
    conversations = total.conversations(writer.scored_tokens) if plan.answers else None
    return SplitSummary(writer.tokens, total.bytes, total.documents, writer.shards, conversations)


def _is_given(order: Order) -> bool:
    """Say whether tokens are made for weights alone; made again, those that the corpus chose stay its choice."""
    if order.given is None:
        return False
    with contextlib.suppress(FormatError):
        if (order.folder / MANIFEST_NAME).is_file():
            return read_manifest(order.folder).given_tokenizer
    return True


def _wanted_split(
    order: Order,
) -> tuple[Literal["auto", "document", "paragraph"], float | None, float, SplitMode | None]:
    """Return how to split, where to cut, the share of val, and as what the corpus was split before if that holds."""
    data, earlier = order.data, order.earlier
    mode, split_at, val_fraction = data.split, data.split_at, data.val_fraction
    sized = "val_fraction" in data.model_fields_set
    left_to_us = mode == "auto" and split_at is None
    if left_to_us:
        mode = order.corpus.split or mode
        if not sized:
            split_at = order.corpus.split_at if earlier is None else earlier.split_at
            val_fraction = val_fraction if earlier is None else earlier.val_fraction
    # Cut by position says where, not how: another size of val leaves the choice open again.
    left_to_us &= not (sized and earlier is not None and earlier.split == "position")
    return mode, split_at, val_fraction, earlier.split if left_to_us and earlier is not None else None


def _plan_split(order: Order, workers: Workers) -> tuple[SplitPlan, Ints]:
    """Split as asked; left to us, as the corpus was split before, so that adding text never moves a document."""
    mode, split_at, val_fraction, before = _wanted_split(order)
    digest, survey, corpus = hashlib.sha256(), Survey(), order.corpus
    for found in workers.survey(corpus.documents, val_fraction, document_spans(corpus.documents, digest)):
        survey.add(found)
    if digest.hexdigest() != corpus.sha256:
        raise damaged_text(corpus)
    plan = plan_of(survey, mode=mode, split_at=split_at, val_fraction=val_fraction)
    # A corpus that has become one document cannot be split by document any more.
    # One that has become conversations was split as what it is no more.
    is_same_kind = order.earlier is None or (order.earlier.chat is not None) == (plan.answers > 0)
    if before is not None and is_same_kind and (before != "document" or plan.documents > 1):
        plan = replace(plan, mode=before, reason=f"split by {before}, as the corpus was before")
    return plan, survey.begins()


def _make_tokenizer(name: str, corpus: Corpus, plan: SplitPlan, on_progress: Callable[[str], None]) -> Tokenizer:
    """Make a tokenizer: an alphabet of all documents, GPT-2's vocabulary, or merges learned from train alone."""

    def texts(splits: Iterable[SplitName]) -> Iterator[str]:
        return (item.text for split, item in split_documents(read_documents(corpus.documents), plan) if split in splits)

    kind, size = parse_name(name)
    if kind == "gpt2":
        return gpt2_tokenizer()
    if size is None:
        on_progress("Collecting the characters.")
        return char_tokenizer(texts(("train", "val")), end_of_text=plan.documents > 1 or plan.answers > 0)
    on_progress(f"Learning a vocabulary of {size:,} tokens.")
    return train_bpe(texts(("train",)), size, total_bytes=corpus.n_bytes)


def _reporter(order: Order, on_progress: Callable[[str], None]) -> Callable[[int], None]:
    """Return a function that takes the bytes encoded so far and reports them now and then."""
    on_progress(f"Encoding with {order.label}.")
    reported = 0

    def report(n_bytes: int) -> None:
        nonlocal reported
        if n_bytes - reported >= REPORT_BYTES:
            reported = n_bytes
            total = order.corpus.n_bytes
            line = f"Encoding with {order.label}: {n_bytes / 1e6:,.0f} of {total / 1e6:,.0f} MB."
            on_progress(Portion(line, n_bytes, total))

    return report


def now() -> str:
    """Return this moment as a manifest has it."""
    return datetime.now(timezone.utc).isoformat()
