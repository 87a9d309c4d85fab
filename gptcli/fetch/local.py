"""Text on this machine: a file, a folder, a glob pattern, or what comes in on stdin; one document a file."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from gptcli.documents import Document, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.source import Source, shown
from gptcli.fetch.text import (
    READ_HINT,
    BinaryFileError,
    TextEncoding,
    choose_encoding,
    decode_file,
    decode_pieces,
)

Progress = Callable[[str], None]


def open_stdin(encoding: str | None) -> Source:
    """Open what is piped in as one document; it is copied to a temporary file, since it has to be read twice."""
    source = Source("stdin", "stdin", "-")
    source.documents = _spooled(source, lambda: _opened("-"), "stdin", encoding)
    return source


def open_local(where: str, encoding: str | None, on_progress: Progress, leave_out: Path) -> Source | None:
    """Open the file, folder or glob pattern ``where``; None when it is none of them.

    Files come in sorted order, hidden ones and everything below ``leave_out`` are passed over; binary files are too,
    with a note, but a single binary file is an error. Raises ``SourceError`` where nothing is to be read.
    """
    path = Path(where).expanduser()
    if not _exists(path):
        return _open_pattern(where, encoding, on_progress)
    if path.is_dir():
        source = Source("folder", path.resolve().name, where)
        files = sorted(_files_below(path, leave_out))
        if not files:
            raise SourceError(f"The folder {where} has no files (hidden ones do not count).", READ_HINT)
        source.documents = _files(
            source, [(file, str(file.relative_to(path))) for file in files], encoding, on_progress
        )
        return source
    source = Source("file", path.stem, where)
    if path.is_file():
        source.documents = _file(source, path, where, path.stem, encoding)
    else:  # a pipe, as in `gptcli fetch <(command)`
        source.documents = _spooled(source, lambda: _opened(where), where, encoding)
    return source


def _open_pattern(where: str, encoding: str | None, on_progress: Progress) -> Source | None:
    if not glob.has_magic(where):
        return None
    matches = [Path(match) for match in sorted(_glob(where))]
    files = [path for path in matches if path.is_file()]
    if not files:
        found = "only folders" if matches else "nothing"
        raise SourceError(
            f"The pattern {where} matches {found}; files were expected.",
            "Quote the pattern, as in gptcli fetch 'books/**/*.txt'.",
        )
    source = Source("glob", _fixed_part(where), where)
    source.documents = _files(source, [(file, str(file)) for file in files], encoding, on_progress)
    return source


def file_document(
    source: Source, path: Path, *, label: str, title: str, encoding: TextEncoding, url: str = ""
) -> Iterator[Document]:
    """Yield the parts of the one document that a file is, and count its encoding."""
    source.encodings[encoding.name] += 1
    if encoding.errors == "replace":
        source.notes.append(f"{label}: bytes that are not {encoding.name} became U+FFFD.")
    yield from document_parts(decode_pieces(path, encoding, label=label), title=title, url=url)


def read_text(where: str, encoding: str | None) -> tuple[str, str]:
    """Return the whole text of a file, a pipe or ``-`` (stdin), and a note when its encoding was guessed.

    Raises ``SourceError`` for what cannot be read or is not text; an empty file is an empty text.
    """
    path = Path(where).expanduser()
    if where != "-" and (path.is_file() or not _exists(path)):
        text, chosen = decode_file(path, encoding, label=where)
    else:
        label = "stdin" if where == "-" else where
        try:
            with _spool(lambda: _opened(where)) as copy:
                text, chosen = decode_file(copy, encoding, label=label)
        except OSError as error:
            raise SourceError(f"{label} cannot be read ({error.strerror}).", READ_HINT) from error
    return text, guessed_note([where], chosen.name) if chosen.guessed else ""


def guessed_note(labels: Sequence[str], name: str) -> str:
    """Return the note that says in which encoding files were read that are not UTF-8."""
    which = f"{labels[0]} is" if len(labels) == 1 else f"{len(labels)} files are"
    names = "" if len(labels) == 1 else f" ({shown(labels)})"
    return f"{which} not UTF-8; read as {name}{names}. Pass --encoding to insist on another."


def _file(source: Source, path: Path, label: str, title: str, encoding: str | None) -> Iterator[Document]:
    """Yield a single file, where being empty or binary is an error."""
    chosen = choose_encoding(path, encoding, label=label)
    if path.stat().st_size == 0:
        raise SourceError(f"{label} is empty.", "gptcli fetch FILE reads a text file.")
    if chosen.guessed:
        source.notes.append(guessed_note([label], chosen.name))
    yield from file_document(source, path, label=label, title=title, encoding=chosen)


def _files(
    source: Source, files: Sequence[tuple[Path, str]], encoding: str | None, on_progress: Progress
) -> Iterator[Document]:
    """Yield many files, each with the label that messages call it by, and note what was passed over."""
    guessed: dict[str, list[str]] = {}
    binary: list[str] = []
    for number, (path, label) in enumerate(files, 1):
        on_progress(f"reading file {number:,} of {len(files):,}: {label}")
        try:
            chosen = choose_encoding(path, encoding, label=label)
        except BinaryFileError:
            binary.append(label)
            continue
        if chosen.guessed:
            guessed.setdefault(chosen.name, []).append(label)
        if path.stat().st_size == 0:
            source.dropped["empty"] += 1
            continue
        yield from file_document(source, path, label=label, title=path.stem, encoding=chosen)
    source.dropped["binary"] += len(binary)
    if binary:
        are = "1 file looks binary and was" if len(binary) == 1 else f"{len(binary)} files look binary and were"
        source.notes.append(f"{are} left out: {shown(binary)}.")
    source.notes.extend(guessed_note(labels, name) for name, labels in guessed.items())


def _spooled(
    source: Source, opened: Callable[[], AbstractContextManager[IO[bytes]]], label: str, encoding: str | None
) -> Iterator[Document]:
    """Yield what can be read only once, by way of a temporary file."""
    with _spool(opened) as path:
        yield from _file(source, path, label, "", encoding)


@contextlib.contextmanager
def _spool(opened: Callable[[], AbstractContextManager[IO[bytes]]]) -> Iterator[Path]:
    """Copy what can be read only once to a temporary file."""
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
        path = Path(folder) / "input"
        with path.open("wb") as file, opened() as stream:
            shutil.copyfileobj(stream, file)
        yield path


def _opened(where: str) -> AbstractContextManager[IO[bytes]]:
    """Open a file, a pipe or stdin, which stays open, for its bytes."""
    return contextlib.nullcontext(sys.stdin.buffer) if where == "-" else Path(where).expanduser().open("rb")


def _glob(pattern: str) -> list[str]:
    # Path.glob takes no absolute patterns.
    return glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207


def _files_below(folder: Path, leave_out: Path) -> Iterator[Path]:
    refused = leave_out.resolve()

    def fail(error: OSError) -> None:
        raise error

    try:
        for here, folders, names in os.walk(folder, onerror=fail):
            folders[:] = [name for name in folders if name[0] != "." and (Path(here) / name).resolve() != refused]
            yield from (path for name in names if name[0] != "." and (path := Path(here) / name).is_file())
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read ({error.strerror}).", READ_HINT) from error


def _fixed_part(pattern: str) -> str:
    """Return a name for a pattern: the last folder before its first wildcard, else ``texts``."""
    fixed = [part for part in Path(pattern).parts[:-1] if not glob.has_magic(part)]
    return Path(*fixed).resolve().name if fixed else "texts"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False
