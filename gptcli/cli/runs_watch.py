"""Follow a run that another process trains: its metrics, shown as its own terminal shows them.

Reads only; whoever trains never notices.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gptcli.cli.common import note

if TYPE_CHECKING:
    from gptcli.events import TrainEvent
    from gptcli.runs import RunDir

LOOK_SECONDS = 0.5


def watch_run(run: RunDir) -> None:
    """Show a run from its beginning, then what happens in it until its training ends; Ctrl-C only stops watching."""
    from gptcli.display import TrainView, stdout_console
    from gptcli.events import RunFailed, RunFinished, from_record
    from gptcli.metrics import Tail
    from gptcli.run_lock import is_trained

    tail, last = Tail(run.metrics_path), None
    with TrainView(stdout_console()) as view:
        while True:
            goes_on = is_trained(run)  # asked first, so that what it wrote last is read
            events = [event for record in tail.new_events() if (event := from_record(record)) is not None]
            for event in events if last is not None else _caught_up(events):
                view.show(event)
                last = event
            if not goes_on:
                break
            time.sleep(LOOK_SECONDS)
    if last is None:
        note(f"The run {run.name} has not begun yet: gptcli train --resume --run {run.name}")
    elif not isinstance(last, RunFinished | RunFailed):
        note(f"Nobody trains the run {run.name} just now. To go on: gptcli train --resume --run {run.name}")


def _caught_up(events: Sequence[TrainEvent]) -> Iterator[TrainEvent]:
    """Yield what a watcher has missed: the newest header, all losses, and of the samples before only the last."""
    from gptcli.events import Evaluated, RunStarted, SampleDrawn, StepLogged

    begun = max((i for i, event in enumerate(events) if isinstance(event, RunStarted)), default=0)
    samples = [i for i, event in enumerate(events) if isinstance(event, SampleDrawn)][-1:]
    yield from events[begun : begun + 1]
    for i, event in enumerate(events):
        earlier = i < begun and isinstance(event, StepLogged | Evaluated)
        if earlier or (i > begun and not isinstance(event, SampleDrawn)) or i in samples:
            yield event
