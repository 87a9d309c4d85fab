from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.documents import read_documents
from gptcli.errors import SourceError
from gptcli.fetch import fetch
from tests.fetch.conftest import Page, Site


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plain_text_address_is_one_document(site: Site, shared_data: Path) -> None:
    book = (shared_data / "gutenberg" / "863-0.txt").read_bytes()
    site.pages["/files/Styles%20Affair.txt"] = Page(book, content_type="text/plain; charset=utf-8")
    result = fetch(f"{site.url}/files/Styles%20Affair.txt")
    (item,) = read_documents(result.folder / "documents.jsonl")
    assert item.text == book.decode("utf-8-sig").replace("\r\n", "\n")
    assert (item.title, item.url) == ("Styles Affair", f"{site.url}/files/Styles%20Affair.txt")
    assert (result.name, result.source["kind"], result.notes) == ("styles-affair", "url", ())


def test_an_address_without_a_path_gives_the_hosts_name(site: Site) -> None:
    site.pages["/"] = Page(b"text")
    assert fetch(f"{site.url}/").name == "127.0.0.1"


def test_the_servers_charset_helps_where_the_text_is_not_utf8(site: Site) -> None:
    site.pages["/a.txt"] = Page("žluťoučký".encode("iso8859_2"), content_type="text/plain; charset=iso-8859-2")
    result = fetch(f"{site.url}/a.txt")
    assert next(read_documents(result.folder / "documents.jsonl")).text == "žluťoučký"
    assert result.source["encodings"] == {"iso8859-2": 1}


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (Page(b"<p>hello</p>", content_type="text/html; charset=utf-8"), "is a web page"),
        (Page(b"\xef\xbb\xbf\n <!DOCTYPE html><p>hello</p>"), "is a web page"),
        (Page(b"%PDF-1.7", content_type="application/pdf"), "looks binary: it is a PDF"),
        (Page(b""), "is empty"),
        (Page(b" \n"), "There is no text in"),
        (Page(status=404), "answered 404"),
    ],
)
def test_what_is_no_plain_text_is_refused_and_leaves_nothing(site: Site, here: Path, page: Page, sentence: str) -> None:
    site.pages["/a.txt"] = page
    with pytest.raises(SourceError, match=sentence):
        fetch(f"{site.url}/a.txt")
    assert not list(here.glob("corpora/*"))


def test_a_login_in_the_address_is_used_but_written_nowhere(site: Site) -> None:
    site.pages["/a.txt"] = Page(b"text")
    result = fetch(site.url.replace("http://", "http://user:secret@") + "/a.txt")
    assert "Authorization" in site.requests[0][1]
    assert all("secret" not in path.read_text("utf-8") for path in result.folder.iterdir())


def test_a_login_is_not_in_messages_either(site: Site) -> None:
    with pytest.raises(SourceError) as caught:
        fetch(site.url.replace("http://", "http://user:secret@") + "/missing.txt")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["http:///a.txt", "http://[::1/a.txt"])
def test_an_address_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="names no host"):
        fetch(url)
