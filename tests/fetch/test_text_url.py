from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptcli.documents import PART_CHARS
from gptcli.errors import SourceError
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source
from gptcli.fetch.text_url import expect_sha256, open_text
from gptcli.fetch.web import Response, Web
from tests.fetch.conftest import Page, Site

Get = Callable[[str], Response]
Open = Callable[..., Source]


@pytest.fixture
def get(site: Site, tmp_path: Path) -> Iterator[Get]:
    with Web(tmp_path / "x", site.url, FetchOptions(delay=0)) as web:
        yield lambda path: web.get(f"{site.url}{path}")


@pytest.fixture
def opened(site: Site, get: Get) -> Open:
    return lambda path, **options: open_text(f"{site.url}{path}", get(path), FetchOptions(**options))


def test_a_plain_text_address_is_one_document(site: Site, opened: Open, shared_data: Path) -> None:
    book = (shared_data / "tinyshakespeare.txt").read_bytes()
    site.pages["/files/All%20Plays.txt"] = Page(book, content_type="text/plain; charset=utf-8")
    source = opened("/files/All%20Plays.txt")
    (item,) = source.documents
    assert item.text == book.decode()
    assert (item.title, item.url) == ("All Plays", f"{site.url}/files/All%20Plays.txt")
    assert (source.kind, source.name, source.notes) == ("text", "All Plays", [])
    assert source.fetched_at[item.id].startswith("20")
    assert source.plan().bytes == len(book)
    assert source.plan().requests == 0


def test_an_address_without_a_path_gives_the_hosts_name(site: Site, opened: Open) -> None:
    site.pages["/"] = Page(b"text")
    assert opened("/").name == "127.0.0.1"


def test_a_long_text_comes_in_parts(site: Site, opened: Open) -> None:
    site.pages["/a.txt"] = Page(b"some words\n" * 600_000)
    source = opened("/a.txt")
    parts = list(source.documents)
    assert [item.part for item in parts] == [0, 1]
    assert len(parts[0].text) <= PART_CHARS
    assert "".join(item.text for item in parts) == "some words\n" * 600_000
    assert set(source.fetched_at) == {item.id for item in parts}


def test_the_servers_charset_helps_where_the_text_is_not_utf8(site: Site, opened: Open) -> None:
    site.pages["/a.txt"] = Page("žluťoučký".encode("iso8859_2"), content_type="text/plain; charset=iso-8859-2")
    source = opened("/a.txt")
    assert [item.text for item in source.documents] == ["žluťoučký"]
    assert (dict(source.encodings), source.notes) == ({"iso8859-2": 1}, [])


def test_a_guessed_encoding_is_noted_and_another_may_be_asked_for(site: Site, opened: Open) -> None:
    site.pages["/a.txt"] = Page("Größe".encode("cp1252"), content_type="text/plain; charset=utf-8")
    source = opened("/a.txt")
    assert [item.text for item in source.documents] == ["Größe"]
    assert source.notes == [f"{site.url}/a.txt is not UTF-8; read as cp1252. Pass --encoding to insist on another."]
    with pytest.raises(SourceError, match=r"a\.txt is not utf-8"):
        list(opened("/a.txt", encoding="utf-8").documents)


def test_bytes_of_no_encoding_are_replaced_with_a_note(site: Site, opened: Open) -> None:
    site.pages["/a.txt"] = Page(bytes(range(0x80, 0x100)) * 3)
    source = opened("/a.txt")
    assert "\ufffd" in next(source.documents).text
    assert f"{site.url}/a.txt: bytes that are not cp1252 became U+FFFD." in source.notes


def test_an_empty_answer_is_refused(site: Site, opened: Open) -> None:
    site.pages["/a.txt"] = Page(b"")
    with pytest.raises(SourceError, match=r"a\.txt is empty\.$"):
        opened("/a.txt")


def test_a_binary_answer_is_refused(site: Site, opened: Open) -> None:
    site.pages["/a.txt"] = Page(b"%PDF-1.7")
    with pytest.raises(SourceError, match="looks binary: it is a PDF"):
        list(opened("/a.txt").documents)


def test_a_login_is_neither_in_the_source_nor_in_its_documents(site: Site, get: Get) -> None:
    site.pages["/a.txt"] = Page(b"text")
    where = site.url.replace("http://", "http://user:secret@") + "/a.txt"
    source = open_text(where, get("/a.txt"), FetchOptions())
    assert "secret" not in f"{source.where} {source.plan()} {list(source.documents)}"


def test_other_bytes_than_a_recipe_was_written_for_are_refused(site: Site, get: Get) -> None:
    site.pages["/a.txt"] = Page(b"text")
    response = get("/a.txt")
    digest = hashlib.sha256(b"text").hexdigest()
    expect_sha256(response, digest, response.url)
    with pytest.raises(SourceError) as caught:
        expect_sha256(response, "0" * 64, response.url)
    assert caught.value.message == (
        f"{response.url} is not the text this recipe was written for: its SHA-256 is {digest}, {'0' * 64} was expected."
    )
    assert caught.value.hint.endswith(f"gptcli fetch {response.url}")


def test_a_gutenberg_text_comes_without_its_licence_by_any_address(site: Site, opened: Open, shared_data: Path) -> None:
    book = (shared_data / "gutenberg" / "863-0.txt").read_bytes()
    site.pages["/863-0.txt"] = Page(book)
    source = opened("/863-0.txt")
    (item,) = source.documents
    assert "gutenberg" not in item.text.lower()
    assert (item.author, item.url) == ("Agatha Christie", f"{site.url}/863-0.txt")
    assert "were left out" in source.notes[0]
