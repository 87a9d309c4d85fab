"""A text or a conversation as a file, and back: .txt, .md, .jsonl fit for finetuning, logs of sessions.

Nothing that exists is overwritten; a record is added to a .jsonl. It knows nothing of models and sessions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptcli.chat.commands import CommandError
from gptcli.chat.log import is_log, read_log
from gptcli.chat.page import conversation_text
from gptcli.chat_template import ChatTemplate, Message
from gptcli.documents import normalize_newlines, well_formed
from gptcli.files import atomic_write

SUFFIXES = ".txt, .md or .jsonl"
MAX_LOAD_BYTES = 16 * 1024 * 1024
_ROLES = ("system", "user", "assistant")
_FRONT, _FRONT_END = "---\nwritten_with: gptcli\n", "\n---\n\n"


def named_file(argument: str) -> Path:
    """Return the file that an argument names, which may be quoted and begin with ``~``."""
    if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\"":
        argument = argument[1:-1]
    try:
        return Path(argument).expanduser()
    except RuntimeError:  # no such user
        return Path(argument)


def save_text(path: Path, text: str, facts: dict[str, Any]) -> str:
    """Write a text by the suffix of ``path``; return what was done, in a sentence.

    ``facts`` about its making stand at the head of Markdown. ``CommandError``: another suffix, nothing to save, a file
    that exists or cannot be written.
    """
    return _save(path, {"text": text}, {".txt": text, ".md": _front(facts) + text}, bool(text))


def save_conversation(path: Path, messages: Sequence[Message], template: ChatTemplate, facts: dict[str, Any]) -> str:
    """Write a conversation by the suffix of ``path``, as ``save_text`` does a text; empty answers are left out."""
    said = [message._replace(content=message.content.strip()) for message in messages]
    said = [message for message in said if message.content]
    record = {"messages": [{"role": message.role, "content": message.content} for message in said]}
    turns = [f"**{message.role.capitalize()}:** {message.content}\n" for message in said]
    texts = {".txt": conversation_text(said, template), ".md": _front(facts) + "\n".join(turns)}
    return _save(path, record, texts, bool(said))


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
            f"{path} holds a text, and this model was tuned on conversations.", "Such as: /load chats.jsonl"
        )
    if not found:
        raise CommandError(f"{path} is empty.", "Load another file.")
    return found


def _load(path: Path) -> str | tuple[Message, ...]:
    try:
        if path.stat().st_size > MAX_LOAD_BYTES:
            raise CommandError(f"{path} is larger than {MAX_LOAD_BYTES:,} bytes.", "Load a part of it.")
        if path.suffix.lower() == ".jsonl":
            return _last_record(path)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}).", "Such as: /load story.txt") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8 text.", "gptcli fetch FILE reads other encodings.") from error
    text = normalize_newlines(text)
    if path.suffix.lower() == ".md" and text.startswith(_FRONT) and _FRONT_END in text:
        text = text.partition(_FRONT_END)[2]
    return text


def _save(path: Path, record: dict[str, Any], texts: dict[str, str], anything: bool) -> str:
    suffix = path.suffix.lower()
    if suffix not in (*texts, ".jsonl"):
        found = f"the suffix {path.suffix}" if path.suffix else "no suffix"
        raise CommandError(f"{path.name!r} has {found}; expected is {SUFFIXES}.", "Such as: /save story.md")
    if not anything:
        raise CommandError("There is nothing to save yet.", "Send a line first, or /more")
    exists = path.exists() or path.is_symlink()
    if exists and suffix != ".jsonl":
        raise CommandError(f"{path} exists already and was left as it is.", "Choose another name.")
    try:
        old = path.read_bytes() if exists else b""
        if old.strip():
            _check_fits(path, old, next(iter(record)))
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with atomic_write(path) as file:
            if suffix == ".jsonl":
                file.write(old + (b"\n" if old and not old.endswith(b"\n") else b"") + line.encode())
            else:
                file.write(well_formed(texts[suffix]).encode())
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}).", "Choose another place.") from error
    if suffix != ".jsonl":
        return f"Saved to {path}."
    return f"Added a record to {path}." if old.strip() else f"Saved a record to {path}."


def _check_fits(path: Path, old: bytes, key: str) -> None:
    """Raise ``CommandError`` when the last record of a file is not one of this kind."""
    try:
        last = json.loads(old.rstrip().rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        last = None
    if not isinstance(last, dict) or key not in last:
        raise CommandError(f"{path} holds other records than {key}, and was left as it is.", "Choose another name.")


def _last_record(path: Path) -> str | tuple[Message, ...]:
    if is_log(path):
        logged = read_log(path)
        return logged.text if logged.messages is None else logged.messages
    lines = path.read_bytes().strip().splitlines()
    expected = 'expected is {"text": ...} or {"messages": [...]}'
    try:
        record = json.loads(lines[-1]) if lines else None
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            return well_formed(normalize_newlines(record["text"]))
        messages = tuple(_message(value) for value in record["messages"]) if isinstance(record, dict) else ()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandError(f"{path}: its last record cannot be read; {expected}.", "Load another file.") from error
    if not messages:
        raise CommandError(f"{path}: its last record holds nothing; {expected}.", "Load another file.")
    return messages


def _message(value: dict[str, Any]) -> Message:
    """Return a message of a record; raises ``ValueError`` for one that has no known role or no text."""
    role, content = value["role"], value["content"]
    if role not in _ROLES or not isinstance(content, str):
        raise ValueError(f"the role {role!r}")
    return Message(role, well_formed(normalize_newlines(content)))


def _front(facts: dict[str, Any]) -> str:
    """Return facts as YAML on one line each, which JSON values are."""
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items()]
    return _FRONT + "\n".join(lines) + _FRONT_END
