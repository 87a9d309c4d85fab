"""What is known of the text of a run: its manifest, and what its corpus still tells, as plain values.

For pages that leave this machine: folders above a file are left out. How it is written down is theirs to decide.
"""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from gptcli.bases.nanogpt import PREFIX
from gptcli.corpora import document_facts
from gptcli.errors import FormatError, UnfinishedError
from gptcli.fetch.corpus import DOCUMENTS, read_source
from gptcli.fetch.source import shown
from gptcli.runs import RunDir
from gptcli.shards import DatasetManifest

MAX_LISTED = 20
# Documents above this size are not read through for their sources.
MAX_DOCUMENTS_BYTES = 200_000_000
LOCAL = {"stdin", "file", "files", "folder", "glob", "audio"}


@dataclass(frozen=True, slots=True)
class NamedDocument:
    """A document that has a title or an address; what it lacks is empty."""

    title: str
    author: str
    url: str


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The text of a run, from its manifest and, while it is here, from its corpus."""

    manifest: DatasetManifest
    source: Mapping[str, Any]
    """The corpus's ``source.json``; empty where the corpus is gone or holds another text now."""
    documents: tuple[NamedDocument, ...]
    """Up to ``MAX_LISTED`` of ``n_documents``."""
    n_documents: int
    licences: Counter[str]
    languages: frozenset[str]

    @property
    def where(self) -> str:
        """What was fetched: an address, or the names of files without their folders; empty where that is not known."""
        if not self.source:
            return ""
        where, (sources, _) = str(self.source["source"]), self._asked()
        return shown(map(self._public, sources)) if where == shown(sources) else self._public(where)

    @property
    def fetch_command(self) -> str:
        """The command that fetches the text again, without folders; ``SOURCE`` stands for what is not known."""
        sources, options = self._asked()
        if self.source.get("kind") == "files" and self.source["source"] != shown(sources):
            sources = [str(self.source["source"])]  # the pattern that a shell made them of
        sources = [self._public(source) for source in sources] or [self.where or "SOURCE"]
        options = [without_folders(option) for option in options]
        return shlex.join(["gptcli", "fetch", *sources, "--name", self.manifest.corpus, *options])

    @property
    def is_private(self) -> bool:
        """True for a text of files of this machine, whose titles nobody has published."""
        if not self.source:
            return False
        sources = self._asked()[0] or [str(self.source["source"])]
        return self.source["kind"] in LOCAL and not all("://" in source for source in sources)

    def _asked(self) -> tuple[list[str], list[str]]:
        """Return the sources and the options of the command that fetched the text; nothing where it is not known."""
        with contextlib.suppress(ValueError):
            words = shlex.split(str(self.source.get("command") or ""))
            if words[:2] == ["gptcli", "fetch"]:
                at = words.index("--name")
                return words[2:at], words[at + 2 :]
        return [], []

    def _public(self, source: str) -> str:
        """Return an address, or the name of a file without its folders."""
        local = self.source["kind"] in LOCAL and "://" not in source
        return PurePath(source).name if local else without_folders(source)

    @property
    def fetched_on(self) -> str:
        """The day it was fetched, empty where that is not known."""
        return str(self.source["fetched_at"])[:10] if self.source else ""


def data_facts(run: RunDir) -> DataFacts:
    """Collect what is known of a run's text; raises ``FormatError`` for a damaged run."""
    manifest = run.manifest()
    source, facts = _corpus(run, manifest)
    licences = Counter([manifest.licence] if manifest.licence else [])
    languages: set[str] = set()
    documents: list[NamedDocument] = []
    count = 0
    for fact in facts:
        languages.add(str(fact.get("language") or ""))
        if fact.get("licence"):
            licences[str(fact["licence"])] += 1
        title, author, url = (str(fact.get(key) or "") for key in ("title", "author", "url"))
        url = url if "://" in url else ""
        if title or author or url:
            count += 1
            documents += [NamedDocument(title, author, url)] if count <= MAX_LISTED else []
    return DataFacts(manifest, source, tuple(documents), count, licences, frozenset(languages))


def without_folders(value: str) -> str:
    """Return the last part of a path from the root or the home: pages go out, and folders tell of their owner."""
    prefix = PREFIX if value.startswith(PREFIX) else ""
    path = PurePath(value.removeprefix(prefix))
    return prefix + path.name if path.is_absolute() or path.parts[:1] in (("~",), ("..",)) else value


def _corpus(run: RunDir, manifest: DatasetManifest) -> tuple[Mapping[str, Any], Iterator[dict[str, Any]]]:
    """Return the record of the corpus and the facts of its documents, while it holds the text of the run."""
    for corpora in (Path("corpora"), run.path.resolve().parent.parent / "corpora"):
        folder = corpora / manifest.corpus
        try:
            source = read_source(folder)
            small = (folder / DOCUMENTS).stat().st_size <= MAX_DOCUMENTS_BYTES
        except (FormatError, OSError):
            continue
        if source["sha256"] == manifest.corpus_sha256:
            return source, _facts(folder) if small else iter(())
    return {}, iter(())


def _facts(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the facts up to the first damaged line: they only inform."""
    try:
        yield from document_facts(folder)
    except (FormatError, UnfinishedError):
        return
