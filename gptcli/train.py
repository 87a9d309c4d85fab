"""The training loop: a generator of events, the same for a new run and a resumed one.

``train`` reads top to bottom. What one step, one report or one save means is ``trainer``'s business, what the events
look like to a person ``display``'s, and where files lie ``runs``'.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from gptcli.config import RunProfile
from gptcli.dry_run import check_memory
from gptcli.errors import RunError
from gptcli.events import CheckpointSaved, Notice, Reason, RunFailed, RunFinished, TrainEvent, WentBack, to_record
from gptcli.metrics import Metrics, truncate_metrics
from gptcli.parallel import own_share
from gptcli.profiles import write_profile
from gptcli.run_lock import sole_writer
from gptcli.runs import RunDir
from gptcli.shards import TokenDataset
from gptcli.trainer import Trainer
from gptcli.world import ALONE, LAUNCHER, World

StopReason = Literal["interrupted", "terminated", "hung_up"]
STOP_REASONS: tuple[StopReason, ...] = get_args(StopReason)


@dataclass(slots=True)
class StopRequest:
    """Set ``reason`` (from a signal handler) and the loop finishes its step, saves and ends."""

    reason: StopReason | None = None


def train(
    run: RunDir,
    *,
    profile: RunProfile | None = None,
    device: str | None = None,
    stop: StopRequest | None = None,
    world: World = ALONE,
    dataset: TokenDataset | None = None,
) -> Generator[TrainEvent, None, None]:
    """Train a run to its last step, from its newest checkpoint if there is one, and yield what happens.

    A run whose val_loss has not fallen for ``train.patience`` evaluations ends before.

    The weights, the optimizer, the random state, the order of the data and the losses, evaluations and samples in the
    metrics of an interrupted and resumed run are those of an uninterrupted one, bit for bit on a CPU with the same
    number of threads. The metrics also say when it began again, and the line of a checkpoint that was complete when
    the process was killed is not made up for.

    ``profile`` is what ``change_run`` made of the run's own, and is written to the run once it is known to work;
    ``device`` overrules it. Events are appended to ``metrics.jsonl`` before they are yielded. Consume it under
    ``contextlib.closing``, so that an error in the consumer ends the run too. Raises ``RunError`` when another process
    trains the run, when it cannot fit into this machine's memory, when the val_loss of what a finetune began from is
    not finite, and when a run diverges that has gone back to an earlier step before.

    In a ``world`` of several processes all of them call this, those that do not lead with ``profile`` and ``dataset``,
    as they neither read nor write the run; a stop that one is asked for stops all after the step.
    """
    stop = stop or StopRequest()
    if not world.leads:
        assert profile is not None, "only rank 0 reads the run"
        heeded = _Heeded(stop, world)
        yield from _events(Trainer(run, device, profile, is_stopped=heeded.ask, world=world, dataset=dataset), heeded)
        return
    with sole_writer(run) as still_sole:
        share = own_share(profile or run.profile(), world.size)
        memory_warning = check_memory(share, device, copies=world.local_size)
        heeded = _Heeded(stop, world)
        trainer = Trainer(
            *(run, device, profile), is_stopped=heeded.ask, before_save=still_sole, world=world, dataset=dataset
        )
        if memory_warning:
            trainer.say(f"warning: {memory_warning}")
        if profile is not None and profile != run.profile():
            write_profile(run.profile_path, profile)
        truncate_metrics(run.metrics_path, trainer.state.step, trainer.done)
        with contextlib.closing(Metrics(run.metrics_path)) as metrics, _noting_failure(trainer, metrics):
            for event in _events(trainer, heeded):
                if isinstance(event, WentBack):
                    metrics.cut_back(event.step, trainer.done)
                metrics.append(to_record(event), durable=isinstance(event, CheckpointSaved | RunFinished))
                yield event


class _Heeded:
    """The stop that all processes of a run know of; alone, whatever was asked for."""

    def __init__(self, asked: StopRequest, world: World) -> None:
        self._asked, self._world, self._agreed = asked, world, 0
        self._launcher = os.environ.get(LAUNCHER)

    @property
    def reason(self) -> StopReason | None:
        """Why the run stops; several processes have asked each other."""
        if self._launcher is not None and str(os.getppid()) != self._launcher:  # it was killed
            self._asked.reason = self._asked.reason or "hung_up"
        if self._world.is_alone:
            return self._asked.reason
        return STOP_REASONS[self._agreed - 1] if self._agreed else None

    def ask(self) -> bool:
        """Say whether a stop was asked for; of several processes, all ask at the same point."""
        reason = self.reason
        if not self._world.is_alone and not self._agreed:
            asked = self._asked.reason
            self._agreed = self._world.largest(STOP_REASONS.index(asked) + 1 if asked else 0)
            reason = self.reason
        return reason is not None


@contextlib.contextmanager
def _noting_failure(trainer: Trainer, metrics: Metrics) -> Iterator[None]:
    """Write down that an error ended the run, where that can still be written."""
    try:
        yield
    except Exception as error:
        failed = RunFailed(trainer.state.step, str(error) or type(error).__name__)
        with contextlib.suppress(RunError):
            metrics.append(to_record(failed), durable=False)
        raise


def _events(trainer: Trainer, stop: _Heeded | StopRequest) -> Generator[TrainEvent, None, None]:
    """The loop itself."""
    yield trainer.started()
    yield from trainer.notices()
    yield from _due(trainer, stop)  # a run that was stopped before an evaluation makes up for it
    while trainer.has_steps_left and stop.reason is None and not trainer.is_worn_out():
        if trainer.has_diverged:
            yield trainer.go_back()
        elif not trainer.update():
            yield from trainer.notices()
            break
        yield from trainer.notices()
        yield from _due(trainer, stop)
    if trainer.saved_step != trainer.state.step:
        yield trainer.save(best=False)
    reason = _reason(trainer, stop)
    finished = trainer.finished(reason)  # whose time is that of training, not of drawing
    yield from _picture(trainer, reason)
    yield finished


def _picture(trainer: Trainer, reason: Reason) -> Iterator[Notice]:
    """Draw ``loss.png`` at the end of a run, and at a Ctrl-C; other stops are in a hurry, and nothing hangs on it."""
    run = trainer.run
    if not trainer.world.leads or reason in ("terminated", "hung_up"):
        return
    if trainer.resumed_at_end and run.picture_path.exists():
        return
    from gptcli.plot import curve_of, save_plot

    try:
        curve = curve_of(run)
        if curve.history.reports or curve.history.evaluations:  # a run stopped before has nothing to draw
            save_plot([curve], run.picture_path)
    except Exception as error:  # noqa: BLE001 - matplotlib raises what its settings make it
        yield Notice(trainer.state.step, f"No {run.picture_path.name} could be drawn: {error}")


def _reason(trainer: Trainer, stop: _Heeded | StopRequest) -> Reason:
    """Say why the run ends here; what is done needs no going on, whoever asked for a stop meanwhile."""
    state = trainer.state
    if state.step >= trainer.profile.train.max_steps and state.evaluated_step == state.step:
        return "completed"
    return "stopped_early" if trainer.is_worn_out() else stop.reason or "completed"


def _due(trainer: Trainer, stop: _Heeded | StopRequest) -> Generator[TrainEvent, None, None]:
    """Do what is due after this step and not done yet; a stop puts off all that takes time."""
    config, state = trainer.profile.train, trainer.state
    last, best = state.step == config.max_steps, False
    evaluates = last or state.step % config.eval_interval == 0
    if state.loss_tokens and (evaluates or state.step % config.log_interval == 0):
        yield trainer.report()
    if (evaluates or trainer.owes_evaluation) and state.evaluated_step < state.step and stop.reason is None:
        evaluated = trainer.evaluate()
        if evaluated is not None:
            best = evaluated.best
            yield evaluated
    sampled = config.sample_interval and state.step % config.sample_interval == 0
    if sampled and state.sampled_step < state.step and stop.reason is None:
        drawn = trainer.sample()
        if drawn is not None:
            yield drawn
    # Weights that give no update just now may be broken; the first step that does is saved in place of theirs.
    intervals = state.step // config.save_interval - trainer.saved_step // config.save_interval
    saves = intervals > 0 and state.stuck_since is None
    if best or (trainer.saved_step != state.step and (last or stop.reason or saves)):
        yield trainer.save(best=best)
