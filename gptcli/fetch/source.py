"""What every kind of source looks like once it is opened. Knows no kind in particular."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from gptcli.documents import Document

Kind = Literal[
    "stdin", "file", "files", "folder", "glob", "embedded", "text", "page", "blog", "json", "gutenberg", "audio", "hub"
]
MAX_SHOWN = 3
LIMIT_REACHED = "The fetch has reached its limit of"


@dataclass(frozen=True, slots=True)
class Plan:
    """What fetching a source would do: sentences, and how many requests, seconds at the polite rate, and bytes.

    None stands for what cannot be known before; ``at_least`` says that there may be more requests.
    """

    steps: tuple[str, ...]
    requests: int | None = 0
    seconds: float | None = 0.0
    bytes: int | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """Something of the source that could not be had now, and why, in a sentence; a second fetch may have it.

    ``old`` says that an answer of an earlier fetch stands for it, so that it is not lost.
    """

    what: str
    why: str
    old: bool = False

    @property
    def by_limit(self) -> bool:
        """True where a limit on pages or bytes ended the fetch."""
        return LIMIT_REACHED in self.why

    def __str__(self) -> str:
        return self.why if self.what in self.why else f"{self.what}: {self.why}"


@dataclass(slots=True)
class Source:
    """An opened source: its documents as a stream, and what is noticed while they are read.

    ``name`` is what a corpus of it is called unless the user says otherwise, ``where`` what the user typed, and ``why``
    the reason that it was taken for this kind. ``plan`` says what reading the documents would do. ``notes``,
    ``encodings`` (files of each), ``dropped`` (how many of what) and ``missing`` are complete when the stream has
    ended. ``fetched_at`` says when the bytes behind the document of an id came, where that was not just now.
    ``drops_lines`` is True when the source applies ``FetchOptions.drop_lines`` itself.
    """

    kind: Kind
    name: str
    where: str
    documents: Iterator[Document] = field(default_factory=lambda: iter(()))
    why: str = ""
    plan: Callable[[], Plan] = lambda: Plan(())
    licence: str = ""
    notes: list[str] = field(default_factory=list)
    encodings: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    missing: list[Missing] = field(default_factory=list)
    fetched_at: dict[str, str] = field(default_factory=dict)
    drops_lines: bool = False


def shown(names: Iterable[str]) -> str:
    """Return the first few of the names as a list in a sentence."""
    every = list(names)
    more = f" and {len(every) - MAX_SHOWN} more" if len(every) > MAX_SHOWN else ""
    return ", ".join(every[:MAX_SHOWN]) + more
