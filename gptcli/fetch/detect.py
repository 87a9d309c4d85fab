"""What the user's words mean: the one place where it is decided which kind of source something is, and why.

Decides by the words and what lies on this disk; what an address of the web is, its answer tells (``by_answer``).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

from gptcli.errors import SourceError
from gptcli.fetch.audio import AUDIO_SUFFIXES
from gptcli.fetch.corpus import DOCUMENTS, SOURCE
from gptcli.fetch.embedded import PYTHON_DOCS
from gptcli.fetch.formats import SUFFIXES
from gptcli.fetch.gutenberg import gutenberg_name, is_gutenberg
from gptcli.fetch.hub import hub_name, is_hub
from gptcli.fetch.json_api import datasette_json
from gptcli.fetch.local import LocalFiles, local_files
from gptcli.fetch.options import AsKind, FetchOptions
from gptcli.fetch.recipes import Recipe, find_recipe, recipes
from gptcli.fetch.site.blog import is_home_page
from gptcli.fetch.source import shown
from gptcli.fetch.web import PAGE_BYTES, Response
from gptcli.fetch.web.urls import without_login

_READ_INSTEAD = "{} is the folder of a corpus: its documents.jsonl was read, and no other file in it."
RECIPES_HINT = "gptcli corpora list shows the recipes."
_HTML_TYPES = {"text/html", "application/xhtml+xml"}
_FEED_TYPES = {"application/rss+xml", "application/atom+xml", "application/rdf+xml"}
_JSON_LINES = (".jsonl", ".ndjson", ".nl-json")
_HEAD_BYTES = 4096
_HOST = re.compile(r"(localhost|[\w-]+(\.[\w-]+)*\.([a-z]{2,}|\d{1,3}))(:\d+)?(/\S*)?", re.IGNORECASE)
_WEB_KINDS = {"text", "page", "blog", "json"}

WebKind = Literal["text", "page", "blog", "feed", "json", "file", "audio"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source is: ``where`` as the user wrote it, ``name`` a corpus's name for it, ``why`` it was taken so.

    ``sources`` are the words themselves, ``recipe`` the one that led here, ``notes`` what the user should know of it.
    """

    kind: Literal["stdin", "embedded", "local", "audio", "gutenberg", "hub", "web"]
    name: str
    where: str
    why: str
    sources: tuple[str, ...]
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()


def detect(sources: Sequence[str], options: FetchOptions, corpora_dir: Path) -> Place:
    """Say what the words of a command line mean; raises ``SourceError`` that says where was looked.

    Files and folders win over recipes of the same name. Several words have to be files.
    """
    if not sources or not all(source.strip() for source in sources):
        raise SourceError("The source is empty.", "gptcli fetch book.txt reads a file, gptcli fetch - reads stdin.")
    words, sources = sources, [_documents_of(source) for source in sources]
    notes = tuple(_READ_INSTEAD.format(word) for word, read in zip(words, sources, strict=True) if word != read)
    if len(sources) > 1:
        found = _several(sources, options, corpora_dir)
        return replace(found, notes=(*notes, *found.notes))
    place = _place(sources[0], options, corpora_dir)
    if place is not None:
        name = Path(words[0]).resolve().name if notes else place.name
        return replace(place, name=name, notes=(*notes, *place.notes))
    recipe = find_recipe(sources[0], corpora_dir)
    if recipe is None:
        raise _unknown(sources[0], corpora_dir)
    return _of_recipe(recipe, options, corpora_dir)


def by_answer(where: str, response: Response, options: FetchOptions) -> tuple[WebKind, str]:
    """Say what an address of the web holds, and why, by what its server answered."""
    if options.as_kind in _WEB_KINDS or options.as_kind == "audio":
        return _asked_for(response, options.as_kind)
    head = _head(response)
    suffix = PurePosixPath(urlsplit(response.final_url).path).suffix.lower()
    kind = response.content_type or "no content type"
    if response.content_type in _FEED_TYPES or _is_feed(head):
        return "feed", f"it answers with a feed ({kind})"
    rows = datasette_json(response)
    if rows is not None and urlsplit(rows).path.strip("/") != ".json":  # that of the front page lists databases
        return "json", "it is a table of a Datasette"
    if response.content_type in _HTML_TYPES or _is_html(head):
        front = is_home_page(where, response)
        return ("blog", front) if front else ("page", f"it is a single web page ({kind})")
    if suffix in AUDIO_SUFFIXES or response.content_type.startswith("audio/"):
        return "audio", f"it is a recording ({kind})"
    if _is_json(response, suffix, head):
        return "json", f"it answers with JSON ({kind})"
    if suffix in SUFFIXES - {".txt", ".md", ".html", ".htm", ".json", *_JSON_LINES}:
        return "file", f"it is a file whose name ends with {suffix}"
    return "text", f"it is plain text ({kind})"


def _documents_of(source: str) -> str:
    """Return the documents of a corpus that is given by its folder; any other source as it is."""
    path = Path(source).expanduser() / DOCUMENTS
    try:
        return str(path) if (path.parent / SOURCE).is_file() and path.is_file() else source
    except (OSError, ValueError):
        return source


def is_markup(response: Response) -> bool:
    """Say whether an answer is a web page or a feed, by its type and its first bytes alone."""
    head = _head(response)
    return response.content_type in _HTML_TYPES | _FEED_TYPES or _is_html(head) or _is_feed(head)


def _several(sources: Sequence[str], options: FetchOptions, corpora_dir: Path) -> Place:
    kind: Literal["local", "audio"] = "local"
    found = local_files(sources, corpora_dir)
    if found is None:
        missing = next((source for source in sources if not Path(source).expanduser().exists()), sources[0])
        raise SourceError(
            f"{len(sources)} sources were given, and {missing} is not a file here; several sources have to be files.",
            "Fetch them one after the other, each with its --name.",
        )
    if options.as_kind == "audio" or all(path.suffix.lower() in AUDIO_SUFFIXES for path, _ in found.files):
        kind = "audio"
    why = f"{len(sources)} files of this machine"
    return Place(kind, found.name, found.where, why, tuple(sources), notes=_passed_over(found))


def _place(source: str, options: FetchOptions, corpora_dir: Path) -> Place | None:
    wanted = options.as_kind
    if source == "-":
        return Place("stdin", "stdin", "-", "- stands for stdin", (source,))
    if not re.match(r"(gutenberg|hf):", source) and (here := _local(source, wanted, corpora_dir)) is not None:
        return here
    if wanted == "gutenberg" or (wanted is None and is_gutenberg(source)):
        why = "--as gutenberg was given" if wanted else "it names a book of Project Gutenberg"
        return Place("gutenberg", gutenberg_name(source), source, why, (source,))
    if wanted == "hub" or (wanted in {None, "chat"} and is_hub(source)):
        why = "--as hub was given" if wanted == "hub" else "it names a data set of the Hugging Face hub"
        return Place("hub", hub_name(source), source, why, (source,))
    scheme, separator, _ = source.partition("://")
    if separator:
        return _web(source, scheme)
    if wanted in {"page", "blog", "json", "text"} and _HOST.fullmatch(source):
        return _web(f"https://{source}", "https")
    return None


def _web(source: str, scheme: str) -> Place:
    if scheme.lower() not in {"http", "https"}:
        raise SourceError(
            f"{without_login(source)} begins with {scheme}://; only http:// and https:// can be fetched.",
            "Download it in another way and fetch the file: gptcli fetch FILE",
        )
    where = without_login(source)
    try:
        parts = urlsplit(where)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise SourceError(f"{where} names no host.", "Write it like gptcli fetch https://example.org/book.txt.")
    name = PurePosixPath(unquote(parts.path)).stem or host
    return Place("web", name, where, "it is a web address", (source,))


def _local(source: str, wanted: AsKind | None, corpora_dir: Path) -> Place | None:
    found = None if "://" in source else local_files([source], corpora_dir)
    if found is None:
        return None
    if wanted in {"blog", "hub"}:
        raise SourceError(
            f"{source} is on this machine, and --as {wanted} was given, which is for the web.",
            f"gptcli fetch {source} reads it as what it is.",
        )
    recordings = bool(found.files) and all(path.suffix.lower() in AUDIO_SUFFIXES for path, _ in found.files)
    what = {"file": "a file", "folder": "a folder", "glob": "a pattern of file names"}.get(found.kind, "files")
    notes = _passed_over(found)
    if source in {recipe.name for recipe in recipes(corpora_dir)}:
        notes += (f"{source} is {what} here, so the recipe of that name was not used.",)
    if wanted == "audio" or (wanted is None and recordings):
        why = "--as audio was given" if wanted else f"it is {what} of recordings on this machine"
        return Place("audio", found.name, found.where, why, (source,), notes=notes)
    return Place("local", found.name, found.where, f"it is {what} on this machine", (source,), notes=notes)


def _passed_over(found: LocalFiles) -> tuple[str, ...]:
    return (f"Made by gptcli, and passed over: {shown(found.own)}.",) if found.own else ()


def _of_recipe(recipe: Recipe, options: FetchOptions, corpora_dir: Path) -> Place:
    why = f"{recipe.name} is a recipe for {recipe.source}"
    if recipe.source == PYTHON_DOCS:
        return Place("embedded", recipe.name, recipe.source, why, (recipe.source,), recipe)
    place = _place(recipe.source, replace(options, as_kind=options.as_kind or recipe.kind), corpora_dir)
    if place is None:
        notes = " ".join(recipe.notes)
        raise SourceError(
            f"The recipe {recipe.name} reads {recipe.source}, which is not there." + (f" {notes}" if notes else ""),
            RECIPES_HINT,
        )
    return replace(place, name=recipe.name, why=why, recipe=recipe)


def _unknown(source: str, corpora_dir: Path) -> SourceError:
    known = [recipe.name for recipe in recipes(corpora_dir)]
    nearest = difflib.get_close_matches(source, known, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    if not nearest and (beside := _beside(source)):
        hint = f"Did you mean {beside}? "
    elif _HOST.fullmatch(source) and PurePosixPath(source).suffix.lower() not in SUFFIXES:
        hint = f"A web address begins with https://: gptcli fetch https://{source}. "
    return SourceError(f"There is no file, folder or recipe called {source!r}.", f"{hint}{RECIPES_HINT}")


def _beside(source: str) -> str:
    """Return the file whose name is nearest to one that is not there, or nothing."""
    path = Path(source).expanduser()
    try:
        names = [other.name for other in path.parent.iterdir() if not other.name.startswith(".")]
    except (OSError, ValueError):
        return ""
    nearest = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return str(path.with_name(nearest[0])) if nearest else ""


def _asked_for(response: Response, wanted: AsKind | None) -> tuple[WebKind, str]:
    why = f"--as {wanted} was given"
    if wanted == "blog" and _is_feed(_head(response)):
        return "feed", why
    kinds: tuple[WebKind, ...] = get_args(WebKind)
    return next(kind for kind in kinds if kind == wanted), why


def _head(response: Response) -> bytes:
    with response.path.open("rb") as file:
        return file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()


def _is_html(head: bytes) -> bool:
    return head[:15].lower().startswith((b"<!doctype html", b"<html"))


def _is_feed(head: bytes) -> bool:
    """Say whether a feed begins after declarations and comments; those are cut off one at a time, in linear time."""
    while head.startswith((b"<?", b"<!--")):
        end = b"-->" if head.startswith(b"<!--") else b">"
        head = head.partition(end)[2].lstrip()
    return re.match(rb"<(rss|feed|rdf:RDF)\b", head) is not None


def _is_json(response: Response, suffix: str, head: bytes) -> bool:
    if "json" in response.content_type or suffix in _JSON_LINES:
        return True
    if response.content_type.startswith("text/") and suffix != ".json":
        return False
    if not head.startswith((b"{", b"[")):
        return False
    if response.bytes > PAGE_BYTES:
        return True
    try:
        json.JSONDecoder().raw_decode(response.text())
    except (ValueError, RecursionError):
        return False
    return True
