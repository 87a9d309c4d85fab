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
# A forward pass without gradients is a third of a step's arithmetic.
EVALUATION_SHARE = 1 / 3


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
    return {**facts, "largest_batch_size": batch, **times, "warnings": warnings}


def largest_batch(profile: RunProfile, place: Place) -> int:
    """Return the largest ``batch_size`` of a resolved profile that leaves a tenth of the memory free; 0 for none."""
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
    """Return the seconds of a step, of all evaluations and of the run, and where they are from."""
    peak, step, source = place.setup.peak_flops, None, "not known: this device is not here, and its peak not known"
    if place.is_here:
        step, source = _probed(profile, place, on_progress)
    elif peak is not None:
        step = profile.tokens_per_step * flops_per_token(profile.model) / (ASSUMED_MFU * peak)
        source = f"reckoned at {ASSUMED_MFU:.0%} of the {peak / 1e12:.0f} TFLOP/s of its data sheet (mfu)"
    train = profile.train
    scored = min(facts["val_tokens"] or train.eval_tokens or 0, train.eval_tokens or 2**63)
    evaluations, seconds = -(-train.max_steps // train.eval_interval), None
    evaluating = None
    if step is not None:
        evaluating = evaluations * scored * EVALUATION_SHARE * step / profile.tokens_per_step
        seconds = train.max_steps * step + evaluating
    return {
        "step_seconds": step,
        "tokens_per_second": None if step is None else profile.tokens_per_step / step,
        "evaluation_seconds": evaluating,
        "seconds": seconds,
        "time_source": source,
    }


def _least(*sizes: int | None) -> int | None:
    return min((size for size in sizes if size is not None), default=None)


def _probed(profile: RunProfile, place: Place, on_progress: Callable[[str], None]) -> tuple[float | None, str]:
    """Time steps here, of as many rows as fit; those of too large a model are not even begun."""
    rows = profile.train.batch_size
    while rows > 1 and place.memory is not None and not _fits(profile, rows, place):
        rows = -(-rows // 2)
    if place.memory is not None and not _fits(profile, rows, place):
        return None, f"not known: the model does not fit {bytes_text(place.memory)}, so no step was timed"
    on_progress("Timing up to 20 steps on this machine.")
    seconds, said = probe(profile, place.setup, rows)
    return seconds, f"{said} on this machine"
