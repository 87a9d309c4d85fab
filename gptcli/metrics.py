"""A run's ``metrics.jsonl``: one JSON line an event, appended as they happen, cut back where a run goes back.

What the events mean is ``events``' business.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gptcli.errors import RunError
from gptcli.files import atomic_write

CRC = b', "crc32": "'
REPORT = b'{"event": "step_logged", '
ENDS = ("run_finished", "run_failed")
# Chance gives the logarithm of the vocabulary: 12 nats a token, and 40 bits a byte at most.
LOSSES = ("loss", "loss_stderr", "bits_per_byte")
MOST_LOSS = 1e6


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
        if event is not None and event["step"] <= done.get(event["event"], step) and event["event"] not in ENDS:
            kept.append(line)
    with atomic_write(path) as file:
        file.writelines(kept)


def read_events(
    path: Path, on_damage: Callable[[int], None] = lambda _: None, *, brief: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the events of a run, none where it has no metrics yet; of a damaged line ``on_damage`` gets the number.

    A last line without its end is one that is being written. ``brief`` leaves out reports of training that another one
    follows at once, which says how far the run had come, too: to read the others takes most of the time.
    """
    if not path.is_file():
        return
    checked = False
    with path.open("rb") as file:
        for spared, lines in itertools.groupby(enumerate(file, start=1), lambda at: brief and _is_whole_report(at[1])):
            for number, line in deque(lines, maxlen=1) if spared else lines:
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
        self._offset, self._last = 0, b""
        self._seen = set[bytes]()

    def new_events(self) -> list[dict[str, Any]]:
        """Read on; a last line without its end is left for the next time."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            # Another file is known by what stands before the place: a new one may have the inode and size of the old.
            file.seek(self._offset - len(self._last))
            if file.read(len(self._last)) != self._last:
                self._offset, self._last = 0, b""
                file.seek(0)
            whole, end, _ = file.read().rpartition(b"\n")
            lines = (whole + end).splitlines(keepends=True)
            self._offset += len(whole + end)
            self._last = lines[-1] if lines else self._last
            new = [line for line in lines if _digest(line) not in self._seen]
            self._seen |= {_digest(line) for line in lines}
            return [event for line in new if (event := parse_event(line)) is not None]
        return []


def base_val_loss(path: Path) -> float | None:
    """Return the val_loss at step 0: a finetuned run's before any training; else None."""
    first = next((event for event in read_events(path) if event["event"] == "evaluated"), {})
    loss = first.get("val_loss")
    return loss if first.get("step") == 0 and isinstance(loss, float) else None


def _is_whole_report(line: bytes) -> bool:
    return line.startswith(REPORT) and _is_borne_out(line) is True


def _is_borne_out(line: bytes) -> bool | None:
    """Say whether a line is what its checksum says; None for one of before, which has none."""
    plain, found, checksum = line.rstrip(b"\n").rpartition(CRC)
    return checksum == b'%08x"}' % zlib.crc32(plain + b"}") if found else None


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=8).digest()


def write_event(record: Mapping[str, Any]) -> bytes:
    """Return the line of an event: its JSON with ``crc32`` last, that of the JSON before it."""
    plain = json.dumps(record, ensure_ascii=False)
    return f'{plain[:-1]}, "crc32": "{zlib.crc32(plain.encode()):08x}"}}\n'.encode()


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Return the event that a line of the metrics holds; None for a damaged line. Lines of before have no ``crc32``.

    A number that none of ours can be is None, as one is that JSON does not have.
    """
    if _is_borne_out(line) is False:
        return None
    try:
        event = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    event = {key: None if _is_beyond(key, value) else value for key, value in event.items() if key != "crc32"}
    step = event.get("step")
    return event if type(step) is int and step >= 0 else None


def _is_beyond(key: str, value: object) -> bool:
    """Say whether it is a number that none of ours can be: reckoning on with it ends in infinities."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not (0 <= value < MOST_LOSS if key.endswith(LOSSES) else abs(value) < 2**63)
