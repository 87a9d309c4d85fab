"""What a training run tells the world while it goes: plain values, in the order they happen.

``train()`` yields them; the live table draws them and ``metrics.jsonl`` keeps them. Nothing here prints or trains.
Losses are in nats a token, times in seconds.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Reason = Literal["completed", "stopped_early", "interrupted", "terminated", "hung_up"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """What is about to be trained on what, and why the machine was set up this way; the first event of every run."""

    run: str
    folder: str
    corpus: str
    tokenizer: str
    train_tokens: int
    val_tokens: int
    family: str
    n_params: int
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    tokens_per_step: int
    max_steps: int
    step: int
    """0 for a new run; the step a resumed run goes on from."""
    device: str
    device_reason: str
    expected_val_loss: float | None
    expected_minutes: float | None
    best_val_loss: float | None
    base: str | None = None
    """What a finetune began from."""
    trained_params: int | None = None
    """How many weights are trained where not all are: adapters are no part of ``n_params``."""
    stopped_early: bool = False
    """The run has ended already, because val_loss no longer fell."""
    eval_interval: int = 0
    """Steps between evaluations; 0 where nobody said."""
    seconds_before: float = 0.0
    """How long a resumed run was trained before."""
    owes_evaluation: bool = False
    """All steps are done, and the evaluation of the last one was put off."""


@dataclass(frozen=True, slots=True)
class StepLogged:
    """One training report; ``train_loss`` is the token-weighted mean since the report before."""

    step: int
    tokens_seen: int
    epoch: float
    train_loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    """Tokens over training time alone: evaluation, sampling and saving are not counted."""
    mfu: float | None
    """Model FLOPs utilisation between 0 and 1, where the device's peak is known."""
    skipped_steps: int
    """Steps left out so far because their loss or gradient was not finite."""
    elapsed: float
    remaining: float | None
    """None until there is a pace to tell it by."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One pass over the val split."""

    step: int
    tokens_seen: int
    val_loss: float
    val_loss_stderr: float
    perplexity: float
    bits_per_byte: float
    n_tokens: int
    best: bool
    """True when no evaluation before it had a lower ``val_loss``."""
    elapsed: float
    remaining: float | None


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete on disk."""

    step: int
    path: str
    best: bool


@dataclass(frozen=True, slots=True)
class SampleDrawn:
    """Text the model wrote while it was being trained."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know that is not an error, in one sentence."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class WentBack:
    """The run diverged, and goes on from an earlier step with a lower learning rate."""

    step: int
    """The step of the checkpoint it goes on from; 0 may be the beginning."""
    diverged_at: int
    learning_rate_factor: float
    """What all learning rates are multiplied with from here on."""


@dataclass(frozen=True, slots=True)
class RunFinished:
    """Training came to its end or was stopped: the last event, where no error and no kill was before it."""

    reason: Reason
    """``stopped_early``: no better val_loss in ``train.patience`` evaluations."""
    run: str
    step: int
    max_steps: int
    tokens_seen: int
    epoch: float
    best_val_loss: float | None
    best_val_loss_stderr: float | None
    best_bits_per_byte: float | None
    best_step: int | None
    final_val_loss: float | None
    final_train_loss: float | None
    tokens_per_second: float
    expected_val_loss: float | None
    elapsed: float
    """Seconds of this process's part of the run, from the first step's preparation to the last save."""
    base_val_loss: float | None = None
    """The val_loss of what a finetune began from, before any training."""
    chat: bool = False
    """The run was tuned on conversations."""


@dataclass(frozen=True, slots=True)
class RunFailed:
    """An error ended the run: the last line of its metrics in place of ``RunFinished``, where it could be written.

    ``train`` raises the error and yields no such event.
    """

    step: int
    text: str


TrainEvent = (
    RunStarted | StepLogged | Evaluated | CheckpointSaved | SampleDrawn | Notice | WentBack | RunFinished | RunFailed
)


def to_record(event: TrainEvent) -> dict[str, Any]:
    """Return the event as one JSON-ready line of ``metrics.jsonl``: its fields behind an ``event`` name.

    Numbers that JSON does not have (NaN, infinities) become None.
    """
    fields = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(event).items()
    }
    return {"event": _NAMES[type(event)], **fields}


def from_record(record: Mapping[str, Any]) -> TrainEvent | None:
    """Return the event that a line of ``metrics.jsonl`` tells of; None for one that this version cannot make.

    What a number has to be and is not, because JSON has no NaN, is None in the line and NaN in the event.
    """
    from pydantic import ValidationError

    if record.get("event") not in _NAMES.values():
        return None
    fields = {key: value for key, value in record.items() if key != "event"}
    for key in ("train_loss", "val_loss", "val_loss_stderr", "perplexity", "bits_per_byte", "grad_norm"):
        if key in fields and fields[key] is None:
            fields[key] = math.nan
    try:
        event: TrainEvent = _reader(record["event"]).validate_json(json.dumps(fields), strict=True)
    except ValidationError:
        return None
    if isinstance(event, RunFinished) and event.best_step is None:
        # Whoever shows the end of a run says where its best was.
        return None if event.best_val_loss is not None or event.reason == "stopped_early" else event
    return event


@functools.cache
def _reader(name: str) -> Any:  # noqa: ANN401 - pydantic's, which is slow to import
    from pydantic import TypeAdapter

    return TypeAdapter(next(kind for kind, its_name in _NAMES.items() if its_name == name))


_NAMES: dict[type[TrainEvent], str] = {
    RunStarted: "run_started",
    StepLogged: "step_logged",
    Evaluated: "evaluated",
    CheckpointSaved: "checkpoint_saved",
    SampleDrawn: "sample_drawn",
    Notice: "notice",
    WentBack: "went_back",
    RunFinished: "run_finished",
    RunFailed: "run_failed",
}
