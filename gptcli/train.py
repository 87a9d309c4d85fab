"""The training loop: a generator of events, the same for a new run and a resumed one.

``train`` reads top to bottom. What one step, one report or one save means is ``trainer``'s business, what the events
look like to a person ``display``'s, and where files lie ``runs``'.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from gptcli.config import RunProfile
from gptcli.events import CheckpointSaved, Reason, RunFinished, TrainEvent, to_record
from gptcli.profiles import write_profile
from gptcli.runs import RunDir, truncate_metrics
from gptcli.trainer import Trainer


@dataclass(slots=True)
class StopRequest:
    """Set ``reason`` (from a signal handler) and the loop finishes its step, saves and ends."""

    reason: Literal["interrupted", "terminated"] | None = None


def train(
    run: RunDir,
    *,
    profile: RunProfile | None = None,
    device: str | None = None,
    stop: StopRequest | None = None,
) -> Generator[TrainEvent, None, None]:
    """Train a run to its last step, from its newest checkpoint if there is one, and yield what happens.

    A run whose val_loss has not fallen for ``train.patience`` evaluations ends before.

    The weights, the optimizer, the random state, the order of the data and the losses, evaluations and samples in the
    metrics of an interrupted and resumed run are those of an uninterrupted one, bit for bit on a CPU with the same
    number of threads. The metrics also say when it began again, and the line of a checkpoint that was complete when
    the process was killed is not made up for.

    ``profile`` is what ``change_run`` made of the run's own, and is written to the run once it is known to work;
    ``device`` overrules it. Events are appended to ``metrics.jsonl`` before they are yielded. Consume it under
    ``contextlib.closing``, so that an error in the consumer ends the run too. Raises ``RunError`` when the val_loss of
    what a finetune began from is not finite.
    """
    trainer = Trainer(run, device, profile)
    if profile is not None and profile != run.profile():
        write_profile(run.profile_path, profile)
    state = trainer.state
    truncate_metrics(run, state.step, {"evaluated": state.evaluated_step, "sample_drawn": state.sampled_step})
    with run.metrics_path.open("ab") as metrics:
        for event in _events(trainer, stop or StopRequest()):
            metrics.write(json.dumps(to_record(event), ensure_ascii=False).encode() + b"\n")
            metrics.flush()
            if isinstance(event, CheckpointSaved | RunFinished):
                os.fsync(metrics.fileno())
            yield event


def _events(trainer: Trainer, stop: StopRequest) -> Generator[TrainEvent, None, None]:
    """The loop itself."""
    config, state = trainer.profile.train, trainer.state
    yield trainer.started()
    yield from _due(trainer, stop)  # a run that was stopped before an evaluation makes up for it
    while state.step < config.max_steps and stop.reason is None and not trainer.is_worn_out():
        trainer.update()
        yield from trainer.notices()
        yield from _due(trainer, stop)
    if trainer.saved_step != state.step:
        yield trainer.save(best=False)
    yield trainer.finished(_reason(trainer, stop))


def _reason(trainer: Trainer, stop: StopRequest) -> Reason:
    """Say why the run ends here; what is done needs no going on, whoever asked for a stop meanwhile."""
    state = trainer.state
    if state.step >= trainer.profile.train.max_steps and state.evaluated_step == state.step:
        return "completed"
    return "stopped_early" if trainer.is_worn_out() else stop.reason or "completed"


def _due(trainer: Trainer, stop: StopRequest) -> Generator[TrainEvent, None, None]:
    """Do what is due after this step and not done yet; a stop puts off all that takes time."""
    config, state = trainer.profile.train, trainer.state
    last, best = state.step == config.max_steps, False
    if state.loss_tokens and (last or state.step % config.log_interval == 0):
        yield trainer.report()
    evaluates = last or state.step % config.eval_interval == 0 or trainer.owes_evaluation
    if evaluates and state.evaluated_step < state.step and stop.reason is None:
        evaluated = trainer.evaluate()
        best = evaluated.best
        yield evaluated
    sampled = config.sample_interval and state.step % config.sample_interval == 0
    if sampled and state.sampled_step < state.step and stop.reason is None:
        yield trainer.sample()
    if best or (trainer.saved_step != state.step and (last or stop.reason or state.step % config.save_interval == 0)):
        yield trainer.save(best=best)
