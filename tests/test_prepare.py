"""Tokens are made once, whole or not at all, and are those that nanoGPT and tiktoken give."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

from gptcli.config import DataConfig
from gptcli.copies.index import NgramsFile, parse_ngrams
from gptcli.copies.words import find_words
from gptcli.documents import Document, document, document_parts, read_documents, write_documents
from gptcli.errors import CorpusError, FormatError, TokenizerError
from gptcli.fetch.fetching import fetch
from gptcli.fetch.options import FetchOptions
from gptcli.files import write_json
from gptcli.prepare import PrepareResult, ensure_tokens, prepare
from gptcli.shards import SplitName, open_dataset

CHAR = DataConfig(tokenizer="char")


@pytest.fixture
def corpora_dir(tmp_path: Path) -> Path:
    return tmp_path / "corpora"


def make_corpus(corpora_dir: Path, name: str, texts: list[str]) -> Path:
    """Fetch texts, one document each, from a folder of files."""
    folder = corpora_dir.parent / f"{name}-texts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text, "utf-8", newline="\n")
    return fetch(str(folder), name=name, corpora_dir=corpora_dir).folder


def texts_of(n: int) -> list[str]:
    """The first of the help topics of this Python, without those that it has twice."""
    unique = {" ".join(text.split()): text for _, text in sorted(topics.items(), reverse=True)}
    return list(reversed(unique.values()))[:n]


def decoded(result: PrepareResult, split: SplitName) -> str:
    """The text of a split, with end-of-text shown as a black square."""
    dataset = open_dataset(result.folder)
    tokenizer = dataset.tokenizer()
    tokens = dataset.train if split == "train" else dataset.val
    ids = tokens.read(0, len(tokens))
    ends = [*np.flatnonzero(ids == (-1 if tokenizer.end_of_text is None else tokenizer.end_of_text)), len(ids)]
    begins = [0, *(end + 1 for end in ends)]
    return "■".join(tokenizer.decode(ids[begin:end]) for begin, end in zip(begins, ends, strict=False))


def no_temporary_files(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_shakespeare_by_characters_gives_nanogpt_s_arrays(shared_data: Path, corpora_dir: Path) -> None:
    path = shared_data / "tinyshakespeare.txt"
    fetch(str(path), name="shakespeare", corpora_dir=corpora_dir)
    result = prepare("shakespeare", DataConfig(tokenizer="char", split_at=0.9), corpora_dir=corpora_dir)
    assert (result.manifest.train.tokens, result.manifest.val.tokens) == (1_003_854, 111_540)
    assert (result.manifest.vocab_size, result.manifest.dtype, result.manifest.split) == (65, "uint16", "position")
    # nanoGPT, data/shakespeare_char/prepare.py
    data = path.read_text("utf-8")
    ids = {character: number for number, character in enumerate(sorted(set(data)))}
    dataset = open_dataset(result.folder)
    cut = int(len(data) * 0.9)
    for tokens, text in ((dataset.train, data[:cut]), (dataset.val, data[cut:])):
        assert np.array_equal(tokens.read(0, len(tokens)), np.array([ids[c] for c in text], dtype=np.uint16))


def test_a_book_in_gpt2_tokens_is_what_tiktoken_gives_on_each_side(
    shared_data: Path, corpora_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    import tiktoken

    path = shared_data / "gutenberg" / "863-0.txt"
    fetch(str(path), name="styles", corpora_dir=corpora_dir, options=FetchOptions(as_kind="text"))
    result = prepare("styles", DataConfig(tokenizer="gpt2"), corpora_dir=corpora_dir)
    text = path.read_text("utf-8-sig").encode()
    cut = result.manifest.train.bytes
    assert result.manifest.val.bytes == len(text) - cut
    assert 0.88 < cut / len(text) < 0.92
    assert text[:cut].endswith(b"\n\n")
    dataset = open_dataset(result.folder)
    reference = tiktoken.get_encoding("gpt2")
    for tokens, side in ((dataset.train, text[:cut]), (dataset.val, text[cut:])):
        assert tokens.read(0, len(tokens)).tolist() == reference.encode_ordinary(side.decode())


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_end_of_text_stands_between_documents_of_a_split_and_nowhere_else(corpora_dir: Path, tokenizer: str) -> None:
    texts = texts_of(40)
    make_corpus(corpora_dir, "docs", texts)
    split = DataConfig(tokenizer=tokenizer, split="document", val_fraction=0.3)
    result = prepare("docs", split, corpora_dir=corpora_dir)
    train, val = decoded(result, "train").split("■"), decoded(result, "val").split("■")
    assert sorted(train + val) == sorted(texts)
    assert (result.manifest.train.documents, result.manifest.val.documents) == (len(train), len(val))
    assert result.manifest.train.bytes == sum(len(text.encode()) for text in train)


def test_a_document_cut_at_a_paragraph_is_whole_again_when_its_sides_are_joined(corpora_dir: Path) -> None:
    texts = texts_of(12)
    make_corpus(corpora_dir, "docs", texts)
    result = prepare("docs", DataConfig(tokenizer="bpe:300", split="paragraph"), corpora_dir=corpora_dir)
    train, val = decoded(result, "train").split("■"), decoded(result, "val").split("■")
    assert [head + tail for head, tail in zip(train, val, strict=True)] == texts


def test_a_one_document_corpus_of_characters_has_no_end_of_text(corpora_dir: Path) -> None:
    text = texts_of(1)[0]
    make_corpus(corpora_dir, "one", [text])
    result = prepare("one", CHAR, corpora_dir=corpora_dir)
    assert result.manifest.vocab_size == len(set(text))
    assert "one-document corpus" in result.manifest.split_reason
    assert decoded(result, "train") + decoded(result, "val") == text
    make_corpus(corpora_dir, "two", [text, text.upper()])
    assert prepare("two", CHAR, corpora_dir=corpora_dir).manifest.vocab_size == len(set(text + text.upper())) + 1


def test_a_long_document_stored_in_parts_gives_the_tokens_of_the_whole(
    corpora_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(texts_of(5))
    make_corpus(corpora_dir, "whole", [text])
    whole = prepare("whole", DataConfig(tokenizer="bpe:300", split_at=0.9), corpora_dir=corpora_dir)
    monkeypatch.setattr("gptcli.documents.PART_CHARS", 1000)
    make_corpus(corpora_dir, "parts", [text])
    parts = [item.part for item in read_documents(corpora_dir / "parts" / "documents.jsonl")]
    assert parts == list(range(len(parts)))
    assert len(parts) > 10
    in_parts = prepare("parts", DataConfig(tokenizer="bpe:300", split_at=0.9), corpora_dir=corpora_dir)
    assert decoded(in_parts, "train") == decoded(whole, "train") == text[: int(len(text) * 0.9)]
    assert decoded(in_parts, "val") == decoded(whole, "val")
    assert in_parts.manifest.train.documents == 1


def test_bpe_is_learned_from_train_alone_and_characters_from_everything(corpora_dir: Path) -> None:
    text = texts_of(1)[0]
    fingerprints = []
    for name, tail in (("a", "zyxwvu zyxwvu " * 40), ("b", "ZYXWVÜ ZYXWVÜ " * 40)):
        make_corpus(corpora_dir, name, [text + tail])
        cut = DataConfig(tokenizer="bpe:300", split_at=(len(text) + 0.5) / (len(text) + len(tail)))
        result = prepare(name, cut, corpora_dir=corpora_dir)
        assert decoded(result, "val") == tail
        characters = prepare(name, cut.model_copy(update={"tokenizer": "char"}), corpora_dir=corpora_dir)
        fingerprints.append((result.manifest.fingerprint, characters.manifest.fingerprint))
    assert fingerprints[0][0] == fingerprints[1][0]
    assert fingerprints[0][1] != fingerprints[1][1]


def test_duplicates_are_left_out_and_counted(corpora_dir: Path) -> None:
    texts = texts_of(6)
    make_corpus(corpora_dir, "docs", [*texts, texts[2], texts[4], texts[4]])
    manifest = prepare("docs", CHAR, corpora_dir=corpora_dir).manifest
    assert manifest.duplicates_removed == 3
    assert manifest.train.bytes + manifest.val.bytes == sum(len(text.encode()) for text in texts)


def test_tokens_are_used_again_until_something_they_depend_on_changes(corpora_dir: Path) -> None:
    make_corpus(corpora_dir, "docs", texts_of(20))
    first = prepare("docs", CHAR, corpora_dir=corpora_dir)
    again = prepare("docs", CHAR, corpora_dir=corpora_dir)
    assert (first.reused, again.reused) == (False, True)
    assert again.manifest == first.manifest
    assert not prepare("docs", CHAR, corpora_dir=corpora_dir, force=True).reused
    cut = DataConfig(tokenizer="char", split_at=0.9)
    assert not prepare("docs", cut, corpora_dir=corpora_dir).reused
    assert prepare("docs", cut, corpora_dir=corpora_dir).reused
    assert prepare("docs", CHAR, corpora_dir=corpora_dir).reused, "auto takes any split"
    larger = DataConfig(tokenizer="char", split="paragraph", val_fraction=0.2)
    assert not prepare("docs", larger, corpora_dir=corpora_dir).reused
    assert prepare("docs", CHAR, corpora_dir=corpora_dir).reused, "auto takes any size of val"
    smaller = DataConfig(tokenizer="char", val_fraction=0.1)
    result = prepare("docs", smaller, corpora_dir=corpora_dir)
    assert (result.reused, result.manifest.split) == (False, "paragraph")
    assert not prepare("docs", larger, corpora_dir=corpora_dir).reused
    make_corpus(corpora_dir, "docs", texts_of(21))
    result = prepare("docs", CHAR, corpora_dir=corpora_dir)
    assert not result.reused, "new text"
    assert result.manifest.val_fraction == 0.2, "as the corpus was split before"


def test_a_size_of_val_takes_the_place_of_a_cut_at_a_position(corpora_dir: Path) -> None:
    make_corpus(corpora_dir, "docs", texts_of(40))
    cut = prepare("docs", DataConfig(tokenizer="char", split_at=0.95), corpora_dir=corpora_dir).manifest
    sized = prepare("docs", DataConfig(tokenizer="char", val_fraction=0.3), corpora_dir=corpora_dir).manifest
    assert (cut.split, cut.split_at, sized.split_at, sized.val_fraction) == ("position", 0.95, None, 0.3)
    assert sized.split in ("document", "paragraph")
    share = sized.val.tokens / (sized.train.tokens + sized.val.tokens)
    assert 0.15 < share < 0.45


def test_tokenizers_lie_side_by_side_and_the_newest_is_what_auto_means(corpora_dir: Path) -> None:
    folder = make_corpus(corpora_dir, "docs", texts_of(20))
    suggested = prepare("docs", DataConfig(), corpora_dir=corpora_dir)
    assert suggested.manifest.tokenizer == "bpe:512"
    assert "kB of text" in suggested.tokenizer_reason
    assert prepare("docs", CHAR, corpora_dir=corpora_dir).tokenizer_reason == "it was asked for"
    assert sorted(path.name for path in (folder / "tokens").iterdir()) == ["bpe-512", "char"]
    automatic = prepare("docs", DataConfig(), corpora_dir=corpora_dir)
    assert (automatic.manifest.tokenizer, automatic.reused) == ("char", True)
    assert automatic.tokenizer_reason == "the corpus was last prepared with it"
    make_corpus(corpora_dir, "docs", texts_of(21))
    assert prepare("docs", DataConfig(), corpora_dir=corpora_dir).manifest.tokenizer == "bpe:512"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
@pytest.mark.parametrize("link", ["tokens", "tokens/char"])
def test_tokens_are_not_written_through_a_link_that_leads_out_of_the_corpus(
    corpora_dir: Path, tmp_path: Path, link: str
) -> None:
    corpus, victim = make_corpus(corpora_dir, "linked", texts_of(3)), tmp_path / "victim"
    (victim / "char").mkdir(parents=True)
    (victim / "char" / "mine.txt").write_text("mine")
    place = corpus / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(victim if link == "tokens" else victim / "char")
    with pytest.raises(FormatError, match=f"{link}: this is a symbolic link that leads out of"):
        prepare("linked", CHAR, corpora_dir=corpora_dir)
    assert [path.relative_to(victim).as_posix() for path in victim.rglob("*")] == ["char", "char/mine.txt"]


def test_auto_takes_what_the_recipe_asks_for(corpora_dir: Path) -> None:
    folder = make_corpus(corpora_dir, "docs", texts_of(20))
    source = json.loads((folder / "source.json").read_text("utf-8"))
    (folder / "source.json").write_text(
        json.dumps({**source, "checksum": None, "tokenizer": "char", "split_at": 0.8}), "utf-8"
    )
    result = prepare("docs", DataConfig(), corpora_dir=corpora_dir)
    assert (result.manifest.tokenizer, result.manifest.split_at) == ("char", 0.8)
    assert result.tokenizer_reason == "the recipe of the corpus asks for it"


def test_adding_text_never_moves_a_document_between_train_and_val(corpora_dir: Path) -> None:
    sides: list[tuple[set[str], set[str]]] = []
    for n in (45, 60, 75):
        make_corpus(corpora_dir, "docs", texts_of(n))
        split = DataConfig(tokenizer="char", split="document" if n == 45 else "auto", val_fraction=0.3)
        result = prepare("docs", split, corpora_dir=corpora_dir)
        assert result.manifest.split == "document"
        sides.append((set(decoded(result, "train").split("■")), set(decoded(result, "val").split("■"))))
    for (train, val), (later_train, later_val) in itertools.pairwise(sides):
        assert train < later_train
        assert val <= later_val


def test_a_corpus_that_becomes_larger_keeps_its_split_by_paragraph(corpora_dir: Path) -> None:
    make_corpus(corpora_dir, "docs", texts_of(1))
    assert prepare("docs", CHAR, corpora_dir=corpora_dir).manifest.split == "paragraph"
    make_corpus(corpora_dir, "docs", texts_of(60))
    later = prepare("docs", DataConfig(tokenizer="bpe:300"), corpora_dir=corpora_dir).manifest
    assert (later.split, later.split_reason) == ("paragraph", "split by paragraph, as the corpus was before")


def test_a_corpus_that_becomes_one_document_is_split_by_paragraph(corpora_dir: Path) -> None:
    make_corpus(corpora_dir, "docs", texts_of(30))
    split = DataConfig(tokenizer="char", split="document", val_fraction=0.3)
    assert prepare("docs", split, corpora_dir=corpora_dir).manifest.split == "document"
    make_corpus(corpora_dir, "docs", texts_of(1))
    assert prepare("docs", CHAR, corpora_dir=corpora_dir).manifest.split == "paragraph"


@pytest.mark.parametrize("name", ["train-00000.bin", "manifest.json", "tokenizer.json", "ngrams.bin"])
def test_damaged_tokens_are_made_again_and_that_is_said(corpora_dir: Path, name: str) -> None:
    make_corpus(corpora_dir, "docs", texts_of(5))
    first = prepare("docs", CHAR, corpora_dir=corpora_dir)
    path = first.folder / name
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    notices: list[str] = []
    again = ensure_tokens("docs", CHAR, corpora_dir=corpora_dir, on_notice=notices.append)
    assert not again.reused
    assert again.manifest.train == first.manifest.train
    assert len(notices) == 1
    assert notices[0].startswith("Preparing docs with char: its tokens are damaged (")


def test_tokens_of_before_there_was_an_index_are_used_as_they_are_and_force_makes_one(corpora_dir: Path) -> None:
    make_corpus(corpora_dir, "docs", texts_of(5))
    first = prepare("docs", CHAR, corpora_dir=corpora_dir)
    index = first.folder / "ngrams.bin"
    made = index.read_bytes()
    assert first.manifest.ngrams == NgramsFile(len(made), hashlib.sha256(made).hexdigest())
    index.unlink()
    write_json(first.folder / "manifest.json", replace(first.manifest, ngrams=None).to_json())
    assert prepare("docs", CHAR, corpora_dir=corpora_dir).reused
    assert not index.exists()
    again = prepare("docs", CHAR, corpora_dir=corpora_dir, force=True)
    assert again.manifest.ngrams == first.manifest.ngrams
    assert index.read_bytes() == made, "the same text has the same index"


def test_the_index_is_of_the_training_text_alone(corpora_dir: Path) -> None:
    texts = texts_of(40)
    make_corpus(corpora_dir, "docs", texts)
    split = DataConfig(tokenizer="bpe:300", split="document", val_fraction=0.3)
    result = prepare("docs", split, corpora_dir=corpora_dir)
    index = parse_ngrams((result.folder / "ngrams.bin").read_bytes(), "index")
    train = [document for document in decoded(result, "train").split("■") if document]
    assert index.documents == len(train) == result.manifest.train.documents
    assert np.diff(index.ends, prepend=0).tolist() == [find_words(text).hashes.size for text in train]


def test_ensure_fetches_and_prepares_what_is_missing_and_says_so_once(corpora_dir: Path) -> None:
    notices: list[str] = []
    result = ensure_tokens("python-docs", DataConfig(), corpora_dir=corpora_dir, on_notice=notices.append)
    assert result.manifest.licence == "PSF-2.0"
    assert notices[0] == "The corpus python-docs is not here yet: fetching it."
    assert notices[-1] == "Preparing python-docs with bpe:512: there are no tokens of this kind yet."
    notices.clear()
    by_path = ensure_tokens(str(corpora_dir / "python-docs"), DataConfig(), on_notice=notices.append)
    assert by_path.reused
    assert notices == []


def test_ensure_answers_an_unknown_corpus_with_what_there_is(corpora_dir: Path) -> None:
    make_corpus(corpora_dir, "docs", texts_of(5))
    with pytest.raises(CorpusError, match="no corpus called 'shakespear'") as caught:
        ensure_tokens("shakespear", CHAR, corpora_dir=corpora_dir, on_notice=lambda _: None)
    assert caught.value.hint.startswith("Did you mean shakespeare? Fetched: docs. ")


@pytest.mark.parametrize(
    ("data", "problem", "hint"),
    [
        ({"split_at": 0.99}, "val split of docs has 1 token; at least 2", "--split-at 0.5"),
        ({"split_at": 0.1}, "train split of docs has 0 tokens", "--split-at 0.5"),
        ({"split": "document"}, "split of docs has 0 tokens", "--split paragraph"),
    ],
)
def test_a_split_without_two_tokens_is_refused(
    corpora_dir: Path, data: dict[str, Any], problem: str, hint: str
) -> None:
    folder = make_corpus(corpora_dir, "docs", ["To be."])
    with pytest.raises(CorpusError, match=problem) as caught:
        prepare("docs", DataConfig(tokenizer="char", **data), corpora_dir=corpora_dir)
    assert hint in caught.value.hint
    assert no_temporary_files(folder)


def test_a_corpus_without_text_is_refused(corpora_dir: Path) -> None:
    folder = make_corpus(corpora_dir, "docs", texts_of(1))
    (folder / "documents.jsonl").write_text('{"id": "0", "text": ""}\n', "utf-8")
    with pytest.raises(CorpusError, match="docs has no text in it"):
        prepare("docs", CHAR, corpora_dir=corpora_dir, force=True)
    (folder / "documents.jsonl").write_text("", "utf-8")
    with pytest.raises(CorpusError, match="no documents"):
        prepare("docs", CHAR, corpora_dir=corpora_dir, force=True)


def test_a_tokenizer_that_cannot_be_is_refused_before_anything_is_read(corpora_dir: Path) -> None:
    make_corpus(corpora_dir, "docs", texts_of(1))
    with pytest.raises(TokenizerError, match="bpe:100 is too small"):
        prepare("docs", DataConfig(tokenizer="bpe:100"), corpora_dir=corpora_dir)


def test_a_vocabulary_the_text_cannot_fill_is_noted(corpora_dir: Path) -> None:
    make_corpus(corpora_dir, "docs", texts_of(1))
    result = prepare("docs", DataConfig(tokenizer="bpe:60000"), corpora_dir=corpora_dir)
    assert result.manifest.vocab_size < 60000
    assert f"{result.manifest.vocab_size:,} tokens" in result.notes[-1]
    assert prepare("docs", DataConfig(tokenizer="bpe:60000"), corpora_dir=corpora_dir).reused


def test_an_interrupted_prepare_leaves_the_tokens_that_were_there(corpora_dir: Path) -> None:
    folder = make_corpus(corpora_dir, "docs", texts_of(10))
    first = prepare("docs", CHAR, corpora_dir=corpora_dir)

    def interrupt(text: str) -> None:
        if text.startswith("Encoding"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("docs", CHAR, corpora_dir=corpora_dir, force=True, on_progress=interrupt)
    assert open_dataset(first.folder).manifest == first.manifest
    assert no_temporary_files(folder)


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(corpora_dir: Path) -> None:
    folder = make_corpus(corpora_dir, "docs", texts_of(5))
    (folder / "tokens").write_text("in the way", "utf-8")
    with pytest.raises(CorpusError, match=r"cannot be written to .*char"):
        prepare("docs", CHAR, corpora_dir=corpora_dir)


# Prepares and tells the peak of its own memory; on two cores, since every thread holds a piece of text.
MEASURE = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
from gptcli.config import DataConfig
from gptcli.prepare import prepare
manifest = prepare("large", DataConfig(tokenizer="char"), corpora_dir=Path(sys.argv[1])).manifest
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(manifest.train.bytes + manifest.val.bytes, peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to read the peak of a process's memory")
def test_memory_stays_flat_while_a_large_corpus_is_prepared(corpora_dir: Path) -> None:
    rng = random.Random(1)
    words = " ".join(topics.values()).split(" ")

    def text(n_words: int) -> str:
        return " ".join(rng.choices(words, k=n_words)) + "\n\n"

    def documents() -> Iterator[Document]:
        yield from document_parts(text(10_000) for _ in range(1400))
        for _ in range(14_000):
            yield document(text(1000))

    corpora_dir.joinpath("large").mkdir(parents=True)
    with corpora_dir.joinpath("large", "documents.jsonl").open("wb") as file:
        written = write_documents(file, documents())
    assert written.bytes > 140e6
    command = [sys.executable, "-W", "error", "-c", MEASURE, str(corpora_dir)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    n_bytes, peak_kb = map(int, done.stdout.split())
    assert n_bytes == written.bytes
    assert peak_kb < 250_000, "the text and its tokens alone are above 400 MB"
