from __future__ import annotations

import random
import socket
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from gptcli.fetch.web import manners
from gptcli.fetch.web.http import FetchError, UnreachableError
from gptcli.fetch.web.manners import Borders, Pace, Rules, private_network, retry_after

URL = "https://example.org/a"
BUSY = FetchError("busy", url=URL, reason="transient")
NOBODY = UnreachableError("nobody", url=URL, reason="transient")


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still but for the sleeping, which is written down."""
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: sleeps.append(round(seconds, 3)))
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + sum(sleeps))
    monkeypatch.setattr(random, "uniform", lambda *_: 1.0)
    return sleeps


def pace(delay: float | None = None, said: list[str] | None = None) -> Pace:
    return Pace(delay, (said if said is not None else []).append)


def test_the_first_request_to_each_host_waits_for_nothing(slept: list[float]) -> None:
    hosts = pace()
    for url in (URL, "https://other.org/", "https://example.org:8080/"):
        hosts.wait(url)
        hosts.answered(url, 0.1)
    assert slept == []
    hosts.wait("https://example.org/b")
    assert len(slept) == 1


def test_the_delay_follows_a_quick_host_down_and_a_slow_one_up(slept: list[float]) -> None:
    hosts = pace()
    for _ in range(40):
        hosts.wait(URL)
        hosts.answered(URL, 0.02)
    assert slept[0] == pytest.approx(0.812, abs=0.01)
    assert slept == sorted(slept, reverse=True)
    assert slept[-1] == pytest.approx(manners.MIN_DELAY, abs=0.01)
    for _ in range(40):
        hosts.wait(URL)
        hosts.answered(URL, 2.0)
    assert slept[-1] == pytest.approx(4.0, abs=0.1)


def test_a_delay_of_the_user_is_kept_and_a_floor_is_not_his(slept: list[float]) -> None:
    for delay, expected in ((0.1, 0.1), (None, 2.0), (0.0, 0.0)):
        hosts = pace(delay)
        hosts.answered(URL, 0.1)
        hosts.wait(URL, min_delay=2.0)
        assert (slept.pop() if slept else 0.0) == pytest.approx(expected)


def test_a_long_delay_of_the_user_is_kept_too(slept: list[float]) -> None:
    hosts = pace(90.0)
    hosts.failed(URL, BUSY, 1, status=503)
    hosts.answered(URL, 0.1)
    assert hosts.seconds(1, URL) == 90.0


def test_a_crawl_delay_is_a_floor_for_all(slept: list[float]) -> None:
    for delay in (0.0, None):
        hosts = pace(delay)
        hosts.answered(URL, 0.1)
        hosts.crawl_delay(URL, 7.0)
        hosts.wait(URL)
        assert slept.pop() == 7.0
    hosts.crawl_delay(URL, 86_400.0)
    assert hosts.seconds(2, URL) == 2 * manners.MAX_WAIT


def test_failures_are_tried_again_after_growing_pauses(slept: list[float]) -> None:
    hosts = pace(0.0)
    for attempt in range(1, 5):
        assert hosts.failed(URL, BUSY, attempt, status=500)
        hosts.wait(URL)
    assert slept == [1.0, 2.0, 4.0, 8.0]
    assert not hosts.failed(URL, BUSY, 5, status=500)


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_host_is_asked_more_slowly_from_then_on(slept: list[float], status: int) -> None:
    hosts = pace()
    before = hosts.seconds(10, URL)
    assert hosts.failed(URL, BUSY, 1, status=status)
    assert hosts.seconds(10, URL) == 2 * before
    for _ in range(20):
        hosts.failed(URL, BUSY, 1, status=status)
    assert hosts.seconds(1, URL) == manners.MAX_DELAY


def test_even_a_delay_of_the_user_is_raised_for_an_overloaded_host_and_comes_back(slept: list[float]) -> None:
    hosts = pace(0.0)
    hosts.failed(URL, BUSY, 1, status=429)
    assert hosts.seconds(1, URL) == 1.0
    for _ in range(30):
        hosts.answered(URL, 0.1)
    assert hosts.seconds(1, URL) < 0.01


def test_what_a_host_asks_for_is_waited_and_said(slept: list[float]) -> None:
    said: list[str] = []
    hosts = pace(0.0, said)
    assert hosts.failed(URL, BUSY, 1, status=429, asked=30.0)
    hosts.wait(URL)
    assert slept == [30.0]
    assert said == ["waiting 30 s, as example.org asked"]


def test_a_short_pause_is_not_worth_a_word(slept: list[float]) -> None:
    said: list[str] = []
    hosts = pace(2.0, said)
    hosts.answered(URL, 0.1)
    hosts.wait(URL)
    assert (slept, said) == ([2.0], [])
    hosts.failed(URL, BUSY, 3, status=500)
    hosts.wait(URL)
    assert said == ["waiting 4 s, before example.org is asked again"]


def test_more_than_five_minutes_is_not_waited_in_this_fetch(slept: list[float]) -> None:
    assert pace().failed(URL, BUSY, 1, status=503, asked=300.0)
    assert not pace().failed(URL, BUSY, 1, status=503, asked=301.0)


def test_a_host_that_never_answered_is_not_tried_again(slept: list[float]) -> None:
    hosts = pace()
    assert not hosts.failed(URL, NOBODY, 1)
    hosts.answered(URL, 0.1)
    assert hosts.failed(URL, NOBODY, 1)


def test_a_host_that_fails_again_and_again_is_left_alone(slept: list[float]) -> None:
    hosts = pace(0.0)
    for _ in range(manners.MAX_FAILURES - 1):
        assert not hosts.failed(URL, BUSY, manners.ATTEMPTS, status=503)
    hosts.answered(URL, 0.1)
    hosts.wait(URL)
    for _ in range(manners.MAX_FAILURES):
        assert not hosts.failed(URL, BUSY, manners.ATTEMPTS, status=503)
    with pytest.raises(FetchError) as caught:
        hosts.wait(URL)
    assert caught.value.message == f"example.org failed 3 times in a row, so {URL} was not asked for."
    hosts.wait("https://other.org/")


def test_pages_that_are_broken_do_not_count_against_their_host(slept: list[float]) -> None:
    hosts = pace(0.0)
    again = [hosts.failed(URL, BUSY, manners.ATTEMPTS, status=500) for _ in range(2 * manners.MAX_FAILURES)]
    assert not any(again)
    hosts.wait(URL)  # which raises for a host that is left alone


@pytest.mark.parametrize(
    ("value", "expected"),
    [("120", 120.0), (" 0 ", 0.0), ("", None), ("soon", None), ("-5", None), ("1.5", None), ("²", None)],
)
def test_retry_after_is_a_number_of_seconds(value: str, expected: float | None) -> None:
    assert retry_after(value) == expected


def test_retry_after_may_be_a_date() -> None:
    later = datetime.now(timezone.utc) + timedelta(seconds=90)
    found = retry_after(format_datetime(later, usegmt=True))
    assert found is not None
    assert 85 < found <= 90
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0.0
    assert retry_after("Fri, 31 Dec 1999 23:59:59 -0000") == 0.0
    assert retry_after("Fri, 99 Dec 1999 23:59:59 GMT") is None
    assert retry_after("9" * 400) == float("9" * 12)


ROBOTS = b"""\xef\xbb\xbfUser-agent: *
Disallow: /private/
Allow: /private/*.html$
Disallow: /*?replytocom=
Crawl-delay: 3

User-agent: gptcli
Disallow: /only-us
Disallow: /a/*/c
Allow: /a/b/c/d
Crawl-delay: 0.5

Sitemap: https://example.org/sitemap.xml
sitemap: /second.xml
"""


def test_the_rules_for_us_win_over_those_for_all_and_the_longest_match_over_the_shorter() -> None:
    rules = Rules(ROBOTS)
    assert not rules.allow("https://example.org/only-us/x")
    assert rules.allow("https://example.org/private/x")
    assert not rules.allow("https://example.org/a/b/c")
    assert rules.allow("https://example.org/a/b/c/d")
    assert rules.delay == 0.5
    assert rules.sitemaps == ["https://example.org/sitemap.xml", "/second.xml"]


def test_wildcards_and_ends_are_understood() -> None:
    rules = Rules(ROBOTS.partition(b"User-agent: gptcli")[0])
    allowed = {path: rules.allow(f"https://example.org{path}") for path in ("/private/a", "/private/a.html", "/p")}
    assert allowed == {"/private/a": False, "/private/a.html": True, "/p": True}
    assert not rules.allow("https://example.org/post?replytocom=7")
    assert rules.delay == 3.0


@pytest.mark.parametrize(
    "data", [b"", b"<html><p>no robots here</p></html>", b"\xff\xfe\0\0", b"Crawl-delay: x", b":" * 99]
)
def test_a_robots_txt_that_says_nothing_allows_everything(data: bytes) -> None:
    assert Rules(data).allow(URL)
    assert (Rules(data).delay, Rules(data).sitemaps) == (0.0, [])


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e400", "soon"])
def test_a_strange_crawl_delay_does_no_harm(value: str) -> None:
    hosts = pace(0.0)
    hosts.crawl_delay(URL, Rules(f"User-agent: *\nCrawl-delay: {value}\nDisallow: /x".encode()).delay)
    assert 0 <= hosts.seconds(1, URL) <= manners.MAX_WAIT


def test_only_the_first_half_megabyte_of_rules_counts_and_wildcards_cost_no_time() -> None:
    rules = Rules(b"User-agent: *\nDisallow: /" + b"*a" * 100 + b"b\n" + b"Disallow: /x*y\n" * 200_000)
    assert rules.allow("https://example.org/" + "a" * 4000)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.9.10", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),  # noqa: S104
        ("::", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        *((address, "private") for address in ("10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1")),
        *((address, "private") for address in ("224.0.0.1", "255.255.255.255", "192.0.2.1", "ff02::1")),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("64:ff9b::808:808", ""),
        ("8.8.8.8", ""),
        ("2606:4700::1111", ""),
        ("no address", "unknown"),
    ],
)
def test_the_network_of_an_address_is_known(address: str, network: str) -> None:
    assert private_network(address) == network


PRIVATE = [
    *("http://127.0.0.1/", "http://localhost:8000/", "http://[::1]/", "http://0.0.0.0/", "http://10.0.0.1/"),
    *("http://192.168.0.1/router", "http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]/"),
    *("http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/"),
]


@pytest.mark.parametrize("url", PRIVATE)
def test_a_link_into_a_private_network_is_refused(url: str) -> None:
    borders = Borders()
    borders.open("http://8.8.8.8/")
    with pytest.raises(FetchError) as caught:
        borders.check(url)
    assert caught.value.message.startswith(f"{url} leads into a private network (")
    assert caught.value.reason == "private"


def test_the_network_that_the_user_named_is_open_and_no_other() -> None:
    borders = Borders()
    borders.open("http://localhost:8000/")
    borders.check("http://127.0.0.1:9000/")
    borders.check("http://8.8.8.8/")
    for url in ("http://10.0.0.1/", "http://169.254.169.254/", "http://0.0.0.0/"):
        with pytest.raises(FetchError, match="private network"):
            borders.check(url)


def test_a_name_that_leads_to_another_machine_at_the_second_question_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("93.184.216.34", 80))])
    borders = Borders()
    borders.open("http://example.org/")
    borders.check("http://rebinding.example.org/")
    borders.check_peer("http://rebinding.example.org/", "93.184.216.35")
    with pytest.raises(FetchError, match=r"private network \(loopback\)"):
        borders.check_peer("http://rebinding.example.org/", "127.0.0.1")


def test_a_name_that_nobody_knows_is_left_to_the_request() -> None:
    Borders().check("http://nothing.invalid/")
