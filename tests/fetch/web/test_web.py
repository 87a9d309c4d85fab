from __future__ import annotations

import re
import zlib

import pytest

from gptcli.errors import CorpusError, SourceError
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Missing, Source
from gptcli.fetch.web import FetchError, Reason, Response, Web, lost
from tests.fetch.conftest import Fetches, Page, Site, bodies


def test_a_page_comes_once_and_is_answered_from_the_store_after_that(site: Site, fetches: Fetches) -> None:
    site.pages["/a"] = Page("grüße".encode(), "text/html; charset=UTF-8", headers={"Last-Modified": "then", "X": "y"})
    web = fetches()
    got = web.get(f"{site.url}/a#part")
    assert (got.url, got.final_url) == (f"{site.url}/a", f"{site.url}/a")
    assert (got.content_type, got.charset, got.text()) == ("text/html", "utf-8", "grüße")
    assert dict(got.headers) == {"last-modified": "then"}
    assert (web.requests, web.bytes, got.fetched_at[-6:]) == (1, 7, "+00:00")
    assert web.stored(f"{site.url}/a")
    assert not web.stored(f"{site.url}/b")
    assert web.get(f"{site.url}/a") == fetches().get(f"{site.url}/a") == got
    assert site.asked == ["/a"]


def test_redirects_are_followed_and_no_hop_is_asked_for_twice(site: Site, fetches: Fetches) -> None:
    site.pages["/old"] = Page(status=301, headers={"Location": "/new#part"})
    site.pages["/older"] = Page(b"moved", status=308, headers={"Location": "old"})
    site.pages["/new"] = Page(b"text")
    web = fetches()
    got = web.get(f"{site.url}/older")
    assert (got.url, got.final_url, got.text()) == (f"{site.url}/older", f"{site.url}/new", "text")
    assert web.get(f"{site.url}/new").text() == "text"
    assert web.get(f"{site.url}/old").final_url == f"{site.url}/new"
    assert site.asked == ["/older", "/old", "/new", "/old"]


def test_what_is_not_there_is_remembered_too(site: Site, fetches: Fetches) -> None:
    site.pages["/"] = Page(b"text")
    for _ in range(2):
        web = fetches()
        web.get(f"{site.url}/")
        with pytest.raises(FetchError, match="answered 404 Not Found") as caught:
            web.get(f"{site.url}/missing")
        assert caught.value.reason == "gone"
    with pytest.raises(FetchError, match="answered 404 Not Found"):
        fetches(offline=True).get(f"{site.url}/missing")
    assert site.asked == ["/", "/missing"]


def test_a_refresh_asks_only_whether_something_changed(site: Site, fetches: Fetches) -> None:
    site.pages |= {
        "/tag": Page(b"tagged", etag='"1"', headers={"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}),
        "/moved": Page(status=302, headers={"Location": "/tag2"}),
        "/tag2": Page(b"elsewhere", etag='"2"'),
        "/plain": Page(b"plain"),
        "/new": Page(b"before", etag='"3"'),
        "/gone": Page(b"once", etag='"4"'),
    }
    paths = ["/tag", "/moved", "/plain", "/new", "/gone"]
    web = fetches()
    first = {path: web.get(site.url + path) for path in paths}
    web.finish()
    site.pages |= {"/new": Page(b"after", etag='"33"'), "/gone": Page(status=410)}
    site.requests.clear()
    web = fetches()
    assert web.resumed is None
    second = {path: web.get(site.url + path) for path in paths[:-1]}
    with pytest.raises(FetchError, match="410 Gone"):
        web.get(f"{site.url}/gone")
    assert second["/new"].text() == "after"
    for path in ("/tag", "/moved"):
        assert second[path] == first[path]
    assert [path for path, headers in site.requests if "If-None-Match" in headers] == ["/tag", "/tag2", "/new", "/gone"]
    assert site.requests[0][1]["If-Modified-Since"] == "Mon, 01 Jan 2024 00:00:00 GMT"
    assert web.bytes == len(b"plain") + len(b"after")
    web.finish()
    assert bodies(fetches.folder) == [b"after", b"elsewhere", b"plain", b"tagged"]


def test_a_refresh_that_was_stopped_goes_on_and_offline_reads_it(site: Site, fetches: Fetches) -> None:
    site.pages["/a"] = Page(lambda path: path.encode(), etag='"1"')
    web = fetches()
    for number in range(3):
        web.get(f"{site.url}/a?{number}")
    web.finish()
    site.requests.clear()
    fetches().get(f"{site.url}/a?0")
    web = fetches()
    assert web.resumed is not None
    for number in range(3):
        assert web.get(f"{site.url}/a?{number}").text() == f"/a?{number}"
    assert site.asked == ["/a?0", "/a?1", "/a?2"]
    offline = fetches(offline=True)
    assert [offline.get(f"{site.url}/a?{number}").text() for number in range(3)] == ["/a?0", "/a?1", "/a?2"]
    assert len(site.asked) == 3


def test_a_validator_that_cannot_be_sent_is_left_out(site: Site, fetches: Fetches) -> None:
    site.pages["/a"] = Page(b"text", headers={"ETag": '"é"'})
    web = fetches()
    web.get(f"{site.url}/a")
    web.finish()
    assert fetches().get(f"{site.url}/a").text() == "text"
    assert "If-None-Match" not in site.requests[1][1]


def test_offline_nobody_is_asked(site: Site, fetches: Fetches) -> None:
    with pytest.raises(SourceError, match="there is nothing to read offline"):
        fetches(offline=True)
    site.pages |= {"/a": Page(b"text"), "/robots.txt": Page(b"User-agent: *\nSitemap: /s.xml\nDisallow: /no")}
    web = fetches()
    web.get(f"{site.url}/a", discovered=True)
    site.requests.clear()
    web = fetches(offline=True)
    assert web.offline
    assert web.get(f"{site.url}/a").text() == "text"
    assert web.sitemaps(site.url) == [f"{site.url}/s.xml"]
    with pytest.raises(FetchError) as caught:
        web.get(f"{site.url}/b", discovered=True)
    assert caught.value.message == f"{site.url}/b was not fetched before, and --offline asks nobody."
    assert caught.value.reason == "offline"
    assert site.requests == []


def test_limits_of_a_fetch_count_what_came_before_it_was_stopped(site: Site, fetches: Fetches) -> None:
    site.pages["/a"] = Page(b"x" * 100)
    for _ in range(2):
        web = fetches(max_pages=3)
        for number in range(3):
            web.get(f"{site.url}/a?{number}")
        with pytest.raises(FetchError) as caught:
            web.get(f"{site.url}/a?3")
        assert caught.value.message == f"The fetch has reached its limit of 3 pages, so {site.url}/a?3 was not fetched."
        assert caught.value.reason == "limit"
    web = fetches(max_bytes=350)
    with pytest.raises(FetchError, match=r"limit of 350 bytes, so .*/a\?3 was not fetched"):
        web.get(f"{site.url}/a?3")
    with pytest.raises(FetchError, match="limit of 300 bytes"):
        fetches(max_bytes=300).get(f"{site.url}/a?3")
    assert fetches(max_bytes=400).get(f"{site.url}/a?3").bytes == 100


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_after_any_stop_nothing_is_asked_for_twice_and_nothing_is_missing(
    site: Site, fetches: Fetches, stop: type[BaseException]
) -> None:
    site.pages["/a"] = Page(lambda path: path.encode() * 1000)

    def run(web: Web, stop_at: int | None) -> list[Response]:
        got = []
        for number in range(6):
            if number == stop_at:
                raise stop
            got.append(web.get(f"{site.url}/a?{number}"))
        return got

    for stop_at in (1, 2, 5):
        web = fetches()
        with pytest.raises(stop):
            run(web, stop_at)
    resumed = run(fetches(), None)
    assert site.asked == [f"/a?{number}" for number in range(6)]
    again = fetches(offline=True)
    assert run(again, None) == resumed


def test_a_stop_in_the_middle_of_a_body_leaves_nothing_of_it(site: Site, fetches: Fetches) -> None:
    site.pages |= {"/a": Page(b"text"), "/b": Page(bytes(9_000_000))}
    web = fetches()
    web.get(f"{site.url}/a")

    def stop(line: str) -> None:
        if line.startswith("downloading"):
            raise KeyboardInterrupt

    web._asker._on_progress = stop
    with pytest.raises(KeyboardInterrupt):
        web.get(f"{site.url}/b")
    assert bodies(fetches.folder) == [b"text"]
    assert not (fetches.folder / "raw" / "incoming").exists()
    assert fetches().get(f"{site.url}/b").bytes == 9_000_000


def test_a_second_fetch_into_the_corpus_is_refused(site: Site, fetches: Fetches) -> None:
    site.pages["/a"] = Page(b"text")
    fetches().get(f"{site.url}/a")
    with pytest.raises(CorpusError, match="x is being fetched by another gptcli"):
        Web(fetches.folder, fetches.source, FetchOptions())


def test_progress_is_told(site: Site, fetches: Fetches) -> None:
    site.pages["/a"] = Page(bytes(5_000_000))
    web = fetches()
    web.get(f"{site.url}/a")
    web.expect(3, "posts")
    web.get(f"{site.url}/a")
    web.get(f"{site.url}/a?2")
    assert re.fullmatch(r"downloading 127\.0\.0\.1: 4\.\d MB of 5\.0 MB", fetches.said[0])
    assert fetches.said[1] == "page 1, 5.0 MB"
    assert re.fullmatch(r"post 2 of 3, 10 MB, about 0:0\d left", fetches.said[3])


@pytest.mark.parametrize("body", [b"", zlib.compress(b"")])
def test_an_empty_page_is_a_page(site: Site, fetches: Fetches, body: bytes) -> None:
    site.pages["/a"] = Page(body, headers={"Content-Encoding": "deflate"} if body else {})
    got = fetches().get(f"{site.url}/a")
    assert (got.bytes, got.text(), got.path.read_bytes()) == (0, "", b"")
    assert fetches().get(f"{site.url}/a") == got


@pytest.mark.parametrize(
    ("reason", "dropped"),
    [
        ("gone", "pages that are gone"),
        ("robots", "pages that robots.txt disallows"),
        ("private", "links into a private"),
    ],
)
def test_what_is_lost_for_good_is_dropped(reason: Reason, dropped: str) -> None:
    source = Source("blog", "x", "x")
    lost(source, FetchError("why", url="http://h/a", reason=reason))
    assert [what.startswith(dropped) for what in source.dropped] == [True]
    assert source.missing == []


@pytest.mark.parametrize("reason", ["refused", "transient", "too-large", "limit", "offline", "broken"])
def test_what_may_come_another_time_is_missing(reason: Reason) -> None:
    source = Source("blog", "x", "x")
    lost(source, FetchError("why", url="http://h/a", reason=reason))
    assert source.missing == [Missing("http://h/a", "why")]
    assert not source.dropped
