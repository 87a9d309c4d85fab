"""A plain-text file on the web: one document. Web pages are not for this module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch.http import FILE_HINT, download, without_login
from gptcli.fetch.local import file_document, guessed_note
from gptcli.fetch.source import Source
from gptcli.fetch.text import choose_encoding

HTML_TYPES = {"text/html", "application/xhtml+xml"}


def open_url(url: str, encoding: str | None, on_progress: Callable[[str], None], sha256: str | None = None) -> Source:
    """Open a plain-text address; ``sha256`` is what its bytes must have.

    Reading it raises ``SourceError`` when it cannot be downloaded, is a web page or binary, or has another SHA-256.
    """
    where = without_login(url)
    try:
        parts = urlsplit(where)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise SourceError(f"{where} names no host.", "Write it like gptcli fetch https://example.org/book.txt.")
    title = PurePosixPath(unquote(parts.path)).stem
    source = Source("url", title or host, where)
    source.documents = _documents(source, url, title, encoding, on_progress, sha256)
    return source


def _documents(
    source: Source,
    url: str,
    title: str,
    encoding: str | None,
    on_progress: Callable[[str], None],
    sha256: str | None,
) -> Iterator[Document]:
    where = source.where
    on_progress(f"downloading {where}")
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
        path = Path(folder) / "body"
        got = download(url, path, on_progress=on_progress)
        if got.bytes == 0:
            raise SourceError(f"{where} is empty.", FILE_HINT)
        if sha256 is not None and got.sha256 != sha256:
            raise SourceError(
                f"{where} is not the text this recipe was written for: its SHA-256 is {got.sha256}, "
                f"{sha256} was expected.",
                f"If the new text is fine too, fetch it by its address: gptcli fetch {where}",
            )
        if got.content_type in HTML_TYPES or _begins_as_html(path):
            raise SourceError(
                f"{where} is a web page (HTML), and plain text was expected.",
                "Save its text to a file and fetch that: gptcli fetch FILE",
            )
        chosen = choose_encoding(path, encoding, label=where, declared=got.charset)
        if chosen.guessed:
            source.notes.append(guessed_note([where], chosen.name))
        yield from file_document(source, path, label=where, title=title, encoding=chosen, url=where)


def _begins_as_html(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head.startswith((b"<!doctype html", b"<html"))
