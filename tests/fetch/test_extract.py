from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gptcli.fetch import extract as extract_module
from gptcli.fetch.extract import Extracted, extract
from gptcli.fetch.facts import page_facts
from gptcli.fetch.site.listing import read_listing
from tests.fetch.blog_site import f1, posts
from tests.fetch.blog_themes import THEMES, Post, page

URL = "https://example.org/2024/05/post/"
TEXT = "This is a sentence of the post, and it is as long as sentences in posts are. " * 4


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("extraction asks nobody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def blog() -> list[Post]:
    return posts(60)


def pages(theme: str, blog: list[Post]) -> dict[str, Extracted]:
    """Extract each post of a blog from its page, by its path."""
    return {
        post.path: extract(
            page(
                theme,
                post,
                "https://example.org",
                "Notes by the sea",
                [blog[(post.number + step) % len(blog)] for step in (1, 2, 3, 5, 8)],
            ),
            f"https://example.org{post.path}",
        )
        for post in blog
    }


# The mean and the lowest F1. That the newsletter box of one theme is on each page of the site, only `blog` can know.
SCORES = {
    "bare": (0.99, 0.95),
    "divs": (0.99, 0.95),
    "modern": (0.95, 0.84),
    "semantic": (0.99, 0.95),
    "tables": (0.96, 0.88),
    "wordpress": (0.99, 0.95),
}


@pytest.mark.parametrize("theme", THEMES)
def test_the_known_bodies_are_found_in_every_theme(theme: str, blog: list[Post]) -> None:
    found = pages(theme, blog)
    scores = [f1(found[post.path].text, post.text) for post in blog]
    mean, lowest = SCORES[theme]
    assert sum(scores) / len(scores) >= mean
    assert min(scores) >= lowest


@pytest.mark.parametrize("theme", THEMES)
def test_the_title_is_not_part_of_the_text(theme: str, blog: list[Post]) -> None:
    for post in blog[:20]:
        found = pages(theme, [post, *blog[20:24]])[post.path]
        assert found.title == post.title
        assert post.title not in found.text


def test_code_lists_and_quotes_are_as_in_the_page(blog: list[Post]) -> None:
    post = next(post for post in blog if {"pre", "ul", "p"} <= {block.kind for block in post.blocks})
    assert pages("semantic", [*blog[:5], post])[post.path].text == post.text


@pytest.mark.parametrize("theme", ["semantic", "wordpress", "modern"])
def test_what_a_page_says_of_itself_is_recorded(theme: str, blog: list[Post]) -> None:
    found = pages(theme, blog[:6])[blog[0].path]
    assert found.author == "Maria Lopez"
    assert found.date[:10] == blog[0].date
    assert found.language in {"en", "en-US"}
    assert found.licence[:9] == ("CC BY 4.0" if theme == "semantic" else "")


def test_a_page_of_one_long_text_comes_whole(shared_data: Path) -> None:
    html = (shared_data / "gutenberg" / "1513-h.htm").read_text("utf-8-sig")
    plain = (shared_data / "gutenberg" / "1513-0.txt").read_text("utf-8-sig")
    text = extract(html, "https://example.org/1513-h.htm").text
    assert f1(text, plain) > 0.995
    for line in ("THE TRAGEDY OF ROMEO AND JULIET", "Two households, both alike in dignity,", "ACT V"):
        assert line in text
    assert "For never was a story of more woe\nThan this of Juliet and her Romeo." in text


def test_a_page_that_looks_like_nothing_comes_whole() -> None:
    answers = "".join(f"<div class='x{n}'><span>{TEXT.replace('post', f'answer {n}')}</span></div>" for n in range(12))
    text = extract(f"<title>Q</title><body><div id='q'><b>Why?</b></div>{answers}</body>", URL).text
    assert all(f"answer {n}" in text for n in range(12))


def test_a_list_at_the_end_and_a_quote_at_the_beginning_are_kept() -> None:
    quote = f"<blockquote><p>{TEXT}</p></blockquote>"
    items = "<ul><li>First thing</li><li>Second thing, which is longer</li></ul>"
    body = f"<div class='post-content'>{quote}<p>{TEXT.upper()}</p>{items}<p>The end.</p></div>"
    html = f"<article><h1>T</h1>{body}</article>"
    text = extract(f"<title>T</title><body><nav><a href='/'>Home</a></nav>{html}<footer>© me</footer></body>", URL).text
    assert (
        text
        == f"{TEXT.strip()}\n\n{TEXT.upper().strip()}\n\n- First thing\n- Second thing, which is longer\n\nThe end."
    )


@pytest.mark.parametrize(
    ("head", "h1", "title"),
    [
        ("<title>A title | The site</title>", "A title", "A title"),
        ("<title>The site: A title</title>", "A title", "A title"),
        ("<title>A title — The site</title>", "The site", "A title"),
        ('<title>A title · The site</title><meta property="og:site_name" content="The site">', "", "A title"),
        ('<meta property="og:title" content="A title">', "", "A title"),
        ("<title>A title</title>", "Something else", "A title"),
        ("", "", ""),
    ],
)
def test_the_title_comes_without_the_name_of_the_site(head: str, h1: str, title: str) -> None:
    site = '<meta property="og:site_name" content="The site">' if h1 == "The site" else ""
    html = (
        f"<html><head>{head}{site}</head><body><article><h1>{h1}</h1><p>{TEXT}</p><p>{TEXT}</p></article></body></html>"
    )
    found = extract(html, URL)
    assert found.title == title
    assert TEXT.strip() in found.text


@pytest.mark.parametrize(
    "line",
    [
        "May 3, 2024",
        "2024-05-03",
        "By Ann Lee on 3 May 2024",
        "Posted on Friday, 3rd May 2024 by Ann Lee",
        "4 min read",
        "03.05.2024 | 12:40",
        "Published: 3 Sept 2024 · 12 minutes read",
    ],
)
def test_a_line_of_date_and_name_is_no_text(line: str) -> None:
    head = '<title>T</title><meta name="author" content="Ann Lee">'
    html = f"{head}<article><h1>T</h1><p>{line}</p><p>{TEXT}</p><p>{TEXT}</p>"
    assert extract(html, URL).text == f"{TEXT.strip()}\n\n{TEXT.strip()}"


@pytest.mark.parametrize(
    "line", ["In May we read a book.", "On 3 May 2024 the sea froze.", "Today", "42", "By the sea"]
)
def test_a_line_that_begins_a_text_stays(line: str) -> None:
    html = f"<title>T</title><article><h1>T</h1><p>{line}</p><p>{TEXT}</p><p>{TEXT}</p>"
    assert extract(html, URL).text.startswith(line) == (line != "42")


@pytest.mark.parametrize(
    "html", ["", " ", "<", "<!-- c -->", "<html></html>", "<body><script>x()</script></body>", "\0"]
)
def test_an_empty_page_has_no_text(html: str) -> None:
    assert extract(html, URL).text.strip("<") == ""


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 5000 + TEXT,
        "<p>" + TEXT,
        f"<table><tr><td>{TEXT}",
        f"<article><p>{TEXT}</section></p></b>",
        f"<base href='http://['><p>{TEXT}<a href='http://['>x</a>",
        f"<p>a\ud800 {TEXT}",
        f"<svg><p>{TEXT}</p></svg><p>{TEXT}</p>",
    ],
)
def test_broken_pages_give_their_text(html: str) -> None:
    assert TEXT.strip()[:200] in extract(html, URL).text


def test_a_page_without_end_is_read_to_its_end() -> None:
    assert len(extract("<p>" + "some words of a very long page. " * 200_000, URL).text) > 6_000_000


HOSTILE = {
    "bare": "<p>" * 1_000_000,
    "many": "<p>" * 300_000,
    "deep": "<div>" * 1_900 + "<p>word <a href=/x>y</a>" * 20_000,
    "unclosed": "<a" * 500_000,
    "comments": "<!--" * 600_000,
    "scripts": "<script>" * 600_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_page_is_read(name: str) -> None:
    found = extract(HOSTILE[name], "https://example.org/")
    page_facts(HOSTILE[name], "https://example.org/")
    read_listing(HOSTILE[name], "https://example.org/")
    assert found.title == ""
    assert found.text.count("word") == (20_000 if name == "deep" else 0)


def test_of_a_page_with_many_tags_the_whole_text_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_module, "MAX_JUDGED_TAGS", 3)
    page = "<title>T</title><nav><a href=/>Menu</a></nav><p>Words.</p>"
    assert extract(page, "https://example.org/").text == "Menu\n\nWords."
    assert extract(page, "https://example.org/").title == "T"
