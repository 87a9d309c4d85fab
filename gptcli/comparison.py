"""Several runs side by side: what differs between their profiles, their losses at equal cost, and which compare.

Values alone: no weights are opened and nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptcli.history import Evaluation, History, read_history, whole
from gptcli.run_facts import RunFacts, run_facts
from gptcli.runs import RunDir
from gptcli.shards import DatasetManifest

# What a profile says about itself or about text drawn later changes no loss.
LEFT_OUT = ("description", "expects", "sample", "format_version")


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the losses of a run are measured in and on."""

    tokens: str
    """The tokenizer's fingerprint: a nat a token means the same where it is the same."""
    val: tuple[object, ...]
    """The text and how val was set apart from it."""
    part: tuple[object, ...] = ()
    """How much of val is scored; empty for all of it."""


def scoring(run: RunDir) -> Scoring:
    """Return what a run's losses are measured in and on; raises what reading its profile does."""
    manifest, limit = run.manifest(), run.profile().train.eval_tokens
    val = (manifest.corpus_sha256, manifest.split, manifest.split_at, manifest.val_fraction)
    scored = manifest.val.conversations.scored_tokens if manifest.val.conversations else manifest.val.tokens - 1
    # As many tokens of another tokenizer are another part of the text.
    part = () if limit is None or limit >= scored else (manifest.fingerprint, limit)
    return Scoring(manifest.fingerprint, val, part)


def in_bits(scorings: Iterable[Scoring]) -> bool:
    """Say whether losses compare in bits per byte alone: their tokens differ."""
    return len({each.tokens for each in scorings}) > 1


def scored_apart(scorings: Collection[Scoring]) -> str:
    """Say on what runs were scored that does not compare, in bits per byte neither; nothing where it does."""
    if len({each.val for each in scorings}) > 1:
        return "different texts"
    return "different parts of val" if len({each.part for each in scorings}) > 1 else ""


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a run at some cost, in nats a token and in bits a byte."""

    val_loss: float
    bits_per_byte: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs in the order they were named; every sequence inside has a value for each."""

    facts: tuple[RunFacts, ...]
    differences: tuple[tuple[str, tuple[Any, ...]], ...]
    """Keys of the profile, and of the text, whose values are not the same everywhere."""
    losses: tuple[tuple[int, tuple[Evaluation | None, ...]], ...]
    """The steps at which there was an evaluation: at which all runs had one, where there are two such steps."""
    at_tokens: tuple[tuple[float, tuple[Loss, ...]], ...]
    """Losses after as many tokens seen; empty where equal steps are equal tokens too."""
    at_seconds: tuple[tuple[float, tuple[Loss, ...]], ...]
    """Losses after as many seconds."""
    same_tokens: bool
    """Whether a nat a token means the same: else only bits_per_byte compare."""
    scored_apart: str
    """What ``scored_apart`` says of them; empty where all were scored on the same text."""


def compare_runs(runs: Sequence[RunDir]) -> Comparison:
    """Put runs side by side; raises what reading their profiles does."""
    histories = tuple(read_history(run) for run in runs)
    facts = tuple(run_facts(run, history) for run, history in zip(runs, histories, strict=True))
    scorings = [scoring(run) for run in runs]
    profiles = [
        _flat({k: v for k, v in run.profile().model_dump(mode="json").items() if k not in LEFT_OUT}) for run in runs
    ]
    texts = [_text_facts(run.manifest()) for run in runs]
    rows = [{**profile, **text} for profile, text in zip(profiles, texts, strict=True)]
    return Comparison(
        facts=facts,
        differences=tuple(different(rows)),
        losses=tuple(losses := losses_at_equal_steps(histories)),
        at_tokens=() if _equally_many_tokens(losses) else tuple(losses_at_equal(histories, _tokens_seen)),
        at_seconds=tuple(losses_at_equal(histories, lambda evaluation: evaluation.seconds)),
        same_tokens=not in_bits(scorings),
        scored_apart=scored_apart(scorings),
    )


def different(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the keys whose values are not equal in all rows, in the order of the first, with their values."""
    keys = dict.fromkeys(key for row in rows for key in row)
    found = [(key, tuple(row.get(key) for row in rows)) for key in keys]
    return [(key, values) for key, values in found if any(value != values[0] for value in values[1:])]


def losses_at_equal_steps(histories: Sequence[History]) -> list[tuple[int, tuple[Evaluation | None, ...]]]:
    """Return the evaluations of every step that all runs were evaluated at; of any run where those are too few."""
    by_step = [{evaluation.step: evaluation for evaluation in history.evaluations} for history in histories]
    common = set.intersection(*(set(steps) for steps in by_step))
    steps = common if len(common) > 1 else set().union(*by_step)
    return [(step, tuple(evaluations.get(step) for evaluations in by_step)) for step in sorted(steps)]


def losses_at_equal(
    histories: Sequence[History], cost: Callable[[Evaluation], float]
) -> list[tuple[float, tuple[Loss, ...]]]:
    """Return the losses of all runs at the costs at which the run that ended first was evaluated.

    Of the others they are read off the straight line between two evaluations; where a run has no evaluation before or
    after a cost, that is left out.
    """
    curves = [[(cost(evaluation), evaluation) for evaluation in history.evaluations] for history in histories]
    if not all(curves):
        return []
    begin = max(curve[0][0] for curve in curves)
    shortest = min(curves, key=lambda curve: curve[-1][0])
    return [(at, tuple(_read_off(curve, at) for curve in curves)) for at, _ in shortest if at >= begin]


def _read_off(curve: Sequence[tuple[float, Evaluation]], at: float) -> Loss:
    """Return the loss at a cost from the first to the last of the curve."""
    after = next(i for i, (cost, _) in enumerate(curve) if cost >= at)
    (right, later), (left, earlier) = curve[after], curve[max(0, after - 1)]
    share = (at - left) / (right - left) if right > left else 1.0
    bits = None
    if earlier.bits_per_byte is not None and later.bits_per_byte is not None:
        bits = earlier.bits_per_byte + share * (later.bits_per_byte - earlier.bits_per_byte)
    return Loss(earlier.val_loss + share * (later.val_loss - earlier.val_loss), bits)


def _tokens_seen(evaluation: Evaluation) -> float:
    return whole(evaluation.record.get("tokens_seen")) or 0


def _equally_many_tokens(losses: Iterable[tuple[int, tuple[Evaluation | None, ...]]]) -> bool:
    """Say whether all runs had seen as many tokens at each step that all were evaluated at."""
    seen = [{_tokens_seen(each) for each in row if each} for _, row in losses if all(row)]
    return bool(seen) and all(len(tokens) == 1 for tokens in seen)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn sections into dotted keys, as ``--set`` takes them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _text_facts(manifest: DatasetManifest) -> dict[str, Any]:
    return {
        "train tokens": manifest.train.tokens,
        "val tokens": manifest.val.tokens,
        "text": manifest.corpus_sha256[:12],
    }
