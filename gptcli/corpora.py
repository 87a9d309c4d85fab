"""A fetched corpus as the later stages see it: found by name or path, with what is known of its text.

Fetching, splitting and tokenising are not known here.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from gptcli.documents import origin_of, read_documents
from gptcli.errors import CorpusError, FormatError
from gptcli.fetch.corpus import DOCUMENTS, SOURCE, is_from, read_source
from gptcli.fetch.local_files import is_own
from gptcli.fetch.provenance import PROVENANCE, read_provenance
from gptcli.fetch.recipes import recipes
from gptcli.fetch.source import shown
from gptcli.fetch.web.store import RAW, last_fetch
from gptcli.files import sha256_file

CORPORA = Path("corpora")


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus on disk; ``sha256`` is that of its documents as they are now, ``n_bytes`` about their size.

    ``tokenizer``, ``split`` and ``split_at`` are what its recipe asks for, if it has one that does.
    """

    name: str
    folder: Path
    sha256: str
    n_bytes: int
    licence: str
    tokenizer: str | None
    split: Literal["document", "paragraph"] | None
    split_at: float | None
    notes: tuple[str, ...]

    @property
    def documents(self) -> Path:
        """The file of its documents."""
        return self.folder / DOCUMENTS


def locate_corpus(corpus: str, corpora_dir: Path = CORPORA) -> tuple[str, Path]:
    """Return name and parent folder of a corpus given by name, by its path, or by the path of its text.

    ``notes/`` and ``./notes`` are the corpus ``notes``, unless there is one in that folder itself.
    """
    path = Path(corpus)
    given = (corpus, corpora_dir) if path.name in (corpus, "", "..") else (path.name, path.parent)
    if _is_corpus(*given):
        return given
    fetched = [name for name in corpus_names(corpora_dir) if _is_from(corpora_dir / name, corpus)]
    if fetched:
        return path.name if path.name in fetched else fetched[0], corpora_dir
    return (path.name, corpora_dir) if path.name and path.parent == Path() else given


def _is_corpus(name: str, parent: Path) -> bool:
    return name not in ("", ".", "..") and (parent / name / DOCUMENTS).is_file()


def _is_from(folder: Path, text: str) -> bool:
    """Say whether a corpus was fetched from this file or folder; of a damaged one that is not known."""
    with contextlib.suppress(FormatError, OSError):
        return is_from(read_source(folder), text)
    return False


def corpus_word(folder: Path) -> str:
    """Return what a command calls the corpus in ``folder``: its name, or a path that no name can be taken for."""
    if folder.parent == CORPORA:
        return folder.name
    return str(folder) if len(folder.parts) > 1 else f"./{folder}"


def corpus_names(corpora_dir: Path = CORPORA) -> list[str]:
    """Return the names of the fetched corpora, those made by hand too, the newest first."""
    names = (path for path in corpora_dir.glob(f"*/{DOCUMENTS}") if path.is_file())
    found = [path.parent for path in names if not path.parent.name.startswith(".")]
    return [folder.name for folder in sorted(found, key=lambda folder: (-_changed_ns(folder), folder))]


def unfinished_fetches(corpora_dir: Path = CORPORA) -> dict[str, str]:
    """Return by name of the corpus the commands that go on with fetches broken off before there were documents."""
    folders = sorted(path.parent for path in corpora_dir.glob(f"*/{RAW}") if not (path.parent / DOCUMENTS).is_file())
    begun = {folder.name: last_fetch(folder) for folder in folders}
    return {name: fetch[1] for name, fetch in begun.items() if fetch is not None}


def choose_corpus(wanted: str | None, of_profile: str | None, corpora_dir: Path = CORPORA) -> str:
    """Return the corpus a command means: the one it names, else the profile's, else the newest, else python-docs."""
    newest = next(iter(corpus_names(corpora_dir)), None)
    return wanted or of_profile or newest or "python-docs"


def is_fetched(corpus: str, corpora_dir: Path = CORPORA) -> bool:
    """Say whether there is a corpus of this name or path."""
    return _is_corpus(*locate_corpus(corpus, corpora_dir))


def is_recipe(corpus: str, corpora_dir: Path = CORPORA) -> bool:
    """Say whether a corpus that is not fetched has a recipe; a YAML file that lies elsewhere is none."""
    name, parent = locate_corpus(corpus, corpora_dir)
    return parent.resolve() == corpora_dir.resolve() and name in {recipe.name for recipe in recipes(corpora_dir)}


def text_here(corpus: str, corpora_dir: Path = CORPORA) -> Literal["file", "folder"] | None:
    """Say what a word that is no corpus names on this machine; None for nothing, and for what gptcli made."""
    path, (name, parent) = Path(corpus), locate_corpus(corpus, corpora_dir)
    here, ours = path.resolve(), corpora_dir.resolve()
    made = ours in (here, *here.parents) or is_own(here) or is_own(here.parent)
    if path.name in ("", "..") or made or name in unfinished_fetches(parent):
        return None
    return "file" if path.is_file() else "folder" if path.is_dir() else None


def find_corpus(corpus: str, corpora_dir: Path = CORPORA) -> Corpus:
    """Find a fetched corpus by name or path; its text is hashed only when it is newer than ``source.json``.

    A folder with documents and no readable ``source.json`` is a corpus too, made by hand. Raises ``CorpusError``
    that lists what there is for anything else.
    """
    if not is_fetched(corpus, corpora_dir):
        raise unknown_corpus(corpus, corpora_dir)
    name, parent = locate_corpus(corpus, corpora_dir)
    folder = parent / name
    changed = (folder / DOCUMENTS).stat()
    source, trusted, problem = _source(folder, changed.st_mtime_ns)
    known = source.get("sha256", "")
    sha256 = known if trusted else sha256_file(folder / DOCUMENTS)
    edited = bool(known) and sha256 != known
    tokenizer, split, split_at = source.get("tokenizer"), source.get("split"), source.get("split_at")
    return Corpus(
        name=name,
        folder=folder,
        sha256=sha256,
        n_bytes=changed.st_size if edited or not known else source["bytes"],
        licence=source.get("licence", ""),
        tokenizer=tokenizer if isinstance(tokenizer, str) and tokenizer != "auto" else None,
        split=split if split in ("document", "paragraph") else None,
        split_at=split_at if isinstance(split_at, float) and 0 < split_at < 1 else None,
        notes=(*problem, *([f"{folder / DOCUMENTS} was changed after it was fetched."] if edited else [])),
    )


def document_facts(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what is known of each document of a corpus, its text left out; ``bytes`` are those of all its parts.

    Raises ``FormatError`` for damaged documents.
    """
    provenance = read_provenance(folder / PROVENANCE)
    row: dict[str, Any] | None = None
    for item in read_documents(folder / DOCUMENTS):
        size = len(item.text.encode())
        if item.part and row is not None:
            row["bytes"] += size
            continue
        if row is not None:
            yield row
        line = provenance.get(item.id, {})
        when = {key: str(line.get(key, "")) for key in ("sha256", "fetched_at")}
        row = {"id": item.id, **origin_of(item), **when, "bytes": size}
    if row is not None:
        yield row


def unknown_corpus(corpus: str, corpora_dir: Path = CORPORA) -> CorpusError:
    """Return the error for a name that is not a fetched corpus: what there is, and the nearest name."""
    name, parent = locate_corpus(corpus, corpora_dir)
    if (command := unfinished_fetches(parent).get(name)) is not None:
        return CorpusError(f"The fetch of the corpus {name!r} was not finished.", f"This goes on with it: {command}")
    if is_recipe(corpus, corpora_dir):
        return CorpusError(f"The corpus {name!r} is not fetched yet.", f"gptcli fetch {name}")
    if (kind := text_here(corpus, corpora_dir)) is not None:
        return CorpusError(f"{corpus} is a {kind}, not a corpus yet.", f"gptcli fetch {quote(corpus)}")
    fetched = corpus_names(parent) or corpus_names(corpora_dir)
    known = (*fetched, *(recipe.name for recipe in recipes(corpora_dir)))
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    return CorpusError(
        f"There is no corpus called {corpus!r}.",
        f"{hint}Fetched: {shown(fetched) or 'none'}. gptcli corpora list shows the recipes too, gptcli fetch SOURCE "
        "makes a corpus.",
    )


def _changed_ns(folder: Path) -> int:
    """Return when a corpus was fetched or changed: the same text fetched again renews neither file."""
    return max((folder / name).stat().st_mtime_ns for name in (DOCUMENTS, SOURCE) if (folder / name).is_file())


def _source(folder: Path, changed_ns: int) -> tuple[dict[str, Any], bool, list[str]]:
    """Return what ``source.json`` says, whether the documents are no newer than it, and what is wrong with it."""
    path = folder / SOURCE
    try:
        source = read_source(folder)
    except (OSError, FormatError) as error:
        problem = [f"{str(error).rstrip('.')}; where the text is from and its licence are not known."]
        return {}, False, problem if path.exists() else []
    return source, path.exists() and changed_ns <= path.stat().st_mtime_ns, []
