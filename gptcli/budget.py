"""Fits a run to the clock.

``fit_budget`` times real steps of the real model in a run that is thrown away; the run itself then has a fixed
``max_steps`` in its profile, so that it can be resumed exactly.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from gptcli.config import RunProfile
from gptcli.errors import ProfileError
from gptcli.files import scratch_folder
from gptcli.runs import RunDir, create_run
from gptcli.shards import TokenDataset
from gptcli.sizing import MOST_EPOCHS, times_text
from gptcli.trainer import Trainer

PROBE_SECONDS = 3.0
MAX_PROBE_STEPS = 50
# Share of the budget that is planned for; the rest is for saving, sampling and a machine that slows down.
PLANNED_SHARE = 0.93
# Evaluations planned for, fewer where they would take more than this share of the budget.
EVALUATIONS = 10
EVALUATION_SHARE = 0.2
RUNS = Path("runs")


class Create(Protocol):
    """Makes the run that is timed: ``create_run``, or ``create_finetune`` with its base."""

    def __call__(self, profile: RunProfile, *, profile_name: str, dataset: TokenDataset, runs_dir: Path) -> RunDir:
        """Create the run of ``profile`` inside ``runs_dir``."""


def fit_budget(
    profile: RunProfile,
    dataset: TokenDataset,
    seconds: float,
    *,
    device: str | None = None,
    create: Create = create_run,
) -> tuple[RunProfile, str]:
    """Return the profile with ``max_steps`` such that training, evaluating and saving take ``seconds`` here.

    Times up to 50 steps of the whole context (about 3 s), an evaluation and a save; what that takes is part of the
    budget. The warm-up is cut to a tenth of the steps, and there are up to ten evaluations that take a fifth of the
    time at most. Also returns a sentence for the reader. Raises ``ProfileError`` when the budget is too short for a
    single step.
    """
    begin = time.perf_counter()
    pace = measure_pace(profile, dataset, min(PROBE_SECONDS, seconds / 10), device=device, create=create)
    spent = time.perf_counter() - begin
    evaluations = min(EVALUATIONS, max(1, int(EVALUATION_SHARE * seconds / pace.evaluation)))
    evaluating = (evaluations + pace.is_finetune) * pace.evaluation  # which is evaluated before its first step too
    max_steps = int((seconds * PLANNED_SHARE - spent - evaluating) / pace.step)
    if max_steps < 1:
        needed = (spent + evaluating + pace.step) / PLANNED_SHARE
        smaller = "--set batch_size=1, or a smaller --from" if pace.is_finetune else "--set n_layer=2 --set n_embd=64"
        raise ProfileError(
            f"A budget of {seconds:.0f} s is too short: one step and its evaluations take {needed:.0f} s here.",
            f"Give it more time, or make it smaller: {smaller}",
        )
    sentence = (
        f"{seconds:.0f} s allow {max_steps:,} steps: a step takes {pace.step * 1000:.0f} ms "
        f"and each of {evaluations} evaluations {pace.evaluation:.1f} s here."
    )
    epochs = max_steps * profile.tokens_per_step / len(dataset.train)
    if epochs > MOST_EPOCHS:
        often = f"They read the text {times_text(epochs)}, and beyond {MOST_EPOCHS} it is only learned by heart"
        sentence += f" {often}: less time would do, or more text."
    return _with_steps(profile, max_steps, -(-max_steps // evaluations), compiled=pace.compiled), sentence


class Pace(NamedTuple):
    """Seconds of a step, of an evaluation that is saved, and of all before the second step: building and compiling."""

    step: float
    evaluation: float
    opening: float
    compiled: bool
    is_finetune: bool


def measure_pace(
    profile: RunProfile,
    dataset: TokenDataset,
    seconds: float,
    *,
    device: str | None = None,
    create: Create = create_run,
) -> Pace:
    """Time up to 50 steps of the whole context for about ``seconds``, an evaluation and a save, in a run of its own."""
    guess = {"max_steps": 10**9, "short_fraction": 0.0}
    probed = profile.model_copy(update={"train": profile.train.model_copy(update=guess)})
    # On the disk the run itself will lie on: the system's temporary folder may be memory.
    with scratch_folder((RUNS if RUNS.is_dir() else RUNS.parent) / "gptcli-budget") as folder:
        run = create(probed, profile_name="probe", dataset=dataset, runs_dir=folder)
        return _probe(run, device, seconds)


def _probe(run: RunDir, device: str | None, seconds: float) -> Pace:
    """Time steps of a run; nothing of it is mapped any more afterwards, so that its folder can be deleted anywhere."""
    begin = time.perf_counter()
    trainer = Trainer(run, device)
    is_finetune = trainer.base is not None
    trainer.update()  # the first step warms up, or compiles
    opening = time.perf_counter() - begin
    step, evaluation = _time(trainer, seconds)
    pace = Pace(step, evaluation, opening, trainer.setup.compile and not list(trainer.notices()), is_finetune)
    del trainer
    gc.collect()
    return pace


def _time(trainer: Trainer, seconds: float) -> tuple[float, float]:
    """Return the seconds of a step, and of an evaluation that is saved."""
    begin, n_steps = time.perf_counter(), 0
    while n_steps < MAX_PROBE_STEPS and (n_steps < 1 or time.perf_counter() - begin < seconds):
        trainer.update()
        n_steps += 1
    trained = time.perf_counter()
    trainer.evaluate()
    trainer.save(best=True)
    return (trained - begin) / n_steps, time.perf_counter() - trained


def meeting_intervals(log_interval: int, eval_interval: int) -> tuple[int, int]:
    """Return a ``log_interval`` near the wanted one and the next ``eval_interval`` that is a multiple of it."""
    log_interval = min(log_interval, eval_interval)
    near = range(-(-2 * log_interval // 3), 3 * log_interval // 2 + 1)
    found = min(near, key=lambda log: (-eval_interval % log, abs(log - log_interval)))
    return found, eval_interval + -eval_interval % found


def _with_steps(profile: RunProfile, max_steps: int, interval: int, *, compiled: bool) -> RunProfile:
    """Fit everything that hangs on the number of steps; what the profile promises belongs to its own number."""
    train = profile.train
    log_interval, interval = meeting_intervals(train.log_interval, interval)
    fitted = {
        "max_steps": max_steps,
        "warmup_steps": min(train.warmup_steps, max_steps // 10),
        "eval_interval": interval,
        "log_interval": log_interval,
        "save_interval": interval,
        "compile": compiled,
    }
    return profile.without_promise().model_copy(update={"train": train.model_copy(update=fitted)})
