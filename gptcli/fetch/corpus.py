"""The folder of a fetched corpus: ``documents.jsonl``, and ``source.json`` that says where it came from.

Knows nothing of tokens: a ``tokens`` folder beside them is left alone, whatever happens to the text.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gptcli.documents import Document, Written, write_documents
from gptcli.errors import CorpusError, FormatError, GptcliError, SourceError
from gptcli.fetch.provenance import MAX_COMPARED, PROVENANCE, Provenance, changes, names_by_id
from gptcli.fetch.recipes import recipes
from gptcli.fetch.source import Source, shown
from gptcli.fetch.web.store import RAW, last_fetch
from gptcli.files import atomic_write, held, read_json, sha256_file, write_json

FORMAT_VERSION = 1
DOCUMENTS = "documents.jsonl"
SOURCE = "source.json"
# The next source.json, there only while documents.jsonl is being replaced. See `store_corpus`.
NEXT_SOURCE = ".source.next.json"
MAX_NAME = 100
ABANDONED_SECONDS = 3600
# A site of at least so many posts of which less than one in so many is left has lost them by an accident.
SHRUNK_FROM, SHRUNK_TO = 5, 4
WRITE_HINT = "Free some space or check the folder's permissions; gptcli corpora list shows what is there."
_READ_HINT = "gptcli fetch SOURCE writes it again."
_Scalar = str | int | float | bool | None
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class _UnchangedError(Exception):
    """The text is what it was; leaves `atomic_write` without replacing the file."""


class _Lost(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    why: str


class _Record(BaseModel):
    """What ``source.json`` has to hold, and what types the rest of it has; it may hold more."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, _Scalar | dict[str, _Scalar] | list[_Scalar]]

    name: str
    kind: str
    source: str
    fetched_at: str
    sha256: str
    licence: str
    documents: _Count
    bytes: _Count
    conversations: _Count = 0
    encodings: dict[str, _Count] = {}
    dropped: dict[str, _Count] = {}
    changes: dict[str, _Count] = {}
    missing: list[_Lost] = []
    notes: list[str] = []


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written and the content of ``source.json``; ``replaced`` is False where the old corpus was kept."""

    written: Written
    record: dict[str, Any]
    replaced: bool = True


def store_corpus(folder: Path, source: Source, documents: Iterable[Document], facts: dict[str, Any]) -> Stored:
    """Write the documents and where they came from.

    The same text again leaves the files as they are, and so does a text of which something is missing where there is
    a complete one. Files cannot be renamed at once, so the next ``source.json`` is on disk before ``documents.jsonl``
    is replaced, and ``read_source`` takes the one that fits: a killed fetch leaves the old corpus or the new one.
    Replacing the whole folder would lose its tokens.
    """
    before = _source_before(folder)
    broken_off = (folder / NEXT_SOURCE).exists()
    made = not folder.exists()
    path = folder / DOCUMENTS
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    replaced = True
    try:
        _sweep(folder)
        # The inner one is renamed first: documents never wait for their provenance.
        with (
            contextlib.suppress(_UnchangedError),
            atomic_write(path) as file,
            atomic_write(folder / PROVENANCE) as lines,
        ):
            provenance = Provenance(lines, source.fetched_at, now)
            written = write_documents(file, provenance.watch(documents))
            if written.documents == 0:
                raise _no_text(source)
            _check_shrunk(before, source, written)
            same = before is not None and before["sha256"] == written.sha256 == _sha256(path)
            lost = [item for item in source.missing if not item.old]
            if before is not None and not same and before["source"] == source.where:
                facts = {**facts, "changes": _changes(path, provenance)}
            elif before is not None and same and broken_off and "changes" in before:
                facts = {**facts, "changes": before["changes"]}
            replaced = not lost or _loses_nothing(before, source, facts, written)
            told = before if replaced else None
            record = _record(folder.name, source, written, told, {**facts, "fetched_at": now}, same=same)
            if not replaced or (same and provenance.is_that_of(folder / PROVENANCE)):
                raise _UnchangedError
            write_json(folder / NEXT_SOURCE, record)
        if replaced and (before is None or broken_off or not same or _lasting(before) != _lasting(record)):
            write_json(folder / SOURCE, record)
        elif replaced and before is not None:
            record = {**before, "notes": record["notes"]}
        (folder / NEXT_SOURCE).unlink(missing_ok=True)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise CorpusError(f"{folder} cannot be written ({error.strerror}).", WRITE_HINT) from error
        raise
    return Stored(written, record, replaced)


def counted(record: Mapping[str, Any]) -> str:
    """Return how many texts a corpus has, by its ``source.json``: ``1 document``, ``1,204 conversations``."""
    documents, conversations = record["documents"], record.get("conversations", 0)
    what = "conversation" if conversations == documents else "document"
    among = f" ({conversations:,} of them conversations)" if 0 < conversations < documents else ""
    return f"{documents:,} {what}{'' if documents == 1 else 's'}{among}"


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


def refuse_texts(folder: Path) -> None:
    """Raise ``SourceError`` for a folder with files that are no corpus: nothing is written among somebody's texts."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names.isdisjoint({DOCUMENTS, SOURCE, NEXT_SOURCE}):
        others = [name for name in names - {RAW, "tokens", PROVENANCE} if name[0] != "."]
        if others:
            raise SourceError(
                f"The folder {folder} holds files of yours ({shown(sorted(others))}), and no corpus.",
                "Give the new corpus another name: --name NAME",
            )


def free_name(wanted: str, where: str, corpora_dir: Path, recipe: str | None = None) -> str:
    """Return ``wanted``, or with a number added the first name that is free or holds the text of this very source.

    The name of a recipe is free for the recipe alone: ``train`` would take another text for it.
    """
    taken = {file.name for file in recipes(corpora_dir)} - {recipe}
    names = itertools.chain([wanted], (f"{wanted[: MAX_NAME - 10]}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken and _is_ours(corpora_dir / name, where, recipe))


def _is_ours(folder: Path, where: str, recipe: str | None) -> bool:
    """Say whether a folder has no corpus yet, or that of this source or recipe; a damaged record may be repaired."""
    if not (folder / SOURCE).exists() and not (folder / NEXT_SOURCE).exists():
        begun = last_fetch(folder)
        return not (folder / DOCUMENTS).exists() and (begun is None or begun[0] == where)
    record = _source_before(folder)
    if record is None or (recipe is not None and record.get("recipe") == recipe):
        return True
    return is_from(record, where)


def is_from(record: Mapping[str, Any], where: str) -> bool:
    """Say whether a corpus was fetched from this source, by its ``source.json``."""
    if where == "-" or record["kind"] == "stdin":
        return False
    try:
        path, before = (Path(text).expanduser() for text in (where, record["source"]))
        # What comes through a pipe is never the same source again.
        if path.exists() and not path.is_file() and not path.is_dir():
            return False
        return where == str(record["source"]) or path.resolve() == before.resolve()
    except (OSError, ValueError, RuntimeError):  # one of them can be no path: too long, or of no such user
        return where == str(record["source"])


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
        what = ", ".join(f"{count:,} {how}" for how, count in facts.get("changes", {}).items() if count)
        since = f"The text of {name} has changed since it was fetched on {before['fetched_at'][:10]}"
        notes.append(f"{since}: {what}." if what else f"{since}.")
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "kind": source.kind,
        "source": source.where,
        "why": source.why,
        **facts,
        "sha256": written.sha256,
        "documents": written.documents,
        "bytes": written.bytes,
        **({"conversations": written.conversations} if written.conversations else {}),
        "licence": source.licence,
        "encodings": dict(source.encodings),
        "dropped": dict(+source.dropped),
        "missing": [asdict(item) for item in source.missing],
        "notes": notes,
    }


def _loses_nothing(before: dict[str, Any] | None, source: Source, facts: dict[str, Any], written: Written) -> bool:
    """Say whether a text of which something is missing has all that the one of before has."""
    if before is None:
        return True
    if before["source"] != source.where:
        return False
    changed = facts.get("changes") or {"gone": int(written.documents < before["documents"])}
    return not changed.get("gone", 0)


def _check_shrunk(before: dict[str, Any] | None, source: Source, written: Written) -> None:
    """Raise ``SourceError`` where next to nothing is left of a site: it is down, or has moved."""
    if before is None or before["source"] != source.where or source.kind != "blog":
        return
    if before["documents"] >= SHRUNK_FROM and written.documents * SHRUNK_TO < before["documents"]:
        raise SourceError(
            f"{source.where} gave {before['documents']:,} documents before and gives {written.documents:,} now, so the "
            "corpus was kept as it was.",
            "If the site has really shrunk so much, fetch it under another name: --name NAME",
        )


def _changes(documents: Path, provenance: Provenance) -> dict[str, int]:
    """Compare with the documents that are about to be replaced; nothing where they are too many."""
    before = names_by_id(documents)
    if before is None or len(provenance.seen) > MAX_COMPARED:
        return {}
    return changes(before, provenance.seen)


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """Return what of a record is the same when the same source is fetched again."""
    return {key: record[key] for key in record if key not in {"fetched_at", "notes"}}


def _sweep(folder: Path) -> None:
    """Remove what killed fetches have left behind, which may be gigabytes; what nobody holds is no live one's.

    Where nothing can be held, what is young may be another's that is still at work.
    """
    for name in (DOCUMENTS, PROVENANCE, SOURCE, NEXT_SOURCE):
        for path in folder.glob(f".{name}.*.tmp"):
            with contextlib.suppress(OSError), held(path) as abandoned:
                if abandoned or time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


def _no_text(source: Source) -> GptcliError:
    if source.missing:
        first = source.missing[0]
        more = f" {len(source.missing) - 1:,} more failed." if len(source.missing) > 1 else ""
        return SourceError(f"Nothing of {source.where} could be fetched: {first.why}{more}", "Try again later.")
    dropped = +source.dropped
    why = f" ({', '.join(f'{count} {what}' for what, count in dropped.items())})" if dropped else ""
    by_lines = any(what.startswith("lines with ") for what in dropped)
    hint = "Fewer lines are left out with another --drop-lines." if by_lines else "gptcli fetch FILE reads a text file."
    return SourceError(f"There is no text in {source.where}{why}.", hint)


def _source_before(folder: Path) -> dict[str, Any] | None:
    try:
        return read_source(folder)
    except FormatError:
        return None


def _read(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():  # a device has no end, and a pipe no beginning
        raise FormatError(f"{path}: the source of a corpus should be a file, and this is none.", _READ_HINT)
    record = read_json(path, format_version=FORMAT_VERSION, what="the source of a corpus")
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        fields = ", ".join(dict.fromkeys(str(item["loc"][0]) for item in error.errors()))
        raise FormatError(
            f"{path}: the source of a corpus is damaged: fields are missing or of the wrong type ({fields}).",
            _READ_HINT,
        ) from error
    return record


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path) if path.is_file() else ""
    except OSError:
        return ""
