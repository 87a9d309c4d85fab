"""A profile for a text, this machine and a time: times real steps, and chooses so that the time is used well.

``sizing`` holds the rules; here is what the clock says, and how many steps fit. Nothing is left on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gptcli.budget import Pace, measure_pace, meeting_intervals
from gptcli.config import ModelConfig, RunProfile, TrainConfig
from gptcli.device import Setup
from gptcli.errors import ProfileError
from gptcli.memory import plan_memory
from gptcli.places import place_here
from gptcli.plan import count_parameters, flops_per_token
from gptcli.shards import TokenDataset
from gptcli.sizing import (
    FEWEST_STEPS,
    MOST_EPOCHS,
    Choices,
    TextFacts,
    block_weights,
    choose_batch,
    choose_learning,
    choose_regularisation,
    choose_shape,
    rounded,
    shapes,
    times_text,
    why_dropout,
    why_this_size,
)
from gptcli.strict_yaml import KeyPath

# What a first shape is chosen by; then what was timed counts. Too high rather than too low: a larger shape makes
# better use of a machine, so from a small one nothing can be said about it.
GUESSED_FLOPS = {"cpu": 4e11, "mps": 2e12, "cuda": 4e13}
LOOKS, LOOK_SECONDS, PROBE_SECONDS = 3, 0.7, 3.0
# The rest is for saving and samples, and for a machine that slows down.
PLANNED_SHARE = 0.95
# Of the time, what is left for steps; sizes are chosen by that.
USED_SHARE = 0.85
# Of importing torch and opening the tokens, before a run's own clock begins.
START_SECONDS = 1.5
MOST_EVALUATIONS, EVALUATION_SHARE = 10, 0.1
# Tokens of val that are scored while a shape is looked at, and while its suggestion is timed.
LOOKED_AT, TIMED_AT = 4096, 20_000
FEWEST_WINDOWS = 20


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A profile, why each of its values is what it is, what was measured, and what is expected of the run."""

    profile: RunProfile
    reasons: dict[KeyPath, str]
    measured: dict[str, Any]
    expected: dict[str, Any]


def suggest(
    dataset: TokenDataset,
    seconds: float,
    *,
    device: str | None = None,
    tokenizer_reason: str = "",
    on_progress: Callable[[str], None] = lambda _: None,
) -> Suggestion:
    """Return a profile whose training takes about ``seconds`` here, from the command to its end; takes about 10 s.

    Raises ``ProfileError`` with the least time that makes sense, ``DeviceError`` for a device that is not there, and
    ``CorpusError`` for tokens that are too few for any profile.
    """
    manifest = dataset.manifest
    text = TextFacts(manifest.vocab_size, len(dataset.train), len(dataset.val), manifest.train.bytes)
    place = place_here(RunProfile().train, device)
    setup = place.setup
    on_progress("Timing some steps to find the size that fits the time.")
    room = Room(place.memory, setup.device.type, str(setup.dtype).removeprefix("torch."))
    shape, flops = _look(dataset, text, seconds, room, device)
    choices = _chosen(dataset, shape, flops, text, room)
    if tokenizer_reason and not manifest.given_tokenizer:
        choices["data", "tokenizer"] = (manifest.tokenizer, f"{tokenizer_reason[0].upper()}{tokenizer_reason[1:]}.")
    on_progress("Timing steps of the suggestion.")
    timed = _built(choices)
    pace = measure_pace(timed, dataset, min(PROBE_SECONDS, seconds / 10), device=device)
    choices |= _fitted(timed, pace, seconds, text)
    evaluation, _ = _evaluation(timed, pace, seconds, text)
    takes = _takes(_built(choices), pace, evaluation, seconds)
    choices |= _promise(manifest.corpus, takes, _machine(setup))
    profile = _built(choices)
    choices["model", "n_layer"] = (shape.n_layer, _why_shape(profile, shape, flops, text, room))
    measured = {
        "device": str(setup.device),
        "device_reason": setup.reason,
        "opening_seconds": pace.opening,
        "step_seconds": pace.step,
        "evaluation_seconds": evaluation,
        "tokens_per_second": profile.tokens_per_step / pace.step,
    }
    reasons = {path: why for path, (_, why) in choices.items()}
    return Suggestion(profile, reasons, measured, _expected(profile, shape, text, takes))


def _why_shape(profile: RunProfile, shape: ModelConfig, flops: float, text: TextFacts, room: Room) -> str:
    """Return why the shape is what it is, told in what the run will do; ``flops`` are those it was chosen for."""
    wanted = choose_shape(text, flops)
    done = profile.tokens_per_step * profile.train.max_steps * flops_per_token(shape)
    return why_this_size(text, done, shape, full=largest_that_fits(text, wanted, room) != wanted)


def _expected(profile: RunProfile, shape: ModelConfig, text: TextFacts, seconds: float) -> dict[str, Any]:
    """Return what is to be expected of the run; ``shape`` knows its vocabulary."""
    tokens = profile.tokens_per_step * profile.train.max_steps
    return {
        "seconds": seconds,
        "n_params": count_parameters(shape),
        "max_steps": profile.train.max_steps,
        "tokens_seen": tokens,
        "epochs": tokens / text.train_tokens,
        "tokens_per_weight": tokens / block_weights(shape),
    }


@dataclass(frozen=True, slots=True)
class Room:
    """The bytes of memory that a run has on a device, None where the system does not say, and what it computes in."""

    have: int | None
    device: str
    dtype: str

    def holds(self, profile: RunProfile) -> bool:
        """Say whether training a profile that knows its vocabulary fits."""
        if self.have is None:
            return True
        plan = plan_memory(profile, compute_dtype=self.dtype, frozen_dtype="float32", device=self.device)
        return plan.peak < self.have


def parts_that_fit(model: ModelConfig, rows: int, parts: int, room: Room) -> tuple[int, int]:
    """Return ``batch_size`` and ``grad_accum_steps`` of the same step, in so many parts that each fits if any does."""
    while rows % 2 == 0 and not room.holds(_step(model, rows, parts)):
        rows, parts = rows // 2, 2 * parts
    return rows, parts


def largest_that_fits(text: TextFacts, wanted: ModelConfig, room: Room) -> ModelConfig:
    """Return the wanted shape, or the largest below it that the memory holds."""
    possible = list(shapes(text))
    below = reversed(possible[: possible.index(wanted) + 1])
    return next((model for model in below if room.holds(_plain(model, text, room))), possible[0])


def _look(
    dataset: TokenDataset, text: TextFacts, seconds: float, room: Room, device: str | None
) -> tuple[ModelConfig, float]:
    """Return the shape for the time, by a look at each that is thought of, and the operations that it has time for."""
    flops, shape = GUESSED_FLOPS[room.device] * USED_SHARE * seconds, ModelConfig()
    for _ in range(LOOKS):
        wanted = largest_that_fits(text, choose_shape(text, flops), room)
        if wanted == shape:
            break
        shape = wanted
        plain = _plain(shape, text, room)
        pace = measure_pace(plain, dataset, min(LOOK_SECONDS, seconds / 20), device=device)
        flops = plain.tokens_per_step * flops_per_token(shape) / pace.step * USED_SHARE * seconds
    return shape, flops


def _plain(model: ModelConfig, text: TextFacts, room: Room) -> RunProfile:
    """Return what a shape is looked at with: its batch, and an evaluation that takes no time."""
    rows, parts, _ = choose_batch(model, text, 0, on_cpu=room.device == "cpu")
    return _step(model, *parts_that_fit(model, rows, parts, room))


def _step(model: ModelConfig, rows: int, parts: int) -> RunProfile:
    train = TrainConfig(batch_size=rows, grad_accum_steps=parts, eval_tokens=LOOKED_AT, compile=False)
    return RunProfile(model=model, train=train)


def _chosen(dataset: TokenDataset, shape: ModelConfig, flops: float, text: TextFacts, room: Room) -> Choices:
    """Return all that hangs on about how many tokens can be seen."""
    manifest = dataset.manifest
    tokens = min(flops / flops_per_token(shape), MOST_EPOCHS * text.train_tokens)
    rows, parts, why_batch = choose_batch(shape, text, tokens, on_cpu=room.device == "cpu")
    rows, parts = parts_that_fit(shape, rows, parts, room)
    size = f"{shape.block_size * text.train_bytes / text.train_tokens:,.0f} bytes of text"
    why_context = f"About {size}: what profiles of this size have; a longer one costs more time than it gains."
    choices: Choices = {
        ("data", "corpus"): (manifest.corpus, ""),
        ("model", "n_layer"): (shape.n_layer, ""),  # told when the steps are known
        ("model", "n_head"): (shape.n_head, f"Heads of {shape.n_embd // shape.n_head}."),
        ("model", "n_embd"): (shape.n_embd, "The width that goes with the layers."),
        ("model", "block_size"): (shape.block_size, why_context),
        ("model", "dropout"): choose_regularisation(tokens / text.train_tokens)["model", "dropout"],
        ("train", "batch_size"): (rows, why_batch),
    }
    if parts > 1:
        choices["train", "grad_accum_steps"] = (parts, "Added up before a step, so that each part fits the memory.")
    if manifest.split == "position" and manifest.split_at is not None:
        choices["data", "split_at"] = (manifest.split_at, "As its tokens are cut now.")
    if not shape.tie_embeddings:
        share = text.vocab_size * shape.n_embd / block_weights(shape)
        choices["model", "tie_embeddings"] = (
            False,
            f"A head of its own: with {text.vocab_size:,} tokens it adds only {share:.0%} to the weights.",
        )
    if text.val_tokens > TIMED_AT:
        choices["train", "eval_tokens"] = (TIMED_AT, "")
    return choices


def _evaluation(profile: RunProfile, pace: Pace, seconds: float, text: TextFacts) -> tuple[float, int | None]:
    """Return the seconds of an evaluation, and of how many tokens of val; None for all of them.

    As many are scored as take a tenth of the time.
    """
    timed = profile.train.eval_tokens
    if timed is None or pace.evaluation * text.val_tokens / timed <= EVALUATION_SHARE * seconds:
        return pace.evaluation * text.val_tokens / (timed or text.val_tokens), None
    block_size = profile.model.block_size
    allowed = max(FEWEST_WINDOWS, int(timed * EVALUATION_SHARE * seconds / pace.evaluation) // block_size) * block_size
    return pace.evaluation * allowed / timed, allowed


def _fitted(profile: RunProfile, pace: Pace, seconds: float, text: TextFacts) -> Choices:
    """Return the steps and intervals that fill the time, and the rates for exactly so many."""
    evaluation, scored = _evaluation(profile, pace, seconds, text)
    count = max(1, min(MOST_EVALUATIONS, int(EVALUATION_SHARE * seconds / evaluation)))
    fixed = START_SECONDS + pace.opening + count * evaluation
    steps = int((seconds * PLANNED_SHARE - fixed) / pace.step)
    if steps < FEWEST_STEPS:
        least = (fixed - (count - 1) * evaluation + FEWEST_STEPS * pace.step) / PLANNED_SHARE
        raise ProfileError(
            f"{seconds:.3g} s are too short: starting, {FEWEST_STEPS} steps and an evaluation take {least:.1f} s here.",
            f"Give it more time: --minutes {math.ceil(least / 5) / 10:g}",
        )
    evaluations = "an evaluation" if count == 1 else f"up to {count} evaluations"
    planned = f"{seconds:.3g} s less {fixed:.1f} for starting and {evaluations}"
    why = f"{planned}, at {1000 * pace.step:.3g} ms a step."
    most = max(FEWEST_STEPS, int(MOST_EPOCHS * text.train_tokens / profile.tokens_per_step))
    is_enough, steps = steps > most, min(steps, most)
    epochs, dropout = steps * profile.tokens_per_step / text.train_tokens, profile.model.dropout
    if is_enough:
        why = f"The text is read {times_text(epochs)} by then; with more time it is only learned by heart."
    log_interval, interval = meeting_intervals(max(1, steps // 40), -(-steps // count))
    learning = choose_learning(profile.model, steps, epochs)
    learning["model", "dropout"] = (dropout, why_dropout(dropout, epochs))  # what was timed had its own
    often = f"Each takes {evaluation:.2g} s; all together about a tenth of the time at most."
    whole = f"All {text.val_tokens:,} tokens of val would take more than a tenth of the time."
    return {
        **learning,
        ("train", "eval_tokens"): (scored, whole if scored else "All of val."),
        ("train", "max_steps"): (steps, why),
        ("train", "log_interval"): (log_interval, "About 40 reports, and one with each evaluation."),
        ("train", "eval_interval"): (interval, often),
        ("train", "save_interval"): (interval, "With each evaluation."),
        ("train", "sample_interval"): (-(-steps // 3), "Three times, to see it learn.") if seconds >= 60 else (0, ""),
    }


def _takes(profile: RunProfile, pace: Pace, evaluation: float, seconds: float) -> float:
    """Return the seconds that a run takes: those that were asked for, where the text is enough for them."""
    train = profile.train
    evaluating = -(-train.max_steps // train.eval_interval) * evaluation
    needed = (START_SECONDS + pace.opening + train.max_steps * pace.step + evaluating) / PLANNED_SHARE
    return seconds if needed > 0.9 * seconds else needed


def time_text(seconds: float) -> str:
    """Return a time as 6 seconds, 1 minute or 1.5 minutes."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} second{'' if seconds < 1.5 else 's'}"
    minutes = f"{seconds / 60:.3g}"
    return f"{minutes} minute{'' if minutes == '1' else 's'}"


def _machine(setup: Setup) -> str:
    """Return in a few words what the time was measured on."""
    if setup.device.type != "cpu":
        return setup.reason.partition(";")[0]
    threads = torch.get_num_threads()
    return f"a CPU with {threads} thread{'' if threads == 1 else 's'}"


def _promise(corpus: str, seconds: float, machine: str) -> Choices:
    return {
        ("description",): (f"A run of {time_text(seconds)} on {corpus}, suggested for this machine", ""),
        ("expects", "minutes"): (rounded(seconds / 60, 3), ""),
        ("expects", "machine"): (machine, ""),
    }


def _built(choices: Choices) -> RunProfile:
    """Return the profile of all that was chosen."""
    values: dict[str, Any] = {}
    for path, (value, _) in choices.items():
        section = values
        for part in path[:-1]:
            section = section.setdefault(str(part), {})
        section[str(path[-1])] = value
    return RunProfile.model_validate(values)
