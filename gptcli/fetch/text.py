"""Bytes to text: is a file text at all, in which encoding, and its characters in pieces.

Files are read in pieces, so memory stays flat. Knows nothing of documents or of where a file came from.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal, Protocol

from gptcli.errors import SourceError
from gptcli.fetch.source import shown

CHUNK_BYTES = 1 << 20
MAX_CONTROL_SHARE = 0.05

READ_HINT = "Check its name and permissions; gptcli fetch FILE reads a text file or a folder of them."

# How files begin that people try to read as text.
MAGIC = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive (as docx and odt files are)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"{\\rtf", "an RTF file"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"GIF8", "a picture (GIF)"),
)
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL_BYTES = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1b\b") + b"\x7f"
# How much worse than the best guess cp1252 may look and still be taken.
_LEEWAY = 0.1


_XML_ENCODING = re.compile(rb"""\A\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")
_META_CHARSET = re.compile(rb"""<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


class Readable(Protocol):
    """What can be opened for its bytes again and again: a path, or something that reads like one."""

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it at its first byte."""
        ...


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """How a file is decoded; ``guessed`` when it is not UTF-8, has no mark, and nobody said what it is."""

    name: str
    errors: Literal["strict", "replace"] = "strict"
    guessed: bool = False


class _NotDecodableError(Exception):
    """The byte at ``offset`` does not belong to the encoding."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


def choose_encoding(
    path: Readable, encoding: str | None = None, *, label: str = "", declared: str = ""
) -> TextEncoding:
    """Decide how to decode a file: UTF-8, else what its byte order mark says, else ``declared``, else a guess.

    ``encoding`` insists on one. ``label`` names the file in errors, ``declared`` is what a server said. Raises
    ``SourceError`` for a binary or unreadable file, an unknown encoding, and bytes the insisted one does not have.
    """
    label = label or str(path)
    head = _read(path, 0, CHUNK_BYTES, label)
    if encoding is not None:
        return _insisted(path, encoding, label)
    for mark, name in _WIDE_MARKS:
        if head.startswith(mark):
            return _insisted(path, name, label)
    _refuse_binary(head, label)
    failed_at = _first_failure(path, "utf-8-sig", label)
    if failed_at is None:
        return TextEncoding("utf-8")
    start = max(failed_at - CHUNK_BYTES // 2, 0)
    sample = _read(path, start, CHUNK_BYTES, label)
    _refuse_binary(sample, label)
    for name in (declared, _guess(sample), "cp1252"):
        if _is_encoding(name) and _first_failure(path, name, label) is None:
            return TextEncoding(codecs.lookup(name).name, guessed=name != declared)
    return TextEncoding("cp1252", errors="replace", guessed=True)


def decode_pieces(path: Readable, encoding: TextEncoding, *, label: str = "") -> Iterator[str]:
    r"""Yield the text of a file in pieces, newlines as ``\n`` and without a byte order mark.

    Raises ``SourceError`` when the file cannot be read or has changed since its encoding was chosen.
    """
    label = label or str(path)
    try:
        yield from _decode(path, encoding.name, encoding.errors)
    except OSError as error:
        raise _unreadable(label, error) from error
    except _NotDecodableError as error:
        raise _not_in_encoding(label, encoding.name, error.offset) from error


def decode_file(path: Readable, encoding: str | None = None, *, label: str = "") -> tuple[str, TextEncoding]:
    """Return the whole text of a file, decoded as ``fetch`` would, and how; raises as ``choose_encoding``."""
    chosen = choose_encoding(path, encoding, label=label)
    return "".join(decode_pieces(path, chosen, label=label)), chosen


def lines_of(pieces: Iterable[str], *, max_chars: int, label: str) -> Iterator[str]:
    r"""Yield the lines of a text that arrives in pieces, each with its ``\n``; nothing else ends a line.

    Raises ``SourceError`` that names the line which is longer than ``max_chars``.
    """
    number, rest = 1, ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        for line in whole:
            yield line + "\n"
        number += len(whole)
        if len(rest) > max_chars:
            raise SourceError(
                f"{label}:{number}: the line is longer than {max_chars:,} characters.",
                "If it is prose and no table, read it as it is: --as text.",
            )
    if rest:
        yield rest


def declared_charset(head: bytes) -> str:
    """Return the encoding that the start of an XML or HTML file says it has, or nothing."""
    found = _XML_ENCODING.search(head.removeprefix(codecs.BOM_UTF8)) or _META_CHARSET.search(head)
    return found[1].decode("ascii", "replace").lower() if found else ""


def guessed_note(labels: Sequence[str], name: str) -> str:
    """Return the note that says in which encoding files were read that are not UTF-8."""
    which = f"{labels[0]} is" if len(labels) == 1 else f"{len(labels)} files are"
    names = "" if len(labels) == 1 else f" ({shown(labels)})"
    return f"{which} not UTF-8; read as {name}{names}. Pass --encoding to insist on another."


def binary_kind(head: bytes) -> str:
    """Say what the bytes at the start of a file are when they are not text ("a PDF"), or return nothing."""
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    if any(head.startswith(mark) for mark, _ in _WIDE_MARKS):
        return ""
    controls = len(head) - len(head.translate(None, _CONTROL_BYTES))
    return "binary data" if b"\0" in head or controls > MAX_CONTROL_SHARE * len(head) else ""


class BinaryFileError(SourceError):
    """A file that is not text; inside a folder it is passed over."""


def _refuse_binary(head: bytes, label: str) -> None:
    kind = binary_kind(head)
    if not kind:
        return
    hint = "Save it as plain text first, and fetch that: gptcli fetch FILE"
    if kind == "binary data":
        hint = "If it is text in an unusual encoding, name it: --encoding utf-16-le."
        raise BinaryFileError(f"{label} looks binary: it has bytes that a text has not.", hint)
    if kind.startswith("a picture"):
        hint = "gptcli fetch FILE reads texts; words in a picture have to be written down first."
    raise BinaryFileError(f"{label} looks binary: it is {kind}, not text.", hint)


def _insisted(path: Readable, name: str, label: str) -> TextEncoding:
    if not _is_encoding(name):
        raise SourceError(
            f"There is no text encoding called {name!r}.", "Usual ones: --encoding utf-8, cp1252, utf-16, shift_jis."
        )
    failed_at = _first_failure(path, name, label)
    if failed_at is not None:
        raise _not_in_encoding(label, name, failed_at)
    return TextEncoding(codecs.lookup(name).name)


def _not_in_encoding(label: str, name: str, offset: int) -> SourceError:
    return SourceError(
        f"{label} is not {name}: the byte at offset {offset:,} cannot be decoded.",
        "Without --encoding the encoding is detected.",
    )


def _is_encoding(name: str) -> bool:
    try:
        b" ".decode(name, "replace")
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError, UnicodeError):
        return False
    return bool(name)


def _guess(sample: bytes) -> str:
    """Return the likeliest encoding of bytes that are no UTF-8, or nothing."""
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    if best is None:
        return ""
    western = from_bytes(sample, cp_isolation=["cp1252"]).best()
    if western is None:
        return best.encoding
    # On short texts in Latin script the detector cannot tell the code pages apart, and cp1252 is the common one.
    near = western.chaos <= best.chaos + _LEEWAY and western.coherence >= best.coherence - _LEEWAY
    return "cp1252" if near else best.encoding


def _first_failure(path: Readable, name: str, label: str) -> int | None:
    """Return the offset of the first byte that is not in the encoding, or None: the whole file is read."""
    try:
        for _ in _decode(path, name, "strict"):
            pass
    except OSError as error:
        raise _unreadable(label, error) from error
    except _NotDecodableError as error:
        return error.offset
    return None


def _decode(path: Readable, name: str, errors: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(name)(errors)
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    consumed = 0
    started = False
    with path.open("rb") as file:
        while True:
            data = file.read(CHUNK_BYTES)
            held = len(decoder.getstate()[0])
            try:
                text = newlines.decode(data, final=not data)
            except UnicodeError as error:
                raise _NotDecodableError(consumed - held + int(getattr(error, "start", 0))) from error
            consumed += len(data)
            if text and not started:
                text, started = text.removeprefix("\ufeff"), True
            if text:
                yield text
            if not data:
                return


def _read(path: Readable, start: int, count: int, label: str) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)
    except OSError as error:
        raise _unreadable(label, error) from error


def _unreadable(label: str, error: OSError) -> SourceError:
    return SourceError(f"{label} cannot be read ({error.strerror or type(error).__name__}).", READ_HINT)
