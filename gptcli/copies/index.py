"""The file of hashed n-grams that lies beside the tokens and in each run: its format, its writer, its reader.

One bit or so for each word of the training text, in order: of its hash together with the two words before it. A text
that is copied gives the same bits in the same order; how many equal bits in a row are no chance is the searcher's
business. Behind the bits stand how many words each document has, and their titles as far as there is room. All of it
stays under 2 % of the corpus. Little-endian:

    8 bytes "gptgrams" | u8 version | u8 shift | u16 rate | u32 documents | u64 words | u32 counts | u32 titles
    the stream: of every 64 words ``rate`` bits, the highest bit of a byte first
    ``counts`` bytes: zlib of the words of each 2^shift documents, u64, byte planes (lowest bytes first)
    ``titles`` bytes: zlib of the titles in UTF-8, one a line; none where they would need too much room
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from gptcli.copies.grams import CYCLE, GRAM_WORDS, MAX_RATE, Codes, codes_of, full_rate, gram_hashes, pattern
from gptcli.copies.words import Hashes, Places, find_words
from gptcli.errors import FormatError

NGRAMS_NAME = "ngrams.bin"
WHAT = "the index of n-grams"
MAGIC, VERSION = b"gptgrams", 1
HEADER = struct.Struct("<8sBBHIQII")

# Of the corpus's text in UTF-8; the promise is 2 %.
SHARE = 0.0197
# The largest stream, that of about 2 GB; beyond, fewer bits a word are kept. One being made may be twice as large.
MAX_STREAM = 32 * 1024 * 1024
MAX_FILE = 48 * 1024 * 1024
# Titles, and the words of each document, may each take this share of the file.
SIDE_SHARE = 1 / 6
MAX_GROUPS = 1 << 21
MAX_TITLES = 4 * 1024 * 1024
TITLE_CHARS = (80, 40, 24)
BLOCK = 8 * CYCLE


@dataclass(frozen=True, slots=True)
class NgramsFile:
    """What a manifest says of an index: its size and its sha256."""

    bytes: Annotated[int, Field(gt=0, le=MAX_FILE)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class JobGrams(NamedTuple):
    """What the index needs of some text: codes of its words, and the documents that begin in it."""

    codes: Codes
    first: Hashes
    last: Hashes
    begins: Places
    """The number of the word that each document begins with."""
    titles: list[str]


def job_grams(pieces: Iterable[tuple[str, str | None]]) -> JobGrams:
    """Make codes of pieces of text; with each comes the title of the document it begins, None where it goes on."""
    texts: list[str] = []
    places: list[int] = []
    titles: list[str] = []
    size = 0
    for text, title in pieces:
        if title is not None:
            texts.append("\n")
            size += 1
            places.append(size)
            titles.append(title)
        texts.append(text)
        size += len(text)
    words = find_words("".join(texts))
    begins = np.searchsorted(words.starts, np.array(places, np.int64))
    hashes = words.hashes
    return JobGrams(codes_of(gram_hashes(hashes, begins)), hashes[:2].copy(), hashes[-2:].copy(), begins, titles)


class IndexWriter:
    """Gathers the codes of the training text in order, in flat memory, and writes the index at the end."""

    def __init__(self) -> None:
        self.words = 0
        self._rate = MAX_RATE
        self._stream = bytearray()
        self._waiting = np.zeros(0, np.uint8)
        self._last = np.zeros(0, np.uint64)
        self._begins = array("Q")
        self._titles: list[str] | None = []
        self._title_bytes = 0

    def add(self, job: JobGrams) -> None:
        """Append what comes next in the training text."""
        codes = job.codes
        if not self._begins and (not job.begins.size or job.begins[0]):
            self._begins.append(0)
            self._keep_titles([""])
        if job.first.size and (not job.begins.size or job.begins[0]):
            # The words before a text that goes on are known only now.
            known = self._last.size
            joined = gram_hashes(np.concatenate([self._last, job.first]), job.begins + known)
            codes = codes.copy()
            codes[: job.first.size] = codes_of(joined[known:])
        if job.begins.size:
            since = codes.size - int(job.begins[-1])
            self._last = job.last[max(0, job.last.size - since) :]
        else:
            self._last = np.concatenate([self._last, job.last])[-2:]
        self._begins.extend((job.begins + self.words).tolist())
        self._keep_titles(job.titles)
        self.words += codes.size
        self._append(codes)

    def _keep_titles(self, titles: list[str]) -> None:
        if self._titles is None:
            return
        for title in titles:
            self._titles.append(" ".join(title.split())[: TITLE_CHARS[0]])
            self._title_bytes += len(self._titles[-1].encode("utf-8", "replace")) + 1
        if self._title_bytes > MAX_TITLES:
            self._titles = None

    def _append(self, codes: Codes) -> None:
        waiting = np.concatenate([self._waiting, codes])
        whole = waiting.size // BLOCK * BLOCK
        self._waiting = waiting[whole:]
        self._stream += _pack(waiting[:whole], self._rate)
        while len(self._stream) > 2 * MAX_STREAM and self._rate > 1:
            self._stream = _thin(self._stream, self._rate, self._rate // 2)
            self._rate //= 2

    def put_down(self, path: Path) -> None:
        """Write all that is known, for a writer that goes on with it."""
        with path.open("wb") as file:
            np.savez(
                file,
                numbers=np.array([self.words, self._rate, self._title_bytes, self._titles is not None], np.int64),
                stream=np.frombuffer(self._stream, np.uint8),
                waiting=self._waiting,
                last=self._last,
                begins=np.frombuffer(self._begins, np.uint64),
                titles=np.frombuffer("\n".join(self._titles or ()).encode("utf-8", "surrogatepass"), np.uint8),
            )

    @classmethod
    def take_up(cls, path: Path) -> IndexWriter:
        """Return a writer that goes on with what another has put down."""
        writer = cls()
        with np.load(path, allow_pickle=False) as known:
            writer.words, writer._rate, writer._title_bytes, titled = known["numbers"].tolist()
            writer._stream = bytearray(known["stream"])
            writer._waiting, writer._last = known["waiting"], known["last"]
            writer._begins = array("Q")
            writer._begins.frombytes(known["begins"].tobytes())
            titles = known["titles"].tobytes().decode("utf-8", "surrogatepass").split("\n")
        writer._titles = (titles if writer._begins else []) if titled else None
        return writer

    def write(self, path: Path, corpus_bytes: int) -> NgramsFile | None:
        """Write the index of a corpus of that many bytes of text; None where it is too small to have one."""
        if self.words < GRAM_WORDS:
            return None
        room = int(corpus_bytes * SHARE)
        side = int(room * SIDE_SHARE)
        titles = self._packed_titles(side)
        shift, counts = self._packed_counts(side)
        room = min(room - HEADER.size - len(titles) - len(counts), MAX_STREAM)
        rate = min(room * 8 * CYCLE // max(self.words, 1), self._rate)
        while rate > 0 and pattern(rate).stream_bits(self.words) > 8 * room:
            rate -= 1
        if rate < 1:
            return None
        stream = self._stream + _pack(np.pad(self._waiting, (0, -self._waiting.size % BLOCK)), self._rate)
        stream = _thin(stream, self._rate, rate)[: -(-pattern(rate).stream_bits(self.words) // 8)]
        header = HEADER.pack(MAGIC, VERSION, shift, rate, len(self._begins), self.words, len(counts), len(titles))
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for part in (header, stream, counts, titles):
                file.write(part)
                digest.update(part)
            return NgramsFile(file.tell(), digest.hexdigest())

    def _packed_titles(self, room: int) -> bytes:
        """Return the titles as long as they fit, or nothing."""
        for size in TITLE_CHARS if self._titles and any(self._titles) else ():
            packed = zlib.compress(
                "\n".join(title[:size] for title in self._titles or ()).encode("utf-8", "replace"), 9
            )
            if len(packed) <= room:
                return packed
        return b""

    def _packed_counts(self, room: int) -> tuple[int, bytes]:
        """Return the words of each document; of each 2, 4, 8 ... together where that needs too much room."""
        begins = np.frombuffer(self._begins, np.uint64)
        shift = max(0, -(-begins.size // MAX_GROUPS) - 1).bit_length()
        while True:
            counts = np.diff(begins[:: 1 << shift].astype(np.int64), append=self.words)
            planes = counts.astype("<u8").view(np.uint8).reshape(-1, 8).T
            packed = zlib.compress(planes.tobytes(), 9)
            if len(packed) <= room or counts.size == 1:
                return shift, packed
            shift += 1


def _pack(codes: Codes, rate: int) -> bytes:
    """Return the kept bits of whole blocks of words."""
    kept = pattern(rate)
    cycles = codes.reshape(-1, CYCLE)[:, kept.words]
    return np.packbits((cycles >> (1 - kept.bits)) & 1).tobytes()


def _thin(stream: bytes | bytearray, rate: int, wanted: int) -> bytearray:
    """Return the stream of another rate, which is no more; it has whole blocks, ``rate`` bytes each."""
    if wanted == rate:
        return bytearray(stream)
    full = full_rate(wanted)
    step, kept = rate // full, np.arange(wanted) * full // wanted
    thinned = bytearray()
    for start in range(0, len(stream), rate << 13):
        bits = np.unpackbits(np.frombuffer(stream[start : start + (rate << 13)], np.uint8)).reshape(-1, rate)
        thinned += np.packbits(bits[:, ::step][:, kept]).tobytes()
    return thinned


class NgramIndex(NamedTuple):
    """An index, read: its stream of bits and what is known of the documents behind it."""

    rate: int
    words: int
    stream: Codes
    documents: int
    ends: Places
    """With which word each document, or each ``2**shift`` of them, ends."""
    shift: int
    titles: list[str]


def read_ngrams(path: Path, expected: NgramsFile) -> bytes:
    """Read an index that a manifest speaks of, not yet looking into it; ``FormatError`` when it is another file."""
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise FormatError(f"{path}: {WHAT} has {size:,} bytes, {expected.bytes:,} are needed.")
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: {WHAT} cannot be read ({error.strerror}).") from error
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        raise FormatError(f"{path}: {WHAT} is damaged: its sha256 is not the one in the manifest.")
    return content


def parse_ngrams(content: bytes, where: str) -> NgramIndex:
    """Return the index that a file holds; ``FormatError`` names ``where`` and what is wrong with it."""
    if len(content) < HEADER.size:
        raise FormatError(f"{where}: {WHAT} ends inside its header.")
    magic, version, shift, rate, documents, words, n_counts, n_titles = HEADER.unpack_from(content)
    if magic != MAGIC or version != VERSION:
        raise FormatError(f"{where}: this is not {WHAT} that this gptcli reads (version {VERSION}).")
    groups = (documents + (1 << shift) - 1) >> shift
    if not (1 <= rate <= MAX_RATE and shift < 32 and words > 0 and 0 < groups <= MAX_GROUPS):
        raise FormatError(f"{where}: {WHAT} is damaged: its header has impossible numbers.")
    n_stream = -(-pattern(rate).stream_bits(words) // 8)
    if HEADER.size + n_stream + n_counts + n_titles != len(content):
        raise FormatError(f"{where}: {WHAT} has {len(content):,} bytes, its header speaks of another number.")
    stream = np.frombuffer(content, np.uint8, n_stream, HEADER.size)
    counts = _inflate(content[HEADER.size + n_stream :][:n_counts], 8 * groups, where)
    titles = _inflate(content[len(content) - n_titles :], 2 * MAX_TITLES, where) if n_titles else b""
    if len(counts) != 8 * groups:
        raise FormatError(f"{where}: {WHAT} is damaged: words of {len(counts) // 8:,} documents for {groups:,}.")
    sizes = np.frombuffer(counts, np.uint8).reshape(8, -1).T.copy().view("<u8").ravel()
    ends = np.cumsum(sizes, dtype=np.uint64).astype(np.int64)
    if (sizes > words).any() or int(ends[-1]) != words:
        raise FormatError(f"{where}: {WHAT} is damaged: its documents have not as many words as all text.")
    names = titles.decode("utf-8", "replace").split("\n") if titles else []
    if names and len(names) != documents:
        raise FormatError(f"{where}: {WHAT} is damaged: {len(names):,} titles for {documents:,} documents.")
    return NgramIndex(rate, words, stream, documents, ends, shift, names)


def _inflate(packed: bytes, most: int, where: str) -> bytes:
    """Return what was packed, never more than ``most`` bytes of it."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(packed, most)
    except zlib.error as error:
        raise FormatError(f"{where}: {WHAT} is damaged ({error}).") from error
    if not inflater.eof or inflater.unused_data:
        raise FormatError(f"{where}: {WHAT} is damaged: a packed part of it has the wrong size.")
    return content
