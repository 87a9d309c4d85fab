"""Where somebody stands in a folder: which of the stages are done there, and the command to type next.

Reads names and the newest of each thing; opens no weights and asks no network.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from gptcli.corpora import CORPORA, corpus_names, unfinished_fetches
from gptcli.errors import GptcliError
from gptcli.figures import bytes_text, loss_text
from gptcli.profiles import profile_for
from gptcli.run_facts import RunFacts, run_facts
from gptcli.runs import RunDir, run_names

STAGES = ("fetch", "prepare", "train", "sample")
PROMISES = {
    "fetch": "a text, a blog, a book or recordings become a corpus",
    "prepare": "a corpus becomes tokens",
    "train": "tokens become a model; finetune goes on from one that exists",
    "sample": "the model writes; chat is you and it, in turns",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the way and what there is of it; ``text`` says what it does where there is nothing yet."""

    name: str
    done: bool
    text: str


@dataclass(frozen=True, slots=True)
class Standing:
    """All stages in their order, the one that comes next, and the command to type for it."""

    stages: tuple[Stage, ...]
    next_stage: str
    next: str


def find_standing(runs_dir: Path = Path("runs"), corpora_dir: Path = CORPORA) -> Standing:
    """Look at what there is in this folder; what cannot be read counts as nothing."""
    corpora, runs = corpus_names(corpora_dir), run_names(runs_dir)
    newest = corpora_dir / corpora[0] if corpora else None
    tokens = sorted(path.parent.name for path in newest.glob("tokens/*/manifest.json")) if newest else []
    facts = _newest_run(runs_dir, runs)
    said = {
        "fetch": _corpora_text(corpora, newest),
        "prepare": f"{newest.name}: {', '.join(tokens)}" if newest and tokens else "",
        "train": _runs_text(runs, facts),
        "sample": "",
    }
    stages = tuple(Stage(name, bool(said[name]), said[name] or PROMISES[name]) for name in STAGES)
    return Standing(stages, *_next(facts, newest, runs_dir, corpora_dir, prepared=bool(tokens)))


def _newest_run(runs_dir: Path, names: list[str]) -> RunFacts | None:
    for name in names[:1]:
        with contextlib.suppress(GptcliError, OSError):
            return run_facts(RunDir(runs_dir / name))
    return None


def _corpora_text(names: list[str], newest: Path | None) -> str:
    if newest is None:
        return ""
    size = bytes_text((newest / "documents.jsonl").stat().st_size)
    return f"{newest.name}, {size}" if len(names) == 1 else f"{len(names)} corpora, the newest {newest.name}, {size}"


def _runs_text(names: list[str], facts: RunFacts | None) -> str:
    if not names:
        return ""
    many = "" if len(names) == 1 else f"{len(names)} runs, the newest "
    if facts is None:
        return f"{many}{names[0]}"
    loss = "" if facts.best_val_loss is None else f", val_loss {loss_text(facts.best_val_loss)}"
    return f"{many}{facts.run}: {facts.state}, step {facts.step:,} of {facts.max_steps:,}{loss}"


def _next(
    facts: RunFacts | None, corpus: Path | None, runs_dir: Path, corpora_dir: Path, *, prepared: bool
) -> tuple[str, str]:
    """Return what comes next: what was begun goes on, what is new is prepared and trained, what is done writes."""
    if facts is not None and facts.state == "running":
        return "train", f"gptcli runs show {quote(facts.run)} --watch"
    for command in unfinished_fetches(corpora_dir).values():
        return "fetch", command
    if corpus is not None and (facts is None or _is_newer(corpus, RunDir(runs_dir / facts.run))):
        if prepared:
            return "train", f"gptcli train {quote(corpus.name)} --profile {quote(profile_for(corpus.name))}"
        return "prepare", f"gptcli prepare {quote(corpus.name)}"
    if facts is None:
        return "fetch", "gptcli fetch YOUR-TEXT.txt"
    if facts.state in ("stopped", "failed"):
        return "train", f"gptcli train --resume --run {quote(facts.run)}"
    return "sample", f"gptcli sample {quote(facts.run)}"


def _is_newer(corpus: Path, run: RunDir) -> bool:
    """Say whether a corpus came after a run was last written to."""
    return (corpus / "documents.jsonl").stat().st_mtime > run.changed_at
