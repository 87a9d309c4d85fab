"""Documents: what a text is while it is no tokens yet, how it is cleaned, stored in lines, and cut.

Knows nothing of where texts come from, of tokens, or which side of a split a document goes to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypedDict

import numpy as np
from typing_extensions import Unpack

from gptcli.errors import FormatError, UnfinishedError

PART_CHARS = 4 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024
SPAN_BYTES = 2 * 1024 * 1024
_ASCII = bytes(range(128))
_TO_SPACES = bytes(32 if byte < 128 and chr(byte).isspace() else byte for byte in range(256))
FETCH_HINT = "gptcli fetch SOURCE writes the documents again."


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it comes from; a long text is several of them, one after the other.

    ``id`` is the start of the SHA-256 of ``text`` in hexadecimal. ``part`` n > 0 goes on seamlessly where part n-1
    ended; no part is longer than ``PART_CHARS``. ``answers`` are the (start, end) characters of a conversation's
    answers, in their order; an ordinary text has none.
    """

    id: str
    text: str
    title: str = ""
    author: str = ""
    url: str = ""
    date: str = ""
    language: str = ""
    licence: str = ""
    part: int = 0
    answers: tuple[tuple[int, int], ...] = ()


_TYPES: dict[str, type] = {field.name: str for field in fields(Document)} | {"part": int, "answers": list}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: documents (parts of one count once), UTF-8 bytes of their texts, SHA-256 of the file.

    ``conversations`` says how many of the documents are some.
    """

    documents: int
    bytes: int
    sha256: str
    conversations: int = 0


class Origin(TypedDict, total=False):
    """What is known of a text beside its words; ``date`` is ISO 8601 where it could be read, ``language`` BCP 47."""

    title: str
    author: str
    url: str
    date: str
    language: str
    licence: str


def document(
    text: str, *, part: int = 0, answers: tuple[tuple[int, int], ...] = (), **origin: Unpack[Origin]
) -> Document:
    """Make a document and compute its id; lone surrogates, which no file can hold, become U+FFFD."""
    text = well_formed(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    known = {key: well_formed(str(value)) for key, value in origin.items()}
    return Document(id=digest[:16], text=text, part=part, answers=answers, **known)


def document_parts(pieces: Iterable[str], **origin: Unpack[Origin]) -> Iterator[Document]:
    """Make one document of a text that arrives in pieces, in parts of at most ``PART_CHARS`` characters.

    A part ends with the last word of a paragraph, else of a line, else with any word, else anywhere; whitespace after
    it begins the next part. How the text was cut into pieces makes no difference. No text, no part.
    """
    number, waiting = 0, ""
    for piece in pieces:
        for start in range(0, len(piece), PART_CHARS):
            waiting += piece[start : start + PART_CHARS]
            while len(waiting) > PART_CHARS:
                end = _part_end(waiting)
                yield document(waiting[:end], part=number, **origin)
                number, waiting = number + 1, waiting[end:]
    if waiting:
        yield document(waiting, part=number, **origin)


def _part_end(text: str) -> int:
    # Between a word and the whitespace after it: there, encoding the parts gives the tokens of the whole text.
    for mark in ("\n\n", "\n", " "):
        space = text.rfind(mark, PART_CHARS // 2, PART_CHARS)
        end = len(text[: space + 1].rstrip())
        if space >= 0 and end > PART_CHARS // 2 and text[end] in " \n\t":
            return end
    return PART_CHARS


def origin_of(item: Document) -> Origin:
    """Return what a document says of itself beside its text, to make another of a changed text."""
    return Origin(
        title=item.title,
        author=item.author,
        url=item.url,
        date=item.date,
        language=item.language,
        licence=item.licence,
    )


def segments(item: Document) -> Iterator[tuple[str, bool]]:
    """Yield the text of a conversation in pieces, and of each whether it is an answer; an ordinary text is one piece.

    Pieces are never empty.
    """
    at = 0
    for start, end in item.answers:
        if at < start:
            yield item.text[at:start], False
        yield item.text[start:end], True
        at = end
    if at < len(item.text):
        yield item.text[at:], False


def rewritten(item: Document, change: Callable[[str], str]) -> Document:
    """Return the document with its text changed by a function; of a conversation, each segment is changed apart."""
    text, answers = "", []
    for piece, answered in segments(item):
        changed = change(piece)
        if answered and changed:
            answers.append((len(text), len(text) + len(changed)))
        text += changed
    return document(text, part=item.part, answers=tuple(answers), **origin_of(item))


def cut_out(item: Document, start: int, end: int, part: int) -> Document:
    """Return the part of a document from character ``start`` to ``end``; a cut answer stays one as far as it goes."""
    if (start, end) == (0, len(item.text)):
        return replace(item, part=part)
    spans = ((max(a, start) - start, min(b, end) - start) for a, b in item.answers)
    answers = tuple((a, b) for a, b in spans if a < b)
    return document(item.text[start:end], part=part, answers=answers, **origin_of(item))


def to_json(item: Document) -> dict[str, Any]:
    """Return the document as one line of ``documents.jsonl`` holds it: fields that say nothing are left out."""
    value = asdict(item)
    return {key: value[key] for key in value if value[key] or key in {"id", "text"}}


def from_json(value: Mapping[str, Any]) -> Document:
    """Make a document of a line's JSON object; raises ``ValueError`` for missing, unknown or mistyped fields."""
    for key in ("id", "text"):
        if key not in value:
            raise ValueError(f"the field {key!r} is missing")
    for key, found in value.items():
        if key not in _TYPES:
            raise ValueError(f"the field {key!r} is unknown")
        if type(found) is not _TYPES[key]:
            raise ValueError(f"the field {key!r} should be a {_TYPES[key].__name__}, found {type(found).__name__}")
    if value.get("part", 0) < 0:
        raise ValueError("the field 'part' is negative")
    if (text := well_formed(value["text"])) != value["text"]:
        value = {**value, "text": text}
    if "answers" in value:
        value = {**value, "answers": _spans(value["answers"], len(text))}
    return Document(**value)


def _spans(found: list[Any], length: int) -> tuple[tuple[int, int], ...]:
    """Return the answers of a line as they stand in a text of ``length`` characters."""
    end = 0
    for span in found:
        if not (isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)):
            raise ValueError("the field 'answers' should be a list of pairs of integers")
        if not end <= span[0] < span[1] <= length:
            raise ValueError("the field 'answers' should be parts of the text, one after the other")
        end = span[1]
    return tuple((start, end) for start, end in found)


class Digest(Protocol):
    """What ``hashlib`` makes."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""


class Span(NamedTuple):
    """Some whole lines of a file: from which byte to which, and the number of the first, from 1."""

    start: int
    end: int
    line: int


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a ``documents.jsonl``, a line in memory at a time.

    Raises ``FormatError`` that names the file and the line of the first one that is damaged, ``UnfinishedError`` where
    the file cannot be read.
    """
    return (item for _, item in placed_documents(path))


def placed_documents(path: Path, span: Span | None = None) -> Iterator[tuple[Span, Document]]:
    """Yield the documents of a file, or of some lines of it, each with its line; raises as ``read_documents`` does."""
    at, end, number = span or (0, None, 1)
    try:
        with _opened(path) as file:
            file.seek(at)
            while (end is None or at < end) and (line := file.readline(MAX_LINE_BYTES + 1)):
                yield Span(at, at + len(line), number), _parse_line(line)
                at, number = at + len(line), number + 1
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}:{number}: this line is damaged: {error}.", FETCH_HINT) from error


def document_spans(path: Path, digest: Digest) -> Iterator[Span]:
    """Yield spans of about ``SPAN_BYTES``, each of whole documents; all bytes of the file go into ``digest``.

    Lines are not looked into, but for the one behind each span. Raises as ``read_documents`` does.
    """
    with _opened(path) as file:
        start, number, first = 0, 1, b""
        while data := first + file.read(SPAN_BYTES):
            if not data.endswith(b"\n"):
                data += file.readline(MAX_LINE_BYTES + 1)
            digest.update(data)
            end, lines = start + len(data), data.count(b"\n")
            del data
            while (first := file.readline(MAX_LINE_BYTES + 1)) and _goes_on(first):
                digest.update(first)
                end, lines = end + len(first), lines + 1
            yield Span(start, end, number)
            start, number = end, number + lines


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open documents; ``FormatError`` where they are no file, ``UnfinishedError`` where they cannot be read."""
    if path.exists() and not path.is_file():  # a device has no end, and a pipe no beginning
        raise FormatError(f"{path}: the documents of a corpus should be a file, and this is none.", FETCH_HINT)
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        said = f"{path}: the documents cannot be read ({error.strerror})."
        raise UnfinishedError(said, f"{FETCH_HINT} Once it can be read, the same command goes on.") from error


def _goes_on(line: bytes) -> bool:
    """Say whether a line goes on with the document of the line before; a damaged one is whoever reads it to tell."""
    if b'"part"' not in line:
        return False
    with contextlib.suppress(ValueError, RecursionError):
        return _parse_line(line).part > 0
    return False


def _parse_line(line: bytes) -> Document:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"it is longer than {MAX_LINE_BYTES:,} bytes")
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, found {type(value).__name__}")
    return from_json(value)


def write_documents(file: IO[bytes], items: Iterable[Document]) -> Written:
    """Write documents as lines of JSON, and say what was written."""
    count = size = conversations = 0
    digest = hashlib.sha256()
    for item in items:
        line = json.dumps(to_json(item), ensure_ascii=False).encode() + b"\n"
        file.write(line)
        digest.update(line)
        count += item.part == 0
        conversations += bool(item.answers)
        size += len(item.text.encode())
    return Written(count, size, digest.hexdigest(), conversations)


class ContentDigest:
    """The digest of a text that arrives in pieces; texts that differ in whitespace only have the same one."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._begun = False
        self._space = False

    def update(self, text: str) -> ContentDigest:
        """Add a piece of text; a word may go on from the piece before."""
        for start in range(0, len(text), 1 << 16):
            chunk = text[start : start + (1 << 16)]
            words = _collapse_spaces(chunk)
            if words:
                if self._begun and (self._space or chunk[0].isspace()):
                    self._hash.update(b" ")
                self._hash.update(words)
                self._begun = True
            self._space = chunk[-1].isspace() or (self._space and not words)
        return self

    def digest(self) -> bytes:
        """Return the 16 bytes for what was added so far."""
        return self._hash.digest()[:16]


def _collapse_spaces(text: str) -> bytes:
    """Return ``" ".join(text.split())`` as UTF-8, in less than half of the time."""
    data = text.encode("utf-8", "surrogatepass")
    if not text.isascii():
        wide = data.translate(None, _ASCII).decode("utf-8", "surrogatepass")
        if wide.split() != [wide]:  # spaces that are no ASCII
            return " ".join(text.split()).encode("utf-8", "surrogatepass")
    found = np.frombuffer(data.translate(_TO_SPACES), np.uint8)
    spaces = found == ord(" ")
    kept = np.ones(found.size, np.bool_)
    np.logical_and(spaces[1:], spaces[:-1], out=kept[1:])
    np.logical_not(kept[1:], out=kept[1:])
    return found[kept].tobytes().strip(b" ")


def content_digest(text: str) -> bytes:
    """Return 16 bytes of the SHA-256 of the text with its whitespace collapsed: equality means duplicate."""
    return ContentDigest().update(text).digest()


def in_val(digest: bytes, val_fraction: float) -> bool:
    """Say whether a document with this content digest belongs to val; it depends on nothing else."""
    return int.from_bytes(digest[:8], "big") < val_fraction * 2**64


def nearest_break(text: str, target: int, reach: int) -> int:
    """Return where a paragraph, else a line, else a word starts nearest to ``target`` and within ``reach`` of it.

    Where none of them does, ``target`` itself is returned.
    """
    low, high = max(target - reach, 0), min(target + reach, len(text))
    for mark in ("\n\n", "\n", " "):
        before = text.rfind(mark, low, target)
        after = text.find(mark, max(target - len(mark), low), high)
        starts = [_run_end(text, at + len(mark)) for at in (before, after) if at >= 0]
        starts = [start for start in starts if low <= start <= high and 0 < start < len(text)]
        if starts:
            return min(starts, key=lambda start: abs(start - target))
    return target


def _run_end(text: str, start: int) -> int:
    """Return where a run of the character before ``start`` ends, so that a piece never begins with blank lines."""
    end = start
    while end < len(text) and text[end] == text[start - 1]:
        end += 1
    return end


def well_formed(text: str) -> str:
    """Replace lone surrogates, which cannot be written as UTF-8, by U+FFFD."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def strip_bom(text: str) -> str:
    """Remove a byte order mark at the start."""
    return text.removeprefix("\ufeff")


def normalize_newlines(text: str) -> str:
    r"""Turn ``\r\n`` and ``\r`` into ``\n``."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def strip_trailing_spaces(text: str) -> str:
    """Remove spaces and tabs at the ends of lines."""
    return re.sub(r"[ \t]+(?=\n|\Z)", "", text)


def collapse_blank_lines(text: str) -> str:
    """Leave at most one blank line between two lines."""
    return re.sub(r"\n{3,}", "\n\n", text)


def drop_lines(text: str, pattern: str) -> tuple[str, int]:
    """Remove the lines in which the regular expression is found; return the rest and how many lines went."""
    lines = text.split("\n")
    kept = [line for line in lines if not re.search(pattern, line)]
    return "\n".join(kept), len(lines) - len(kept)


# The cleaners that a recipe may name.
CLEANERS: Mapping[str, Callable[[str], str]] = {
    cleaner.__name__: cleaner
    for cleaner in (strip_bom, normalize_newlines, strip_trailing_spaces, collapse_blank_lines)
}
