"""The rows of a parquet file of the hub as texts: which columns, and their values a few rows at a time.

Texts are taken as they are: a data set of web pages is one of HTML. Knows nothing of the hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.documents import Origin, normalize_newlines
from gptcli.errors import SourceError
from gptcli.fetch.conversations import LISTS, choose_chat_fields
from gptcli.fetch.formats.parquet_batches import first_rows, open_parquet, row_batches
from gptcli.fetch.records import NoFieldError, TextFields, choose_fields, clean_text, value_at

MAX_DATE = 40


@dataclass(frozen=True, slots=True)
class Row:
    """The text of one row, which may be empty, and what the row says of it."""

    text: str
    origin: Origin


def choose_columns(path: Path, wanted: Sequence[str], label: str, where: str) -> TextFields | None:
    """Choose the columns of the text and its origin: ``wanted``, else by their names, else the one with most text.

    ``label`` names the file and ``where`` the data set, for errors. None for a file without rows. Raises
    ``NoFieldError`` that lists the columns where a wanted one is missing or none looks like text, and another
    ``SourceError`` for a damaged file.
    """
    names, texts = _columns(path, label)
    check_columns(names, wanted, where)
    columns = list(dict.fromkeys([*texts, *wanted]))
    if not columns:
        raise _no_text(where, names)
    sample = first_rows(_batches(path, columns, label))
    if not sample:
        return None
    try:
        return choose_fields(sample, tuple(wanted), label)
    except SourceError as error:
        if wanted:
            raise
        raise _no_text(where, names) from error


def holds_conversations(path: Path, label: str) -> bool:
    """Say whether the first rows of a file are conversations."""
    names, texts = _columns(path, label)
    columns = [name for name in names if name in LISTS or name in texts]
    return bool(columns) and choose_chat_fields(first_rows(_batches(path, columns, label)), label) is not None


def check_columns(names: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise ``NoFieldError`` that lists the columns of a data set where a wanted one is not among them."""
    for column in wanted:
        if column not in names and column.partition(".")[0] not in names:
            raise NoFieldError(
                f"{where} has no column {column!r}; its columns are {', '.join(names)}.",
                f"Name one that is there: gptcli fetch {where}:{names[0]}" if names else "",
            )


def read_rows(path: Path, fields: TextFields, label: str, where: str) -> Iterator[Row]:
    """Yield every row; raises ``SourceError`` where a column of the text is missing or the file is damaged."""
    check_columns(_columns(path, label)[0], fields.text, where)
    said = (fields.title, fields.author, fields.url, fields.date, fields.language, fields.licence)
    columns = list(dict.fromkeys(filter(None, (*fields.text, fields.instead, *said))))
    for rows in _batches(path, columns, label):
        for row in rows:
            text = "\n\n".join(filter(None, (_text(value_at(row, name)) for name in fields.text)))
            yield Row(text or _text(value_at(row, fields.instead)), _origin(row, fields))


def _text(value: object) -> str:
    return normalize_newlines(value) if isinstance(value, str) else clean_text(value)


def _origin(row: Any, fields: TextFields) -> Origin:  # noqa: ANN401 - rows are of any shape
    return Origin(
        title=_line(value_at(row, fields.title)),
        author=_line(value_at(row, fields.author)),
        url=_line(value_at(row, fields.url)),
        date=_line(value_at(row, fields.date))[:MAX_DATE],
        language=_line(value_at(row, fields.language)),
        licence=_line(value_at(row, fields.licence)),
    )


def _line(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _columns(path: Path, label: str) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and the dotted names of those that hold strings."""
    import pyarrow as pa

    def texts(prefix: str, fields: Sequence[Any]) -> Iterator[str]:
        for field in fields:
            if pa.types.is_struct(field.type):
                yield from texts(f"{prefix}{field.name}.", field.type.fields)
            elif _is_text(field.type):
                yield f"{prefix}{field.name}"

    with _opened(path, label) as file:
        schema = file.schema_arrow
        return list(schema.names), list(texts("", list(schema)))


def _is_text(kind: Any) -> bool:  # noqa: ANN401 - pyarrow is imported inside functions only
    import pyarrow as pa

    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _batches(path: Path, columns: list[str], label: str) -> Iterator[list[dict[str, Any]]]:
    import pyarrow as pa

    try:
        for batch in row_batches(path, columns, label):
            yield batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:  # a ValueError is text that is not UTF-8
        raise _damaged(label, error) from error


def _opened(path: Path, label: str) -> Any:  # noqa: ANN401
    import pyarrow as pa

    try:
        return open_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(label, error) from error


def _damaged(label: str, error: Exception) -> SourceError:
    return SourceError(f"{label} is damaged: {' '.join(str(error).split()).rstrip('.')}.", "Fetch it again later.")


def _no_text(where: str, names: Sequence[str]) -> NoFieldError:
    return NoFieldError(
        f"{where}: no column looks like text; its columns are {', '.join(names) or 'none'}.",
        f"Name the column that is the text: gptcli fetch {where}:COLUMN",
    )
