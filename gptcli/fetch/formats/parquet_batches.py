"""The rows of a parquet file, a few at a time and never more than memory holds, whatever they unpack to.

A dictionary of one long text makes gigabytes of a few bytes, and so does a page of zeros. What pages unpack to is known
before they are read, and what rows become is counted before they are Python's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from gptcli.errors import SourceError
from gptcli.fetch.formats.parquet_pages import (
    DELTA_BYTE_ARRAY,
    DICTIONARY,
    Chunk,
    RowGroup,
    read_pages,
    read_row_groups,
)

BATCH_ROWS = 64
# As for gzip: text is seldom packed tighter than 1:50, and texts that come again and again seldom beyond this.
MAX_RATIO = 250
FREE_BYTES = 64 * 1024 * 1024
_BUFFER_BYTES = 1 << 20
_RUN_ROWS = 4096
_DICTIONARY_ROWS = 512
# What one value inside a list takes beside its text: its levels, and its place in a dictionary or among the texts.
_VALUE_BYTES = 8
_TEXTS = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")


def open_parquet(path: Path, **options: Any) -> Any:  # noqa: ANN401 - pyarrow is imported inside functions only
    """Open a file for reading a little at a time: whole row groups of some data sets do not fit into memory."""
    from pyarrow import parquet

    return parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES, **options)


def row_batches(path: Path, columns: Sequence[str], label: str) -> Iterator[Any]:
    """Yield the rows of columns as Arrow's record batches, of one row where one is long; columns have dotted names.

    Raises ``SourceError`` that names the file by ``label`` for one that is a bomb: more than 64 MiB inside, and 250
    times what it takes on disk. Damage raises what Arrow raises, or ``ValueError``.
    """
    limit = max(FREE_BYTES, MAX_RATIO * path.stat().st_size)
    unpacked = size = 0
    with open_parquet(path) as opened, path.open("rb") as file:
        row_groups = read_row_groups(file)
        for run in _runs(row_groups):
            groups = [_chunks(file, opened.schema, row_groups[group], columns) for group in run]
            unpacked += sum(chunk.unpacked for chunks in groups for chunk in chunks)
            if unpacked > limit or any(chunk.is_bomb for chunks in groups for chunk in chunks):
                raise _bomb(label, limit)
            for batch in _read(path, opened.metadata, run, columns, groups):
                counted = sum(map(_counted, batch.columns))
                size += counted
                if size > limit:
                    raise _bomb(label, limit)
                rows = 1 if counted > FREE_BYTES else BATCH_ROWS
                yield from (_dense(batch.slice(start, rows)) for start in range(0, batch.num_rows, rows))


def first_rows(batches: Iterator[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the first rows to choose columns by: as many as one batch may have, fewer where they are long."""
    rows: list[dict[str, Any]] = []
    size = 0
    for row in chain.from_iterable(batches):
        rows.append(row)
        size += _length(row)
        if len(rows) == BATCH_ROWS or size > FREE_BYTES:
            break
    return rows


def _length(value: object) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_length, inside))


class _Pages:
    """What the pages of one column in one row group come to.

    ``longest`` is what one of its values may take, where Arrow makes more of it than its own bytes on a page.
    """

    def __init__(self, file: IO[bytes], column: Any, chunk: Chunk) -> None:  # noqa: ANN401
        in_list = column.max_repetition_level > 0
        self.path = column.path
        self.unpacked = self.longest = 0
        self.is_bomb = False
        encodings = set()
        for page in read_pages(file, chunk):
            self.unpacked += page.unpacked + (_VALUE_BYTES * page.values if in_list else 0)
            self.is_bomb |= page.unpacked > max(FREE_BYTES, MAX_RATIO * page.packed)
            encodings.add(DICTIONARY if page.kind == DICTIONARY else page.encoding)
            if column.physical_type in _TEXTS and (page.kind == DICTIONARY or page.encoding == DELTA_BYTE_ARRAY):
                self.longest = max(self.longest, page.unpacked)
        # A row has no end to its lists, so what is in them stays in its dictionary; Arrow can do so without deltas.
        self.keeps_dictionary = in_list and column.physical_type == _TEXTS[0] and DELTA_BYTE_ARRAY not in encodings
        if self.keeps_dictionary:
            self.longest = 0


def _chunks(file: IO[bytes], schema: Any, group: RowGroup, columns: Sequence[str]) -> list[_Pages]:  # noqa: ANN401
    leaves = [schema.column(leaf) for leaf in range(len(schema))]
    return [
        _Pages(file, leaf, chunk)
        for leaf, chunk in zip(leaves, group.chunks, strict=True)
        if any(leaf.path == column or leaf.path.startswith(f"{column}.") for column in columns)
    ]


def _runs(groups: list[RowGroup]) -> Iterator[list[int]]:
    """Yield the row groups, several together where they are small, so that batches are not."""
    run: list[int] = []
    rows = 0
    for number, group in enumerate(groups):
        run.append(number)
        rows += group.n_rows
        if rows >= _RUN_ROWS:
            yield run
            run, rows = [], 0
    if run:
        yield run


def _read(
    path: Path,
    metadata: Any,  # noqa: ANN401
    run: list[int],
    columns: Sequence[str],
    groups: list[list[_Pages]],
) -> Iterator[Any]:
    """Yield batches of some row groups, of so many rows that the longest of values in each would do."""
    without = {chunk.path for chunks in groups for chunk in chunks if not chunk.keeps_dictionary}
    kept = sorted({chunk.path for chunks in groups for chunk in chunks} - without)
    longest = max(sum(chunk.longest for chunk in chunks) for chunks in groups)
    # Each batch has the whole dictionary again, so there should be few.
    rows = max(1, min(_DICTIONARY_ROWS if kept else BATCH_ROWS, FREE_BYTES // max(longest, 1)))
    with open_parquet(path, metadata=metadata, read_dictionary=kept) as opened:
        # Row groups have dictionaries of their own, and Arrow cannot have two of them in one list.
        for together in [[group] for group in run] if kept else [run]:
            yield from opened.iter_batches(
                batch_size=rows, row_groups=together, columns=list(columns), use_threads=False
            )


def _dense(batch: Any) -> Any:  # noqa: ANN401
    """Return a batch without dictionaries, which Python lists much faster; it was counted before."""
    import pyarrow as pa

    kinds = [_dense_type(field.type) for field in batch.schema]
    if kinds == batch.schema.types:
        return batch
    try:
        return pa.table(
            [column.cast(kind) for column, kind in zip(batch.columns, kinds, strict=True)], batch.schema.names
        )
    except pa.ArrowNotImplementedError:  # of old versions
        return batch


def _dense_type(kind: Any) -> Any:  # noqa: ANN401
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_dense_type(field.type)) for field in kind.fields])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inside = kind.value_field.with_type(_dense_type(kind.value_type))
        return pa.list_(inside) if pa.types.is_list(kind) else pa.large_list(inside)
    return kind


def _counted(array: Any) -> int:  # noqa: ANN401
    """Return how many bytes the values of a column have once each of them is its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        values = _texts(array.dictionary)
        known = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
        if values.type not in known:
            return _VALUE_BYTES * len(array)
        lengths = pc.take(pc.binary_length(values), array.indices)
        return _VALUE_BYTES * len(array) + int(pc.sum(lengths).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_counted, array.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return _VALUE_BYTES * len(array) + _counted(array.flatten())
    return int(_texts(array).nbytes)


def _texts(array: Any) -> Any:  # noqa: ANN401
    """Return an array whose texts are one after the other: those of a view may all be the same bytes."""
    import pyarrow as pa

    is_view = pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type)
    return array.cast(pa.large_binary()) if is_view else array


def _bomb(label: str, limit: int) -> SourceError:
    return SourceError(
        f"{label} unpacks to more than {limit:,} bytes, which no text does; it was not read on.",
        "If it is really text, write it as JSON Lines and fetch that.",
    )
