from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.fetch.web import FetchError, manners
from tests.fetch.conftest import Fetches, Page, Site


def ledger_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("raw/*") if path.is_file())


def test_requests_are_spaced(site: Site, fetches: Fetches) -> None:
    site.pages["/a"] = Page(b"text")
    web = fetches(delay=0.05)
    for number in range(4):
        web.get(f"{site.url}/a?{number}")
    gaps = [after - before for before, after in zip(site.times, site.times[1:], strict=False)]
    assert min(gaps) >= 0.05
    assert web.seconds(10, site.url) == pytest.approx(0.5)


ROBOTS = b"User-agent: *\nDisallow: /private\n\nUser-agent: gptcli\nDisallow: /no*thing$\nAllow: /no-but-no-thing\n"


@pytest.mark.parametrize(
    ("robots", "discovered", "asked"),
    [
        ("polite", True, ["/robots.txt"]),
        ("polite", False, ["/nothing"]),
        ("strict", True, ["/robots.txt"]),
        ("strict", False, ["/robots.txt"]),
        ("ignore", True, ["/nothing"]),
        ("ignore", False, ["/nothing"]),
    ],
)
def test_robots_txt_governs_links_that_are_found(
    site: Site, fetches: Fetches, robots: str, discovered: bool, asked: list[str]
) -> None:
    site.pages |= {"/robots.txt": Page(ROBOTS), "/nothing": Page(b"text")}
    web = fetches(robots=robots)
    if "/nothing" in asked:
        assert web.get(f"{site.url}/nothing", discovered=discovered).text() == "text"
    else:
        with pytest.raises(FetchError) as caught:
            web.get(f"{site.url}/nothing", discovered=discovered)
        host = site.url.removeprefix("http://")
        assert caught.value.message == f"{site.url}/nothing is disallowed by the robots.txt of {host}."
        assert caught.value.reason == "robots"
    assert site.asked == asked


def test_robots_txt_is_asked_for_once_and_governs_where_links_lead(site: Site, fetches: Fetches) -> None:
    site.pages |= {
        "/robots.txt": Page(b"User-agent: *\nDisallow: /no"),
        "/a": Page(b"a"),
        "/b": Page(b"b"),
        "/c": Page(status=302, headers={"Location": "/no/c"}),
    }
    for _ in range(2):
        web = fetches()
        web.get(f"{site.url}/a", discovered=True)
        web.get(f"{site.url}/b", discovered=True)
        with pytest.raises(FetchError, match="/no/c is disallowed"):
            web.get(f"{site.url}/c", discovered=True)
    assert site.asked == ["/robots.txt", "/a", "/b", "/c", "/c"]


@pytest.mark.parametrize(
    ("page", "allowed"),
    [
        (Page(status=404), True),
        (Page(status=401), True),
        (Page(status=403), True),
        (Page(status=500), False),
        (Page(b"half", cut=2), False),
        (Page(status=302, headers={"Location": "/robots.txt"}), True),
        (Page(b"<html>no rules</html>", "text/html"), True),
        (Page(bytes(33 * 1024**2)), False),
        (Page(status=302, headers={"Location": "http://10.0.0.1/"}), False),
    ],
)
def test_without_a_robots_txt_what_is_allowed_follows_the_rfc(
    site: Site, fetches: Fetches, page: Page, allowed: bool
) -> None:
    site.pages |= {"/robots.txt": page, "/a": Page(b"text")}
    web = fetches()
    if allowed:
        web.get(f"{site.url}/a", discovered=True)
    else:
        host = site.url.removeprefix("http://")
        with pytest.raises(FetchError) as caught:
            web.get(f"{site.url}/a", discovered=True)
        assert caught.value.message.startswith(f"The robots.txt of {host} could not be had (")
        assert caught.value.message.endswith(f"), so {site.url}/a was not fetched.")
        assert (caught.value.reason, caught.value.url) == ("transient", f"{site.url}/a")
    assert ("/a" in site.asked) is allowed


def test_a_robots_txt_that_cannot_be_had_is_asked_for_once_and_says_nothing(site: Site, fetches: Fetches) -> None:
    site.pages |= {"/robots.txt": Page(status=503), "/a": Page(b"text")}
    web = fetches()
    assert not web.disallows(f"{site.url}/a")
    assert web.sitemaps(site.url) == []
    for url in (f"{site.url}/a", f"{site.url}/b"):
        with pytest.raises(FetchError, match="could not be had") as caught:
            web.permit(url)
        assert caught.value.reason == "transient"
        with pytest.raises(FetchError, match="could not be had"):
            web.get(url, discovered=True)
    assert web.get(f"{site.url}/a").text() == "text"
    web.finish(complete=False)
    assert site.asked == ["/robots.txt"] * manners.ATTEMPTS + ["/a"]
    assert fetches().resumed is not None


def test_the_rules_of_before_stand_while_a_robots_txt_cannot_be_had(site: Site, fetches: Fetches) -> None:
    site.pages |= {"/robots.txt": Page(b"User-agent: *\nDisallow: /no"), "/a": Page(b"text")}
    web = fetches()
    web.get(f"{site.url}/a", discovered=True)
    web.finish()
    site.pages["/robots.txt"] = Page(status=503)
    web = fetches()
    assert web.get(f"{site.url}/a", discovered=True).text() == "text"
    with pytest.raises(FetchError, match="disallowed"):
        web.get(f"{site.url}/no", discovered=True)


def test_a_crawl_delay_is_obeyed(site: Site, fetches: Fetches) -> None:
    site.pages |= {"/robots.txt": Page(b"User-agent: *\nCrawl-delay: 0.1\nDisallow: /no"), "/a": Page(b"text")}
    web = fetches()
    web.get(f"{site.url}/a", discovered=True)
    assert site.times[1] - site.times[0] >= 0.1
    assert web.seconds(10, site.url) == pytest.approx(1.0)


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/", "http://[fd00::1]/", "http://0.0.0.0/"])
def test_other_private_networks_than_that_of_the_seed_are_not_entered(site: Site, fetches: Fetches, url: str) -> None:
    site.pages["/"] = Page(b"text")
    web = fetches()
    web.get(f"{site.url}/")
    web.get(site.url.replace("127.0.0.1", "localhost"))
    for discovered in (True, False):
        with pytest.raises(FetchError, match="leads into a private network") as caught:
            web.get(url, discovered=discovered)
        assert caught.value.reason == "private"


def test_loopback_is_private_where_the_seed_is_public(site: Site, fetches: Fetches) -> None:
    fetches.source = "http://nothing.invalid/"
    web = fetches()
    for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"):
        with pytest.raises(FetchError, match="leads into a private network"):
            web.get(site.url.replace("127.0.0.1", host))
    assert site.requests == []


def test_the_first_address_that_a_name_leads_to_decides_where_a_fetch_may_go(site: Site, fetches: Fetches) -> None:
    site.pages["/"] = Page(b"text")
    fetches.source = "gutenberg:1"
    web = fetches()
    with pytest.raises(FetchError, match="private network"):
        web.get(f"{site.url}/", discovered=True)
    assert web.get(f"{site.url}/").text() == "text"
    with pytest.raises(FetchError, match="private network"):
        web.get("http://10.0.0.1/")


def test_a_mirror_of_the_user_may_be_private(site: Site, fetches: Fetches) -> None:
    site.pages["/"] = Page(b"text")
    fetches.source = "http://nothing.invalid/"
    web = fetches(mirror=site.url.replace("127.0.0.1", "user:secret@127.0.0.1"))
    web.get(f"{site.url}/")
    assert "Authorization" in site.requests[0][1]


def test_a_login_goes_to_its_host_only_and_is_written_nowhere(site: Site, fetches: Fetches, tmp_path: Path) -> None:
    other = site.url.replace("127.0.0.1", "localhost")
    site.pages |= {"/": Page(b"text"), "/next": Page(b"more"), "/away": Page(status=302, headers={"Location": other})}
    login = site.url.replace("http://", "http://user:sec%40ret@")
    fetches.source = f"{login}/"
    web = fetches()
    assert web.get(f"{login}/").url == f"{site.url}/"
    web.get(f"{site.url}/next", discovered=True)
    web.get(f"{site.url}/away")
    web.get(other.replace("http://", "http://evil:login@") + "/next", discovered=True)
    with pytest.raises(FetchError) as caught:
        web.get(f"{login}/missing")
    assert "ret" not in caught.value.message + caught.value.url + "".join(fetches.said)
    seen = {
        (headers["Host"], headers.get("Authorization", "")) for path, headers in site.requests if "robots" not in path
    }
    assert seen == {
        (site.url.removeprefix("http://"), "Basic dXNlcjpzZWNAcmV0"),
        (other.removeprefix("http://"), ""),
    }
    fetches.stack.close()
    assert b"ret" not in ledger_bytes(fetches.folder)


def test_secrets_in_headers_do_not_follow_a_redirect(site: Site, fetches: Fetches) -> None:
    other = site.url.replace("127.0.0.1", "localhost")
    site.pages |= {"/a": Page(status=302, headers={"Location": f"{other}/b"}), "/b": Page(b"text")}
    web = fetches()
    web.get(f"{site.url}/a", accept="text/html", extra_headers={"Authorization": "Bearer secret", "X-Kind": "y"})
    first, second = (headers for _, headers in site.requests)
    assert (first["Authorization"], first["X-Kind"], first["Accept"]) == ("Bearer secret", "y", "text/html")
    assert "Authorization" not in second
    assert (second["X-Kind"], second["Accept"]) == ("y", "text/html")
    fetches.stack.close()
    assert b"secret" not in ledger_bytes(fetches.folder)


def test_cookies_live_as_long_as_a_chain_of_redirects(site: Site, fetches: Fetches) -> None:
    site.pages |= {
        "/a": Page(status=302, headers={"Location": "/b", "Set-Cookie": "seen=1"}),
        "/b": Page(b"b"),
        "/c": Page(b"c"),
    }
    web = fetches()
    web.get(f"{site.url}/a")
    web.get(f"{site.url}/c")
    assert [headers.get("Cookie") for _, headers in site.requests] == [None, "seen=1", None]
