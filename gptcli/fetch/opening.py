"""From a place to an opened source: each kind of source is called here, and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from gptcli.documents import Document
from gptcli.errors import SourceError
from gptcli.fetch.audio import open_audio
from gptcli.fetch.detect import Place, WebKind, by_answer, is_markup
from gptcli.fetch.embedded import open_python_docs
from gptcli.fetch.formats import read_file
from gptcli.fetch.gutenberg import open_gutenberg
from gptcli.fetch.hub import open_hub
from gptcli.fetch.json_api import JSON_BYTES, open_json
from gptcli.fetch.json_api.page import has_lines
from gptcli.fetch.local import local_files, open_local, open_stdin
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.site.blog import open_blog, open_feed
from gptcli.fetch.site.page import open_page
from gptcli.fetch.source import Plan, Source
from gptcli.fetch.text_url import expect_sha256, open_text
from gptcli.fetch.web import PAGE_BYTES, Response, Web, refuse_large
from gptcli.fetch.web.urls import without_login
from gptcli.files import sha256_file

Progress = Callable[[str], None]


def open_place(
    place: Place,
    folder: Path,
    options: FetchOptions,
    corpora_dir: Path,
    on_progress: Progress,
    stack: ExitStack,
    command: str = "",
) -> tuple[Source, Web | None]:
    """Open what was detected, for the corpus ``folder``; the ``Web`` it is fetched through is closed with ``stack``.

    ``command`` is what the user types to go on with it.
    """
    if place.kind in {"gutenberg", "hub", "web"}:
        stands_for = (_origin(place.sources[0]), options.mirror) if place.kind == "web" else None
        web = stack.enter_context(
            Web(folder, place.where, options, on_progress, stands_for=stands_for, command=command)
        )
        stack.enter_context(_giving_up(web))
        source = _open_web(place, web, folder, options, on_progress)
        if web.resumed:
            source.notes.insert(
                0,
                f"Went on with the fetch that was begun at {web.resumed} and not finished; once more, and what has "
                "changed since is fetched too.",
            )
        opened: tuple[Source, Web | None] = source, web
    else:
        opened = _open_here(place, folder, options, corpora_dir, on_progress), None
    opened[0].notes[:0] = place.notes
    opened[0].why = opened[0].why or place.why
    if place.recipe is not None:
        opened[0].why = f"{place.why}: {opened[0].why}" if opened[0].why != place.why else place.why
    return opened


@contextlib.contextmanager
def _giving_up(web: Web) -> Iterator[None]:
    """Tell the fetch when it is left with an error."""
    try:
        yield
    except SourceError as error:
        web.give_up(error)
        raise


def _open_here(place: Place, folder: Path, options: FetchOptions, corpora_dir: Path, on_progress: Progress) -> Source:
    if place.kind == "stdin":
        return open_stdin(options)
    if place.kind == "embedded":
        return open_python_docs()
    if place.recipe is not None and place.recipe.sha256 is not None:
        _expect_file(place, place.recipe.sha256)
    if place.kind == "audio":
        found = local_files(place.sources, corpora_dir)
        assert found is not None
        return open_audio(found.files, found.where, found.name, folder, options, on_progress)
    source = open_local(place.sources, options, on_progress, corpora_dir)
    assert source is not None
    return source


def _open_web(place: Place, web: Web, folder: Path, options: FetchOptions, on_progress: Progress) -> Source:
    if place.kind == "gutenberg":
        return open_gutenberg(place.sources[0], web, options)
    if place.kind == "hub":
        return open_hub(place.sources[0], web, options)
    if not web.offline:
        on_progress(f"asking {urlsplit(place.where).hostname}")
    response = web.get(place.sources[0])
    if is_markup(response):  # before anything reads it whole
        refuse_large(web, response, PAGE_BYTES)
    kind, why = by_answer(place.where, response, options)
    if kind in {"page", "blog", "feed"}:
        refuse_large(web, response, PAGE_BYTES)
    elif kind == "json" and not has_lines(response):
        refuse_large(web, response, JSON_BYTES)
    if place.recipe is not None and place.recipe.sha256 is not None:
        expect_sha256(response, place.recipe.sha256, place.where)
    source = _open_answer(kind, place.where, response, web, folder, options, on_progress)
    source.why = why
    return source


def _open_answer(
    kind: WebKind,
    where: str,
    response: Response,
    web: Web,
    folder: Path,
    options: FetchOptions,
    on_progress: Progress,
) -> Source:
    if kind == "json":
        return open_json(where, response, web, options)
    if kind == "blog":
        return open_blog(where, response, web, options)
    if kind == "feed":
        return open_feed(where, response, web, options)
    if kind == "page":
        return open_page(where, response, web, options)
    path = PurePosixPath(urlsplit(response.final_url).path)
    if kind == "audio":
        return open_audio([(response.path, path.name)], where, path.stem, folder, options, on_progress)
    if kind == "file":
        return _open_file(where, path, response, options)
    return open_text(where, response, options)


def _open_file(where: str, path: PurePosixPath, response: Response, options: FetchOptions) -> Source:
    """Open a file of the web that is no text, by the reader that files of this machine have."""
    source = Source("text", path.stem, where)
    source.plan = lambda: Plan((f"read {where}, which is here already",), requests=0, bytes=response.bytes)

    def documents() -> Iterator[Document]:
        for item in read_file(
            response.path,
            suffix=path.suffix.lower(),
            label=where,
            title=path.stem,
            source=source,
            options=options,
            url=where,
        ):
            source.fetched_at[item.id] = response.fetched_at
            yield item

    source.documents = documents()
    return source


def _origin(url: str) -> str:
    parts = urlsplit(without_login(url))
    return f"{parts.scheme}://{parts.netloc}"


def _expect_file(place: Place, sha256: str) -> None:
    path = Path(place.sources[0]).expanduser()
    if not path.is_file() or sha256_file(path) != sha256:
        raise SourceError(
            f"{place.sources[0]} is not the one file with the SHA-256 that the recipe {place.name} names.",
            f"If it is fine too, fetch it without the recipe: gptcli fetch {place.sources[0]}",
        )
