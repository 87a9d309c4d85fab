"""One writer a run: the lock that training holds, and who holds it.

The lock ends with its process, however that ends, so none is ever stale.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from gptcli.errors import FormatError, RunError
from gptcli.files import read_json, refuse_links_out, write_json
from gptcli.runs import RUN_VERSION, RunDir

LOCK, WRITER = ".lock", ".writer.json"
# What is written through a symbolic link; all else is renamed into its place.
WRITTEN = (LOCK, "metrics.jsonl", "checkpoints")
# Whoever asks ``is_trained`` holds the lock for a moment.
PATIENCE = 0.5
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def sole_writer(run: RunDir) -> Iterator[Callable[[], None]]:
    """Hold the run's lock, and yield what raises ``RunError`` once it is another run, or none, that lies there.

    ``RunError`` that names the process which has the lock already, or says that the run is gone, ``FormatError`` where
    what is written in it would lie elsewhere. Where there are no such locks (some network drives) nobody is refused.
    """
    refuse_links_out(run.path, *WRITTEN)
    lock = FileLock(run.path / LOCK, fallback_to_soft=False)
    locks = _lock(run, lock)
    folder, file = _identity(run.path), _identity(run.path / LOCK)

    def is_locked() -> bool:
        # Who deletes the file, and begins no other training, does no harm.
        return not locks or _identity(run.path / LOCK) in (file, None)

    def still_sole() -> None:
        if _identity(run.path) != folder:
            raise RunError(
                f"{run.path}: the run was deleted, moved or replaced while it was trained, so nothing is saved there.",
                "Where it was moved to it goes on from its last checkpoint: gptcli train --resume --run RUN",
            )
        if not is_locked():
            raise _is_written(run)

    try:
        with _pinned(run.path):
            writer = {"format_version": RUN_VERSION, "pid": os.getpid(), "host": platform.node()}
            write_json(run.path / WRITER, writer)
            yield still_sole
    finally:
        if _identity(run.path) == folder and is_locked():
            (run.path / WRITER).unlink(missing_ok=True)
        lock.release()


def _lock(run: RunDir, lock: FileLock) -> bool:
    """Take the run's lock, False where there are no such locks; raises ``RunError`` where it cannot be had."""
    if not run.path.is_dir():  # which the lock would make anew
        raise RunError(f"{run.path}: the run is gone.", "It was deleted or moved: gptcli runs list shows what is here.")
    try:
        lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 10)
    except Timeout:
        raise _is_written(run) from None
    except NotImplementedError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise RunError(
                f"{run.path}: the run cannot be written to ({error.strerror}).", "Check the permissions of the folder."
            ) from error
        return False
    return True


def is_trained(run: RunDir) -> bool:
    """Say whether a process, of this machine or another, trains the run just now; any number may ask at once.

    Where the lock cannot be asked, who wrote last is believed; a link is no lock of ours, and is not followed.
    """
    lock = run.path / LOCK
    if not (run.path / WRITER).exists() or lock.is_symlink() or not lock.is_file():
        return False
    try:
        _share(lock)
    except FileNotFoundError:
        return False
    except (NotImplementedError, OSError):
        return True
    return False


def _share(lock: Path) -> None:
    """Hold a lock beside others who do the same, for a moment; ``OSError`` where somebody has it alone.

    Makes nothing: a file made anew would be no lock of whoever trains, nor would a folder that is being removed go.
    """
    if sys.platform == "win32":  # which knows no such lock, so that each is given time
        with FileLock(lock, timeout=PATIENCE / 5, poll_interval=PATIENCE / 50):
            return
    import fcntl

    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def refuse_trained(run: RunDir) -> None:
    """Raise ``RunError`` that names the process where one trains the run just now."""
    if is_trained(run):
        raise _is_written(run)


@contextlib.contextmanager
def _pinned(folder: Path) -> Iterator[None]:
    """Hold a folder open, so that no other one can get its number while it is compared."""
    if sys.platform == "win32":  # where a folder with an open file in it can go nowhere
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(descriptor)


def _identity(path: Path) -> tuple[int, int] | None:
    """Say which file it is that lies there, whatever it is called elsewhere; None for none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_written(run: RunDir) -> RunError:
    who = "another process"
    with contextlib.suppress(FormatError):
        writer = read_json(run.path / WRITER, format_version=RUN_VERSION, what="who writes a run")
        here = writer.get("host") == platform.node()
        who = f"the process {writer.get('pid')}" + ("" if here else f" on {writer.get('host')}")
    return RunError(
        f"The run {run.name!r} is being trained by {who}; two at once would spoil it.",
        f"Watch it: gptcli runs show {run.name} --watch   It can be read meanwhile: gptcli sample {run.name}   "
        "To stop it, press Ctrl-C where it was started.",
    )
