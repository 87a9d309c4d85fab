"""The web as a source sees it: ``get`` an address, politely, and never twice in one fetch, however often it is killed.

A source is a straight-line program over ``get``; under it lies the raw store, so running the program again is how a
fetch goes on. Knows no kind of source.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import urlsplit

from gptcli.documents import well_formed
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Missing, Source
from gptcli.fetch.web.http import FILE_HINT, Answer, Client, FetchError, Reason, basic_auth, status_error
from gptcli.fetch.web.manners import MAX_ROBOTS_BYTES, MAX_WAIT, Borders, Pace, Rules, retry_after
from gptcli.fetch.web.progress import Progress, clock, megabytes
from gptcli.fetch.web.response import HEADERS, Response
from gptcli.fetch.web.store import Store, now
from gptcli.fetch.web.urls import join, login, site, without_fragment, without_login

__all__ = ["FILE_BYTES", "PAGE_BYTES", "FetchError", "Reason", "Response", "Web", "lost"]

PAGE_BYTES = 32 * 1024**2
FILE_BYTES = 2 * 1024**3
MAX_PAGES = 10_000
MAX_BYTES = 100 * 1024**3
MAX_REDIRECTS = 10
_REDIRECTS = {301, 302, 303, 307, 308}
_KEPT = {200, 203}
_SECRET_HEADERS = {"authorization", "cookie"}
_DROPPED: dict[Reason, str] = {
    "gone": "pages that are gone",
    "robots": "pages that robots.txt disallows",
    "private": "links into a private network",
}


@dataclass(frozen=True, slots=True)
class _Wish:
    """How an address is asked for, as `Web.get` was told; ``is_robots`` marks what is no document but manners."""

    discovered: bool = True
    accept: str = ""
    max_bytes: int = PAGE_BYTES
    min_delay: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    is_robots: bool = False


class Web:
    """One fetch of ``source`` into the raw store of the corpus ``folder``; a context manager.

    ``offline`` says that nobody is asked. ``requests`` and ``bytes`` count what was asked for and came since it was
    opened, ``resumed`` says when the fetch was begun that this one goes on with. Opening it raises as ``Store`` does.
    """

    def __init__(
        self, folder: Path, source: str, options: FetchOptions, on_progress: Callable[[str], None] = lambda _: None
    ) -> None:
        self.offline = options.offline
        self.requests = 0
        self.bytes = 0
        self._options = options
        self._on_progress = on_progress
        self._progress = Progress()
        self._pace = Pace(options.delay, on_progress)
        self._rules: dict[str, Rules] = {}
        self._borders = Borders()
        self._seeded = bool(site(source))
        self._logins: dict[str, str] = {}
        self._client: Client | None = None
        self._failed = 0
        for address in filter(site, (source, options.mirror or "")):
            self._borders.open(self._plain(address, learn=True))
        self._store = Store(folder, well_formed(without_login(source)), offline=options.offline)
        self.resumed = self._store.resumed

    def __enter__(self) -> Web:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
        self._store.close()

    def get(
        self,
        url: str,
        *,
        discovered: bool = False,
        accept: str = "",
        max_bytes: int = FILE_BYTES,
        min_delay: float = 0.0,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Return what is at ``url``: from the raw store where this fetch has it, else from its server.

        ``discovered`` marks a link that was found on the way, which robots.txt governs. ``max_bytes`` counts after
        decompression. ``min_delay`` is a floor, in seconds, for the pause before a request where the user named none.
        A login in ``url`` is sent to its host, now and later, and kept nowhere; ``extra_headers`` neither, and those
        that are secrets do not follow a redirect to another host. Raises ``FetchError``.
        """
        url = self._plain(url, learn=not discovered)
        if not self._seeded and not discovered:  # the source was no address, but a name that led to one
            self._borders.open(url)
            self._seeded = True
        began = time.monotonic()
        found = self._store.find(url)
        asked = found is None
        try:
            if found is None:
                found = self._fetch(url, _Wish(discovered, accept, max_bytes, min_delay, extra_headers or {}))
        finally:
            self._progress.step(time.monotonic() - began, asked=asked)
            if asked and not self.offline:
                self._on_progress(self._progress.line(self.bytes))
        if found.status != 200:
            raise status_error(url, found.status)
        return found

    def stored(self, url: str) -> bool:
        """Say whether ``get`` would answer without asking anybody."""
        return self._store.find(without_login(without_fragment(url))) is not None

    def permit(self, url: str) -> None:
        """Raise the ``FetchError`` that asking for a discovered link would end with by robots.txt or its network."""
        self._permit(self._plain(url, learn=False), _Wish())

    def expect(self, total: int, what: str) -> None:
        """Say what the next calls of ``get`` are for: "posts", so many. Progress then tells the time left."""
        self._progress = Progress(total, what)

    def seconds(self, requests: int, url: str, min_delay: float = 0.0) -> float:
        """Return about how long so many requests to the host of ``url`` take at the polite rate."""
        return self._pace.seconds(requests, url, min_delay)

    def sitemaps(self, url: str) -> list[str]:
        """Return the addresses of sitemaps that the robots.txt of the host of ``url`` names."""
        url = without_login(url)
        found = (join(url, link) for link in self._rules_for(url, 0.0).sitemaps)
        return [link for link in found if link is not None]

    def disallows(self, url: str) -> bool:
        """Say whether the robots.txt of a host keeps us from an address, whoever typed it; asks for it once."""
        return not self.offline and not self._rules_for(without_login(url), 0.0).allow(without_login(url))

    def forget(self, url: str) -> None:
        """Forget an answer that was no use, so that the same fetch asks again when it is gone on with."""
        self._store.forget(without_login(without_fragment(url)))

    def finish(self) -> None:
        """Note that the fetch is complete: the next one asks only what has changed since."""
        self._store.finish()

    def break_off(self) -> None:
        """Note that something is missing: the next fetch goes on, and asks again for what was not there."""
        self._store.forget_gone()

    def _plain(self, url: str, *, learn: bool) -> str:
        """Take fragment and login out of an address; a login that the user typed is remembered for its host.

        Raises ``FetchError`` for what is no address of the web.
        """
        known, url = login(url), without_login(without_fragment(url))
        if not site(url) or url != well_formed(url):
            message = f"{well_formed(url)} is not an address that can be fetched."
            raise FetchError(message, "It has to begin with https:// and a host.", url=url, reason="broken")
        if known is not None and learn:
            self._logins[_origin(url)] = basic_auth(*known)
            # The way up to https is no other host; the way down would send it in the clear.
            self._logins[_origin(f"https://{site(url)}")] = basic_auth(*known)
        return url

    def _fetch(self, url: str, wish: _Wish) -> Response:
        """Ask for an address and follow where it leads; what is returned is in the store."""
        if self.offline:
            message = f"{url} was not fetched before, and --offline asks nobody."
            raise FetchError(message, "Without --offline it is fetched.", url=url, reason="offline")
        before = self._store.before(url)
        if self._client is not None:
            self._client.forget_cookies()
        here = url
        for _ in range(MAX_REDIRECTS + 1):
            if here != url and (known := self._store.find(here)):
                return self._store.keep(replace(known, url=url), None)
            self._permit(here, wish)
            with self._store.incoming() as incoming:
                answer = self._ask(here, incoming.file, self._headers(here, url, wish, before), wish)
                if answer.status in _KEPT:
                    return self._store.keep(_response(url, here, answer, incoming.path), incoming)
            if answer.status == 304 and before is not None and here == before.final_url:
                return self._store.keep(before, None)
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                return self._without_document(url, here, answer.status, wish)
            here = _next_hop(here, answer.headers["location"])
        message = f"{url} leads in circles: more than {MAX_REDIRECTS} redirects."
        raise FetchError(message, FILE_HINT, url=url, reason="broken")

    def _without_document(self, url: str, here: str, status: int, wish: _Wish) -> Response:
        """Keep the answer that there is nothing, so that nobody asks again; raise for any other."""
        error = status_error(url, status)
        if error.reason == "gone" or (wish.is_robots and 400 <= status < 500):
            nothing = Answer(status, {}, 0.0, 0, "")
            return self._store.keep(_response(url, here, nothing, Path()), None)
        raise error

    def _permit(self, url: str, wish: _Wish) -> None:
        """Raise ``FetchError`` for an address that is private, or that robots.txt disallows to whom it governs."""
        self._borders.check(url)
        asks = {"polite": wish.discovered, "strict": True, "ignore": False}[self._options.robots]
        if asks and not wish.is_robots and not self._rules_for(url, wish.min_delay).allow(url):
            message = f"{url} is disallowed by the robots.txt of {site(url)}."
            raise FetchError(message, "--robots ignore asks for it all the same.", url=url, reason="robots")

    def _rules_for(self, url: str, min_delay: float) -> Rules:
        """Return what the robots.txt of a host says; where none can be had nothing is allowed, as RFC 9309 wants."""
        origin = _origin(url)
        if origin not in self._rules:
            address = f"{origin}/robots.txt"
            try:
                found = self._store.find(address) or self._fetch(address, _Wish(min_delay=min_delay, is_robots=True))
                rules = Rules(_first_bytes(found.path, MAX_ROBOTS_BYTES) if found.status == 200 else b"")
            except FetchError as error:
                if error.reason in {"offline", "limit"}:
                    return Rules()
                rules = Rules(b"" if error.reason == "broken" else b"User-agent: *\nDisallow: /")
            self._rules[origin] = rules
            self._pace.crawl_delay(url, rules.delay)
        return self._rules[origin]

    def _headers(self, here: str, url: str, wish: _Wish, before: Response | None) -> dict[str, str]:
        """Return the headers of a request: secrets for their own host only, and what is known of the last answer."""
        at_home = _origin(here) == _origin(url)
        headers = {
            name: value for name, value in wish.headers.items() if at_home or name.lower() not in _SECRET_HEADERS
        }
        if wish.accept:
            headers["Accept"] = wish.accept
        if _origin(here) in self._logins:
            headers["Authorization"] = self._logins[_origin(here)]
        if before is not None and here == before.final_url:
            known = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
            kept = {name: before.headers.get(header, "") for name, header in known.items()}
            headers |= {name: value for name, value in kept.items() if value and value.isascii()}
        return headers

    def _ask(self, url: str, file: IO[bytes], headers: Mapping[str, str], wish: _Wish) -> Answer:
        """Send a request as often as manners allow, until there is an answer; raises ``FetchError`` after that."""
        attempt = 0
        while True:
            attempt += 1
            cap = min(wish.max_bytes, self._room(url))
            self._pace.wait(url, wish.min_delay)
            file.seek(0)
            file.truncate()
            status = asked = None
            try:
                answer = self._send(url, file, headers, cap)
                error = status_error(url, answer.status)
                if answer.status < 400 or error.reason != "transient":
                    self._pace.answered(url, answer.seconds)
                    return answer
                status, asked = answer.status, retry_after(answer.headers.get("retry-after", ""))
            except FetchError as failed:
                if failed.reason == "too-large" and cap < wish.max_bytes:
                    raise self._over(url, f"{self._max_bytes:,} bytes", "--max-bytes") from failed
                if failed.reason != "transient":
                    raise
                error = failed
            if not self._pace.failed(url, error, attempt, status=status, asked=asked):
                self._failed += 1
                raise _later(error, asked)
            self._on_progress(f"{error.message} Trying again.")

    def _send(self, url: str, file: IO[bytes], headers: Mapping[str, str], cap: int) -> Answer:
        if self._client is None:
            self._client = Client(self._options.contact)
        self.requests += 1
        answer = self._client.ask(
            url,
            file,
            headers=headers,
            max_bytes=cap,
            check_peer=lambda address: self._borders.check_peer(url, address),
            on_bytes=lambda done, total: self._on_progress(_downloading(url, done, total)),
        )
        self.bytes += answer.bytes
        return answer

    @property
    def _max_bytes(self) -> int:
        return MAX_BYTES if self._options.max_bytes is None else self._options.max_bytes

    def _room(self, url: str) -> int:
        """Return how many bytes the whole fetch may still bring; raises ``FetchError`` where a limit is reached."""
        pages = MAX_PAGES if self._options.max_pages is None else self._options.max_pages
        # Counted in the store, so that a fetch that was killed ends where an uninterrupted one does.
        if self._store.pages + self._failed >= pages:
            raise self._over(url, f"{pages:,} pages", "--max-pages")
        room = self._max_bytes - self._store.bytes
        if room <= 0:
            raise self._over(url, f"{self._max_bytes:,} bytes", "--max-bytes")
        return room

    def _over(self, url: str, limit: str, option: str) -> FetchError:
        message = f"The fetch has reached its limit of {limit}, so {url} was not fetched."
        return FetchError(message, f"{option} sets another; what came is kept.", url=url, reason="limit")


def lost(source: Source, error: FetchError) -> None:
    """Take note that a document of the source could not be had: as dropped where that is for good, else as missing."""
    if (what := _DROPPED.get(error.reason)) is not None:
        source.dropped[what] += 1
    else:
        source.missing.append(Missing(error.url, error.message))


def _response(url: str, here: str, answer: Answer, path: Path) -> Response:
    """Return what is kept of an answer."""
    return Response(
        url=url,
        final_url=here,
        content_type=answer.content_type,
        charset=answer.charset,
        headers={name: answer.headers[name] for name in HEADERS if name in answer.headers},
        sha256=answer.sha256,
        bytes=answer.bytes,
        path=path,
        fetched_at=now(),
        status=200 if answer.status in _KEPT else answer.status,
    )


def _next_hop(here: str, location: str) -> str:
    found = join(here, location)
    if found is None:
        shown = without_login(location)[:200]
        message = f"{here} leads to {shown!r}, which is not an address that can be fetched."
        raise FetchError(message, FILE_HINT, url=here, reason="broken")
    return found


def _later(error: FetchError, asked: float | None) -> FetchError:
    """Add when to come back, where a host asked for more time than one waits."""
    if asked is None or asked <= MAX_WAIT:
        return error
    message = f"{error.message} It asks to be left alone for {clock(asked)}."
    return FetchError(message, error.hint, url=error.url, reason=error.reason)


def _downloading(url: str, done: int, total: int | None) -> str:
    size = f"{megabytes(done)} of {megabytes(total)}" if total else megabytes(done)
    return f"downloading {urlsplit(url).hostname}: {size}"


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _origin(url: str) -> str:
    return f"{urlsplit(url).scheme.lower()}://{site(url)}"
