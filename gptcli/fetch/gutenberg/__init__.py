"""Books of Project Gutenberg, by number, address or title, from its mirrors: the main site turns programs away.

Knows where mirrors keep the renderings of a book; what of a rendering is the work, ``gutenberg_text`` knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from gptcli.documents import Document, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.gutenberg.catalog import CatalogError, find_title
from gptcli.fetch.gutenberg.text import Cleaned, clean_gutenberg
from gptcli.fetch.html import html_to_text
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Missing, Plan, Source, shown
from gptcli.fetch.web import FetchError, Response, Web

# In this order, as https://www.gutenberg.org/MIRRORS.ALL has them.
MIRRORS = (
    "https://gutenberg.pglaf.org",
    "https://aleph.gutenberg.org",
    "https://mirror.csclub.uwaterloo.ca/gutenberg",
    "https://www.mirrorservice.org/sites/ftp.ibiblio.org/pub/docs/books/gutenberg",
)
MAIN_SITE = "https://www.gutenberg.org"
CATALOG = "/cache/epub/feeds/pg_catalog.csv.gz"
# https://www.gutenberg.org/policy/robot_access.html asks programs to wait two seconds.
DELAY = 2.0
BOOK_BYTES = 64 * 1024**2
CATALOG_BYTES = 256 * 1024**2
# So many mirrors that know no file of a book say that there is none.
_ENOUGH_MIRRORS = 2
_PREFIX = "gutenberg:"
_HINT = "gutenberg:1513 is a book by its number, gutenberg:romeo and juliet one by its title."
_IN_PATH = re.compile(r"/(?:ebooks|etext|files|cache/epub)/(\d{1,8})(?![\d])|(?:/\d)+/(\d{1,8})(?:/|$)", re.IGNORECASE)
_SAYS_ENCODING = re.compile(rb"^Character set encoding: *([\w-]+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the user typed: numbers of books, each once, or the words of a title."""

    numbers: tuple[int, ...] = ()
    title: str = ""


def is_gutenberg(where: str) -> bool:
    """Say whether this names books of Project Gutenberg: ``gutenberg:…`` or an address of its site."""
    return where.strip().lower().startswith(_PREFIX) or _address(where) is not None


def gutenberg_name(where: str) -> str:
    """Return what a corpus of these books is called; raises ``SourceError`` when they cannot be any."""
    wanted = _wanted(where)
    if not wanted.numbers:
        return wanted.title
    first = "-".join(str(number) for number in wanted.numbers[:3])
    return f"pg{first}" + (f"-and-{len(wanted.numbers) - 3}-more" if len(wanted.numbers) > 3 else "")


def open_gutenberg(where: str, web: Web, options: FetchOptions) -> Source:
    """Open books given by numbers, by an address, or by a title; one document each, in the order given.

    A book that cannot be had is missing where others came, and else a ``FetchError``. Raises ``SourceError`` for
    words that name no book.
    """
    wanted = _wanted(where)
    why = "it names a book of Project Gutenberg, whose mirrors are there for programs"
    source = Source("gutenberg", gutenberg_name(where), where, why=why)
    source.documents = _documents(source, wanted, web, options)
    source.plan = lambda: _plan(_numbers(source, wanted, web, options), web, options)
    return source


def _wanted(where: str) -> _Wanted:
    words = where.strip()
    if words.lower().startswith(_PREFIX):
        words = words[len(_PREFIX) :].strip()
    if re.fullmatch(r"#?\d+(?:[\s,]+#?\d+)*,?", words):
        numbers = tuple(dict.fromkeys(int(number) for number in re.findall(r"\d+", words)))
        if bad := [number for number in numbers if not 0 < number < 10**8]:
            raise SourceError(f"Project Gutenberg has no book number {bad[0]}.", _HINT)
        return _Wanted(numbers)
    if path := _address(words):
        if found := _IN_PATH.search(path):
            return _Wanted((int(found[1] or found[2]),))
        raise SourceError(
            f"{where} is not the address of a book of Project Gutenberg, and its other pages are not for programs.",
            "The address of a book ends like /ebooks/1513.",
        )
    if not re.search(r"\w", words) or "://" in words:
        raise SourceError(f"{where} names no book of Project Gutenberg.", _HINT)
    return _Wanted(title=words)


def _address(where: str) -> str | None:
    """Return the path of an address of Project Gutenberg's site, at least ``/``; None for any other words."""
    try:
        parts = urlsplit(where if "://" in where else f"https://{where}")
        host = (parts.hostname or "").lower()
    except ValueError:
        return None
    ours = re.fullmatch(r"(?:[\w-]+\.)*gutenberg\.org|gutenberg\.pglaf\.org", host)
    return (parts.path or "/") if ours and parts.scheme.lower() in {"http", "https"} else None


def _numbers(source: Source, wanted: _Wanted, web: Web, options: FetchOptions) -> tuple[int, ...]:
    """Return the numbers of the books; that of a title is looked up in the catalogue."""
    if wanted.numbers:
        return wanted.numbers
    catalog = _catalog(web, options)
    try:
        entry = find_title(catalog.path, wanted.title, label=catalog.url, language=options.language)
    except CatalogError:
        web.forget(catalog.url)
        raise
    note = f"{wanted.title!r} is book {entry.number}: {entry.title}" + (
        f", by {entry.author}." if entry.author else "."
    )
    if note not in source.notes:
        source.notes.append(note)
    return (entry.number,)


def _documents(source: Source, wanted: _Wanted, web: Web, options: FetchOptions) -> Iterator[Document]:
    numbers = _numbers(source, wanted, web, options)
    web.expect(len(numbers), "books")
    failed: SourceError | None = None
    for number in numbers:
        try:
            response = _rendering(number, web, options)
            text = _text(response, web, options)
        except SourceError as error:
            failed = error
            source.missing.append(Missing(f"book {number}", error.message))
            continue
        yield from _book(source, number, response, clean_gutenberg(text))
    if failed is not None and len(source.missing) == len(numbers):
        source.missing.clear()
        raise failed


def _book(source: Source, number: int, response: Response, cleaned: Cleaned) -> Iterator[Document]:
    header = cleaned.header
    title = header.title or f"Project Gutenberg {number}"
    if cleaned.note:
        source.notes.append(f"{title}: {cleaned.note}")
    source.dropped["lines of header, licence, credits and notes"] += cleaned.dropped_lines
    source.licence = header.licence if source.licence in {"", header.licence} else "see each document"
    for part in document_parts(
        [cleaned.text],
        title=title,
        author=header.author,
        url=f"{MAIN_SITE}/ebooks/{number}",
        date=header.date,
        language=header.language,
        licence=header.licence,
    ):
        source.fetched_at[part.id] = response.fetched_at
        yield part


def _rendering(number: int, web: Web, options: FetchOptions) -> Response:
    """Return the best rendering of a book that a mirror has; raises ``FetchError`` when none has one, or answers."""
    mirrors = _mirrors(options)
    for url in (f"{mirror}{path}" for mirror in mirrors for path in _paths(number)):
        # What came from the second mirror is not asked of the first one again.
        if web.stored(url) and (response := _got(url, web)):
            return response
    failures: list[FetchError] = []
    gone = 0
    for mirror in mirrors:
        try:
            for path in _paths(number):
                if response := _got(f"{mirror}{path}", web):
                    return response
            gone += 1
        except FetchError as error:
            if error.reason == "limit":
                raise
            failures.append(error)
        if gone == _ENOUGH_MIRRORS:
            break
    raise _not_had(number, failures, mirrors, gone)


def _got(url: str, web: Web) -> Response | None:
    """Return what is at an address, or None where nothing is, or a page that says so instead of a text."""
    try:
        response = web.get(url, max_bytes=BOOK_BYTES, min_delay=DELAY)
    except FetchError as error:
        if error.reason == "gone":
            return None
        raise
    if url.endswith(".txt") and _is_html(response):
        web.forget(url)
        return None
    return response


def _not_had(number: int, failures: list[FetchError], mirrors: tuple[str, ...], gone: int) -> FetchError:
    url = f"{MAIN_SITE}/ebooks/{number}"
    hosts = [_host(mirror) for mirror in mirrors]
    if gone and (gone == _ENOUGH_MIRRORS or not failures):
        return FetchError(
            f"There is no text of a book {number} of Project Gutenberg at {shown(hosts[: gone + len(failures)])}.",
            f"See {url} in a browser: it may be a recording, or have another number.",
            url=url,
            reason="gone",
        )
    if all(error.reason == "offline" for error in failures):
        message = f"Book {number} of Project Gutenberg was not fetched before, and --offline asks nobody."
        return FetchError(message, "Without --offline it is fetched.", url=url, reason="offline")
    if len(failures) == 1:
        return failures[0]
    return FetchError(
        f"No mirror of Project Gutenberg could be read for book {number}: "
        f"{shown(error.message.rstrip('.') for error in failures)}.",
        "Run the same command again later, or name another mirror: --mirror https://…",
        url=url,
        reason=failures[0].reason,
    )


def _text(response: Response, web: Web, options: FetchOptions) -> str:
    """Return a rendering as text; one that is empty or no text is forgotten, so that the next fetch asks again."""
    try:
        text = _decoded(response, options)
    except SourceError:
        web.forget(response.url)
        raise
    if not text.strip():
        web.forget(response.url)
        raise SourceError(f"{response.url} is empty.", _HINT)
    return text


def _decoded(response: Response, options: FetchOptions) -> str:
    """Return a rendering as text; where bytes could be of several encodings, what its header says counts."""
    encoding = options.encoding
    if response.encoding(encoding).guessed:
        encoding = _says_encoding(response)
    try:
        text = response.text(encoding)
    except SourceError:
        if encoding is None or options.encoding:
            raise
        text = response.text()
    return html_to_text(text) if response.url.endswith(".htm") else text


def _says_encoding(response: Response) -> str:
    with response.path.open("rb") as file:
        says = _SAYS_ENCODING.search(file.read(1 << 15))
    name = says[1].decode().lower() if says else ""
    # What calls itself Latin-1 has the quotation marks of Windows more often than not.
    return "cp1252" if name in {"", "ascii", "us-ascii", "utf-8", "iso-8859-1", "iso-latin-1", "latin1"} else name


def _catalog(web: Web, options: FetchOptions) -> Response:
    # This one file of the main site is there for programs.
    sites = _mirrors(options) if options.mirror else (*MIRRORS, MAIN_SITE)
    failures: list[FetchError] = []
    web.expect(0, "catalogues")
    found = (response for site in sites if (response := _tried(f"{site}{CATALOG}", web, failures)))
    if response := next(found, None):
        return response
    raise SourceError(
        "The catalogue of titles of Project Gutenberg could not be had: "
        f"{shown(error.message.rstrip('.') for error in failures)}.",
        "Give the number of the book instead: gptcli fetch gutenberg:1513",
    )


def _tried(url: str, web: Web, failures: list[FetchError]) -> Response | None:
    try:
        return web.get(url, max_bytes=CATALOG_BYTES, min_delay=DELAY)
    except FetchError as error:
        failures.append(error)
        return None


def _plan(numbers: tuple[int, ...], web: Web, options: FetchOptions) -> Plan:
    mirror = _mirrors(options)[0]
    here = [n for n in numbers if any(web.stored(f"{site}{path}") for site in _mirrors(options) for path in _paths(n))]
    requests = len(numbers) - len(here)
    books = f"{len(numbers)} books" if len(numbers) > 1 else "book"
    steps = [f"read {books} {shown(str(number) for number in numbers)} from {_host(mirror)}"]
    if here:
        steps.append(f"{len(here)} of them here already")
    return Plan(tuple(steps), requests, web.seconds(requests, mirror, DELAY))


def _mirrors(options: FetchOptions) -> tuple[str, ...]:
    return (options.mirror.rstrip("/"),) if options.mirror else MIRRORS


def _host(mirror: str) -> str:
    return urlsplit(mirror).netloc.rpartition("@")[2]


def _paths(number: int) -> tuple[str, ...]:
    """Return where a mirror may have the book, the best rendering first."""
    folder = f"/{'/'.join(str(number)[:-1]) or '0'}/{number}"
    return (
        f"/cache/epub/{number}/pg{number}.txt",
        f"{folder}/{number}-0.txt",
        f"{folder}/{number}-8.txt",
        f"{folder}/{number}.txt",
        f"{folder}/{number}-h/{number}-h.htm",
    )


def _is_html(response: Response) -> bool:
    with response.path.open("rb") as file:
        head = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head.startswith((b"<!doctype html", b"<html", b"<?xml"))
