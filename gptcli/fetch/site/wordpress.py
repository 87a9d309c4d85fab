"""WordPress's REST interface: all posts of a site with their whole texts, a hundred a request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from gptcli.errors import SourceError
from gptcli.fetch.facts import PageFacts, iso_date
from gptcli.fetch.site.feeds import Entry, entry_text, plain
from gptcli.fetch.web import PAGE_BYTES, FetchError, Response, Web
from gptcli.fetch.web.urls import join

PER_PAGE = 100
RELATION = "https://api.w.org/"
_FIELDS = "id,date_gmt,link,title,content,_links,_embedded"


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the interface: its posts, how many posts and pages there are (0: not said), and what it came as.

    ``protected`` counts the posts that have a password, which are not among ``entries``.
    """

    entries: tuple[Entry, ...]
    protected: int
    total: int
    pages: int
    response: Response


def api_root(home: Response, facts: PageFacts) -> str | None:
    """Return the root of the interface where a page says that it is of WordPress, else None."""
    if root := home.link(RELATION) or facts.wordpress:
        return root
    return join(home.final_url, "/wp-json/") if facts.generator.lower().startswith("wordpress") else None


def posts_url(root: str, page: int) -> str:
    """Return the address of a page of posts, oldest first; the root may have the form ``/?rest_route=/``."""
    parts = urlsplit(root)
    query = dict(parse_qsl(parts.query))
    path = parts.path
    if "rest_route" in query:
        query["rest_route"] = f"{query['rest_route'].rstrip('/')}/wp/v2/posts"
    else:
        path = f"{path.rstrip('/')}/wp/v2/posts"
    query |= {"per_page": str(PER_PAGE), "orderby": "id", "order": "asc", "page": str(page)}
    # Without _embed there are numbers for the authors' names.
    query |= {"_fields": _FIELDS, "_embed": "author"}
    return urlunsplit(parts._replace(path=path, query=urlencode(query, safe="/,")))


def first_page(web: Web, root: str) -> Page:
    """Return the first page; raises ``FetchError`` where it cannot be had and ``SourceError`` where it is no list."""
    return _page(web, root, 1)


def pages(web: Web, root: str) -> Iterator[Page]:
    """Yield all pages; raises as ``first_page``."""
    number, before = 1, None
    while True:
        try:
            page = _page(web, root, number)
        except FetchError as error:
            # Past the end it answers 400; a site that counts knows where the end is.
            if before is not None and not before.pages and error.reason in {"refused", "gone"}:
                return
            raise
        if before is not None and page.entries == before.entries:
            return
        yield page
        full = len(page.entries) + page.protected >= PER_PAGE
        if number >= page.pages if page.pages else not full:
            return
        number, before = number + 1, page


def _page(web: Web, root: str, number: int) -> Page:
    response = web.get(posts_url(root, number), discovered=True, accept="application/json", max_bytes=PAGE_BYTES)
    items = response.json()
    if not isinstance(items, list):
        raise SourceError(f"{response.url} is not a list of posts.")
    posts = [item for item in items if isinstance(item, dict)]
    entries = [_entry(post, response.final_url) for post in posts if not _is_protected(post)]
    return Page(
        entries=tuple(entry for entry in entries if entry is not None),
        protected=sum(map(_is_protected, posts)),
        total=_count(response, "x-wp-total"),
        pages=_count(response, "x-wp-totalpages"),
        response=response,
    )


def _entry(post: dict[str, Any], base: str) -> Entry | None:
    stated = _text(post.get("link"))
    link = join(base, stated) if stated else None
    if link is None:
        return None
    authors = post.get("_embedded", {}).get("author") if isinstance(post.get("_embedded"), dict) else None
    names = [_text(item.get("name")) for item in authors or [] if isinstance(item, dict)]
    return Entry(
        url=link,
        title=plain(_rendered(post.get("title"))),
        author=", ".join(filter(None, names)),
        date=iso_date(_text(post.get("date_gmt"))),
        text=entry_text(_rendered(post.get("content"))),
    )


def _is_protected(post: dict[str, Any]) -> bool:
    content = post.get("content")
    return isinstance(content, dict) and bool(content.get("protected"))


def _rendered(value: object) -> str:
    return _text(value.get("rendered") if isinstance(value, dict) else value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(response: Response, name: str) -> int:
    value = response.headers.get(name, "").strip()
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else 0
