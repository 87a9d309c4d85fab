"""Fetching: from what the user typed to ``corpora/<name>/documents.jsonl``, with a record of where it came from.

``detect`` decides what a source is, each kind of source is a module of its own, ``corpus`` writes the folder.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptcli.documents import CLEANERS, PART_CHARS, Document, drop_lines, rewritten, well_formed
from gptcli.errors import SourceError
from gptcli.fetch.corpus import DOCUMENTS, check_name, free_name, refuse_texts, slug, store_corpus
from gptcli.fetch.detect import Place, detect
from gptcli.fetch.opening import Progress, open_place
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.recipes import recipe_options
from gptcli.fetch.source import Missing, Plan, Source
from gptcli.fetch.web import Web
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

    def __init__(self, result: FetchResult, hint: str) -> None:
        count = len(result.missing)
        kept = "what came is in the corpus" if result.written else "the corpus of before was kept"
        listed = "".join(f"\n  {item}" for item in result.missing[:MAX_LISTED])
        more = f"\n  and {count - MAX_LISTED:,} more" if count > MAX_LISTED else ""
        super().__init__(
            f"{count:,} part{'' if count == 1 else 's'} of {result.source['source']} could not be fetched; {kept}. "
            f"Missing:{listed}{more}",
            hint,
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
    options = options or FetchOptions()
    sources = (source,) if isinstance(source, str) else tuple(source)
    place = detect(sources, options, corpora_dir)
    name, notes = _named(name, place, corpora_dir)
    folder = (corpora_dir / name).resolve()
    if any(Path(word).resolve() in (folder, folder / DOCUMENTS) for word in place.sources):
        raise SourceError(f"The corpus {name} cannot be made of itself.", "Give the new one a name: --name NAME")
    refuse_texts(folder)
    command = _command(sources, name, options)
    options = recipe_options(place.recipe, options) if place.recipe else options
    with ExitStack() as stack:
        opened, web = open_place(place, corpora_dir / name, options, corpora_dir, on_progress, stack, command)
        opened.where, opened.notes[:0] = well_formed(opened.where), notes
        result = _store(opened, web, place, corpora_dir / name, options, command)
        if web is not None:
            web.finish(complete=not result.missing)
    if result.missing and not (result.written and _as_asked(result.missing, options)):
        raise IncompleteError(result, _how_to_go_on(result, command, by_web=web is not None))
    return result


def explain(
    source: str | Sequence[str],
    *,
    name: str | None = None,
    corpora_dir: Path = Path("corpora"),
    options: FetchOptions | None = None,
    on_progress: Progress = lambda _: None,
) -> Explanation:
    """Say what ``fetch`` would do with a source, writing nothing; raises as ``fetch`` does.

    A web address itself is asked for, and what lists its content, but none of the content. Those requests count in
    the plan, since a fetch makes them too.
    """
    sources = (source,) if isinstance(source, str) else tuple(source)
    options = options or FetchOptions()
    place = detect(sources, options, corpora_dir)
    name, notes = _named(name, place, corpora_dir)
    options = recipe_options(place.recipe, options) if place.recipe else options
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder, ExitStack() as stack:
        opened, web = open_place(place, Path(folder) / "corpus", options, corpora_dir, on_progress, stack)
        plan = opened.plan()
        made = web.requests if web is not None else 0
        if web is not None and plan.requests is not None:
            seconds = None if plan.seconds is None else plan.seconds + web.seconds(made, place.sources[0])
            plan = replace(plan, requests=plan.requests + made, seconds=seconds)
    licence = (place.recipe.licence if place.recipe else "") or opened.licence
    return Explanation(opened.kind, opened.why, name, opened.where, licence, plan, (*notes, *opened.notes))


def _named(name: str | None, place: Place, corpora_dir: Path) -> tuple[str, list[str]]:
    """Return the name of the corpus, and a note where it is not the one that the source suggests."""
    if name is not None:
        return check_name(name), []
    recipe = place.recipe.name if place.recipe else None
    wanted = recipe or slug(place.name)
    free = free_name(wanted, place.where, corpora_dir, recipe)
    if free == wanted:
        return free, []
    if (corpora_dir / wanted).exists():
        note = f"holds another text, so this one is called {free}; --name {wanted} would replace the other."
    else:
        note = f"is a recipe's, so this one is called {free}; --name gives it another name."
    return free, [f"The corpus {wanted} {note}"]


def _as_asked(missing: tuple[Missing, ...], options: FetchOptions) -> bool:
    """Say whether nothing is missing but what the user's own limit left out."""
    limited = options.max_pages is not None or options.max_bytes is not None
    return limited and all(item.by_limit for item in missing)


def _how_to_go_on(result: FetchResult, command: str, *, by_web: bool) -> str:
    if any(item.by_limit for item in result.missing):
        return "A larger --max-pages or --max-bytes goes on where this fetch has ended."
    if not by_web:
        return f"Mend or remove what is named, then: {command}"
    return f"The same command again fetches only what is missing: {command}"


def _store(
    opened: Source, web: Web | None, place: Place, folder: Path, options: FetchOptions, command: str
) -> FetchResult:
    facts: dict[str, Any] = {"command": command}
    documents: Iterable[Document] = opened.documents
    if (recipe := place.recipe) is not None:
        facts |= {"recipe": recipe.name} | recipe.model_dump(include={"tokenizer", "split", "split_at"})
        opened.licence = recipe.licence or opened.licence
        opened.notes.extend(recipe.notes)
    licence = recipe.licence if recipe else ""
    cleaners = tuple(CLEANERS[cleaner] for cleaner in recipe.cleaners) if recipe else ()
    patterns = () if opened.drops_lines else options.drop_lines
    if cleaners or patterns or licence:
        documents = _cleaned(documents, cleaners, patterns, licence, opened)
    documents = _with_text(documents, opened)
    stored = store_corpus(folder, opened, _until_end(documents, opened, web, options), facts)
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


def _until_end(
    documents: Iterable[Document], source: Source, web: Web | None, options: FetchOptions
) -> Iterator[Document]:
    """Yield the documents, and tell after the last what the web could not renew and where a limit ended it."""
    yield from documents
    if web is not None:
        source.missing.extend(web.stale)
    if source.missing and _as_asked(tuple(source.missing), options):
        source.notes.append(f"{source.missing[0].why} A larger limit goes on from there.")


def _cleaned(
    documents: Iterable[Document],
    cleaners: tuple[Callable[[str], str], ...],
    patterns: tuple[str, ...],
    licence: str,
    source: Source,
) -> Iterator[Document]:
    """Clean each part of each document, count the lines that go, and say whose licence it is."""

    def clean(text: str) -> str:
        for cleaner in cleaners:
            text = cleaner(text)
        for pattern in patterns:
            text, count = drop_lines(text, pattern)
            source.dropped[f"lines with {pattern}"] += count
        return text

    for item in documents:
        cleaned = rewritten(replace(item, licence=item.licence or licence), clean)
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
