"""Sessions kept in their run: ``chats/<UTC time>.jsonl``, one JSON line an event, and the text that a log ends with.

The first line names the format and the model. Every step of the text has an ``id`` and names the one it comes
``after`` (0: none), and every other move names the step that is the last now (``head``), so that the log alone tells
the final text. A line is on its way to the disk before the next one is drawn; a cut last line is left out when read,
and so is all from a move on to a step that is missing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gptcli import __version__
from gptcli.chat.page import Step, messages_of, text_of
from gptcli.chat_template import Message
from gptcli.documents import normalize_newlines, well_formed
from gptcli.errors import FormatError
from gptcli.runs import RunDir

LOG_VERSION = 1
ROLES = ("system", "user", "assistant")


class ChatLog:
    """The log of one session; its file is made with the first event.

    ``write`` raises ``OSError`` once, when the file cannot be made or written; after that nothing is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%SZ.jsonl")
        """Where the log lies, or will: a number is added when another session of this second was first."""
        self.facts: dict[str, Any] = {}
        """What stands in the first line about the session, as JSON has it."""
        self._file: IO[str] | None = None
        self._given_up = False

    @property
    def begun(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    def write(self, event: str, **values: object) -> None:
        """Add an event with the time; ``values`` are what JSON knows."""
        if self._given_up:
            return
        try:
            if self._file is None:
                self._file = self._create()
                self._add("session", {"format_version": LOG_VERSION, "gptcli": __version__, **self.facts})
            self._add(event, values)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; nothing is kept from here on."""
        self._given_up = True
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _create(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        wanted = self.path
        names = (wanted.with_stem(f"{wanted.stem}-{number}") for number in itertools.count(2))
        while True:
            with contextlib.suppress(FileExistsError):
                return open(self.path, "x", encoding="utf-8", newline="\n", opener=_open_private)
            self.path = next(names)

    def _add(self, event: str, values: dict[str, Any]) -> None:
        assert self._file is not None
        time = dt.datetime.now(dt.timezone.utc).isoformat(timespec="milliseconds")
        self._file.write(well_formed(json.dumps({"time": time, "event": event, **values}, ensure_ascii=False)) + "\n")
        self._file.flush()


def _open_private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)


def open_chat_log(run: RunDir) -> ChatLog:
    """Return the log of a new session with a run; nothing is written yet."""
    return ChatLog(run.path / "chats")


@dataclass(frozen=True, slots=True)
class LoggedText:
    """What a session ended with: a text, or a conversation (``messages``; then the text is empty)."""

    text: str
    messages: tuple[Message, ...] | None = None


def is_log(path: Path) -> bool:
    """Say whether a file begins as a session's log does."""
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("event") == "session" and "format_version" in value


def read_log(path: Path) -> LoggedText:
    """Return what a session ended with; a last line that was cut is left out.

    Raises ``FormatError`` for a file that is no log, of another version, or damaged, and ``OSError``.
    """
    events = _events(path)
    first = events[0] if events else {}
    if first.get("event") != "session":
        raise FormatError(f"{path}: this is not the log of a session.", "Such logs lie in runs/RUN/chats.")
    if first.get("format_version") != LOG_VERSION:
        raise FormatError(
            f"{path}: the log of a session has format_version {first.get('format_version')!r}, this gptcli reads "
            f"{LOG_VERSION}.",
            "It was written by another version: update gptcli.",
        )
    known: dict[int, Step | None] = {0: None}
    head: Step | None = None
    try:
        for event in events[1:]:
            if any(event.get(name, 0) not in known for name in ("after", "head")):
                break
            if "id" in event:
                head = known[event["id"]] = _step(event, known)
            elif "head" in event:
                head = known[event["head"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: the log of a session is damaged: {error!r}.") from error
    if first.get("conversation"):
        return LoggedText("", tuple(messages_of(head)))
    return LoggedText(text_of(head))


def _events(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines(keepends=True)
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict):
                raise ValueError(f"an object was expected, found {type(event).__name__}")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise FormatError(f"{path}:{number}: the log of a session is damaged: {error}.") from error
        events.append(event)
    return events


def _step(event: dict[str, Any], known: dict[int, Step | None]) -> Step:
    """Rebuild a step; raises ``KeyError``, ``TypeError`` or ``ValueError`` for one that cannot be."""
    texts = {name: None if event.get(name) is None else read_text(event[name]) for name in ("line", "given", "text")}
    loaded = None
    if (messages := event.get("messages")) is not None:
        loaded = tuple(read_message(message) for message in messages)
    return Step(
        id=event["id"],
        before=known[event["after"]],
        line=texts["line"],
        given=texts["given"] or "",
        loaded=loaded,
        drawn=texts["text"],
    )


def read_message(value: dict[str, Any]) -> Message:
    """Return a message as JSON has it; ``KeyError``, ``TypeError`` or ``ValueError`` for no known role or no text."""
    role = value["role"]
    if role not in ROLES:
        raise ValueError(f"the role {role!r}")
    return Message(role, read_text(value["content"]))


def read_text(value: object) -> str:
    """Return a text as JSON has it with plain line ends and characters that can be written; ``TypeError`` for none."""
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, found {type(value).__name__}")
    return well_formed(normalize_newlines(value))
