"""Fetching: from what the user typed to ``corpora/<name>/documents.jsonl``, with a record of where it came from.

``detect`` decides what a source is, each kind of source is a module of its own, ``corpus`` writes the folder.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.documents import CLEANERS, PART_CHARS, Document, document, drop_lines, origin_of, well_formed
from gptcli.errors import SourceError
from gptcli.fetch.corpus import check_name, free_name, slug, store_corpus
from gptcli.fetch.detect import Place, detect
from gptcli.fetch.opening import Progress, open_place
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.recipes import recipe_options
from gptcli.fetch.source import Missing, Plan, Source
from gptcli.fetch.web.urls import without_login

MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A fetched corpus; ``bytes`` are UTF-8 bytes of text, ``source`` is the content of ``source.json``.

    ``missing`` is what could not be had; ``written`` is False where a complete corpus was kept instead of it.
    """

    name: str
    folder: Path
    documents: int
    bytes: int
    notes: tuple[str, ...]
    source: dict[str, Any]
    missing: tuple[Missing, ...] = ()
    written: bool = True


class IncompleteError(SourceError):
    """Not everything of a source could be had; ``result`` says what was and what is missing."""

    def __init__(self, result: FetchResult, again: str) -> None:
        count = len(result.missing)
        kept = "what came is in the corpus" if result.written else "the corpus of before was kept"
        listed = "".join(f"\n  {item}" for item in result.missing[:MAX_LISTED])
        more = f"\n  and {count - MAX_LISTED:,} more, listed in source.json" if count > MAX_LISTED else ""
        super().__init__(
            f"{count} part{'' if count == 1 else 's'} of {result.source['source']} could not be fetched; {kept}. "
            f"Missing:{listed}{more}",
            f"The same command again fetches only what is missing: {again}",
        )
        self.result = result


@dataclass(frozen=True, slots=True)
class Explanation:
    """What fetching a source would do, and why it was taken for this kind."""

    kind: str
    why: str
    name: str
    where: str
    licence: str
    plan: Plan
    notes: tuple[str, ...]


def fetch(
    source: str | Sequence[str],
    *,
    name: str | None = None,
    corpora_dir: Path = Path("corpora"),
    options: FetchOptions | None = None,
    on_progress: Progress = lambda _: None,
) -> FetchResult:
    """Fetch ``source`` into ``corpora_dir``, replacing the text of the corpus ``name``.

    A source is ``-`` (stdin), files, a folder or glob pattern, a web address of any kind, ``gutenberg:…``, ``hf:…``
    or the name of a recipe. Without ``name`` the corpus is called after the source, with a number where that is the
    name of a corpus of another source, so that only the same source again replaces a text. Raises ``SourceError``
    when there is nothing to read, and then an existing corpus is as it was; ``IncompleteError`` when a part of it
    could not be had.
    """
    if name is not None:
        check_name(name)
    sources = (source,) if isinstance(source, str) else tuple(source)
    options = options or FetchOptions()
    place = detect(sources, options, corpora_dir)
    asked, options = options, recipe_options(place.recipe, options) if place.recipe else options
    notes = []
    if name is None:
        wanted = place.recipe.name if place.recipe else slug(place.name)
        name = free_name(wanted, place.where, corpora_dir, place.recipe.name if place.recipe else None)
        if name != wanted:
            notes.append(
                f"The corpus {wanted} holds another text, so this one is called {name}; "
                f"--name {wanted} would replace the other."
            )
    command = _command(sources, name, asked)
    with ExitStack() as stack:
        opened, web = open_place(place, corpora_dir / name, options, corpora_dir, on_progress, stack)
        opened.where, opened.notes[:0] = well_formed(opened.where), notes
        result = _store(opened, place, corpora_dir / name, options, command)
        if web is not None:
            web.break_off() if result.missing else web.finish()
    if result.missing:
        raise IncompleteError(result, command)
    return result


def explain(
    source: str | Sequence[str],
    *,
    corpora_dir: Path = Path("corpora"),
    options: FetchOptions | None = None,
    on_progress: Progress = lambda _: None,
) -> Explanation:
    """Say what ``fetch`` would do with a source, writing nothing; raises as ``fetch`` does."""
    sources = (source,) if isinstance(source, str) else tuple(source)
    options = options or FetchOptions()
    place = detect(sources, options, corpora_dir)
    if place.recipe is not None:
        options = recipe_options(place.recipe, options)
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder, ExitStack() as stack:
        opened, _ = open_place(place, Path(folder) / "corpus", options, corpora_dir, on_progress, stack)
        plan = opened.plan()
    name = place.recipe.name if place.recipe else slug(place.name)
    licence = (place.recipe.licence if place.recipe else "") or opened.licence
    return Explanation(opened.kind, opened.why, name, opened.where, licence, plan, tuple(opened.notes))


def _store(opened: Source, place: Place, folder: Path, options: FetchOptions, command: str) -> FetchResult:
    facts: dict[str, Any] = {"command": command}
    documents: Iterable[Document] = opened.documents
    if (recipe := place.recipe) is not None:
        facts |= {"recipe": recipe.name} | recipe.model_dump(include={"tokenizer", "split", "split_at"})
        opened.licence = recipe.licence or opened.licence
        opened.notes.extend(recipe.notes)
    cleaners = tuple(CLEANERS[cleaner] for cleaner in recipe.cleaners) if recipe else ()
    patterns = () if opened.drops_lines else options.drop_lines
    if cleaners or patterns or opened.licence:
        documents = _cleaned(documents, cleaners, patterns, opened)
    stored = store_corpus(folder, opened, _with_text(documents, opened), facts)
    written, record = stored.written, stored.record
    return FetchResult(
        folder.name,
        folder,
        written.documents,
        written.bytes,
        tuple(record["notes"]),
        record,
        tuple(opened.missing),
        written=stored.replaced,
    )


def _cleaned(
    documents: Iterable[Document],
    cleaners: tuple[Callable[[str], str], ...],
    patterns: tuple[str, ...],
    source: Source,
) -> Iterator[Document]:
    """Clean each part of each document, count the lines that go, and say whose licence it is."""
    for item in documents:
        text = item.text
        for cleaner in cleaners:
            text = cleaner(text)
        for pattern in patterns:
            text, count = drop_lines(text, pattern)
            source.dropped[f"lines with {pattern}"] += count
        origin = origin_of(item)
        origin["licence"] = item.licence or source.licence
        cleaned = document(text, part=item.part, **origin)
        if item.id in source.fetched_at:
            source.fetched_at[cleaned.id] = source.fetched_at[item.id]
        yield cleaned


def _with_text(documents: Iterable[Document], source: Source) -> Iterator[Document]:
    """Leave out documents without text."""
    for item in documents:
        # Only a document of one part is this short; a blank beginning of a long text belongs to it.
        if item.part == 0 and len(item.text) < PART_CHARS // 2 and not item.text.strip():
            source.dropped["empty"] += 1
        else:
            yield item


def _command(sources: Sequence[str], name: str, options: FetchOptions) -> str:
    """Return the command line that fetches this again; a login in an address is left out of it."""
    plain = [without_login(source) if "://" in source else source for source in sources]
    return well_formed(shlex.join(["gptcli", "fetch", *plain, "--name", name, *options.arguments()]))
