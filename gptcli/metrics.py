"""A run's ``metrics.jsonl``: one JSON line an event, appended as they happen, cut back where a run goes back.

What the events mean is ``events``' business.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gptcli.errors import RunError
from gptcli.files import atomic_write

CRC = b', "crc32": "'
ENDS = ("run_finished", "run_failed")


class Metrics:
    """The file, open for appending; closed as a context."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")

    def append(self, record: Mapping[str, Any], *, durable: bool) -> None:
        """Write one line, and wait for the disk where it has to outlive a power cut."""
        try:
            self._file.write(write_event(record))
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(
                f"{self.path}: what happens in the run cannot be written down ({error.strerror}).",
                "Make room. Its checkpoints are as they were: gptcli train --resume goes on.",
            ) from error

    def cut_back(self, step: int, done: Mapping[str, int]) -> None:
        """Do what ``truncate_metrics`` does to the open file."""
        self._file.close()
        truncate_metrics(self.path, step, done)
        self._file = self.path.open("ab")

    def close(self) -> None:
        """Close the file, whatever of it could not be written."""
        with contextlib.suppress(OSError):
            self._file.close()


def truncate_metrics(path: Path, step: int, done: Mapping[str, int]) -> None:
    """Drop the events that a run which goes on from ``step`` will make again, and any half-written last line.

    Those are the events after ``step``, and of the kinds in ``done`` (by their name in the file) those after the
    step given there. The end of the run that was stopped goes too.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        event = parse_event(line)
        # Half a line at the end, or a damaged one, is nothing that a resumed run could go by.
        if event is not None and event.get("step", 0) <= done.get(event["event"], step) and event["event"] not in ENDS:
            kept.append(line)
    with atomic_write(path) as file:
        file.writelines(kept)


def read_events(path: Path, on_damage: Callable[[int], None] = lambda _: None) -> Iterator[dict[str, Any]]:
    """Yield the events of a run, none where it has no metrics yet; of a damaged line ``on_damage`` gets the number.

    A last line without its end is one that is being written.
    """
    if not path.is_file():
        return
    checked = False
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            # Lines of before have no checksum; behind one that has, a line without it has lost it.
            checked = checked or CRC in line
            if (event := parse_event(line)) is not None and (CRC in line or not checked):
                yield event
            elif line.endswith(b"\n"):
                on_damage(number)


class Tail:
    """The events of a run as they are written: ``new_events`` returns those that came since it was last asked.

    A run that goes back rewrites the file; what was returned before is not returned again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._seen = set[bytes]()

    def new_events(self) -> list[dict[str, Any]]:
        """Read on; a last line without its end is left for the next time."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if (found.st_dev, found.st_ino) != self._file or found.st_size < self._offset:
                self._file, self._offset = (found.st_dev, found.st_ino), 0
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
            lines = whole.splitlines(keepends=True)
            self._offset += len(whole) + 1 if whole else 0
            new = [line for line in lines if _digest(line) not in self._seen]
            self._seen |= {_digest(line) for line in lines}
            return [event for line in new if (event := parse_event(line)) is not None]
        return []


def base_val_loss(path: Path) -> float | None:
    """Return the val_loss at step 0: a finetuned run's before any training; else None."""
    first = next((event for event in read_events(path) if event["event"] == "evaluated"), {})
    loss = first.get("val_loss")
    return loss if first.get("step") == 0 and isinstance(loss, float) else None


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line.rstrip(b"\n"), digest_size=8).digest()


def write_event(record: Mapping[str, Any]) -> bytes:
    """Return the line of an event: its JSON with ``crc32`` last, that of the JSON before it."""
    plain = json.dumps(record, ensure_ascii=False)
    return f'{plain[:-1]}, "crc32": "{zlib.crc32(plain.encode()):08x}"}}\n'.encode()


def parse_event(line: str | bytes) -> dict[str, Any] | None:
    """Return the event that a line of the metrics holds; None for a damaged line. Lines of before have no ``crc32``."""
    try:
        event = json.loads(line)
        found = event.pop("crc32", None) if isinstance(event, dict) else None
        if found is not None and found != f"{zlib.crc32(json.dumps(event, ensure_ascii=False).encode()):08x}":
            return None
    except (ValueError, RecursionError):
        return None
    whole = isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("step", 0), int)
    return event if whole else None
