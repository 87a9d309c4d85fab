"""Training a run in tests: to its end, to a stop, and what is compared of it then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from gptcli.checkpoint_folders import pointed
from gptcli.config import RunProfile
from gptcli.events import RunStarted, StepLogged, TrainEvent
from gptcli.metrics import read_events
from gptcli.runs import RunDir
from gptcli.train import StopRequest, train

TIMING = {"tokens_per_second", "elapsed", "remaining", "path", "folder", "run"}
NewRun = Callable[..., RunDir]


def finish(run: RunDir, profile: RunProfile | None = None) -> list[TrainEvent]:
    """Train to the end."""
    with contextlib.closing(train(run, profile=profile)) as events:
        return list(events)


def interrupt(run: RunDir, step: int) -> list[TrainEvent]:
    """Train as if Ctrl-C came while update number ``step`` was running."""
    stop, seen = StopRequest(), []
    with contextlib.closing(train(run, stop=stop)) as events:
        for event in events:
            seen.append(event)
            if isinstance(event, StepLogged | RunStarted) and event.step >= step:
                stop.reason = "interrupted"
    return seen


def checkpoint_bytes(run: RunDir) -> dict[str, bytes]:
    """Return the newest checkpoint's files, and its name."""
    path = pointed(run, "latest")
    assert path is not None
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())} | {"step": path.name.encode()}


def metrics(run: RunDir) -> list[dict[str, Any]]:
    """The run's events without what the clock says, and without what differs by being resumed."""
    kept = [
        line
        for line in read_events(run.metrics_path)
        if line["event"] not in ("run_started", "run_finished", "run_failed", "checkpoint_saved")
    ]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in kept]
