"""A list of records that a server gives as JSON, on one page or on many: each record is a document.

Knows how pages follow each other only through `paging`, and which fields are the text only through `records`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from gptcli.documents import Document, document_parts, origin_of
from gptcli.errors import SourceError
from gptcli.fetch.conversations import ChatFields, choose_any_fields, record_conversation
from gptcli.fetch.json_api.page import LINES_SUFFIXES, JsonPage, read_page
from gptcli.fetch.json_api.paging import (
    Answer,
    Step,
    larger_pages,
    next_step,
    on_same_host,
    pages_in_all,
    says_more,
    stated_total,
)
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.records import TextFields, record_document, value_at
from gptcli.fetch.source import Missing, Plan, Source
from gptcli.fetch.web import FetchError, Response, Web
from gptcli.fetch.web.urls import without_login

STALE_PAGES = 10
# What a page beyond the last one is; offline, nobody knows more of it.
_NOT_THERE = {"gone", "refused", "offline"}
_HTML_TYPES = {"text/html", "application/xhtml+xml"}
_LINK_TAG = re.compile(r"<link\b[^>]{0,2000}\bapplication/json\+datasette\b[^>]{0,2000}>", re.IGNORECASE)
_HREF = re.compile(r"""\bhref\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
# Parsed JSON takes some ten times its size.
JSON_BYTES = 128 * 1024**2
_HEAD_CHARS = 1 << 16


def open_json(where: str, response: Response, web: Web, options: FetchOptions) -> Source:
    """Open the list of records that the address ``where`` answered with, or that goes with a table page of Datasette.

    Raises ``SourceError`` for what is no JSON, is not a list (its keys are shown), is the server's error message, or
    has no field that looks like text.
    """
    label = without_login(where)
    source = Source("json", _name(where), label)
    table = datasette_json(response)
    if table is not None:
        source.notes.append(f"The page shows a table of Datasette, so its rows were read from {table}.")
        response = web.get(table, max_bytes=JSON_BYTES)
    reading = _Reading(source, web, options, _read(response, label, web, options))
    reading.choose_fields(reading.first)
    source.plan = reading.plan
    source.documents = reading.documents()
    return source


def datasette_json(response: Response) -> str | None:
    """Return the address of the rows that a table page of Datasette shows; None for everything else."""
    if response.content_type not in _HTML_TYPES:
        return None
    tag = _LINK_TAG.search(response.text()[:_HEAD_CHARS])
    href = _HREF.search(tag.group()) if tag else None
    if href is None:
        return None
    try:
        return on_same_host(response.final_url, href[1].replace("&amp;", "&"))
    except SourceError:
        return None


@dataclass(slots=True)
class _Reading:
    """The reading of one API from its first page to its last, and what has to be remembered on the way."""

    source: Source
    web: Web
    options: FetchOptions
    first: JsonPage
    enlarged: bool = False
    fields: TextFields | ChatFields | None = None
    keys: tuple[str, ...] = ()
    seen: set[bytes] = field(default_factory=set)
    received: int = 0
    fresh: int = 0

    def choose_fields(self, page: JsonPage) -> None:
        """Choose the fields by the first page that has records."""
        if self.fields is not None or not page.sample:
            return
        self.fields = choose_any_fields(page.sample, self.options, self.source.where, self.source.notes)
        if isinstance(self.fields, ChatFields):
            return
        stated = page.body.get("primary_keys") if isinstance(page.body, Mapping) else None
        keys = tuple(map(str, stated)) if isinstance(stated, list) else ()
        self.keys = keys or ((self.fields.id,) if self.fields.id else ())
        if not self.options.text_fields and any(len(record) > 2 for record in page.sample):
            self.source.notes.append(
                f"The text of each record is its field {self.fields.text[0]}; --text-fields NAME,NAME takes others."
            )

    def plan(self) -> Plan:
        """Say on how many pages the records are, after asking for the first one in the largest size."""
        page = self.begin()
        answer = self._answer(page)
        problems: list[str] = []
        try:
            last = self._next(answer).url is None
        except SourceError as error:
            last = True
            problems.append(error.message)
        total = 1 if last else pages_in_all(answer)
        records = page.count if last else stated_total(answer) if total else None
        if isinstance(page.records, Iterator):  # lines are not counted before they are read
            records = None
        what = "records" if records is None else _records(records)
        pages = "1 page" if total == 1 else f"{total:,} pages" if total else "a number of pages that it does not say"
        text = self.fields.shown if self.fields else "unknown"
        steps = (f"read {what} on {pages} of {self.source.where}; their text is the field {text}", *problems)
        if total is None:
            return Plan(steps, requests=None, seconds=None)
        return Plan(steps, requests=total - 1, seconds=self.web.seconds(total - 1, self.source.where))

    def begin(self) -> JsonPage:
        """Return the first page, in the largest size that the server is known to give."""
        if self.enlarged or self.options.next_page:
            return self.first
        self.enlarged = True
        try:
            url = larger_pages(self._answer(self.first))
            if url is not None and (not self.web.offline or self.web.stored(url)):
                response = self.web.get(url, max_bytes=JSON_BYTES)
                self.first = _read(response, without_login(url), self.web, self.options)
        except FetchError as error:
            # A server that refuses large pages gives small ones; anything else would come out differently next time.
            if error.reason not in {"refused", "gone", "limit"}:
                raise
        except SourceError:
            pass
        return self.first

    def documents(self) -> Iterator[Document]:
        """Yield the documents of all pages in order; what cannot be reached is told in ``source.missing``."""
        if self.options.robots == "polite" and self.web.disallows(self.first.response.url):
            self.source.notes.append(
                f"The robots.txt of {urlsplit(self.first.response.url).hostname} keeps crawlers from this address. It "
                "was fetched all the same, as your own request and at a polite pace; --robots strict refrains from it."
            )
        for page in self._pages():
            self.choose_fields(page)
            for record in page.records:
                yield from self._documents_of(record, page)
            self.received += page.count
            self._count("elements that are no records", page.skipped)
            if page.damaged:
                self._count("lines that are not JSON", page.damaged)
                self.source.notes.append(
                    f"{page.response.final_url}: line {page.first_damaged:,} is the first that is not JSON."
                )

    def _documents_of(self, record: Mapping[str, Any], page: JsonPage) -> Iterator[Document]:
        assert self.fields is not None
        if isinstance(self.fields, ChatFields):
            self.fresh += 1
            where = f"{self.source.where}, record {self.fresh:,}"
            item = record_conversation(record, self.fields, self.source.dropped, where)
            if item is not None:
                self.source.fetched_at[item.id] = page.response.fetched_at
                yield item
            return
        item = record_document(record, self.fields, base_url=page.response.final_url)
        if self._came_before(record, item, page):
            self._count("records that came twice")
            return
        self.fresh += 1
        if item is None:
            self._count("records without text")
            return
        for part in document_parts([item.text], **origin_of(item)):
            self.source.fetched_at[part.id] = page.response.fetched_at
            yield part

    def _came_before(self, record: Mapping[str, Any], item: Document | None, page: JsonPage) -> bool:
        """Say whether a record of this key and text came already: lists shift between requests, and pages overlap."""
        values = [value_at(record, key) for key in self.keys]
        single = isinstance(page.records, Iterator) and page.response.link("next") is None
        if not values or None in values or single:
            return False
        # The text too, since a field that is called id need not be a key.
        identity = repr((values, item and item.id)).encode("utf-8", "replace")
        key = hashlib.blake2b(identity, digest_size=8).digest()
        before = key in self.seen
        self.seen.add(key)
        return before

    def _pages(self) -> Iterator[JsonPage]:
        page: JsonPage | None = self.begin()
        assert page is not None
        total = pages_in_all(self._answer(page))
        if total is not None:
            self.web.expect(total - 1, "pages")
        urls = {self.first.response.url, self.first.response.final_url}
        digests = {page.digest}
        stale = number = 0
        while page is not None:
            before = self.fresh
            yield page
            number += 1
            stale = 0 if self.fresh > before else stale + 1
            page = self._after(page, urls, number, stale)
            if page is not None and page.count:
                if page.digest in digests:
                    self._repeated(page, number)
                    return
                digests.add(page.digest)

    def _after(self, page: JsonPage, urls: set[str], number: int, stale: int) -> JsonPage | None:
        """Return the next page; None at the end, or where it cannot be reached, which is told in ``missing``."""
        answer = self._answer(page)
        here = answer.url
        try:
            step = self._next(answer)
        except SourceError as error:
            self._missing(here, error.message)
            return None
        if step.url is None:
            self._check_whole(answer, step, number)
            return None
        if step.url in urls:
            self._missing(step.url, "The server names this page again as the next one, so what comes after it is lost.")
            return None
        if stale >= STALE_PAGES:
            self._missing(step.url, f"{stale} pages in a row brought nothing new, so no further ones were asked for.")
            return None
        urls.add(step.url)
        try:
            return self._get(step.url)
        except SourceError as error:
            if not (step.blind and isinstance(error, FetchError) and error.reason in _NOT_THERE):
                self._missing(step.url, error.message)
            return None

    def _answer(self, page: JsonPage) -> Answer:
        return replace(page.answer(), real=self._real)

    def _real(self, link: str) -> str:
        """Return the address that a link of a mirror stands for; one that is no whole address as it is."""
        return self.web.real(link) if "://" in link else link

    def _next(self, answer: Answer) -> Step:
        return next_step(answer, self.options.next_page)

    def _get(self, url: str) -> JsonPage:
        response = self.web.get(url, max_bytes=JSON_BYTES)
        return read_page(response, without_login(url), items=self.first.items)

    def _repeated(self, page: JsonPage, number: int) -> None:
        where = page.response.url
        # Many servers answer a number beyond the last page with the last page.
        if not (self.options.next_page and number > 1):
            why = "The page has the same records as an earlier one, so what comes after them cannot be reached."
            self._missing(where, f"{why} If the pages are numbered in another way, name it: --next PARAMETER.")

    def _check_whole(self, answer: Answer, step: Step, number: int) -> None:
        """Compare what came with what the server says there is."""
        total = stated_total(answer)
        more = says_more(answer) and not self.options.next_page
        short = total is not None and total > self.received
        if more or (short and number == 1 and not step.known and not step.how):
            of = f"{self.received:,} of {total:,} records" if short else _records(self.received)
            self._missing(
                answer.url,
                f"The server gave {of} and did not say how the next ones are had. "
                "If you know it: --next PARAMETER (as --next page) or --next the.path.of.it",
            )
        elif short:
            self.source.notes.append(
                f"The server speaks of {_records(total or 0)}, and its last page came after {self.received:,}."
            )

    def _count(self, what: str, count: int = 1) -> None:
        if count:
            self.source.dropped[what] += count

    def _missing(self, where: str, why: str) -> None:
        self.web.forget(where)
        self.source.missing.append(Missing(without_login(where), why))


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count:,} records"


def _read(response: Response, label: str, web: Web, options: FetchOptions) -> JsonPage:
    """Read a first page; one that is no use is forgotten, so that the next fetch asks for it again."""
    try:
        return read_page(response, label, wanted=options.items)
    except SourceError:
        web.forget(response.url)
        raise


def _name(where: str) -> str:
    """Return a name for what is at an address: the last part of its path, else its host."""
    parts = urlsplit(where)
    name = PurePosixPath(unquote(parts.path)).name
    for suffix in (".json", *LINES_SUFFIXES):
        name = name.removesuffix(suffix)
    return name or parts.hostname or "json"
