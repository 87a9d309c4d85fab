"""Sitemaps: the addresses that a site lists of itself, and the sitemaps that it lists. Fetches nothing."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptcli.errors import SourceError
from gptcli.fetch.web.urls import join

# The protocol allows 50 MB and 50,000 addresses; a little leeway for those who cannot count.
MAX_SITEMAP_BYTES = 64 * 1024 * 1024
MAX_ADDRESSES = 100_000
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Sitemap:
    """The addresses of one sitemap in their order, each with the date of its last change as it is written there.

    ``children`` are the addresses of further sitemaps; ``cut`` says that there were more addresses than one may have.
    """

    pages: tuple[tuple[str, str], ...] = ()
    children: tuple[tuple[str, str], ...] = ()
    cut: bool = False


def read_sitemap(path: Path, url: str, most: int = MAX_ADDRESSES) -> Sitemap:
    """Read the sitemap that came from ``url``: XML, an index, a plain list of addresses, each also as gzip.

    Of more than ``most`` addresses the first are taken.

    What is not well-formed ends the reading, with what was found before. Raises ``SourceError`` when it is larger than
    ``MAX_SITEMAP_BYTES`` after decompression.
    """
    data = _inflated(path, url).lstrip(b"\xef\xbb\xbf \t\r\n")
    found = _in_xml(data) if data.startswith(b"<") else _in_lines(data)
    pages: dict[str, str] = {}
    children: dict[str, str] = {}
    for kind, location, changed in found:
        if len(pages) + len(children) >= min(most, MAX_ADDRESSES):
            return Sitemap(tuple(pages.items()), tuple(children.items()), cut=True)
        if address := join(url, location):
            (children if kind == "sitemap" else pages).setdefault(address, changed)
    return Sitemap(tuple(pages.items()), tuple(children.items()))


def _inflated(path: Path, url: str) -> bytes:
    """Return the bytes of a file, decompressed where they are gzip, both below the cap."""
    too_large = SourceError(
        f"The sitemap {url} is larger than {MAX_SITEMAP_BYTES:,} bytes after decompression, so it was not read."
    )
    with path.open("rb") as file:
        head = file.read(_CHUNK)
        if not head.startswith(_GZIP):
            data = head + file.read(MAX_SITEMAP_BYTES + 1 - len(head))
            if len(data) > MAX_SITEMAP_BYTES:
                raise too_large
            return data
        inflate = zlib.decompressobj(wbits=31)
        out = bytearray()
        while head and not inflate.eof:
            try:
                out += inflate.decompress(head, MAX_SITEMAP_BYTES + 1 - len(out))
            except zlib.error:
                break
            if len(out) > MAX_SITEMAP_BYTES:
                raise too_large
            head = inflate.unconsumed_tail or file.read(_CHUNK)
        return bytes(out)


def _in_xml(data: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield what each ``<url>`` and ``<sitemap>`` says: its kind, address and last change."""
    from lxml import etree

    events = etree.iterparse(
        io.BytesIO(data), events=("end",), resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False
    )
    try:
        for _, element in events:
            kind = _local(element)
            if kind not in {"url", "sitemap"}:
                continue
            said = {_local(child): "".join(child.itertext()).strip() for child in element}
            if said.get("loc"):
                yield kind, said["loc"], said.get("lastmod", "")
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]
    except etree.LxmlError:
        return


def _local(element: object) -> str:
    tag = getattr(element, "tag", "")
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def _in_lines(data: bytes) -> Iterator[tuple[str, str, str]]:
    for line in data.decode("utf-8", "replace").splitlines():
        if line.strip().startswith(("http://", "https://")):
            yield "url", line.strip(), ""
