"""CSV and TSV files: their dialect, whether they have a header line, and their rows as a stream."""

from __future__ import annotations

import csv
import io
import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch.formats.input import Input
from gptcli.fetch.formats.rows import row_documents
from gptcli.fetch.records import ROLE_NAMES, TEXT_NAMES
from gptcli.fetch.text import lines_of

MAX_FIELD_CHARS = 16 * 1024 * 1024
SNIFF_CHARS = 256 * 1024
# No text has it, so a line is one field.
_NO_DELIMITER = "\x1f"
_COMMON_NAMES = {
    *TEXT_NAMES,
    *itertools.chain(*ROLE_NAMES.values()),
    *("names", "word", "words", "line", "lines", "sentence", "sentences", "quote", "quotes", "review", "reviews"),
    *("comment", "comments", "poem", "poems", "question", "answer", "prompt", "response", "description", "summary"),
}
_NUMBER = re.compile(r"[-+]?[\d.,:/ eE%$€£-]*\d[\d.,:/ TZ%-]*")
_SEP_LINE = re.compile(r"\A\ufeff?sep=(.)[ \t]*\n")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the fields of a line are told apart.

    ``quoted`` is False where quotes are ordinary characters, ``strict`` where they may stand in the midst of a field.
    """

    delimiter: str = ","
    quoted: bool = True
    strict: bool = True
    escape: str | None = None

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Yield the rows of a text as they stand; raises ``csv.Error``."""
        # The limit belongs to the whole process; it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            doublequote=self.escape is None,
            escapechar=self.escape,
            strict=self.strict,
        )


def read_csv(file: Input) -> Iterator[Document]:
    """Yield a document for each row of a CSV file, whatever its delimiter; see ``row_documents`` for what is the text.

    Raises ``SourceError`` that names the line of a quote that is never closed.
    """
    return _read(file, (",", ";", "\t", "|"))


def read_tsv(file: Input) -> Iterator[Document]:
    """Yield a document for each row of a file of tab-separated values; raises as ``read_csv`` does."""
    return _read(file, ("\t",))


def _read(file: Input, delimiters: Sequence[str]) -> Iterator[Document]:
    pieces = file.pieces()
    head = next(pieces, "")
    if found := _SEP_LINE.match(head):
        head, delimiters = head[found.end() :], (found[1],)
    dialect, sample = sniff(head[:SNIFF_CHARS], delimiters, whole=len(head) <= SNIFF_CHARS)
    lines = _Lines(lines_of(itertools.chain([head], pieces), max_chars=MAX_FIELD_CHARS, label=file.label))
    rows = _checked(file, dialect, lines)
    names = column_names(sample, file.options.text_fields)
    if names:
        next(rows, None)
    elif sample:
        names = [f"column{number}" for number in range(1, len(sample[0]) + 1)]
        columns = "the column is column1" if len(names) == 1 else f"the columns are column1 to column{len(names)}"
        file.source.notes.append(f"{file.label}: no header line was recognised; {columns}.")
    ragged: list[int] = []
    yield from row_documents(file, _records(names, rows, dialect.delimiter, ragged))
    if count := len(ragged):
        have, such = ("row has", "it") if count == 1 else ("rows have", "such a row")
        file.source.notes.append(
            f"{file.label}: {count:,} {have} more fields than there are columns; the rest of {such} was taken into the "
            "last column."
        )


def sniff(sample: str, delimiters: Sequence[str], *, whole: bool) -> tuple[Dialect, list[list[str]]]:
    """Return the dialect in which most rows of a sample have the same number of fields, and the rows in it.

    Where no delimiter gives several fields consistently, a line is one field. ``whole`` says that the sample does not
    end in the middle of a row.
    """
    escape = "\\" if '\\"' in sample and '""' not in sample else None
    best: tuple[float, int, Dialect, list[list[str]]] | None = None
    for dialect in _dialects(delimiters, escape):
        rows = _parsed(dialect, sample, whole=whole)
        share, width = _regularity(rows)
        enough = width > 1 and share >= (0.5 if _is_header(rows[0]) else 0.8)
        if enough and (best is None or (share, width) > best[:2]):
            best = share, width, dialect, rows
    if best is not None:
        return best[2], best[3]
    for dialect in (Dialect(escape=escape), Dialect(_NO_DELIMITER, quoted=False)):
        rows = _parsed(dialect, sample, whole=whole)
        if _regularity(rows) == (1.0, 1):
            break
    return dialect, rows


def _dialects(delimiters: Sequence[str], escape: str | None) -> Iterator[Dialect]:
    """Yield the dialects to be tried, the stricter first."""
    for delimiter in delimiters:
        yield Dialect(delimiter, escape=escape)
        if escape:  # a backslash may also be the last character of a field
            yield Dialect(delimiter)
        # Programs that write tabs seldom quote; those that write commas do, some of them badly.
        tab = delimiter == "\t"
        yield Dialect(delimiter, quoted=not tab, strict=False, escape=None if tab else escape)


def column_names(rows: Sequence[Sequence[str]], wanted: Sequence[str] = ()) -> list[str]:
    """Return the names in the first row, or nothing where it is a row like the others.

    Names are made different from one another; a column without one is called by its number.
    """
    cells = [cell.strip() for cell in rows[0]] if rows else []
    if not cells or not ((wanted and set(wanted) <= set(cells)) or _looks_like_names(cells, rows[1:])):
        return []
    names: list[str] = []
    for number, cell in enumerate(cells, 1):
        name = cell or f"column{number}"
        names.append(name if name not in names else f"{name}_{number}")
    return names


def _looks_like_names(cells: list[str], rest: Sequence[Sequence[str]]) -> bool:
    if not _is_header(cells):
        return False
    if any(re.sub(r"\W+", "_", cell).lower() in _COMMON_NAMES for cell in cells) or len(cells) > 1:
        return True
    values = [row[0] for row in rest if row and row[0].strip()]
    if not values:
        return False
    return all(map(_is_number, values)) or statistics.median(map(len, values)) > max(3 * len(cells[0]), 20)


def _is_header(cells: Sequence[str]) -> bool:
    """Say whether all cells could be names of columns; the first may be empty, as pandas writes it."""
    named = cells[1:] if len(cells) > 1 and not cells[0].strip() else cells
    return bool(named) and len({*cells}) == len(cells) and all(map(_is_name, named))


def _is_name(cell: str) -> bool:
    cell = cell.strip()
    return (
        0 < len(cell) <= 64
        and len(cell.split()) <= 6
        and not re.search(r"[\n@]|://|[.!?…,;]$", cell)
        and not _is_number(cell)
    )


def _is_number(cell: str) -> bool:
    """Say whether a cell is a number, an amount, a date or a time."""
    return len(cell) <= 64 and _NUMBER.fullmatch(cell) is not None


def _parsed(dialect: Dialect, sample: str, *, whole: bool) -> list[list[str]]:
    """Return the rows of a sample that are complete, or nothing where it is not in this dialect."""
    rows: list[list[str]] = []
    lines = _Lines(iter(io.StringIO(sample, newline="\n")))
    try:
        rows.extend(row for row in dialect.rows(lines) if row)
    except csv.Error:
        return rows if lines.ended and not whole else []
    return rows if whole or len(rows) < 2 else rows[:-1]


def _regularity(rows: Sequence[Sequence[str]]) -> tuple[float, int]:
    """Return the share of rows that have the usual number of fields, and that number."""
    widths = Counter(map(len, rows))
    if not widths:
        return 0.0, 0
    width, count = max(widths.items(), key=lambda item: (item[1], item[0]))
    return count / len(rows), width


@dataclass(slots=True)
class _Lines:
    """The lines on their way to the reader of CSV; ``began`` is the number of the line where its row does."""

    lines: Iterator[str]
    began: int = 1
    number: int = 0
    ended: bool = False

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            self.number += 1
            yield line
        self.ended = True


def _checked(file: Input, dialect: Dialect, lines: _Lines) -> Iterator[list[str]]:
    """Yield the rows that are not empty; raises ``SourceError`` where a quote swallows what follows it."""
    try:
        for row in dialect.rows(lines):
            # Only inside quotes does the reader want to go on after the last line.
            if lines.ended:
                raise csv.Error("the file ends inside quotes")
            if row:
                yield row
            lines.began = lines.number + 1
    except csv.Error as error:
        raise SourceError(
            f"{file.label}:{lines.began}: the row that begins here cannot be read ({error}); a quote may be missing.",
            f"Mend the row, or read the file as the plain text that it is: gptcli fetch {file.label} --as text",
        ) from error


def _records(
    names: Sequence[str], rows: Iterable[Sequence[str]], delimiter: str, ragged: list[int]
) -> Iterator[dict[str, str]]:
    """Yield the rows by the names of their columns; the widths of those that are too long go to ``ragged``."""
    for row in rows:
        if len(row) > len(names):
            ragged.append(len(row))
            row = [*row[: len(names) - 1], delimiter.join(row[len(names) - 1 :])]
        yield dict(zip(names, row, strict=False))
