"""``gptcli export``: a model leaves for other programs, and is loaded back before that is called done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gptcli.cli.common import (
    CheckpointOption,
    JsonOption,
    QuietOption,
    emit,
    import_torch,
    note,
    progress,
    reports_errors,
)
from gptcli.cli.completion import complete_models

Format = Literal["hf", "gguf", "nanogpt", "safetensors"]
Dtype = Literal["float32", "float16", "bfloat16"]


@reports_errors
def export_command(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            autocompletion=complete_models,
            help="A run, or any model that sample takes; else the newest run.",
        ),
    ] = None,
    to: Annotated[
        Format,
        typer.Option(
            "--format",
            help="hf: transformers. gguf: llama.cpp and Ollama. nanogpt: its ckpt.pt. safetensors: gptcli's own.",
        ),
    ] = "hf",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to make; else exports/RUN-FORMAT."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Number format of the weights.")] = "float32",
    checkpoint: CheckpointOption = "best",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model for another program; prints the folder. Adapters (LoRA) are merged into the weights.

    What was written is loaded back and compared with the model before it is kept.

    Example: gptcli export --format hf
    """
    import_torch()
    from gptcli.bases.opening import open_base, run_named
    from gptcli.export.exporting import check_place, export
    from gptcli.runs import find_run

    if run is None:
        run = find_run().name
        if not quiet:
            note(f"The newest run is {run}.")
    source = run_named(run)
    folder = output or Path("exports") / f"{_short_name(run)}-{to}"
    check_place(to, folder, [source.path] if source is not None else [])  # before a model is downloaded for nothing
    with progress(quiet=quiet) as going_on:
        base = open_base(run, which=checkpoint, on_notice=going_on.note, on_progress=going_on.show)
        result = export(base, to, folder, dtype=dtype, run=source, on_progress=going_on.show)
    if not quiet:
        for line in (*base.notes, *result.checks):
            note(line)
    facts = {"folder": result.folder, "format": to, "files": list(result.files), "checks": list(result.checks)}
    emit(facts, str(result.folder), as_json=as_json)


def _short_name(model: str) -> str:
    """Return what a model's export is called: the last part of its name, without the end of a checkpoint file's."""
    name = Path(model.rpartition(":")[2]).name
    return name.removesuffix(".pt").removesuffix(".pth") or "model"
