"""``gptcli train``: a profile and a corpus become a run; and a run that was stopped goes on."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.cli.common import (
    DeviceOption,
    JsonOption,
    QuietOption,
    Say,
    check_device,
    import_torch,
    note,
    progress,
    reports_errors,
    silent,
)
from gptcli.cli.completion import complete_profiles, complete_runs
from gptcli.cli.training import BudgetOption, CorpusArgument, SetOption, check_name, fit, follow, show_facts, warn_about

if TYPE_CHECKING:
    from gptcli.config import RunProfile
    from gptcli.runs import RunDir
    from gptcli.shards import DatasetManifest, TokenDataset

DEFAULT_PROFILE = "quickstart"


@reports_errors
def train_command(
    corpus: CorpusArgument = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=complete_profiles,
            help="A run profile, or a YAML file; else quickstart.",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", autocompletion=complete_runs, help="Name of the new run, or of the one to resume."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run; with the newest if --run names none.")
    ] = False,
    overrides: SetOption = None,
    device: DeviceOption = None,
    budget: BudgetOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what the run would be, and stop. What it needs is still fetched and prepared."
        ),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a GPT on a corpus; prints the run's folder. Fetches and prepares first where that is missing.

    Ctrl-C finishes the step, saves, and says how to go on.

    Example: gptcli train book --profile macbook
    """
    check_device(device)
    say = silent if quiet else note
    if resume:
        _refuse_with_resume(corpus, profile, budget, dry_run)
        found, changed = _find_resumed(run, overrides or [], say)
    else:
        config, name, dataset = _settle(corpus, profile, run, overrides or [], quiet=quiet)
        from gptcli.dry_run import check_memory
        from gptcli.runs import create_run, resolve_profile

        if budget is not None or not dry_run:
            check_memory(resolve_profile(config, dataset), device)  # before a run is there that cannot be trained
        if budget is not None:
            config = fit(config, dataset, budget, device, say)
        if dry_run:
            from gptcli.dry_run import plan_training

            show_facts(plan_training(config, dataset, device=device), as_json=as_json)
            return
        found, changed = create_run(config, profile_name=name, dataset=dataset, name=run), None
    follow(found, changed, device, quiet=quiet, as_json=as_json)


def _refuse_with_resume(corpus: str | None, profile: str | None, budget: float | None, dry_run: bool) -> None:
    """A resumed run has its corpus, profile and number of steps; saying another is a mistake in the command."""
    if dry_run:
        raise typer.BadParameter(
            "--dry-run says what a new run would be. What a run is that goes on, and how far: gptcli runs show RUN"
        )
    given = {"CORPUS": corpus, "--profile": profile, "--budget": budget}
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise typer.BadParameter(
            f"--resume goes on with what the run began with; leave out {', '.join(wrong)} (--set changes train.* keys)."
        )


def _find_resumed(run: str | None, overrides: list[str], say: Say) -> tuple[RunDir, RunProfile | None]:
    """Return the run, and its profile where it is to be changed."""
    from gptcli.runs import change_run, find_run

    found = find_run(run)
    if run is None:
        say(f"The newest run is {found.name}.")
    changed = change_run(found, overrides) if overrides else None
    import_torch()
    return found, changed


def _settle(
    corpus: str | None, profile: str | None, run: str | None, overrides: list[str], *, quiet: bool
) -> tuple[RunProfile, str, TokenDataset]:
    """Read the profile, then have its tokens: whatever is wrong with the command is found before any work is done."""
    from gptcli.profiles import find_profile, load_profile

    file = find_profile(profile or DEFAULT_PROFILE)
    config = load_profile(file.path, overrides)
    _refuse_finetune(config, file.name, corpus)
    from gptcli.corpora import choose_corpus
    from gptcli.prepare import ensure_tokens
    from gptcli.shards import open_dataset

    if run is not None:
        check_name(run)
    if corpus is not None and (Path(corpus) / "manifest.json").is_file():
        folder = Path(corpus)  # what gptcli prepare prints
    else:
        # A profile that nobody chose has no say in what is read.
        wanted = choose_corpus(corpus, config.data.corpus if profile is not None else None)
        with progress(quiet=quiet) as going_on:
            result = ensure_tokens(wanted, config.data, on_notice=going_on.note, on_progress=going_on.show)
            if config.data.tokenizer == "auto":
                going_on.note(f"Tokenizer {result.manifest.tokenizer}: {result.tokenizer_reason}.")
        folder = result.folder
    dataset = open_dataset(folder)
    if not quiet:
        warn_about(dataset.manifest, config)
    if overrides or not _keeps_promise(config, dataset.manifest):
        config = config.without_promise()
    import_torch()
    return config, file.name, dataset


def _refuse_finetune(config: RunProfile, name: str, corpus: str | None) -> None:
    """Training from scratch has no use for a finetune section, and silence would cost somebody hours."""
    from gptcli.config import FinetuneConfig
    from gptcli.errors import ProfileError

    if config.finetune == FinetuneConfig():
        return
    base = config.finetune.base
    raise ProfileError(
        f"The profile {name} is for finetuning{f' {base}' if base else ''}; gptcli train begins from nothing.",
        f"gptcli finetune {quote(corpus or config.data.corpus or 'CORPUS')} --profile {quote(name)}"
        + ("" if base else " --from gpt2"),
    )


def _keeps_promise(config: RunProfile, manifest: DatasetManifest) -> bool:
    """Say whether these are the tokens that the profile's promise was measured with."""
    from gptcli.prepare import split_agrees

    same_text = manifest.corpus == config.data.corpus and manifest.tokenizer == config.expects.tokenizer
    return same_text and split_agrees(manifest, config.data) and manifest.val_fraction == config.data.val_fraction
