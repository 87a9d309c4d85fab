"""A mirror that stands in for a host: everything is asked of it, and nothing is known by its name."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gptcli.fetch.options import FetchOptions
from gptcli.fetch.web import FetchError, Web, manners
from tests.fetch.conftest import Page, Site

REAL = "https://real.invalid"


@pytest.fixture
def web(site: Site, tmp_path: Path) -> Iterator[Web]:
    mirror = site.url.replace("http://", "http://user:secret@") + "/x"
    with ExitStack() as stack:
        folder = tmp_path / "corpora" / "x"
        yield stack.enter_context(Web(folder, f"{REAL}/a", FetchOptions(delay=0), stands_for=(REAL, mirror)))


def test_addresses_of_the_host_are_asked_of_its_mirror_and_keep_their_names(site: Site, web: Web) -> None:
    site.pages |= {
        "/x/robots.txt": Page(b"User-agent: *\nDisallow: /no\nSitemap: /s.xml"),
        "/x/a": Page(b"text", headers={"Link": '</b>; rel="next"'}),
    }
    got = web.get(f"{REAL}/a?q=1", discovered=True)
    assert (got.url, got.final_url, got.link("next")) == (f"{REAL}/a?q=1", f"{REAL}/a?q=1", f"{REAL}/b")
    assert web.get(f"{site.url}/x/a?q=1") == got
    assert web.stored(f"{site.url}/x/a?q=1")
    assert web.real(f"{site.url}/x/b?q=2#part") == f"{REAL}/b?q=2"
    with pytest.raises(FetchError, match=rf"^{REAL}/no is disallowed by the robots.txt of real.invalid"):
        web.get(f"{site.url}/x/no", discovered=True)
    assert web.sitemaps(f"{REAL}/a") == [f"{REAL}/s.xml"]
    assert site.asked == ["/x/robots.txt", "/x/a?q=1"]
    assert {headers["Authorization"] for _, headers in site.requests} == {
        f"Basic {base64.b64encode(b'user:secret').decode()}"
    }


@pytest.mark.parametrize("location", ["/b", "b", "/x/b", "{mirror}/x/b", REAL + "/b", "http://real.invalid/b"])
def test_redirects_on_the_mirror_lead_to_addresses_of_the_host(site: Site, web: Web, location: str) -> None:
    site.pages |= {
        "/x/a": Page(status=302, headers={"Location": location.format(mirror=site.url)}),
        "/x/b": Page(b"text"),
    }
    got = web.get(f"{REAL}/a")
    assert (got.url, got.final_url.removeprefix("https:").removeprefix("http:")) == (f"{REAL}/a", "//real.invalid/b")
    assert site.asked == ["/x/a", "/x/b"]


def test_what_goes_wrong_on_the_mirror_is_told_of_the_host(
    site: Site, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manners, "ATTEMPTS", 1)
    site.pages |= {"/x/cut": Page(b"text", cut=2), "/x/down": Page(status=500), "/x/large": Page(bytes(200))}
    for path in ("/cut", "/down", "/large", "/gone"):
        with pytest.raises(FetchError) as caught:
            web.get(REAL + path, max_bytes=100)
        assert f"{REAL}{path}" in caught.value.message
        assert (caught.value.url, site.url in caught.value.message) == (REAL + path, False)
