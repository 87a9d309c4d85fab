"""What the pages of a parquet file say of their sizes, read without unpacking any of them.

The footer of a file may lie, since nobody unpacks by it. Page headers cannot: a page is unpacked into as many bytes as
its header says, and not one more. The layout is that of https://parquet.apache.org/docs/file-format/ and of the compact
protocol of Thrift. Knows no columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

DICTIONARY = 2
DELTA_BYTE_ARRAY = 7
_DATA, _DATA_V2 = 0, 3
_FIRST_BYTES, _MAX_BYTES = 1 << 10, 16 << 20
_MAX_DEPTH = 16
_TAIL_BYTES = 8
# The types of Thrift's compact protocol.
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)


@dataclass(frozen=True, slots=True)
class Page:
    """One page: bytes on disk and unpacked, how many values it has (nulls too), and how they are encoded."""

    kind: int
    packed: int
    unpacked: int
    values: int
    encoding: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where the pages of one column in one row group lie, and how many values they have."""

    start: int
    n_bytes: int
    values: int


@dataclass(frozen=True, slots=True)
class RowGroup:
    """How many rows a row group has, and its columns in the order of the schema."""

    n_rows: int
    chunks: tuple[Chunk, ...]


def read_row_groups(file: IO[bytes]) -> list[RowGroup]:
    """Return what the footer of a file says of its row groups; raises ``ValueError`` where it is damaged.

    Arrow knows it too, but ends the process for some damage when it is asked.
    """
    size = file.seek(0, 2)
    file.seek(max(size - _TAIL_BYTES, 0))
    length = int.from_bytes(file.read(4), "little")
    if size < length + _TAIL_BYTES:
        raise ValueError("its footer is cut off")
    file.seek(size - _TAIL_BYTES - length)
    try:
        fields, _ = _struct(file.read(length), 0)
        return [RowGroup(int(group[3]), tuple(_chunk(column[3]) for column in group[1])) for group in fields.get(4, [])]
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("its footer is none") from error


def _chunk(about: dict[int, Any]) -> Chunk:
    """Return where a column begins: with its dictionary, where that comes before its data, as Arrow has it."""
    start, dictionary = int(about[9]), int(about.get(11, 0))
    return Chunk(dictionary if 0 < dictionary < start else start, int(about[7]), int(about[5]))


def read_pages(file: IO[bytes], chunk: Chunk) -> Iterator[Page]:
    """Yield the pages of a column until its bytes or its values are at their end.

    Raises ``ValueError`` for anything that is not the header of a page.
    """
    at, seen = chunk.start, 0
    while at < chunk.start + chunk.n_bytes and seen < chunk.values:
        page, size = _read_header(file, at)
        yield page
        at += size + page.packed
        seen += page.values if page.kind != DICTIONARY else 0


def _read_header(file: IO[bytes], at: int) -> tuple[Page, int]:
    """Return a page by its header, and how long the header is: it may hold the least and the greatest text."""
    length = _FIRST_BYTES
    while True:
        file.seek(max(at, 0))
        data = file.read(length)
        try:
            fields, size = _struct(data, 0)
        except IndexError as error:
            if len(data) < length or length >= _MAX_BYTES:
                raise ValueError("a page of it has no whole header") from error
            length *= 8
            continue
        return _page(fields), size


def _page(fields: dict[int, Any]) -> Page:
    kind = fields.get(1)
    inside = fields.get({_DATA: 5, DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0) if isinstance(kind, int) else 0, {})
    if not isinstance(inside, dict):
        raise ValueError("the header of a page is none")
    encoding = inside.get(4 if kind == _DATA_V2 else 2, 0)
    found = (kind, fields.get(3), fields.get(2), inside.get(1, 0), encoding)
    numbers = [number for number in found if isinstance(number, int) and 0 <= number < 2**31]
    if len(numbers) < len(found):
        raise ValueError("the header of a page is none")
    return Page(*numbers)


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by number, and where it ends; raises ``IndexError`` where the bytes do not do."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[at]) != _STOP:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        kind = head & 15
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """Return a value and where it ends; None for what no page is judged by."""
    if depth > _MAX_DEPTH:
        raise ValueError("the header of a page is nested too deep")
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):
        return None, at + (8 if kind == _DOUBLE else 1)
    if kind == _BINARY:
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if kind in (_LIST, _SET):
        count, inner = data[at] >> 4, data[at] & 15
        count, at = _varint(data, at + 1) if count == 15 else (count, at + 1)
        return _values(data, at, [inner] * min(count, len(data)), depth)
    if kind == _MAP:
        count, at = _varint(data, at)
        pair = [data[at] >> 4, data[at] & 15] if count else []
        return _values(data, at + bool(count), pair * min(count, len(data)), depth)
    raise ValueError("the header of a page has values of an unknown type")


def _values(data: bytes, at: int, kinds: list[int], depth: int) -> tuple[list[Any], int]:
    values = []
    for kind in kinds:
        value, at = _value(data, at, kind, depth + 1)
        values.append(value)
    return values, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("the header of a page has a number without an end")


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
