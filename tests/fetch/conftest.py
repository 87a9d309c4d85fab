"""A web server on loopback for the tests of downloads, and a fetch that waits for nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from gptcli.fetch.options import FetchOptions
from gptcli.fetch.web import Web, manners
from tests.loopback import serving


@dataclass
class Page:
    """What the server answers for one path; ``before`` runs first, ``length`` overrides the true Content-Length.

    ``body`` may be a function of the path with its query. A page with an ``etag`` is not sent again to who has it.
    ``cut`` hangs up after so many bytes of the body.
    """

    body: bytes | Callable[[str], bytes] = b""
    content_type: str = "text/plain"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    before: Callable[[], object] = lambda: None
    etag: str = ""
    cut: int | None = None


@dataclass
class Site:
    """A running server: its pages by path, its address, and the requests it has seen.

    A list of pages is served one after the other, the last one again and again. A path is looked up with its query
    first, then without. ``asked`` is the paths in order, ``times`` when they came on the monotonic clock.
    """

    pages: dict[str, Page | list[Page]]
    url: str
    requests: list[tuple[str, dict[str, str]]]
    times: list[float] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        return [path for path, _ in self.requests]

    def page(self, path: str) -> Page:
        """Return what to answer now, and go on to the next answer of a list."""
        found = self.pages.get(path, self.pages.get(path.partition("?")[0], Page(b"nothing here", status=404)))
        if isinstance(found, Page):
            return found
        return found.pop(0) if len(found) > 1 else found[0]


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers for a site."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append((self.path, dict(self.headers)))
            site.times.append(time.monotonic())
            page = site.page(self.path)
            page.before()
            body = page.body(self.path) if callable(page.body) else page.body
            if page.etag and self.headers.get("If-None-Match") == page.etag:
                self._head(page, 304, None)
                return
            self._head(page, page.status, len(body) if page.length is None else page.length)
            try:
                self.wfile.write(body[: page.cut])
            except OSError:  # the client has hung up, as it does on bodies that are too large
                self.close_connection = True

        def do_HEAD(self) -> None:
            site.requests.append((self.path, dict(self.headers)))
            site.times.append(time.monotonic())
            page = site.page(self.path)
            self._head(page, page.status, len(page.body(self.path) if callable(page.body) else page.body))

        def _head(self, page: Page, status: int, length: int | None) -> None:
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Type", page.content_type)
                self.send_header("Content-Length", str(length))
            if page.etag:
                self.send_header("ETag", page.etag)
            for name, value in page.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty site on loopback; tests put pages on it. Retries do not wait."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(manners, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(manners, "START_DELAY", 0.0)
    monkeypatch.setattr(manners, "MIN_DELAY", 0.0)
    monkeypatch.setattr(manners, "MAX_DELAY", 0.002)
    site = Site({}, "", [])
    with serving(handler(site)) as site.url:
        yield site


@dataclass
class Fetches:
    """Opens one fetch after the other into one corpus, and closes the one before; what they say is in ``said``."""

    folder: Path
    source: str
    stack: ExitStack
    said: list[str] = field(default_factory=list)

    def __call__(self, **options: object) -> Web:
        self.stack.close()
        chosen = replace(FetchOptions(delay=0), **options)  # type: ignore[arg-type]
        return self.stack.enter_context(Web(self.folder, self.source, chosen, self.said.append))


@pytest.fixture
def fetches(site: Site, tmp_path: Path) -> Iterator[Fetches]:
    """Fetches of the site into the corpus ``corpora/x``."""
    with ExitStack() as stack:
        yield Fetches(tmp_path / "corpora" / "x", f"{site.url}/", stack)


def bodies(folder: Path) -> list[bytes]:
    """Return the bodies that the raw store of a corpus holds."""
    return sorted(path.read_bytes() for path in folder.glob("raw/objects/*/*"))
