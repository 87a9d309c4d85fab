"""What a run is at a glance: its shape, how far it has come, whether anybody trains it, what it came from.

Reads a run and changes nothing in it; how the facts look is the business of whoever shows them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gptcli.checkpoint_folders import checkpoint_folders, pointed, step_of
from gptcli.errors import FormatError, GptcliError
from gptcli.files import read_json
from gptcli.history import History, read_history, text
from gptcli.plan import count_parameters
from gptcli.run_lock import is_trained
from gptcli.runs import RUN_VERSION, RunDir, run_names

State = Literal["running", "stopped", "done", "failed"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run at a glance; losses in nats a token, times in seconds."""

    run: str
    folder: Path
    state: State
    corpus: str | None
    tokenizer: str
    profile_name: str | None
    """The name of the profile that the run was made with."""
    base: str | None
    """What a finetune began from."""
    n_params: int
    step: int
    max_steps: int
    tokens_seen: int
    seconds: float
    best_step: int | None
    best_val_loss: float | None
    best_val_loss_stderr: float | None
    bits_per_byte: float | None
    tokens_per_second: float | None
    changed_at: str
    """When something was last written down, in UTC."""
    failure: str | None
    """Why a run that failed did."""
    damaged_lines: tuple[int, ...]
    """Lines of the metrics that cannot be read."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as one JSON object."""
        return asdict(self)


def run_facts(run: RunDir, history: History | None = None) -> RunFacts:
    """Sum a run up from its profile, its metrics and its lock; raises what reading its profile does."""
    profile = run.profile()
    history = history or read_history(run, brief=True)
    best, state = history.best, _state(run, history)
    return RunFacts(
        run=run.name,
        folder=run.path,
        state=state,
        corpus=profile.data.corpus,
        tokenizer=profile.data.tokenizer,
        profile_name=text(environment(run).get("profile")) or None,
        base=profile.finetune.base,
        n_params=count_parameters(profile.model),
        step=history.step,
        max_steps=profile.train.max_steps,
        tokens_seen=history.tokens_seen,
        seconds=history.seconds,
        best_step=best.step if best else None,
        best_val_loss=best.val_loss if best else None,
        best_val_loss_stderr=best.val_loss_stderr if best else None,
        bits_per_byte=best.bits_per_byte if best else None,
        tokens_per_second=history.tokens_per_second,
        changed_at=dt.datetime.fromtimestamp(run.changed_at, dt.timezone.utc).isoformat(timespec="seconds"),
        failure=text(history.last.get("text")) or None if state == "failed" else None,
        damaged_lines=tuple(history.damaged_lines),
    )


def _state(run: RunDir, history: History) -> State:
    if is_trained(run):
        return "running"
    if history.last.get("event") == "run_failed":
        return "failed"
    return "done" if run.has_ended else "stopped"


def environment(run: RunDir) -> dict[str, Any]:
    """Return what was written down of the machine when the run was created; nothing where that is lost."""
    with contextlib.suppress(FormatError, OSError):
        return read_json(run.environment_path, format_version=RUN_VERSION, what="the environment of a run")
    return {}


def parent(run: RunDir) -> tuple[str, int | None] | None:
    """Return the run, and its step, that a finetune began from; None where it began from something else."""
    base = run.base()
    if base is None or base.get("kind") != "run" or not isinstance(base.get("origin"), dict):
        return None
    step = base["origin"].get("step")
    return text(base["origin"].get("run")), step if isinstance(step, int) else None


def children(run: RunDir) -> Iterator[str]:
    """Yield the names of the runs beside it that began from it; one that cannot be read is nobody's child.

    A finetune writes down the name that was typed for its base, or the path, which was typed in the folder of runs/.
    """
    runs_dir = run.path.resolve().parent
    for name in run_names(runs_dir):
        with contextlib.suppress(GptcliError, OSError, ValueError):  # the last for what can be no path
            base = RunDir(runs_dir / name).base()
            if base is None or base.get("kind") != "run" or name == run.name:
                continue
            typed = base["name"]
            place = runs_dir / typed if Path(typed).name == typed else runs_dir.parent / typed
            if place.resolve() == run.path.resolve():
                yield name


def checkpoints(run: RunDir) -> list[dict[str, Any]]:
    """Return the run's checkpoints, the oldest first: step, folder, bytes, and whether it is the best or the latest."""
    marked: dict[str, str | None] = {}
    for which in ("best", "latest"):
        with contextlib.suppress(GptcliError, OSError):
            found = pointed(run, which)
            marked[which] = found.name if found else None
    rows = []
    for path in reversed(checkpoint_folders(run)):
        with contextlib.suppress(FileNotFoundError):  # training has deleted it meanwhile
            n_bytes = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            marks = {which: marked.get(which) == path.name for which in ("best", "latest")}
            rows.append({"step": step_of(path), "folder": path, "bytes": n_bytes, **marks})
    return rows
