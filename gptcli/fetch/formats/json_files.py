"""JSON files: lines of JSON, an array of records, or an object that holds one; all but the last as a stream."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch.conversations import choose_chat_fields
from gptcli.fetch.formats.input import Input, NoTextError
from gptcli.fetch.formats.rows import row_documents
from gptcli.fetch.json_api.items import find_items, records_at
from gptcli.fetch.json_api.page import LINES_SUFFIXES
from gptcli.fetch.text import lines_of

MAX_RECORD_CHARS = 64 * 1024 * 1024
_BLANK = re.compile(r"[ \t\n\r]*")
# An error so near to the end of what was read may be one of not having read on.
_NEAR_END = 32


def read_json_lines(file: Input) -> Iterator[Document]:
    """Yield a document for each line of JSON; see ``row_documents`` for what is the text.

    Raises ``SourceError`` that names the first line that is no JSON.
    """
    yield from row_documents(file, _lines(file, file.pieces()))


def read_json(file: Input) -> Iterator[Document]:
    """Yield a document for each record of a JSON file: a list, an object with a list, or lines of JSON after all.

    Raises ``NoTextError`` for JSON that has no list of records in it, ``SourceError`` for what is no JSON.
    """
    pieces = file.pieces()
    head = next(pieces, "").lstrip()
    if not head:  # blank, as an empty text is
        return
    pieces = itertools.chain([head], pieces)
    if file.options.items is None and head.startswith("["):
        yield from row_documents(file, _array(file, pieces))
    elif file.options.items is None and _is_json_lines(head, file.label):
        yield from row_documents(file, _lines(file, pieces))
    else:
        yield from row_documents(file, _listed(file, pieces))


def _lines(file: Input, pieces: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines_of(pieces, max_chars=MAX_RECORD_CHARS, label=file.label), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{file.label}:{number}: this line is not JSON ({_reason(error)}).",
                f"If the file is one JSON value instead of a line for each: gptcli fetch {file.label} --as json",
            ) from error


def _is_json_lines(head: str, label: str) -> bool:
    """Say whether the first line is a JSON value by itself, and others follow; by the name of the file, none need."""
    line, _, rest = head.partition("\n")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return bool(rest.strip()) or label.lower().removesuffix(".gz").endswith(LINES_SUFFIXES)


def _listed(file: Input, pieces: Iterable[str]) -> Iterator[Any]:
    """Yield the records of an object, which has to be in memory as a whole."""
    text = ""
    for piece in pieces:
        text += piece
        if len(text) > MAX_RECORD_CHARS:
            raise SourceError(
                f"{file.label} is a JSON object of more than {MAX_RECORD_CHARS:,} characters, too much at once.",
                f"Save its list as JSON lines: jq -c '.{file.options.items or 'items'}[]' {file.label} > lines.jsonl",
            )
    try:
        body = json.loads(text)
        if file.options.items is None and isinstance(body, dict) and choose_chat_fields([body], file.label):
            yield body  # its list is what was said, not one of records
            return
        path = find_items(body, file.options.items, file.label)
        records, others = records_at(body, path, file.label)
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{file.label} is not JSON ({_reason(error)}).",
            f"Read it as the plain text that it is: gptcli fetch {file.label} --as text",
        ) from error
    except SourceError as error:
        if file.options.items is not None:
            raise
        raise NoTextError(error.message, error.hint) from error
    file.source.dropped["rows without text"] += others
    yield from records


def _array(file: Input, pieces: Iterable[str]) -> Iterator[Any]:
    """Yield the elements of the list that a file is, reading on where one does not end yet."""
    pieces = iter(pieces)
    decoder = json.JSONDecoder()
    text = next(pieces)
    at, count = 1, 0
    problem: Exception | None
    while True:
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(text, at)
            end = _skip(text, end)
            problem = (
                None if text[end : end + 1] in {",", "]"} else json.JSONDecodeError("no comma or ] follows", text, end)
            )
        except (ValueError, RecursionError) as error:
            problem, value, end = error, None, at
        if problem is None:
            yield value
            count, at = count + 1, end + (text[end] == ",")
            continue
        # Twice as much each time, so that one long element is not read over and over.
        more = "".join(itertools.islice(pieces, 1 + (len(text) - at >> 20))) if _may_go_on(problem, text) else ""
        if not more or len(text) - at > MAX_RECORD_CHARS:
            raise SourceError(
                f"{file.label} is not JSON from element {count + 1:,} of its list on ({_reason(problem)}).",
                "Get the file again, or leave it out.",
            ) from problem
        text, at = text[at:] + more, 0


def _may_go_on(problem: Exception, text: str) -> bool:
    """Say whether an error may be one of a value that goes on in the next piece of the file."""
    if not isinstance(problem, json.JSONDecodeError):
        return False
    return problem.pos > len(text) - _NEAR_END or problem.msg.startswith("Unterminated string")


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg[:1].lower() + error.msg[1:]
    return "too deeply nested" if isinstance(error, RecursionError) else str(error)
