"""Runs of our own as weights to begin from; how a run keeps them is the business of ``checkpoints``."""

from __future__ import annotations

from gptcli.bases.base import Base
from gptcli.checkpoints import Which, run_weights
from gptcli.runs import RunDir


def open_run(run: RunDir, name: str, *, which: Which = "best") -> Base:
    """Open the best or latest checkpoint of a run, adapters merged; ``RunError`` when it has none yet."""
    weights, step = run_weights(run, which)
    profile, tokenizer = run.profile(), run.tokenizer()
    origin: dict[str, str | int] = {
        "run": run.name,
        "step": step,
        "corpus": run.manifest().corpus,
        "tokenizer": tokenizer.fingerprint,
    }
    if (parent := run.base()) is not None:
        origin["base"] = str(parent["name"])
    return Base(name, "run", profile.model, tokenizer, weights, origin, chat=run.chat_template)
