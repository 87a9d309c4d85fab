"""Data sets of the Hugging Face hub: their files one at a time, a document a row.

Owns the order of the work and what is told of it. Names, the hub's answers, the choice of files and the columns are
each elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from gptcli.documents import Document, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.formats import read_file, suffix_of
from gptcli.fetch.hub.api import Hub, Revision, UnknownDataSetError
from gptcli.fetch.hub.files import Chosen, HubFile, choose_files
from gptcli.fetch.hub.names import DataSet, hub_name, is_hub, parse_name
from gptcli.fetch.hub.rows import choose_columns, holds_conversations, read_rows
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.records import NoFieldError, TextFields
from gptcli.fetch.source import Missing, Plan, Source, shown
from gptcli.fetch.web import FetchError, Response, Web
from gptcli.fetch.web.progress import megabytes

__all__ = ["hub_name", "is_hub", "open_hub"]

CONVERTED = "refs/convert/parquet"
PARQUET = ".parquet"
# Read where a data set has no parquet files, as local files are.
OTHERS = (".jsonl", ".ndjson", ".jsonl.gz", ".csv", ".tsv", ".csv.gz", ".json", ".json.gz", ".txt", ".txt.gz")
_TIMES_KEPT = 8


def open_hub(where: str, web: Web, options: FetchOptions) -> Source:
    """Open a data set: each row of its training split is a document, and ``limit_bytes`` of text end it early.

    Nothing is asked before the plan or the documents are. Reading them raises ``SourceError`` for a data set that is
    unknown, gated, or has no text or no such column; files that cannot be had after the first are missing.
    """
    source = Source("hub", hub_name(where), where, why="it names a data set of the Hugging Face hub")
    reader = _Reader(source, parse_name(where), Hub(web, options.mirror), web, options)
    source.documents = reader.documents()
    source.plan = reader.plan
    return source


@dataclass(slots=True)
class _Reader:
    """A data set on its way to documents; ``found`` and ``fields`` are set when the hub and a file were asked."""

    source: Source
    data_set: DataSet
    hub: Hub
    web: Web
    options: FetchOptions
    found: tuple[Revision, Chosen] | None = None
    fields: TextFields | None = None

    def documents(self) -> Iterator[Document]:
        revision, chosen = self._find()
        limit = self.options.limit_bytes
        self.web.expect(len(chosen.files) if limit is None else 0, "files")
        size = 0
        for number, file in enumerate(chosen.files, 1):
            response = self._download(revision, file, first=number == 1, left=len(chosen.files) - number)
            if response is None:
                return
            for item in self._read(file, response, needed=size == 0):
                if limit is not None and size >= limit and item.part == 0:
                    break
                size += len(item.text.encode())
                yield item
            if limit is not None and size >= limit:
                self.source.notes.append(
                    f"--limit-bytes ended it after {size:,} bytes of text, in file {number:,} of {len(chosen.files):,}."
                )
                return

    def plan(self) -> Plan:
        """Say which files would be asked for; this asks the hub for their names."""
        revision, chosen = self._find()
        size = sum(file.size for file in chosen.files)
        count = "1 file" if len(chosen.files) == 1 else f"{len(chosen.files):,} files"
        column = f"the column {self.data_set.column}" if self.data_set.column else "the text"
        steps = (f"download {count} of {revision.repo}, {megabytes(size)}, and read {column} of one after the other",)
        if (limit := self.options.limit_bytes) is None:
            return Plan(steps, requests=len(chosen.files), seconds=None, bytes=size)
        return Plan((*steps, f"end after {limit:,} bytes of text"), requests=None, seconds=None, bytes=None)

    def _find(self) -> tuple[Revision, Chosen]:
        """Ask the hub what the data set is, and choose its files; the second time this costs nothing."""
        if self.found is None:
            self.web.expect(0, "hub listings")
            revision = self.hub.revision(self.data_set.repo, self.data_set.revision)
            self.source.licence = self.source.licence or revision.licence
            self.found = self._choose(revision)
            self.source.notes.append(f"{revision.repo} is read as of commit {self.found[0].commit[:12]}.")
            if note := self.found[1].note:
                self.source.notes.append(note)
        return self.found

    def _choose(self, revision: Revision) -> tuple[Revision, Chosen]:
        """Choose parquet files of the repository, else those that the hub has made of it, else others with text."""
        inside = self.data_set.inside
        files = self.hub.files(revision)
        parquet = [file for file in files if file.path.endswith(PARQUET)]
        others = [file for file in files if file.path.endswith(OTHERS)]
        if parquet and (chosen := choose_files(parquet, revision.card, inside, repo=revision.repo)).files:
            return revision, chosen
        if self.data_set.revision == "main" and all(file.path != inside for file in others):
            converted = self._converted(revision)
            if converted is not None:
                return converted
        if others and (chosen := choose_files(others, revision.card, inside, repo=revision.repo)).files:
            return revision, chosen
        self.hub.forget()
        raise SourceError(
            f"The data set {revision.repo} has no parquet files and no others that can be read; "
            f"it has {shown(file.path for file in files) or 'no files'}.",
            f"gptcli fetch hf:{revision.repo}/FILE reads one file of a data set.",
        )

    def _converted(self, revision: Revision) -> tuple[Revision, Chosen] | None:
        """Return the parquet files that the hub itself has made of a data set, if it has."""
        try:
            converted = self.hub.revision(revision.repo, CONVERTED)
        except UnknownDataSetError:
            return None
        files = [file for file in self.hub.files(converted) if file.path.endswith(PARQUET)]
        if not files:
            return None
        chosen = choose_files(files, {}, self.data_set.inside, repo=revision.repo, converted=True)
        note = f"{revision.repo} has no parquet files of its own: those are read that the hub has made of it."
        if any("/partial-" in file.path for file in chosen.files):
            note += " They hold only the first part of it."
        return converted, replace(chosen, note=f"{note} {chosen.note}".rstrip())

    def _download(self, revision: Revision, file: HubFile, *, first: bool, left: int) -> Response | None:
        """Return a file; None where it could not be had, and is missing with all after it."""
        try:
            return self.hub.download(revision, file)
        except FetchError as error:
            if first:
                raise
            self.source.missing.append(Missing(file.path, error.message))
            if left:
                more = "1 more file" if left == 1 else f"{left:,} more files"
                self.source.missing.append(Missing(more, "Not asked for after that."))
            return None

    def _read(self, file: HubFile, response: Response, *, needed: bool) -> Iterator[Document]:
        """Yield the documents of one file; one that is damaged is missing, unless nothing was read before it.

        A damaged one is asked for again by the next fetch, and so is the commit, which may be another by then.
        """
        try:
            for item in self._rows(file, response) if self._has_texts(file, response) else self._other(file, response):
                self._remember(item, response)
                yield item
        except SourceError as error:
            if not isinstance(error, NoFieldError):
                self.hub.forget(response)
            if needed:
                raise
            self.source.missing.append(Missing(file.path, error.message))

    def _has_texts(self, file: HubFile, response: Response) -> bool:
        """Say whether a file is one of rows with a text each; conversations are read as those of any other file."""
        if not file.path.endswith(PARQUET) or self.options.as_kind == "chat":
            return False
        return bool(self._wanted) or self.fields is not None or not holds_conversations(response.path, file.path)

    def _rows(self, file: HubFile, response: Response) -> Iterator[Document]:
        if self.fields is None:
            self.fields = choose_columns(response.path, self._wanted, file.path, self.data_set.name)
            if self.fields is None:
                return
            if not self._wanted:
                self.source.notes.append(f"The text is the column {self.fields.text[0]}.")
        for row in read_rows(response.path, self.fields, file.path, self.data_set.name):
            if not row.text.strip():
                self.source.dropped["rows without text"] += 1
                continue
            row.origin["licence"] = row.origin["licence"] or self.source.licence
            yield from document_parts([row.text], **row.origin)

    def _other(self, file: HubFile, response: Response) -> Iterator[Document]:
        yield from read_file(
            response.path,
            suffix=suffix_of(file.path),
            label=file.path,
            title=PurePosixPath(file.path).name.partition(".")[0],
            source=self.source,
            options=replace(
                self.options, as_kind="chat" if self.options.as_kind == "chat" else None, text_fields=self._wanted
            ),
        )

    @property
    def _wanted(self) -> tuple[str, ...]:
        return (self.data_set.column,) if self.data_set.column else self.options.text_fields

    def _remember(self, item: Document, response: Response) -> None:
        """Note when the bytes came; for the last few only, since a data set may have millions of documents."""
        times = self.source.fetched_at
        if len(times) > 2 * _TIMES_KEPT:
            for old in list(times)[:-_TIMES_KEPT]:
                del times[old]
        times.pop(item.id, None)
        times[item.id] = response.fetched_at
