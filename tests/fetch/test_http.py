from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch import http
from gptcli.fetch.http import download
from tests.fetch.conftest import Page, Site


def test_a_download_is_saved_and_described(site: Site, tmp_path: Path) -> None:
    body = "grüße\n".encode("latin-1") * 1_000_000
    site.pages["/a.txt"] = Page(body, content_type="text/plain; charset=ISO-8859-1")
    site.pages["/old"] = Page(status=302, headers={"Location": "/a.txt"})
    said: list[str] = []
    got = download(f"{site.url}/old", tmp_path / "body", on_progress=said.append)
    assert (tmp_path / "body").read_bytes() == body
    assert (got.url, got.content_type, got.charset.lower()) == (f"{site.url}/a.txt", "text/plain", "iso-8859-1")
    assert (got.bytes, got.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert said == ["downloading 127.0.0.1: 4 MB"]
    assert site.requests[0][1]["User-Agent"].startswith("gptcli/")


def test_the_limit_counts_bytes_after_decompression(site: Site, tmp_path: Path) -> None:
    bomb = gzip.compress(b"\0" * 20_000_000)
    assert len(bomb) < 100_000
    site.pages["/bomb"] = Page(bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(SourceError, match="is larger than 1,000,000 bytes"):
        download(f"{site.url}/bomb", tmp_path / "body", max_bytes=1_000_000)
    assert (tmp_path / "body").stat().st_size <= 1_000_000


def test_what_says_it_is_too_large_is_not_begun(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = Page(b"x" * 1001)
    with pytest.raises(SourceError, match="larger"):
        download(f"{site.url}/a", tmp_path / "body", max_bytes=1000)
    assert (tmp_path / "body").read_bytes() == b""
    assert download(f"{site.url}/a", tmp_path / "body", max_bytes=1001).bytes == 1001


@pytest.mark.parametrize(
    ("status", "hint"), [(404, "Check the address"), (403, "browser"), (429, "fewer"), (503, "later")]
)
def test_a_status_is_told_with_what_to_do(site: Site, tmp_path: Path, status: int, hint: str) -> None:
    site.pages["/a"] = Page(status=status)
    with pytest.raises(SourceError) as caught:
        download(f"{site.url}/a", tmp_path / "body")
    assert f"{site.url}/a: the server answered {status}" in caught.value.message
    assert hint in caught.value.hint


def test_a_redirect_loop_ends(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = Page(status=301, headers={"Location": "/a"})
    with pytest.raises(SourceError, match="leads in circles"):
        download(f"{site.url}/a", tmp_path / "body")


def test_a_body_that_breaks_off_is_an_error(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = Page(b"half", length=8)
    with pytest.raises(SourceError, match="broke off"):
        download(f"{site.url}/a", tmp_path / "body")


def test_broken_compression_is_an_error(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = Page(b"not gzip at all", headers={"Content-Encoding": "gzip"})
    with pytest.raises(SourceError, match="broke off"):
        download(f"{site.url}/a", tmp_path / "body")


def test_a_server_that_never_answers_times_out(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 0.2)
    release = threading.Event()
    site.pages["/a"] = Page(b"late", before=lambda: release.wait(5))
    try:
        with pytest.raises(SourceError, match="did not answer in time"):
            download(f"{site.url}/a", tmp_path / "body")
    finally:
        release.set()


def test_a_closed_port_cannot_be_reached(site: Site, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(SourceError, match=r"127\.0\.0\.1 cannot be reached"):
            download(f"http://127.0.0.1:{port}/", tmp_path / "body")


def test_an_unknown_host_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"There is no host no-such-host\.invalid"):
        download("http://no-such-host.invalid/a.txt", tmp_path / "body")


def test_plain_http_where_tls_was_expected_is_told(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="secure connection to 127"):
        download(site.url.replace("http:", "https:"), tmp_path / "body")


@pytest.mark.parametrize("proxy", ["socks5://x", "ftp://x", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_an_error_of_ours(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(SourceError, match="proxy that the environment names") as caught:
        download("http://example.org/a.txt", tmp_path / "body")
    assert "gptcli fetch FILE" in caught.value.hint


@pytest.mark.parametrize("url", ["http://[::1", "http://a b/", "http://x:99999999/", "nothing"])
def test_an_address_that_is_none_is_refused(site: Site, tmp_path: Path, url: str) -> None:
    with pytest.raises(SourceError):
        download(url, tmp_path / "body")


def test_a_redirect_to_another_protocol_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = Page(status=302, headers={"Location": "file:///etc/hostname"})
    with pytest.raises(SourceError, match="not an address that can be fetched"):
        download(f"{site.url}/a", tmp_path / "body")
