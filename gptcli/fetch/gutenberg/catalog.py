"""Project Gutenberg's catalogue: which number the book of a title has.

Reads the CSV file that is published for programs, compressed or not. Knows nothing of where it came from.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gptcli.errors import SourceError

MAX_FIELD = 1 << 17
MAX_CHARS = 512 * 1024**2
MAX_SHOWN = 10
_MAX_DIGITS = 9
_LINE_CHARS = 1 << 20
_COLUMNS = {"Text#", "Title", "Authors", "Language", "Type"}
_SEARCH_HINT = (
    "Search at https://www.gutenberg.org/ebooks/ in a browser, then fetch the number: gptcli fetch gutenberg:1513"
)


class CatalogError(SourceError):
    """What should be the catalogue is none, or is damaged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A book of the catalogue; ``title`` is one line, ``author`` the first, with the given name first."""

    number: int
    title: str
    author: str
    language: str


def find_title(path: Path, words: str, *, label: str = "", language: str | None = None) -> Entry:
    """Return the one book whose title these words are, else the one that has them all in title and author.

    Case, accents, punctuation and a leading article make no difference; ``language`` is a code as the catalogue has
    it. Raises ``SourceError`` when there is none, when there are several (it lists them), and ``CatalogError``.
    """
    wanted = _plain(words)
    ranked: dict[int, list[Entry]] = {}
    for entry in read_catalog(path, label or str(path)):
        if language is None or language in entry.language.split("; "):
            rank = _rank(entry, wanted)
            if rank is not None:
                ranked.setdefault(rank, []).append(entry)
    if not wanted or not ranked:
        among = f" among those in the language {language}" if language else ""
        raise SourceError(f"Project Gutenberg has no book with the title {words!r}{among}.", _SEARCH_HINT)
    found = sorted(ranked[min(ranked)], key=lambda entry: entry.number)
    if len(found) > 1:
        raise _several(words, found)
    return found[0]


def read_catalog(path: Path, label: str) -> Iterator[Entry]:
    """Yield the books that are texts; raises ``CatalogError`` for what is no such catalogue or inflates without end."""
    broken = f"{label} is not the catalogue of Project Gutenberg"
    try:
        with _opened(path) as file:
            csv.field_size_limit(MAX_FIELD)
            rows = csv.DictReader(_lines(file, label))
            if missing := _COLUMNS - set(rows.fieldnames or ()):
                raise CatalogError(f"{broken}: the column {min(missing)} is missing.", _SEARCH_HINT)
            yield from (_entry(row) for row in rows if row["Type"] == "Text" and _is_number(row["Text#"] or ""))
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        raise CatalogError(f"{broken}, or damaged ({error}).", _SEARCH_HINT) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        raw = gzip.GzipFile(fileobj=file) if compressed else file
        with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
            yield text


def _lines(file: IO[str], label: str) -> Iterator[str]:
    total = 0
    while line := file.readline(_LINE_CHARS):
        total += len(line)
        if total > MAX_CHARS:
            raise CatalogError(f"{label} is larger than {MAX_CHARS:,} characters when it is inflated.", _SEARCH_HINT)
        yield line


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MAX_DIGITS


def _entry(row: dict[str, str]) -> Entry:
    title = ": ".join(line for part in (row["Title"] or "").splitlines() if (line := " ".join(part.split())))
    author = (row["Authors"] or "").split(";")[0]
    return Entry(int(row["Text#"]), title, _given_name_first(author), row["Language"] or "")


def _given_name_first(author: str) -> str:
    """Turn ``Carroll, Lewis, 1832-1898`` around; years, roles and names spelled out go."""
    named = re.sub(r"\s*\([^)]*\)|\s*\[[^\]]*\]", "", author)
    parts = [part.strip() for part in named.split(",") if not re.search(r"\d|\bBCE\b", part)]
    return " ".join([*parts[1:2], *parts[:1], *parts[2:]]).strip()


def _rank(entry: Entry, wanted: str) -> int | None:
    """Return how well a book fits, 0 the best, or None."""
    title = _plain(entry.title)
    if title == wanted:
        return 0
    if _plain(re.split(r"[:;]|, or\b|\(", entry.title)[0]) == wanted:
        return 1
    words = set(wanted.split())
    if words <= set(title.split()):
        return 2 if wanted in title else 3
    return 4 if words <= {*title.split(), *_plain(entry.author).split()} else None


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    words = re.sub(r"[^\w\s]|_", " ", re.sub(r"['\u2019\u0300-\u036f]", "", letters)).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in {"the", "a", "an"} else words)


def _several(words: str, found: list[Entry]) -> SourceError:
    lines = [
        f"  gptcli fetch gutenberg:{entry.number}   {entry.title[:80]}"
        + (f", by {entry.author}" if entry.author else "")
        + (f" ({entry.language})" if entry.language != "en" else "")
        for entry in found[:MAX_SHOWN]
    ]
    more = f"\n  and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    listed = "\n".join(lines)
    return SourceError(
        f"{len(found)} books of Project Gutenberg go by {words!r}:\n{listed}{more}",
        "Fetch one by its number, or give more of its title and author.",
    )
