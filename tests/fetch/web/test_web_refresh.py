"""What a refresh does with addresses that fail, and when a fetch counts as finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.fetch.source import Missing
from gptcli.fetch.web import FetchError, Reason, manners, refuse_large
from tests.fetch.conftest import Fetches, Page, Site, bodies

FAILING: dict[Reason, Page] = {
    "transient": Page(status=503),
    "refused": Page(status=403),
    "too-large": Page(bytes(2000)),
    "broken": Page(b"text", headers={"Content-Encoding": "br"}),
}


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manners, "ATTEMPTS", 1)


def fetched(site: Site, fetches: Fetches, *paths: str) -> None:
    """Finish a fetch of pages that all say "old", and forget the requests for them."""
    for path in paths:
        site.pages[path] = Page(b"old " + path.encode())
    web = fetches()
    for path in paths:
        web.get(site.url + path)
    web.finish()
    site.requests.clear()


@pytest.mark.parametrize("reason", FAILING)
def test_what_cannot_be_renewed_is_answered_with_what_was_there(site: Site, fetches: Fetches, reason: Reason) -> None:
    fetched(site, fetches, "/a", "/b")
    site.pages["/a"] = FAILING[reason]
    web = fetches()
    for _ in range(2):
        found = web.get(f"{site.url}/a", max_bytes=1000)
        assert found.text() == "old /a"
    assert site.asked == ["/a"]
    (stale,) = web.stale
    assert isinstance(stale, Missing)
    assert stale.what == f"{site.url}/a"
    assert stale.why.startswith(f"{site.url}/a")
    assert stale.why.endswith(f" What was fetched on {found.fetched_at[:10]} stands for it.")
    web.get(f"{site.url}/b")
    web.finish(complete=True)
    site.pages["/a"] = Page(b"new")
    web = fetches()
    assert (web.resumed is not None) is (reason == "transient")
    assert web.get(f"{site.url}/a").text() == "new"
    assert web.stale == []
    web.get(f"{site.url}/b")
    web.finish()
    assert bodies(fetches.folder) == [b"new", b"old /b"]


def test_what_is_gone_or_no_longer_permitted_is_not_answered_with_what_was_there(site: Site, fetches: Fetches) -> None:
    fetched(site, fetches, "/gone", "/no", "/private", "/limit")
    site.pages |= {
        "/robots.txt": Page(b"User-agent: *\nDisallow: /no"),
        "/gone": Page(status=410),
        "/private": Page(status=302, headers={"Location": "http://10.0.0.1/"}),
    }
    web = fetches(max_pages=2)
    for path, reason in {"/no": "robots", "/gone": "gone", "/limit": "limit"}.items():
        with pytest.raises(FetchError) as caught:
            web.get(site.url + path, discovered=True)
        assert caught.value.reason == reason
    with pytest.raises(FetchError, match="private network"):
        fetches().get(f"{site.url}/private")
    assert web.stale == []


def test_a_failing_refresh_keeps_what_the_last_finished_fetch_had(site: Site, fetches: Fetches) -> None:
    fetched(site, fetches, "/a", "/b")
    site.pages |= {"/a": Page(b"new"), "/b": Page(status=404)}
    web = fetches()
    web.get(f"{site.url}/a")
    with pytest.raises(FetchError, match="404"):
        web.get(f"{site.url}/b")
    offline = fetches(offline=True)
    assert [offline.get(site.url + path).text() for path in ("/a", "/b")] == ["old /a", "old /b"]


@pytest.mark.parametrize(
    ("failing", "stays_open"),
    [
        (["transient"], True),
        (["transient", "refused"], True),
        (["refused"], False),
        (["too-large", "broken"], False),
        (["gone"], True),
        ([], True),
    ],
)
def test_an_incomplete_fetch_stays_open_unless_all_that_failed_failed_for_good(
    site: Site, fetches: Fetches, failing: list[Reason], stays_open: bool
) -> None:
    fetched(site, fetches, "/", "/old")
    site.pages |= {f"/{reason}": page for reason, page in FAILING.items()}
    web = fetches()
    web.get(f"{site.url}/")
    for reason in failing:
        with pytest.raises(FetchError) as caught:
            web.get(f"{site.url}/{reason}", max_bytes=1000)
        assert caught.value.reason == reason
    web.finish(complete=False)
    assert bodies(fetches.folder) == [b"old /", b"old /old"]
    site.requests.clear()
    web = fetches()
    assert (web.resumed is not None) is stays_open
    web.get(f"{site.url}/")
    assert site.asked == ([] if stays_open else ["/"])
    if "gone" in failing:
        with pytest.raises(FetchError, match="404"):
            web.get(f"{site.url}/gone")
        assert site.asked == ["/gone"]


def test_a_limit_keeps_the_fetch_open(site: Site, fetches: Fetches) -> None:
    site.pages["/"] = Page(b"text")
    web = fetches(max_pages=1)
    web.get(f"{site.url}/")
    with pytest.raises(FetchError, match="limit of 1 page,"):
        web.get(f"{site.url}/?2")
    web.finish(complete=False)
    assert fetches().resumed is not None


def test_what_failed_first_and_came_later_has_not_failed(site: Site, fetches: Fetches) -> None:
    site.pages |= {"/": Page(b"text"), "/a": [Page(status=503), Page(b"text")], "/no": Page(status=403)}
    web = fetches()
    web.get(f"{site.url}/")
    for path in ("/a", "/no"):
        with pytest.raises(FetchError):
            web.get(site.url + path)
    web.get(f"{site.url}/a")
    web.finish(complete=False)
    assert fetches().resumed is None


def test_what_never_changes_is_taken_over_without_a_request(site: Site, fetches: Fetches) -> None:
    fetched(site, fetches, "/a", "/b")
    web = fetches()
    assert web.stored(f"{site.url}/a", immutable=True)
    assert not web.stored(f"{site.url}/a")
    assert web.get(f"{site.url}/a", immutable=True).text() == "old /a"
    damaged = web.get(f"{site.url}/b", immutable=True)
    assert site.asked == []
    web.finish()
    assert bodies(fetches.folder) == [b"old /a", b"old /b"]
    Path(damaged.path).write_bytes(b"cut")
    assert fetches().get(f"{site.url}/b", immutable=True).text() == "old /b"
    assert site.asked == ["/b"]


def test_a_page_that_is_larger_than_pages_are_is_refused_and_forgotten(site: Site, fetches: Fetches) -> None:
    site.pages["/a"] = Page(bytes(1001))
    web = fetches()
    found = web.get(f"{site.url}/a")
    refuse_large(web, found, 1001)
    with pytest.raises(FetchError) as caught:
        refuse_large(web, found, 1000)
    assert caught.value.message == f"{site.url}/a is larger than 1,000 bytes, so it was not fetched."
    assert (caught.value.reason, web.stored(f"{site.url}/a")) == ("too-large", False)
