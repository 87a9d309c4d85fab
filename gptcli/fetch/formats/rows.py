"""Rows of any table to documents: the fields are chosen from the first of them, the rest stream by."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gptcli.documents import Document, document
from gptcli.errors import SourceError
from gptcli.fetch.formats.input import Input, NoTextError, parts_of
from gptcli.fetch.records import TextFields, choose_fields, clean_text, record_document

SAMPLE_ROWS = 100
SAMPLE_CHARS = 16 * 1024 * 1024


def row_documents(file: Input, values: Iterable[Any], fields: TextFields | None = None) -> Iterator[Document]:
    """Yield a document for each value that has text: an object, a string, or an array of strings such as title, body.

    ``fields`` are those of the objects, where they are chosen already. Raises ``NoTextError`` when no field of the
    objects looks like text, ``SourceError`` when one that was asked for is not there.
    """
    values = iter(values)
    sample = _sample(values)
    records = [value for value in sample if isinstance(value, Mapping)]
    if fields is None and records:
        fields = fields_of(file, records)
    for value in itertools.chain(sample, values):
        item = _document(value, fields)
        if item is None:
            file.source.dropped["rows without text"] += 1
        else:
            yield from parts_of(item if item.url else replace(item, url=file.url))


def _sample(values: Iterator[Any]) -> list[Any]:
    """Take the first values, fewer where they are long."""
    sample: list[Any] = []
    size = 0
    for value in values:
        sample.append(value)
        size += sum(len(part) for part in value.values() if isinstance(part, str)) if isinstance(value, dict) else 0
        if len(sample) >= SAMPLE_ROWS or size > SAMPLE_CHARS:
            break
    return sample


def fields_of(file: Input, sample: Sequence[Mapping[str, Any]]) -> TextFields:
    """Choose the fields of the text and its origin; raises as ``row_documents`` does."""
    wanted = file.options.text_fields
    try:
        return choose_fields(sample, wanted, file.label)
    except SourceError as error:
        if wanted:
            raise
        raise NoTextError(error.message, error.hint) from error


def _document(value: object, fields: TextFields | None) -> Document | None:
    if isinstance(value, Mapping):
        return record_document(value, fields) if fields else None
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    cleaned = [text for part in texts if isinstance(part, str) and (text := clean_text(part))]
    if not cleaned:
        return None
    return document("\n\n".join(cleaned), title=cleaned[0] if len(cleaned) == 2 and "\n" not in cleaned[0] else "")
