"""Manners: how long to wait before a host is asked again, what its robots.txt allows, which networks are private.

Sends nothing itself; the only sleep of a fetch is here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from gptcli.fetch.web.http import AGAIN_HINT, FetchError, UnreachableError
from gptcli.fetch.web.urls import site

AGENT = "gptcli"
START_DELAY = 1.0
MIN_DELAY = 0.25
MAX_DELAY = 60.0
# What a host may ask for by Retry-After or Crawl-delay; beyond, another day is better.
MAX_WAIT = 300.0
ATTEMPTS = 5
BACKOFF_SECONDS = 1.0
# So many addresses of a host in a row in vain, and it is not asked again in this fetch.
MAX_FAILURES = 3
# Shorter pauses are not worth a word.
SILENT_SECONDS = 2.0
# RFC 9309 wants at least 500 KiB of a robots.txt to be read.
MAX_ROBOTS_BYTES = 512 * 1024


@dataclass(slots=True)
class _Host:
    delay: float
    floor: float = 0.0
    last: float = float("-inf")
    not_before: float = float("-inf")
    why: str = ""
    answered: bool = False
    failures: int = 0


class Pace:
    """The pause before each request, host by host; ``delay`` fixes it, None lets it follow how fast a host answers.

    Times are in seconds. The first request to a host waits for nothing.
    """

    def __init__(self, delay: float | None, on_progress: Callable[[str], None]) -> None:
        self._fixed = delay
        self._on_progress = on_progress
        self._hosts: dict[str, _Host] = {}

    def wait(self, url: str, min_delay: float = 0.0) -> None:
        """Sleep until the host of ``url`` may be asked; ``min_delay`` is a floor where the user named no delay.

        Raises ``FetchError`` for a host that was asked in vain too often.
        """
        host = self._host(url)
        if host.failures >= MAX_FAILURES:
            message = f"{site(url)} failed {MAX_FAILURES} times in a row, so {url} was not asked for."
            raise FetchError(message, AGAIN_HINT, url=url, reason="transient")
        now = time.monotonic()
        seconds = max(host.not_before, host.last + self._pause(host, min_delay)) - now
        if seconds > SILENT_SECONDS:
            why = host.why if host.not_before > now else f"between two requests to {site(url)}"
            self._on_progress(f"waiting {seconds:.0f} s, {why}")
        if seconds > 0:
            time.sleep(seconds)

    def answered(self, url: str, seconds: float) -> None:
        """Take note of an answer and how long it took: the delay moves gently towards twice that."""
        host = self._host(url)
        host.answered, host.failures, host.last = True, 0, time.monotonic()
        aim = self._fixed if self._fixed is not None else min(MAX_DELAY, max(MIN_DELAY, 2 * seconds))
        host.delay += (aim - host.delay) / 4

    def failed(
        self, url: str, error: FetchError, attempt: int, *, status: int | None = None, asked: float | None = None
    ) -> bool:
        """Take note of a failure, and say whether to ask again; ``asked`` is how long the host wants to be left alone.

        The statuses 429 and 503 slow the host down, and not this request only.
        """
        host = self._host(url)
        host.last = now = time.monotonic()
        busy = status in {429, 503}
        if busy:
            host.delay = max(host.delay, min(MAX_DELAY, max(2 * host.delay, BACKOFF_SECONDS)))
        pause = BACKOFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        host.why = f"before {site(url)} is asked again"
        if asked is not None and asked > pause:
            pause, host.why = asked, f"as {site(url)} asked"
        host.not_before = now + min(pause, MAX_WAIT)
        # A name that was mistyped fails at once; a host that has answered before will do so again.
        known = host.answered or not isinstance(error, UnreachableError)
        if attempt < ATTEMPTS and known and pause <= MAX_WAIT:
            return True
        host.failures += busy or status is None
        return False

    def crawl_delay(self, url: str, seconds: float) -> None:
        """Never ask the host of ``url`` faster than its robots.txt wants, up to ``MAX_WAIT``."""
        self._host(url).floor = min(seconds, MAX_WAIT)

    def seconds(self, requests: int, url: str, min_delay: float = 0.0) -> float:
        """Return about how long so many requests to the host of ``url`` take."""
        return requests * self._pause(self._host(url), min_delay)

    def _pause(self, host: _Host, min_delay: float) -> float:
        return max(host.delay, host.floor, min_delay if self._fixed is None else 0.0)

    def _host(self, url: str) -> _Host:
        return self._hosts.setdefault(site(url), _Host(START_DELAY if self._fixed is None else self._fixed))


def retry_after(value: str) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, as a number or as a date; None where it is neither."""
    if value.strip().isascii() and value.strip().isdecimal():
        return float(value.strip()[:12])
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        date = parsedate_to_datetime(value)
        aware = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        return max(0.0, (aware - datetime.now(timezone.utc)).total_seconds())
    return None


class Rules:
    """What the bytes of a robots.txt say to us; an empty one allows everything."""

    def __init__(self, data: bytes = b"") -> None:
        from protego import Protego

        self._parsed: Any = Protego.parse(data[:MAX_ROBOTS_BYTES].decode("utf-8-sig", "replace"))

    def allow(self, url: str) -> bool:
        """Say whether the address may be asked for."""
        return bool(self._parsed.can_fetch(url, AGENT))

    @property
    def delay(self) -> float:
        """The seconds between two requests that it asks for, 0 where it says nothing."""
        return max(0.0, float(self._parsed.crawl_delay(AGENT) or 0.0))

    @property
    def sitemaps(self) -> list[str]:
        """The addresses of sitemaps that it names."""
        return list(self._parsed.sitemaps)


class Borders:
    """Which machines may be asked: all the world, and the private networks that the user named an address in."""

    def __init__(self) -> None:
        self._named: set[str] = set()
        self._networks: dict[str, frozenset[str]] = {}

    def open(self, url: str) -> None:
        """Let the private networks in that an address of the user leads to."""
        self._named.add(urlsplit(url).hostname or "")

    def check(self, url: str) -> None:
        """Raise ``FetchError`` for an address whose host is known to be in another private network."""
        for network in self._networks_of(urlsplit(url).hostname or ""):
            self._refuse(url, network)

    def check_peer(self, url: str, address: str) -> None:
        """Raise ``FetchError`` where a connection for ``url`` has led into a private network, whatever its name said.

        A name may lead to another machine with each question, so what counts is the machine that is connected.
        """
        self._refuse(url, private_network(address))

    def _refuse(self, url: str, network: str) -> None:
        if not network or any(network in self._networks_of(host) for host in self._named):
            return
        message = f"{url} leads into a private network ({network}), so it was not fetched."
        hint = "Only what you name yourself is fetched from there: gptcli fetch ADDRESS"
        raise FetchError(message, hint, url=url, reason="private")

    def _networks_of(self, host: str) -> frozenset[str]:
        if host not in self._networks:
            self._networks[host] = frozenset(_networks(host))
        return self._networks[host]


def _networks(host: str) -> Iterator[str]:
    """Yield the private networks that a host name or address leads into now; none for a name nobody knows."""
    with contextlib.suppress(OSError, UnicodeError):
        for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            if network := private_network(str(found[4][0])):
                yield network


def private_network(address: str) -> str:
    """Return the private network that an IP address belongs to, or nothing where all the world can see it."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    inner = _embedded(ip)
    if inner is not None:
        ip = inner
    kinds = {"loopback": ip.is_loopback, "unspecified": ip.is_unspecified, "link-local": ip.is_link_local}
    kind = next((name for name, found in kinds.items() if found), "")
    return kind or ("" if ip.is_global and not ip.is_multicast else "private")


def _embedded(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for: mapped, 6to4 or NAT64."""
    if isinstance(ip, ipaddress.IPv4Address):
        return None
    if ip in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour
