"""How an API of many pages goes on: the address of the next page, by what the answer says about itself.

Pure functions over one answer that was parsed already. Requests nothing, and knows nothing of documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_plus, urljoin, urlsplit, urlunsplit

from gptcli.errors import SourceError
from gptcli.fetch.records import has_path, value_at

# Dotted paths at which APIs say what the next page is: an address, a page number or a token.
NEXT_PATHS = (
    *("next_url", "next", "links.next", "_links.next", "next_page_url", "next_page", "next_link", "nextLink"),
    *("nextPage", "nextPageUrl", "@odata.nextLink", "meta.next", "meta.next_url", "meta.links.next", "paging.next"),
    *("meta.next_page", "meta.pagination.next", "meta.pagination.links.next", "pagination.next"),
    *("pagination.next_url", "pagination.next_page", "info.next"),
)
TOKEN_NAMES = ("next_cursor", "nextCursor", "next_page_token", "nextPageToken", "next_token", "nextToken")
TOKEN_PATHS = (
    *TOKEN_NAMES,
    *(f"{inside}.{name}" for inside in ("meta", "pagination", "paging", "response_metadata") for name in TOKEN_NAMES),
    *("paging.cursors.after", "pageInfo.endCursor", "page_info.end_cursor", "after"),
)
# Objects in which an answer counts its pages.
_COUNTERS = ("", "meta", "pagination", "meta.pagination", "info", "paging", "page")
_PAGE = ("page", "current_page", "currentPage", "page_number", "pageNumber", "number")
_PAGES = (
    "total_pages",
    "totalPages",
    "last_page",
    "lastPage",
    "num_pages",
    "page_count",
    "pageCount",
    "pages",
    "nbPages",
)
_ZERO_BASED = {"number", "nbPages"}
_OFFSET = ("offset", "skip", "start", "_start")
_TOTAL = (
    *("filtered_table_rows_count", "total", "total_count", "totalCount", "count", "numFound", "num_rows_total"),
    *("total_results", "totalResults", "totalElements", "total_items", "totalItems", "nbHits"),
)
PAGE_PARAMETERS = (*_PAGE, "p", "paged", "pageNo", "page[number]")
_MORE = ("has_more", "hasMore", "has_next", "hasNext", "has_next_page", "hasNextPage")


@dataclass(frozen=True, slots=True)
class Answer:
    """One page of an API: its address, the parsed JSON, where in it the records are, and how many they are.

    ``link`` is the ``rel=next`` of the Link header, ``headers`` are those that count (``x-wp-totalpages``).
    """

    url: str
    body: Any
    items: str
    count: int
    link: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    real: Callable[[str], str] = str
    """Turns an address of a mirror into the one it stands for."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where the next page is: ``url``, or None at the end; ``how`` says by what. ``known`` is False for a list that
    says nothing of pages. ``blind`` marks a page that is only tried: its absence is the end.
    """

    url: str | None
    how: str = ""
    known: bool = True
    blind: bool = False


def next_step(answer: Answer, wanted: str | None = None) -> Step:
    """Say what comes after an answer; ``wanted`` is ``--next``: a dotted path, a parameter's name, or both as
    ``parameter=path``.

    Raises ``SourceError`` for a next page that is on another host.
    """
    if wanted:
        return _wanted_step(answer, wanted)
    for look in (_stated, _link_header, _token, _continued, _numbered, _offset):
        step = look(answer)
        if step is not None:
            return step
    return Step(None, known=any(has_path(answer.body, path) for path in NEXT_PATHS))


def says_more(answer: Answer) -> bool:
    """Say whether an answer states that it is not all: cut short by the server, or with more to come."""
    return any(value_at(answer.body, path) is True for path in _beside_items(answer, (*_MORE, "truncated")))


def larger_pages(answer: Answer) -> str | None:
    """Return the address of the first page in the largest pages that a known server gives; None for others."""
    names = _parameters(answer.url)
    path = urlsplit(answer.url).path
    if path.endswith(".json") and names.get("_shape") == "object":
        # In this shape Datasette gives one page and does not say that there are more.
        return with_parameter(with_parameter(answer.url, "_shape", "objects"), "_size", "max")
    if "x-wp-totalpages" in answer.headers and "per_page" not in names:
        url = with_parameter(answer.url, "per_page", "100")
        # By id, a post that is published meanwhile comes last and moves no other.
        return url if "orderby" in names else with_parameter(with_parameter(url, "orderby", "id"), "order", "asc")
    following = next_step(answer).url
    datasette = path.endswith(".json") and following is not None and "_next" in _parameters(following)
    return with_parameter(answer.url, "_size", "max") if datasette and "_size" not in names else None


def stated_total(answer: Answer) -> int | None:
    """Return how many records the server says there are on all pages together; None where it does not."""
    header = _whole(answer.headers.get("x-wp-total"))
    if header is not None:
        return header
    return next((number for _, number in _numbers(answer, _TOTAL) if number >= answer.count), None)


def pages_in_all(answer: Answer) -> int | None:
    """Return how many pages the server says there are, of the size of this one; None where it does not."""
    header = _whole(answer.headers.get("x-wp-totalpages"))
    if header is not None:
        return header
    for _, number in _numbers(answer, _PAGES):
        return number
    total = stated_total(answer)
    return -(-total // answer.count) if total is not None and answer.count else None


def with_parameter(url: str, name: str, value: str) -> str:
    """Return the address with a query parameter set; the others stay as they are written."""
    parts = urlsplit(url)
    kept = [piece for piece in parts.query.split("&") if piece and unquote_plus(piece.partition("=")[0]) != name]
    query = "&".join([*kept, f"{quote(name, safe='[]')}={quote(value, safe='')}"])
    return urlunsplit(parts._replace(query=query, fragment=""))


def on_same_host(base: str, link: str) -> str:
    """Return ``link`` made absolute, with the scheme, host and login of ``base``: proxies say http:// of themselves.

    Raises ``SourceError`` when it leads to another host.
    """
    here = urlsplit(base)
    try:
        parts = urlsplit(urljoin(base, link.strip()))
        same = parts.scheme in {"http", "https"} and _host(here) == _host(parts) and _ports_agree(here, parts)
    except ValueError:
        same = False
    if not same:
        raise SourceError(
            f"The next page is said to be {link[:200]}, which is on another host than {here.hostname}, "
            "so it was not followed.",
            f"If it is right, fetch it as a source of its own: gptcli fetch {link[:200]}",
        )
    return urlunsplit(parts._replace(scheme=here.scheme, netloc=here.netloc, fragment=""))


def _host(parts: Any) -> str:  # noqa: ANN401 - urllib's own result type
    return (parts.hostname or "").removeprefix("www.")


def _ports_agree(here: Any, there: Any) -> bool:  # noqa: ANN401
    usual = {"http": 80, "https": 443}
    mine, other = here.port or usual.get(here.scheme), there.port or usual.get(there.scheme)
    return bool(mine == other or (here.scheme != there.scheme and mine == usual[here.scheme] and other in {80, 443}))


def _wanted_step(answer: Answer, wanted: str) -> Step:
    parameter, separator, path = wanted.partition("=")
    if separator:
        return _go(answer, path, parameter)
    if has_path(answer.body, wanted):
        return _go(answer, wanted)
    if not re.fullmatch(r"[\w\[\]-]+", wanted):
        return Step(None)
    if answer.count == 0:
        return Step(None, wanted)
    now = _whole(_parameters(answer.url).get(wanted))
    counted = wanted.strip("_") in _OFFSET
    number = (int(not counted) if now is None else now) + (answer.count if counted else 1)
    return Step(with_parameter(answer.url, wanted, str(number)), wanted, blind=True)


def _go(answer: Answer, path: str, parameter: str = "") -> Step:
    """Follow the address or token at a path of the answer."""
    value = value_at(answer.body, path)
    if isinstance(value, Mapping):
        value = value.get("href") or value.get("url")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        return Step(None, path)
    text = str(value)
    if not parameter and isinstance(value, str) and _is_address(path, text):
        return Step(on_same_host(answer.url, answer.real(text)), path)
    return Step(with_parameter(answer.url, parameter or _parameter_of(answer, path, text), text), path)


def _is_address(path: str, value: str) -> bool:
    named = path.lower().endswith(("url", "link", "href"))
    return "://" in value or value.startswith(("/", "?")) or (named and not value.isdecimal())


def _parameter_of(answer: Answer, path: str, value: str) -> str:
    """Return the query parameter that takes a token, by the name under which the answer gives it."""
    name = path.rpartition(".")[2]
    if name == "next" and isinstance(answer.body, Mapping) and "rows" in answer.body:
        return "_next"  # Datasette
    if name in {"after", "endCursor", "end_cursor"}:
        return "after"
    if name in {"next", "nextPage", "next_page", "next_url", "next_link"}:
        given = _parameters(answer.url)
        return next((known for known in PAGE_PARAMETERS if known in given), "page" if value.isdecimal() else "cursor")
    short = re.sub(r"^next_?", "", name)
    return short[:1].lower() + short[1:]


def _stated(answer: Answer) -> Step | None:
    for path in _beside_items(answer, NEXT_PATHS):
        step = _go(answer, path)
        if step.url is not None:
            return step
    return None


def _link_header(answer: Answer) -> Step | None:
    return Step(on_same_host(answer.url, answer.real(answer.link)), "the Link header") if answer.link else None


def _token(answer: Answer) -> Step | None:
    if any(value_at(answer.body, path) is False for path in _beside_items(answer, (*_MORE, "pageInfo.hasNextPage"))):
        return None
    for path in _beside_items(answer, TOKEN_PATHS):
        step = _go(answer, path)
        if step.url is not None:
            return step
    return None


def _continued(answer: Answer) -> Step | None:
    """MediaWiki names the parameters of the next request, and their values."""
    following = value_at(answer.body, "continue")
    if not isinstance(following, Mapping) or not following:
        return None
    url = answer.url
    for name, value in following.items():
        url = with_parameter(url, str(name), str(value))
    return Step(url, "continue")


def _numbered(answer: Answer) -> Step | None:
    given = _parameters(answer.url)
    parameter = next((name for name in PAGE_PARAMETERS if name in given), "page")
    named = next(_numbers(answer, _PAGE), None)
    current = _whole(given.get(parameter))
    current = named[1] if current is None and named else current
    total = pages_in_all(answer) if answer.headers.get("x-wp-totalpages") else None
    zero_based = named is not None and named[1] == 0
    if total is None:
        name, total = next(_numbers(answer, _PAGES), ("", None))
        total = None if name == "pages" and current is None else total  # books have pages too
        zero_based = zero_based or name in _ZERO_BASED or (named is not None and named[0] in _ZERO_BASED)
    more = any(value_at(answer.body, path) is True for path in _beside_items(answer, _MORE))
    if total is None and not (more and current is not None):
        return None
    current = 1 if current is None else current
    if total is not None and current + zero_based >= total:
        return Step(None, "the number of pages")
    return Step(with_parameter(answer.url, parameter, str(current + 1)), "the number of pages")


def _offset(answer: Answer) -> Step | None:
    total = stated_total(answer)
    if total is None:
        return None
    given = _parameters(answer.url)
    named = next(_numbers(answer, _OFFSET), None)
    parameter = next((name for name in _OFFSET if name in given), named[0] if named else None)
    if parameter is None:
        return None
    now = _whole(given.get(parameter))
    reached = (named[1] if named else 0) if now is None else now
    reached += answer.count
    if answer.count == 0 or reached >= total:
        return Step(None, "the offset")
    return Step(with_parameter(answer.url, parameter, str(reached)), "the offset")


def _beside_items(answer: Answer, paths: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths from the object that holds the records, then from the top."""
    inside = answer.items.rpartition(".")[0]
    if inside:
        yield from (f"{inside}.{path}" for path in paths)
    yield from paths


def _numbers(answer: Answer, names: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers that an answer gives under one of the names, with it."""
    inside = answer.items.rpartition(".")[0]
    for counter in dict.fromkeys((inside, *_COUNTERS)):
        found = value_at(answer.body, counter) if counter else answer.body
        for name in names if isinstance(found, Mapping) else ():
            value = found.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12:
                yield name, value


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch("[0-9]{1,15}", text) else None


def _parameters(url: str) -> dict[str, str]:
    """Return the query parameters of an address."""
    pieces = (piece.partition("=") for piece in urlsplit(url).query.split("&") if piece)
    return {unquote_plus(name): unquote_plus(value) for name, _, value in pieces}
