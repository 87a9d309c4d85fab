"""XML and XHTML from inside a file: decoded as it says itself, parsed without entities, network or DTD."""

from __future__ import annotations

import codecs
import contextlib
import re
from html.entities import html5
from typing import Any

from gptcli.documents import well_formed
from gptcli.errors import SourceError
from gptcli.fetch.html import html_to_text, tree_text
from gptcli.fetch.text import declared_charset

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_DECLARATION = re.compile(r"\A\s*<\?xml\b[^>]*\?>")
_DOCTYPE = re.compile(r"[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL)
_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]*;)")
_XML_ENTITIES = {"amp;", "lt;", "gt;", "quot;", "apos;"}


def decode_markup(data: bytes) -> str:
    """Return the text of an XML or HTML file: as its mark says, as UTF-8, as it declares, else as cp1252."""
    names = [name for mark, name in _MARKS if data.startswith(mark)][:1] or ["utf-8", declared_charset(data[:4096])]
    for name in names:
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return data.decode(name)
    return data.decode("cp1252", "replace")


def parse_xml(text: str, what: str, label: str) -> Any:  # noqa: ANN401 - lxml is imported inside functions only
    """Return the tree of the file ``what`` inside ``label``; raises ``SourceError`` where it is none."""
    tree = None if "<!ENTITY" in text else _parsed(text, recover=True)
    if tree is None:
        raise SourceError(
            f"{label} is damaged: {what} inside it is not XML that can be read.", "Get the file again, or leave it out."
        )
    return tree


def xhtml_to_text(text: str) -> str:
    """Return the visible text of a page of XHTML; one that is not well formed is read as HTML is."""
    plain = _without_doctype(text)
    known = _ENTITY.sub(lambda found: found[0] if found[1] in _XML_ENTITIES else html5.get(found[1], found[0]), plain)
    tree = _parsed(known, recover=False)
    if tree is None:
        return html_to_text(plain)
    for element in tree.iter("{*}*"):
        element.tag = element.tag.rpartition("}")[2].lower()
    return tree_text(tree)


def _without_doctype(text: str) -> str:
    before, mark, after = text.partition("<!DOCTYPE")
    found = _DOCTYPE.match(after) if mark else None
    return before + after[found.end() :] if found else text


def _parsed(text: str, *, recover: bool) -> Any:  # noqa: ANN401
    from lxml import etree

    parser = etree.XMLParser(
        encoding="utf-8",
        recover=recover,
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        return etree.fromstring(well_formed(_DECLARATION.sub("", text)).encode(), parser)
    except (etree.LxmlError, ValueError):
        return None
