"""Runs of our own as weights to begin from; how a run keeps them is the business of ``checkpoints``."""

from __future__ import annotations

from gptcli.bases.base import Base
from gptcli.checkpoint_folders import Which
from gptcli.restore import readable_checkpoint, whole_weights
from gptcli.runs import RunDir


def open_run(run: RunDir, name: str, *, which: Which = "best") -> Base:
    """Open the best or latest checkpoint of a run, adapters merged; ``RunError`` when it has none yet.

    Where that one is damaged, the newest that is whole is taken, with a note of it.
    """
    notes: list[str] = []
    checkpoint = readable_checkpoint(run, which, notes.append)
    weights = whole_weights(run, checkpoint)
    profile, tokenizer = run.profile(), run.tokenizer()
    origin: dict[str, str | int] = {
        "run": run.name,
        "step": checkpoint.state.step,
        "corpus": run.manifest().corpus,
        "tokenizer": tokenizer.fingerprint,
    }
    if (parent := run.base()) is not None:
        origin["base"] = str(parent["name"])
    return Base(
        name,
        "run",
        profile.model,
        tokenizer,
        weights,
        origin,
        tuple(notes),
        chat=run.chat_template,
        val_loss=checkpoint.state.val_loss,
    )
