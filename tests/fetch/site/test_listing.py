from __future__ import annotations

import pytest

from gptcli.fetch.site.listing import Listing, read_listing

URL = "https://example.org/"


@pytest.mark.parametrize(
    "html",
    [
        '<article><h2><a href="/2024/a/">A</a></h2></article>',
        '<h3 class="x"><span><a href="/2024/a/?utm_source=front#more">A</a></span></h3>',
        '<div class="post"><div class="post-title"><a href="2024/a/">A</a></div></div>',
        '<article><a rel="bookmark" href="https://example.org/2024/a/">1 May</a></article>',
        '<a href="/2024/a/"><h2>A</h2></a><h2><a href="/2024/a/">A</a></h2>',
        '<li><a class="entry-title" href="/2024/a/">A</a></li>',
        '<base href="/2024/"><h2><a href="a/">A</a></h2>',
    ],
)
def test_titles_lead_to_posts(html: str) -> None:
    assert read_listing(html, URL).posts == ("https://example.org/2024/a/",)


@pytest.mark.parametrize(
    "html",
    [
        '<ul><li><a href="/2024/a/">A</a></li></ul>',
        '<article><h2>Title</h2><p>Text with a <a href="/2024/a/">link</a>.</p></article>',
        '<aside><h2><a href="/2024/a/">A</a></h2></aside>',
        '<div class="sidebar widget"><h3><a href="/2024/a/">A</a></h3></div>',
        '<nav class="post-title"><a href="/2024/a/">A</a></nav>',
    ],
)
def test_other_links_may_lead_to_posts(html: str) -> None:
    assert read_listing(html, URL) == Listing(others=("https://example.org/2024/a/",))


@pytest.mark.parametrize(
    "href",
    [
        *("https://elsewhere.org/2024/a/", "http://10.0.0.7/2024/a/", "mailto:a@b.c", "javascript:void(0)", "/tag/x/"),
        *("/", "#top", "/2024/", "/cat.jpg", "http://[", "", "data:text/html,x", "//elsewhere.org/a"),
    ],
)
def test_links_elsewhere_and_to_no_posts_are_left_out(href: str) -> None:
    assert read_listing(f'<h2><a href="{href}">A</a></h2>', URL) == Listing()


def test_a_page_like_about_is_no_title() -> None:
    assert read_listing('<h2><a href="/about/">About</a></h2>', URL).posts == ()


@pytest.mark.parametrize(
    "html",
    [
        '<link rel="next" href="/page/2/">',
        '<a rel="next" href="/page/2/">→</a>',
        '<a href="/page/2/">« Older posts</a>',
        '<a href="/page/2/"><span>Next page</span> »</a>',
        '<a href="/page/2/">Ältere Beiträge</a>',
        '<a href="/page/2/">next</a>',
    ],
)
def test_the_older_page_is_found(html: str) -> None:
    assert read_listing(html, URL).older == "https://example.org/page/2/"


@pytest.mark.parametrize(
    "html",
    [
        '<a rel="next" href="https://elsewhere.org/page/2/">x</a>',
        '<a rel="prev" href="/page/2/">Newer posts</a>',
        '<a href="/page/2/">What comes next in this story</a>',
        "<a rel=next>x</a>",
    ],
)
def test_other_links_are_no_older_page(html: str) -> None:
    assert read_listing(html, URL).older == ""


def test_archives_are_lists_to_follow() -> None:
    html = '<nav><a href="/archive/">Archive</a><a href="/blog/">Blog</a><a href="/about/">About</a></nav>'
    assert read_listing(html, URL).fronts == ("https://example.org/archive/", "https://example.org/blog/")


@pytest.mark.parametrize("html", ["", "<", "<a href>", "text", "<a href='/2024/a/'"])
def test_broken_pages_list_nothing(html: str) -> None:
    assert read_listing(html, URL) == Listing()
