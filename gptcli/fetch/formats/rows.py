"""Rows of any table to documents: the fields are chosen from the first of them, the rest stream by."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gptcli.documents import Document, document, from_json, origin_of
from gptcli.errors import SourceError
from gptcli.fetch.conversations import ChatFields, MixedError, choose_any_fields, record_conversation
from gptcli.fetch.formats.input import Input, NoTextError, parts_of
from gptcli.fetch.records import TextFields, clean_text, record_document

SAMPLE_ROWS = 100
SAMPLE_CHARS = 16 * 1024 * 1024
NO_CONVERSATION = "rows that are no conversation"


def row_documents(
    file: Input, values: Iterable[Any], fields: TextFields | ChatFields | None = None
) -> Iterator[Document]:
    """Yield a document for each value that has text: an object, a string, or an array of strings such as title, body.

    ``fields`` are those of the objects, where they are chosen already. Objects that are conversations become some.
    Raises ``NoTextError`` when no field of the objects looks like text, ``SourceError`` when one that was asked for is
    not there.
    """
    values = iter(values)
    sample = _sample(values)
    records = [value for value in sample if isinstance(value, Mapping)]
    if fields is None and (records or file.options.as_kind == "chat"):
        fields = fields_of(file, records)
    if isinstance(fields, ChatFields):
        yield from _conversations(file, itertools.chain(sample, values), fields)
        return
    for value in itertools.chain(sample, values):
        item = _own_conversation(value) or _document(value, fields)
        if item is None:
            file.source.dropped["rows without text"] += 1
        else:
            item = item if item.url else replace(item, url=file.url)
            yield from [item] if item.answers else parts_of(item)


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


def _own_conversation(value: object) -> Document | None:
    """Return a conversation of another corpus, whose lines say where its answers are."""
    if not isinstance(value, Mapping) or not {"id", "text", "answers"} <= value.keys():
        return None
    try:
        found = from_json(value)
    except ValueError:  # somebody else's fields
        return None
    return document(found.text, answers=found.answers, **origin_of(found)) if found.answers else None


def _conversations(file: Input, values: Iterable[Any], fields: ChatFields) -> Iterator[Document]:
    """Yield the conversations, which are never cut into parts."""
    for number, value in enumerate(values, 1):
        if not isinstance(value, Mapping):
            file.source.dropped[NO_CONVERSATION] += 1
            continue
        item = record_conversation(value, fields, file.source.dropped, f"{file.label}, record {number:,}")
        if item is not None:
            yield item if item.url else replace(item, url=file.url)


def fields_of(file: Input, sample: Sequence[Mapping[str, Any]]) -> TextFields | ChatFields:
    """Choose the fields of the text and its origin, or of conversations; raises as ``row_documents`` does."""
    try:
        return choose_any_fields(sample, file.options, file.label, file.source.notes)
    except SourceError as error:
        if file.options.text_fields or file.options.as_kind == "chat" or isinstance(error, MixedError):
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
