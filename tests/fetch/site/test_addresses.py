from __future__ import annotations

import pytest

from gptcli.fetch.site.addresses import Shapes, is_common_page, is_front, is_no_post, page_key

SITE = "https://example.org"


@pytest.mark.parametrize(
    "other",
    [
        "http://example.org/2024/post",
        "https://www.example.org/2024/post/",
        "https://EXAMPLE.org:443/2024/./post/index.html#part",
        "https://example.org/2024/post/?utm_source=x&fbclid=y",
    ],
)
def test_one_page_has_one_key(other: str) -> None:
    assert page_key(other) == page_key(f"{SITE}/2024/post/")


@pytest.mark.parametrize("other", ["/2024/post2/", "/2024/post/?p=1", "/2024/Post/", "/2024/"])
def test_other_pages_have_other_keys(other: str) -> None:
    assert page_key(f"{SITE}{other}") != page_key(f"{SITE}/2024/post/")


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/index.html", "/?page=2", "/?s=word", "/page/2/", "/blog/page/12", "/page2/", "/tag/python/"),
        *("/tags/a-long-name/", "/category/x/y/", "/author/ann/", "/blog/", "/archive/", "/archives.html", "/2024/"),
        *("/2024/05/", "/blog/2024/05/17/", "/feed/", "/comments/feed/", "/feed.xml", "/img/cat.JPG", "/a/talk.pdf"),
        *("/post/?replytocom=17", "/post/?share=twitter", "/calendar/2024-05/", "/wp-content/x.css", "/search/word/"),
    ],
)
def test_lists_and_files_are_no_posts(path: str) -> None:
    assert is_no_post(f"{SITE}{path}")


@pytest.mark.parametrize(
    "path",
    [
        *("/my-post/", "/2024/05/17/my-post/", "/blog/my-post.html", "/archives/2003/05/my-post.html", "/?p=123"),
        *("/posts/17", "/2024/tags-in-html/", "/notes/node.js-20.1", "/my-post.php?id=7&lang=en", "/node/1234"),
        *("/p/17-things", "/Über-uns/", "/2024-05-17-a-day/", "/post/2024"),
    ],
)
def test_what_may_be_a_post_is_not_excluded(path: str) -> None:
    assert is_no_post(f"{SITE}{path}") == (path == "/post/2024")


@pytest.mark.parametrize(
    ("path", "front"), [("/archive/", True), ("/blog/archives.html", True), ("/blog/a/", False), ("/", False)]
)
def test_lists_of_all_posts_are_known_by_name(path: str, front: bool) -> None:
    assert is_front(f"{SITE}{path}") == front


@pytest.mark.parametrize(
    ("path", "common"), [("/about/", True), ("/about.html", True), ("/about/us/", False), ("/a/", False)]
)
def test_pages_that_most_sites_have_are_known_by_name(path: str, common: bool) -> None:
    assert is_common_page(f"{SITE}{path}") == common


def shapes(*paths: str) -> Shapes:
    found = Shapes()
    for path in paths:
        found.add(f"{SITE}{path}")
    return found


@pytest.mark.parametrize(
    ("known", "path", "fits"),
    [
        (("/2024/05/a/",), "/2019/12/b-c/", True),
        (("/2024/05/a/",), "/2019/12/31/b-c/", False),
        (("/2024/05/a/",), "/about/", False),
        (("/blog/a/",), "/blog/b/", True),
        (("/blog/a/",), "/shop/b/", False),
        (("/blog/a/", "/notes/b/"), "/shop/c/", False),
        (("/python/a/", "/web/b/", "/life/c/"), "/music/d/", True),
        (("/a/",), "/b/", True),
        (("/a/",), "/about/", False),
        (("/a.html",), "/b.html", True),
        (("/a.html",), "/b/", False),
        (("/?p=12",), "/?p=7", True),
        (("/?p=12",), "/?page_id=7", False),
        (("/~ann/blog/a/",), "/~bob/blog/a/", False),
        ((), "/a/", False),
    ],
)
def test_posts_are_told_by_the_shape_of_known_ones(known: tuple[str, ...], path: str, fits: bool) -> None:
    assert shapes(*known).fit(f"{SITE}{path}") == fits
    assert bool(shapes(*known)) == bool(known)
