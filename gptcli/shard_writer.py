"""The writer of token shards, which can be put down between two writes and gone on with by another process.

Knows the files of one split; what a manifest says of them is `gptcli.shards`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gptcli.errors import FormatError
from gptcli.files import sha256_file
from gptcli.shards import HEADER_BYTES, ON_DISK, SHARD_TOKENS, DtypeName, Mask, Shard, SplitName, shard_header


@dataclass(frozen=True, slots=True)
class Begun:
    """What there is of a split: whole shards, and the tokens of one that is not whole.

    ``tokens`` and ``scored_tokens`` are those of all together; ``open`` has name, size and SHA-256 of each file of the
    shard that is not whole.
    """

    shards: tuple[Shard, ...] = ()
    tokens: int = 0
    scored_tokens: int = 0
    in_shard: int = 0
    open: tuple[tuple[str, int, str], ...] = ()

    def is_in(self, folder: Path) -> bool:
        """Say whether all of it is in a folder as it was written; what came behind it since is cut off."""
        whole = {shard.name: shard.sha256 for shard in self.shards}
        whole |= {shard.mask_name: shard.mask_sha256 for shard in self.shards if shard.mask_sha256 is not None}
        try:
            for name, size, digest in self.open:
                with (folder / name).open("r+b") as file:
                    file.truncate(size)
                    if name.endswith(".bin"):  # may have become whole since, with a header
                        file.write(bytes(HEADER_BYTES))
                whole[name] = digest
            return all(sha256_file(folder / name) == digest for name, digest in whole.items())
        except OSError:
            return False


class ShardWriter:
    """Writes one split as ``SPLIT-00000.bin``, ``SPLIT-00001.bin`` ... into a folder that is not in use yet.

    Use it as a context manager inside ``files.atomic_folder``, which makes the shards appear all at once;
    ``shards`` is complete when the block has ended. ``masked`` writes beside each which of its tokens are scored.
    ``begun`` is what an earlier writer of the same folder had, and is in it.
    """

    def __init__(
        self,
        folder: Path,
        split: SplitName,
        dtype: DtypeName,
        *,
        shard_tokens: int = SHARD_TOKENS,
        masked: bool = False,
        begun: Begun | None = None,
    ) -> None:
        assert 0 < shard_tokens < 2**31, "the count in the header is an int32"
        begun = begun or Begun()
        self.shards, self.tokens, self.scored_tokens = begun.shards, begun.tokens, begun.scored_tokens
        self._in_shard, self._masked = begun.in_shard, masked
        self._folder, self._split, self._dtype, self._shard_tokens = folder, split, dtype, shard_tokens
        files = [_at_end(folder / name) for name, _, _ in begun.open]
        self._file: IO[bytes] | None = files[0] if files else None
        self._mask_file: IO[bytes] | None = files[1] if len(files) > 1 else None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish_shard()
        else:
            for file in (self._file, self._mask_file):
                if file is not None:
                    file.close()

    def write(self, ids: npt.NDArray[Any], scored: Mask | None = None) -> None:
        """Append token ids, a 1-D array of integers; ``scored`` is as long, None where all of them are.

        Raises ``FormatError`` when an id does not fit the dtype: numpy would wrap it around silently.
        """
        if not ids.size:
            return
        largest, smallest = int(ids.max()), int(ids.min())
        limit = int(np.iinfo(ON_DISK[self._dtype]).max)
        if largest > limit or smallest < 0:
            wrong = largest if largest > limit else smallest
            raise FormatError(f"Token id {wrong} does not fit into {self._dtype}, which holds 0 to {limit}.")
        assert scored is None or (self._masked and scored.size == ids.size)
        converted = ids.astype(ON_DISK[self._dtype], copy=False)
        mask = np.ones(ids.size, np.bool_) if scored is None else scored
        while converted.size:
            if self._file is None:
                self._file = self._path().open("wb")
                self._file.write(bytes(HEADER_BYTES))
                self._mask_file = self._path().with_suffix(".mask").open("wb") if self._masked else None
            room = self._shard_tokens - self._in_shard
            now = converted[:room]
            self._file.write(now.tobytes())
            if self._mask_file is not None:
                self._mask_file.write(mask[:room].astype(np.uint8).tobytes())
            self._in_shard += now.size
            self.tokens += now.size
            self.scored_tokens += int(mask[:room].sum())
            converted, mask = converted[now.size :], mask[now.size :]
            if self._in_shard == self._shard_tokens:
                self._finish_shard()

    def begun(self) -> Begun:
        """Return what has been written so far, for a writer that goes on with it."""
        opened = []
        for file in filter(None, (self._file, self._mask_file)):
            file.flush()
            path = Path(file.name)
            opened.append((path.name, file.tell(), sha256_file(path)))
        return Begun(self.shards, self.tokens, self.scored_tokens, self._in_shard, tuple(opened))

    def _path(self) -> Path:
        return self._folder / f"{self._split}-{len(self.shards):05d}.bin"

    def _finish_shard(self) -> None:
        """Write the header now that the count is known, and remember the shard."""
        if self._file is None:
            return
        self._file.seek(0)
        self._file.write(shard_header(self._dtype, self._in_shard))
        self._file.close()
        path = self._path()
        mask_sha256 = None
        if self._mask_file is not None:
            self._mask_file.close()
            mask_sha256 = sha256_file(path.with_suffix(".mask"))
        self.shards += (Shard(path.name, self._in_shard, sha256_file(path), mask_sha256),)
        self._file, self._mask_file, self._in_shard = None, None, 0


def _at_end(path: Path) -> IO[bytes]:
    """Open a file behind its last byte; its header is still to be written, so not only for appending."""
    file = path.open("r+b")
    file.seek(0, 2)
    return file
