"""``gptcli eval``: how well a run predicts a text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from gptcli.cli.common import (
    CheckpointOption,
    DeviceOption,
    EncodingOption,
    JsonOption,
    QuietOption,
    check_device,
    emit,
    import_torch,
    note,
    progress,
    read_text,
    reports_errors,
)
from gptcli.cli.completion import complete_runs


@reports_errors
def eval_command(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", autocompletion=complete_runs, help="Name of a run; the newest if none is given."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Score this text (- is stdin) instead of the run's val split."),
    ] = None,
    encoding: EncodingOption = None,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a run on its val split, or on any text; prints val_loss, its standard error, and bits_per_byte.

    Losses are in nats a token. bits_per_byte compares runs with different tokenizers.

    Example: gptcli eval --json
    """
    from gptcli.runs import find_run

    check_device(device)
    found = find_run(run)
    if run is None and not quiet:
        note(f"The newest run is {found.name}.")
    if encoding is not None and text is None:
        raise typer.BadParameter("--encoding is for a text; give one with --text.")
    content = None if text is None else read_text(text, encoding, "the text")
    import_torch()
    from gptcli.evaluate import evaluate_run

    with progress(quiet=quiet) as going_on:
        result = evaluate_run(found, text=content, which=checkpoint, device=device, on_progress=going_on.show)
    line = (
        f"val_loss={result.val_loss:.4f} val_loss_stderr={result.val_loss_stderr:.4f} "
        f"perplexity={result.perplexity:.4g} bits_per_byte={result.bits_per_byte:.4f} n_tokens={result.n_tokens}"
    )
    emit({"run": found.name, "checkpoint": checkpoint, "text": text, **asdict(result)}, line, as_json=as_json)
