from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.detect import by_answer, detect
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.web import Web
from tests.fetch.conftest import Page, Site

ANY = FetchOptions()
HTML = b"<!doctype html><title>T</title><body><article><h1>T</h1><p>Some words of a page.</p></article>"
FEED = b'<?xml version="1.0"?>\n<rss version="2.0"><channel><title>T</title></channel></rss>'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt", "one.mp3", "two.flac"):
        (tmp_path / name).write_bytes(b"some text")
    for folder, names in (("notes", ("x.md",)), ("tapes", ("1.wav", "2.m4a")), ("mixed", ("x.md", "1.wav"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"some text")
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "kind", "name"),
    [
        (["-"], "stdin", "stdin"),
        (["a.txt"], "local", "a"),
        (["notes"], "local", "notes"),
        (["mixed"], "local", "mixed"),
        (["*.txt"], "local", "texts"),
        (["one.mp3"], "audio", "one"),
        (["tapes"], "audio", "tapes"),
        (["one.mp3", "two.flac"], "audio", None),
        (["a.txt", "b.txt"], "local", None),
        (["gutenberg:1513"], "gutenberg", "pg1513"),
        (["gutenberg:Romeo and Juliet"], "gutenberg", None),
        (["https://www.gutenberg.org/ebooks/1513"], "gutenberg", "pg1513"),
        (["hf:roneneldan/TinyStories:text"], "hub", None),
        (["https://example.org/a%20book.txt"], "web", "a book"),
        (["HTTPS://example.org/"], "web", "example.org"),
        (["python-docs"], "embedded", "python-docs"),
        (["shakespeare"], "web", "shakespeare"),
        (["poirot"], "gutenberg", "poirot"),
        (["openwebtext"], "hub", "openwebtext"),
    ],
)
def test_words_are_told_apart(sources: list[str], kind: str, name: str | None) -> None:
    place = detect(sources, ANY, Path("corpora"))
    assert (place.kind, place.name) == (kind, name or place.name)
    assert place.why


@pytest.mark.parametrize(
    ("source", "wanted", "kind"),
    [
        ("mixed", "audio", "audio"),
        ("tapes", "local", "local"),
        ("1513", "gutenberg", "gutenberg"),
        ("owner/data", "hub", "hub"),
        ("blog.example.org", "blog", "web"),
        ("localhost.localdomain:8001/table.json", "json", "web"),
    ],
)
def test_as_overrules(source: str, wanted: str, kind: str) -> None:
    place = detect([source], FetchOptions(as_kind=wanted), Path("corpora"))  # type: ignore[arg-type]
    assert place.kind == kind


@pytest.mark.parametrize(
    ("sources", "sentence", "hint"),
    [
        ([""], "The source is empty.", "gptcli fetch book.txt"),
        (["ftp://example.org/a"], "ftp://example.org/a begins with ftp://", "gptcli fetch FILE"),
        (["https://"], "https:// names no host", "https://example.org"),
        (["shakespaere"], "no file, folder or recipe called 'shakespaere'", "Did you mean shakespeare?"),
        (["example.org/blog"], "no file, folder or recipe", "gptcli fetch https://example.org/blog"),
        (["a.txt", "nothing.txt"], "nothing.txt is not a file here", "one after the other"),
        (["hitchhikers"], "audiobooks", "gptcli"),
    ],
)
def test_what_is_nothing_says_where_was_looked(sources: list[str], sentence: str, hint: str) -> None:
    with pytest.raises(SourceError) as caught:
        detect(sources, ANY, Path("corpora"))
    assert sentence in caught.value.message
    assert hint in caught.value.hint + caught.value.message


def test_a_file_wins_over_a_recipe_of_its_name(here: Path) -> None:
    (here / "shakespeare").write_text("mine")
    assert detect(["shakespeare"], ANY, Path("corpora")).kind == "local"


@pytest.mark.parametrize(
    ("path", "page", "kind"),
    [
        ("/a.txt", Page(b"plain words"), "text"),
        ("/post/1", Page(HTML, content_type="text/html; charset=utf-8"), "page"),
        ("/post/1", Page(b"\xef\xbb\xbf\n " + HTML, content_type="application/octet-stream"), "page"),
        ("/", Page(HTML, content_type="text/html"), "blog"),
        ("/feed", Page(FEED, content_type="application/rss+xml"), "feed"),
        ("/feed", Page(FEED, content_type="text/xml"), "feed"),
        ("/post/2", Page(b"<!---->" * 5000 + HTML, content_type="text/html"), "page"),
        ("/feed", Page(b"<?xml version='1.0'?><!-- a --> <?x y?>" + FEED[21:], content_type="text/plain"), "feed"),
        ("/table.json", Page(b'{"rows": []}', content_type="application/json"), "json"),
        ("/api", Page(b'[{"body": "x"}]', content_type="application/vnd.api+json"), "json"),
        ("/data.jsonl", Page(b'{"a": 1}\n{"a": 2}\n', content_type="application/octet-stream"), "json"),
        ("/data.json", Page(b'[{"body": "x"}]', content_type="text/plain"), "json"),
        ("/about.txt", Page(b"[not json, but text]", content_type="text/plain"), "text"),
        ("/book.epub", Page(b"PK\x03\x04", content_type="application/epub+zip"), "file"),
        ("/talk.mp3", Page(b"ID3", content_type="audio/mpeg"), "audio"),
    ],
)
def test_an_answer_tells_what_an_address_is(site: Site, here: Path, path: str, page: Page, kind: str) -> None:
    site.pages[path] = page
    where = f"{site.url}{path}"
    with Web(here / "corpora" / "x", where, FetchOptions(delay=0.0), lambda _: None) as web:
        found, why = by_answer(where, web.get(where), ANY)
    assert found == kind
    assert why
