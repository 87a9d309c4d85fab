"""An export from beginning to end: a folder that appears whole, and only after it was read back and compared.

Which files a format has, and how they are checked, is the business of the module of that format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from gptcli.bases.base import Base, LazyWeights
from gptcli.errors import ExportError
from gptcli.export.card import Card, make_card
from gptcli.files import atomic_folder
from gptcli.runs import RunDir

Dtype = Literal["float32", "float16", "bfloat16"]
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
    write, check = _room(format)
    place = _free_place(folder, base, run)
    if format != "gguf":
        base = _rounded(base, dtype)
    card = make_card(base, run, dtype)
    try:
        with atomic_folder(place) as temporary:
            on_progress(f"Writing {folder}.")
            write(base, temporary, dtype, card)
            on_progress(f"Loading {folder} back to compare it.")
            checks = check(base, temporary, dtype)
            files = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"{folder} cannot be written ({getattr(error, 'strerror', None) or error}).",
            "Make room, or choose another folder with --output; nothing was left behind.",
        ) from error
    return ExportResult(folder, format, tuple(files), checks)


def _room(format: str) -> tuple[Writer, Check]:
    """Return what writes and what checks a format; each is imported when it is asked for."""
    if format == "hf":
        from gptcli.export.hf import check_hf, write_hf

        return write_hf, check_hf
    if format == "safetensors":
        from gptcli.export.own import check_own, write_own

        return write_own, check_own
    if format == "gguf":
        from gptcli.export.gguf import check_gguf, write_gguf

        return write_gguf, check_gguf
    if format == "nanogpt":
        from gptcli.export.nanogpt import check_nanogpt, write_nanogpt

        return write_nanogpt, check_nanogpt
    raise ExportError(f"There is no format called {format!r}.", f"Choose one of {', '.join(FORMATS)}.")


def _free_place(folder: Path, base: Base, run: RunDir | None) -> Path:
    """Return where the export goes; raises ``ExportError`` unless that is free and outside of the model itself."""
    try:
        place = folder.resolve()
        is_other = place.exists() and not place.is_dir()
        taken = next(place.iterdir(), None) if place.is_dir() else None
    except (OSError, ValueError) as error:  # a name too long, one with a zero byte, a folder of somebody else's
        why = getattr(error, "strerror", None) or error
        raise ExportError(f"{folder} cannot be used ({why}).", "Choose another: --output exports/NAME") from error
    sources = [run.path] if run is not None else []
    if base.kind in ("folder", "gptcli"):
        sources.append(Path(base.name))
    if any(place.is_relative_to(source.resolve()) for source in sources):
        raise ExportError(
            f"{folder} lies inside the model that is exported, which an export leaves as it is.",
            "Choose another folder: --output exports/NAME",
        )
    if is_other or place == Path.cwd():
        what = "a file" if is_other else "the working directory"
        raise ExportError(f"{folder} is {what}; an export is a folder of its own.", "Choose one: --output exports/NAME")
    if taken is not None:
        raise ExportError(
            f"{folder} is not empty (it has {taken.name!r}), and an export overwrites nothing.",
            "Choose another folder: --output exports/NAME, or remove that one first.",
        )
    return place


def _rounded(base: Base, dtype: Dtype) -> Base:
    """Return ``base`` with each weight converted when it is read; one that the format cannot hold is an error."""

    def maker(name: str) -> Callable[[], Tensor]:
        return lambda: _converted(name, base.weights[name], dtype)

    return dataclasses.replace(base, weights=LazyWeights({name: maker(name) for name in base.weights}))


def _converted(name: str, tensor: Tensor, dtype: Dtype) -> Tensor:
    if not tensor.isfinite().all():
        raise ExportError(
            f"The weight {name} is not finite: the training diverged.",
            "Another checkpoint may be whole: gptcli export RUN --checkpoint latest (or best)",
        )
    converted = tensor.to(getattr(torch, dtype))
    if not converted.isfinite().all():
        raise ExportError(f"The weight {name} has numbers too large for {dtype}.", "Take --dtype bfloat16 or float32.")
    return converted
