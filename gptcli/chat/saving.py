"""A text or a conversation as a file, and back: .txt, .md, .jsonl fit for finetuning, logs of sessions.

Nothing of others is overwritten; a record is added to a .jsonl. It knows nothing of models and sessions.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptcli.chat.commands import CommandError
from gptcli.chat.log import is_log, read_log, read_message, read_text
from gptcli.chat.page import conversation_text
from gptcli.chat_template import ChatTemplate, Message
from gptcli.documents import normalize_newlines, well_formed
from gptcli.files import atomic_write, sha256_file

SUFFIXES = ".txt, .md or .jsonl"
MAX_LOAD_BYTES = 16 * 1024 * 1024
Written = dict[Path, str]
"""The files that a session wrote, links followed, and the SHA-256 of what it wrote last."""
_FRONT, _FRONT_END = "---\nwritten_with: gptcli\n", "\n---\n\n"


def named_file(argument: str) -> Path:
    """Return the file that an argument names, which may be quoted and begin with ``~``."""
    if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\"":
        argument = argument[1:-1]
    try:
        return Path(argument).expanduser()
    except RuntimeError:  # no such user
        return Path(argument)


def save_text(path: Path, text: str, facts: dict[str, Any], written: Written) -> str:
    """Write a text by the suffix of ``path``; return what was done, in a sentence.

    ``facts`` about its making stand at the head of Markdown. A file in ``written`` that is still as it was written is
    replaced. ``CommandError``: another suffix, nothing to save, another file that exists, no such folder, no right.
    """
    return _save(path, {"text": text}, {".txt": text, ".md": _front(facts) + text}, written, anything=bool(text))


def save_conversation(
    path: Path, messages: Sequence[Message], template: ChatTemplate, facts: dict[str, Any], written: Written
) -> str:
    """Write a conversation by the suffix of ``path``, as ``save_text`` does a text; empty answers are left out."""
    said = [message._replace(content=message.content.strip()) for message in messages]
    said = [message for message in said if message.content]
    record = {"messages": [{"role": message.role, "content": message.content} for message in said]}
    turns = [f"**{message.role.capitalize()}:** {message.content}\n" for message in said]
    texts = {".txt": conversation_text(said, template), ".md": _front(facts) + "\n".join(turns)}
    return _save(path, record, texts, written, anything=bool(said))


def load_text(path: Path) -> str:
    """Return the text of a file: of a .jsonl the last record's, of a session's log the final one, else all of it.

    What ``save_text`` put at the head of Markdown is left out. ``CommandError``: the file cannot be read, is no text,
    larger than 16 MiB, empty, or holds conversations.
    """
    found = _load(path)
    if not isinstance(found, str):
        raise CommandError(
            f"{path} holds a conversation, and this model was not tuned on conversations.", "Such as: /load story.txt"
        )
    if not found:
        raise CommandError(f"{path} is empty.", "Load another file.")
    return found


def load_conversation(path: Path) -> tuple[Message, ...]:
    """Return the last conversation of a .jsonl, or the final one of a session's log; fails as ``load_text`` does."""
    found = _load(path)
    if isinstance(found, str):
        raise CommandError(
            f"{path} holds a text, and this model was tuned on conversations.",
            f"A conversation is kept for /load as .jsonl: /save {path.stem}.jsonl",
        )
    if not found:
        raise CommandError(f"{path} is empty.", "Load another file.")
    return found


def _load(path: Path) -> str | tuple[Message, ...]:
    try:
        _check_is_file(path)
        with path.open("rb") as file:  # the size that a file of the system states may be 0
            data = file.read(MAX_LOAD_BYTES + 1)
        if len(data) > MAX_LOAD_BYTES:
            raise CommandError(f"{path} is larger than {MAX_LOAD_BYTES:,} bytes.", "Load a part of it.")
        if path.suffix.lower() == ".jsonl":
            return _last_record(path, data)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}).", "Such as: /load story.txt") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8 text.", "gptcli fetch FILE reads other encodings.") from error
    text = normalize_newlines(text)
    if path.suffix.lower() == ".md" and text.startswith(_FRONT) and _FRONT_END in text:
        text = text.partition(_FRONT_END)[2]
    return text


def _save(path: Path, record: dict[str, Any], texts: dict[str, str], written: Written, *, anything: bool) -> str:
    suffix = path.suffix.lower()
    if suffix not in (*texts, ".jsonl"):
        found = f"the suffix {path.suffix}" if path.suffix else "no suffix"
        raise CommandError(f"{path.name!r} has {found}; expected is {SUFFIXES}.", "Such as: /save story.md")
    if not anything:
        raise CommandError("There is nothing to save yet.", "Send a line first, or /more")
    try:
        if suffix != ".jsonl":
            _write(path, well_formed(texts[suffix]).encode(), written)
            return f"Saved to {path}."
        return _add(path, record)
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}).", "Choose another place.") from error


def _write(path: Path, data: bytes, written: Written) -> None:
    """Write a new file, or one that this session wrote and nobody changed since."""
    if _exists(path):
        _check_is_file(path)
        if sha256_file(path) != written.get(_real(path)):
            raise CommandError(f"{path} exists already and was left as it is.", "Choose another name.")
    _put(path, data)
    written[_real(path)] = hashlib.sha256(data).hexdigest()


def _add(path: Path, record: dict[str, Any]) -> str:
    """Add a record to a file of such records, or begin one."""
    old = b""
    if _exists(path):
        _check_is_file(path)
        old = path.read_bytes()
        if old.strip() and (is_log(path) or not _fits(old, record)):
            found = f"{path} holds other records than {next(iter(record))}, and was left as it is."
            raise CommandError(found, "Choose another name.")
    line = well_formed(json.dumps(record, ensure_ascii=False)) + "\n"
    _put(path, old + (b"\n" if old and not old.endswith(b"\n") else b"") + line.encode())
    return f"Added a record to {path}." if old.strip() else f"Saved a record to {path}."


def _real(path: Path) -> Path:
    """Follow links; unlike ``resolve`` this raises nothing where they lead in a circle."""
    return Path(os.path.realpath(path))


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _put(path: Path, data: bytes) -> None:
    """Write a file where a link leads to, in a folder that is there; permissions stay as they are."""
    target = _real(path)
    if not target.parent.is_dir():
        raise CommandError(f"There is no folder {path.parent}.", "Make it first, or choose another place.")
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    with atomic_write(target, mode=mode) as file:
        file.write(data)


def _check_is_file(path: Path) -> None:
    """Raise ``CommandError`` for a folder, and for pipes and devices, whose reading may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        what = "a folder" if path.is_dir() else "no ordinary file"
        raise CommandError(f"{path} is {what}.", "Choose another file.")


def _fits(old: bytes, record: dict[str, Any]) -> bool:
    """Say whether the last record of a file has the keys of this one, and no more."""
    try:
        last = json.loads(old.rstrip().rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        return False
    return isinstance(last, dict) and last.keys() == record.keys()


def _last_record(path: Path, data: bytes) -> str | tuple[Message, ...]:
    if is_log(path):
        logged = read_log(path)
        return logged.text if logged.messages is None else logged.messages
    lines = data.strip().splitlines()
    expected = 'expected is {"text": ...} or {"messages": [...]}'
    try:
        record = json.loads(lines[-1]) if lines else None
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            return read_text(record["text"])
        messages = tuple(read_message(value) for value in record["messages"]) if isinstance(record, dict) else ()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandError(f"{path}: its last record cannot be read; {expected}.", "Load another file.") from error
    if not messages:
        raise CommandError(f"{path}: its last record holds nothing; {expected}.", "Load another file.")
    return messages


def _front(facts: dict[str, Any]) -> str:
    """Return facts as YAML on one line each, which JSON values are."""
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items()]
    return _FRONT + "\n".join(lines) + _FRONT_END
