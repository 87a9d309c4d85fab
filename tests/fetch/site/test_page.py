from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.site.page import open_page
from gptcli.fetch.source import Source
from gptcli.fetch.web import Response, Web
from tests.fetch.blog_site import f1, html_page, posts
from tests.fetch.blog_themes import page
from tests.fetch.conftest import Page, Site


@pytest.fixture
def web(site: Site, tmp_path: Path) -> Iterator[Web]:
    with Web(tmp_path / "corpus", site.url, FetchOptions(delay=0)) as opened:
        yield opened


def opened(
    site: Site, web: Web, path: str, options: FetchOptions | None = None
) -> tuple[Source, list[Document], Response]:
    response = web.get(site.url + path)
    source = open_page(site.url + path, response, web, options or FetchOptions())
    return source, list(source.documents), response


def test_a_page_is_one_document_with_what_it_says_of_itself(site: Site, web: Web) -> None:
    post, *others = posts(6)
    site.pages[post.path] = html_page(page("semantic", post, site.url, "Notes by the sea", others))
    source, documents, response = opened(site, web, post.path)
    (item,) = documents
    assert f1(item.text, post.text) > 0.99
    assert (item.title, item.author, item.url) == (post.title, "Maria Lopez", site.url + post.path)
    assert (item.date, item.language) == (f"{post.date}T07:00:00+00:00", "en")
    assert item.licence.startswith("CC BY 4.0")
    assert (source.kind, source.encodings) == ("page", {"utf-8": 1})
    assert source.fetched_at == {item.id: response.fetched_at}


def test_reading_asks_nobody_and_the_plan_says_so(site: Site, web: Web) -> None:
    site.pages["/p"] = html_page("<title>T</title><article><p>Some words of a page.</p></article>")
    source, _, _ = opened(site, web, "/p")
    plan = source.plan()
    assert (plan.requests, plan.seconds) == (0, 0.0)
    assert site.asked == ["/p"]


@pytest.mark.parametrize(
    ("charset", "content_type", "meta"),
    [
        ("utf-8", "text/html; charset=iso-8859-1", ""),
        ("iso-8859-1", "text/html", '<meta charset="iso-8859-1">'),
        (
            "windows-1251",
            "text/html; charset=utf-8",
            '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">',
        ),
        ("shift_jis", "text/html; charset=shift_jis", ""),
    ],
)
def test_wrong_declarations_of_the_charset_do_no_harm(
    site: Site, web: Web, charset: str, content_type: str, meta: str
) -> None:
    words = {
        "windows-1251": "Все счастливые семьи похожи друг на друга, ",  # noqa: RUF001
        "shift_jis": "吾輩は猫である。名前はまだ無い。",
    }
    text = (words.get(charset, "Über Mäuse, Öl und größere Füße, ") * 12).strip(", ")
    site.pages["/p"] = Page(f"<html><head>{meta}</head><p>{text}</p></html>".encode(charset), content_type=content_type)
    _, (item,), _ = opened(site, web, "/p")
    assert item.text == text


def test_a_named_encoding_is_insisted_on(site: Site, web: Web) -> None:
    site.pages["/p"] = Page("<p>Füße".encode(), content_type="text/html")
    _, (item,), _ = opened(site, web, "/p", FetchOptions(encoding="cp1252"))
    assert item.text == "FÃ¼ÃŸe"


def test_a_book_of_gutenberg_in_html_is_cleaned(site: Site, web: Web, shared_data: Path) -> None:
    site.pages["/1513-h.htm"] = Page((shared_data / "gutenberg" / "1513-h.htm").read_bytes(), content_type="text/html")
    source, (item,), _ = opened(site, web, "/1513-h.htm")
    assert (item.title, item.author, item.language) == ("Romeo and Juliet", "William Shakespeare", "en")
    assert "Project Gutenberg" not in item.text
    assert item.text.startswith("THE TRAGEDY OF ROMEO AND JULIET")
    assert item.text.endswith("Than this of Juliet and her Romeo.\n\n[Exeunt.]")
    assert source.dropped.total() > 0
    plain = (shared_data / "gutenberg" / "1513-0.txt").read_text("utf-8-sig")
    assert f1(item.text, plain[plain.index("THE TRAGEDY") : plain.index("*** END")]) > 0.99


@pytest.mark.parametrize("body", ["", "<html><body><div id='root'></div><script>render()</script></body></html>"])
def test_a_page_that_a_script_fills_is_an_error(site: Site, web: Web, body: str) -> None:
    site.pages["/app"] = html_page(body)
    with pytest.raises(SourceError, match="is a page without text; it may be filled by a script in the browser"):
        opened(site, web, "/app")
