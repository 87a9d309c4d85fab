"""Is a text copied from what a run was trained on? Exactly where the training text is at hand, else by the index.

What is said of a text lies in a ``CopyReport``. How anything is shown, and where texts come from, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gptcli.copies.exact import Found, Scan, scan, train_pieces
from gptcli.copies.index import NGRAMS_NAME, NgramIndex, parse_ngrams, read_ngrams
from gptcli.copies.search import Run, find_runs, shortest_run
from gptcli.copies.words import Words, find_words
from gptcli.documents import read_documents
from gptcli.errors import FormatError, GptcliError, RunError
from gptcli.shards import DatasetManifest
from gptcli.split import SplitPlan, plan_split

# Runs of so many words count as copied where every run is seen.
COPIED_WORDS = 8
# Reading more text than this again takes more than about six seconds.
EXACT_BYTES = 128 * 1024 * 1024
QUOTED_WORDS = 8


class TrainedRun(Protocol):
    """What is needed of a run: see ``runs.RunDir``."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def path(self) -> Path: ...  # noqa: D102

    def manifest(self) -> DatasetManifest: ...  # noqa: D102

    def documents_path(self) -> Path | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class CopiedRun:
    """Words of a text that stand in the training text one after the other, and where.

    ``text`` is them as the checked text has them. ``document`` is the title, or "document 17 of 3,412" where it has
    none or none is known (``titled`` is False). ``place`` is how far into what was trained on of it, 0..1.
    """

    words: int
    text: str
    document: str
    place: float
    titled: bool = True


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What of a text of ``words`` words is copied.

    ``exact`` says that the training text was read; else the index was asked, which sees runs of ``shortest`` words and
    more, and a word or two too many at the ends of a run. ``copied_words`` are those in runs of ``copied_from`` words
    or more. ``novel`` gives by n the share of the text's n-grams that do not stand in the training text.
    """

    words: int
    longest: CopiedRun | None
    copied_words: int
    novel: dict[int, float]
    exact: bool
    shortest: int
    copied_from: int = COPIED_WORDS

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values; the keys of ``novel`` are strings."""
        return {**asdict(self), "novel": {str(n): share for n, share in self.novel.items()}}

    def lines(self) -> list[str]:
        """Return two to four sentences for a person; what they quote may hold any character."""
        if not self.words:
            return ["There are no words in the text.", "So there is nothing to be compared with the training text."]
        lines = [self._longest_line()]
        if self.longest is not None or self.exact:
            lines.append(self._copied_line())
        if self.novel:
            shares = [f"{_percent(share)} of its {n}-grams" for n, share in self.novel.items()]
            lines.append(f"Novel: {', '.join(shares)}.")
        if not self.exact:
            lines.append(
                "The training text was not read, as it is gone or large: "
                f"by the run's own index, copies of fewer than {self.shortest} words cannot be told from chance."
            )
        return lines

    def _longest_line(self) -> str:
        if self.longest is None:
            if self.exact:
                return f"No two of its {self.words:,} words stand together in the training text."
            return f"None of its {self.words:,} words stands in a copied run of {self.shortest} or more."
        run, about = self.longest, "" if self.exact else "about "
        where = f'"{run.document}"' if run.titled else run.document
        return f'Longest copy: {about}{run.words:,} words, in {where} at {100 * run.place:.0f} %: "{_quote(run.text)}"'

    def _copied_line(self) -> str:
        if not self.copied_words:
            return f"Copied: none of its {self.words:,} words, in runs of {self.copied_from} or more."
        about = "" if self.exact else "about "
        return (
            f"Copied: {about}{self.copied_words:,} of its {self.words:,} words, in runs of {self.copied_from} or more."
        )


class CopyIndex:
    """What a run can be asked about copies: its own index, the training text, or both."""

    def __init__(self, index: NgramIndex | None, documents: Path | None, manifest: DatasetManifest) -> None:
        assert index is not None or documents is not None
        self._index, self._documents, self._manifest = index, documents, manifest
        self._plan: SplitPlan | None = None

    def check(self, text: str) -> CopyReport:
        """Say what of a text is copied; reads the training text where it is at hand, which may take seconds.

        Raises ``FormatError`` when that is damaged and there is no index.
        """
        words = find_words(text)
        if self._documents is not None and words.hashes.size:
            try:
                return _exact_report(text, words, self._scan(words), self._manifest.train.documents)
            except GptcliError:
                if self._index is None:
                    raise
                self._documents = None
        if self._index is None:
            return CopyReport(0, None, 0, {}, exact=True, shortest=2)
        return _index_report(text, words, self._index)

    def _scan(self, words: Words) -> Scan:
        """Read the training text; ``FormatError`` when it is not what the tokens were made from."""
        assert self._documents is not None
        manifest = self._manifest
        if self._plan is None:
            self._plan = plan_split(
                read_documents(self._documents),
                mode="auto" if manifest.split == "position" else manifest.split,
                split_at=manifest.split_at,
                val_fraction=manifest.val_fraction,
            )
        found = scan(train_pieces(self._documents, self._plan), words.hashes)
        if found.bytes != manifest.train.bytes:
            raise FormatError(
                f"{self._documents}: the text is not the one the tokens were made from.",
                f"gptcli prepare {manifest.corpus} --force makes tokens of the text as it is now.",
            )
        return found


def open_copy_index(run: TrainedRun) -> CopyIndex:
    """Open what a run knows of its training text: the index it carries, and the text itself where that is at hand.

    Raises ``RunError`` for a run that has neither, ``FormatError`` when its index is damaged.
    """
    manifest = run.manifest()
    path = run.path / NGRAMS_NAME
    index = None
    if manifest.ngrams is not None and path.is_file():
        index = parse_ngrams(read_ngrams(path, manifest.ngrams), str(path))
    documents = run.documents_path()
    if documents is not None and index is not None and documents.stat().st_size > EXACT_BYTES:
        documents = None
    if index is None and documents is None:
        raise RunError(
            f"The run {run.name!r} has no index of its training text ({NGRAMS_NAME}), and the corpus "
            f"{manifest.corpus!r} is not here as it was trained on.",
            f"With the same text the corpus can be asked: gptcli fetch SOURCE --name {manifest.corpus}   "
            f"New runs on more than a few kilobytes of text carry one: gptcli prepare {manifest.corpus} --force",
        )
    return CopyIndex(index, documents, manifest)


def _exact_report(text: str, words: Words, found: Scan, documents: int) -> CopyReport:
    novel = {n: float(1 - seen.mean()) for n, seen in found.seen.items()}
    copied = np.zeros(words.hashes.size, np.bool_)
    for start in np.flatnonzero(found.seen.get(COPIED_WORDS, np.zeros(0))).tolist():
        copied[start : start + COPIED_WORDS] = True
    longest = None if found.longest is None else _exact_run(text, words, found.longest, documents)
    return CopyReport(words.hashes.size, longest, int(copied.sum()), novel, exact=True, shortest=2)


def _exact_run(text: str, words: Words, found: Found, documents: int) -> CopiedRun:
    document = found.title or _numbered(found.number, documents)
    copied = _cut(text, words, found.start, found.start + found.words)
    return CopiedRun(found.words, copied, document, found.place, titled=bool(found.title))


def _index_report(text: str, words: Words, index: NgramIndex) -> CopyReport:
    count = words.hashes.size
    shortest = shortest_run(index, count)
    runs = find_runs(index, words.hashes)
    copied, seen = np.zeros(count, np.bool_), np.zeros(max(0, count - shortest + 1), np.bool_)
    for run in runs:
        copied[run.start : run.end] = True
        seen[run.start : max(run.start, run.end - shortest + 1)] = True
    longest = max(runs, key=lambda run: (run.end - run.start, -run.start, -run.place), default=None)
    return CopyReport(
        words=count,
        longest=None if longest is None else _index_run(text, words, longest, index),
        copied_words=int(copied.sum()),
        novel={shortest: float(1 - seen.mean())} if seen.size else {},
        exact=False,
        shortest=shortest,
        copied_from=shortest,
    )


def _index_run(text: str, words: Words, run: Run, index: NgramIndex) -> CopiedRun:
    number = int(np.searchsorted(index.ends, run.place, "right"))
    start = int(index.ends[number - 1]) if number else 0
    place = (run.place - start) / max(1, int(index.ends[number]) - start)
    title = index.titles[number] if index.titles and not index.shift else ""
    first = number << index.shift
    document = title or _numbered(first, index.documents, min((number + 1) << index.shift, index.documents) - first)
    return CopiedRun(run.end - run.start, _cut(text, words, run.start, run.end), document, place, bool(title))


def _numbered(number: int, documents: int, count: int = 1) -> str:
    """Return what a document without a title is called, or a few of them; ``number`` counts from 0."""
    if documents == 1:
        return "the only document"
    which = f"document {number + 1:,}" if count == 1 else f"documents {number + 1:,} to {number + count:,}"
    return f"{which} of {documents:,}"


def _cut(text: str, words: Words, start: int, end: int) -> str:
    return text[int(words.starts[start]) : int(words.ends[end - 1])]


def _quote(text: str) -> str:
    """Return a text on one line, by its first and last words where it is long."""
    words: Sequence[str] = text.split()
    if len(words) > 2 * QUOTED_WORDS:
        words = [*words[:QUOTED_WORDS], "…", *words[-QUOTED_WORDS:]]
    return " ".join(words)


def _percent(share: float) -> str:
    """Return a share in per cent; all and none are said only of all and none."""
    if 0.995 <= share < 1:
        return "over 99 %"
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"
