"""EPUB books, of version 2 and 3: the chapters of the spine as one text, with title, author and licence.

Nothing is unpacked to disk, nothing outside the archive is read, and books that are locked stay locked.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from gptcli.documents import Document, Origin
from gptcli.errors import SourceError
from gptcli.fetch.formats.archive import Archive
from gptcli.fetch.formats.input import Input
from gptcli.fetch.formats.markup import decode_markup, parse_xml, xhtml_to_text
from gptcli.fetch.formats.plain import book_documents
from gptcli.fetch.source import shown

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
MAX_CHAPTERS = 20_000
# Fonts may be scrambled in a book that anyone can read.
_FONT_OBFUSCATION = {"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"}
_LOCKS = ("META-INF/rights.xml", "META-INF/sinf.xml", "META-INF/license.lcpl")
_CHAPTER_TYPES = {"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"}
_CHAPTER_SUFFIXES = (".xhtml", ".html", ".htm")


@dataclass(frozen=True, slots=True)
class _Item:
    href: str
    media_type: str
    is_navigation: bool


def read_epub(file: Input) -> Iterator[Document]:
    """Yield the book as one document; chapters without words, and the table of contents, are passed over.

    Raises ``SourceError`` for a book that is damaged, locked by DRM, or inflates beyond reason.
    """
    try:
        with Archive(file.path, file.label) as archive:
            _refuse_locked(archive)
            package_path, package = _package(archive)
            origin = _origin(package)
            chapters = list(_chapters(file, archive, package, posixpath.dirname(package_path)))
    except (zipfile.BadZipFile, OSError) as error:
        raise file.damaged(error) from error
    if not chapters:
        raise SourceError(
            f"{file.label} has no chapter with words in it.",
            "A book of scanned pages needs text recognition (OCR).",
        )
    yield from book_documents(file, "\n\n".join(chapters), origin)


def _refuse_locked(archive: Archive) -> None:
    """Raise ``SourceError`` for a book that is encrypted, or carries the rights of a shop's DRM."""
    locked = next((name for name in _LOCKS if archive.has(name)), "")
    if archive.has(ENCRYPTION):
        tree = parse_xml(decode_markup(archive.read(ENCRYPTION)), ENCRYPTION, archive.label)
        ways = {element.get("Algorithm") for element in tree.iter("{*}EncryptionMethod")}
        if ways - _FONT_OBFUSCATION:
            locked = ENCRYPTION
    if locked or archive.is_encrypted:
        raise SourceError(
            f"{archive.label} is locked by DRM{f' ({locked})' if locked else ''}, so it cannot be read.",
            "Fetch an edition without DRM; many publishers and Project Gutenberg offer them.",
        )


def _package(archive: Archive) -> tuple[str, Any]:
    """Return the path and the tree of the package document (OPF), which lists everything else."""
    path = ""
    if archive.has(CONTAINER):
        tree = parse_xml(decode_markup(archive.read(CONTAINER)), CONTAINER, archive.label)
        roots = [found.get("full-path") or "" for found in tree.iter("{*}rootfile")]
        path = next((place for root in roots for place in (root, unquote(root)) if archive.has(place)), "")
    path = path or next((name for name in archive.names() if name.lower().endswith(".opf")), "")
    if not path:
        raise SourceError(
            f"{archive.label} is no EPUB book: it has no package document (OPF), which says what its chapters are.",
            "Get the file again, or unpack it and fetch the pages inside as a folder.",
        )
    return path, parse_xml(decode_markup(archive.read(path)), path, archive.label)


def _origin(package: Any) -> Origin:  # noqa: ANN401 - lxml is imported inside functions only
    """Return what the metadata of a book says of it."""
    metadata = next(package.iter("{*}metadata"), package)

    def texts(name: str) -> list[str]:
        found = (" ".join("".join(element.itertext()).split()) for element in metadata.iter(f"{{*}}{name}"))
        return [text for text in found if text]

    roles = {
        (element.get("refines") or "").lstrip("#"): (element.text or "").strip()
        for element in metadata.iter("{*}meta")
        if element.get("property") == "role"
    }
    authors = [
        " ".join("".join(element.itertext()).split())
        for element in metadata.iter("{*}creator")
        if (roles.get(element.get("id") or "") or element.get("{http://www.idpf.org/2007/opf}role") or "aut") == "aut"
    ]
    values = {
        "title": texts("title")[:1],
        "author": list(filter(None, authors)),
        "date": _dates(metadata)[:1],
        "language": texts("language")[:1],
        "licence": texts("rights")[:1],
    }
    origin = Origin()
    for key, value in values.items():
        if value:
            origin[key] = ", ".join(value)  # type: ignore[literal-required]
    return origin


def _dates(metadata: Any) -> list[str]:  # noqa: ANN401
    """Return the dates of a book, that of its publication first and that of the file's making last."""
    event = "{http://www.idpf.org/2007/opf}event"
    order = ("publication", "original-publication", None)
    dated = [(element.get(event), (element.text or "").strip()) for element in metadata.iter("{*}date")]
    ranked = sorted(dated, key=lambda found: order.index(found[0]) if found[0] in order else len(order))
    return [text for _, text in ranked if text]


def _chapters(file: Input, archive: Archive, package: Any, folder: str) -> Iterator[str]:  # noqa: ANN401
    """Yield the text of each chapter in reading order."""
    items = {
        element.get("id"): _Item(
            element.get("href") or "",
            (element.get("media-type") or "").lower(),
            "nav" in (element.get("properties") or "").split(),
        )
        for element in package.iter("{*}item")
    }
    read: set[str] = set()
    absent: list[str] = []
    for reference in package.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or not _is_chapter(item):
            continue
        name = _inside(archive, folder, item.href)
        if name is None:
            absent.append(item.href)
        elif name not in read and len(read) < MAX_CHAPTERS:
            read.add(name)
            if text := xhtml_to_text(decode_markup(archive.read(name))).strip():
                yield text
    if absent:
        file.source.dropped["chapters that are not inside the book"] += len(absent)
        file.source.notes.append(f"{file.label}: chapters are listed that are not inside the book: {shown(absent)}.")


def _is_chapter(item: _Item) -> bool:
    named = item.media_type in _CHAPTER_TYPES or item.href.partition("#")[0].lower().endswith(_CHAPTER_SUFFIXES)
    return named and not item.is_navigation


def _inside(archive: Archive, folder: str, href: str) -> str | None:
    """Return the name in the archive that a reference leads to; None where it leads out of it or to nothing."""
    for written in (unquote(href.partition("#")[0]), href):
        if re.match(r"[A-Za-z][\w+.-]*:|[/\\]", written):
            continue
        name = posixpath.normpath(posixpath.join(folder, written.replace("\\", "/")))
        if name != ".." and not name.startswith("../") and archive.has(name):
            return name
    return None
