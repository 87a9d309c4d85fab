"""A file on its way to text: where it lies, what messages call it, and what is noticed while it is read.

Knows no format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptcli.documents import Document, Origin, document_parts, origin_of
from gptcli.errors import SourceError
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.records import NoFieldError
from gptcli.fetch.source import Source
from gptcli.fetch.text import (
    READ_HINT,
    Readable,
    choose_encoding,
    declared_charset,
    decode_pieces,
    guessed_note,
)

MAX_WHOLE_CHARS = 128 * 1024 * 1024
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Input:
    """One file to be read: ``path`` is where it lies, ``content`` opens what it holds (for a ``.gz``, what is inside).

    ``label`` is what messages call it, ``title`` and ``url`` what its document is called unless the file knows better.
    Encodings and notes go to ``source``.
    """

    path: Path
    content: Readable
    label: str
    title: str
    url: str
    source: Source
    options: FetchOptions

    def pieces(self, *, declared: str = "") -> Iterator[str]:
        """Yield the text of the file in pieces of about a megabyte, and note how it was decoded.

        ``declared`` is the encoding that its format has unless its bytes say otherwise. Raises ``SourceError``, before
        the first piece, for a file that cannot be read, is binary, or is not in the encoding that was asked for.
        """
        chosen = choose_encoding(self.content, self.options.encoding, label=self.label, declared=declared)
        self.source.encodings[chosen.name] += 1
        if chosen.guessed:
            self.source.notes.append(guessed_note([self.label], chosen.name))
        if chosen.errors == "replace":
            self.source.notes.append(f"{self.label}: bytes that are not {chosen.name} became U+FFFD.")
        yield from decode_pieces(self.content, chosen, label=self.label)

    def whole(self, *, what: str, markup: bool = False) -> str:
        """Return the whole text of the file, which is ``what`` (a web page); ``markup`` says its encoding itself.

        Raises ``SourceError`` as ``pieces`` does, and above 128 Mi characters.
        """
        parts: list[str] = []
        size = 0
        for piece in self.pieces(declared=declared_charset(self.head()) if markup else ""):
            size += len(piece)
            if size > MAX_WHOLE_CHARS:
                raise SourceError(
                    f"{self.label} is longer than {MAX_WHOLE_CHARS:,} characters, which is too much for {what}.",
                    f"Read it as the plain text that it is: gptcli fetch {self.label} --as text",
                )
            parts.append(piece)
        return "".join(parts)

    def origin(self, said: Origin) -> Origin:
        """Return what the file says of itself, completed by what is known of it from outside."""
        known = Origin(**said)
        known["title"] = known.get("title") or self.title
        known["url"] = self.url
        return known

    def head(self) -> bytes:
        """Return the first bytes of the file; raises ``SourceError`` where it cannot be read."""
        try:
            with self.content.open("rb") as file:
                return file.read(_HEAD_BYTES)
        except OSError as error:
            raise SourceError(f"{self.label} cannot be read ({error.strerror}).", READ_HINT) from error

    def damaged(self, why: object) -> SourceError:
        """Return the error for a file whose insides are not what its name promises."""
        return SourceError(
            f"{self.label} is damaged: {str(why).strip().rstrip('.')}.",
            "Get the file again, or leave it out.",
        )


def parts_of(item: Document) -> Iterator[Document]:
    """Yield a document, in parts where it is longer than one part may be."""
    yield from document_parts([item.text], **origin_of(item))


class NoTextError(NoFieldError):
    """Nothing in a table or a JSON file looks like text; inside a folder it is passed over."""
