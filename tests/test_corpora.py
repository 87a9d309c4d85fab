"""A corpus is found by name or path, and what is said of it is true of its text as it is now."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gptcli.corpora import (
    choose_corpus,
    corpus_names,
    document_facts,
    find_corpus,
    is_fetched,
    unfinished_fetches,
)
from gptcli.errors import CorpusError
from gptcli.fetch.fetching import fetch
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.web import Web
from gptcli.files import sha256_file
from tests.fetch.conftest import Page, Site, site

__all__ = ["site"]


@pytest.fixture
def corpora_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "corpora"
    (tmp_path / "hamlet.txt").write_text("To be, or not to be: that is the question.\n" * 20, "utf-8")
    fetch(str(tmp_path / "hamlet.txt"), name="hamlet", corpora_dir=folder)
    return folder


def edit_source(folder: Path, **changes: object) -> None:
    path = folder / "source.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "checksum": None, **changes}), "utf-8")


def test_a_corpus_is_found_by_name_and_by_the_path_that_fetch_prints(corpora_dir: Path) -> None:
    by_name = find_corpus("hamlet", corpora_dir)
    assert by_name == find_corpus(str(corpora_dir / "hamlet"), Path("elsewhere"))
    assert by_name.name == "hamlet"
    assert by_name.sha256 == sha256_file(by_name.documents)
    assert by_name.n_bytes == 43 * 20
    assert by_name.notes == ()


def test_corpora_are_listed_by_age_with_those_made_by_hand(corpora_dir: Path) -> None:
    assert corpus_names(corpora_dir / "nowhere") == []
    for name in (".hidden", "empty", "by-hand"):
        (corpora_dir / name).mkdir()
    for name in (".hidden", "by-hand"):
        (corpora_dir / name / "documents.jsonl").write_text('{"id": "0", "text": "The rest is silence."}\n', "utf-8")
    later = (corpora_dir / "hamlet" / "source.json").stat().st_mtime_ns + 10**9
    os.utime(corpora_dir / "by-hand" / "documents.jsonl", ns=(later, later))
    assert corpus_names(corpora_dir) == ["by-hand", "hamlet"]
    os.utime(corpora_dir / "hamlet" / "source.json", ns=(later + 1, later + 1))
    assert corpus_names(corpora_dir) == ["hamlet", "by-hand"]
    assert all(is_fetched(name, corpora_dir) for name in corpus_names(corpora_dir))


def test_a_command_means_the_corpus_it_names_then_the_profiles_then_the_newest(corpora_dir: Path) -> None:
    assert choose_corpus("mine", "profile", corpora_dir) == "mine"
    assert choose_corpus(None, "profile", corpora_dir) == "profile"
    assert choose_corpus(None, None, corpora_dir) == "hamlet"
    assert choose_corpus(None, None, corpora_dir / "nowhere") == "python-docs"


def test_what_the_recipe_asks_for_is_passed_on(corpora_dir: Path) -> None:
    edit_source(corpora_dir / "hamlet", tokenizer="char", split_at=0.9, licence="public domain")
    corpus = find_corpus("hamlet", corpora_dir)
    assert (corpus.tokenizer, corpus.split_at, corpus.licence) == ("char", 0.9, "public domain")


def test_a_corpus_edited_by_hand_is_seen_as_it_is_now(corpora_dir: Path) -> None:
    before = find_corpus("hamlet", corpora_dir)
    with before.documents.open("a", encoding="utf-8") as file:
        file.write('{"id": "0", "text": "The rest is silence."}\n')
    later = (corpora_dir / "hamlet" / "source.json").stat().st_mtime_ns + 10**9
    os.utime(before.documents, ns=(later, later))
    corpus = find_corpus("hamlet", corpora_dir)
    assert corpus.sha256 == sha256_file(corpus.documents) != before.sha256
    assert "was changed after it was fetched" in corpus.notes[0]


def test_documents_that_are_newer_but_the_same_are_no_change(corpora_dir: Path) -> None:
    before = find_corpus("hamlet", corpora_dir)
    later = (corpora_dir / "hamlet" / "source.json").stat().st_mtime_ns + 10**9
    os.utime(before.documents, ns=(later, later))
    assert find_corpus("hamlet", corpora_dir) == before


@pytest.mark.parametrize("content", [None, "{damaged", '{"format_version": 99}'])
def test_a_corpus_without_a_readable_source_is_one_made_by_hand(corpora_dir: Path, content: str | None) -> None:
    path = corpora_dir / "hamlet" / "source.json"
    path.unlink()
    if content is not None:
        path.write_text(content, "utf-8")
    corpus = find_corpus("hamlet", corpora_dir)
    assert corpus.sha256 == sha256_file(corpus.documents)
    assert (corpus.licence, len(corpus.notes)) == ("", content is not None)
    assert all(note.startswith(f"{path}: the source of a corpus ") for note in corpus.notes)


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices")
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to nothing"])
def test_documents_that_are_no_file_are_no_corpus(corpora_dir: Path, kind: str) -> None:
    path = corpora_dir / "strange" / "documents.jsonl"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nothing")
    assert corpus_names(corpora_dir) == ["hamlet"]
    assert choose_corpus(None, None, corpora_dir) == "hamlet"
    assert unfinished_fetches(corpora_dir) == {}
    with pytest.raises(CorpusError, match="no corpus called 'strange'"):
        find_corpus("strange", corpora_dir)


def test_a_source_of_wrong_types_is_told_and_the_text_is_still_a_corpus(corpora_dir: Path) -> None:
    edit_source(corpora_dir / "hamlet", missing=5, conversations="x")
    corpus = find_corpus("hamlet", corpora_dir)
    assert corpus.sha256 == sha256_file(corpus.documents)
    assert "is damaged: fields are missing or of the wrong type (conversations, missing)" in corpus.notes[0]


def test_an_unknown_name_gets_the_nearest_and_lists_what_there_is(corpora_dir: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus called 'hamlte'") as caught:
        find_corpus("hamlte", corpora_dir)
    assert caught.value.hint.startswith("Did you mean hamlet? Fetched: hamlet. gptcli corpora list ")


def test_a_recipe_that_is_not_fetched_is_answered_with_the_command(corpora_dir: Path) -> None:
    with pytest.raises(CorpusError, match="'python-docs' is not fetched yet") as caught:
        find_corpus("python-docs", corpora_dir)
    assert caught.value.hint == "gptcli fetch python-docs"


@pytest.mark.parametrize("name", ["", ".", "..", "hamlet/tokens", "corpora/.."])
def test_names_that_are_no_corpus_are_not_fetched(corpora_dir: Path, name: str) -> None:
    assert not is_fetched(name, corpora_dir)
    with pytest.raises(CorpusError, match="no corpus called"):
        find_corpus(name, corpora_dir)


def test_a_fetch_that_was_broken_off_is_known_with_the_command_that_goes_on(tmp_path: Path, site: Site) -> None:
    site.pages["/a.txt"] = Page(b"One part of many.")
    command = f"gptcli fetch {site.url}/a.txt --name mine --drop-lines '^Chapter'"
    with Web(tmp_path / "corpora" / "mine", f"{site.url}/a.txt", FetchOptions(delay=0.0), command=command) as web:
        web.get(f"{site.url}/a.txt")
    assert unfinished_fetches(tmp_path / "corpora") == {"mine": command}
    with pytest.raises(CorpusError, match="The fetch of the corpus 'mine' was not finished") as caught:
        find_corpus("mine", tmp_path / "corpora")
    assert caught.value.hint.endswith(command)


def test_what_is_known_of_each_document_is_told(corpora_dir: Path) -> None:
    (row,) = document_facts(corpora_dir / "hamlet")
    assert (row["title"], row["bytes"], len(row["sha256"])) == ("hamlet", 43 * 20, 64)
    assert row["fetched_at"] == json.loads((corpora_dir / "hamlet" / "source.json").read_text("utf-8"))["fetched_at"]
