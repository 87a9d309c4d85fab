"""The web as a source sees it: ``get`` an address, politely, and never twice in one fetch, however often it is killed.

A source is a straight-line program over ``get``; under it lies the raw store, so running the program again is how a
fetch goes on. Knows no kind of source.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from gptcli.documents import well_formed
from gptcli.errors import SourceError
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Missing, Source
from gptcli.fetch.web.asker import PAGE_BYTES, Asker, Wish
from gptcli.fetch.web.http import FILE_HINT, Answer, FetchError, Reason, status_error, too_large
from gptcli.fetch.web.manners import MAX_ROBOTS_BYTES, Rules
from gptcli.fetch.web.progress import Progress
from gptcli.fetch.web.response import HEADERS, Response
from gptcli.fetch.web.store import Store, now
from gptcli.fetch.web.urls import join, origin, site, without_login

__all__ = ["FILE_BYTES", "PAGE_BYTES", "FetchError", "Reason", "Response", "Web", "lost", "refuse_large"]

FILE_BYTES = 2 * 1024**3
MAX_REDIRECTS = 10
_REDIRECTS = {301, 302, 303, 307, 308}
_KEPT = {200, 203}
# Failures that another try with the same options will not mend, and those that it may.
_FOR_GOOD: set[Reason] = {"refused", "too-large", "broken"}
_FOR_NOW: set[Reason] = {"transient", "limit"}
_DROPPED: dict[Reason, str] = {
    "gone": "pages that are gone",
    "robots": "pages that robots.txt disallows",
    "private": "links into a private network",
}


class Web:
    """One fetch of ``source`` into the raw store of the corpus ``folder``; a context manager.

    ``command`` is what the user can type to go on with it. ``stands_for`` is an origin and the base address of a
    mirror of it, or None for no mirror: what has that origin is asked for there, and keeps its own name in every
    answer, message and file. ``offline`` says that nobody is asked. ``resumed`` says when the fetch was begun that
    this one goes on with. ``stale`` is what could not be had, where the answer of an older fetch stands for it.
    Opening it raises as ``Store`` does.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        options: FetchOptions,
        on_progress: Callable[[str], None] = lambda _: None,
        *,
        stands_for: tuple[str, str | None] | None = None,
        command: str = "",
    ) -> None:
        self.offline = options.offline
        self.stale: list[Missing] = []
        self._robots = options.robots
        self._on_progress = on_progress
        self._progress = Progress()
        self._asker = Asker(options, on_progress, stands_for)
        self._rules: dict[str, Rules | FetchError] = {}
        self._seeded = bool(site(source))
        self._failures: dict[str, Reason] = {}
        self._stand_ins: dict[str, Response] = {}
        for address in filter(site, (source, options.mirror or "")):
            self._asker.open(address)
        self._store = Store(folder, well_formed(without_login(source)), command=command, offline=options.offline)
        self.resumed = self._store.resumed

    def __enter__(self) -> Web:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asker.close()
        self._store.close()

    @property
    def requests(self) -> int:
        """How many requests were sent since it was opened."""
        return self._asker.requests

    @property
    def bytes(self) -> int:
        """How many bytes of bodies came since it was opened."""
        return self._asker.bytes

    def get(
        self,
        url: str,
        *,
        discovered: bool = False,
        accept: str = "",
        max_bytes: int = FILE_BYTES,
        min_delay: float = 0.0,
        extra_headers: Mapping[str, str] | None = None,
        immutable: bool = False,
    ) -> Response:
        """Return what is at ``url``: from the raw store where this fetch has it, else from its server.

        ``discovered`` marks a link that was found on the way, which robots.txt governs. ``max_bytes`` counts after
        decompression. ``min_delay`` is a floor, in seconds, for the pause before a request where the user named none.
        A login in ``url`` is sent to its host, now and later, and kept nowhere; ``extra_headers`` neither, and those
        that are secrets do not follow a redirect to another host. What never changes is ``immutable``: then an older
        fetch's answer is as good. It also stands in, with a line in ``stale``, for what cannot be had now. Raises
        ``FetchError``.
        """
        with self.noting(url):
            url = self._asker.plain(url, learn=not discovered)
            if not self._seeded and not discovered:  # the source was no address, but a name that led to one
                self._asker.open(url)
                self._seeded = True
            began = time.monotonic()
            found = self._stand_ins.get(url) or self._known(url, immutable=immutable)
            asked = found is None
            try:
                if found is None:
                    found = self._renewed(url, Wish(discovered, accept, max_bytes, min_delay, extra_headers or {}))
            finally:
                self._progress.step(time.monotonic() - began, asked=asked)
                if asked and not self.offline:
                    self._on_progress(self._progress.line(self.bytes))
            if found.status != 200:
                raise status_error(url, found.status)
            return found

    def real(self, url: str) -> str:
        """Return the address without fragment and login; one on the mirror as the one that it stands for."""
        return self._asker.real(url)

    def stored(self, url: str, *, immutable: bool = False) -> bool:
        """Say whether ``get`` would answer without asking anybody."""
        url = self.real(url)
        return (self._store.find(url) or (self._store.before(url) if immutable else None)) is not None

    def permit(self, url: str) -> None:
        """Raise the ``FetchError`` that asking for a discovered link would end with by robots.txt or its network."""
        with self.noting(url):
            self._permit(self._asker.plain(url, learn=False), Wish())

    def expect(self, total: int, what: str) -> None:
        """Say what the next calls of ``get`` are for: "posts", so many. Progress then tells the time left."""
        self._progress = Progress(total, what)

    def seconds(self, requests: int, url: str, min_delay: float = 0.0) -> float:
        """Return about how long so many requests to the host of ``url`` take at the polite rate."""
        return self._asker.pace.seconds(requests, url, min_delay)

    def sitemaps(self, url: str) -> list[str]:
        """Return the addresses of sitemaps that the robots.txt of the host of ``url`` names; none if it has none."""
        url = self.real(url)
        rules = self._rules_for(url, 0.0)
        found = (join(url, link) for link in rules.sitemaps) if isinstance(rules, Rules) else ()
        return [self.real(link) for link in found if link is not None]

    def disallows(self, url: str) -> bool:
        """Say whether the robots.txt of a host is known to keep us from an address, whoever typed it."""
        if self.offline:
            return False
        rules = self._rules_for(self.real(url), 0.0)
        return isinstance(rules, Rules) and not rules.allow(self.real(url))

    def forget(self, url: str) -> None:
        """Forget an answer that was no use, so that the same fetch asks again when it is gone on with."""
        self._store.forget(self.real(url))

    @contextlib.contextmanager
    def noting(self, url: str) -> Iterator[None]:
        """Remember for ``finish`` why an address could not be had, where the block says so by a ``FetchError``."""
        try:
            yield
        except FetchError as error:
            self._failures[self.real(url)] = error.reason
            raise

    def finish(self, complete: bool = True) -> None:
        """Note that the fetch has come to its end, with all there is or, if not ``complete``, with something missing.

        The next fetch asks for everything anew, whether it has changed, if nothing is missing or another try would not
        help; else it goes on with this one. What older fetches had is forgotten only when nothing is missing.
        """
        reasons = set(self._failures.values())
        if complete and not self.stale:
            self._store.finish()
        elif reasons & _FOR_NOW or not reasons & _FOR_GOOD:
            self._store.break_off()
        else:
            self._store.finish(keep_older=True)

    def give_up(self, error: SourceError) -> None:
        """Note that the fetch ended with an error: what it was about is asked for again by the next fetch.

        Where another try may help, the rest is gone on with; what older fetches had is kept.
        """
        if isinstance(error, FetchError) and error.reason in {*_FOR_NOW, "offline"}:
            self._store.break_off()
        elif isinstance(error, FetchError) or self._store.has_older():
            self._store.discard()
        else:
            self._store.finish()

    def _known(self, url: str, *, immutable: bool) -> Response | None:
        """Return what is to be had without asking anybody."""
        found = self._store.find(url)
        if found is None and immutable and not self.offline and (before := self._store.before(url)):
            return self._store.keep(before, None)
        return found

    def _renewed(self, url: str, wish: Wish) -> Response:
        """Return what a server has, or else, where it fails, what it had before; raises ``FetchError``."""
        try:
            found = self._fetch(url, wish)
        except FetchError as error:
            before = self._store.before(url) if error.reason in {"transient", *_FOR_GOOD} else None
            if before is None:
                raise
            self._failures[url] = error.reason
            self._stand_ins[url] = before
            day = before.fetched_at[:10]
            self.stale.append(Missing(url, f"{error.message} What was fetched on {day} stands for it.", old=True))
            return before
        self._failures.pop(url, None)
        return found

    def _fetch(self, url: str, wish: Wish) -> Response:
        """Ask for an address and follow where it leads; what is returned is in the store."""
        if self.offline:
            message = f"{url} was not fetched before, and --offline asks nobody."
            raise FetchError(message, "Without --offline it is fetched.", url=url, reason="offline")
        before = self._store.before(url)
        self._asker.forget_cookies()
        here = url
        for _ in range(MAX_REDIRECTS + 1):
            if here != url and (known := self._store.find(here)):
                return self._store.keep(replace(known, url=url), None)
            self._permit(here, wish)
            with self._store.incoming() as incoming:
                headers = self._asker.headers(here, url, wish, before)
                counts = {"pages": self._store.pages, "spent": self._store.bytes}
                answer = self._asker.ask(here, incoming.file, headers, wish, **counts)
                if answer.status in _KEPT:
                    return self._store.keep(_response(url, here, answer, incoming.path), incoming)
            if answer.status == 304 and before is not None and here == before.final_url:
                return self._store.keep(before, None)
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                return self._without_document(url, here, answer.status, wish)
            here = self._asker.next_hop(here, answer.headers["location"])
        message = f"{url} leads in circles: more than {MAX_REDIRECTS} redirects."
        raise FetchError(message, FILE_HINT, url=url, reason="broken")

    def _without_document(self, url: str, here: str, status: int, wish: Wish) -> Response:
        """Keep the answer that there is nothing, so that nobody asks again; raise for any other."""
        error = status_error(url, status)
        if error.reason == "gone" or (wish.is_robots and 400 <= status < 500):
            nothing = Answer(status, {}, 0.0, 0, "")
            return self._store.keep(_response(url, here, nothing, Path()), None)
        raise error

    def _permit(self, url: str, wish: Wish) -> None:
        """Raise ``FetchError`` for an address that is private, or that robots.txt disallows to whom it governs."""
        self._asker.check(url)
        asks = {"polite": wish.discovered, "strict": True, "ignore": False}[self._robots]
        if wish.is_robots or not asks:
            return
        rules = self._rules_for(url, wish.min_delay)
        if isinstance(rules, FetchError):
            why = rules.message.rstrip(".")
            message = f"The robots.txt of {site(url)} could not be had ({why}), so {url} was not fetched."
            hint = "Run the same command again later; --robots ignore asks for it all the same."
            raise FetchError(message, hint, url=url, reason="transient")
        if not rules.allow(url):
            message = f"{url} is disallowed by the robots.txt of {site(url)}."
            raise FetchError(message, "--robots ignore asks for it all the same.", url=url, reason="robots")

    def _rules_for(self, url: str, min_delay: float) -> Rules | FetchError:
        """Return what the robots.txt of a host says, or why it could not be had: it is asked for once."""
        host = origin(url)
        if host not in self._rules:
            address = f"{host}/robots.txt"
            try:
                found = self._store.find(address) or self._fetch(address, Wish(min_delay=min_delay, is_robots=True))
            except FetchError as error:
                if error.reason in {"offline", "limit"}:
                    return Rules()
                rules = Rules() if error.reason == "broken" else self._rules_of_before(address, error)
            else:
                rules = _rules(found)
            self._rules[host] = rules
            if isinstance(rules, Rules):
                self._asker.pace.crawl_delay(url, rules.delay)
        return self._rules[host]

    def _rules_of_before(self, address: str, error: FetchError) -> Rules | FetchError:
        """Return what an older robots.txt said, as RFC 9309 lets it stand while none answers; else the error."""
        before = self._store.before(address) if error.reason == "transient" else None
        return error if before is None else _rules(before)


def refuse_large(web: Web, response: Response, max_bytes: int) -> None:
    """Forget an answer of more than ``max_bytes`` and raise the ``FetchError`` that ``get`` would have raised."""
    if response.bytes > max_bytes:
        with web.noting(response.url):
            web.forget(response.url)
            raise too_large(response.url, max_bytes)


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


def _rules(robots: Response) -> Rules:
    """Return what a robots.txt says; one that is not there says nothing."""
    if robots.status != 200:
        return Rules()
    with robots.path.open("rb") as file:
        return Rules(file.read(MAX_ROBOTS_BYTES))
