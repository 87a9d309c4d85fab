"""Reading a file of any format as a fetch would, without a corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gptcli.documents import Document
from gptcli.fetch.formats import read_file, suffix_of
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source


@dataclass
class Reading:
    """What came of a file: its documents, and what was noticed."""

    documents: list[Document]
    notes: list[str]
    dropped: dict[str, int]
    encodings: dict[str, int] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return [item.text for item in self.documents]


Read = Callable[..., Reading]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write bytes to a file of the given name and read it; or read a file that is there."""

    def read_it(name: str | Path, content: bytes | str | None = None, options: FetchOptions | None = None) -> Reading:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        source = Source("file", "", path.name)
        documents = read_file(
            path,
            suffix=suffix_of(path.name),
            label=path.name,
            title=path.stem,
            source=source,
            options=options or FetchOptions(),
        )
        return Reading(list(documents), source.notes, dict(+source.dropped), dict(source.encodings))

    return read_it
