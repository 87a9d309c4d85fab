"""RSS and Atom feeds: their entries, and where older ones are. Fetches nothing."""

from __future__ import annotations

import calendar
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from gptcli.fetch.facts import in_utc, licence_name
from gptcli.fetch.html import html_to_text, parse_html, tree_text
from gptcli.fetch.web.urls import join, same_site

# A document type may define entities, and feeds need none.
_DOCTYPE = re.compile(rb"<!DOCTYPE[^>\[]*([>\[])", re.IGNORECASE)
_DOCTYPE_END = re.compile(rb"\]\s*>")
_TRUNCATED = re.compile(
    r"(?:\[?(?:…|\.\.\.)\]?"
    r"|(?:^|[\n.!?…(\[>»])\s*(?:read|continue|view|keep|see)\s+(?:more|on|reading|the\s+(?:full|rest|whole|original))\b"
    r"[^\n.!?]{0,80}"
    r"|[(\[]\s*(?:read\s+)?more\b[^\n)\]]{0,3}[)\]])\s*[»→>\]]*\s*$",
    re.IGNORECASE,
)
# Class names of what plug-ins and feed services put into the bodies of posts.
_ADDED = re.compile(
    r"\b(?:sharedaddy|sd-block|jp-relatedposts|yarpp(?:-related)?|addtoany\w*|feedflare|heateor\w*|ssba\w*"
    r"|wp-block-jetpack-subscriptions|screen-reader-text|crp_related|post-views|mc4wp-form)\b"
)
_APPEARED = re.compile(r"^The post .{1,300} (?:first appeared|appeared first) on .{1,200}\.?\s*\Z", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A post as a feed or an interface tells of it: ``text`` is all of it, or None when the page has to be read.

    ``url`` is absolute, ``date`` ISO 8601; "" where nothing is said.
    """

    url: str
    title: str = ""
    author: str = ""
    date: str = ""
    licence: str = ""
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Feed:
    """One document of a feed; ``older`` are the addresses of documents with older entries."""

    title: str
    entries: tuple[Entry, ...]
    older: tuple[str, ...]
    language: str
    wordpress: bool


def parse_feed(data: bytes, url: str, charset: str = "") -> Feed | None:
    """Read a feed that came from ``url``, declared to be in ``charset``; None when it is none, however broken."""
    import feedparser

    content_type = f"application/xml; charset={charset}" if charset else "application/xml"
    try:
        # Given a str, feedparser would open a file or an address of that name.
        found = feedparser.parse(
            io.BytesIO(_without_doctype(data)),
            response_headers={"content-type": content_type, "content-location": url},
            resolve_relative_uris=False,
            sanitize_html=False,
        )
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError, AssertionError):
        return None
    if not found.get("version"):
        return None
    head = found.feed
    licence = _licence(head)
    return Feed(
        title=plain(head.get("title")),
        entries=tuple(_entries(found.entries, url, plain(head.get("author")), licence)),
        older=tuple(dict.fromkeys(_links(head, url, {"next", "prev-archive"}))),
        language=str(head.get("language") or "").strip(),
        wordpress="wordpress.org" in str(head.get("generator") or "").lower(),
    )


def paged(url: str, number: int) -> str:
    """Return the address of a page of a WordPress feed."""
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "paged"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("paged", str(number))])))


def entry_text(html: str) -> str:
    """Return the plain text of a post's HTML, without what plug-ins add to it."""
    if not _ADDED.search(html):
        return _APPEARED.sub("", html_to_text(html)).strip()
    tree = parse_html(html)
    for element in list(tree.iter()) if tree is not None else []:
        if _ADDED.search(element.get("class") or ""):
            element.set("hidden", "")
    return _APPEARED.sub("", html_to_text(html) if tree is None else tree_text(tree)).strip()


def full_text(html: str) -> str | None:
    """Return the plain text of a feed's entry, or None when it is empty or breaks off with a "read more"."""
    text = entry_text(html)
    return None if not text or _TRUNCATED.search(text[-200:]) else text


def plain(value: object) -> str:
    """Return a title or a name as one line of plain text."""
    return " ".join(html_to_text(str(value)).split()) if value else ""


def _without_doctype(data: bytes) -> bytes:
    start = _DOCTYPE.search(data)
    if start is None:
        return data
    end = start if start[1] == b">" else _DOCTYPE_END.search(data, start.end())
    return data[: start.start()] + (data[end.end() :] if end else b"")


def _entries(entries: list[Any], url: str, author: str, licence: str) -> Iterator[Entry]:
    for entry in entries:
        if link := _link(entry, url):
            yield Entry(
                url=link,
                title=plain(entry.get("title")),
                author=plain(entry.get("author")) or author,
                date=_date(entry),
                licence=_licence(entry) or licence,
                text=_content(entry),
            )


def _link(entry: Any, url: str) -> str:  # noqa: ANN401 - feedparser has no types
    """Return the address of the post; of several the first on the feed's own site, since link blogs link others."""
    given = [entry.get("feedburner_origlink"), entry.get("link")]
    if "://" in str(entry.get("id")):
        given.append(entry.get("id"))
    links = [link for text in given if text and (link := join(url, str(text)))]
    return next((link for link in links if same_site(link, url)), links[0] if links else "")


def _content(entry: Any) -> str | None:  # noqa: ANN401
    """Return the whole text of an entry where it says that it has it; a description alone may be a summary."""
    bodies = [
        f"<pre>{body.value}</pre>" if body.get("type") == "text/plain" else body.value
        for body in entry.get("content") or []
        if body.get("value")
    ]
    return full_text(max(bodies, key=len)) if bodies else None


def _date(entry: Any) -> str:  # noqa: ANN401
    for key in ("published_parsed", "created_parsed", "updated_parsed"):
        parsed = entry.get(key)
        try:
            if parsed:
                return in_utc(datetime.fromtimestamp(calendar.timegm(parsed), timezone.utc))
        except (ValueError, OverflowError, OSError, TypeError):
            continue
    return ""


def _licence(item: Any) -> str:  # noqa: ANN401
    linked = next((link.get("href") for link in item.get("links") or [] if link.get("rel") == "license"), None)
    stated = str(linked or item.get("license") or "").strip()
    return licence_name(stated) if stated else ""


def _links(item: Any, url: str, rels: set[str]) -> Iterator[str]:  # noqa: ANN401
    for link in item.get("links") or []:
        if link.get("rel") in rels and link.get("href") and (address := join(url, link.get("href"))):
            yield address
