"""A ZIP archive of which single files are read into memory; what they inflate to is counted, not what they claim."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType

from gptcli.errors import SourceError

# The words of a book with all their markup; the Bible takes 10 MB.
MAX_BYTES = 128 * 1024 * 1024
# Markup packs at most 1:30 or so; deflate can reach 1:1030, with zeros.
MAX_RATIO = 200
FREE_BYTES = 8 * 1024 * 1024
MAX_FILES = 100_000
_CHUNK_BYTES = 1 << 16


class Archive:
    """An open archive; ``label`` is what messages call it. Names are those of files: no folders, no symbolic links.

    Opening raises ``zipfile.BadZipFile`` or ``OSError``; close it, or use it in a ``with`` block.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.label = label
        try:
            self._zip = zipfile.ZipFile(path)
        except (ValueError, struct.error, NotImplementedError) as error:
            raise zipfile.BadZipFile(str(error)) from error
        self._packed = path.stat().st_size
        self._inflated = 0
        infos = self._zip.infolist()
        if len(infos) > MAX_FILES:
            self._zip.close()
            raise zipfile.BadZipFile(f"it holds more than {MAX_FILES:,} files")
        self._infos = {info.filename.replace("\\", "/"): info for info in infos if _is_file(info)}
        self.is_encrypted = any(info.flag_bits & 1 for info in self._infos.values())

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    def names(self) -> list[str]:
        """Return the names of the files in the order of the archive."""
        return list(self._infos)

    def has(self, name: str) -> bool:
        """Say whether there is a file of this name."""
        return name in self._infos

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises ``SourceError`` when it is damaged, or all together are too much."""
        chunks: list[bytes] = []
        try:
            with self._zip.open(self._infos[name]) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    chunks.append(chunk)
                    self._count(len(chunk))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError, struct.error) as error:
            raise SourceError(
                f"{self.label} is damaged: {name} inside it cannot be read ({str(error).rstrip('.')}).",
                "Get the file again, or leave it out.",
            ) from error
        return b"".join(chunks)

    def _count(self, count: int) -> None:
        self._inflated += count
        limit = min(max(FREE_BYTES, MAX_RATIO * self._packed), MAX_BYTES)
        if self._inflated > limit:
            raise SourceError(
                f"{self.label} inflates to more than {limit:,} bytes, which no book does; it was not read on.",
                "If it is really a book, unpack it and fetch the pages inside as a folder.",
            )


def _is_file(info: zipfile.ZipInfo) -> bool:
    return not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
