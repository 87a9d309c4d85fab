"""An export from beginning to end: a folder that appears whole, and only after it was read back and compared.

Which files a format has, and how they are checked, is the business of the module of that format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from gptcli.bases.base import Base
from gptcli.errors import ExportError
from gptcli.export.card import Card, make_card
from gptcli.export.weights import convert_weights
from gptcli.files import atomic_folder
from gptcli.runs import RunDir

Dtype = Literal["float32", "float16", "bfloat16"]
# Where commands look for runs and corpora, and would stumble over anything else.
KEPT_FOLDERS = (Path("runs"), Path("corpora"))
ANOTHER_FOLDER = "Choose another folder: --output exports/NAME"
FORMATS = ("hf", "gguf", "nanogpt", "safetensors")
Writer = Callable[[Base, Path, str, Card], None]
Check = Callable[[Base, Path, str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written; ``checks`` says in sentences what was found equal when it was loaded back, with figures."""

    folder: Path
    format: str
    files: tuple[str, ...]
    checks: tuple[str, ...]


def export(
    base: Base,
    format: str,
    folder: Path,
    *,
    dtype: Dtype = "float32",
    run: RunDir | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ExportResult:
    """Write ``base`` to ``folder`` in one of ``FORMATS``, load it back and compare it with the model.

    ``run`` is where the model card finds what the weights were trained on. The folder appears whole or not at all.
    Raises ``ExportError`` for a folder that is not free, what the format cannot carry, a disk that is full, and
    whatever does not read back as the same model.
    """
    sources = [run.path] if run is not None else []
    if base.kind in ("folder", "gptcli"):
        sources.append(Path(base.name).expanduser())
    place = check_place(format, folder, sources)
    write, check = _room(format)
    # A GGUF file has more than one number format, so its own module converts.
    base = convert_weights(base, None if format == "gguf" else dtype)
    card = make_card(base, run, dtype)
    try:
        with atomic_folder(place, replace=False) as temporary:
            on_progress(f"Writing {folder}.")
            write(base, temporary, dtype, card)
            on_progress(f"Loading {folder} back to compare it.")
            checks = _read_back(check, base, temporary, dtype)
            files = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"{folder} cannot be written ({getattr(error, 'strerror', None) or error}).",
            "Make room, or choose another folder with --output; nothing was left behind.",
        ) from error
    return ExportResult(folder, format, tuple(files), checks)


def check_place(format: str, folder: Path, sources: Iterable[Path] = ()) -> Path:
    """Return where an export to ``folder`` goes, before any model is opened for it.

    Raises ``ExportError`` for an unknown format, one whose package is not installed, and a folder that is not free,
    lies inside of ``sources`` (the model itself), or among the runs or the corpora.
    """
    _room(format)
    place, is_folder, first = _look_at(folder)
    if any(place.is_relative_to(source.resolve()) for source in sources):
        raise ExportError(
            f"{folder} lies inside the model that is exported, which an export leaves as it is.", ANOTHER_FOLDER
        )
    for kept in KEPT_FOLDERS:
        if place.is_relative_to(kept.resolve()):
            raise ExportError(f"{folder} lies in {kept}/, where gptcli keeps its own {kept}.", ANOTHER_FOLDER)
    if not is_folder or place == Path.cwd():
        what = "the working directory" if is_folder else "a file"
        raise ExportError(f"{folder} is {what}; an export is a folder of its own.", ANOTHER_FOLDER)
    if first is not None:
        raise ExportError(
            f"{folder} is not empty (it has {first!r}), and an export overwrites nothing.",
            f"{ANOTHER_FOLDER}, or remove that one first.",
        )
    return place


def _look_at(folder: Path) -> tuple[Path, bool, str | None]:
    """Return ``folder`` in full, whether it is one or can become one, and the name of something in it."""
    try:
        place = folder.resolve()
        is_folder = place.is_dir() or not (place.exists() or place.is_symlink())
        first = next(place.iterdir(), None) if place.is_dir() else None
    # A name too long, one with a zero byte, a folder of somebody else's, links in a circle (RuntimeError).
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ExportError(f"{folder} cannot be used ({why}).", ANOTHER_FOLDER) from error
    return place, is_folder, first.name if first is not None else None


def _read_back(check: Check, base: Base, folder: Path, dtype: str) -> tuple[str, ...]:
    try:
        return check(base, folder, dtype)
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"What was written cannot be read back ({getattr(error, 'strerror', None) or error}).",
            "The disk may be failing: choose a folder on another one with --output; nothing was left behind.",
        ) from error


def _room(format: str) -> tuple[Writer, Check]:
    """Return what writes and what checks a format, with what it needs; each is imported when it is asked for."""
    if format == "hf":
        from gptcli.export.hf import check_hf, write_hf

        return write_hf, check_hf
    if format == "safetensors":
        from gptcli.export.own import check_own, write_own

        return write_own, check_own
    if format == "gguf":
        from gptcli.export.gguf import check_gguf, load_package, write_gguf

        load_package()
        return write_gguf, check_gguf
    if format == "nanogpt":
        from gptcli.export.nanogpt import check_nanogpt, write_nanogpt

        return write_nanogpt, check_nanogpt
    raise ExportError(f"There is no format called {format!r}.", f"Choose one of {', '.join(FORMATS)}.")
