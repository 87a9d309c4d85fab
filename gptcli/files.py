"""Files on disk: every write is temporary file, flush, fsync, rename; every JSON file names its format.

A reader of these files sees the old state or the new one, never half of one. Nothing here knows what the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from gptcli.errors import FormatError, VersionError

MAX_JSON_BYTES = 256 * 1024 * 1024
CHECKSUM = "checksum"
# What tempfile puts into a name.
RANDOM = "[a-z0-9_]{8}"
# What a file system says that knows no fsync; any other error is one of the disk.
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def atomic_write(path: Path, *, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary sibling of ``path`` for binary writing and rename it to ``path`` when the block succeeds.

    Parent folders are made. When the block raises, ``path`` is as it was and nothing is left behind. ``mode`` is what
    its permissions become, else those of a new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with held(temporary):
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                _sync(file.fileno())
            temporary.chmod(0o666 & ~_umask() if mode is None else mode)
            temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_file(error, path)
        raise
    sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Raise the ``OSError`` that writing ``path`` would end with, before the work that makes its content."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, replace: bool = True, goes_on: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """Yield a temporary sibling folder of ``path`` and rename it to ``path`` when the block succeeds.

    An existing ``path`` is replaced: it is moved aside first and deleted last. Without ``replace`` only an empty
    folder is, whose permissions are kept; ``OSError`` for anything else. Files inside are fsynced here. ``goes_on``
    is that of ``scratch_folder``.
    """
    with scratch_folder(path, goes_on) as temporary, _naming(path):
        yield temporary
        sync_files(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else may read
        temporary.chmod(0o777 & ~_umask())
        sync_folder(temporary)
        (_replace_folder if replace else _fill_place)(temporary, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _name_file(error, path)
        raise


def _name_file(error: BaseException, path: Path) -> None:
    """Let an error of the system say which file it was about: one of a descriptor does not, nor a temporary name."""
    if isinstance(error, OSError) and error.errno is not None and str(error.filename or ".tmp").endswith(".tmp"):
        error.filename = str(path)


@contextlib.contextmanager
def scratch_folder(path: Path, goes_on: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield a hidden sibling of ``path`` that is gone after the block, unless the block renames it.

    It is empty, but where ``goes_on`` says of one that a killed process has left that it can be gone on with: then it
    is that one, and one of which this is so when the block raises is left. Others that killed processes have left for
    the same ``path`` go first; those of live ones stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = re.compile(rf"\.{re.escape(path.name)}\.{RANDOM}\.tmp")
    temporary = None
    with contextlib.ExitStack() as stack:
        for other in path.parent.iterdir():
            if not name.fullmatch(other.name) or not other.is_dir():
                continue
            with contextlib.ExitStack() as lock:
                if not lock.enter_context(held(other)):
                    continue
                if temporary is None and goes_on(other):
                    temporary = other
                    stack.push(lock.pop_all())
                else:
                    shutil.rmtree(other, ignore_errors=True)
        locked = temporary is not None
        if temporary is None:
            temporary, locked = _new_folder(path, stack)
        try:
            yield temporary
        finally:
            # Where there are no locks nobody could tell that it was left.
            if not (locked and goes_on(temporary)):
                shutil.rmtree(temporary, ignore_errors=True)


def _new_folder(path: Path, stack: contextlib.ExitStack) -> tuple[Path, bool]:
    """Make an empty sibling of ``path``; return it, and whether it is locked until ``stack`` ends."""
    while True:
        with _naming(path):
            temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        with contextlib.ExitStack() as lock:
            locked = lock.enter_context(held(temporary, wait=True))
            # Before it was locked another process may have taken it for one that was left, and removed it.
            if temporary.exists():
                stack.push(lock.pop_all())
                return temporary, locked


@contextlib.contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file or folder, which ends with the process however that ends; False where it cannot be had.

    That is where another process has it, unless ``wait``, and where there are no such locks (Windows, some network
    drives).
    """
    if sys.platform == "win32":
        yield False
        return
    import fcntl

    descriptor, locked = -1, False
    try:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            locked = True
        yield locked
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``, moving an existing ``path`` aside first and deleting it last."""
    if not path.exists():
        new.replace(path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    path.replace(old / path.name)
    try:
        new.replace(path)
    except BaseException:
        (old / path.name).replace(path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def _fill_place(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``, where nothing may be but an empty folder; ``OSError`` otherwise."""
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(path.lstat().st_mode)
        path.rmdir()
        new.chmod(mode)
    new.rename(path)


def refuse_links_out(folder: Path, *names: str) -> None:
    """Raise ``FormatError`` for a symbolic link of these names in ``folder`` that leads out of it.

    A folder that somebody sent must not let anything be written or deleted elsewhere.
    """
    root = folder.resolve()
    for path in (folder / name for name in names):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise FormatError(
                f"{path}: this is a symbolic link that leads out of {folder}, so nothing is written there.",
                f"Put what it leads to in its place; if you did not make it, remove it: rm {shlex.quote(str(path))}",
            )


def write_json(path: Path, value: dict[str, Any], *, checked: bool = True) -> None:
    """Write ``value`` atomically as indented UTF-8 JSON with a final newline; NaN and infinities are refused.

    A last key, ``checksum``, tells a file that was damaged since, unless people are to change it by hand.
    """
    plain = {key: inner for key, inner in value.items() if key != CHECKSUM}
    whole = {**plain, CHECKSUM: _checksum(plain)} if checked else plain
    with atomic_write(path) as file:
        file.write((json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _checksum(value: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits of what JSON makes of ``value``, whatever its layout in the file."""
    plain = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def read_json(path: Path, *, format_version: int, what: str) -> dict[str, Any]:
    """Read a JSON object written by gptcli and check its ``format_version``.

    ``what`` names the file for the reader of an error ("the manifest of a corpus"). Raises ``FormatError`` for
    a missing file, one above 256 MiB, anything but a JSON object, an unknown version, and a content that is not that
    of its checksum; files of earlier versions have none.
    """
    try:
        value = json.loads(_read_bounded(path, what), parse_constant=_refuse_constant, parse_float=_finite)
    except OSError as error:
        raise FormatError(f"{path}: {what} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {what} is damaged: it is not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: {what} is damaged: a JSON object was expected, found {type(value).__name__}.")
    found = value.get("format_version")
    if found != format_version:
        raise VersionError(
            f"{path}: {what} has format_version {found!r}, this gptcli reads {format_version}.",
            "It was written by another version: update gptcli, or make the file again with this one.",
        )
    expected = value.pop(CHECKSUM, None)
    if expected is not None and expected != _checksum(value):
        raise FormatError(
            f"{path}: {what} is damaged: its content is not that of its checksum.",
            f'Restore it from a copy. Where you changed it by hand yourself, let its last line be "{CHECKSUM}": null.',
        )
    return value


def _read_bounded(path: Path, what: str) -> bytes:
    """Read a regular file of at most 256 MiB; a device or a pipe in its place might have no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise FormatError(f"{path}: {what} is not a regular file, so it was not read.")
    with path.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise FormatError(f"{path}: {what} is larger than {MAX_JSON_BYTES:,} bytes, so it was not read.")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Make renames inside ``path`` durable, where folders can be synced (not on Windows, nor some network drives).

    What was renamed lies there whole, so a disk that refuses this has lost nothing yet, and is no error.
    """
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Make the content of all files in ``folder`` durable."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:  # Windows syncs nothing that is open for reading alone
                _sync(file.fileno())


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
