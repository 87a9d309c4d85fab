"""A single web page: its main text is one document. Knows nothing of the site around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from gptcli.documents import Document, Origin, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.extract import Extracted, extract
from gptcli.fetch.gutenberg.text import clean_gutenberg, is_gutenberg_text
from gptcli.fetch.html import html_to_text
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Plan, Source
from gptcli.fetch.web import Response, Web
from gptcli.fetch.web.urls import without_login

_HEAD_CHARS = 50_000
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})


def open_page(where: str, response: Response, web: Web, options: FetchOptions) -> Source:  # noqa: ARG001
    """Open the page that the address ``where`` answered with; it is here already, so reading it asks nobody.

    Reading it raises ``SourceError`` for a page without text, as those are that a script fills in the browser.
    """
    parts = urlsplit(response.final_url)
    source = Source("page", PurePosixPath(unquote(parts.path)).stem or parts.hostname or "page", without_login(where))
    source.plan = lambda: Plan((f"read {source.where}, which is here already",), requests=0, bytes=response.bytes)
    source.documents = _documents(source, response, options)
    return source


def page_origin(found: Extracted, url: str) -> Origin:
    """Return what a page says of its text, as documents carry it."""
    return Origin(
        title=found.title,
        author=found.author,
        url=url,
        date=found.date,
        language=found.language,
        licence=found.licence,
    )


def page_documents(source: Source, text: str, origin: Origin, fetched_at: str) -> Iterator[Document]:
    """Yield the parts of the document that a page is, and note when its bytes came."""
    for item in document_parts([text], **origin):
        source.fetched_at[item.id] = fetched_at
        yield item


def _documents(source: Source, response: Response, options: FetchOptions) -> Iterator[Document]:
    html = response.text(options.encoding)
    source.encodings[response.encoding(options.encoding).name] += 1
    plain = html_to_text(html) if "Project Gutenberg" in html[:_HEAD_CHARS] else ""
    if is_gutenberg_text(plain):
        text, origin = _of_gutenberg(source, plain, response.final_url)
    else:
        found = extract(html, response.final_url)
        text, origin = found.text, page_origin(found, response.final_url)
    if not text.strip():
        raise SourceError(
            f"{source.where} is a page without text; it may be filled by a script in the browser.",
            "Save its text in a file and fetch that: gptcli fetch FILE",
        )
    yield from page_documents(source, text, origin, response.fetched_at)


def _of_gutenberg(source: Source, text: str, url: str) -> tuple[str, Origin]:
    """Return the work in a page of Project Gutenberg, and what its header says of it."""
    cleaned = clean_gutenberg(text)
    header = cleaned.header
    source.dropped["lines of header, licence, credits and notes"] += cleaned.dropped_lines
    if cleaned.note:
        source.notes.append(cleaned.note)
    return cleaned.text, Origin(
        title=header.title,
        author=header.author,
        url=url,
        date=header.date,
        language=header.language,
        licence=header.licence,
    )
