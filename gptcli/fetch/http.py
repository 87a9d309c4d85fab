"""Downloads: the only place that talks HTTP. Knows nothing of what is downloaded."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from gptcli import __version__
from gptcli.errors import SourceError

MAX_BYTES = 2 * 1024**3
MAX_REDIRECTS = 10
CONNECT_SECONDS = 15.0
READ_SECONDS = 60.0
USER_AGENT = f"gptcli/{__version__}"
FILE_HINT = "Download it in another way and fetch the file: gptcli fetch FILE"
_PROGRESS_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Download:
    """What came: the address after redirects, content type and charset as declared, decoded bytes, their SHA-256."""

    url: str
    content_type: str
    charset: str
    bytes: int
    sha256: str


def download(
    url: str, path: Path, *, max_bytes: int = MAX_BYTES, on_progress: Callable[[str], None] = lambda _: None
) -> Download:
    """Write what is at ``url`` to ``path`` as it comes, at most ``max_bytes`` after decompression.

    Raises ``SourceError`` for anything that goes wrong on the way, with a sentence for each.
    """
    import httpx

    where = without_login(url)
    opened = _client()
    try:
        with (
            opened as client,
            client.stream("GET", url) as response,
            path.open("wb") as file,
        ):
            response.raise_for_status()
            too_large = SourceError(f"{where} is larger than {max_bytes:,} bytes, so it was not fetched.", FILE_HINT)
            declared = response.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > max_bytes:
                raise too_large
            size = 0
            digest = hashlib.sha256()
            for chunk in response.iter_bytes():
                before, size = size, size + len(chunk)
                if size > max_bytes:
                    raise too_large
                file.write(chunk)
                digest.update(chunk)
                if size // _PROGRESS_BYTES > before // _PROGRESS_BYTES:
                    on_progress(f"downloading {response.url.host}: {size / 1e6:,.0f} MB")
            content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            return Download(str(response.url), content_type, response.charset_encoding or "", size, digest.hexdigest())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _explain(where, error) from error


def _client() -> Any:  # noqa: ANN401 - httpx is imported inside functions only
    """Make the client; raises ``SourceError`` for a proxy of the environment that cannot be used."""
    import httpx

    try:
        return httpx.Client(
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            headers={"User-Agent": USER_AGENT},
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise SourceError(
            "The proxy that the environment names (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) cannot be used: "
            f"http:// and https:// ones can ({' '.join(str(error).split()).rstrip('.')}).",
            "Unset the variable or name another proxy; gptcli fetch FILE needs none.",
        ) from error


def without_login(url: str) -> str:
    """Return the address without user name and password, which do not belong into files and messages."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not match
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _explain(url: str, error: Exception) -> SourceError:
    """Turn an error of httpx into a sentence."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return _explain_status(url, error.response.status_code, error.response.reason_phrase)
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        return SourceError(f"{url} is not an address that can be fetched ({error}).", "It has to begin with https://.")
    if isinstance(error, httpx.TooManyRedirects):
        return SourceError(f"{url} leads in circles: more than {MAX_REDIRECTS} redirects.", FILE_HINT)
    if isinstance(error, httpx.TimeoutException):
        return SourceError(f"{url} did not answer in time.", "Try again later, or download it and fetch the file.")
    host = urlsplit(url).hostname
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return SourceError(
            f"The secure connection to {host} failed: its certificate cannot be verified ({error}).", FILE_HINT
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return SourceError(f"There is no host {host}, or no network.", "Check the address and the connection.")
    if isinstance(error, httpx.ConnectError):
        return SourceError(f"{host} cannot be reached ({error}).", "Check the address and the connection.")
    return SourceError(f"The download of {url} broke off ({error}).", "Run the same command again.")


def _explain_status(url: str, status: int, reason: str) -> SourceError:
    hints = {
        401: "It wants a login: download it in a browser and fetch the file.",
        403: "It refuses programs: download it in a browser and fetch the file.",
        404: "Check the address.",
        410: "Check the address.",
        429: "It asks for fewer requests: try again later.",
    }
    hint = hints.get(status, "Try again later." if status >= 500 else FILE_HINT)
    return SourceError(f"{url}: the server answered {status} {reason}.".replace(" .", "."), hint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
