"""``gptcli train``: a profile and a corpus become a run; and a run that was stopped goes on."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    DeviceOption,
    JsonOption,
    QuietOption,
    check_device,
    emit,
    note,
    progress,
    reports_errors,
    silent,
)

if TYPE_CHECKING:
    from gptcli.config import RunProfile
    from gptcli.display import TrainView
    from gptcli.events import RunFinished
    from gptcli.runs import RunDir
    from gptcli.shards import DatasetManifest, TokenDataset
    from gptcli.train import StopRequest

DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
DEFAULT_PROFILE = "quickstart"
Say = Callable[[str], None]


def parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``10m``, ``1h30m`` or ``1.5h``; other words are a usage error."""
    match = DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise typer.BadParameter(f"{text!r} is not a duration; write 90s, 10m or 1h30m.")
    return total


@reports_errors
def train_command(
    corpus: Annotated[
        str | None, typer.Argument(metavar="CORPUS", help="A fetched corpus or a recipe; else the profile's own.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="A run profile, or a YAML file. [default: quickstart]"),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the new run, or of the one to resume.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run; with the newest if --run names none.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the profile. May be repeated."),
    ] = None,
    device: DeviceOption = None,
    budget: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="TIME", help="Fit the number of steps to 90s, 10m or 1h30m."),
    ] = None,
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
    """
    check_device(device)
    say = silent if quiet else note
    if resume:
        _refuse_with_resume(corpus, profile, budget, dry_run)
        found, changed = _find_resumed(run, overrides or [], say)
    else:
        config, name, dataset = _settle(corpus, profile, run, overrides or [], quiet=quiet)
        if budget is not None:
            config = _fit(config, dataset, budget, device, say)
        if dry_run:
            _show_dry_run(config, dataset, device, as_json=as_json)
            return
        found, changed = _create(config, name, dataset, run, device), None
    finished = _consume(found, changed, device, quiet=quiet)
    result = {**asdict(finished), "folder": found.path}
    emit(result, str(found.path), as_json=as_json)
    if finished.reason != "completed":
        raise typer.Exit(EXIT_INTERRUPTED if finished.reason == "interrupted" else EXIT_TERMINATED)


def _refuse_with_resume(corpus: str | None, profile: str | None, budget: float | None, dry_run: bool) -> None:
    """A resumed run has its corpus, profile and number of steps; saying another is a mistake in the command."""
    given = {"CORPUS": corpus, "--profile": profile, "--budget": budget, "--dry-run": dry_run or None}
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
    return found, change_run(found, overrides) if overrides else None


def _settle(
    corpus: str | None, profile: str | None, run: str | None, overrides: list[str], *, quiet: bool
) -> tuple[RunProfile, str, TokenDataset]:
    """Read the profile, then have its tokens: whatever is wrong with the command is found before any work is done."""
    from gptcli.profiles import find_profile, load_profile

    file = find_profile(profile or DEFAULT_PROFILE)
    config = load_profile(file.path, overrides)
    from gptcli.corpora import choose_corpus
    from gptcli.doctor import diagnose
    from gptcli.prepare import ensure_tokens
    from gptcli.runs import check_run_name
    from gptcli.shards import open_dataset

    if run is not None:
        check_run_name(run)
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
    for finding in diagnose(dataset.manifest, config):
        if finding.level == "warning" and not quiet:
            note(f"warning: {finding.text}")
    if overrides or not _keeps_promise(config, dataset.manifest):
        config = config.without_promise()
    return config, file.name, dataset


def _keeps_promise(config: RunProfile, manifest: DatasetManifest) -> bool:
    """Say whether these are the tokens that the profile's promise was measured with."""
    from gptcli.prepare import split_agrees

    same_text = manifest.corpus == config.data.corpus and manifest.tokenizer == config.expects.tokenizer
    return same_text and split_agrees(manifest, config.data) and manifest.val_fraction == config.data.val_fraction


def _show_dry_run(config: RunProfile, dataset: TokenDataset, device: str | None, *, as_json: bool) -> None:
    from gptcli.budget import dry_run

    facts = dry_run(config, dataset, device=device)
    lines = [f"{key}: {_figure(value)}" for key, value in facts.items() if key != "profile"]
    emit(facts, "\n".join(lines), as_json=as_json)


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:.3g}" if isinstance(value, int) and value >= 1e12 else str(value)


def _fit(config: RunProfile, dataset: TokenDataset, budget: float, device: str | None, say: Say) -> RunProfile:
    from gptcli.budget import fit_budget

    say("Timing some steps to fit the run to its budget.")
    config, sentence = fit_budget(config, dataset, budget, device=device)
    say(sentence)
    return config


def _create(
    config: RunProfile, profile_name: str, dataset: TokenDataset, name: str | None, device: str | None
) -> RunDir:
    """Create the run once it is known that it can be trained here, so that no dead one stays behind."""
    from gptcli.runs import create_run, resolve_profile
    from gptcli.trainer import make_setup

    make_setup(resolve_profile(config, dataset), device)
    return create_run(config, profile_name=profile_name, dataset=dataset, name=name)


def _consume(run: RunDir, changed: RunProfile | None, device: str | None, *, quiet: bool) -> RunFinished:
    """Train and show what happens; returns the last event. A second signal stops at once, saying how to go on."""
    from gptcli.display import TrainView, next_command, stderr_console
    from gptcli.events import RunFinished
    from gptcli.train import StopRequest, train

    stop, finished = StopRequest(), None
    try:
        with (
            TrainView(stderr_console()) as view,
            _stop_on_signals(stop, view),
            contextlib.closing(train(run, profile=changed, device=device, stop=stop)) as events,
        ):
            for event in events:
                if not quiet:
                    view.show(event)
                if isinstance(event, RunFinished):
                    finished = event
    except (KeyboardInterrupt, SystemExit):
        note(f"Stopped at once. To go on from the last checkpoint: gptcli train --resume --run {run.name}")
        raise
    assert finished is not None, "RunFinished is the last event of every run"
    if quiet and finished.reason != "completed":
        note(f"Stopped after step {finished.step}. To go on: {next_command(finished)}")
    return finished


@contextlib.contextmanager
def _stop_on_signals(stop: StopRequest, view: TrainView) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM ask for an end after the step, the second end it at once."""

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal passes
        if stop.reason is None:
            stop.reason = "terminated" if number == signal.SIGTERM else "interrupted"
            view.stopping("Finishing the step, then saving. Once more stops at once.")
        elif number == signal.SIGTERM:
            raise SystemExit(EXIT_TERMINATED)
        else:
            raise KeyboardInterrupt

    old: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
