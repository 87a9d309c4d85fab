"""``gptcli finetune``: weights that exist already go on learning from a corpus, as a run of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from gptcli.cli.common import (
    DeviceOption,
    JsonOption,
    QuietOption,
    check_device,
    note,
    progress,
    reports_errors,
    silent,
)
from gptcli.cli.training import BudgetOption, SetOption, fit, follow, show_facts, warn_about
from gptcli.errors import CorpusError, RunError

if TYPE_CHECKING:
    from gptcli.bases.base import Base
    from gptcli.config import RunProfile
    from gptcli.runs import RunDir
    from gptcli.shards import TokenDataset

# The profile for whoever names none, by the largest number of weights it is meant for.
DEFAULT_PROFILES = ((30_000_000, "finetune-small"), (200_000_000, "finetune-gpt2"))
LARGE_PROFILE = "finetune-lora"
FROM_HINT = "Name one: gptcli finetune CORPUS --from gpt2   (or a run, a folder, a Hugging Face name, nanogpt:FILE)"


class _Order(NamedTuple):
    """What is asked for, before anything large is touched."""

    base: str
    profile: RunProfile
    profile_name: str


@reports_errors
def finetune_command(
    corpus: Annotated[
        str | None, typer.Argument(metavar="CORPUS", help="A fetched corpus or a recipe; else the profile's own.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, a Hugging Face name such as Qwen/Qwen3-0.6B-Base, a folder, "
            "a run, or nanogpt:FILE; else the profile's own.",
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="A run profile, or a YAML file; else a finetune profile by the size of the model."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the new run.")] = None,
    overrides: SetOption = None,
    device: DeviceOption = None,
    budget: BudgetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run would need, and stop; no weights are downloaded.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Finetune a model that exists on a corpus; prints the run's folder. The corpus gets the model's own tokens.

    The first row of the table is the model before any training. Ctrl-C saves: gptcli train --resume goes on.
    """
    check_device(device)
    if dry_run and budget is not None:
        raise typer.BadParameter("--budget times real steps, which --dry-run does not do; leave one out.")
    order = _read_order(base, profile, overrides or [], quiet=quiet)
    if run is not None:
        from gptcli.runs import check_run_name

        check_run_name(run)
    if dry_run:
        from gptcli.bases.opening import describe_base
        from gptcli.dry_run import plan_finetune

        facts = plan_finetune(order.profile, describe_base(order.base), corpus, device=device)
        show_facts(facts, as_json=as_json)
        return
    found = _create(order, corpus, run, budget, device, quiet=quiet)
    follow(found, None, device, quiet=quiet, as_json=as_json)


def _create(
    order: _Order, corpus: str | None, name: str | None, budget: float | None, device: str | None, *, quiet: bool
) -> RunDir:
    """Open the base, match the tokens to it, and create the run; the weights lie in the run then."""
    from gptcli.bases.opening import open_base
    from gptcli.dry_run import memory_warning
    from gptcli.finetune import create_finetune, settle_profile

    say = silent if quiet else note
    with progress(quiet=quiet) as going_on:
        base = open_base(order.base, on_notice=going_on.note, on_progress=going_on.show)
    for line in base.notes:
        say(line)
    config = settle_profile(order.profile, base.name, base.config)
    dataset = _matching_tokens(corpus or config.data.corpus, config, base, quiet=quiet)
    if not quiet:
        warn_about(dataset.manifest, config)
    if warning := memory_warning(config, device):
        say(f"warning: {warning}")
    create = partial(create_finetune, base=base, device=device)
    if budget is not None:
        config = fit(config, dataset, budget, device, say, create)
    with progress(quiet=quiet) as going_on:
        going_on.show("Writing the weights into the run.")
        return create(config, profile_name=order.profile_name, dataset=dataset, name=name)


def _read_order(base: str | None, profile: str | None, overrides: list[str], *, quiet: bool) -> _Order:
    """Read the profile, or choose one by the size of the model; a mistake in it is found before anything else."""
    from gptcli.profiles import find_profile, load_profile

    if profile is not None:
        file = find_profile(profile)
        config = load_profile(file.path, overrides)
        base = base or config.finetune.base
        if base is None:
            raise RunError(f"The profile {file.name} names no model to begin from.", FROM_HINT)
        return _Order(base, config, file.name)
    if base is None:
        raise RunError("There is no model to begin from.", FROM_HINT)
    from gptcli.bases.opening import describe_base
    from gptcli.plan import count_parameters

    n_params = count_parameters(describe_base(base).config)
    name = next((name for limit, name in DEFAULT_PROFILES if n_params <= limit), LARGE_PROFILE)
    if not quiet:
        note(f"Profile {name}, for a model of {n_params / 1e6:,.0f}M parameters.")
    return _Order(base, load_profile(find_profile(name).path, overrides), name)


def _matching_tokens(corpus: str | None, config: RunProfile, base: Base, *, quiet: bool) -> TokenDataset:
    """Return the corpus in the base's own tokens, made now where they are missing."""
    from gptcli.corpora import choose_corpus
    from gptcli.prepare import ensure_tokens
    from gptcli.shards import open_dataset

    if corpus is not None and (Path(corpus) / "manifest.json").is_file():
        dataset = open_dataset(Path(corpus))  # what gptcli prepare prints
        if dataset.manifest.fingerprint != base.tokenizer.fingerprint:
            raise CorpusError(
                f"{corpus}: these tokens were made with {dataset.manifest.tokenizer} "
                f"({dataset.manifest.fingerprint}), {base.name} needs its own {base.tokenizer.name} "
                f"({base.tokenizer.fingerprint}).",
                f"Name the corpus, and its tokens are made to match: gptcli finetune {dataset.manifest.corpus}",
            )
        return dataset
    wanted = choose_corpus(corpus, None)
    with progress(quiet=quiet) as going_on:
        result = ensure_tokens(
            wanted, config.data, tokenizer=base.tokenizer, on_notice=going_on.note, on_progress=going_on.show
        )
    return open_dataset(result.folder)
