"""``gptcli plan``: what a run would be, need and take, before anything is fetched, prepared or trained."""

from __future__ import annotations

import math
import re
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.cli.common import (
    JsonOption,
    QuietOption,
    import_torch,
    note,
    reports_errors,
    silent,
)
from gptcli.cli.completion import complete_devices
from gptcli.cli.training import DEFAULT_PROFILE, CorpusArgument, ProfileOption, SetOption
from gptcli.errors import ProfileError

if TYPE_CHECKING:
    from gptcli.config import RunProfile
    from gptcli.dry_run import Missing
    from gptcli.profiles import ProfileFile
    from gptcli.shards import TokenDataset

UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_memory(text: str) -> int:
    """Return the bytes of ``8GB``, ``7.5 GiB`` or ``500MB``; a number without a unit, or other words, are refused."""
    word = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", word, re.ASCII):
        raise typer.BadParameter(f"{text!r} has no unit; write {word}GB or {word}MB.")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)b?", word.lower(), re.ASCII)
    size = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 1 <= size < 2**63:
        raise typer.BadParameter(f"{text!r} is no amount of memory; write 8GB, 7.5GiB or 500MB.")
    return math.floor(size)


@reports_errors
def plan_command(
    corpus: CorpusArgument = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            autocompletion=complete_devices,
            help="Where the run is to be: auto, cpu, cuda, mps, or a card that is elsewhere, such as 'RTX 3070'.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(parser=parse_memory, metavar="SIZE", help="Plan for so much memory, such as 8GB."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say what a run would be and need, and how long it would take; prints the plan.

    Nothing is fetched, prepared or written: where the tokens are missing, what they decide is left open. The time is
    from up to 20 steps on this machine, or for a card that is not here reckoned from its data sheet.

    Example: gptcli plan --profile gpt2-124m --device a100
    """
    config, tokens = settle(corpus, profile, overrides or [])
    from gptcli.cli.plan_view import show_plan
    from gptcli.forecast import plan_run
    from gptcli.places import find_place

    place = find_place(config.train, device)
    facts = plan_run(config, tokens, place, memory=memory, on_progress=silent if quiet else note)
    show_plan(facts, as_json=as_json)


def settle(corpus: str | None, profile: str | None, overrides: list[str]) -> tuple[RunProfile, TokenDataset | Missing]:
    """Read the profile, and find the tokens that a run of it would read, or what would be made where there are none."""
    from gptcli.profiles import find_profile, load_profile

    file = find_profile(profile or DEFAULT_PROFILE)
    config = load_profile(file.path, overrides)
    refuse_finetune(config, file, corpus)
    import_torch()
    return config, _tokens(corpus, config, file if profile is not None else None)


def refuse_finetune(config: RunProfile, file: ProfileFile, corpus: str | None) -> None:
    """A finetune takes its shape from what it begins from, and says itself what it needs."""
    from gptcli.config import FinetuneConfig

    if config.finetune == FinetuneConfig():
        return
    base = "" if config.finetune.base else " --from gpt2"
    raise ProfileError(
        f"The profile {file.name} is for finetuning, whose shape is that of the model it begins from.",
        f"gptcli finetune {quote(corpus or config.data.corpus or 'CORPUS')} --profile {quote(file.name)}{base} "
        "--dry-run says what it needs.",
    )


def _tokens(corpus: str | None, config: RunProfile, file: ProfileFile | None) -> TokenDataset | Missing:
    """Return the tokens, or what would be made; ``file`` is the profile where one was asked for."""
    from gptcli.corpora import choose_corpus
    from gptcli.dry_run import Missing
    from gptcli.prepare import find_tokens
    from gptcli.shards import open_dataset

    if corpus is not None and (Path(corpus) / "manifest.json").is_file():
        return open_dataset(Path(corpus))  # what gptcli prepare prints
    wanted = choose_corpus(corpus, config.data.corpus if file is not None else None)
    folder, tokenizer = find_tokens(wanted, config.data)
    if folder is not None:
        return open_dataset(folder)
    if tokenizer == "auto" and wanted == config.data.corpus:
        tokenizer = config.expects.tokenizer or tokenizer  # what its promise was measured with
    of = "" if file is None else f" --profile {quote(file.name if file.builtin else str(file.path))}"
    return Missing(wanted, tokenizer, f"gptcli prepare {quote(wanted)}{of}")
