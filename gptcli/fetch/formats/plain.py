"""Plain text and web pages; a book of Project Gutenberg comes without what is not the book."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from gptcli.documents import Document, Origin, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.extract import extract
from gptcli.fetch.formats.input import Input
from gptcli.fetch.gutenberg.text import clean_gutenberg, has_marker, is_gutenberg_text
from gptcli.fetch.html import html_to_text

# Cleaning a book takes some ten times its size; larger files are shelves of books, or anything else.
MAX_BOOK_BYTES = 32 * 1024 * 1024
_HTML = re.compile(r"\ufeff?\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html)\b", re.IGNORECASE)
_TAG = re.compile(r"<(?:!doctype|!--|/?[a-z][a-z0-9]*)\b[^<]*>|<!--", re.IGNORECASE)


def read_verbatim(file: Input) -> Iterator[Document]:
    """Yield a text as it is, as one document."""
    yield from document_parts(file.pieces(), title=file.title, url=file.url)


def read_plain(file: Input) -> Iterator[Document]:
    """Yield a text as one document; a book of Project Gutenberg without header, licence and credits."""
    pieces = file.pieces()
    head = next(pieces, "")
    if is_gutenberg_text(head):
        if file.path.stat().st_size <= MAX_BOOK_BYTES:
            yield from book_documents(file, head + "".join(pieces), Origin())
            return
        file.source.notes.append(
            f"{file.label}: the header of Project Gutenberg was kept, since a file this large is no single book."
        )
    yield from document_parts(itertools.chain([head], pieces), title=file.title, url=file.url)


def read_html(file: Input) -> Iterator[Document]:
    """Yield the main text of a web page, or all of a book of Project Gutenberg, as one document.

    Raises ``SourceError`` for a file without a tag that the user said is a page.
    """
    html = file.whole(what="a web page", markup=True)
    if file.options.as_kind == "page" and _TAG.search(html) is None:
        raise SourceError(
            f"{file.label} is not a web page: there is no HTML in it.",
            f"Read it as the plain text that it is: gptcli fetch {file.label} --as text",
        )
    if "gutenberg" in html.lower():
        text = html_to_text(html)
        if is_gutenberg_text(text):
            yield from book_documents(file, text, Origin())
            return
    page = extract(html, file.url)
    origin = Origin(title=page.title, author=page.author, date=page.date, language=page.language, licence=page.licence)
    yield from document_parts([page.text], **file.origin(origin))


def read_book(file: Input) -> Iterator[Document]:
    """Yield the work of what the user says is a text of Project Gutenberg, as one document.

    Raises ``SourceError`` for one that has none of its markers anywhere.
    """
    text = file.whole(what="a book", markup=True)
    if _HTML.match(text):
        text = html_to_text(text)
    yield from book_documents(file, text, Origin())


def book_documents(file: Input, text: str, origin: Origin) -> Iterator[Document]:
    """Yield a book as one document; of one of Project Gutenberg the work alone, with what its header says of it.

    Where the user says that it is one, markers anywhere will do; raises ``SourceError`` where there are none.
    """
    insists = file.options.as_kind == "gutenberg"
    if insists and not has_marker(text):
        raise SourceError(
            f"{file.label} has none of the markers of Project Gutenberg, as *** START OF THE PROJECT GUTENBERG EBOOK.",
            f"Read it as any other file: gptcli fetch {file.label} --as local",
        )
    if insists or is_gutenberg_text(text):
        cleaned = clean_gutenberg(text)
        text, header = cleaned.text, cleaned.header
        if cleaned.dropped_lines:
            file.source.dropped["lines of header, licence, credits and notes"] += cleaned.dropped_lines
            file.source.notes.append(f"{file.label}: header, licence and credits of Project Gutenberg were left out.")
        if cleaned.note:
            file.source.notes.append(f"{file.label}: {cleaned.note}")
        origin = Origin(**origin)
        for name in ("title", "author", "date", "language", "licence"):
            if said := getattr(header, name):
                origin[name] = said
    yield from document_parts([text], **file.origin(origin))
