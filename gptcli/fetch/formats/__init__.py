"""Files of many formats to documents, whether they lie on this machine or came from the web.

Here it is decided which reader a file gets, by its name, else by how it begins; each reader is a module of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch.formats.epub import read_epub
from gptcli.fetch.formats.gzipped import Gzipped
from gptcli.fetch.formats.input import Input, NoTextError
from gptcli.fetch.formats.json_files import read_json, read_json_lines
from gptcli.fetch.formats.markdown import read_markdown
from gptcli.fetch.formats.parquet import read_parquet
from gptcli.fetch.formats.pdf import read_pdf
from gptcli.fetch.formats.plain import read_book, read_html, read_plain, read_verbatim
from gptcli.fetch.formats.subtitles import read_subtitles
from gptcli.fetch.formats.tables import read_csv, read_tsv
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source

__all__ = ["SUFFIXES", "NoTextError", "read_file", "suffix_of"]

_READERS: Mapping[str, Callable[[Input], Iterator[Document]]] = {
    **dict.fromkeys((".txt", ".text"), read_plain),
    **dict.fromkeys((".md", ".markdown", ".mdx"), read_markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
    **dict.fromkeys((".jsonl", ".ndjson", ".nl-json", ".jsonlines"), read_json_lines),
    **dict.fromkeys((".tsv", ".tab"), read_tsv),
    **dict.fromkeys((".srt", ".vtt"), read_subtitles),
    **dict.fromkeys((".parquet", ".pq"), read_parquet),
    ".csv": read_csv,
    ".json": read_json,
    ".epub": read_epub,
    ".pdf": read_pdf,
}
# What the user may insist on, whatever a file is called.
_AS: Mapping[str, Callable[[Input], Iterator[Document]]] = {
    "text": read_verbatim,
    "page": read_html,
    "json": read_json,
    "gutenberg": read_book,
}
# These are read from the file itself; the others from its text, which may be packed.
_PACKED_ALREADY = frozenset({".epub", ".pdf", ".parquet", ".pq"})
# The suffixes of the files that `read_file` knows; any other is read as text.
SUFFIXES = frozenset(_READERS) | {".gz"}


def read_file(
    path: Path, *, suffix: str, label: str, title: str, source: Source, options: FetchOptions, url: str = ""
) -> Iterator[Document]:
    """Yield the documents of one file: one for a text or a book, one for each row of a table.

    ``suffix`` says what it is (as ``suffix_of`` does; ``.gz`` takes the rest from the label); of an unknown one, the
    first bytes decide, and what they do not tell is text. ``options.as_kind`` overrules both. ``label`` is what
    messages call the file, ``title`` what its document is called unless it knows better. Raises ``SourceError`` for
    what cannot be read or is empty; notes, encodings and what was dropped go to ``source``.
    """
    packed = suffix.lower().endswith(".gz")
    if suffix.lower() == ".gz":  # what is inside, the whole name tells; an address may go on behind it
        suffix = suffix_of(re.split(r"[?#]", label)[0] if url else label)
    file = Input(path, Gzipped(path, label) if packed else path, label, title, url, source, options)
    head = file.head()
    if not head:
        raise SourceError(
            f"{label} is empty.", "Put a text into it first. Of a folder, gptcli fetch FOLDER leaves empty files out."
        )
    yield from _reader(suffix.lower().removesuffix(".gz"), head, packed=packed, options=options)(file)


def suffix_of(name: str) -> str:
    """Return the suffix that says what a file is, in lower case: ``.csv``, ``.csv.gz``."""
    path = Path(name.lower())
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def _reader(suffix: str, head: bytes, *, packed: bool, options: FetchOptions) -> Callable[[Input], Iterator[Document]]:
    wanted = options.as_kind or ""
    if wanted in _AS and not (wanted == "gutenberg" and suffix == ".epub"):
        return _AS[wanted]
    if suffix not in _READERS or (packed and suffix in _PACKED_ALREADY):
        suffix = ".json" if wanted == "chat" else "" if packed else _sniffed(head)
    return _READERS.get(suffix, read_plain)


def _sniffed(head: bytes) -> str:
    """Return the suffix that a file should have that begins like this; nothing for text."""
    if head.startswith(b"PK\x03\x04") and b"mimetypeapplication/epub+zip" in head[:100]:
        return ".epub"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    known = {b"%pdf-": ".pdf", b"par1": ".parquet", b"webvtt": ".vtt", b"<!doctype html": ".html", b"<html": ".html"}
    return next((suffix for magic, suffix in known.items() if start.startswith(magic)), "")
