"""Plain text and web pages; a book of Project Gutenberg comes without what is not the book."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gptcli.documents import Document, Origin, document_parts
from gptcli.fetch.extract import extract
from gptcli.fetch.formats.input import Input
from gptcli.fetch.gutenberg.text import clean_gutenberg, is_gutenberg_text
from gptcli.fetch.html import html_to_text

# Cleaning a book takes some ten times its size; larger files are shelves of books, or anything else.
MAX_BOOK_BYTES = 32 * 1024 * 1024


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
            f"{file.label}: this begins like a book of Project Gutenberg, and was kept as it is for its size."
        )
    yield from document_parts(itertools.chain([head], pieces), title=file.title, url=file.url)


def read_html(file: Input) -> Iterator[Document]:
    """Yield the main text of a web page, or all of a book of Project Gutenberg, as one document."""
    html = file.whole(what="a web page", markup=True)
    if "gutenberg" in html.lower():
        text = html_to_text(html)
        if is_gutenberg_text(text):
            yield from book_documents(file, text, Origin())
            return
    page = extract(html, file.url)
    origin = Origin(title=page.title, author=page.author, date=page.date, language=page.language, licence=page.licence)
    yield from document_parts([page.text], **file.origin(origin))


def book_documents(file: Input, text: str, origin: Origin) -> Iterator[Document]:
    """Yield a book as one document; of one of Project Gutenberg the work alone, with what its header says of it."""
    if is_gutenberg_text(text):
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
