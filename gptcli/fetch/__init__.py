"""Fetching: from what the user typed to ``corpora/<name>/documents.jsonl``, with a record of where it came from.

Here it is decided what a source is; each kind of source is a module of its own.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.documents import CLEANERS, PART_CHARS, Document, document, drop_lines, well_formed
from gptcli.errors import SourceError
from gptcli.fetch.corpus import check_name, free_name, slug, store_corpus
from gptcli.fetch.embedded import PYTHON_DOCS, open_python_docs
from gptcli.fetch.http import FILE_HINT, without_login
from gptcli.fetch.local import open_local, open_stdin
from gptcli.fetch.recipes import Recipe, find_recipe, recipes
from gptcli.fetch.source import Source
from gptcli.fetch.text_url import open_url
from gptcli.files import sha256_file

RECIPES_HINT = "gptcli corpora list shows the recipes."


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A fetched corpus; ``bytes`` are UTF-8 bytes of text, ``source`` is the content of ``source.json``."""

    name: str
    folder: Path
    documents: int
    bytes: int
    notes: tuple[str, ...]
    source: dict[str, Any]


def fetch(
    source: str,
    *,
    name: str | None = None,
    corpora_dir: Path = Path("corpora"),
    encoding: str | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> FetchResult:
    """Fetch ``source`` into ``corpora_dir``, replacing the text of the corpus ``name``.

    A source is ``-`` (stdin), a file, folder or glob pattern, the web address of a plain text, or the name of a
    recipe. Without ``name`` the corpus is called after the source, with a number where that is the name of a corpus
    of another source, so that only the same source again replaces a text. Raises ``SourceError`` when there is
    nothing to read, and then an existing corpus is as it was.
    """
    if name is not None:
        check_name(name)
    opened, recipe = _open(source, corpora_dir, encoding, on_progress)
    opened.where = well_formed(opened.where)
    if name is None:
        wanted = recipe.name if recipe else slug(opened.name)
        name = free_name(wanted, opened, corpora_dir, recipe.name if recipe else None)
        if name != wanted:
            opened.notes.append(
                f"The corpus {wanted} holds another text, so this one is called {name}; "
                f"--name {wanted} would replace the other."
            )
    folder = corpora_dir / name
    facts: dict[str, Any] = {"command": _command(source, name, encoding)}
    documents: Iterable[Document] = opened.documents
    if recipe is not None:
        facts |= {"recipe": recipe.name} | recipe.model_dump(include={"tokenizer", "split", "split_at"})
        opened.licence = recipe.licence or opened.licence
        documents = _cleaned(documents, recipe, opened)
    written, record = store_corpus(folder, opened, _with_text(documents, opened), facts)
    return FetchResult(name, folder, written.documents, written.bytes, tuple(record["notes"]), record)


def _open(
    source: str, corpora_dir: Path, encoding: str | None, on_progress: Callable[[str], None]
) -> tuple[Source, Recipe | None]:
    """Find out what the user means; raises ``SourceError`` that says where was looked."""
    if not source.strip():
        raise SourceError("The source is empty.", "gptcli fetch book.txt reads a file, gptcli fetch - reads stdin.")
    if source == "-":
        return open_stdin(encoding), None
    found = _open_place(source, corpora_dir, encoding, on_progress)
    known = [recipe.name for recipe in recipes(corpora_dir)]
    if found is not None:
        if source in known:
            found.notes.append(f"{source} is a {found.kind} here, so the recipe of that name was not used.")
        return found, None
    recipe = find_recipe(source, corpora_dir)
    if recipe is None:
        raise _unknown(source, known)
    return _open_recipe(recipe, corpora_dir, encoding, on_progress), recipe


def _open_place(
    source: str, corpora_dir: Path, encoding: str | None, on_progress: Callable[[str], None]
) -> Source | None:
    scheme, separator, _ = source.partition("://")
    if not separator:
        return open_local(source, encoding, on_progress, corpora_dir)
    if scheme.lower() in {"http", "https"}:
        return open_url(source, encoding, on_progress)
    raise SourceError(f"{source} begins with {scheme}://; only http:// and https:// can be fetched.", FILE_HINT)


def _open_recipe(recipe: Recipe, corpora_dir: Path, encoding: str | None, on_progress: Callable[[str], None]) -> Source:
    if recipe.source == PYTHON_DOCS:
        return open_python_docs()
    if recipe.source.startswith(("http://", "https://")):
        return open_url(recipe.source, encoding, on_progress, recipe.sha256)
    source = _open_place(recipe.source, corpora_dir, encoding, on_progress)
    if source is None:
        raise SourceError(f"The recipe {recipe.name} reads {recipe.source}, which is not there.", RECIPES_HINT)
    if recipe.sha256 is not None and (source.kind != "file" or sha256_file(Path(recipe.source)) != recipe.sha256):
        raise SourceError(
            f"{recipe.source} is not the one file with the SHA-256 that the recipe {recipe.name} names.",
            f"If it is fine too, fetch it without the recipe: gptcli fetch {recipe.source}",
        )
    return source


def _unknown(source: str, known: list[str]) -> SourceError:
    nearest = difflib.get_close_matches(source, known, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    return SourceError(
        f"There is no file, folder or recipe called {source!r}. The recipes are {', '.join(known) or 'none'}.",
        f"{hint}{RECIPES_HINT}",
    )


def _cleaned(documents: Iterable[Document], recipe: Recipe, source: Source) -> Iterator[Document]:
    """Clean each part of each document as the recipe says, and count the lines that go."""
    for item in documents:
        text = item.text
        for cleaner in recipe.cleaners:
            text = CLEANERS[cleaner](text)
        for pattern in recipe.drop_lines:
            text, count = drop_lines(text, pattern)
            source.dropped[f"lines with {pattern}"] += count
        yield document(
            text,
            title=item.title,
            url=item.url,
            date=item.date,
            licence=item.licence or recipe.licence,
            part=item.part,
        )


def _with_text(documents: Iterable[Document], source: Source) -> Iterator[Document]:
    """Leave out documents without text."""
    for item in documents:
        # Only a document of one part is this short; a blank beginning of a long text belongs to it.
        if item.part == 0 and len(item.text) < PART_CHARS // 2 and not item.text.strip():
            source.dropped["empty"] += 1
        else:
            yield item


def _command(source: str, name: str, encoding: str | None) -> str:
    where = without_login(source) if "://" in source else source
    insisted = ["--encoding", encoding] if encoding else []
    return well_formed(shlex.join(["gptcli", "fetch", where, "--name", name, *insisted]))
