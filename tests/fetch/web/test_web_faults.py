from __future__ import annotations

import gzip
import threading
import time

import pytest

from gptcli.fetch.web import FetchError, Reason, http, manners
from tests.fetch.conftest import Fetches, Page, Site, bodies

PEER = "peer closed connection without sending complete message body"
BOMB = gzip.compress(bytes(5_000_000))

# What a server does, what is said of it, and whether that is for good.
FAULTS: dict[str, tuple[Page, str, Reason, int]] = {
    "404": (Page(status=404), "{url}: the server answered 404 Not Found.", "gone", 1),
    "410": (Page(status=410), "{url}: the server answered 410 Gone.", "gone", 1),
    "401": (Page(status=401), "{url}: the server answered 401 Unauthorized.", "refused", 1),
    "403": (Page(status=403), "{url}: the server answered 403 Forbidden.", "refused", 1),
    "204": (Page(status=204), "{url}: the server answered 204 No Content.", "refused", 1),
    "206": (Page(b"part", status=206), "{url}: the server answered 206 Partial Content.", "refused", 1),
    "304": (Page(status=304), "{url}: the server answered 304 Not Modified.", "refused", 1),
    "nowhere": (Page(status=302), "{url}: the server answered 302 Found.", "refused", 1),
    "429": (Page(status=429), "{url}: the server answered 429 Too Many Requests.", "transient", 5),
    "500": (Page(status=500), "{url}: the server answered 500 Internal Server Error.", "transient", 5),
    "503 for a day": (
        Page(status=503, headers={"Retry-After": "86400"}),
        "{url}: the server answered 503 Service Unavailable. It asks to be left alone for 24:00:00.",
        "transient",
        1,
    ),
    "truncated": (
        Page(b"half of it", cut=4),
        "The download of {url} broke off ({peer} (received 4 bytes, expected 10)).",
        "transient",
        5,
    ),
    "truncated gzip": (
        Page(gzip.compress(b"text")[:-4], headers={"Content-Encoding": "gzip"}),
        "The download of {url} broke off (its gzip data has no end).",
        "transient",
        5,
    ),
    "bomb": (
        Page(BOMB, headers={"Content-Encoding": "gzip"}),
        "{url} is larger than 1,000,000 bytes, so it was not fetched.",
        "too-large",
        1,
    ),
    "too large": (
        Page(bytes(1_000_001)),
        "{url} is larger than 1,000,000 bytes, so it was not fetched.",
        "too-large",
        1,
    ),
    "no gzip": (
        Page(b"text", headers={"Content-Encoding": "gzip"}),
        "{url} cannot be decompressed: it is not the gzip that its server says it is.",
        "broken",
        1,
    ),
    "brotli": (
        Page(b"text", headers={"Content-Encoding": "br"}),
        "{url} is compressed as 'br', which was not asked for.",
        "broken",
        1,
    ),
    "circle": (
        Page(status=302, headers={"Location": "/fault?again"}),
        "{url} leads in circles: more than 10 redirects.",
        "broken",
        11,
    ),
    "other protocol": (
        Page(status=302, headers={"Location": "file:///etc/hostname"}),
        "{url} leads to 'file:///etc/hostname', which is not an address that can be fetched.",
        "broken",
        1,
    ),
    "private": (
        Page(status=302, headers={"Location": "http://169.254.169.254/latest/"}),
        "http://169.254.169.254/latest/ leads into a private network (link-local), so it was not fetched.",
        "private",
        1,
    ),
    "huge header": (
        Page(b"text", headers={"X": "x" * 200_000}),
        "{url}: the server does not answer in proper HTTP (Receive buffer too long).",
        "broken",
        1,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told_in_its_sentence_and_the_store_is_as_it_was(
    site: Site, fetches: Fetches, fault: str
) -> None:
    page, sentence, reason, requests = FAULTS[fault]
    site.pages["/good"] = Page(b"good")
    site.pages["/fault"] = page
    web = fetches()
    web.get(f"{site.url}/good")
    with pytest.raises(FetchError) as caught:
        web.get(f"{site.url}/fault", max_bytes=1_000_000)
    assert caught.value.message == sentence.format(url=f"{site.url}/fault", peer=PEER)
    assert (caught.value.reason, bool(caught.value.hint)) == (reason, True)
    assert len(site.requests) == 1 + requests
    assert bodies(fetches.folder) == [b"good"]
    site.pages["/fault"] = Page(b"mended")
    if reason != "gone":
        assert fetches().get(f"{site.url}/fault").text() == "mended"


@pytest.mark.parametrize(
    ("url", "sentence", "reason"),
    [
        ("http://nothing.invalid/a", "There is no host nothing.invalid, or no network.", "transient"),
        ("https:{site}/a", "The secure connection to 127.0.0.1 failed (", "transient"),
        ("http://127.0.0.1:1/a", "127.0.0.1 cannot be reached (", "transient"),
        ("http://[::1", "http://[::1 is not an address that can be fetched.", "broken"),
        ("http://x:99999/", "http://x:99999/ is not an address that can be fetched.", "broken"),
        ("http://h/\udc80", "http://h/\ufffd is not an address that can be fetched.", "broken"),
        ("nothing", "nothing is not an address that can be fetched.", "broken"),
        ("ftp://user:secret@h/a", "ftp://h/a is not an address that can be fetched.", "broken"),
    ],
)
def test_where_nobody_answers_it_is_said_at_once_and_nothing_is_left(
    site: Site, fetches: Fetches, url: str, sentence: str, reason: str
) -> None:
    with pytest.raises(FetchError) as caught:
        fetches().get(url.format(site=site.url.removeprefix("http:")))
    assert caught.value.message.startswith(sentence)
    assert caught.value.reason == reason
    fetches.stack.close()
    assert not fetches.folder.parent.exists()


def test_a_server_that_is_silent_now_and_then_is_asked_again(
    site: Site, fetches: Fetches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 0.25)
    monkeypatch.setattr(manners, "ATTEMPTS", 2)
    release = threading.Event()
    silent = Page(b"late", before=lambda: release.wait(5))
    site.pages |= {"/": Page(b"first"), "/a": [silent, Page(b"text")], "/b": silent}
    web = fetches()
    try:
        web.get(f"{site.url}/")
        assert web.get(f"{site.url}/a").text() == "text"
        with pytest.raises(FetchError, match=r"/b did not answer in time\.$"):
            web.get(f"{site.url}/b")
    finally:
        release.set()
    assert site.asked == ["/", "/a", "/a", "/b", "/b"]
    assert f"{site.url}/a did not answer in time. Trying again." in fetches.said


def test_bursts_of_429_and_503_are_waited_out(site: Site, fetches: Fetches) -> None:
    busy = [Page(status=429, headers={"Retry-After": "0"}), Page(status=503), Page(status=500), Page(b"half", cut=2)]
    site.pages["/a"] = [*busy, Page(b"text")]
    assert fetches().get(f"{site.url}/a").text() == "text"
    assert len(site.requests) == 5
    assert bodies(fetches.folder) == [b"text"]


def test_retry_after_is_waited_and_said(site: Site, fetches: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manners, "SILENT_SECONDS", 0.0)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    site.pages["/a"] = [Page(status=429, headers={"Retry-After": "30"}), Page(b"text")]
    fetches().get(f"{site.url}/a")
    assert [round(seconds) for seconds in slept] == [30]
    host = site.url.removeprefix("http://")
    assert f"waiting 30 s, as {host} asked" in fetches.said


def test_a_host_that_is_down_is_not_asked_for_every_page(site: Site, fetches: Fetches) -> None:
    site.pages["/"] = Page(b"text")
    web = fetches()
    web.get(f"{site.url}/")
    for number in range(20):
        site.pages[f"/{number}"] = Page(status=503)
        with pytest.raises(FetchError) as caught:
            web.get(f"{site.url}/{number}")
        assert caught.value.reason == "transient"
    assert len(site.requests) == 1 + manners.MAX_FAILURES * manners.ATTEMPTS
    assert "3 times in a row" in caught.value.message
