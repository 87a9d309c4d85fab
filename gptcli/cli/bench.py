"""``gptcli bench``: how fast this machine trains a profile, and where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.cli.common import (
    DeviceOption,
    JsonOption,
    QuietOption,
    check_device,
    import_torch,
    note,
    progress,
    reports_errors,
    silent,
)
from gptcli.cli.training import DEFAULT_PROFILE, CorpusArgument, ProfileOption, SetOption

if TYPE_CHECKING:
    from gptcli.config import RunProfile
    from gptcli.shards import TokenDataset


@reports_errors
def bench_command(
    corpus: CorpusArgument = None,
    profile: ProfileOption = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many steps are timed; else 20, or what a minute has.",
            show_default=False,
        ),
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how fast this machine trains a profile, and where the time goes; prints the figures.

    Trains some steps of a run that is thrown away, evaluates and saves it once. Fetches and prepares first where that
    is missing.

    Example: gptcli bench --profile quickstart --steps 5
    """
    check_device(device)
    from gptcli.cli.plan import refuse_finetune
    from gptcli.profiles import find_profile, load_profile

    file = find_profile(profile or DEFAULT_PROFILE)
    config = load_profile(file.path, overrides or [])
    refuse_finetune(config, file, corpus)
    import_torch()
    from gptcli.bench import bench
    from gptcli.cli.plan_view import show_bench
    from gptcli.dry_run import check_memory
    from gptcli.places import place_here
    from gptcli.runs import resolve_profile

    place_here(config.train, device)  # a device that is not there is found before any work is done
    dataset = _tokens(corpus, config, is_asked_for=profile is not None, quiet=quiet)
    say = silent if quiet else note
    if (warning := check_memory(resolve_profile(config, dataset), device)) is not None:
        say(f"{warning[0].upper()}{warning[1:]}")
    facts = bench(config, dataset, steps=steps, device=device, say=say)
    show_bench({"profile_name": file.name, **facts}, as_json=as_json)


def _tokens(corpus: str | None, config: RunProfile, *, is_asked_for: bool, quiet: bool) -> TokenDataset:
    """Return the tokens that a run would read, made where they are missing."""
    from gptcli.corpora import choose_corpus
    from gptcli.prepare import ensure_tokens
    from gptcli.shards import open_dataset

    if corpus is not None and (Path(corpus) / "manifest.json").is_file():
        return open_dataset(Path(corpus))  # what gptcli prepare prints
    wanted = choose_corpus(corpus, config.data.corpus if is_asked_for else None)
    with progress(quiet=quiet) as going_on:
        result = ensure_tokens(wanted, config.data, on_notice=going_on.note, on_progress=going_on.show)
    return open_dataset(result.folder)
