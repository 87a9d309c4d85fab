"""``gptcli finetune``: weights that exist already go on learning from a corpus, as a run of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, NamedTuple

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
from gptcli.cli.completion import complete_models, complete_profiles
from gptcli.cli.processes import NprocOption, Processes, RestartsOption, check_alone, check_share, train_in
from gptcli.cli.training import (
    BudgetOption,
    CorpusArgument,
    Following,
    LogOption,
    SetOption,
    check_log,
    check_name,
    fit,
    show_facts,
    warn_about,
)
from gptcli.errors import ProfileError, RunError, TokenizerError

if TYPE_CHECKING:
    from gptcli.bases.base import Base
    from gptcli.bases.opening import BaseFacts
    from gptcli.config import RunProfile
    from gptcli.profiles import ProfileFile
    from gptcli.runs import RunDir
    from gptcli.shards import TokenDataset

# The profile for whoever names none, by the largest number of weights it is meant for.
DEFAULT_PROFILES = ((30_000_000, "finetune-small"), (200_000_000, "finetune-gpt2"))
LARGE_PROFILE = "finetune-lora"


class _Order(NamedTuple):
    """What is asked for, checked as far as it can be before anything large is touched."""

    base: str
    profile: RunProfile
    """Settled against the shape of the base."""
    profile_name: str
    corpus: str
    facts: BaseFacts


@reports_errors
def finetune_command(
    corpus: CorpusArgument = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            autocompletion=complete_models,
            metavar="MODEL",
            help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, a Hugging Face name such as Qwen/Qwen3-0.6B-Base, a folder, "
            "a run, or nanogpt:FILE; else the profile's own.",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=complete_profiles,
            help="A run profile, or a YAML file; else a finetune profile by the size of the model.",
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the new run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", hidden=True)] = False,
    overrides: SetOption = None,
    device: DeviceOption = None,
    budget: BudgetOption = None,
    log: LogOption = None,
    nproc: NprocOption = 1,
    max_restarts: RestartsOption = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run would need, and stop; no weights are downloaded.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Finetune a model that exists on a corpus; prints the run's folder. The corpus gets the model's own tokens.

    The first row of the table is the model before any training. Ctrl-C saves: gptcli train --resume goes on.

    Example: gptcli finetune book --from gpt2
    """
    if resume:
        raise typer.BadParameter(f"a finetuned run goes on as any other: gptcli train --resume --run {run or 'NAME'}")
    processes = Processes(nproc, max_restarts)
    check_alone(processes, "finetune", budget=budget, dry_run=dry_run)
    if dry_run and budget is not None:
        raise typer.BadParameter("--budget times real steps, which --dry-run does not do; leave one out.")
    check_device(device)
    check_log(log)
    order = _read_order(corpus, base, profile, overrides or [], quiet=quiet)
    if run is not None:
        check_name(run)
    if dry_run:
        _show_plan(order, device, as_json=as_json)
        return
    check_share(order.profile, nproc, device)
    found = _create(order, run, budget, device, quiet=quiet)
    train_in(processes, found, None, Following(device, tuple(log or ()), quiet, as_json), [])


def _show_plan(order: _Order, device: str | None, *, as_json: bool) -> None:
    from gptcli.dry_run import memory_warning, plan_finetune

    if warning := memory_warning(order.profile, device):
        note(f"warning: {warning}")
    show_facts(plan_finetune(order.profile, order.facts, order.corpus, device=device), as_json=as_json)


def _read_order(
    corpus: str | None, base: str | None, profile: str | None, overrides: list[str], *, quiet: bool
) -> _Order:
    """Find whatever is wrong with the command, with the profile and the shape of the base in hand."""
    from gptcli.corpora import choose_corpus
    from gptcli.profiles import find_profile, load_profile

    if profile is not None:
        file = find_profile(profile)
        config = load_profile(file.path, overrides)
        base = base or config.finetune.base
        if base is None:
            raise RunError(f"The profile {file.name} names no model to begin from.", _from_hint(corpus))
    elif base is None:
        raise RunError("There is no model to begin from.", _from_hint(corpus))
    import_torch()
    from gptcli.bases.opening import describe_base
    from gptcli.finetune import settle_profile
    from gptcli.missing import check_corpus

    facts = describe_base(base)
    if profile is None:
        file = _profile_for(facts, quiet=quiet)
        config = load_profile(file.path, overrides)
    wanted = choose_corpus(corpus, config.data.corpus)
    if not _is_tokens(wanted):
        check_corpus(wanted)
    if overrides or base != config.finetune.base or wanted != config.data.corpus:
        config = config.without_promise()
    return _Order(base, settle_profile(config, base, facts.config), file.name, wanted, facts)


def _from_hint(corpus: str | None) -> str:
    return (
        f"Name one: gptcli finetune {quote(corpus or 'CORPUS')} --from gpt2   "
        "(or a run, a folder, a Hugging Face name, nanogpt:FILE)"
    )


def _profile_for(base: BaseFacts, *, quiet: bool) -> ProfileFile:
    """Choose a profile by the size of the base."""
    from gptcli.figures import count_text
    from gptcli.plan import count_parameters
    from gptcli.profiles import find_profile

    n_params = count_parameters(base.config)
    name = next((name for limit, name in DEFAULT_PROFILES if n_params <= limit), LARGE_PROFILE)
    if not quiet:
        note(f"Profile {name}, for a model of {count_text(n_params)} parameters.")
    return find_profile(name)


def _is_tokens(corpus: str) -> bool:
    """Say whether this is a folder of tokens, which is what gptcli prepare prints."""
    return (Path(corpus) / "manifest.json").is_file()


def _create(order: _Order, name: str | None, budget: float | None, device: str | None, *, quiet: bool) -> RunDir:
    """Open the base, match the tokens to it, and create the run; the weights lie in the run then."""
    from gptcli.bases.opening import open_base
    from gptcli.dry_run import check_memory
    from gptcli.finetune import create_finetune

    say = silent if quiet else note
    with progress(quiet=quiet) as going_on:
        base = open_base(order.base, on_notice=going_on.note, on_progress=going_on.show)
    for line in base.notes:
        say(line)
    config = order.profile
    dataset = _matching_tokens(order, base, quiet=quiet)
    if not quiet:
        warn_about(dataset.manifest, config)
    check_memory(config, device)
    create = partial(create_finetune, base=base, device=device)
    if budget is not None:
        config = fit(config, dataset, budget, device, say, create)
    with progress(quiet=quiet) as going_on:
        going_on.show("Writing the weights into the run.")
        return create(config, profile_name=order.profile_name, dataset=dataset, name=name)


def _matching_tokens(order: _Order, base: Base, *, quiet: bool) -> TokenDataset:
    """Return the corpus in the base's own tokens, made now where they are missing."""
    from gptcli.prepare import ensure_tokens
    from gptcli.shards import open_dataset

    data = order.profile.data
    if data.tokenizer not in ("auto", base.tokenizer.name):
        raise ProfileError(
            f"data.tokenizer is {data.tokenizer}, but {base.name} comes with its own, {base.tokenizer.name}.",
            "Leave it out: the corpus is made into the model's tokens.",
        )
    if _is_tokens(order.corpus):
        return open_dataset(Path(order.corpus))
    try:
        with progress(quiet=quiet) as going_on:
            result = ensure_tokens(
                order.corpus, data, tokenizer=base.tokenizer, on_notice=going_on.note, on_progress=going_on.show
            )
    except TokenizerError as error:
        if base.tokenizer.name != "char":
            raise
        raise TokenizerError(
            error.message,
            f"{base.name} can learn no others. Begin from a model whose tokens can hold any text: "
            f"gptcli finetune {quote(order.corpus)} --from gpt2   (or a run on bpe:512)",
        ) from error
    return open_dataset(result.folder)
