"""``gptcli train``: a profile and a corpus become a run; and a run that was stopped goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
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
from gptcli.cli.completion import complete_runs
from gptcli.cli.processes import (
    NprocOption,
    Processes,
    RestartsOption,
    check_alone,
    check_share,
    device_here,
    find_together,
    is_worker,
    joined,
    train_in,
)
from gptcli.cli.training import (
    DEFAULT_PROFILE,
    BudgetOption,
    CorpusArgument,
    Following,
    LogOption,
    ProfileOption,
    SetOption,
    check_log,
    check_name,
    fit,
    follow,
    warn_about,
)

if TYPE_CHECKING:
    from gptcli.config import RunProfile
    from gptcli.dry_run import Missing
    from gptcli.runs import RunDir
    from gptcli.shards import DatasetManifest, TokenDataset


@reports_errors
def train_command(
    corpus: CorpusArgument = None,
    profile: ProfileOption = None,
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
    log: LogOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what the run would be, and stop. Fetches and prepares what is missing, but no gigabytes.",
        ),
    ] = False,
    nproc: NprocOption = 1,
    max_restarts: RestartsOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a GPT on a corpus; prints the run's folder. Fetches and prepares first where that is missing.

    Ctrl-C finishes the step, saves, and says how to go on.

    Example: gptcli train book --profile macbook
    """
    check_device(device)
    check_log(log)
    processes = Processes(nproc, max_restarts)
    order = _Order(corpus, profile, run, overrides or [], device, budget)
    how = Following(device, tuple(log or ()), quiet, as_json)
    if resume:
        _refuse_with_resume(corpus, profile, budget, dry_run)
    check_alone(processes, "train", budget=budget, dry_run=dry_run)
    if is_worker():
        _train_as_worker(order, how, resume=resume)
    elif dry_run:
        _show_plan(order, how)
    else:
        say = silent if quiet else note
        found, changed = _find_resumed(order, say) if resume else _create(order, nproc, quiet=quiet)
        train_in(processes, found, changed, how, order.overrides if resume else [])


def _show_plan(order: _Order, how: Following) -> None:
    """Print the plan; for a data set of gigabytes that is not here without its tokens."""
    from gptcli.cli.plan import settle
    from gptcli.cli.plan_view import show_plan
    from gptcli.dry_run import plan_training
    from gptcli.places import place_here

    config: RunProfile
    tokens: TokenDataset | Missing
    if order.budget is None and _is_far(order):
        if not how.quiet:
            note("The corpus is not here, and gigabytes are not fetched for a dry run. gptcli plan says the time too.")
        config, tokens = settle(order.corpus, order.profile, order.overrides)
    else:
        config, _, tokens = _fitted(order, quiet=how.quiet)
    show_plan(plan_training(config, tokens, place_here(config.train, order.device)), as_json=how.as_json)


def _is_far(order: _Order) -> bool:
    """Say whether what would be read is a data set of gigabytes that is not here."""
    from gptcli.corpora import choose_corpus
    from gptcli.missing import is_vast
    from gptcli.profiles import find_profile, load_profile

    config = load_profile(find_profile(order.profile or DEFAULT_PROFILE).path, order.overrides)
    return is_vast(choose_corpus(order.corpus, config.data.corpus if order.profile is not None else None))


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be trained."""

    corpus: str | None
    profile: str | None
    run: str | None
    overrides: list[str]
    device: str | None
    budget: float | None


def _create(order: _Order, processes: int, *, quiet: bool) -> tuple[RunDir, None]:
    """Create the run, whatever is wrong with it being found before."""
    config, name, dataset = _fitted(order, quiet=quiet)
    from gptcli.dry_run import check_memory
    from gptcli.parallel import own_share
    from gptcli.runs import create_run, resolve_profile

    check_share(config, processes, order.device)
    share = own_share(resolve_profile(config, dataset), processes)
    check_memory(share, order.device, copies=processes)  # before a run is there that cannot be trained
    return create_run(config, profile_name=name, dataset=dataset, name=order.run), None


def _fitted(order: _Order, *, quiet: bool) -> tuple[RunProfile, str, TokenDataset]:
    """Do what ``_settle`` does, and let the run be as long as its budget."""
    config, name, dataset = _settle(order, quiet=quiet)
    if order.budget is not None:
        from gptcli.dry_run import check_memory
        from gptcli.runs import resolve_profile

        check_memory(resolve_profile(config, dataset), order.device)
        config = fit(config, dataset, order.budget, order.device, silent if quiet else note)
    return config, name, dataset


def _train_as_worker(order: _Order, how: Following, *, resume: bool) -> None:
    """Train as one of several processes that torchrun, or ``--nproc``, has started."""
    with joined() as world:
        quiet = how.quiet or not world.leads
        as_found = replace(order, overrides=order.overrides if resume else [])
        found = find_together(
            *(world, order.run),
            begin=None if resume else partial(_create, order, world.size, quiet=quiet),
            go_on=partial(_find_resumed, as_found, silent if quiet else note),
            prepare=partial(_settle, replace(order, run=None), quiet=True),
        )
        how = replace(how, device=device_here(world, found, order.device))
        follow(found.run, found.profile, how, world, found.dataset)


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


def _find_resumed(order: _Order, say: Say) -> tuple[RunDir, RunProfile | None]:
    """Return the run, and its profile where it is to be changed."""
    from gptcli.runs import change_run, find_run

    found = find_run(order.run)
    if order.run is None:
        say(f"The newest run is {found.name}.")
    changed = change_run(found, order.overrides) if order.overrides else None
    import_torch()
    return found, changed


def _settle(order: _Order, *, quiet: bool) -> tuple[RunProfile, str, TokenDataset]:
    """Read the profile, then have its tokens: whatever is wrong with the command is found before any work is done."""
    from gptcli.profiles import find_profile, load_profile

    corpus, profile = order.corpus, order.profile
    file = find_profile(profile or DEFAULT_PROFILE)
    config = load_profile(file.path, order.overrides)
    _refuse_finetune(config, file.name, corpus)
    from gptcli.corpora import choose_corpus
    from gptcli.prepare import ensure_tokens
    from gptcli.shards import open_dataset

    if order.run is not None:
        check_name(order.run)
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
    if order.overrides or not _keeps_promise(config, dataset.manifest):
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
