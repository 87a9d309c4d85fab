"""What is inside a gzip file, read as a stream that ends where it grows beyond reason."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from gptcli.errors import SourceError

# Text is seldom packed tighter than 1:50; gzip can reach 1:1030, with zeros.
MAX_RATIO = 250
FREE_BYTES = 64 * 1024 * 1024
MAX_BYTES = 64 * 1024**3


@dataclass(frozen=True, slots=True)
class Gzipped:
    """A gzip file that opens as what is inside; ``label`` is what messages call it.

    Reading raises ``SourceError`` for a damaged file, and for one that is a bomb: more than 64 MiB inside, and 250
    times what it takes on disk.
    """

    path: Path
    label: str

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it at its first byte; raises ``OSError`` where the file itself cannot be opened."""
        limit = min(max(FREE_BYTES, MAX_RATIO * self.path.stat().st_size), MAX_BYTES)
        return cast("IO[bytes]", _Inflated(self.path, mode, self.label, limit))


class _Inflated(gzip.GzipFile):
    def __init__(self, path: Path, mode: Literal["rb"], label: str, limit: int) -> None:
        super().__init__(path, mode)
        self._label = label
        self._limit = limit

    def read(self, size: int | None = -1) -> bytes:
        try:
            data = super().read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(
                f"{self._label} is damaged: it cannot be unpacked ({' '.join(str(error).split()).rstrip('.')}).",
                "Get the file again; gzip -t checks one.",
            ) from error
        if self.tell() > self._limit:
            raise SourceError(
                f"{self._label} unpacks to more than {self._limit:,} bytes, which no text does; it was not read on.",
                "If it is really text, unpack it with gunzip and fetch that.",
            )
        return data
