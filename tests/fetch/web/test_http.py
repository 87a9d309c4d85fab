from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import socket
import ssl
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.web import http
from gptcli.fetch.web.http import Answer, Client, FetchError, UnreachableError, basic_auth, status_error
from tests.fetch.conftest import Page, Site, handler


@dataclass
class Asked:
    """A client, and the body of its last answer."""

    client: Client
    body: bytes = b""
    said: list[tuple[int, int | None]] = field(default_factory=list)

    def __call__(self, url: str, *, max_bytes: int = 10_000_000, headers: dict[str, str] | None = None) -> Answer:
        file = io.BytesIO()
        try:
            return self.client.ask(
                url,
                file,
                headers=headers or {},
                max_bytes=max_bytes,
                on_bytes=lambda done, total: self.said.append((done, total)),
            )
        finally:
            self.body = file.getvalue()


@pytest.fixture
def ask(site: Site) -> Iterator[Asked]:
    client = Client("me@example.org")
    yield Asked(client)
    client.close()


@pytest.fixture
def raw_server() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection with the bytes of a list, whatever it was asked, and hangs up."""
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    if not answers:
                        return
                    connection.sendall(answers.pop(0))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a", answers
        answers.clear()
        with socket.create_connection(server.getsockname()) as last:
            last.sendall(b"x")
        thread.join()


def test_a_body_goes_to_the_file_and_is_described(site: Site, ask: Asked) -> None:
    body = "grüße\n".encode("latin-1") * 1_000_000
    site.pages["/a.txt"] = Page(body, content_type='Text/Plain; charset="ISO-8859-1"')
    got = ask(f"{site.url}/a.txt")
    assert ask.body == body
    assert (got.status, got.content_type, got.charset) == (200, "text/plain", "iso-8859-1")
    assert (got.bytes, got.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert [total for _, total in ask.said] == [len(body)]
    assert 0 < got.seconds < 5


def test_a_request_names_us_and_asks_only_for_what_can_be_inflated(site: Site, ask: Asked) -> None:
    site.pages["/a"] = Page(b"x")
    ask(f"{site.url}/a", headers={"Accept": "text/html"})
    headers = site.requests[0][1]
    assert headers["User-Agent"] == "gptcli/0.1.0 (+contact: me@example.org)"
    assert (headers["Accept-Encoding"], headers["Accept"]) == ("gzip, deflate", "text/html")


@pytest.mark.parametrize(
    ("contact", "expected"),
    [(None, "(one reader, one request at a time)"), ("Jürgen\r\nX-Bad: 1", "(+contact: J?rgen X-Bad: 1)")],
)
def test_a_contact_cannot_break_the_header(site: Site, contact: str | None, expected: str) -> None:
    site.pages["/a"] = Page(b"x")
    client = Client(contact)
    client.ask(f"{site.url}/a", io.BytesIO(), headers={}, max_bytes=10)
    client.close()
    assert site.requests[0][1]["User-Agent"] == f"gptcli/0.1.0 {expected}"
    assert "X-Bad" not in site.requests[0][1]


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"some text" * 20_000)),
        ("GZIP", gzip.compress(b"some text" * 20_000)),
        ("x-gzip", gzip.compress(b"some text" * 10_000) + gzip.compress(b"some text" * 10_000)),
        ("gzip", gzip.compress(b"some text" * 20_000) + b"\0" * 100),
        ("deflate", zlib.compress(b"some text" * 20_000)),
        ("deflate", bare_deflate(b"some text" * 20_000)),
        ("identity", b"some text" * 20_000),
    ],
)
def test_what_was_asked_for_is_inflated(site: Site, ask: Asked, encoding: str, body: bytes) -> None:
    site.pages["/a"] = Page(body, headers={"Content-Encoding": encoding})
    got = ask(f"{site.url}/a")
    assert ask.body == b"some text" * 20_000
    assert got.sha256 == hashlib.sha256(ask.body).hexdigest()


def test_an_empty_body_may_call_itself_compressed(site: Site, ask: Asked) -> None:
    site.pages["/a"] = Page(b"", headers={"Content-Encoding": "gzip"})
    assert ask(f"{site.url}/a").bytes == 0


@pytest.mark.parametrize(
    ("encoding", "body", "sentence"),
    [
        ("gzip", b"not gzip at all", "cannot be decompressed: it is not the gzip that its server says it is."),
        ("deflate", b"\xff\xff\xff\xff", "cannot be decompressed: it is not the deflate that its server says it is."),
        ("br", b"\x0b\x02\x80text\x03", "is compressed as 'br', which was not asked for."),
        ("zstd", b"\x28\xb5\x2f\xfd", "is compressed as 'zstd', which was not asked for."),
        ("gzip, gzip", b"", "is compressed as 'gzip, gzip', which was not asked for."),
    ],
)
def test_other_compression_is_refused(site: Site, ask: Asked, encoding: str, body: bytes, sentence: str) -> None:
    site.pages["/a"] = Page(body + b" ", headers={"Content-Encoding": encoding})
    with pytest.raises(FetchError) as caught:
        ask(f"{site.url}/a")
    assert caught.value.message == f"{site.url}/a {sentence}"
    assert caught.value.reason == "broken"


def test_compressed_data_without_an_end_has_broken_off(site: Site, ask: Asked) -> None:
    site.pages["/a"] = Page(gzip.compress(b"text" * 1000)[:-10], headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError) as caught:
        ask(f"{site.url}/a")
    assert caught.value.message == f"The download of {site.url}/a broke off (its gzip data has no end)."
    assert caught.value.reason == "transient"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_at_the_cap_with_flat_memory(site: Site, tmp_path: Path, encoding: str) -> None:
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    assert len(bomb) < 250_000
    site.pages["/bomb"] = Page(bomb, headers={"Content-Encoding": encoding})
    client = Client()
    tracemalloc.start()
    with (tmp_path / "body").open("wb") as file, pytest.raises(FetchError) as caught:
        client.ask(f"{site.url}/bomb", file, headers={}, max_bytes=20_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    client.close()
    assert caught.value.message == f"{site.url}/bomb is larger than 20,000,000 bytes, so it was not fetched."
    assert caught.value.reason == "too-large"
    assert 19_000_000 < (tmp_path / "body").stat().st_size <= 20_000_000
    assert peak < 8_000_000


def test_endless_data_that_inflates_to_nothing_is_refused_too(site: Site, ask: Asked) -> None:
    site.pages["/a"] = Page(gzip.compress(b"") * 60_000, headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="larger than 1,000,000 bytes"):
        ask(f"{site.url}/a", max_bytes=1_000_000)


def test_what_says_it_is_too_large_is_not_begun(site: Site, ask: Asked) -> None:
    site.pages["/a"] = Page(b"x" * 1001)
    with pytest.raises(FetchError, match="larger"):
        ask(f"{site.url}/a", max_bytes=1000)
    assert ask.body == b""
    assert ask(f"{site.url}/a", max_bytes=1001).bytes == 1001


@pytest.mark.parametrize("status", [204, 206, 301, 304, 404, 429, 500])
def test_other_statuses_come_without_a_body(site: Site, ask: Asked, status: int) -> None:
    site.pages["/a"] = Page(b"" if status in {204, 304} else b"some page", status=status, headers={"Retry-After": "7"})
    got = ask(f"{site.url}/a")
    assert (got.status, got.bytes, ask.body, got.headers["retry-after"]) == (status, 0, b"", "7")


@pytest.mark.parametrize(
    ("status", "sentence", "hint", "reason"),
    [
        (401, "401 Unauthorized", "It wants a login", "refused"),
        (403, "403 Forbidden", "It refuses programs", "refused"),
        (404, "404 Not Found", "Check the address", "gone"),
        (410, "410 Gone", "Check the address", "gone"),
        (429, "429 Too Many Requests", "fewer requests", "transient"),
        (503, "503 Service Unavailable", "Run the same command again", "transient"),
        (418, "418 I'm a Teapot", "another way", "refused"),
        (599, "599", "another way", "transient"),
    ],
)
def test_a_status_is_told_with_what_to_do(status: int, sentence: str, hint: str, reason: str) -> None:
    error = status_error("http://h/a", status)
    assert error.message.lower() == f"http://h/a: the server answered {sentence}.".lower()
    assert hint in error.hint
    assert (error.reason, error.url) == (reason, "http://h/a")


def test_a_body_that_breaks_off_is_an_error(site: Site, ask: Asked) -> None:
    site.pages["/a"] = Page(b"half of it", cut=4)
    with pytest.raises(FetchError, match=rf"The download of {site.url}/a broke off \(peer closed") as caught:
        ask(f"{site.url}/a")
    assert caught.value.reason == "transient"


@pytest.mark.parametrize(
    ("answer", "sentence", "reason"),
    [
        (b"", "The download of {url} broke off (Server disconnected without sending a response.).", "transient"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "The download of {url} broke off (Server disconn", "transient"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "{url}: the server does not answer in proper HTTP (", "broken"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, "{url}: the server does not answer in proper HTTP (", "broken"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "{url}: the server does not answer in proper", "broken"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", "{url}: the server does not answer", "broken"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "The download of {url} broke", "transient"),
    ],
)
def test_broken_http_is_told(
    raw_server: tuple[str, list[bytes]], ask: Asked, answer: bytes, sentence: str, reason: str
) -> None:
    url, answers = raw_server
    answers.append(answer)
    with pytest.raises(FetchError) as caught:
        ask(url)
    assert caught.value.message.startswith(sentence.format(url=url))
    assert caught.value.reason == reason


def test_a_server_that_never_answers_times_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 0.1)
    release = threading.Event()
    site.pages["/a"] = Page(b"late", before=lambda: release.wait(5))
    client = Client()
    try:
        with pytest.raises(UnreachableError) as caught:
            client.ask(f"{site.url}/a", io.BytesIO(), headers={}, max_bytes=10)
    finally:
        release.set()
        client.close()
    assert caught.value.message == f"{site.url}/a did not answer in time."
    assert caught.value.reason == "transient"


def test_a_body_that_trickles_is_given_up(site: Site, ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", -1.0)
    monkeypatch.setattr(http, "MIN_BYTES_PER_SECOND", 1e9)
    site.pages["/a"] = Page(b"drop")
    with pytest.raises(FetchError, match=r"/a comes too slowly\.") as caught:
        ask(f"{site.url}/a")
    assert caught.value.reason == "transient"


def test_a_closed_port_cannot_be_reached(ask: Asked) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UnreachableError, match=r"^127\.0\.0\.1 cannot be reached \(.*refused.*\)\.$"):
            ask(f"http://127.0.0.1:{port}/")


def test_an_unknown_host_is_named(ask: Asked) -> None:
    with pytest.raises(UnreachableError) as caught:
        ask("http://nothing.invalid/a.txt")
    assert caught.value.message == "There is no host nothing.invalid, or no network."
    assert (caught.value.hint, caught.value.reason) == ("Check the address and the connection.", "transient")


def test_plain_http_where_tls_was_expected_is_told(site: Site, ask: Asked) -> None:
    with pytest.raises(UnreachableError, match=r"^The secure connection to 127\.0\.0\.1 failed \("):
        ask(site.url.replace("http:", "https:"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path, ask: Asked) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    seen = Site({"/": Page(b"secret")}, "", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(seen)) as server:
        # The handshake fails in the server's thread too, which has nothing to say about it.
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with pytest.raises(UnreachableError) as caught:
                ask(f"https://127.0.0.1:{server.server_address[1]}/")
        finally:
            server.shutdown()
            thread.join()
    assert caught.value.message.startswith(
        "The secure connection to 127.0.0.1 failed: its certificate cannot be verified (self"
    )
    assert seen.requests == []


@pytest.mark.parametrize("proxy", ["socks5://x", "ftp://user:secret@x", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_an_error_of_ours(
    site: Site, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(SourceError, match="proxy that the environment names") as caught:
        Client()
    assert "gptcli fetch FILE" in caught.value.hint
    assert "secret" not in caught.value.message


def test_certificates_that_are_not_there_are_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    with pytest.raises(SourceError, match="certificates that the environment names"):
        Client()


@pytest.mark.parametrize("url", ["http://[::1", "nothing", "file:///etc/hostname"])
def test_an_address_that_is_none_is_refused(ask: Asked, url: str) -> None:
    with pytest.raises(FetchError) as caught:
        ask(url)
    assert caught.value.message.startswith(f"{url} is not an address that can be fetched (")
    assert caught.value.reason == "broken"


@pytest.mark.parametrize("value", ["Bearer secret\nX: 1", "Bearer secrét"])
def test_a_header_that_cannot_be_sent_is_not_shown(site: Site, ask: Asked, value: str) -> None:
    with pytest.raises(FetchError, match="a header or the name of the host has characters") as caught:
        ask(f"{site.url}/a", headers={"Authorization": value})
    assert "secr" not in caught.value.message + caught.value.hint
    assert site.requests == []


def test_the_connected_machine_is_shown_before_anything_is_sent(site: Site) -> None:
    seen: list[str] = []

    def refuse(address: str) -> None:
        seen.append(address)
        raise FetchError("no", url="", reason="private")

    site.pages["/a"] = Page(b"x")
    client = Client()
    url = f"{site.url.replace('127.0.0.1', 'localhost')}/a"
    with pytest.raises(FetchError, match="no"):
        client.ask(url, io.BytesIO(), headers={}, max_bytes=10, check_peer=refuse)
    client.close()
    assert seen == ["127.0.0.1"]
    assert site.requests == []


def test_the_machine_behind_a_proxy_is_not_known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", site.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    site.pages["http://example.org/a"] = Page(b"by way of the proxy")
    seen: list[str] = []
    client = Client()
    file = io.BytesIO()
    client.ask("http://example.org/a", file, headers={}, max_bytes=100, check_peer=seen.append)
    client.close()
    assert (file.getvalue(), seen) == (b"by way of the proxy", [])


def test_basic_auth_is_as_the_rfc_has_it() -> None:
    assert basic_auth("Aladdin", "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
