"""Text on this machine: files, a folder, a glob pattern, or what comes in on stdin.

What a word means is decided in ``local_files``, what is in a file in ``formats``; here the two meet.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch.audio.sound import AUDIO_SUFFIXES
from gptcli.fetch.formats import NoTextError, read_file, suffix_of
from gptcli.fetch.local_files import LocalFiles, exists, local_files
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Missing, Plan, Source, shown
from gptcli.fetch.text import READ_HINT, BinaryFileError, decode_file, guessed_note
from gptcli.progress import Portion

__all__ = ["LocalFiles", "local_files", "open_local", "open_stdin", "read_text"]

Progress = Callable[[str], None]
_PROGRESS_DOCUMENTS = 10_000
# Kinds that no file of this machine can be: what they read, and what to do instead.
_NO_FILES = {
    "blog": ("a web site", "Pages that were saved are read with --as page."),
    "hub": ("a data set of the Hugging Face hub", "Without --as, files of a data set are read as what they are."),
}
_AS_TEXT = " is JSON without a list of records, so it was read as plain text."


def open_stdin(options: FetchOptions) -> Source:
    """Open what is piped in as one document, or as the conversations that ``--as chat`` says it is.

    It is copied to a temporary file, since it has to be read twice.
    """
    source = Source("stdin", "stdin", "-")
    chat = options.as_kind == "chat"
    options = options if chat else FetchOptions(as_kind="text", encoding=options.encoding)
    source.documents = _piped(source, None, "stdin", options)
    source.plan = lambda: Plan((f"Read stdin to its end, as {'conversations' if chat else 'one text'}.",))
    return source


def open_local(sources: Sequence[str], options: FetchOptions, on_progress: Progress, leave_out: Path) -> Source | None:
    """Open files, folders and glob patterns as ``local_files`` finds them; None when it finds none.

    What is wrong with a single file is an error. Of several, the broken ones are ``missing``, and binary files,
    recordings and tables without text are left out with a note. ``options.as_kind`` says how the files are read; raises
    ``SourceError`` for one that no file can be.
    """
    found = local_files(sources, leave_out)
    if found is None:
        return None
    if (problem := _NO_FILES.get(options.as_kind or "")) is not None:
        what, hint = problem
        is_here = "is on this machine" if found.kind in {"file", "folder"} else "are on this machine"
        raise SourceError(f"--as {options.as_kind} reads {what}, and {found.where} {is_here}.", hint)
    source = Source(found.kind, found.name, found.where)
    source.plan = lambda: _plan(found)
    if found.kind == "file":
        source.documents = _watched(_document(source, *found.files[0], options), found.where, on_progress)
    else:
        source.documents = _documents(source, found.files, options, on_progress)
    return source


def read_text(where: str, encoding: str | None) -> tuple[str, str]:
    """Return the whole text of a file, a pipe or ``-`` (stdin), and a note when its encoding was guessed.

    Raises ``SourceError`` for what cannot be read or is not text; an empty file is an empty text.
    """
    path = Path(where).expanduser()
    if where != "-" and (path.is_file() or not exists(path)):
        text, chosen = decode_file(path, encoding, label=where)
    else:
        label = "stdin" if where == "-" else where
        with _spooled(None if where == "-" else path, label) as copy:
            text, chosen = decode_file(copy, encoding, label=label)
    return text, guessed_note([where], chosen.name) if chosen.guessed else ""


def _document(source: Source, path: Path, label: str, options: FetchOptions) -> Iterator[Document]:
    """Yield what is in one file; raises ``SourceError`` for whatever is wrong with it."""
    suffix = suffix_of(path.name)
    if suffix in AUDIO_SUFFIXES:
        raise SourceError(
            f"{label} is a recording, and a text was expected.", f"gptcli fetch {label} --as audio transcribes it."
        )
    if path.is_file() or not exists(path):
        title = path.name[: len(path.name) - len(suffix)]
        yield from read_file(path, suffix=suffix, label=label, title=title, source=source, options=options)
    else:
        yield from _piped(source, path, label, options)


def _piped(source: Source, path: Path | None, label: str, options: FetchOptions) -> Iterator[Document]:
    """Yield what comes from a pipe, as of `gptcli fetch <(command)`, or from stdin when there is no ``path``."""
    with _spooled(path, label) as copy:
        yield from read_file(copy, suffix="", label=label, title="", source=source, options=options)


def _watched(documents: Iterator[Document], what: str, on_progress: Progress) -> Iterator[Document]:
    """Yield the documents of what may be a large table, and say now and then how many there were."""
    for number, item in enumerate(documents, 1):
        if number % _PROGRESS_DOCUMENTS == 0:
            on_progress(f"reading {what}: {number:,} documents")
        yield item


def _documents(
    source: Source, files: Sequence[tuple[Path, str]], options: FetchOptions, on_progress: Progress
) -> Iterator[Document]:
    """Yield many files one after the other, and note what was passed over.

    Raises the first ``SourceError`` when there is no document but broken files.
    """
    passed: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    failed: SourceError | None = None
    any_read = False
    for number, (path, label) in enumerate(files, 1):
        on_progress(Portion(f"reading file {number:,} of {len(files):,}: {label}", number - 1, len(files)))
        if path.suffix.lower() in AUDIO_SUFFIXES:
            passed.setdefault("recordings", []).append(label)
            continue
        one = Source(source.kind, "", label)
        try:
            for item in _watched(_one_of_many(one, path, label, options, passed), label, on_progress):
                any_read = True
                yield item
        except BinaryFileError:
            passed.setdefault("binary", []).append(label)
        except SourceError as error:
            failed = failed or error
            source.missing.append(Missing(label, error.message))
        source.encodings.update(one.encodings)
        source.dropped.update(one.dropped)
        for note in one.notes:
            notes.setdefault(note.removeprefix(label), []).append(label)
    if failed is not None and not any_read:
        raise failed
    source.dropped.update({what: len(labels) for what, labels in passed.items()})
    source.notes.extend(_passed_note(what, passed[what]) for what in _PASSED if what in passed)
    source.notes.extend(_shared_note(note, labels) for note, labels in notes.items())


def _one_of_many(
    one: Source, path: Path, label: str, options: FetchOptions, passed: dict[str, list[str]]
) -> Iterator[Document]:
    """Yield what is in a file among others, where tables without text do no harm."""
    if path.is_file() and path.stat().st_size == 0:
        one.dropped["empty"] += 1
        return
    try:
        yield from _document(one, path, label, options)
    except NoTextError:
        if options.as_kind == "json":
            raise
        if suffix_of(path.name) not in {".json", ".json.gz"}:
            passed.setdefault("tables without text", []).append(label)
            return
        # A folder of programs has such files; among its texts they are one more.
        one.encodings.clear()
        one.notes[:] = [label + _AS_TEXT]
        yield from _document(one, path, label, replace(options, as_kind="text"))


# What is left out of several files, and the sentence about one of them, and about more.
_PASSED = {
    "binary": ("1 file looks binary and was left out: {}.", "{} files look binary and were left out: {}."),
    "recordings": (
        "1 recording was left out: {}; --as audio transcribes it.",
        "{} recordings were left out: {}; --as audio transcribes them.",
    ),
    "tables without text": (
        "1 table has nothing that looks like text and was left out: {}; --text-fields names its columns.",
        "{} tables have nothing that looks like text and were left out: {}; --text-fields names their columns.",
    ),
}


def _passed_note(what: str, labels: Sequence[str]) -> str:
    one, many = _PASSED[what]
    return one.format(shown(labels)) if len(labels) == 1 else many.format(f"{len(labels):,}", shown(labels))


def _shared_note(note: str, labels: Sequence[str]) -> str:
    """Return a note on a file, which begins behind its label, as one on all the files it is true of."""
    if len(labels) == 1:
        return labels[0] + note
    plural = f" are {note[4:]}".replace("so it was read", "so they were read") if note.startswith(" is ") else note
    return f"{len(labels):,} files ({shown(labels)}){plural}"


def _plan(found: LocalFiles) -> Plan:
    """Say what would be read, by the names and sizes of the files."""
    kinds: Counter[str] = Counter()
    size = recordings = 0
    for path, _ in found.files:
        suffix = suffix_of(path.name)
        if suffix in AUDIO_SUFFIXES:
            recordings += 1
            continue
        kinds[suffix.lstrip(".") or "other"] += 1
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    count = kinds.total()
    steps = [f"Read {count:,} file{'' if count == 1 else 's'} of this machine ({listed}), {size / 1e6:,.1f} MB."]
    if recordings:
        steps.append(f"Leave out {recordings:,} recording{'' if recordings == 1 else 's'}, which --as audio hears.")
    return Plan(tuple(steps), bytes=size)


@contextlib.contextmanager
def _spooled(path: Path | None, label: str) -> Iterator[Path]:
    """Copy what can be read only once, a pipe or stdin (no ``path``), to a temporary file."""
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
        copy = Path(folder) / "input"
        try:
            opened = path.open("rb") if path else contextlib.nullcontext(sys.stdin.buffer)
            with copy.open("wb") as file, opened as stream:
                shutil.copyfileobj(stream, file)
        except OSError as error:
            raise SourceError(f"{label} cannot be read ({error.strerror}).", READ_HINT) from error
        yield copy
