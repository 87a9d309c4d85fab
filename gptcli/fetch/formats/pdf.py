"""PDF files: the words of their pages in order, by the extra ``pdf`` (pypdf)."""

from __future__ import annotations

import contextlib
import logging
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gptcli.documents import Document, Origin, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.formats.input import Input

INSTALL = "pip install 'gptcli[pdf]'"
# Lines at the edge of a page that may be a header, a footer or a page number, and on how many pages it has to be.
EDGE_LINES = 2
MIN_REPEATS = 3
_HYPHENATED = re.compile(r"(?<!\w)(\w+)[-\u2010\u00ad]\n(\w+)")
_SENTENCE_END = re.compile(r"[.!?:][\"')\]\u2019\u201d\u00bb]*\Z")
_NO_TITLE = re.compile(r"(untitled|microsoft word|document\d*$|.*\.(docx?|tex|dvi|indd|qxd|pdf)$)", re.IGNORECASE)


def read_pdf(file: Input) -> Iterator[Document]:
    """Yield the text of a PDF as one document, without running headers and page numbers.

    Words that are broken at the end of a line are mended. Raises ``SourceError`` when pypdf is not installed, and for
    a file that is damaged, encrypted, or has images of pages only.
    """
    pages, origin = _read(file)
    if not any(page.strip() for page in pages):
        raise SourceError(
            f"{file.label} has {len(pages):,} page{'' if len(pages) == 1 else 's'} and no text: they are images.",
            "Run text recognition (OCR) on it first, such as ocrmypdf, and fetch the result.",
        )
    kept, count = without_running_lines([page.splitlines() for page in pages])
    file.source.dropped["running headers and page numbers"] += count
    yield from document_parts([mend_hyphens(_joined(kept))], **file.origin(origin))


def without_running_lines(pages: Sequence[Sequence[str]]) -> tuple[list[list[str]], int]:
    """Remove the lines that stand at the same edge of several pages, but for a number; return the rest and how many."""
    trimmed = [[line.strip() for line in page if line.strip()] for page in pages]
    count = 0
    for top in (True, False):
        for _ in range(EDGE_LINES):
            edges = [_shape(page[0 if top else -1]) if page else "" for page in trimmed]
            often = {shape for shape, pages_with in Counter(filter(None, edges)).items() if pages_with >= MIN_REPEATS}
            for page, edge in zip(trimmed, edges, strict=True):
                if edge in often:
                    page.pop(0 if top else -1)
                    count += 1
    return trimmed, count


def mend_hyphens(text: str) -> str:
    """Join the words that are broken at the end of a line; a hyphen that the word has elsewhere too is kept."""
    words = Counter(re.findall(r"\w+(?:-\w+)*", text))

    def join(found: re.Match[str]) -> str:
        first, second = found.groups()
        if not second[0].islower() or not first[-1].isalpha():
            return f"{first}-{second}"
        return f"{first}-{second}" if words[f"{first}-{second}"] > words[first + second] else first + second

    return _HYPHENATED.sub(join, text)


def _shape(line: str) -> str:
    """Return a line with every number the same."""
    return re.sub(r"\d+", "#", " ".join(line.split()))


def _joined(pages: Iterable[Sequence[str]]) -> str:
    """Join the pages; where a sentence goes on, so does the text."""
    pieces: list[str] = []
    for lines in filter(None, pages):
        if pieces:
            pieces.append("\n\n" if _SENTENCE_END.search(pieces[-1][-10:]) else "\n")
        pieces.append("\n".join(lines))
    return "".join(pieces)


def _read(file: Input) -> tuple[list[str], Origin]:
    """Return the text of each page, and what the file says of itself."""
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise SourceError(
            f"{file.label} is a PDF, and reading one needs a part that is not installed: {INSTALL}", INSTALL
        ) from error
    # What a damaged PDF makes pypdf stumble over.
    stumbles = (PyPdfError, ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError)
    others = (OSError, EOFError, zlib.error, struct.error, NotImplementedError, AssertionError)
    with _quiet_logging("pypdf"):
        try:
            reader = pypdf.PdfReader(file.path)
            if reader.is_encrypted and not _unlocked(reader):
                raise SourceError(
                    f"{file.label} is encrypted: it needs a password, or a part of pypdf that is not installed.",
                    "Save a copy without the password, and fetch that.",
                )
            return [page.extract_text() or "" for page in reader.pages], _origin(reader.metadata)
        except (*stumbles, *others) as error:
            raise file.damaged(f"pypdf cannot read it ({' '.join(str(error).split())[:200]})") from error


def _unlocked(reader: Any) -> bool:  # noqa: ANN401 - pypdf is imported inside functions only
    """Try the empty password, which is that of files that may be read but not changed."""
    from pypdf.errors import PyPdfError

    try:
        return bool(reader.decrypt(""))
    except (PyPdfError, NotImplementedError, ValueError, KeyError):
        return False


def _origin(metadata: Any) -> Origin:  # noqa: ANN401
    title, author = (" ".join(str((metadata or {}).get(key) or "").split()) for key in ("/Title", "/Author"))
    return Origin(title="" if _NO_TITLE.match(title) else title, author=author)


@contextlib.contextmanager
def _quiet_logging(name: str) -> Iterator[None]:
    """Keep a package's warnings about each small fault of a file off the terminal."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
