"""The folder of a fetched corpus: ``documents.jsonl``, and ``source.json`` that says where it came from.

Knows nothing of tokens: a ``tokens`` folder beside them is left alone, whatever happens to the text.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gptcli.documents import Document, Written, write_documents
from gptcli.errors import CorpusError, FormatError, GptcliError, SourceError
from gptcli.fetch.source import Source
from gptcli.files import atomic_write, read_json, sha256_file, write_json

FORMAT_VERSION = 1
DOCUMENTS = "documents.jsonl"
SOURCE = "source.json"
# The next source.json, there only while documents.jsonl is being replaced. See `store_corpus`.
NEXT_SOURCE = ".source.next.json"
MAX_NAME = 100
WRITE_HINT = "Free some space or check the folder's permissions; gptcli corpora list shows what is there."


class _UnchangedError(Exception):
    """The text is what it was; leaves `atomic_write` without replacing the file."""


def store_corpus(
    folder: Path, source: Source, documents: Iterable[Document], facts: dict[str, Any]
) -> tuple[Written, dict[str, Any]]:
    """Write the documents and where they came from; returns what was written and the content of ``source.json``.

    The same text again leaves both files as they are. Two files cannot be renamed at once, so the next
    ``source.json`` is on disk before ``documents.jsonl`` is replaced, and ``read_source`` takes the one that fits:
    a killed fetch leaves the old corpus or the new one. Replacing the whole folder would lose its tokens.
    """
    before = _source_before(folder)
    made = not folder.exists()
    path = folder / DOCUMENTS
    try:
        with contextlib.suppress(_UnchangedError), atomic_write(path) as file:
            written = write_documents(file, documents)
            if written.documents == 0:
                raise _no_text(source)
            same = before is not None and before["sha256"] == written.sha256 == _sha256(path)
            record = _record(folder.name, source, written, before, facts, same=same)
            if same:
                raise _UnchangedError
            write_json(folder / NEXT_SOURCE, record)
        if before is None or not same or _lasting(before) != _lasting(record):
            write_json(folder / SOURCE, record)
        else:
            record = {**before, "notes": record["notes"]}
        (folder / NEXT_SOURCE).unlink(missing_ok=True)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise CorpusError(f"{folder} cannot be written ({error.strerror}).", WRITE_HINT) from error
        raise
    return written, record


def read_source(folder: Path) -> dict[str, Any]:
    """Return the content of a corpus's ``source.json``; after a killed fetch, that which fits the documents.

    Raises ``FormatError`` when it is missing or damaged.
    """
    if (folder / NEXT_SOURCE).exists():
        with contextlib.suppress(FormatError):
            following = _read(folder / NEXT_SOURCE)
            if following["sha256"] == _sha256(folder / DOCUMENTS):
                return following
    return _read(folder / SOURCE)


def check_name(name: str) -> str:
    """Return a corpus name given by the user; raises ``SourceError`` when it cannot name a folder."""
    if not name or name.startswith((".", "-")) or len(name) > MAX_NAME:
        problem = "is empty, begins with a dot or a dash, or is too long"
    elif re.search(r'[\s/\\:*?"<>|]', name) or not name.isprintable():
        problem = 'has a space or another character that a name cannot have (such as / \\ : * ? " < > |)'
    else:
        return name
    raise SourceError(f"{name!r} cannot be the name of a corpus: it {problem}.", "A good name: --name my-corpus")


def free_name(wanted: str, source: Source, corpora_dir: Path, recipe: str | None = None) -> str:
    """Return ``wanted``, or with a number added the first name that is free or holds the text of this very source."""
    names = itertools.chain([wanted], (f"{wanted[: MAX_NAME - 10]}-{number}" for number in itertools.count(2)))
    return next(name for name in names if _is_ours(corpora_dir / name, source, recipe))


def _is_ours(folder: Path, source: Source, recipe: str | None) -> bool:
    """Say whether a folder has no corpus yet, or that of this source or recipe; a damaged record may be repaired."""
    if not (folder / SOURCE).exists():
        return not (folder / DOCUMENTS).exists()
    record = _source_before(folder)
    if record is None or (recipe is not None and record.get("recipe") == recipe):
        return True
    if source.kind == "stdin" or record["kind"] != source.kind:
        return False
    if source.kind not in {"file", "folder", "glob"}:
        return bool(record["source"] == source.where)
    path, before = (Path(where).expanduser() for where in (source.where, record["source"]))
    # What comes through a pipe is never the same source again.
    return path.resolve() == before.resolve() and (source.kind != "file" or path.is_file())


def slug(name: str) -> str:
    """Turn any text into a corpus name of ``a-z 0-9 - _ .``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-.")[:MAX_NAME] or "corpus"


def _record(
    name: str, source: Source, written: Written, before: dict[str, Any] | None, facts: dict[str, Any], *, same: bool
) -> dict[str, Any]:
    notes = list(source.notes)
    if same:
        notes.append(f"The text of {name} is the same as before.")
    elif before is not None and before["source"] != source.where:
        notes.append(f"The corpus {name} held the text of {before['source']} before; it was replaced.")
    elif before is not None:
        notes.append(f"The text of {name} has changed since it was fetched on {before['fetched_at'][:10]}.")
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "kind": source.kind,
        "source": source.where,
        **facts,
        "fetched_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "sha256": written.sha256,
        "documents": written.documents,
        "bytes": written.bytes,
        "licence": source.licence,
        "encodings": dict(source.encodings),
        "dropped": dict(+source.dropped),
        "notes": notes,
    }


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """Return what of a record is the same when the same source is fetched again."""
    return {key: record[key] for key in record if key not in {"fetched_at", "notes"}}


def _no_text(source: Source) -> GptcliError:
    dropped = +source.dropped
    why = f" ({', '.join(f'{count} {what}' for what, count in dropped.items())})" if dropped else ""
    return SourceError(f"There is no text in {source.where}{why}.", "gptcli fetch FILE reads a text file.")


def _source_before(folder: Path) -> dict[str, Any] | None:
    try:
        return read_source(folder)
    except FormatError:
        return None


def _read(path: Path) -> dict[str, Any]:
    record = read_json(path, format_version=FORMAT_VERSION, what="the source of a corpus")
    texts = ("name", "kind", "source", "fetched_at", "sha256", "licence")
    if not all(isinstance(record.get(key), str) for key in texts) or not all(
        type(record.get(key)) is int for key in ("documents", "bytes")
    ):
        raise FormatError(
            f"{path}: the source of a corpus is damaged: fields are missing or of the wrong type.",
            "gptcli fetch SOURCE writes it again.",
        )
    return record


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return ""
