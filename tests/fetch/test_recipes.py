from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from gptcli.documents import read_documents
from gptcli.errors import SourceError
from gptcli.fetch.detect import detect
from gptcli.fetch.fetching import IncompleteError, fetch
from gptcli.fetch.gutenberg import gutenberg_name
from gptcli.fetch.gutenberg.header import PUBLIC_DOMAIN
from gptcli.fetch.hub import hub_name
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.recipes import Recipe, find_recipe, load_recipe, recipe_options, recipes
from tests.fetch.conftest import Page, Site

BUILT_IN = {
    *("python-docs", "shakespeare", "poirot", "poirot-books", "romeo-and-juliet", "simonwillison-blog"),
    *("hitchhikers", "openwebtext", "tinystories"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").mkdir()
    return tmp_path


@pytest.fixture
def mirror(site: Site, shared_data: Path) -> Site:
    """A mirror of Project Gutenberg with two books."""
    for path, name in {"/8/6/863/863-0.txt": "863-0.txt", "/1/5/1/1513/1513-0.txt": "1513-0.txt"}.items():
        site.pages[path] = Page((shared_data / "gutenberg" / name).read_bytes())
    return site


def test_every_built_in_recipe_can_be_read() -> None:
    found = {file.name: load_recipe(file.path) for file in recipes()}
    assert set(found) == BUILT_IN
    assert all(recipe.description.endswith(".") and recipe.licence for recipe in found.values())
    assert all(note.endswith(".") for recipe in found.values() for note in recipe.notes)


def test_what_is_not_free_everywhere_says_so() -> None:
    for name in ("poirot", "poirot-books", "simonwillison-blog", "hitchhikers"):
        recipe = find_recipe(name)
        assert recipe is not None
        assert any(word in " ".join(recipe.notes) for word in ("copyright", "licence"))


@pytest.mark.parametrize(
    ("name", "title", "author", "tokenizer"),
    [
        ("poirot", "The Mysterious Affair at Styles", "Agatha Christie", None),
        ("romeo-and-juliet", "Romeo and Juliet", "William Shakespeare", "char"),
    ],
)
def test_a_gutenberg_recipe_works_from_a_mirror(
    mirror: Site, name: str, title: str, author: str, tokenizer: str | None
) -> None:
    result = fetch(name, options=FetchOptions(mirror=mirror.url, delay=0.0))
    (item,) = read_documents(result.folder / "documents.jsonl")
    assert (result.name, item.title, item.author, item.licence) == (name, title, author, PUBLIC_DOMAIN)
    assert "Gutenberg" not in item.text
    assert "\n\n\n" not in item.text
    assert (result.source["recipe"], result.source["tokenizer"]) == (name, tokenizer)
    recipe = find_recipe(name)
    assert recipe is not None
    assert set(recipe.notes) <= set(result.notes)


def test_books_that_a_mirror_lacks_are_missing_and_the_others_are_kept(mirror: Site) -> None:
    with pytest.raises(IncompleteError) as caught:
        fetch("poirot-books", options=FetchOptions(mirror=mirror.url, delay=0.0))
    result = caught.value.result
    assert (result.documents, [missing.what for missing in result.missing]) == (
        1,
        ["book 58866", "book 61262", "book 69087", "book 70114", "book 72824"],
    )


def test_the_blog_recipe_reads_title_and_body_of_every_page(site: Site) -> None:
    path = "/simonwillisonblog/blog_entry.json"
    second = f"{site.url}{path}?_next=1"
    pages = [
        {"rows": [{"id": 1, "title": "WaSP", "body": "<p>It &amp; they</p><p>began.</p>"}], "next_url": second},
        {"rows": [{"id": 2, "title": "Blogging", "body": "<p>Easy</p>"}], "next_url": None},
    ]
    site.pages[f"{path}?_col=title&_col=body&_shape=objects&_size=max"] = Page(
        json.dumps(pages[0]).encode(), content_type="application/json"
    )
    site.pages[f"{path}?_next=1"] = Page(json.dumps(pages[1]).encode(), content_type="application/json")
    result = fetch("simonwillison-blog", options=FetchOptions(mirror=site.url, delay=0.0))
    texts = [item.text for item in read_documents(result.folder / "documents.jsonl")]
    assert texts == ["WaSP\n\nIt & they\n\nbegan.", "Blogging\n\nEasy"]
    assert "for private study only" in result.source["licence"]


def test_the_recordings_recipe_says_how_to_bring_ones_own() -> None:
    with pytest.raises(SourceError) as caught:
        fetch("hitchhikers")
    assert "reads audiobooks, which is not there. No text comes with this recipe" in caught.value.message
    assert "Put recordings that you own (mp3, m4a, flac, wav) into a folder called audiobooks" in caught.value.message


def test_the_recordings_recipe_reads_the_folder_audiobooks(here: Path) -> None:
    (here / "audiobooks").mkdir()
    (here / "audiobooks" / "01.mp3").write_bytes(b"")
    place = detect(["hitchhikers"], FetchOptions(), here / "corpora")
    assert (place.kind, place.sources, place.name) == ("audio", ("audiobooks",), "hitchhikers")
    assert place.recipe is not None
    options = recipe_options(place.recipe, FetchOptions(drop_lines=("^The end",)))
    assert options.language == "en"
    assert options.drop_lines == (r"^\W*Chapter\b", "^The end")


def test_the_sources_of_the_large_recipes_are_names_that_their_kinds_know() -> None:
    sources = {file.name: load_recipe(file.path).source for file in recipes()}
    assert hub_name(sources["openwebtext"]) == "openwebtext"
    assert hub_name(sources["tinystories"]) == "TinyStories"
    assert gutenberg_name(sources["poirot-books"]) == "pg863-58866-61262-and-3-more"


def test_the_options_of_the_command_line_win_over_those_of_a_recipe() -> None:
    recipe = Recipe(
        name="a",
        source="https://example.org/",
        kind="json",
        items="rows",
        text_fields=["title", "body"],
        next_page="next",
        limit_bytes=1000,
        language="fr",
        whisper="tiny",
        drop_lines=["^A", "^B"],
    )
    plain = recipe_options(recipe, FetchOptions(delay=3.0))
    assert plain == FetchOptions(
        as_kind="json",
        items="rows",
        text_fields=("title", "body"),
        next_page="next",
        limit_bytes=1000,
        language="fr",
        whisper="tiny",
        drop_lines=("^A", "^B"),
        delay=3.0,
    )
    asked = FetchOptions(
        as_kind="page", items="x", text_fields=("y",), next_page="z", limit_bytes=1, language="de", whisper="large-v3"
    )
    assert recipe_options(recipe, asked) == FetchOptions(
        **{**{field: getattr(asked, field) for field in asked.__slots__}, "drop_lines": ("^A", "^B")}
    )
    assert recipe_options(recipe, FetchOptions(drop_lines=("^B", "^C"))).drop_lines == ("^A", "^B", "^C")


def test_the_shakespeare_recipe_names_the_bytes_of_tiny_shakespeare(shared_data: Path) -> None:
    recipe = find_recipe("shakespeare")
    assert recipe is not None
    assert recipe.sha256 == hashlib.sha256((shared_data / "tinyshakespeare.txt").read_bytes()).hexdigest()


def test_python_docs_needs_no_network_and_has_each_topic_once() -> None:
    from pydoc_data.topics import topics

    result = fetch("python-docs")
    items = list(read_documents(result.folder / "documents.jsonl"))
    titles = [item.title for item in items]
    assert titles == sorted(set(titles) & set(topics))
    assert {"compound", "types"} <= set(titles)
    assert not {"if", "for", "while"} & set(titles), "they are sections of compound"
    assert result.source["dropped"] == {"topics that are sections of another": len(topics) - len(titles)}
    assert {item.licence for item in items} == {result.source["licence"]} == {"PSF-2.0"}
    assert 350_000 < result.bytes < 700_000
    assert (result.source["kind"], result.source["recipe"]) == ("embedded", "python-docs")
    assert f"{sys.version_info.major}.{sys.version_info.minor}." in result.notes[0]


def test_a_recipe_of_the_working_directory_wins(here: Path) -> None:
    (here / "mine.txt").write_text("my text")
    recipe = "name: shakespeare\nsource: mine.txt\ntokenizer: bpe:512\nsplit_at: 0.8\n"
    (here / "corpora" / "shakespeare.yaml").write_text(recipe)
    result = fetch("shakespeare")
    assert (result.bytes, result.source["tokenizer"], result.source["split_at"]) == (7, "bpe:512", 0.8)
    assert [file.builtin for file in recipes() if file.name == "shakespeare"] == [False]


def test_a_recipe_cleans_and_says_what_it_removed(site: Site, here: Path) -> None:
    site.pages["/talk"] = Page(b"Chapter 1\nOne.  \n\n\n\nTwo.\nChapter 2\nThree.\n")
    (here / "corpora" / "talk.yaml").write_text(
        f"name: talk\nsource: {site.url}/talk\nlicence: CC0-1.0\n"
        "cleaners: [strip_trailing_spaces, collapse_blank_lines]\ndrop_lines: ['^Chapter [0-9]+$']\n"
    )
    result = fetch("talk")
    (item,) = read_documents(result.folder / "documents.jsonl")
    assert item.text == "One.\n\nTwo.\nThree.\n"
    assert item.licence == result.source["licence"] == "CC0-1.0"
    assert result.source["dropped"] == {"lines with ^Chapter [0-9]+$": 2}


def test_a_text_that_has_changed_at_its_source_is_refused(site: Site, here: Path) -> None:
    text = b"what the recipe was written for"
    site.pages["/a.txt"] = Page(text)
    digest = hashlib.sha256(text).hexdigest()
    (here / "corpora" / "a.yaml").write_text(f"name: a\nsource: {site.url}/a.txt\nsha256: {digest}\n")
    assert fetch("a").bytes == len(text)
    before = (here / "corpora" / "a" / "documents.jsonl").read_bytes()
    site.pages["/a.txt"] = Page(b"something else")
    with pytest.raises(SourceError) as caught:
        fetch("a")
    assert digest in caught.value.message
    assert f"gptcli fetch {site.url}/a.txt" in caught.value.hint
    assert (here / "corpora" / "a" / "documents.jsonl").read_bytes() == before


def test_a_local_source_is_held_to_its_sha256_too(here: Path) -> None:
    (here / "a.txt").write_text("text")
    (here / "corpora" / "a.yaml").write_text(f"name: a\nsource: a.txt\nsha256: {'ab' * 32}\n")
    with pytest.raises(SourceError, match="is not the one file with the SHA-256"):
        fetch("a")


def test_a_recipe_whose_text_is_missing_says_so(here: Path) -> None:
    (here / "corpora" / "a.yaml").write_text("name: a\nsource: nowhere.txt\n")
    with pytest.raises(SourceError, match=r"The recipe a reads nowhere\.txt, which is not there"):
        fetch("a")


def test_a_file_comes_before_a_recipe_of_the_same_name_and_a_note_says_so(here: Path) -> None:
    (here / "shakespeare").mkdir()
    (here / "shakespeare" / "a.txt").write_text("text")
    result = fetch("shakespeare")
    assert result.bytes == 4
    assert result.name == "shakespeare-2"
    assert "shakespeare is a folder here, so the recipe of that name was not used." in result.notes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: other\nsource: x\n", "a.yaml:1: the name is 'other', but the file is a.yaml"),
        ("name: a\n", "source: Field required"),
        ("name: a\nsource: x\nlicense: MIT\n", "a.yaml:3: license: Extra inputs are not permitted"),
        ("name: a\nsource: x\nsource: y\n", "a.yaml:3: the key 'source' is given twice"),
        ("name: a\nsource: x\ncleaners: [polish]\n", "unknown cleaner 'polish'; there are strip_bom"),
        ("name: a\nsource: x\ndrop_lines: ['(']\n", "'(' is not a regular expression"),
        ("name: a\nsource: x\ntokenizer: words\n", "tokenizer 'words' is unknown"),
        ("name: a\nsource: x\nsplit_at: 1.5\n", "a.yaml:3: split_at"),
        ("name: a\nsource: x\nsha256: abc\n", "a.yaml:3: sha256"),
        ("name: a\nsource: x\nkind: feed\n", "a.yaml:3: kind: Input should be 'text', 'page', 'blog'"),
        ("name: a\nsource: x\nlimit_bytes: 0\n", "a.yaml:3: limit_bytes"),
        ("name: a\nsource: x\nnotes: no\n", "a.yaml:3: notes"),
        ("- a\n", "a mapping of keys to values was expected"),
    ],
)
def test_a_wrong_recipe_is_told_with_its_line(here: Path, text: str, problem: str) -> None:
    (here / "corpora" / "a.yaml").write_text(text)
    with pytest.raises(SourceError) as caught:
        fetch("a")
    assert problem in caught.value.message


def test_all_mistakes_of_a_recipe_are_told_at_once(here: Path) -> None:
    (here / "corpora" / "a.yaml").write_text("name: a\nsource: 5\ncleaners: no\n")
    with pytest.raises(SourceError) as caught:
        fetch("a")
    assert ":2: source" in caught.value.message
    assert ":3: cleaners" in caught.value.message


def test_a_recipe_that_is_no_text_is_an_error(here: Path) -> None:
    (here / "corpora" / "a.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match="not UTF-8"):
        fetch("a")


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_a_pipe_in_the_place_of_a_recipe_is_not_waited_for(here: Path) -> None:
    os.mkfifo(here / "corpora" / "a.yaml")
    with pytest.raises(SourceError, match=r"a\.yaml:1: this is not a regular file"):
        fetch("a")
