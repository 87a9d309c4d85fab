from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.formats import SUFFIXES, read_file, suffix_of
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source
from tests.fetch.formats.conftest import Read
from tests.fetch.gutenberg_samples import ebook


@pytest.mark.parametrize("name", ["a.txt", "a.py", "README", "a.unknown", "a.txt.gz", "a.gz"])
def test_text_of_any_name_is_read_as_it_is(read: Read, name: str) -> None:
    content = b"one < two & three\n\n  indented\t\n"
    found = read(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert found.texts == [content.decode()]
    assert found.encodings == {"utf-8": 1}


@pytest.mark.parametrize("name", ["863-0.txt", "1513-h.htm"])
def test_a_book_of_project_gutenberg_is_the_work_alone(read: Read, shared_data: Path, name: str) -> None:
    found = read(shared_data / "gutenberg" / name)
    (item,) = found.documents
    authors = {"863-0.txt": "Agatha Christie", "1513-h.htm": "William Shakespeare"}
    assert (item.author, item.language) == (authors[name], "en")
    assert "gutenberg" not in item.text.lower()
    assert item.licence.startswith("public domain")
    assert found.notes == [f"{name}: header, licence and credits of Project Gutenberg were left out."]
    assert found.dropped["lines of header, licence, credits and notes"] > 300


def test_verbatim_text_keeps_everything(read: Read, shared_data: Path) -> None:
    path = shared_data / "gutenberg" / "863-0.txt"
    found = read(path, options=FetchOptions(as_kind="text"))
    assert found.texts == [path.read_text("utf-8-sig")]
    assert found.notes == []
    assert read("a.md", "---\ntitle: A\n---\n", FetchOptions(as_kind="text")).texts == ["---\ntitle: A\n---\n"]


PARAGRAPH = "A paragraph that is long enough to be taken for what this page is about, with a number of words in it. "
PAGE = f"""<!DOCTYPE html><html lang="de"><head><title>Grüße &amp; mehr</title><meta name="author" content="Ada"></head>
<body><nav><a href="/">Home</a> <a href="/about">About</a></nav><article><p>Schöne {PARAGRAPH * 3}</p>
<p>Noch <b>eine</b>. {PARAGRAPH * 3}</p></article><script>track()</script></body></html>"""


@pytest.mark.parametrize("name", ["page.html", "page.HTM", "page"])
def test_a_saved_page_is_its_main_text(read: Read, name: str) -> None:
    (item,) = read(name, PAGE).documents
    assert item.text.startswith("Schöne A paragraph")
    assert "Noch eine." in item.text
    assert not {"Home", "track()", "<"} & set(item.text.split())
    assert (item.title, item.author, item.language) == ("Grüße & mehr", "Ada", "de")


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<meta charset="iso-8859-2">', "iso8859_2"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1250">', "cp1250"),
        ('<meta charset="iso-8859-1">', "utf-8"),
        ("", "utf-16"),
    ],
)
def test_the_page_says_its_encoding_unless_it_is_utf8(read: Read, head: str, encoding: str) -> None:
    page = f"<html><head>{head}</head><body><p>Žluťoučký kůň.</p></body></html>"
    found = read("a.html", page.encode(encoding))
    assert found.texts == ["Žluťoučký kůň."]
    assert found.notes == []


def test_text_can_be_taken_for_a_page(read: Read) -> None:
    assert read("a.txt", "<p>One &amp;<br>two</p>", FetchOptions(as_kind="page")).texts == ["One &\ntwo"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.html", b"", "a.html is empty"),
        ("a.txt.gz", b"\x1f\x8b\x08\0", "a.txt.gz is damaged: it cannot be unpacked"),
        ("a.epub.gz", gzip.compress(b"PK\x03\x04", mtime=0), "a.epub.gz looks binary: it is a ZIP archive"),
        ("a.docx", b"PK\x03\x04word/document.xml", "a.docx looks binary: it is a ZIP archive"),
        ("a.csv", b"PK\x03\x04\x00\x00", "a.csv looks binary: it is a ZIP archive"),
        ("a.html", b"<html>\0\0", "a.html looks binary"),
    ],
)
def test_what_is_no_text_gets_its_sentence(read: Read, name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(name, content)
    assert caught.value.message.startswith(sentence)


def test_a_file_is_a_page_where_the_user_says_so(read: Read) -> None:
    as_page = FetchOptions(as_kind="page")
    assert read("a.txt", "<title>A</title><p>Fish &amp; chips.</p>", as_page).texts == ["Fish & chips."]
    with pytest.raises(SourceError, match=r"a\.txt is not a web page: there is no HTML in it\.") as caught:
        read("a.txt", "2 < 3, and that is all.\n", as_page)
    assert caught.value.hint == "Read it as the plain text that it is: gptcli fetch a.txt --as text"
    with pytest.raises(SourceError, match=r"a\.pdf looks binary: it is a PDF"):
        read("a.pdf", b"%PDF-1.4\n\0", as_page)


def test_a_text_is_of_gutenberg_where_the_user_says_so_and_has_any_marker_of_it(read: Read) -> None:
    as_book = FetchOptions(as_kind="gutenberg")
    preface = "A preface of somebody else. " * 300
    words = "Once upon a time. " * 400
    text = f"{preface}\n{ebook(words)}"
    assert read("a.txt", text).texts == [text]
    assert read("a.txt", text, as_book).texts == [words.strip()]
    html = f"<html><body><pre>{ebook(words)}</pre></body></html>"
    assert read("b", html, as_book).texts == [words.strip()]
    with pytest.raises(SourceError, match=r"a\.txt has none of the markers of Project Gutenberg") as caught:
        read("a.txt", words, as_book)
    assert caught.value.hint == "Read it as any other file: gptcli fetch a.txt --as local"


def test_a_page_beyond_reason_is_refused(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptcli.fetch.formats import input as module

    monkeypatch.setattr(module, "MAX_WHOLE_CHARS", 500)
    with pytest.raises(SourceError, match=r"a\.html is longer than 500 characters, which is too much for a web page"):
        read("a.html", PAGE)


def test_a_download_is_read_by_the_suffix_of_its_address(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(gzip.compress(b'{"text": "One."}\n{"text": "Two.", "url": "https://b.org/2"}\n'))
    url = "https://example.org/a.jsonl.gz?raw=true"
    source = Source("text", "", url)
    options = FetchOptions()
    found = list(
        read_file(tmp_path / "object", suffix=".gz", label=url, title="a", source=source, options=options, url=url)
    )
    assert [(item.text, item.url) for item in found] == [("One.", url), ("Two.", "https://b.org/2")]


def test_suffixes_say_what_a_file_is() -> None:
    assert [suffix_of(name) for name in ("A.CSV", "a.b.jsonl.GZ", "a.gz", "README", ".profile")] == [
        ".csv", ".jsonl.gz", ".gz", "", ""
    ]  # fmt: skip
    assert {".epub", ".csv", ".tsv", ".jsonl", ".parquet", ".srt", ".vtt", ".md", ".html", ".pdf", ".gz"} <= SUFFIXES
