"""``gptcli profiles suggest``: a profile for a text, this machine and a time, with the reason of every choice."""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.cli.common import (
    DeviceOption,
    JsonOption,
    NewestCorpus,
    QuietOption,
    check_device,
    emit,
    import_torch,
    note,
    progress,
    reports_errors,
    silent,
    write_stdout,
)
from gptcli.cli.profiles_import import profile_name
from gptcli.errors import ProfileError

if TYPE_CHECKING:
    from gptcli.shards import TokenDataset
    from gptcli.suggest import Suggestion

YEAR_MINUTES = 366 * 24 * 60


def parse_minutes(text: str) -> float:
    """Return a number of minutes above 0; anything else is a usage error."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= YEAR_MINUTES:
        raise typer.BadParameter(f"{text!r} is not a number of minutes above 0 and up to a year; write 10 or 0.5.")
    return minutes


@reports_errors
def suggest_command(
    corpus: NewestCorpus = None,
    minutes: Annotated[
        float,
        typer.Option(
            parser=parse_minutes, metavar="MINUTES", help="How long the training may take.", show_default="10"
        ),
    ] = 10.0,
    device: DeviceOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.yaml", help="Write the profile there, and print its path."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile that is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Suggest a profile for a text, this machine and a time; prints it, each value below its reason.

    Times some steps on this machine, about ten seconds. Fetches and prepares first where that is missing.

    Example: gptcli profiles suggest python-docs --minutes 2
    """
    check_device(device)
    if output is not None:
        _check_output(output, force=force)
    import_torch()
    from gptcli.config import RunProfile
    from gptcli.suggest import suggest
    from gptcli.trainer import make_setup

    make_setup(RunProfile(), device)  # a device that is not there is found before any work is done
    say = silent if quiet else note
    dataset, reason = _tokens(corpus, quiet=quiet)
    found = suggest(dataset, 60 * minutes, device=device, tokenizer_reason=reason, on_progress=say)
    text = _profile_text(found)
    if output is not None:
        from gptcli.files import atomic_write

        with atomic_write(output) as file:
            file.write(text.encode())
    for line in _summary(dataset, found, output, 60 * minutes):
        say(line)
    if as_json:
        facts = {
            "path": output,
            "profile": found.profile.model_dump(mode="json"),
            "reasons": {".".join(map(str, path)): why for path, why in found.reasons.items() if why},
            "measured": found.measured,
            "expected": found.expected,
        }
        emit(facts, "", as_json=True)
    elif output is not None:
        emit({}, str(output), as_json=False)
    else:
        write_stdout(text)


def _check_output(output: Path, *, force: bool) -> None:
    """Refuse before any work what could not be written in the end."""
    if output.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"--output {output}: a profile is a .yaml file.")
    if output.is_dir():
        raise ProfileError(f"{output} is a folder.", f"--output {quote(str(output / 'my.yaml'))}")
    if output.exists() and not force:
        raise ProfileError(f"{output} is there already.", "--force replaces it; --output FILE.yaml writes another.")


def _tokens(corpus: str | None, *, quiet: bool) -> tuple[TokenDataset, str]:
    """Return the tokens of a corpus, made where they are missing, and why they have their tokenizer."""
    from gptcli.config import DataConfig
    from gptcli.corpora import choose_corpus
    from gptcli.prepare import ensure_tokens
    from gptcli.shards import open_dataset

    if corpus is not None and (Path(corpus) / "manifest.json").is_file():
        return open_dataset(Path(corpus)), "these tokens were asked for"
    with progress(quiet=quiet) as going_on:
        result = ensure_tokens(
            choose_corpus(corpus, None), DataConfig(), on_notice=going_on.note, on_progress=going_on.show
        )
    return open_dataset(result.folder), result.tokenizer_reason


def _profile_text(found: Suggestion) -> str:
    """Return the profile as YAML, each value below its reason, in the order of the fields."""
    from gptcli.profile_docs import explained
    from gptcli.suggest import time_text

    measured, expected = found.measured, found.expected
    header = (
        f"A suggestion for {time_text(expected['seconds'])}, by gptcli profiles suggest.\n"
        f"Measured: {1000 * measured['step_seconds']:.3g} ms a step, {measured['tokens_per_second']:,.0f} tokens/s on "
        f"{measured['device']} ({measured['device_reason']}).\n"
        "Loss: depends on the text, so none is promised."
    )
    return explained(found.profile, found.reasons, header)


def _summary(dataset: TokenDataset, found: Suggestion, output: Path | None, seconds: float) -> list[str]:
    """Return what was measured and what is expected, for a person, and how to go on."""
    from gptcli.figures import count_text, duration_text
    from gptcli.sizing import times_text

    model, measured, expected = found.profile.model, found.measured, found.expected
    corpus = found.profile.data.corpus or "CORPUS"
    keep = "keep it with --output FILE.yaml, then " if output is None else ""
    where = "FILE.yaml" if output is None else quote(profile_name(output))
    text = (
        f"{len(dataset.train):,} train tokens of {dataset.manifest.tokenizer}, {dataset.manifest.train.bytes:,} bytes "
        "in train"
    )
    pace = (
        f"{1000 * measured['step_seconds']:.3g} ms a step, {count_text(measured['tokens_per_second'])} tokens/s, "
        f"{measured['evaluation_seconds']:.2g} s an evaluation"
    )
    shape = f"n_layer {model.n_layer}, n_embd {model.n_embd}, block_size {model.block_size}"
    passes = f"{expected['max_steps']:,} steps read the text {times_text(expected['epochs'])}"
    less = "" if expected["seconds"] >= seconds else ", less than was asked for: there is too little text for more"
    return [
        f"Text: {text}.",
        f"Measured on {measured['device']}: {pace}.",
        f"Suggested: {shape}, {count_text(expected['n_params'])} parameters.",
        f"Expected: {passes} in about {duration_text(expected['seconds'])}{less}.",
        f"Next: {keep}gptcli train {quote(corpus)} --profile {where}",
    ]
