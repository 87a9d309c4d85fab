"""Parquet files: their rows as a stream, of the columns that are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gptcli.documents import Document
from gptcli.fetch.conversations import LISTS
from gptcli.fetch.formats.input import Input, NoTextError
from gptcli.fetch.formats.parquet_batches import first_rows, open_parquet, row_batches
from gptcli.fetch.formats.rows import fields_of, row_documents


def read_parquet(file: Input) -> Iterator[Document]:
    """Yield a document for each row of a parquet file; see ``row_documents`` for what is the text.

    The columns of the text and its origin alone are read, a few rows at a time. Raises ``SourceError`` for a damaged
    file, and for one that unpacks to more than any text.
    """
    columns = _columns(file)
    if not columns:
        raise NoTextError(f"{file.label} has no columns that could hold text.")
    sample = first_rows(_batches(file, columns))
    if not sample:
        return
    fields = fields_of(file, sample)
    needed = [column for column in columns if any(_touch(column, path) for path in fields.paths)]
    yield from row_documents(file, (row for rows in _batches(file, needed) for row in rows), fields)


def _touch(column: str, path: str) -> bool:
    """Say whether a column is needed for a path into the rows: the same, or one inside the other."""
    return f"{path}.".startswith(f"{column}.") or f"{column}.".startswith(f"{path}.")


def _columns(file: Input) -> list[str]:
    """Return the dotted names of the columns that may hold words or dates; of bytes, where there are no words."""
    import pyarrow as pa

    def named(prefix: str, fields: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        for field in fields:
            if pa.types.is_struct(field.type):
                yield from named(f"{prefix}{field.name}.", field.type.fields)
            else:
                yield f"{prefix}{field.name}", field.type

    with _opened(file) as opened:
        found = list(named("", list(opened.schema_arrow)))
    texts = [name for name, kind in found if _is_text(kind) or (name in LISTS and _is_list(kind))]
    if not texts:
        texts = [name for name, kind in found if pa.types.is_binary(kind) or pa.types.is_large_binary(kind)]
    return [name for name, kind in found if name in texts or (texts and _is_fact(name, kind))]


def _is_text(kind: Any) -> bool:  # noqa: ANN401 - pyarrow is imported inside functions only
    import pyarrow as pa

    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return all(_is_text(field.type) for field in kind.fields)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: Any) -> bool:  # noqa: ANN401
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_fact(name: str, kind: Any) -> bool:  # noqa: ANN401
    """Say whether a column may be a number or a date of its row; those of a finer clock inside others are left out."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return kind.unit != "ns" or "." not in name
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_date(kind))


def _batches(file: Input, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows, some at a time; raises ``SourceError`` where the file is damaged."""
    import pyarrow as pa

    try:
        for batch in row_batches(file.path, columns, file.label):
            columns_of = [_plain(batch, index) for index in range(batch.num_columns)]
            yield pa.table(columns_of, batch.schema.names).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise file.damaged(error) from error


def _plain(batch: Any, index: int) -> Any:  # noqa: ANN401
    """Return a column as Python can have it: its clock knows microseconds, and not every time zone."""
    import pyarrow as pa

    column, kind = batch.column(index), batch.schema.field(index).type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", tz="UTC" if kind.tz else None), safe=False)
    return column


def _opened(file: Input) -> Any:  # noqa: ANN401
    import pyarrow as pa

    try:
        return open_parquet(file.path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise file.damaged(error) from error
