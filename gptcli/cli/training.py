"""What ``train`` and ``finetune`` share: options, how a run is followed, and what a signal does to it.

Knows how to watch a run, not how one comes about.
"""

from __future__ import annotations

import contextlib
import errno
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptcli.cli.common import EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED, Say, emit, forget, note, silent
from gptcli.cli.completion import complete_keys, complete_profiles, complete_sources
from gptcli.errors import device_lost, is_device_lost

if TYPE_CHECKING:
    from gptcli.budget import Create
    from gptcli.config import RunProfile
    from gptcli.display import TrainView
    from gptcli.events import RunFinished, TrainEvent
    from gptcli.runs import RunDir
    from gptcli.shards import DatasetManifest, TokenDataset
    from gptcli.train import StopRequest
    from gptcli.world import World

YEAR_SECONDS = 366 * 24 * 3600
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
STOPS: dict[str, tuple[Literal["interrupted", "terminated", "hung_up"], int]] = {
    "SIGINT": ("interrupted", EXIT_INTERRUPTED),
    "SIGTERM": ("terminated", EXIT_TERMINATED),
    "SIGHUP": ("hung_up", EXIT_HUNG_UP),
}
EXIT_CODES = dict(STOPS.values())
# What writing to a terminal that was closed, or to a pipe that nobody reads any more, ends with.
GONE = (errno.EIO, errno.EPIPE)
LOGS = ("tensorboard", "wandb", "trackio")
# timeout and others send a signal to the process and to its group; nobody asks twice that fast.
SAME_SECONDS = 0.3


def parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``10m``, ``1h30m`` or ``1.5h``, a year at most; other words are a usage error."""
    word = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", word, re.ASCII):
        raise typer.BadParameter(f"{text!r} has no unit; write {word}s, {word}m or {word}h.")
    match = DURATION.fullmatch(word)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise typer.BadParameter(f"{text!r} is not a duration; write 90s, 10m or 1h30m.")
    if total > YEAR_SECONDS:
        raise typer.BadParameter(f"{text!r} is more than a year; write 90s, 10m or 1h30m.")
    return total


CorpusArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CORPUS",
        autocompletion=complete_sources,
        help="A fetched corpus, a recipe, or a text here; else the profile's own.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=complete_keys,
        help="Change one key of the profile. May be repeated.",
    ),
]
DEFAULT_PROFILE = "quickstart"
ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=complete_profiles,
        help=f"A run profile, or a YAML file; else {DEFAULT_PROFILE}.",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(parser=parse_duration, metavar="TIME", help="Fit the number of steps to 90s, 10m or 1h30m."),
]
LogOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="|".join(LOGS),
        autocompletion=lambda: list(LOGS),
        help="Write the figures of metrics.jsonl for that too. May be repeated.",
    ),
]


def check_name(run: str) -> None:
    """Refuse a name that a new run cannot have; where that run is trained just now, say by which process."""
    from gptcli.run_lock import refuse_trained
    from gptcli.runs import check_run_name, find_run, run_names

    if run in run_names():
        refuse_trained(find_run(run))
    check_run_name(run)


def fit(
    config: RunProfile,
    dataset: TokenDataset,
    budget: float,
    device: str | None,
    say: Say,
    create: Create | None = None,
) -> RunProfile:
    """Return the profile with as many steps as fit into ``budget`` seconds here, saying how many and why."""
    from gptcli.budget import fit_budget
    from gptcli.runs import create_run

    say("Timing some steps to fit the run to its budget.")
    config, sentence = fit_budget(config, dataset, budget, device=device, create=create or create_run)
    say(sentence)
    return config


def check_log(log: Sequence[str] | None) -> None:
    """Refuse a ``--log`` that there is none of, or whose package is missing, before any work is done."""
    if wrong := [name for name in log or () if name not in LOGS]:
        raise typer.BadParameter(f"--log {wrong[0]}: choose {', '.join(LOGS)}.")
    if log:
        from gptcli.sinks import check_sinks

        check_sinks(log)


@dataclass(frozen=True, slots=True)
class Following:
    """How a run is followed: where it computes, who gets its figures, and what is printed of it."""

    device: str | None
    log: tuple[str, ...]
    """Sinks that get its figures too."""
    quiet: bool
    as_json: bool


def follow(
    run: RunDir,
    changed: RunProfile | None,
    how: Following,
    world: World | None = None,
    dataset: TokenDataset | None = None,
) -> None:
    """Train a run to its end and print its folder; a run that was stopped ends with the exit code of its signal.

    Of several processes rank 0 alone prints and logs.
    """
    from gptcli.train import train
    from gptcli.world import ALONE

    world = world or ALONE
    if not world.leads:
        how = replace(how, quiet=True, log=())
    events = partial(train, run, profile=changed, device=how.device, world=world, dataset=dataset)
    try:
        finished = _consume(run, events, how, say=note if world.leads else silent)
    except RuntimeError as error:
        if not is_device_lost(error):
            raise
        raise device_lost(run.name, error) from error
    try:
        if world.leads:
            emit({**asdict(finished), "folder": run.path}, str(run.path), as_json=how.as_json)
    except OSError as error:
        if finished.reason not in EXIT_CODES or error.errno not in GONE:
            raise
        forget(sys.stdout)
    if finished.reason in EXIT_CODES:
        raise typer.Exit(EXIT_CODES[finished.reason])


def warn_about(manifest: DatasetManifest, config: RunProfile) -> None:
    """Print what the diagnosis warns of before this profile is trained on these tokens."""
    from gptcli.diagnosis import diagnose

    for finding in diagnose(manifest, config):
        if finding.level == "warning":
            note(f"warning: {finding.text}")


def show_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print what a dry run found: a line for each fact that there is, or all of them with the profile as JSON."""
    shown = {key: value for key, value in facts.items() if key != "profile" and value is not None}
    lines = [f"{key.removesuffix('_bytes')}: {_figure(key, value)}" for key, value in shown.items()]
    emit(facts, "\n".join(lines), as_json=as_json)


def _figure(key: str, value: object) -> str:
    if isinstance(value, int) and (key.endswith("_bytes") or "memory" in key):
        from gptcli.figures import bytes_text

        return bytes_text(value)
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:.3g}" if value >= 1e12 else f"{value:,}"
    return str(value)


def _consume(run: RunDir, train: Callable[..., Generator[TrainEvent]], how: Following, say: Say) -> RunFinished:
    """Train and show what happens; returns the last event. A second signal stops at once, saying how to go on."""
    from gptcli.display import TrainView, next_command, stderr_console
    from gptcli.events import RunFinished
    from gptcli.sinks import Sinks
    from gptcli.train import StopRequest

    stop, finished = StopRequest(), None
    try:
        with (
            TrainView(stderr_console()) as view,
            _stop_on_signals(stop, view.stopping if say is note else silent),
            Sinks(run, how.log, say=lambda notice: None if how.quiet else _show(view, notice, stop)) as sinks,
            contextlib.closing(train(stop=stop)) as events,
        ):
            for event in events:
                if not how.quiet:
                    _show(view, event, stop)
                sinks.take(event)
                if isinstance(event, RunFinished):
                    finished = event
    except (KeyboardInterrupt, SystemExit) as end:
        with contextlib.suppress(OSError):
            say("Stopped at once. To go on from the last checkpoint:")
            say(f"gptcli train --resume --run {run.name}")
        if isinstance(end, KeyboardInterrupt):
            raise typer.Exit(EXIT_INTERRUPTED) from None
        raise
    assert finished is not None, "RunFinished is the last event of every run"
    if how.quiet and finished.reason in EXIT_CODES and finished.reason != "hung_up":
        with contextlib.suppress(OSError):
            say(f"Stopped after step {finished.step}. To go on: {next_command(finished)}")
    return finished


def _show(view: TrainView, event: TrainEvent, stop: StopRequest) -> None:
    """Show an event; a terminal or a pipe that is gone is a reason to stop and save, if there was none before."""
    try:
        view.show(event)
    except OSError as error:
        if error.errno not in GONE:
            raise
        forget(sys.stderr)
        stop.reason = stop.reason or "hung_up"


@contextlib.contextmanager
def _stop_on_signals(stop: StopRequest, say: Say) -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP ask for an end after the step, the second end it at once.

    SIGHUP never is a second one: shells send it to their jobs, and the kernel again when the terminal goes. One that is
    ignored, as below nohup, stays so.
    """
    asked_at = 0.0

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal passes
        nonlocal asked_at
        reason, code = STOPS[signal.Signals(number).name]
        if stop.reason is None:
            stop.reason, asked_at = reason, time.monotonic()
            say("Finishing the step, then saving. Once more stops at once.")
        elif reason == "hung_up" or time.monotonic() - asked_at < SAME_SECONDS:
            return
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(code)

    numbers = [signal.Signals[name] for name in STOPS if hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    old: dict[int, Any] = {number: signal.signal(number, ask) for number in caught}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
