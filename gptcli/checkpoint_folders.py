"""Where a run's checkpoints lie: a folder a step, the pointers ``latest`` and ``best``, and what killed saves left.

Knows names and folders; what is in a checkpoint is ``checkpoints``' business.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import zlib
from pathlib import Path
from typing import Literal

from gptcli.errors import FormatError
from gptcli.files import RANDOM, atomic_write
from gptcli.runs import RunDir

LEFTOVER = re.compile(rf"\.(step_[0-9]+|latest|best)\.{RANDOM}\.(tmp|old)")
MAX_POINTER_BYTES = 200
Which = Literal["best", "latest"]


def checkpoint_folders(run: RunDir) -> list[Path]:
    """Return the folders of all checkpoints, the newest first."""
    paths = (path for path in run.checkpoints_path.glob("step_*") if step_of(path) >= 0 and path.is_dir())
    return sorted(paths, key=step_of, reverse=True)


def prune_checkpoints(run: RunDir, keep: int | None, follows: int | None = None) -> None:
    """Delete all but the latest, the best and the ``keep`` newest others (None: all), and what killed saves have left.

    ``follows`` is the step of the checkpoint that the run came from before the latest, -1 for its beginning, None where
    that is not known. Newer ones are not kept: they are damaged, or of a way that the run has left.
    """
    put_back(run)
    kept = {path for which in ("latest", "best") if (path := pointed(run, which)) is not None}
    others = [path for path in checkpoint_folders(run) if path not in kept]
    left = [path for path in others if follows is not None and step_of(path) > follows]
    older = [path for path in others if path not in left]
    for path in (*left, *(older[keep:] if keep is not None else ()), *_leftovers(run)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def put_back(run: RunDir) -> None:
    """Put checkpoints back that a save has moved aside and was killed before it put the new one there."""
    for path in _moved_aside(run):
        if not (run.checkpoints_path / path.name).exists():
            path.replace(run.checkpoints_path / path.name)


def _moved_aside(run: RunDir) -> list[Path]:
    """Return the checkpoints that a save has moved aside while it replaced them, and was killed."""
    found: list[Path] = []
    for old in (path for path in _leftovers(run) if path.suffix == ".old"):
        with contextlib.suppress(OSError):  # a save is through with it just now
            found += [path for path in old.glob("step_*") if step_of(path) >= 0 and not path.is_symlink()]
    return found


def _leftovers(run: RunDir) -> list[Path]:
    """Return what saves have left that were killed: nothing else that somebody put there, and no links."""
    found = (path for path in run.checkpoints_path.glob(".*") if LEFTOVER.fullmatch(path.name))
    return [path for path in found if not path.is_symlink() and (path.is_dir() or path.suffix == ".tmp")]


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name, -1 for the name of anything else."""
    return int(match[1]) if (match := re.fullmatch("step_([0-9]{1,15})", path.name)) else -1


def point(run: RunDir, which: Which, name: str) -> None:
    """Make ``latest`` or ``best`` name a checkpoint's folder."""
    with atomic_write(run.checkpoints_path / which) as file:
        file.write(f"{name} {_crc(name)}\n".encode())


def pointed_name(run: RunDir, which: str) -> str | None:
    """Return what a pointer says, None where there is none; behind a name that its checksum refutes, that is added."""
    pointer = run.checkpoints_path / which
    if not pointer.is_file():
        return None
    with pointer.open("rb") as file:
        line = file.read(MAX_POINTER_BYTES).decode("utf-8", "replace").rstrip("\n")
    name, _, crc = line.partition(" ")
    # Pointers of before have no checksum behind the name.
    return name if crc in ("", _crc(name)) else line


def _crc(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}"


def pointed(run: RunDir, which: str) -> Path | None:
    """Return the folder that a pointer names, None where there is no pointer; ``FormatError`` for one of nonsense."""
    name = pointed_name(run, which)
    while name is not None:
        if step_of(Path(name)) >= 0:
            # What is aside is only read there: the run may be going on, and its own save puts it back.
            for path in (run.checkpoints_path / name, *(path for path in _moved_aside(run) if path.name == name)):
                if path.is_dir():
                    return path
        read, name = name, pointed_name(run, which)
        if read == name:  # else it has moved on, and what it named was pruned meanwhile
            raise FormatError(
                f"{run.checkpoints_path / which}: it points at {name!r}, which is not a checkpoint of this run.",
                "Restore the folder checkpoints/ from a copy, or write the name of a step_ folder there into it.",
            )
    return None
