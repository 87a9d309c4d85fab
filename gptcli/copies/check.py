"""Is a text copied from what a run was trained on? Exactly where the training text is at hand, else by the index.

What is said of a text lies in a ``CopyReport``. How anything is shown, and where texts come from, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

import numpy as np

from gptcli.copies.exact import NGRAMS, Found, Scan, ngram_places, scan, train_passages
from gptcli.copies.index import NGRAMS_NAME, NgramIndex, parse_ngrams, read_ngrams
from gptcli.copies.search import Run, find_runs, shortest_run
from gptcli.copies.words import Hashes, Places, Words, find_words_of
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
    """Words of a text that stand in the training text one after the other, whatever stands between them, and where.

    ``text`` is them as the checked text has them. ``document`` is the title; where it has none or none is known
    (``titled`` is False) "the document that begins ...", or by the index "document 17 of the 3,412 trained on".
    ``place`` is how far into what was trained on of it, 0..1.
    """

    words: int
    text: str
    document: str
    place: float
    titled: bool = True


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What is copied of a text, or of several with ``words`` words together and ``longest_text`` in the longest.

    ``exact`` says that the training text was read; else the index was asked, and ``why`` says in a sentence why. It
    finds runs of ``shortest`` words and more, may miss shorter ones, and sees a word or two too many at the ends of a
    run. ``copied_words`` are those in runs of ``copied_from`` words or more. ``novel`` gives by n the share of the
    n-grams that do not stand in the training text.
    """

    words: int
    longest_text: int
    longest: CopiedRun | None
    copied_words: int
    novel: dict[int, float]
    exact: bool
    shortest: int
    copied_from: int = COPIED_WORDS
    why: str = ""

    @property
    def too_short(self) -> bool:
        """Whether nothing was found, and could not have been in so few words."""
        return self.longest is None and self.longest_text < self.shortest

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values; the keys of ``novel`` are strings."""
        novel = {str(n): share for n, share in self.novel.items()}
        return {**asdict(self), "novel": novel, "too_short": self.too_short}

    def lines(self) -> list[str]:
        """Return two to four sentences for a person; what they quote may hold any character."""
        if self.longest_text < 2:
            alone = "A word alone is no copy." if self.words else "There are no words in the text."
            return [alone, "So there is nothing to be compared with the training text."]
        lines = self._nothing_found() if self.longest is None else self._found(self.longest)
        if self.exact:
            return lines
        whole = self.longest is not None and self.longest.words == self.words
        return [*lines, self.why] if whole else [*lines, self.why, self._limit()]

    def _nothing_found(self) -> list[str]:
        if self.exact:
            return [
                f"No two of its {self.words:,} words stand together in the training text.",
                "So nothing of it is copied.",
            ]
        if self.too_short:
            which = "it" if self.longest_text == self.words else "its longest part"
            return [f"This text is too short to tell whether it is a copy: {which} has {self.longest_text:,} words."]
        return [f"No copy was found in its {self.words:,} words."]

    def _found(self, run: CopiedRun) -> list[str]:
        about = "" if self.exact else "about "
        document = f'"{run.document}"' if run.titled else run.document
        where = f'in {document} at {100 * run.place:.0f} %: "{_quote(run.text)}"'
        if run.words == self.words:
            every = "All" if self.exact else "All or nearly all"
            return [f"{every} of its {run.words:,} words stand together in the training text.", f"They are {where}"]
        lines = [f"Longest copy: {about}{run.words:,} words in a row, {where}"]
        copied = f"{about}{self.copied_words:,}" if self.copied_words else "none"
        lines.append(f"Copied: {copied} of its {self.words:,} words, in runs of {self.copied_from} or more.")
        if self.exact and self.novel:
            shares = [f"{_percent(share)} of its {n}-grams" for n, share in self.novel.items()]
            lines.append(f"Novel: {', '.join(shares)}.")
        return lines

    def _limit(self) -> str:
        if self.too_short:
            return f"It can tell only copies of {self.shortest:,} or more words from chance."
        return f"It may miss copies of fewer than {self.shortest:,} words."


class CopyIndex:
    """What a run can be asked about copies: its own index, the training text, or both."""

    def __init__(
        self, index: NgramIndex | None, documents: Path | None, manifest: DatasetManifest, why: str = ""
    ) -> None:
        """``why`` is a sentence that says why the documents are not read where there are none."""
        assert index is not None or documents is not None
        self._index, self._documents, self._manifest = index, documents, manifest
        self._plan: SplitPlan | None = None
        self._why = why

    def check(self, texts: str | Sequence[str]) -> CopyReport:
        """Say what of a text is copied; reads the training text where it is at hand, which may take seconds.

        Several texts are looked up each by itself and reported as one: no run of words goes on into the next.
        Raises ``FormatError`` when the training text is damaged and there is no index.
        """
        text, words, begins = find_words_of([texts] if isinstance(texts, str) else texts)
        if self._documents is not None and words.hashes.size:
            try:
                found = self._scan(words.hashes, begins)
                return _exact_report(text, words, begins, found, self._manifest.train.documents)
            except GptcliError as error:
                if self._index is None:
                    raise
                self._documents = None
                self._why = f"{error.message} So the run's own index was asked."
        if self._index is None or not words.hashes.size:
            return CopyReport(0, 0, None, 0, {}, exact=True, shortest=2)
        return replace(_index_report(text, words, begins, self._index), why=self._why)

    def _scan(self, hashes: Hashes, begins: Places) -> Scan:
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
        found = scan(train_passages(self._documents, self._plan), hashes, begins)
        if found.bytes != manifest.train.bytes:
            raise FormatError(
                f"{self._documents}: the text is not the one the tokens were made from.",
                f"gptcli prepare {quote(manifest.corpus)} --force makes tokens of the text as it is now.",
            )
        return found


def open_copy_index(run: TrainedRun) -> CopyIndex:
    """Open what a run knows of its training text: the index it carries, and the text itself where that is at hand.

    Raises ``RunError`` for a run that has neither, ``FormatError`` when its index is damaged and the text is gone.
    """
    manifest = run.manifest()
    documents = run.documents_path()
    index = None
    try:
        index = _read_index(run.path / NGRAMS_NAME, manifest)
    except FormatError:
        if documents is None:
            raise
    why = "The corpus is not here as it was trained on, so the run's own index was asked."
    if documents is not None and index is not None and documents.stat().st_size > EXACT_BYTES:
        documents, why = None, "The corpus is too large to read again, so the run's own index was asked."
    if index is None and documents is None:
        raise RunError(
            f"The run {run.name!r} has no index of its training text ({NGRAMS_NAME}), and the corpus "
            f"{manifest.corpus!r} is not here as it was trained on.",
            f"With the same text the corpus can be asked: gptcli fetch SOURCE --name {manifest.corpus}   "
            f"New runs on more than a few kilobytes of text carry one: gptcli prepare {quote(manifest.corpus)} --force",
        )
    return CopyIndex(index, documents, manifest, why)


def _read_index(path: Path, manifest: DatasetManifest) -> NgramIndex | None:
    if manifest.ngrams is None or not path.is_file():
        return None
    return parse_ngrams(read_ngrams(path, manifest.ngrams), str(path))


def _exact_report(text: str, words: Words, begins: Places, found: Scan, documents: int) -> CopyReport:
    count, most = words.hashes.size, _longest_text(words, begins)
    # Runs of four words are common in any two texts; in a text of less than eight there is nothing else to count.
    copied_from = COPIED_WORDS if most >= COPIED_WORDS else min(NGRAMS[0], most)
    copied = np.zeros(count, np.bool_)
    if copied_from in found.seen:
        for start in ngram_places(count, begins, copied_from)[found.seen[copied_from]].tolist():
            copied[start : start + copied_from] = True
    return CopyReport(
        words=count,
        longest_text=most,
        longest=None if found.longest is None else _exact_run(text, words, found.longest, documents),
        copied_words=int(copied.sum()),
        novel={n: float(1 - seen.mean()) for n, seen in found.seen.items()},
        exact=True,
        shortest=2,
        copied_from=copied_from,
    )


def _exact_run(text: str, words: Words, found: Found, documents: int) -> CopiedRun:
    document = found.title or f'the document that begins "{found.opening}"'
    if not found.title and documents == 1:
        document = "the only document"
    copied = _cut(text, words, found.start, found.start + found.words)
    return CopiedRun(found.words, copied, document, found.place, titled=bool(found.title))


def _index_report(text: str, words: Words, begins: Places, index: NgramIndex) -> CopyReport:
    count, most = words.hashes.size, _longest_text(words, begins)
    shortest = shortest_run(index, count)
    runs = find_runs(index, words.hashes, begins)
    copied, seen = np.zeros(count, np.bool_), np.zeros(max(0, count - shortest + 1), np.bool_)
    for run in runs:
        copied[run.start : run.end] = True
        seen[run.start : max(run.start, run.end - shortest + 1)] = True
    seen = seen[ngram_places(count, begins, shortest)]
    copied_from = min([shortest, *(run.end - run.start for run in runs)])
    while not runs and most < shortest < (needed := shortest_run(index, shortest)):
        shortest = needed
    longest = max(runs, key=lambda run: (run.end - run.start, -run.start, -run.place), default=None)
    return CopyReport(
        words=count,
        longest_text=most,
        longest=None if longest is None else _index_run(text, words, longest, index),
        copied_words=int(copied.sum()),
        novel={shortest: float(1 - seen.mean())} if seen.size else {},
        exact=False,
        shortest=shortest,
        copied_from=copied_from,
    )


def _index_run(text: str, words: Words, run: Run, index: NgramIndex) -> CopiedRun:
    number = int(np.searchsorted(index.ends, run.place, "right"))
    start = int(index.ends[number - 1]) if number else 0
    place = (run.place - start) / max(1, int(index.ends[number]) - start)
    title = index.titles[number] if index.titles and not index.shift else ""
    first = number << index.shift
    document = title or _numbered(first, index.documents, min((number + 1) << index.shift, index.documents) - first)
    return CopiedRun(run.end - run.start, _cut(text, words, run.start, run.end), document, place, bool(title))


def _numbered(number: int, documents: int, count: int) -> str:
    """Return what a document without a title is called, or a few of them; ``number`` counts from 0."""
    if documents == 1:
        return "the only document"
    which = f"document {number + 1:,}" if count == 1 else f"documents {number + 1:,} to {number + count:,}"
    return f"{which} of the {documents:,} trained on"


def _longest_text(words: Words, begins: Places) -> int:
    """Return how many words the longest of the texts has."""
    return int(np.diff(begins, append=words.hashes.size).max(initial=0))


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
