"""What a user may ask of a fetch beside its source; one plain value that every kind of source reads."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

from gptcli.errors import SourceError

Robots = Literal["polite", "strict", "ignore"]
AsKind = Literal["text", "page", "blog", "json", "gutenberg", "local", "audio", "hub", "chat"]


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """The options of ``gptcli fetch``; a kind of source ignores what does not concern it.

    ``delay`` is in seconds between two requests to one host, None lets it adapt. ``max_pages`` is a number of requests
    and ``max_bytes`` one of decoded bytes, each for the whole fetch; None takes the default limit. ``mirror`` is a web
    address that stands in for the host of the source. ``limit_bytes`` ends a data set after that much text. Raises
    ``SourceError`` for a pattern or a mirror that is none.
    """

    as_kind: AsKind | None = None
    encoding: str | None = None
    offline: bool = False
    mirror: str | None = None
    robots: Robots = "polite"
    delay: float | None = None
    contact: str | None = None
    max_pages: int | None = None
    max_bytes: int | None = None
    items: str | None = None
    text_fields: tuple[str, ...] = ()
    next_page: str | None = None
    drop_lines: tuple[str, ...] = ()
    limit_bytes: int | None = None
    whisper: str = "small"
    language: str | None = None
    vad: bool = True

    def __post_init__(self) -> None:
        pattern = ""
        try:
            for pattern in self.drop_lines:
                re.compile(pattern)
        except re.error as error:
            raise SourceError(
                f"--drop-lines {pattern!r} is not a regular expression ({error}).",
                "A line that begins with a word: --drop-lines '^Chapter'; a bracket itself: --drop-lines '\\('",
            ) from error
        if self.mirror is not None and not re.match(r"(?i)https?://[^/?#\s]+", self.mirror):
            raise SourceError(
                f"The mirror {self.mirror!r} is not a web address.", "Write it like --mirror https://mirror.example.org"
            )

    def arguments(self) -> list[str]:
        """Return the command line's words for the options that say what is fetched, defaults left out."""
        words: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name not in _FLAGS:
                continue
            flag = _FLAGS[field.name]
            if field.name == "drop_lines":
                words += [word for pattern in value for word in (flag, pattern)]
            elif isinstance(value, bool):
                words.append(flag)
            else:
                words += [flag, ",".join(value) if isinstance(value, tuple) else _word(value)]
        return words


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# Not those of one time and one person: --offline, --contact.
_FLAGS = {
    "as_kind": "--as",
    "encoding": "--encoding",
    "mirror": "--mirror",
    "robots": "--robots",
    "delay": "--delay",
    "max_pages": "--max-pages",
    "max_bytes": "--max-bytes",
    "items": "--items",
    "text_fields": "--text-fields",
    "next_page": "--next",
    "drop_lines": "--drop-lines",
    "limit_bytes": "--limit-bytes",
    "whisper": "--whisper",
    "language": "--language",
    "vad": "--no-vad",
}
