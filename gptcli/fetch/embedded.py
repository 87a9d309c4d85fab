"""The text that every Python carries: the topics of its ``help()``, one document each. Needs no network."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator

from gptcli.documents import Document, document
from gptcli.errors import SourceError
from gptcli.fetch.source import Source

PYTHON_DOCS = "python:pydoc_data.topics"
LICENCE = "PSF-2.0"


def open_python_docs() -> Source:
    """Open the help topics of the running Python; raises ``SourceError`` where a distribution has removed them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise SourceError(
            "This Python has no help topics (pydoc_data.topics).",
            "Install your system's Python documentation, or fetch another text: gptcli fetch FILE",
        ) from error
    source = Source("embedded", "python-docs", PYTHON_DOCS, licence=LICENCE)
    source.documents = _documents(topics, source)
    source.notes.append(f"The text is the help of {platform.python_implementation()} {platform.python_version()}.")
    return source


def _documents(topics: dict[str, str], source: Source) -> Iterator[Document]:
    """Yield each topic once: about a quarter are also sections of a longer one, and val would repeat train."""
    whole = [(topic, _words(topics[topic])) for topic in sorted(topics)]
    for topic, text in whole:
        longer = [other for other, within in whole if text in within and (len(within), topic) > (len(text), other)]
        if longer:
            source.dropped["topics that are sections of another"] += 1
        else:
            yield document(topics[topic], title=topic, licence=LICENCE)


def _words(text: str) -> str:
    """Return the words alone: the headings of sections are underlined differently."""
    return " ".join(re.sub(r"^[*=~^-]+$", "", text, flags=re.MULTILINE).split())
