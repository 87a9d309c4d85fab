"""When the bytes behind each document came, beside the documents; and what changed between two fetches.

``documents.jsonl`` depends on what was fetched alone, so the clock is kept here: ``provenance.jsonl`` has a line for
each document in the same order. Knows no kind of source.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gptcli.documents import MAX_LINE_BYTES, Document, read_documents
from gptcli.errors import FormatError

FORMAT_VERSION = 1
PROVENANCE = "provenance.jsonl"
# Above this many documents two fetches are not compared one by one: their names would fill the memory.
MAX_COMPARED = 200_000


@dataclass(slots=True)
class Provenance:
    """Writes a line for each document that passes: id, title, url, SHA-256 of its whole text, when it was fetched.

    ``seen`` collects address or title by id, to be compared with another fetch.
    """

    file: IO[bytes]
    fetched_at: Mapping[str, str]
    now: str
    seen: dict[str, str] = field(default_factory=dict)

    def watch(self, items: Iterable[Document]) -> Iterator[Document]:
        """Yield the documents as they are; the parts of a long one are one line."""
        self.file.write(json.dumps({"format_version": FORMAT_VERSION}).encode() + b"\n")
        first: Document | None = None
        digest = hashlib.sha256()
        for item in items:
            if item.part == 0:
                self._write(first, digest.hexdigest())
                first, digest = item, hashlib.sha256()
            digest.update(item.text.encode())
            yield item
        self._write(first, digest.hexdigest())

    def is_that_of(self, path: Path) -> bool:
        """Say whether a file has lines for the documents that passed."""
        return path.exists() if len(self.seen) > MAX_COMPARED else read_provenance(path).keys() == self.seen.keys()

    def _write(self, item: Document | None, sha256: str) -> None:
        if item is None:
            return
        if len(self.seen) <= MAX_COMPARED:
            self.seen[item.id] = item.url or item.title
        line = {
            "id": item.id,
            "title": item.title,
            "url": item.url,
            "sha256": sha256,
            "fetched_at": self.fetched_at.get(item.id, self.now),
        }
        known = {key: value for key, value in line.items() if value}
        self.file.write(json.dumps(known, ensure_ascii=False).encode() + b"\n")


def read_provenance(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines by id of document; nothing where the file is missing or damaged, since it only informs."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                value = json.loads(line)
                if "id" in value:
                    found[str(value["id"])] = value
    except (OSError, ValueError, TypeError, RecursionError):
        return found
    return found


def names_by_id(documents: Path) -> dict[str, str] | None:
    """Return address or title of each document by id, or None where there are too many or they cannot be read."""
    found: dict[str, str] = {}
    try:
        for item in read_documents(documents):
            if item.part == 0:
                found[item.id] = item.url or item.title
            if len(found) > MAX_COMPARED:
                return None
    except FormatError:
        return None
    return found


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, int]:
    """Count what is new, changed and gone between two fetches, by what is named the same and has another text."""
    came = [name for key, name in after.items() if key not in before]
    went = {name for key, name in before.items() if key not in after}
    changed = {name for name in came if name in went and name}
    gone = sum(name not in changed for key, name in before.items() if key not in after)
    return {"new": sum(name not in changed for name in came), "changed": len(changed), "gone": gone}
