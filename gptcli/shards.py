"""Tokens on disk: shard files that llm.c and modded-nanogpt read as they are, their manifest and reader.

A shard is 256 little-endian int32 (magic, version, count, zeros) and then ``count`` tokens. Two-byte tokens carry
llm.c's GPT-2 header, four-byte tokens its Llama-3 header. Where a corpus has conversations, a file of one byte a
token lies beside each shard: 1 where the token is scored, 0 where it is only read. Nothing here knows text or batches.
"""

from __future__ import annotations

import bisect
import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from gptcli.chat_template import ChatTemplate
from gptcli.config import MAX_VOCABULARY, check_folder_name
from gptcli.copies.index import NgramsFile
from gptcli.errors import CorpusError, FormatError
from gptcli.files import read_json, sha256_file
from gptcli.tokenizer import Tokenizer, load_tokenizer

DtypeName = Literal["uint16", "uint32"]
SplitMode = Literal["document", "paragraph", "position"]
SplitName = Literal["train", "val"]
TokenArray = npt.NDArray[np.unsignedinteger[Any]]
Mask = npt.NDArray[np.bool_]
Count = Annotated[int, Field(ge=0)]

MANIFEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
WHAT = "the manifest of the tokens"

SHARD_TOKENS = 100 * 1024 * 1024
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
MAGIC_AND_VERSION: dict[DtypeName, tuple[int, int]] = {"uint16": (20240520, 1), "uint32": (20240801, 7)}
ON_DISK: dict[DtypeName, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}

# Splits up to this size are hashed when they are opened and may be held in memory; larger ones stay on disk.
SMALL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shard:
    """One token file: its name inside the tokens folder, its number of tokens, the sha256 of the whole file."""

    name: Annotated[str, Field(pattern=r"^(train|val)-[0-9]{5}\.bin$")]
    tokens: Annotated[int, Field(gt=0, lt=2**31)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    mask_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the file beside it that says which tokens are scored; None where all are, and there is no such file."""

    @property
    def mask_name(self) -> str:
        """The name of that file."""
        return self.name.removesuffix(".bin") + ".mask"


@dataclass(frozen=True, slots=True)
class Conversations:
    """What the conversations of a split are like; ``scored_tokens`` are those of the split, answers above all.

    Of their lengths in tokens half are below ``median_tokens``, nine tenths below ``most_tokens``.
    """

    conversations: Count
    answers: Count
    scored_tokens: Count
    median_tokens: Count
    most_tokens: Count
    longest_tokens: Count


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What one split holds: tokens, the UTF-8 bytes of the text behind them, and the documents it came from."""

    tokens: Count
    bytes: Count
    documents: Count
    shards: tuple[Shard, ...]
    conversations: Conversations | None = None


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """Where a folder of tokens came from, how it was made and what it holds."""

    corpus: Annotated[str, AfterValidator(check_folder_name)]
    corpus_sha256: str
    licence: str
    tokenizer: Annotated[str, Field(pattern=r"^(char|gpt2|pretrained|bpe:[1-9][0-9]*)$")]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    vocab_size: Annotated[int, Field(gt=0, le=MAX_VOCABULARY)]
    dtype: DtypeName
    split: SplitMode
    split_reason: str
    val_fraction: float
    split_at: float | None
    duplicates_removed: Count
    created_at: str
    train: SplitSummary
    val: SplitSummary
    given_tokenizer: bool = False
    """The tokenizer came with weights; it was not chosen for this corpus."""
    chat: ChatTemplate | None = None
    """How the conversations are written; None for a corpus without any, all of whose tokens are scored."""
    ngrams: NgramsFile | None = None
    """The index of hashed n-grams beside them; None for tokens of old and where there is too little text for one."""

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON-ready values with its ``format_version``; what says nothing is left out."""
        return {"format_version": MANIFEST_VERSION, **_said(asdict(self))}

    @staticmethod
    def from_json(value: dict[str, Any], where: str) -> DatasetManifest:
        """Make a manifest of what ``to_json`` gave; ``FormatError`` names ``where``, the field and what is wrong."""
        try:
            manifest = _manifest_reader().validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            field, problem = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
            raise FormatError(f"{where}: {WHAT} is damaged at {field!r}: {problem}.") from error
        for name, summary in (("train", manifest.train), ("val", manifest.val)):
            counted = sum(shard.tokens for shard in summary.shards)
            if counted != summary.tokens:
                raise FormatError(
                    f"{where}: {WHAT} is damaged: {name} has {summary.tokens:,} tokens, its shards {counted:,}."
                )
            if any((shard.mask_sha256 is None) != (manifest.chat is None) for shard in summary.shards):
                raise FormatError(f"{where}: {WHAT} is damaged: conversations have a mask beside each shard of {name}.")
        return manifest


def _said(value: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only conversations and the tokenizers of other models need, and what tokens of old do not have."""
    for part, key in (
        *((value, key) for key in ("given_tokenizer", "chat", "ngrams")),
        *((value[split], "conversations") for split in ("train", "val")),
        *((shard, "mask_sha256") for split in ("train", "val") for shard in value[split]["shards"]),
    ):
        if not part[key]:
            del part[key]
    return value


@functools.cache
def _manifest_reader() -> TypeAdapter[DatasetManifest]:
    return TypeAdapter(DatasetManifest)


def dtype_for(vocab_size: int) -> DtypeName:
    """Return the smallest number format that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def shard_header(dtype: DtypeName, tokens: int) -> bytes:
    """Return the 1024 bytes that stand before ``tokens`` tokens (llm.c, ``dev/data/data_common.py``)."""
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = (*MAGIC_AND_VERSION[dtype], tokens)
    return header.tobytes()


class TokenReader:
    """The tokens of one split as one long sequence, memory-mapped over its shards.

    Every header and file size is checked against the manifest's shards (``FormatError``), and of splits up to 64 MiB
    the sha256 and every id. Of larger ones, which are not read whole at every start, ids are checked when they are.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: DtypeName, vocab_size: int = 2**32) -> None:
        self.dtype = dtype
        self.nbytes = sum(shard.tokens for shard in shards) * ON_DISK[dtype].itemsize
        self._ends: list[int] = []
        self._maps: list[npt.NDArray[Any]] = []
        self._masks: list[npt.NDArray[Any]] = []
        self._paths = [folder / shard.name for shard in shards]
        self._vocab_size, self._checked = vocab_size, self.nbytes <= SMALL_BYTES
        for path, shard in zip(self._paths, shards, strict=True):
            self._maps.append(_open_shard(path, shard, dtype, hashed=self._checked))
            if self._checked:
                _check_ids(path, self._maps[-1], vocab_size)
            if shard.mask_sha256 is not None:
                self._masks.append(_open_mask(folder / shard.mask_name, shard, hashed=self._checked))
            self._ends.append(shard.tokens + len(self))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, count: int) -> TokenArray:
        """Return tokens ``start`` to ``start + count``, 1-D in the dtype on disk; a read-only view where it can be."""
        tokens: TokenArray = self._cut(self._maps, start, count, np.empty(0, ON_DISK[self.dtype]))
        if not self._checked and count:
            _check_ids(self._paths[bisect.bisect_right(self._ends, start)], tokens, self._vocab_size)
        return tokens

    def scored(self, start: int, count: int) -> Mask | None:
        """Return which of tokens ``start`` to ``start + count`` are scored, 1-D; None where every token is."""
        if not self._masks:
            return None
        mask: Mask = self._cut(self._masks, start, count, np.empty(0, np.uint8)) != 0
        return mask

    def _cut(self, maps: list[npt.NDArray[Any]], start: int, count: int, nothing: npt.NDArray[Any]) -> npt.NDArray[Any]:
        assert 0 <= start <= start + count <= len(self), f"tokens {start}:{start + count} of {len(self)}"
        pieces: list[npt.NDArray[Any]] = []
        index = bisect.bisect_right(self._ends, start)
        while count > 0:
            first = start - (self._ends[index] - maps[index].size)
            piece = maps[index][first : first + count]
            pieces.append(piece)
            start, count, index = start + piece.size, count - piece.size, index + 1
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else nothing


class ArrayTokens:
    """The tokens of a text that was encoded just now, with the reader's interface."""

    def __init__(self, ids: TokenArray) -> None:
        self._ids = ids
        self.nbytes = ids.nbytes

    def __len__(self) -> int:
        return self._ids.size

    def read(self, start: int, count: int) -> TokenArray:
        """Return tokens ``start`` to ``start + count``, a view."""
        assert 0 <= start <= start + count <= len(self), f"tokens {start}:{start + count} of {len(self)}"
        return self._ids[start : start + count]

    def scored(self, start: int, count: int) -> Mask | None:  # noqa: ARG002 - the reader's interface
        """Return None: every token of a text is scored."""
        return None


def _open_shard(path: Path, shard: Shard, dtype: DtypeName, *, hashed: bool) -> TokenArray:
    """Check one file against what the manifest says of it and map its tokens."""
    expected = HEADER_BYTES + shard.tokens * ON_DISK[dtype].itemsize
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        digest = sha256_file(path) if hashed and size == expected else shard.sha256
    except OSError as error:
        raise FormatError(f"{path}: the token file cannot be read ({error.strerror}).") from error
    if header != shard_header(dtype, shard.tokens):
        _refuse_header(path, header, shard, dtype)
    if size != expected:
        raise FormatError(f"{path}: the token file has {size:,} bytes, {shard.tokens:,} tokens need {expected:,}.")
    if digest != shard.sha256:
        raise FormatError(f"{path}: the token file is damaged: its sha256 is not the one in the manifest.")
    mapped: TokenArray = np.memmap(path, dtype=ON_DISK[dtype], mode="r", offset=HEADER_BYTES, shape=(shard.tokens,))
    return mapped


def _check_ids(path: Path, ids: TokenArray, vocab_size: int) -> None:
    if (largest := int(ids.max())) >= vocab_size:
        hint = "gptcli prepare CORPUS --force makes the tokens again."
        raise FormatError(f"{path}: the token file is damaged: id {largest:,} of {vocab_size:,} was found.", hint)


def _open_mask(path: Path, shard: Shard, *, hashed: bool) -> npt.NDArray[np.uint8]:
    """Check the file that says which tokens of a shard are scored, and map it."""
    try:
        size = path.stat().st_size
        digest = sha256_file(path) if hashed else shard.mask_sha256
    except OSError as error:
        raise FormatError(f"{path}: what is scored cannot be read ({error.strerror}).") from error
    if size != shard.tokens:
        raise FormatError(f"{path}: the file has {size:,} bytes, one for each of {shard.tokens:,} tokens is needed.")
    if digest != shard.mask_sha256:
        raise FormatError(f"{path}: the file is damaged: its sha256 is not the one in the manifest.")
    mapped: npt.NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r", shape=(shard.tokens,))
    return mapped


def _refuse_header(path: Path, header: bytes, shard: Shard, dtype: DtypeName) -> NoReturn:
    if len(header) < HEADER_BYTES:
        raise FormatError(f"{path}: the token file ends inside its header.")
    found = [int(number) for number in np.frombuffer(header, "<i4", count=3)]
    expected = (*MAGIC_AND_VERSION[dtype], shard.tokens)
    for name, this, that in zip(("magic number", "version", "token count"), found, expected, strict=True):
        if this != that:
            raise FormatError(f"{path}: the token file's header has {name} {this}, the manifest needs {that}.")
    raise FormatError(f"{path}: the token file's header is damaged: the numbers after its count are not zero.")


@dataclass(frozen=True, slots=True)
class TokenDataset:
    """A folder of tokens, opened: what it is, and both splits ready to be read."""

    folder: Path
    manifest: DatasetManifest
    train: TokenReader
    val: TokenReader

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer these tokens were made with; ``FormatError`` when it is not the manifest's."""
        path = self.folder / TOKENIZER_NAME
        tokenizer = load_tokenizer(path)
        for key in ("fingerprint", "vocab_size"):
            found, then = getattr(tokenizer, key), getattr(self.manifest, key)
            if found != then:
                message = f"{path}: the tokenizer's {key} is {found}, but the tokens were made with {then}."
                raise FormatError(message, remake_hint(self.manifest))
        return tokenizer


def remake_hint(manifest: DatasetManifest) -> str:
    """Return the command that makes damaged tokens again."""
    how = f"--tokenizer {quote(manifest.tokenizer)}" if can_be_named(manifest) else "--run RUN"
    return f"gptcli prepare {quote(manifest.corpus)} {how} --force makes the tokens again."


def plain_folder(tokenizer: str) -> str:
    """Return the name of the folder of tokens that were made with the tokenizer of this name."""
    return tokenizer.replace(":", "-")


def given_folder(tokenizer: str, fingerprint: str) -> str:
    """Return the name of the folder of tokens made with one certain tokenizer, which came with weights."""
    return f"{plain_folder(tokenizer)}-{fingerprint[:8]}"


def can_be_named(manifest: DatasetManifest) -> bool:
    """Say whether ``--tokenizer`` makes this tokenizer again; one that came with weights it does not, but GPT-2's."""
    return not manifest.given_tokenizer or manifest.tokenizer == "gpt2"


def read_manifest(folder: Path) -> DatasetManifest:
    """Read the manifest of a folder of tokens (``FormatError`` when it is missing, damaged or of another version)."""
    path = folder / MANIFEST_NAME
    return DatasetManifest.from_json(read_json(path, format_version=MANIFEST_VERSION, what=WHAT), str(path))


def open_dataset(folder: Path) -> TokenDataset:
    """Open a folder of tokens that ``prepare`` made, checking its files against its manifest.

    Raises ``CorpusError`` when there are no tokens, ``FormatError`` when they are damaged.
    """
    if not (folder / MANIFEST_NAME).is_file():
        raise CorpusError(f"There are no tokens in {folder}.", "gptcli prepare CORPUS makes them.")
    manifest = read_manifest(folder)
    try:
        train = TokenReader(folder, manifest.train.shards, manifest.dtype, manifest.vocab_size)
        val = TokenReader(folder, manifest.val.shards, manifest.dtype, manifest.vocab_size)
    except FormatError as error:
        raise FormatError(error.message, remake_hint(manifest)) from error
    return TokenDataset(folder, manifest, train, val)
