"""What is added to the facts of a run by asking what else would fit, and how long it would take.

The time comes from steps that are timed here, or from the peak of a card that is not; nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gptcli.bench import probe
from gptcli.config import RunProfile
from gptcli.dry_run import Missing, memory_at, plan_training, settle, shortage
from gptcli.figures import bytes_text
from gptcli.places import Place
from gptcli.plan import flops_per_token
from gptcli.shards import TokenDataset

# Share of a card's peak that a compiled GPT has been seen to reach; small models reach less.
ASSUMED_MFU = 0.35
# Of the memory, what is left free: the plan was within 15 % of what runs took.
SPARE = 0.1
MOST_ROWS = 2**20
# Of a step's arithmetic, what its forward passes do, and an evaluation of as many tokens.
FORWARD_SHARE = 1 / 3


def plan_run(
    profile: RunProfile,
    tokens: TokenDataset | Missing,
    place: Place,
    *,
    memory: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the facts of ``plan_training`` with the largest batch that fits, the time, and what is in the way.

    ``memory`` are bytes to be planned for in place of those of the device; a step that takes more than either is not
    timed. ``warnings`` holds a sentence for each reason why the run as it is would not work well. Seconds are None
    where the device is not here and its peak unknown.
    """
    own = place.memory
    if memory is not None:
        place = replace(place, memory=memory)
    facts, (resolved, _) = plan_training(profile, tokens, place), settle(profile, tokens)
    batch = None if place.memory is None else largest_batch(resolved, place)
    where = None if memory is None else "what is planned for"
    warnings = [found] if (found := shortage(resolved, facts, where)) else []
    if batch == 0:
        warnings = [_nothing_fits(resolved, place)]
    times = _times(resolved, replace(place, memory=_least(own, memory)), facts, on_progress)
    if times["step_seconds"] is not None and times["evaluation_seconds"] is None:
        facts["unknown"].append(f"evaluation_seconds, which the time is without, before {facts['corpus']} is prepared")
    return {**facts, "largest_batch_size": batch, **times, "warnings": warnings}


def largest_batch(profile: RunProfile, place: Place) -> int:
    """Return the largest ``batch_size`` of a resolved profile that leaves a tenth of the memory free; 0 for none.

    More than a million are not looked for.
    """
    assert place.memory is not None, "nothing can be said about memory that is not known"
    low, high = 0, 1
    while high < MOST_ROWS and _fits(profile, high, place):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(profile, middle, place) else (low, middle)
    return low


def _fits(profile: RunProfile, rows: int, place: Place) -> bool:
    return memory_at(with_rows(profile, rows), place).peak <= (1 - SPARE) * (place.memory or 0)


def with_rows(profile: RunProfile, rows: int, **train: bool) -> RunProfile:
    """Return the profile with another ``batch_size``."""
    return profile.model_copy(update={"train": profile.train.model_copy(update={"batch_size": rows, **train})})


def _nothing_fits(profile: RunProfile, place: Place) -> str:
    """Say that not even one sequence fits, and what would."""
    have = place.memory or 0
    least = memory_at(with_rows(profile, 1), place).peak
    said = f"not even batch_size 1 fits {have / 1e9:.1f} GB: it takes {least / 1e9:.1f} GB, and a tenth should be free."
    if not profile.train.gradient_checkpointing:
        thrifty = memory_at(with_rows(profile, 1, gradient_checkpointing=True), place).peak
        if thrifty <= (1 - SPARE) * have:
            return f"{said} --set batch_size=1 --set gradient_checkpointing=true takes {thrifty / 1e9:.1f} GB."
    return f"{said} A smaller model would, such as --set n_layer=4 --set n_embd=256, or a shorter block_size."


def _times(
    profile: RunProfile, place: Place, facts: dict[str, Any], on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """Return the seconds of a step, of all evaluations and of the run, and where they are from.

    The run's are without its evaluations where nobody knows how much those score.
    """
    step, forward, source = _step(profile, place, on_progress)
    train, evaluating = profile.train, None
    known = [size for size in (facts["val_tokens"], train.eval_tokens) if size is not None]
    if forward is not None and known:
        evaluations = -(-train.max_steps // train.eval_interval)
        evaluating = evaluations * min(known) * forward / profile.tokens_per_step
    return {
        "step_seconds": step,
        "tokens_per_second": None if step is None else profile.tokens_per_step / step,
        "evaluation_seconds": evaluating,
        "seconds": None if step is None else train.max_steps * step + (evaluating or 0.0),
        "time_source": source,
    }


def _step(
    profile: RunProfile, place: Place, on_progress: Callable[[str], None]
) -> tuple[float | None, float | None, str]:
    """Return the seconds of a step and of its forward part, and where they are from."""
    peak = place.setup.peak_flops
    if place.is_here:
        return _probed(profile, place, on_progress)
    if peak is None:
        return None, None, "not known: this device is not here, and its peak not known"
    step = profile.tokens_per_step * flops_per_token(profile.model) / (ASSUMED_MFU * peak)
    source = f"reckoned at {ASSUMED_MFU:.0%} of the {peak / 1e12:.0f} TFLOP/s of its data sheet (mfu)"
    return step, FORWARD_SHARE * step, source


def _least(*sizes: int | None) -> int | None:
    return min((size for size in sizes if size is not None), default=None)


def _probed(
    profile: RunProfile, place: Place, on_progress: Callable[[str], None]
) -> tuple[float | None, float | None, str]:
    """Time steps here, of as many rows as fit; those of too large a model are not even begun."""
    rows = profile.train.batch_size
    while rows > 1 and place.memory is not None and not _fits(profile, rows, place):
        rows = -(-rows // 2)
    if place.memory is not None and not _fits(profile, rows, place):
        return None, None, f"not known: the model does not fit {bytes_text(place.memory)}, so no step was timed"
    on_progress("Timing up to 20 steps on this machine.")
    step, forward, said = probe(profile, place.setup, rows)
    return step, forward, f"{said} on this machine"
