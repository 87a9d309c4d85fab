"""From a corpus to tokens: documents are split, encoded and written as shards with a manifest, or used again.

Tokens of a corpus lie in ``corpora/<corpus>/tokens/<tokenizer>/`` and appear there all at once. It does not know how
texts are fetched, what a profile's model looks like, or how anything is shown.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from shlex import quote

from gptcli.chat_template import ChatTemplate
from gptcli.config import DataConfig
from gptcli.copies.index import NGRAMS_NAME, IndexWriter, read_ngrams
from gptcli.corpora import CORPORA, Corpus, corpus_word, find_corpus
from gptcli.documents import read_documents
from gptcli.encode import SplitTotals, encode_documents
from gptcli.encode_processes import EncodeProcesses, encode_processes
from gptcli.errors import CorpusError, FormatError, TokenizerError
from gptcli.fetch.recipes import find_recipe
from gptcli.files import atomic_folder, refuse_links_out, write_json
from gptcli.missing import check_corpus, fetch_missing
from gptcli.progress import Portion
from gptcli.shards import (
    MANIFEST_NAME,
    TOKENIZER_NAME,
    DatasetManifest,
    ShardWriter,
    SplitName,
    SplitSummary,
    dtype_for,
    given_folder,
    open_dataset,
    plain_folder,
    read_manifest,
)
from gptcli.split import SplitPlan, plan_split, split_documents
from gptcli.tokenizer import (
    Tokenizer,
    char_tokenizer,
    gpt2_tokenizer,
    parse_name,
    save_tokenizer,
    suggest_tokenizer,
    train_bpe,
)

REPORT_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """Tokens that are ready, whether they were ready before, and why this tokenizer."""

    folder: Path
    manifest: DatasetManifest
    tokenizer_reason: str
    reused: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Order:
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

    @property
    def label(self) -> str:
        """What messages call the tokenizer."""
        return "the tokenizer of the weights" if self.tokenizer == "pretrained" else self.tokenizer


def prepare(
    corpus: str,
    data: DataConfig,
    *,
    tokenizer: Tokenizer | None = None,
    corpora_dir: Path = CORPORA,
    force: bool = False,
    on_progress: Callable[[str], None] = lambda _: None,
) -> PrepareResult:
    """Make the tokens of a fetched corpus (a name, or the path of its folder), or find them made already.

    Tokens are used again when text, tokenizer and split agree, unless ``force``. With ``split: auto`` and neither
    ``split_at`` nor ``val_fraction`` set every split agrees, and a corpus that was prepared before keeps its way of
    being split. A given ``tokenizer`` is used whatever ``data`` says, and its tokens lie in a folder of their own that
    ``tokenizer: auto`` passes over. Raises ``CorpusError`` when there is no such corpus, no text, or a split without
    two tokens, ``TokenizerError`` when the tokenizer cannot hold the text.
    """
    return _fill(_plan_order(corpus, data, tokenizer, corpora_dir), force=force, on_progress=on_progress)


def ensure_tokens(
    corpus: str,
    data: DataConfig,
    *,
    tokenizer: Tokenizer | None = None,
    corpora_dir: Path = CORPORA,
    on_notice: Callable[[str], None],
    on_progress: Callable[[str], None] = lambda _: None,
) -> PrepareResult:
    """Do what ``prepare`` does, after fetching a missing corpus that has a recipe, or is a text here; say what is done.

    Raises ``CorpusError`` that lists what there is for a name that is nothing of these.
    """
    if not check_corpus(corpus, corpora_dir):
        corpus = fetch_missing(corpus, corpora_dir, on_notice, on_progress)
    order = _plan_order(corpus, data, tokenizer, corpora_dir)
    if order.manifest is None:
        on_notice(f"Preparing {order.corpus.name} with {order.label}: {order.stale}.")
    return _fill(order, force=False, on_progress=on_progress)


def find_tokens(corpus: str, data: DataConfig, *, corpora_dir: Path = CORPORA) -> tuple[Path | None, str]:
    """Return the folder of the tokens that ``ensure_tokens`` would use as they are, and their tokenizer's name.

    None where it would make some; the name may be ``auto`` then. Nothing is fetched or made. Raises ``CorpusError`` for
    a name that is no corpus and could not be fetched.
    """
    if check_corpus(corpus, corpora_dir):
        order = _plan_order(corpus, data, None, corpora_dir)
        return (None if order.manifest is None else order.folder), order.tokenizer
    recipe = find_recipe(corpus, corpora_dir) if data.tokenizer == "auto" else None
    return None, (recipe.tokenizer if recipe else None) or data.tokenizer


def _plan_order(corpus: str, data: DataConfig, given: Tokenizer | None, corpora_dir: Path) -> _Order:
    """Decide which tokens are wanted, and whether they are there."""
    found = find_corpus(corpus, corpora_dir)
    manifests = _manifests(found.folder)
    if given is not None:
        name, reason = given.name, "it came with the weights"
        folder = _given_folder(found.folder / "tokens", given)
    else:
        name, reason = _choose_tokenizer(found, data, manifests)
        if parse_name(name)[0] == "pretrained":
            raise TokenizerError(
                "A tokenizer called pretrained came with the weights of a model, so its name does not say which it is.",
                f"That of a run: gptcli prepare {quote(corpus)} --run RUN   "
                f"Of a model: gptcli finetune {quote(corpus)} --from MODEL",
            )
        folder = found.folder / "tokens" / plain_folder(name)
    manifest, stale = _usable(folder, found, data, given)
    return _Order(found, data, folder, name, reason, given, manifests[0] if manifests else None, manifest, stale)


def _given_folder(tokens: Path, tokenizer: Tokenizer) -> Path:
    """Return where tokens of this very tokenizer lie: beside others of its name, unless the corpus chose the same."""
    plain = tokens / plain_folder(tokenizer.name)
    if tokenizer.name == "gpt2":
        return plain
    with contextlib.suppress(FormatError):
        if (plain / MANIFEST_NAME).is_file() and read_manifest(plain).fingerprint == tokenizer.fingerprint:
            return plain
    return tokens / given_folder(tokenizer.name, tokenizer.fingerprint)


def _manifests(folder: Path) -> list[DatasetManifest]:
    """Return the manifests of all tokens of a corpus, the newest first; damaged ones are left out."""
    found = []
    for path in sorted(folder.glob(f"tokens/*/{MANIFEST_NAME}")):
        with contextlib.suppress(FormatError):
            found.append(read_manifest(path.parent))
    return sorted(found, key=lambda manifest: manifest.created_at, reverse=True)


def _choose_tokenizer(corpus: Corpus, data: DataConfig, manifests: list[DatasetManifest]) -> tuple[str, str]:
    if data.tokenizer != "auto":
        return data.tokenizer, "it was asked for"
    for manifest in manifests:
        if manifest.corpus_sha256 == corpus.sha256 and not manifest.given_tokenizer:
            return manifest.tokenizer, "the corpus was last prepared with it"
    if corpus.tokenizer is not None:
        return corpus.tokenizer, "the recipe of the corpus asks for it"
    return suggest_tokenizer(corpus.n_bytes)


def _usable(
    folder: Path, corpus: Corpus, data: DataConfig, given: Tokenizer | None
) -> tuple[DatasetManifest | None, str]:
    """Return the manifest of tokens that are what is asked for, or why there are none."""
    if not (folder / MANIFEST_NAME).is_file():
        return None, "there are no tokens of this kind yet"
    try:
        dataset = open_dataset(folder)
        dataset.tokenizer()
        if dataset.manifest.ngrams is not None:
            read_ngrams(folder / NGRAMS_NAME, dataset.manifest.ngrams)
    except FormatError as error:
        return None, f"its tokens are damaged ({error.message.rstrip('.')})"
    manifest = dataset.manifest
    if given is not None and manifest.fingerprint != given.fingerprint:
        return None, "its tokens were made with another tokenizer"
    if manifest.corpus_sha256 != corpus.sha256:
        return None, "its text has changed"
    if manifest.corpus != corpus.name:
        return None, f"its tokens were made for the corpus {manifest.corpus}"
    if not split_agrees(manifest, data):
        return None, "its tokens were split in another way"
    return manifest, ""


def are_meant(made: PrepareResult, data: DataConfig) -> bool:
    """Say whether a run whose profile has this data section reads these tokens where it is given their corpus."""
    corpus = made.folder.parents[1]
    name, _ = _choose_tokenizer(find_corpus(corpus_word(corpus)), data, _manifests(corpus))
    return made.folder.name == plain_folder(name) and split_agrees(made.manifest, data)


def split_agrees(manifest: DatasetManifest, data: DataConfig) -> bool:
    """Say whether tokens are split as asked: whatever was not asked for may be anything."""
    if data.split_at is not None:
        return manifest.split_at == data.split_at
    sized = "val_fraction" in data.model_fields_set
    if manifest.split == "position":
        return data.split == "auto" and not sized
    return data.split in ("auto", manifest.split) and (not sized or manifest.val_fraction == data.val_fraction)


def _fill(order: _Order, *, force: bool, on_progress: Callable[[str], None]) -> PrepareResult:
    """Return the tokens that are there, or make them."""
    notes = order.corpus.notes
    refuse_links_out(order.folder.parent.parent, "tokens", f"tokens/{order.folder.name}")
    try:
        if order.manifest is not None and not force:
            manifest = _as_chosen(order, order.manifest)
            return PrepareResult(order.folder, manifest, order.tokenizer_reason, reused=True, notes=notes)
        manifest = _build(order, on_progress)
    except OSError as error:
        raise CorpusError(
            f"The tokens of {order.corpus.name} cannot be written to {order.folder} ({error.strerror or error}).",
            "Free some space or check the folder's permissions; nothing was changed.",
        ) from error
    size = parse_name(manifest.tokenizer)[1]
    if order.given is None and size is not None and manifest.vocab_size < size:
        notes += (f"The text has merges for a vocabulary of {manifest.vocab_size} tokens only.",)
    return PrepareResult(order.folder, manifest, order.tokenizer_reason, reused=False, notes=notes)


def _as_chosen(order: _Order, manifest: DatasetManifest) -> DatasetManifest:
    """Note in tokens made for weights that the corpus has now been prepared with them for its own sake."""
    if order.given is not None or not manifest.given_tokenizer:
        return manifest
    manifest = replace(manifest, given_tokenizer=False, created_at=_now())
    write_json(order.folder / MANIFEST_NAME, manifest.to_json())
    return manifest


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _build(order: _Order, on_progress: Callable[[str], None]) -> DatasetManifest:
    """Make the tokens in three passes over the documents: survey, vocabulary, encoding."""
    on_progress(f"Reading {order.corpus.name}.")
    # Begun now, they are ready when the survey is done.
    with encode_processes(order.corpus.n_bytes) as processes:
        return _build_with(processes, order, on_progress)


def _build_with(
    processes: EncodeProcesses | None, order: _Order, on_progress: Callable[[str], None]
) -> DatasetManifest:
    corpus = order.corpus
    plan = _plan_split(order)
    if not plan.characters:
        raise CorpusError(f"The corpus {corpus.name} has no text in it.", "gptcli fetch SOURCE fetches another one.")
    tokenizer = order.given or _make_tokenizer(order.tokenizer, corpus, plan, on_progress)
    if plan.answers and tokenizer.end_of_text is None:
        raise _no_end_of_text(corpus.name, tokenizer)
    dtype = dtype_for(tokenizer.vocab_size)
    masked = plan.answers > 0
    with atomic_folder(order.folder) as folder:
        with (
            ShardWriter(folder, "train", dtype, masked=masked) as train,
            ShardWriter(folder, "val", dtype, masked=masked) as val,
        ):
            documents = split_documents(read_documents(corpus.documents), plan)
            writers: dict[SplitName, ShardWriter] = {"train": train, "val": val}
            index = IndexWriter()
            totals = encode_documents(documents, tokenizer, writers, _reporter(order, on_progress), index, processes)

        manifest = DatasetManifest(
            corpus=corpus.name,
            corpus_sha256=corpus.sha256,
            licence=corpus.licence,
            tokenizer=order.tokenizer,
            fingerprint=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            dtype=dtype,
            split=plan.mode,
            split_reason=plan.reason,
            val_fraction=plan.val_fraction,
            split_at=plan.split_at,
            duplicates_removed=len(plan.duplicates),
            created_at=_now(),
            train=_summary(corpus.name, "train", train, totals["train"], plan),
            val=_summary(corpus.name, "val", val, totals["val"], plan),
            given_tokenizer=_is_given(order),
            chat=ChatTemplate() if masked else None,
            ngrams=index.write(folder / NGRAMS_NAME, sum(total.bytes for total in totals.values())),
        )
        save_tokenizer(tokenizer, folder / TOKENIZER_NAME)
        write_json(folder / MANIFEST_NAME, manifest.to_json())
    return manifest


def _summary(corpus: str, split: SplitName, writer: ShardWriter, total: SplitTotals, plan: SplitPlan) -> SplitSummary:
    """Sum a split up; raises ``CorpusError`` when nothing in it can be scored."""
    if plan.answers and not writer.scored_tokens:
        raise _no_answers(corpus, split, plan)
    if writer.tokens < 2:
        raise _too_short(corpus, split, writer.tokens, plan)
    conversations = total.conversations(writer.scored_tokens) if plan.answers else None
    return SplitSummary(writer.tokens, total.bytes, total.documents, writer.shards, conversations)


def _is_given(order: _Order) -> bool:
    """Say whether tokens are made for weights alone; made again, those that the corpus chose stay its choice."""
    if order.given is None:
        return False
    with contextlib.suppress(FormatError):
        if (order.folder / MANIFEST_NAME).is_file():
            return read_manifest(order.folder).given_tokenizer
    return True


def _plan_split(order: _Order) -> SplitPlan:
    """Split as asked; left to us, as the corpus was split before, so that adding text never moves a document."""
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
    digest = hashlib.sha256()
    documents = read_documents(order.corpus.documents, digest)
    plan = plan_split(documents, mode=mode, split_at=split_at, val_fraction=val_fraction)
    if digest.hexdigest() != order.corpus.sha256:
        raise _damaged_text(order.corpus)
    # A corpus that has become one document cannot be split by document any more.
    # One that has become conversations was split as what it is no more.
    left_to_us &= earlier is None or (earlier.chat is not None) == (plan.answers > 0)
    if left_to_us and earlier is not None and (earlier.split != "document" or plan.documents > 1):
        plan = replace(plan, mode=earlier.split, reason=f"split by {earlier.split}, as the corpus was before")
    return plan


def _damaged_text(corpus: Corpus) -> CorpusError:
    return CorpusError(
        f"{corpus.documents}: the text is damaged: its SHA-256 is not that of what was fetched.",
        "Fetch it again, or restore it from a copy. A file that was changed on purpose has a newer time than "
        f"source.json: touch {corpus.documents}",
    )


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


def _reporter(order: _Order, on_progress: Callable[[str], None]) -> Callable[[int], None]:
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


def _no_end_of_text(corpus: str, tokenizer: Tokenizer) -> TokenizerError:
    return TokenizerError(
        f"The corpus {corpus} holds conversations, whose answers end with end-of-text, and the tokenizer "
        f"{tokenizer.name} of these weights has none.",
        f"Weights whose tokenizer has one: gptcli finetune {quote(corpus)} --from gpt2   "
        f"Or without weights: gptcli prepare {quote(corpus)} --tokenizer auto",
    )


def _no_answers(corpus: str, split: SplitName, plan: SplitPlan) -> CorpusError:
    advice = f"gptcli prepare {quote(corpus)} --split-at 0.9 sets the last conversations apart."
    if plan.answers < 2 or plan.split_at == 0.5:  # however it is cut, one side has none
        advice = "Add conversations to the source, and fetch it again: train needs an answer, and val another one."
    elif plan.mode == "position":
        advice = f"Add conversations, or cut elsewhere: gptcli prepare {quote(corpus)} --split-at 0.5"
    found = f"The {split} split of {corpus} has no answer to be scored; the other one has all {plan.answers:,}"
    return CorpusError(f"{found} ({plan.reason}).", advice)


def _too_short(corpus: str, split: SplitName, n_tokens: int, plan: SplitPlan) -> CorpusError:
    count = "1 token" if n_tokens == 1 else f"{n_tokens} tokens"
    advice = "Add text to the corpus, or cut it elsewhere: --split-at 0.5"
    if plan.mode == "document":
        advice = f"gptcli prepare {quote(corpus)} --split paragraph cuts each document instead."
    return CorpusError(f"The {split} split of {corpus} has {count}; at least 2 are needed ({plan.reason}).", advice)
