from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.web.response import Response

Make = Callable[..., Response]
URL = "https://example.org/posts/a"


@pytest.fixture
def made(tmp_path: Path) -> Make:
    def make(body: bytes, charset: str = "", **headers: str) -> Response:
        path = tmp_path / "body"
        path.write_bytes(body)
        return Response(URL, URL, "text/html", charset, headers, "0" * 64, len(body), path, "2026-01-01T00:00:00+00:00")

    return make


META = '<html><head><meta charset="{}"></head><p>Příliš žluťoučký kůň</p>'


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (META.format("utf-8").encode(), "utf-8"),
        (META.format("iso-8859-1").encode(), "iso-8859-1"),  # both wrong: UTF-8 is hardly ever UTF-8 by chance
        (META.format("iso-8859-2").encode("iso8859-2"), ""),
        (META.format("iso-8859-2").encode("iso8859-2"), "utf-8"),
        (META.format("iso-8859-2").encode("iso8859-2"), "no-such-charset"),
        (META.format("iso-8859-2").encode("iso8859-2"), "ascii"),
        (META.format("utf-8").encode("iso8859-2"), "iso-8859-2"),
        (META.format("iso-8859-2").encode("iso8859-2"), "iso-8859-1"),
        (META.format("utf-8").encode("utf-16"), "utf-8"),
        (b'<?xml version="1.0" encoding="ISO-8859-2"?>' + META.format("x").encode("iso8859-2"), ""),
    ],
)
def test_a_page_is_decoded_whatever_is_declared_wrongly(made: Make, body: bytes, charset: str) -> None:
    assert made(body, charset).text().endswith("<p>Příliš žluťoučký kůň</p>")


@pytest.mark.parametrize(
    ("text", "encoding", "label"),
    [
        ("“quoted” and more…", "cp1252", "iso-8859-1"),
        ("“quoted” and much, much more…", "cp1252", "us-ascii"),
        ("这是一段中文文本镕", "gb18030", "gb2312"),
        ("①これは日本語", "cp932", "Shift_JIS"),
        ("똠방각하", "cp949", "euc-kr"),
        ("İstanbul €", "cp1254", "iso-8859-9"),
    ],
)
def test_labels_mean_what_they_mean_on_the_web(made: Make, text: str, encoding: str, label: str) -> None:
    assert made(text.encode(encoding), label.lower()).text() == text


def test_an_insisted_encoding_overrules_all(made: Make) -> None:
    assert made("é".encode(), "utf-8").text("latin-1") == "Ã©"
    with pytest.raises(SourceError, match=f"{URL} is not ascii"):
        made("é".encode(), "utf-8").text("ascii")


def test_a_binary_body_is_no_text(made: Make) -> None:
    with pytest.raises(SourceError, match=f"{URL} looks binary: it is a PDF"):
        made(b"%PDF-1.7").text()


@pytest.mark.parametrize("body", [b'\xef\xbb\xbf{"a": "\xc3\xa9"}', '{"a": "é"}'.encode("utf-16"), b'{"a": "\xe9"}'])
def test_json_is_read_in_any_encoding(made: Make, body: bytes) -> None:
    assert made(body).json() == {"a": "é"}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"<!doctype html>\n<p>hello", "(it begins with '<!doctype html> <p>hello'; "),
        (b"", "(it is empty; "),
        (b"[" * 100_000, "(it begins with '[[[[[["),
        (b'{"a": 1', """(it begins with '{"a": 1'; """),
        (b"\x80\x81", "(it begins with "),
        (b"1" * 5000, "(it begins with '1111"),
    ],
)
def test_what_is_no_json_is_shown(made: Make, body: bytes, found: str) -> None:
    with pytest.raises(SourceError) as caught:
        made(body).json()
    assert caught.value.message.startswith(f"{URL} is not JSON {found}")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("<https://api.example.org/?page=2>; rel=next", "https://api.example.org/?page=2"),
        ('</p/1>; rel="prev", </p/3>; rel="next"', "https://example.org/p/3"),
        ('<3>; title="a, b; rel=next"; rel="last next"', "https://example.org/posts/3"),
        ('<3>; REL="NEXT"', "https://example.org/posts/3"),
        ("</a?x=1,2>; rel=other, </b?x=1,2>; rel=next", "https://example.org/b?x=1,2"),
        ('<3>; rel="prev"', None),
        ("<javascript:alert(1)>; rel=next", None),
        ("3; rel=next", None),
        ("", None),
        ("<" * 50_000, None),
        ("<a>" + ";" * 50_000, None),
    ],
)
def test_the_link_header_is_read(made: Make, link: str, expected: str | None) -> None:
    assert made(b"", link=link).link("next") == expected
