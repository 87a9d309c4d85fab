"""From a corpus to tokens: documents are split, encoded and written as shards with a manifest, or used again.

Tokens of a corpus lie in ``corpora/<corpus>/tokens/<tokenizer>/`` and appear there all at once. It does not know how
texts are fetched, what a profile's model looks like, or how anything is shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from gptcli.config import DataConfig
from gptcli.copies.index import NGRAMS_NAME, read_ngrams
from gptcli.corpora import CORPORA, Corpus, corpus_word, find_corpus
from gptcli.errors import CorpusError, FormatError, TokenizerError
from gptcli.fetch.recipes import find_recipe
from gptcli.files import refuse_links_out, write_json
from gptcli.making import Order, make_tokens, now
from gptcli.missing import check_corpus, fetch_missing
from gptcli.shards import (
    MANIFEST_NAME,
    SHARD_TOKENS,
    DatasetManifest,
    given_folder,
    open_dataset,
    plain_folder,
    read_manifest,
)
from gptcli.tokenizer import (
    Tokenizer,
    parse_name,
    suggest_tokenizer,
)
from gptcli.unfinished import JOURNAL
from gptcli.workers import begin_workers, worker_note


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """Tokens that are ready, whether they were ready before, and why this tokenizer."""

    folder: Path
    manifest: DatasetManifest
    tokenizer_reason: str
    reused: bool
    notes: tuple[str, ...]


def prepare(
    corpus: str,
    data: DataConfig,
    *,
    tokenizer: Tokenizer | None = None,
    corpora_dir: Path = CORPORA,
    force: bool = False,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    on_progress: Callable[[str], None] = lambda _: None,
) -> PrepareResult:
    """Make the tokens of a fetched corpus (a name, or the path of its folder), or find them made already.

    Tokens are used again when text, tokenizer and split agree, unless ``force``. With ``split: auto`` and neither
    ``split_at`` nor ``val_fraction`` set every split agrees, and a corpus that was prepared before keeps its way of
    being split. A given ``tokenizer`` is used whatever ``data`` says, and its tokens lie in a folder of their own that
    ``tokenizer: auto`` passes over. ``workers`` are one a core where nothing is said; any number gives the same bytes.
    A prepare that was ended is gone on with after its last whole shard. Raises ``CorpusError`` when there is no such
    corpus, no text, or a split without two tokens, ``TokenizerError`` when the tokenizer cannot hold the text.
    """
    order = replace(_plan_order(corpus, data, tokenizer, corpora_dir), shard_tokens=shard_tokens)
    return _fill(order, force=force, workers=workers, on_progress=on_progress)


def ensure_tokens(
    corpus: str,
    data: DataConfig,
    *,
    tokenizer: Tokenizer | None = None,
    corpora_dir: Path = CORPORA,
    workers: int | None = None,
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
    return _fill(order, force=False, workers=workers, on_progress=on_progress)


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


def _plan_order(corpus: str, data: DataConfig, given: Tokenizer | None, corpora_dir: Path) -> Order:
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
    return Order(found, data, folder, name, reason, given, manifests[0] if manifests else None, manifest, stale)


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
    """Return the manifests of all tokens of a corpus, the newest first; not of damaged or unfinished ones."""
    found = []
    for path in sorted(folder.glob(f"tokens/[!.]*/{MANIFEST_NAME}")):
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


def _fill(order: Order, *, force: bool, workers: int | None, on_progress: Callable[[str], None]) -> PrepareResult:
    """Return the tokens that are there, or make them."""
    notes = order.corpus.notes
    refuse_links_out(order.folder.parent.parent, "tokens", f"tokens/{order.folder.name}")
    try:
        if order.manifest is not None and not force:
            manifest = _as_chosen(order, order.manifest)
            return PrepareResult(order.folder, manifest, order.tokenizer_reason, reused=True, notes=notes)
        # Begun now, they are ready when something is to be done.
        with begin_workers(workers, order.corpus.n_bytes) as begun:
            manifest, more = make_tokens(order, begun, force=force, on_progress=on_progress)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"Interrupted. {_left(order)}".rstrip()) from stop
    except OSError as error:
        raise CorpusError(
            f"The tokens of {order.corpus.name} cannot be written to {order.folder} ({error.strerror or error}).",
            "Free some space or check the folder's permissions, then go on with the same command; nothing was changed. "
            f"{_left(order)}".rstrip(),
        ) from error
    notes += (*more, *filter(None, [worker_note(workers)]))
    size = parse_name(manifest.tokenizer)[1]
    if order.given is None and size is not None and manifest.vocab_size < size:
        notes += (f"The text has merges for a vocabulary of {manifest.vocab_size} tokens only.",)
    return PrepareResult(order.folder, manifest, order.tokenizer_reason, reused=False, notes=notes)


def _left(order: Order) -> str:
    """Say where a prepare that was ended has left what it had, if it has."""
    left = next(order.folder.parent.glob(f".{order.folder.name}.*.tmp/{JOURNAL}"), None)
    return f"What was done lies in {left.parent}; the same command goes on with it." if left else ""


def _as_chosen(order: Order, manifest: DatasetManifest) -> DatasetManifest:
    """Note in tokens made for weights that the corpus has now been prepared with them for its own sake."""
    if order.given is not None or not manifest.given_tokenizer:
        return manifest
    manifest = replace(manifest, given_tokenizer=False, created_at=now())
    write_json(order.folder / MANIFEST_NAME, manifest.to_json())
    return manifest
