"""One request over HTTP: the only place that knows httpx. Bodies go to a file as they come, never whole into memory.

Follows no redirect, waits for nobody and tries nothing twice: that is the business of ``web``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from gptcli import __version__
from gptcli.errors import SourceError

CONNECT_SECONDS = 15.0
READ_SECONDS = 60.0
# Below this rate a body is given up once it has taken as long as one read may.
MIN_BYTES_PER_SECOND = 100
FILE_HINT = "Download it in another way and fetch the file: gptcli fetch FILE"
AGAIN_HINT = "Run the same command again later: what came is kept."
HOST_HINT = "Check the address and the connection."
_CHUNK_BYTES = 1 << 16
_PROGRESS_BYTES = 1 << 22
_WITH_BODY = {200, 203}

Reason = Literal["gone", "refused", "robots", "private", "transient", "too-large", "limit", "offline", "broken"]


class FetchError(SourceError):
    """An address could not be had: ``reason`` says whether ever (gone), under other rules, or later (transient)."""

    def __init__(self, message: str, hint: str = "", *, url: str, reason: Reason) -> None:
        super().__init__(message, hint)
        self.url = url
        self.reason = reason


class UnreachableError(FetchError):
    """Nobody answered: the name, the connection or its encryption failed, or time ran out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: status, headers by lower-case name, seconds until they came; bytes and SHA-256 of the body.

    The body counts as decompressed, and is empty unless the status is one that brings a document (200, 203).
    """

    status: int
    headers: Mapping[str, str]
    seconds: float
    bytes: int
    sha256: str

    @property
    def content_type(self) -> str:
        """The type that the server declared, in lower case and without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        """The charset that the server declared, in lower case; it may be empty or wrong."""
        found = re.search(r"""charset\s*=\s*["']?([\w.:-]+)""", self.headers.get("content-type", ""), re.IGNORECASE)
        return found[1].lower() if found else ""


class Client:
    """A client that names itself to every server, with its open connections; ``contact`` lets them write to someone."""

    def __init__(self, contact: str | None = None) -> None:
        about = f"+contact: {contact}" if contact else "one reader, one request at a time"
        self._user_agent = " ".join(f"gptcli/{__version__} ({about})".encode("ascii", "replace").decode().split())
        self._httpx = _httpx_client()

    def close(self) -> None:
        """Close the connections."""
        self._httpx.close()

    def forget_cookies(self) -> None:
        """Drop the cookies that servers have set: they live as long as one chain of redirects."""
        self._httpx.cookies.clear()

    def ask(
        self,
        url: str,
        file: IO[bytes],
        *,
        headers: Mapping[str, str],
        max_bytes: int,
        check_peer: Callable[[str], None] = lambda _: None,
        on_bytes: Callable[[int, int | None], None] = lambda *_: None,
    ) -> Answer:
        """Send one GET and write a document's body to ``file``, at most ``max_bytes`` after decompression.

        ``url`` has no login. ``check_peer`` is told the address of a machine before anything is sent to it, unless a
        proxy stands between, and may raise. ``on_bytes`` is told now and then how many bytes of how many there are.
        Returns for any status; raises ``FetchError`` for what goes wrong on the way, and ``OSError`` of ``file``.
        """
        import httpx

        try:
            request = self._httpx.build_request("GET", url, headers=self._headers(headers))
            request.extensions["trace"] = _peer_check(request.url.raw_host.decode("ascii"), check_peer)
            began = time.monotonic()
            response = self._httpx.send(request, stream=True, follow_redirects=False)
            with contextlib.closing(response):
                seconds = time.monotonic() - began
                known = {name.lower(): value for name, value in response.headers.items()}
                size, digest = 0, hashlib.sha256()
                if response.status_code in _WITH_BODY:
                    for piece in _body(response, url, max_bytes, on_bytes):
                        file.write(piece)
                        digest.update(piece)
                        size += len(piece)
                else:
                    _drain(response)
                return Answer(response.status_code, known, seconds, size, digest.hexdigest())
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise _explain(url, error) from error

    def _headers(self, wanted: Mapping[str, str]) -> dict[str, str]:
        # Only what is inflated here with a cap: httpx would offer brotli and zstd too where they are installed.
        ours = {"User-Agent": self._user_agent, "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
        return {**ours, **wanted}


def basic_auth(name: str, password: str) -> str:
    """Return the ``Authorization`` header of a user name and a password."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def status_error(url: str, status: int) -> FetchError:
    """Return the error for a status that brings no document."""
    hints = {
        401: "It wants a login: download it in a browser and fetch the file.",
        403: "It refuses programs: download it in a browser and fetch the file.",
        404: "Check the address.",
        410: "Check the address.",
        429: "It asks for fewer requests: try again later, with --delay 5.",
    }
    reason: Reason = "refused"
    if status in {404, 410}:
        reason = "gone"
    elif status in {408, 429} or status >= 500:
        reason = "transient"
    with contextlib.suppress(ValueError):
        return FetchError(
            f"{url}: the server answered {status} {HTTPStatus(status).phrase}.",
            hints.get(status, AGAIN_HINT if reason == "transient" else FILE_HINT),
            url=url,
            reason=reason,
        )
    return FetchError(f"{url}: the server answered {status}.", FILE_HINT, url=url, reason=reason)


def too_large(url: str, max_bytes: int) -> FetchError:
    """Return the error for a body that exceeds a cap."""
    message = f"{url} is larger than {max_bytes:,} bytes, so it was not fetched."
    return FetchError(message, FILE_HINT, url=url, reason="too-large")


def _httpx_client() -> Any:  # noqa: ANN401 - httpx is imported inside functions only
    """Make the client; raises ``SourceError`` for a proxy or certificates of the environment that cannot be used."""
    import httpx

    try:
        return httpx.Client(timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS))
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise SourceError(
            "The proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) cannot be used: "
            f"http:// and https:// ones can ({' '.join(str(error).split()).rstrip('.')}).",
            "Unset the variable or name another proxy; gptcli fetch FILE needs none.",
        ) from error
    except OSError as error:
        raise SourceError(
            "The certificates that the environment names (SSL_CERT_FILE or SSL_CERT_DIR) cannot be read "
            f"({error.strerror or error}).",
            "Unset the variable or name a file of certificates that exists.",
        ) from error


def _peer_check(host: str, check: Callable[[str], None]) -> Callable[[str, dict[str, Any]], None]:
    """Return what httpx calls while it connects: the machine that a name leads to is known only then."""
    direct = False

    def trace(event: str, info: dict[str, Any]) -> None:
        nonlocal direct
        if event == "connection.connect_tcp.started":
            direct = info["host"] == host
        elif event == "connection.connect_tcp.complete" and direct:
            stream = info["return_value"]
            try:
                check(str(stream.get_extra_info("server_addr")[0]))
            except BaseException:
                stream.close()
                raise

    return trace


def _body(
    response: Any,  # noqa: ANN401 - httpx is imported inside functions only
    url: str,
    max_bytes: int,
    on_bytes: Callable[[int, int | None], None],
) -> Iterator[bytes]:
    """Yield the decompressed body in pieces; raises ``FetchError`` where it exceeds the cap or breaks off."""
    declared = response.headers.get("content-length", "")
    total = int(declared) if declared.isascii() and declared.isdecimal() and len(declared) < 20 else None
    if total is not None and total > max_bytes:
        raise too_large(url, max_bytes)
    encoding = response.headers.get("content-encoding", "").strip().lower()
    packed = encoding not in {"", "identity"}
    raw = _received(response, url, max_bytes, on_bytes, total)
    size = 0
    for piece in _inflated(raw, url, encoding) if packed else raw:
        size += len(piece)
        if size > max_bytes:
            raise too_large(url, max_bytes)
        yield piece


def _received(
    response: Any,  # noqa: ANN401 - httpx is imported inside functions only
    url: str,
    max_bytes: int,
    on_bytes: Callable[[int, int | None], None],
    total: int | None,
) -> Iterator[bytes]:
    """Yield what comes over the wire, however little it becomes; raises where it trickles or exceeds the cap."""
    size, began = 0, time.monotonic()
    for chunk in response.iter_raw():
        before, size = size, size + len(chunk)
        if size > max_bytes:
            raise too_large(url, max_bytes)
        if time.monotonic() - began > READ_SECONDS + size / MIN_BYTES_PER_SECOND:
            raise FetchError(f"{url} comes too slowly.", AGAIN_HINT, url=url, reason="transient")
        if size // _PROGRESS_BYTES > before // _PROGRESS_BYTES:
            on_bytes(size, total)
        yield chunk


def _inflated(chunks: Iterator[bytes], url: str, encoding: str) -> Iterator[bytes]:
    """Yield what gzip or deflate data is, in pieces of at most 64 kB however much a few bytes may become."""
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        message = f"{url} is compressed as {encoding[:40]!r}, which was not asked for."
        raise FetchError(message, FILE_HINT, url=url, reason="broken")
    inflater = None
    try:
        for data in chunks:
            while data:
                # gzip may go on with another member; anything else behind the end is padding.
                if inflater is not None and inflater.eof and (encoding == "deflate" or data[:1] != b"\x1f"):
                    return
                if inflater is None or inflater.eof:
                    # Some servers send deflate bare, without the zlib header that begins with 0x_8.
                    bare = encoding == "deflate" and data[0] & 0x0F != 8
                    inflater = zlib.decompressobj(-15 if bare else 47)
                yield inflater.decompress(data, _CHUNK_BYTES)
                data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        if inflater is not None:
            yield inflater.flush()
    except zlib.error as error:
        message = f"{url} cannot be decompressed: it is not the {encoding} that its server says it is."
        raise FetchError(message, FILE_HINT, url=url, reason="broken") from error
    if inflater is not None and not inflater.eof:
        raise FetchError(
            f"The download of {url} broke off (its {encoding} data has no end).",
            AGAIN_HINT,
            url=url,
            reason="transient",
        )


def _drain(response: Any) -> None:  # noqa: ANN401 - httpx is imported inside functions only
    """Read a short body that nobody wants, so that the connection can be used again."""
    import httpx

    size = 0
    with contextlib.suppress(httpx.HTTPError):
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > _CHUNK_BYTES:
                return


def _explain(url: str, error: Exception) -> FetchError:
    """Turn an error of httpx into a sentence. Its own text may hold a header that is a secret, so little is quoted."""
    import httpx

    if isinstance(error, (httpx.LocalProtocolError, UnicodeError)):
        message = f"{url} cannot be asked for: a header or the name of the host has characters that it may not have."
        return FetchError(message, "Check the address, tokens and --contact.", url=url, reason="broken")
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        message = f"{url} is not an address that can be fetched ({error})."
        return FetchError(message, "It has to begin with https://.", url=url, reason="broken")
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
        return _explain_connection(url, error)
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError(f"{url} did not answer in time.", AGAIN_HINT, url=url, reason="transient")
    if isinstance(error, httpx.RemoteProtocolError) and not re.search("disconnected|closed", str(error)):
        message = f"{url}: the server does not answer in proper HTTP ({error})."
        return FetchError(message, FILE_HINT, url=url, reason="broken")
    return FetchError(f"The download of {url} broke off ({error}).", AGAIN_HINT, url=url, reason="transient")


def _explain_connection(url: str, error: Exception) -> UnreachableError:
    host = urlsplit(url).hostname
    causes = list(_causes(error))
    message, hint = f"{host} cannot be reached ({str(error) or 'no answer in time'}).", HOST_HINT
    certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        why = certificate.verify_message
        message = f"The secure connection to {host} failed: its certificate cannot be verified ({why})."
        hint = FILE_HINT
    elif any(isinstance(cause, ssl.SSLError) for cause in causes):
        message, hint = f"The secure connection to {host} failed ({error}).", FILE_HINT
    elif any(isinstance(cause, socket.gaierror) for cause in causes):
        message = f"There is no host {host}, or no network."
    return UnreachableError(message, hint, url=url, reason="transient")


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
