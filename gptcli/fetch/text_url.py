"""A plain text on the web: one document. Web pages and other files are not for this module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from gptcli.documents import Document, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.formats import read_file
from gptcli.fetch.gutenberg.text import is_gutenberg_text
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Plan, Source
from gptcli.fetch.text import decode_pieces, guessed_note
from gptcli.fetch.web.http import FILE_HINT
from gptcli.fetch.web.response import Response
from gptcli.fetch.web.urls import without_login


def open_text(where: str, response: Response, options: FetchOptions) -> Source:
    """Open the plain text that came from the address ``where``.

    Raises ``SourceError`` when it is empty; reading it does when it is binary or not in the encoding asked for.
    """
    where = without_login(where)
    if response.bytes == 0:
        raise SourceError(f"{where} is empty.", FILE_HINT)
    parts = urlsplit(where)
    title = PurePosixPath(unquote(parts.path)).stem
    source = Source("text", title or parts.hostname or "text", where)
    source.plan = lambda: Plan((f"read {where}, which is here already",), bytes=response.bytes)
    source.documents = _documents(source, response, title, options)
    return source


def expect_sha256(response: Response, sha256: str, where: str) -> None:
    """Raise ``SourceError`` where a recipe was written for other bytes than came."""
    if response.sha256 != sha256:
        raise SourceError(
            f"{where} is not the text this recipe was written for: its SHA-256 is {response.sha256}, "
            f"{sha256} was expected.",
            f"If the new text is fine too, fetch it by its address: gptcli fetch {where}",
        )


def _documents(source: Source, response: Response, title: str, options: FetchOptions) -> Iterator[Document]:
    where = source.where
    chosen = response.encoding(options.encoding)
    pieces = decode_pieces(response.path, chosen, label=where)
    head = next(pieces, "")
    if is_gutenberg_text(head) and options.as_kind != "text":
        items = read_file(
            response.path, suffix=".txt", label=where, title=title, source=source, options=options, url=where
        )
    else:
        source.encodings[chosen.name] += 1
        if chosen.guessed:
            source.notes.append(guessed_note([where], chosen.name))
        if chosen.errors == "replace":
            source.notes.append(f"{where}: bytes that are not {chosen.name} became U+FFFD.")
        items = document_parts(itertools.chain([head], pieces), title=title, url=where)
    for item in items:
        source.fetched_at[item.id] = response.fetched_at
        yield item
