"""Which files of this machine the user's words mean: files, folders and glob patterns, in which order. Opens none."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptcli.errors import SourceError
from gptcli.fetch.source import shown
from gptcli.fetch.text import READ_HINT

NO_NAME = "texts"
# What lies in folders of these names where gptcli made them.
_OWN = {
    "corpora": ("*/source.json",),
    "runs": ("*/profile.yaml",),
    "exports": ("*/*.safetensors", "*/*.gguf", "*/*.pt"),
}


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files that were meant, each with the label that messages call it by; at least one.

    ``name`` is what a corpus of them is called, ``where`` what the user typed, shortened where the shell has expanded
    a pattern. A single file may be a pipe. ``own`` are the folders that were passed over because gptcli made them.
    """

    kind: Literal["file", "files", "folder", "glob"]
    name: str
    where: str
    files: tuple[tuple[Path, str], ...]
    own: tuple[str, ...] = ()


def local_files(sources: Sequence[str], leave_out: Path) -> LocalFiles | None:
    """Find the files that one or several words mean; None when a word is no file, folder or pattern.

    Those of a folder or pattern come in sorted order, several words in the order they were given. Hidden files,
    everything below ``leave_out``, the folder of the corpora, and what gptcli made are passed over in folders and
    patterns. Raises ``SourceError`` for a folder or pattern without files, and for such a folder itself.
    """
    if len(sources) == 1:
        return _found(sources[0], leave_out)
    every = [_found(source, leave_out) for source in sources]
    found = [one for one in every if one is not None]
    if not found or len(found) < len(every):
        return None
    files: dict[Path, tuple[Path, str]] = {}
    for one in found:
        prefix = f"{one.where.rstrip('/')}/" if one.kind == "folder" else ""
        for path, label in one.files:
            files.setdefault(path.resolve(), (path, prefix + label))
    pattern = _expanded(sources) if all(one.kind == "file" for one in found) else None
    own = tuple(folder for one in found for folder in one.own)
    return LocalFiles("files", _common_name(files), pattern or shown(sources), tuple(files.values()), own)


def exists(path: Path) -> bool:
    """Say whether there is something at a path, whatever it is."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _found(where: str, leave_out: Path) -> LocalFiles | None:
    path = Path(where).expanduser()
    if not exists(path):
        return _of_pattern(where, leave_out) if glob.has_magic(where) else None
    if not path.is_dir():
        return LocalFiles("file", _stem(path), where, ((path, where),))
    refused, here = leave_out.resolve(), path.resolve()
    if refused != here and is_own(here):
        raise SourceError(
            f"The folder {where} was made by gptcli, and is no text to be fetched.",
            f"Texts that lie in it are read by a pattern: gptcli fetch '{where.rstrip('/')}/**/*.txt'",
        )
    own: list[str] = []
    files = sorted(_below(path, leave_out, own)) if refused != here else []
    if not files and refused.is_dir() and (refused == here or here in refused.parents):
        does = "is the folder of" if refused == here else "holds nothing but"
        raise SourceError(
            f"The folder {where} {does} the corpora that were fetched, and these are no text to be fetched again.",
            "gptcli corpora list shows them. Texts that lie among them are read by a pattern: "
            f"gptcli fetch '{where.rstrip('/')}/**/*.txt'",
        )
    if not files:
        raise SourceError(f"The folder {where} has no files (hidden ones do not count).", READ_HINT)
    labelled = tuple((file, str(file.relative_to(path))) for file in files)
    return LocalFiles("folder", here.name, where, labelled, tuple(own))


def _of_pattern(pattern: str, leave_out: Path) -> LocalFiles:
    expanded = str(Path(pattern).expanduser())
    # Path.glob takes no absolute patterns.
    matches = [Path(match) for match in sorted(set(glob.glob(expanded, recursive=True)))]  # noqa: PTH207
    fixed = Path(*(part for part in _until_magic(expanded)))
    refused = leave_out.resolve()
    inside = refused == fixed.resolve() or refused in fixed.resolve().parents
    meant = {fixed, *fixed.parents}
    own = {folder for path in matches for folder in path.parents if folder not in meant and is_own(folder)}
    matches = [path for path in matches if own.isdisjoint((path, *path.parents))]
    files = [path for path in matches if path.is_file() and (inside or refused not in path.resolve().parents)]
    if not files:
        found = "only folders" if matches else "nothing"
        raise SourceError(
            f"The pattern {pattern} matches {found}; files were expected.",
            "Quote the pattern, as in gptcli fetch 'books/**/*.txt'.",
        )
    name = fixed.resolve().name if fixed.parts else NO_NAME
    passed = tuple(str(folder) for folder in sorted(own) if own.isdisjoint(folder.parents))
    return LocalFiles("glob", name, pattern, tuple((file, str(file)) for file in files), passed)


def is_own(folder: Path) -> bool:
    """Say whether gptcli made a folder: for corpora, runs or exports."""
    return any(any(folder.glob(pattern)) for pattern in _OWN.get(folder.name, ()))


def _until_magic(pattern: str) -> Iterator[str]:
    """Yield the folders of a pattern before its first wildcard."""
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _below(folder: Path, leave_out: Path, own: list[str]) -> Iterator[Path]:
    """Yield the files below a folder, and add to ``own`` the folders that gptcli made."""
    refused = leave_out.resolve()

    def fail(error: OSError) -> None:
        raise error

    try:
        for here, folders, names in os.walk(folder, onerror=fail):
            made = sorted(name for name in folders if is_own(Path(here) / name))
            own.extend(str((Path(here) / name).relative_to(folder)) for name in made)
            folders[:] = [name for name in folders if name[0] != "." and name not in made]
            folders[:] = [name for name in folders if (Path(here) / name).resolve() != refused]
            yield from (path for name in names if name[0] != "." and (path := Path(here) / name).is_file())
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read ({error.strerror}).", READ_HINT) from error


def _expanded(sources: Sequence[str]) -> str | None:
    """Return the pattern that a shell may have made these words of: all files of a folder, or all of one suffix."""
    paths = [Path(source) for source in sources]
    folder, suffix = paths[0].parent, paths[0].suffix
    if any(path.parent != folder for path in paths):
        return None
    try:
        beside = [path for path in folder.expanduser().iterdir() if path.name[0] != "." and path.is_file()]
    except OSError:
        return None
    given = {path.name for path in paths}
    for pattern, names in (
        (f"*{suffix}", {path.name for path in beside if path.suffix == suffix}),
        ("*", {path.name for path in beside}),
    ):
        if given == names:
            return str(folder / pattern)
    return None


def _common_name(paths: Iterable[Path]) -> str:
    """Return the name of the folder that several files lie in, unless it is the working directory or above it."""
    common = Path(os.path.commonpath([path.parent for path in paths]))
    here = Path.cwd()
    return common.name if common != here and common not in here.parents and common.name else NO_NAME


def _stem(path: Path) -> str:
    """Return the name of a file without what says its format."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.stem
