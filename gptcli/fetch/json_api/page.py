"""One answer of a JSON API: its records, from JSON of any shape or from JSON lines, and what is said of further pages.

Knows nothing of what comes before and after, nor of documents.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gptcli.errors import SourceError
from gptcli.fetch.json_api.items import as_record, find_items, records_at
from gptcli.fetch.json_api.paging import Answer
from gptcli.fetch.text import decode_pieces, lines_of
from gptcli.fetch.web import Response

SAMPLE = 100
MAX_JSON_BYTES = 128 * 1024 * 1024
MAX_LINE_CHARS = 64 * 1024 * 1024
LINES_SUFFIXES = (".jsonl", ".ndjson", ".nl-json", ".jsonlines")
LINES_TYPES = {
    *("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl"),
    *("application/jsonlines", "application/x-jsonlines", "application/json-lines", "application/json-seq"),
}


@dataclass(slots=True)
class JsonPage:
    """One page: its records, in a list or as a stream, and those of the first hundred that fields are chosen by.

    ``items`` is the dotted path of the records in ``body``. ``count`` (of all elements), ``skipped`` (elements that
    are no records), ``damaged`` (lines that are not JSON) and ``first_damaged`` are complete when ``records`` has
    ended. Pages with the same records have the same ``digest``.
    """

    response: Response
    sample: list[Mapping[str, Any]]
    records: Iterable[Mapping[str, Any]]
    digest: bytes
    body: object = None
    items: str = ""
    count: int = 0
    skipped: int = 0
    damaged: int = 0
    first_damaged: int = 0

    def answer(self) -> Answer:
        """Return what `paging` reads."""
        response = self.response
        return Answer(
            response.final_url, self.body, self.items, self.count, response.link("next"), dict(response.headers)
        )


def read_page(response: Response, label: str, *, wanted: str | None = None, items: str | None = None) -> JsonPage:
    """Parse an answer; ``wanted`` is ``--items``, ``items`` where the records were on the first page.

    Raises ``SourceError`` for what is no JSON, no list, an error of the server, too large, or nested too deeply.
    """
    if has_lines(response):
        return _lines_page(response, label)
    if response.bytes > MAX_JSON_BYTES:
        raise SourceError(
            f"{label} is one piece of JSON of {response.bytes:,} bytes; at most {MAX_JSON_BYTES:,} are read at once.",
            "Download it, and fetch the file, which is read as a stream: gptcli fetch FILE",
        )
    try:
        body = response.json()
        path = find_items(body, wanted, label) if items is None else items
        records, skipped = records_at(body, path, label)
        digest = hashlib.sha256()
        for record in records:
            digest.update(repr(record).encode("utf-8", "replace"))
    except RecursionError:
        raise SourceError(f"{label} is nested too deeply to be read.", "Check the address.") from None
    count = len(records) + skipped
    return JsonPage(response, records[:SAMPLE], records, digest.digest(), body, path, count, skipped)


def has_lines(response: Response) -> bool:
    """Say whether an answer is JSON lines: by its name, or because its first two lines are objects of their own."""
    path = urlsplit(response.final_url).path.lower()
    if response.content_type in LINES_TYPES or path.endswith(LINES_SUFFIXES):
        return True
    with response.path.open("rb") as file:
        lines = [file.readline(1 << 20) for _ in range(2)]
    return all(line.lstrip(b"\xef\xbb\xbf\x1e \t")[:1] in {b"{", b"["} and _json(line) is not None for line in lines)


def _json(line: str | bytes) -> Any:  # noqa: ANN401 - JSON has any type
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines_page(response: Response, label: str) -> JsonPage:
    page = JsonPage(response, [], (), bytes.fromhex(response.sha256))
    records = _line_records(page, label)
    page.sample = list(itertools.islice(records, SAMPLE))
    page.records = itertools.chain(page.sample, records)
    if not page.sample and page.damaged:
        raise SourceError(
            f"{label} should be JSON lines, and line {page.first_damaged:,} is not JSON.", "--as text reads it as text."
        )
    return page


def _line_records(page: JsonPage, label: str) -> Iterator[Mapping[str, Any]]:
    """Yield the records of JSON lines, one line in memory at a time; count what is none."""
    pieces = decode_pieces(page.response.path, page.response.encoding(), label=label)
    for number, line in enumerate(lines_of(pieces, max_chars=MAX_LINE_CHARS, label=label), 1):
        text = line.strip().removeprefix("\x1e")
        if not text:
            continue
        value = _json(text)
        if value is None and text != "null":
            page.damaged += 1
            page.first_damaged = page.first_damaged or number
            continue
        record = as_record(value)
        page.count += 1
        page.skipped += record is None
        if record is not None:
            yield record
