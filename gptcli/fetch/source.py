"""What every kind of source looks like once it is opened. Knows no kind in particular."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from gptcli.documents import Document

Kind = Literal["stdin", "file", "folder", "glob", "url", "embedded"]
MAX_SHOWN = 3


@dataclass(slots=True)
class Source:
    """An opened source: its documents as a stream, and what is noticed while they are read.

    ``name`` is what a corpus of it is called unless the user says otherwise, ``where`` what the user typed.
    ``notes``, ``encodings`` (files of each) and ``dropped`` (how many of what) are complete when the stream has ended.
    """

    kind: Kind
    name: str
    where: str
    documents: Iterator[Document] = field(default_factory=lambda: iter(()))
    licence: str = ""
    notes: list[str] = field(default_factory=list)
    encodings: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def shown(names: Iterable[str]) -> str:
    """Return the first few of the names as a list in a sentence."""
    every = list(names)
    more = f" and {len(every) - MAX_SHOWN} more" if len(every) > MAX_SHOWN else ""
    return ", ".join(every[:MAX_SHOWN]) + more
