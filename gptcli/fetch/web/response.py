"""What came from an address of the web and is kept on disk: its bytes as text or JSON, and what its headers said."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.errors import SourceError
from gptcli.fetch.text import TextEncoding, choose_encoding, declared_charset, decode_pieces
from gptcli.fetch.web.urls import join

# The only headers that are kept.
HEADERS = ("link", "x-wp-total", "x-wp-totalpages", "last-modified", "etag")
_HEAD_BYTES = 4096
# What these labels mean on the web: https://encoding.spec.whatwg.org/#names-and-labels
_ON_THE_WEB = {
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "l1"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "korean"), "cp949"),
    "iso-8859-9": "cp1254",
    "tis-620": "cp874",
}


@dataclass(frozen=True, slots=True)
class Response:
    """A document of the web in the raw store.

    ``url`` is what was asked for and ``final_url`` where redirects led. ``content_type`` is in lower case and without
    parameters, ``charset`` as the server declared it: it may be empty or wrong. ``headers`` holds those of ``HEADERS``
    that were sent, by lower-case name. ``path`` is a file of ``bytes`` bytes, decompressed. ``fetched_at`` is ISO 8601
    in UTC. ``status`` is 200 for all but the ledger itself, which also remembers what was not there.
    """

    url: str
    final_url: str
    content_type: str
    charset: str
    headers: Mapping[str, str]
    sha256: str
    bytes: int
    path: Path
    fetched_at: str
    status: int = 200

    def encoding(self, insisted: str | None = None) -> TextEncoding:
        """Decide how to decode the body: by its own mark, as UTF-8, as the server says, as it says itself, or a guess.

        ``insisted`` overrules all. Raises ``SourceError`` for a binary body, and for bytes that are not ``insisted``.
        """
        with self.path.open("rb") as file:
            says_itself = declared_charset(file.read(_HEAD_BYTES))
        declared = [_ON_THE_WEB.get(label, label) for label in (self.charset, says_itself) if label]
        if declared[:1] == ["cp1252"]:  # what many servers say of every page; the page knows better
            declared.reverse()
        chosen = choose_encoding(self.path, insisted, label=self.url, declared=declared[0] if declared else "")
        for label in declared[1:] if chosen.guessed else []:
            chosen = choose_encoding(self.path, insisted, label=self.url, declared=label)
        return chosen

    def text(self, encoding: str | None = None) -> str:
        r"""Return the body as text with ``\n`` for newlines; ``encoding`` insists on one. Raises as ``encoding``."""
        return "".join(decode_pieces(self.path, self.encoding(encoding), label=self.url))

    def json(self) -> Any:  # noqa: ANN401 - JSON is anything
        """Return what the JSON of the body says; raises ``SourceError`` that shows how anything else begins."""
        try:
            try:
                return json.loads(self.path.read_bytes().removeprefix(codecs.BOM_UTF8))
            except UnicodeDecodeError:  # not the UTF-8 that JSON has to be
                return json.loads(self.text())
        except (ValueError, RecursionError) as error:
            head = self._head()
            found = f"it begins with {head!r}" if head else "it is empty"
            raise SourceError(
                f"{self.url} is not JSON ({found}; {str(error).rstrip('.')}).",
                "--as page or --as text reads it as something else.",
            ) from error

    def link(self, rel: str) -> str | None:
        """Return the address that the ``Link`` header names for ``rel``, or None."""
        for match in re.finditer(r"""<([^<>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^\s",;]+))*)""", self._links()):
            relations = re.search(r"""(?i);\s*rel\s*=\s*(?:"([^"]*)"|([^\s",;]+))""", match[2])
            if relations and rel.lower() in (relations[1] or relations[2] or "").lower().split():
                return join(self.final_url, match[1])
        return None

    def _links(self) -> str:
        return self.headers.get("link", "")

    def _head(self) -> str:
        with self.path.open("rb") as file:
            return " ".join(file.read(200).decode("utf-8", "replace").split())[:60]
