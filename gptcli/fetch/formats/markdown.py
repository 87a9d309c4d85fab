"""Markdown as it is written; the front matter of blog generators becomes title, author and date.

Knows YAML (``---``), and of TOML (``+++``) the simple lines.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gptcli.documents import Document, Origin, document_parts
from gptcli.fetch.formats.input import Input

MAX_FRONT_MATTER_CHARS = 64 * 1024
_YAML_BLOCK = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)\n*", re.DOTALL | re.MULTILINE)
_TOML_BLOCK = re.compile(r"\A\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)\n*", re.DOTALL | re.MULTILINE)
_TOML_LINE = re.compile(r"""^(\w+)\s*=\s*\[?\s*(?:"([^"\n]*)"|'([^'\n]*)'|([\w:.+-]+))""", re.MULTILINE)
_FIELDS = {
    "title": ("title",),
    "author": ("author", "authors", "by"),
    "date": ("date", "published", "pubDate"),
    "language": ("lang", "language"),
    "licence": ("license", "licence"),
}


def read_markdown(file: Input) -> Iterator[Document]:
    """Yield a Markdown file as one document, without its front matter."""
    pieces = file.pieces()
    head = next(pieces, "")
    origin, start = front_matter(head)
    yield from document_parts(itertools.chain([head[start:]], pieces), **file.origin(origin))


def front_matter(text: str) -> tuple[Origin, int]:
    """Return what the front matter at the start of a text says, and where the body begins.

    What begins with a rule and has no fields behind it is body: then nothing, and 0.
    """
    head = text[:MAX_FRONT_MATTER_CHARS]
    values: Mapping[Any, Any] | None = None
    if block := _YAML_BLOCK.match(head):
        values = _yaml(block[1])
    elif block := _TOML_BLOCK.match(head):
        values = {found[1]: found[2] or found[3] or found[4] for found in _TOML_LINE.finditer(block[1])}
    if not values or block is None:
        return Origin(), 0
    origin = Origin()
    for field, keys in _FIELDS.items():
        found = next((value for key in keys if (value := _plain(values.get(key)))), "")
        if found:
            origin[field] = found  # type: ignore[literal-required]
    return origin, block.end()


def _yaml(block: str) -> Mapping[Any, Any] | None:
    """Return the fields of a YAML block; where it is broken, those of its simple lines; None when it has none."""
    import yaml

    try:
        value = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = dict(re.findall(r"^(\w+):[ \t]+(\S.*)$", block, re.MULTILINE))
    return value if isinstance(value, dict) else None


def _plain(value: object) -> str:
    """Return a value of front matter as text: names joined by commas, dates as ISO 8601."""
    if isinstance(value, list):
        # One level alone: aliases can nest lists without end.
        return ", ".join(name for one in value if not isinstance(one, list) and (name := _plain(one)))
    if isinstance(value, dict):
        value = value.get("name")
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
