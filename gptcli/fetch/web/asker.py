"""Asking servers: as often and as slowly as manners allow, within the limits of a fetch, on the mirror if there is one.

Knows no raw store and no robots.txt. Addresses are the real ones everywhere but on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO
from urllib.parse import urlsplit

from gptcli.documents import well_formed
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import LIMIT_REACHED
from gptcli.fetch.web.http import FILE_HINT, Answer, Client, FetchError, basic_auth, status_error
from gptcli.fetch.web.manners import MAX_WAIT, Borders, Pace, retry_after
from gptcli.fetch.web.progress import clock, downloading
from gptcli.fetch.web.response import Response
from gptcli.fetch.web.urls import join, login, mirrored, origin, site, unmirrored, without_fragment, without_login

PAGE_BYTES = 10 * 1024**2
MAX_PAGES = 10_000
MAX_BYTES = 100 * 1024**3
_SECRET_HEADERS = {"authorization", "cookie"}


@dataclass(frozen=True, slots=True)
class Wish:
    """How an address is asked for, as `Web.get` was told; ``is_robots`` marks what is no document but manners."""

    discovered: bool = True
    accept: str = ""
    max_bytes: int = PAGE_BYTES
    min_delay: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    is_robots: bool = False


class Asker:
    """Asks for addresses, one at a time; ``stands_for`` is a real origin and the base address of its mirror, if any.

    ``requests`` and ``bytes`` count what was asked for and came. Raises ``FetchError`` for a mirror that is no address.
    """

    def __init__(
        self, options: FetchOptions, on_progress: Callable[[str], None], stands_for: tuple[str, str | None] | None
    ) -> None:
        self.requests = 0
        self.bytes = 0
        self.pace = Pace(options.delay, on_progress)
        self._options = options
        self._on_progress = on_progress
        self._borders = Borders()
        self._logins: dict[str, str] = {}
        self._client: Client | None = None
        self._failed = 0
        self._stands_for: tuple[str, str] | None = None
        real, base = stands_for or ("", None)
        if base is not None:
            self.open(base)
            self._stands_for = (real, without_login(without_fragment(base)))

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def forget_cookies(self) -> None:
        """Drop the cookies of the last chain of redirects."""
        if self._client is not None:
            self._client.forget_cookies()

    def open(self, address: str) -> None:
        """Take an address of the user: its login is for its host, and its private network may be entered."""
        self._borders.open(self._asked(self.plain(address, learn=True)))

    def check(self, url: str) -> None:
        """Raise ``FetchError`` for an address that is known to be in a private network."""
        self._borders.check(self._asked(url))

    def real(self, url: str) -> str:
        """Return the real name of an address, without fragment and login."""
        url = without_login(without_fragment(url))
        return url if self._stands_for is None else unmirrored(url, *self._stands_for)

    def plain(self, url: str, *, learn: bool) -> str:
        """Return the real name of an address; a login that the user typed is remembered for its host.

        Raises ``FetchError`` for what is no address of the web.
        """
        known, url = login(url), without_login(without_fragment(url))
        if not site(url) or url != well_formed(url):
            message = f"{well_formed(url)} is not an address that can be fetched."
            raise FetchError(message, "It has to begin with https:// and a host.", url=url, reason="broken")
        if known is not None and learn:
            self._logins[origin(url)] = basic_auth(*known)
            # The way up to https is no other host; the way down would send it in the clear.
            self._logins[origin(f"https://{site(url)}")] = basic_auth(*known)
        return self.real(url)

    def next_hop(self, here: str, location: str) -> str:
        """Return where a redirect leads; raises ``FetchError`` where that is not the web."""
        asked = self._asked(here)
        found = join(asked, location)
        if found is None:
            shown = without_login(location)[:200]
            message = f"{here} leads to {shown!r}, which is not an address that can be fetched."
            raise FetchError(message, FILE_HINT, url=here, reason="broken")
        # A mirror may also send the paths of the host that it is a copy of.
        return real if (real := self.real(found)) != found else join(here, location) or found

    def headers(self, here: str, url: str, wish: Wish, before: Response | None) -> dict[str, str]:
        """Return the headers of a request: secrets for their own host only, and what is known of the last answer."""
        at_home = origin(here) == origin(url)
        headers = {
            name: value for name, value in wish.headers.items() if at_home or name.lower() not in _SECRET_HEADERS
        }
        if wish.accept:
            headers["Accept"] = wish.accept
        if (asked := origin(self._asked(here))) in self._logins:
            headers["Authorization"] = self._logins[asked]
        if before is not None and here == before.final_url:
            known = {"If-None-Match": "etag", "If-Modified-Since": "last-modified"}
            kept = {name: before.headers.get(header, "") for name, header in known.items()}
            headers |= {name: value for name, value in kept.items() if value and value.isascii()}
        return headers

    def ask(
        self, url: str, file: IO[bytes], headers: Mapping[str, str], wish: Wish, *, pages: int, spent: int
    ) -> Answer:
        """Send a request until there is an answer, and write a document's body to ``file``.

        ``pages`` and ``spent`` are the addresses and the bytes that the whole fetch has so far. Raises ``FetchError``
        when manners forbid another try, and where a limit is reached.
        """
        attempt = 0
        while True:
            attempt += 1
            cap = min(wish.max_bytes, self._room(url, pages, spent))
            self.pace.wait(url, wish.min_delay)
            file.seek(0)
            file.truncate()
            status = asked = None
            try:
                answer = self._send(url, file, headers, cap)
                error = status_error(url, answer.status)
                if answer.status < 400 or error.reason != "transient":
                    self.pace.answered(url, answer.seconds)
                    return answer
                status, asked = answer.status, retry_after(answer.headers.get("retry-after", ""))
            except FetchError as failed:
                if failed.reason == "too-large" and cap < wish.max_bytes:
                    raise self._over(url, f"{self._max_bytes:,} bytes", "--max-bytes") from failed
                if failed.reason != "transient":
                    raise
                error = failed
            if not self.pace.failed(url, error, attempt, status=status, asked=asked):
                self._failed += 1
                raise _later(error, asked)
            self._on_progress(f"{error.message} Trying again.")

    def _send(self, url: str, file: IO[bytes], headers: Mapping[str, str], cap: int) -> Answer:
        if self._client is None:
            self._client = Client(self._options.contact)
        asked = self._asked(url)
        self.requests += 1
        try:
            answer = self._client.ask(
                asked,
                file,
                headers=headers,
                max_bytes=cap,
                check_peer=lambda address: self._borders.check_peer(asked, address),
                on_bytes=lambda done, total: self._on_progress(downloading(urlsplit(url).hostname, done, total)),
            )
        except FetchError as error:
            if asked == url:
                raise
            message = error.message.replace(asked, url)
            raise type(error)(message, error.hint, url=url, reason=error.reason) from error
        self.bytes += answer.bytes
        return answer

    def _asked(self, url: str) -> str:
        """Return where an address is asked for."""
        return url if self._stands_for is None else mirrored(url, *self._stands_for)

    @property
    def _max_bytes(self) -> int:
        return MAX_BYTES if self._options.max_bytes is None else self._options.max_bytes

    def _room(self, url: str, pages: int, spent: int) -> int:
        """Return how many bytes the whole fetch may still bring; raises ``FetchError`` where a limit is reached.

        Every address that was kept counts as a page, robots.txt and what is gone too, and so does one that failed.
        """
        most = MAX_PAGES if self._options.max_pages is None else self._options.max_pages
        if pages + self._failed >= most:
            raise self._over(url, f"{most:,} page{'' if most == 1 else 's'}", "--max-pages")
        room = self._max_bytes - spent
        if room <= 0:
            raise self._over(url, f"{self._max_bytes:,} bytes", "--max-bytes")
        return room

    def _over(self, url: str, limit: str, option: str) -> FetchError:
        message = f"{LIMIT_REACHED} {limit}, so {url} was not fetched."
        return FetchError(message, f"{option} sets another; what came is kept.", url=url, reason="limit")


def _later(error: FetchError, asked: float | None) -> FetchError:
    """Add when to come back, where a host asked for more time than one waits."""
    if asked is None or asked <= MAX_WAIT:
        return error
    message = f"{error.message} It asks to be left alone for {clock(asked)}."
    return FetchError(message, error.hint, url=error.url, reason=error.reason)
