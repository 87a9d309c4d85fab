from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gptcli.fetch.options import FetchOptions
from gptcli.fetch.site import discovery, wordpress
from gptcli.fetch.site.discovery import Discovery, Texts
from gptcli.fetch.web import Web
from tests.fetch.blog_site import html_page, put_wordpress_blog
from tests.fetch.conftest import Page, Site


@pytest.fixture
def texts() -> Iterator[Texts]:
    with Texts() as opened:
        yield opened


def discovered(
    site: Site, texts: Texts, folder: Path, home: str = "/", *, whole: bool = True, options: FetchOptions | None = None
) -> Discovery:
    options = options or FetchOptions(delay=0)
    with Web(folder / "corpus", site.url, options) as web:
        found = Discovery(web.get(site.url + home), web, options, texts, whole=whole)
        found.run()
    return found


def paths(found: Discovery, site: Site) -> list[str]:
    return sorted(post.entry.url.removeprefix(site.url) for post in found.posts.values())


def rss(paths: Sequence[str], head: str = "") -> Page:
    items = "".join(f"<item><title>{path}</title><link>{path}</link></item>" for path in paths)
    return Page(f'<rss version="2.0"><channel>{head}{items}</channel></rss>'.encode(), content_type="text/xml")


def sitemap(paths: Sequence[str]) -> Page:
    return Page(f"<urlset>{''.join(f'<url><loc>{path}</loc></url>' for path in paths)}</urlset>".encode(), "text/xml")


def index(paths: Sequence[str]) -> Page:
    return Page(
        f"<sitemapindex>{''.join(f'<sitemap><loc>{path}</loc></sitemap>' for path in paths)}</sitemapindex>".encode()
    )


def links(paths: Sequence[str], tag: str = "li") -> str:
    return "".join(f'<{tag}><a href="{path}">{path}</a></{tag}>' for path in paths)


FEED = '<link rel="alternate" type="application/rss+xml" href="/rss">'


def test_posts_of_a_sitemap_are_told_from_pages_by_those_of_the_feed(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(FEED)
    site.pages["/rss"] = rss(["/a/", "/b/"])
    site.pages["/sitemap.xml"] = sitemap(
        ["/", "/a", "/b/", "/c/", "/d/", "/about/", "/tag/x/", "/shop/e/", "/2024/", "/f.pdf"]
    )
    found = discovered(site, texts, tmp_path)
    assert paths(found, site) == ["/a/", "/b/", "/c/", "/d/"]
    assert found.others == 5


def test_where_only_a_sitemap_tells_of_pages_all_are_posts_but_lists(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page("<h2><a href='/guide/start/'>Start</a></h2>")
    site.pages["/robots.txt"] = Page(b"Sitemap: /maps.xml")
    site.pages["/maps.xml"] = index(["/guide.xml", "/tag-sitemap.xml", "http://10.0.0.7/x.xml"])
    site.pages["/guide.xml"] = sitemap(["/", "/guide/start/", "/guide/end/", "/reference/a/b/", "/about/", "/tag/x/"])
    found = discovered(site, texts, tmp_path)
    assert paths(found, site) == ["/guide/end/", "/guide/start/", "/reference/a/b/"]
    assert "/tag-sitemap.xml" not in site.asked


def test_a_sitemap_named_after_posts_has_posts(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page("")
    site.pages["/sitemap.xml"] = index(["/post-sitemap.xml", "/page-sitemap.xml", "/author-sitemap.xml"])
    site.pages["/post-sitemap.xml"] = sitemap(["/first/", "/second/", "/blog/"])
    site.pages["/page-sitemap.xml"] = sitemap(["/company/history/", "/third/", "/about/"])
    assert paths(discovered(site, texts, tmp_path), site) == ["/first/", "/second/", "/third/"]


def test_the_usual_places_are_tried_only_where_nothing_is_linked(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page("<p>nothing</p>")
    discovered(site, texts, tmp_path / "one")
    assert site.asked == ["/", "/robots.txt", *discovery.FEED_PATHS, *discovery.SITEMAP_PATHS]
    site.requests.clear()
    site.pages["/"] = html_page(FEED)
    site.pages["/rss"] = rss(["/2024/05/a/"])
    site.pages["/robots.txt"] = Page(f"Sitemap: {site.url}/map".encode())
    site.pages["/map"] = sitemap(["/2024/06/b/"])
    assert paths(discovered(site, texts, tmp_path / "two"), site) == ["/2024/05/a/", "/2024/06/b/"]
    assert site.asked == ["/", "/robots.txt", "/rss", "/map"]


def test_a_guess_that_answers_with_a_page_is_no_feed_and_no_sitemap(site: Site, texts: Texts, tmp_path: Path) -> None:
    always = html_page("<h2><a href='/2024/05/a/'>A</a></h2>")
    site.pages |= dict.fromkeys(["/", *discovery.FEED_PATHS, *discovery.SITEMAP_PATHS], always)
    found = discovered(site, texts, tmp_path)
    assert paths(found, site) == ["/2024/05/a/"]
    assert (found.missing, found.notes) == ([], [])


def test_a_list_without_feed_and_sitemap_is_followed(site: Site, texts: Texts, tmp_path: Path) -> None:
    menu = links(["/about/", "/tags/", "https://elsewhere.org/x/", "http://192.168.0.1/y/"])
    for number in range(1, 6):
        shown = [f"/posts/{letter}{number}" for letter in "abc"]
        older = f'<a href="/page/{number + 1}/">Older posts</a>' if number < 5 else '<a href="/page/1/">Older posts</a>'
        site.pages["/" if number == 1 else f"/page/{number}/"] = html_page(menu + links(shown) + older)
    site.pages["/page/1/"] = site.pages["/"]
    expected = sorted(f"/posts/{letter}{number}" for letter in "abc" for number in range(1, 6))
    assert paths(discovered(site, texts, tmp_path), site) == expected


def test_a_calendar_without_end_is_left_after_ten_barren_pages(site: Site, texts: Texts, tmp_path: Path) -> None:
    def month(path: str) -> bytes:
        number = int(path.partition("?m=")[2] or 0)
        return (
            f'{links(["/2024/05/a/", f"/events/{number}/"])}<a rel="next" href="/archive?m={number + 1}">x</a>'.encode()
        )

    site.pages["/"] = html_page(FEED + links(["/archive"]))
    site.pages["/rss"] = rss(["/2024/05/a/"])
    site.pages["/archive"] = Page(month, content_type="text/html")
    found = discovered(site, texts, tmp_path)
    assert paths(found, site) == ["/2024/05/a/"]
    assert len([path for path in site.asked if path.startswith("/archive")]) == 10
    (note,) = found.notes
    assert note.startswith(f"The list of posts that goes on at {site.url}/archive?m=9 has no end: 10 pages in a row")


def test_a_feed_without_end_is_left_too(site: Site, texts: Texts, tmp_path: Path) -> None:
    def page(path: str) -> bytes:
        number = int(path.partition("?n=")[2] or 0)
        entries = f'<link rel="next" href="/rss?n={number + 1}"/><entry><link href="/2024/05/a/"/></entry>'
        return f'<feed xmlns="http://www.w3.org/2005/Atom">{entries}</feed>'.encode()

    site.pages["/"] = html_page(FEED)
    site.pages["/rss"] = Page(page, content_type="application/atom+xml")
    found = discovered(site, texts, tmp_path)
    assert len([path for path in site.asked if path.startswith("/rss")]) == 11
    assert found.notes == [f"The feed {site.url}/rss has no end: 10 pages in a row brought nothing new."]


@pytest.mark.parametrize("past", [Page(status=404), rss(["/2024/05/a1/"])])
def test_a_feed_of_wordpress_is_paged_until_its_end(site: Site, texts: Texts, tmp_path: Path, past: Page) -> None:
    generator = "<generator>https://wordpress.org/?v=6.5</generator>"
    site.pages["/"] = html_page(FEED)
    for number in (1, 2, 3):
        site.pages["/rss" if number == 1 else f"/rss?paged={number}"] = rss([f"/2024/05/a{number}/"], generator)
    site.pages["/rss?paged=4"] = past
    assert len(discovered(site, texts, tmp_path).posts) == 3
    assert [path for path in site.asked if "rss" in path] == ["/rss", "/rss?paged=2", "/rss?paged=3", "/rss?paged=4"]


def test_a_feed_that_is_not_paged_answers_the_same_once_more(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(FEED)
    site.pages["/rss"] = rss(["/2024/05/a/"], "<generator>https://wordpress.org/</generator>")
    assert len(discovered(site, texts, tmp_path).posts) == 1
    assert [path for path in site.asked if "rss" in path] == ["/rss", "/rss?paged=2"]


def test_where_wordpress_gives_no_interface_the_rest_is_read(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(f'<meta name="generator" content="WordPress 6.5">{FEED}')
    site.pages["/wp-json/wp/v2/posts"] = Page(b"{}", status=403, content_type="application/json")
    site.pages["/rss"] = rss(["/2024/05/a/"])
    found = discovered(site, texts, tmp_path)
    assert paths(found, site) == ["/2024/05/a/"]
    assert "WordPress's interface does not tell all posts" in found.notes[0]
    assert found.missing == []


def test_an_interface_that_breaks_off_may_hide_posts(site: Site, texts: Texts, tmp_path: Path) -> None:
    blog = put_wordpress_blog(site, 120)
    second = wordpress.posts_url(f"{site.url}/wp-json/", 2).removeprefix(site.url)
    site.pages[second] = Page(status=403)
    found = discovered(site, texts, tmp_path)
    assert 100 <= len(found.posts) <= len(blog.posts)
    assert found.missing[0].what == f"{site.url}/wp-json/"
    assert "403" in found.missing[0].why


def test_a_list_that_fails_now_may_hide_posts(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(FEED)
    site.pages["/rss"] = Page(status=500)
    site.pages["/robots.txt"] = Page(b"Sitemap: /map\nSitemap: /gone")
    site.pages["/map"] = Page(b"<urlset>", status=503)
    found = discovered(site, texts, tmp_path)
    assert [item.what for item in found.missing] == [f"{site.url}/rss", f"{site.url}/map", f"{site.url}/gone"]
    assert found.notes == []


def test_older_pages_and_sitemaps_that_are_named_and_gone_may_hide_posts(
    site: Site, texts: Texts, tmp_path: Path
) -> None:
    site.pages["/"] = html_page(links(["/2024/05/a/"], "h2") + '<a rel="next" href="/page/2/">x</a>')
    site.pages["/robots.txt"] = Page(b"Sitemap: /maps")
    site.pages["/maps"] = index(["/map-1", "/map-2"])
    site.pages["/map-2"] = html_page("<p>Not found</p>")
    found = discovered(site, texts, tmp_path)
    assert paths(found, site) == ["/2024/05/a/"]
    assert [item.what for item in found.missing] == [f"{site.url}{path}" for path in ("/map-1", "/map-2", "/page/2/")]


def test_an_archive_that_is_gone_is_noted(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(links(["/2024/05/a/"], "h2") + links(["/archive/"]))
    found = discovered(site, texts, tmp_path)
    assert found.missing == []
    assert found.notes == [
        f"A list of posts could not be read: {site.url}/archive/: the server answered 404 Not Found."
    ]


def test_sitemaps_are_read_up_to_a_limit_of_addresses(
    site: Site, texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MAX_MAPPED", 5)
    site.pages["/"] = html_page("")
    site.pages["/robots.txt"] = Page(b"Sitemap: /one\nSitemap: /two\nSitemap: /three")
    for name in ("one", "two", "three"):
        site.pages[f"/{name}"] = sitemap([f"/{name}/{number}/" for number in range(4)])
    found = discovered(site, texts, tmp_path)
    assert paths(found, site) == ["/one/0/", "/one/1/", "/one/2/", "/one/3/", "/two/0/"]
    assert found.notes == ["The sitemaps have more than 5 addresses; the others were not read."]
    assert "/three" not in site.asked


def test_steps_say_one_thing_in_the_singular(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(FEED)
    site.pages["/rss"] = rss(["/2024/05/a/"])
    site.pages["/sitemap.xml"] = sitemap(["/2024/05/a/"])
    found = discovered(site, texts, tmp_path)
    assert found.steps == [
        f"read the feed {site.url}/rss: 1 post, 0 of them with the whole text",
        "read 1 sitemap: 1 address",
        "read 1 page that lists posts",
    ]


def test_at_the_limit_of_pages_what_was_found_is_kept(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(FEED + '<a rel="next" href="/page/2/">x</a>')
    site.pages["/rss"] = rss(["/2024/05/a/"])
    found = discovered(site, texts, tmp_path, options=FetchOptions(delay=0, max_pages=3))
    assert paths(found, site) == ["/2024/05/a/"]
    assert [item.what for item in found.missing] == [f"more posts of {site.url}/"]


def test_an_older_page_that_is_no_text_ends_the_list(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(links(["/2024/05/a/"], "h2") + '<a rel="next" href="/older/">x</a>')
    site.pages["/older/"] = Page(b"\0\1\2" * 500, content_type="text/html")
    assert paths(discovered(site, texts, tmp_path), site) == ["/2024/05/a/"]


def test_of_a_shared_host_only_what_is_below_the_home_page_counts(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/~ann/"] = html_page(links(["/~ann/one.html", "/~bob/two.html", "three.html", "/~ann/about/me.html"]))
    site.pages["/sitemap.xml"] = sitemap(["/~ann/four.html", "/~bob/five.html"])
    expected = ["/~ann/about/me.html", "/~ann/four.html", "/~ann/one.html", "/~ann/three.html"]
    assert paths(discovered(site, texts, tmp_path, "/~ann/"), site) == expected


def test_entries_that_lead_to_other_sites_are_counted(site: Site, texts: Texts, tmp_path: Path) -> None:
    site.pages["/"] = html_page(FEED)
    site.pages["/rss"] = rss(["/2024/05/a/", "https://elsewhere.org/b/", "http://10.0.0.7/c/"])
    found = discovered(site, texts, tmp_path)
    assert (paths(found, site), found.abroad) == (["/2024/05/a/"], 2)


def test_a_plan_follows_lists_for_a_few_pages_only(site: Site, texts: Texts, tmp_path: Path) -> None:
    for number in range(1, 31):
        older = f'<a rel="next" href="/page/{number + 1}/">x</a>' if number < 30 else ""
        site.pages["/" if number == 1 else f"/page/{number}/"] = html_page(
            links([f"/2024/05/a{number}/"], "h2") + older
        )
    found = discovered(site, texts, tmp_path, whole=False)
    assert (len(found.posts), found.more) == (discovery.PLANNED_PAGES + 1, True)
    assert len(discovered(site, texts, tmp_path / "whole").posts) == 30


def test_texts_come_back_as_they_went_in(texts: Texts) -> None:
    places = [texts.keep(text) for text in ("one\n\ntwo", "", "Grüße 😀", "\u2028")]
    assert [texts.text(at) for at in reversed(places)] == ["\u2028", "Grüße 😀", "", "one\n\ntwo"]
