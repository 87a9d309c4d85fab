from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.facts import PageFacts
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.site import wordpress
from gptcli.fetch.web import FetchError, Web
from tests.fetch.blog_site import put_wordpress_blog
from tests.fetch.conftest import Page, Site

POSTS = "/wp-json/wp/v2/posts"


@pytest.fixture
def web(site: Site, tmp_path: Path) -> Iterator[Web]:
    with Web(tmp_path / "corpus", site.url, FetchOptions(delay=0)) as opened:
        yield opened


def post(number: int, **changes: object) -> dict[str, object]:
    return {
        "id": number,
        "date_gmt": "2024-03-01T10:00:00",
        "link": f"/p/{number}/",
        "title": {"rendered": f"Title &#8211; {number}"},
        "content": {"rendered": f"<p>Text of {number}.</p>", "protected": False},
        **changes,
    }


@pytest.mark.parametrize(
    ("root", "path", "route"),
    [
        ("https://a.org/wp-json/", "/wp-json/wp/v2/posts", None),
        ("https://a.org/blog/wp-json", "/blog/wp-json/wp/v2/posts", None),
        ("https://a.org/index.php?rest_route=/", "/index.php", "/wp/v2/posts"),
    ],
)
def test_both_forms_of_the_interface_are_asked_for_whole_pages_oldest_first(
    root: str, path: str, route: str | None
) -> None:
    parts = urlsplit(wordpress.posts_url(root, 3))
    query = dict(parse_qsl(parts.query))
    assert (parts.path, query.get("rest_route")) == (path, route)
    assert (query["per_page"], query["page"], query["orderby"], query["order"]) == ("100", "3", "id", "asc")


def test_the_interface_is_where_the_page_says(site: Site, web: Web) -> None:
    site.pages["/"] = Page(b"", headers={"Link": '</x>; rel=shortlink, </api/>; rel="https://api.w.org/"'})
    site.pages["/plain"] = Page(b"")
    home, plain = web.get(f"{site.url}/"), web.get(f"{site.url}/plain")
    assert wordpress.api_root(home, PageFacts()) == f"{site.url}/api/"
    assert wordpress.api_root(plain, PageFacts(wordpress="https://a.org/wp-json/")) == "https://a.org/wp-json/"
    assert wordpress.api_root(plain, PageFacts(generator="WordPress 6.5")) == f"{site.url}/wp-json/"
    assert wordpress.api_root(plain, PageFacts(generator="Hugo")) is None


def test_all_pages_come_in_order_with_clean_texts(site: Site, web: Web) -> None:
    blog = put_wordpress_blog(site, 120)
    pages = list(wordpress.pages(web, f"{site.url}/wp-json/"))
    entries = [entry for page in pages for entry in page.entries]
    assert [entry.url for entry in entries] == [f"{site.url}{post.path}" for post in blog.posts]
    assert [entry.text for entry in entries] == [post.text for post in blog.posts]
    assert (entries[0].author, entries[0].date) == ("Maria Lopez", "2019-01-01T10:00:00+00:00")
    assert [(page.total, page.pages) for page in pages] == [(120, 2)] * 2
    assert len([path for path in site.asked if path.startswith(POSTS)]) == 2


def test_without_counts_the_end_is_a_short_page_or_an_error(site: Site, web: Web) -> None:
    def answer(path: str) -> bytes:
        number = int(dict(parse_qsl(urlsplit(path).query))["page"])
        return json.dumps([post(number * 100 + n) for n in range(100 if number < 3 else 20)]).encode()

    site.pages[POSTS] = Page(answer)
    assert sum(len(page.entries) for page in wordpress.pages(web, f"{site.url}/wp-json/")) == 220
    full = Page(json.dumps([post(number) for number in range(100)]).encode())
    site.pages[POSTS.replace("/wp-json", "/other")] = [full, Page(b'{"code": "invalid_page"}', status=400)]
    assert sum(len(page.entries) for page in wordpress.pages(web, f"{site.url}/other/")) == 100


def test_an_interface_that_repeats_a_page_has_an_end(site: Site, web: Web) -> None:
    site.pages[POSTS] = Page(json.dumps([post(number) for number in range(100)]).encode())
    assert len(list(wordpress.pages(web, f"{site.url}/wp-json/"))) == 1


def test_odd_posts_do_no_harm(site: Site, web: Web) -> None:
    odd = [
        post(1, content={"rendered": "", "protected": True}),
        post(2, content=None, title=None, date_gmt=None, _embedded={"author": [{"code": "rest_user_invalid_id"}, 3]}),
        post(3, link=None),
        post(4, _embedded=[], title={"rendered": "A<br>B"}),
        "no post",
        None,
    ]
    site.pages[POSTS] = Page(json.dumps(odd).encode())
    page = wordpress.first_page(web, f"{site.url}/wp-json/")
    assert page.protected == 1
    assert [(entry.url, entry.title, entry.text) for entry in page.entries] == [
        (f"{site.url}/p/2/", "", ""),
        (f"{site.url}/p/4/", "A B", "Text of 4."),
    ]


@pytest.mark.parametrize("body", [b'{"code": "rest_disabled"}', b"<html>blocked</html>", b"", b"[[[["])
def test_what_is_no_list_is_an_error(site: Site, web: Web, body: bytes) -> None:
    site.pages[POSTS] = Page(body)
    with pytest.raises(SourceError, match="is not"):
        wordpress.first_page(web, f"{site.url}/wp-json/")


def test_an_interface_that_wants_a_login_is_an_error(site: Site, web: Web) -> None:
    site.pages[POSTS] = Page(b'{"code": "rest_login_required"}', status=401)
    with pytest.raises(FetchError, match="401"):
        wordpress.first_page(web, f"{site.url}/wp-json/")
