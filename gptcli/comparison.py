"""Several runs side by side: what differs between their profiles, and their losses at equal steps.

Values alone: no weights are opened and nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptcli.history import Evaluation, History, read_history
from gptcli.run_facts import RunFacts, run_facts
from gptcli.runs import RunDir
from gptcli.shards import DatasetManifest

# What a profile says about itself or about text drawn later changes no loss.
LEFT_OUT = ("description", "expects", "sample", "format_version")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs in the order they were named; every sequence inside has a value for each."""

    facts: tuple[RunFacts, ...]
    histories: tuple[History, ...]
    differences: tuple[tuple[str, tuple[Any, ...]], ...]
    """Keys of the profile, and of the text, whose values are not the same everywhere."""
    losses: tuple[tuple[int, tuple[Evaluation | None, ...]], ...]
    """The steps at which there was an evaluation: at which all runs had one, where there are two such steps."""
    same_tokens: bool
    """Whether a nat a token means the same: else only bits_per_byte compare."""
    same_val: bool
    """Whether all were scored on the same text."""


def compare_runs(runs: Sequence[RunDir]) -> Comparison:
    """Put runs side by side; raises what reading their profiles does."""
    histories = tuple(read_history(run) for run in runs)
    facts = tuple(run_facts(run, history) for run, history in zip(runs, histories, strict=True))
    manifests = [run.manifest() for run in runs]
    profiles = [
        _flat({k: v for k, v in run.profile().model_dump(mode="json").items() if k not in LEFT_OUT}) for run in runs
    ]
    texts = [_text_facts(manifest) for manifest in manifests]
    rows = [{**profile, **text} for profile, text in zip(profiles, texts, strict=True)]
    return Comparison(
        facts=facts,
        histories=histories,
        differences=tuple(different(rows)),
        losses=tuple(losses_at_equal_steps(histories)),
        same_tokens=len({manifest.fingerprint for manifest in manifests}) == 1,
        same_val=len({_val_identity(manifest) for manifest in manifests}) == 1,
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


def _val_identity(manifest: DatasetManifest) -> tuple[object, ...]:
    return manifest.corpus_sha256, manifest.split, manifest.split_at, manifest.val_fraction
