"""``gptcli runs``: which runs there are, and how far each has come."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.common import JsonOption, emit, reports_errors
from gptcli.errors import GptcliError

if TYPE_CHECKING:
    from gptcli.runs import RunDir

runs_app = typer.Typer(help="Runs: list them, show one.", no_args_is_help=True)


@runs_app.command("list")
@reports_errors
def list_command(as_json: JsonOption = False) -> None:
    """List all runs, the newest first: step, best val_loss, corpus.

    Example: gptcli runs list
    """
    from gptcli.runs import find_run, run_names

    rows = [_facts_or_problem(find_run(name)) for name in run_names()]
    width = max((len(row["run"]) for row in rows), default=0)
    lines = [f"{row['run']:<{width}}  {_summary(row)}" for row in rows]
    emit({"runs": rows}, "\n".join(lines), as_json=as_json)


@runs_app.command("show")
@reports_errors
def show_command(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Name of a run; the newest if none is given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run has come and its best val_loss; --json adds its whole profile.

    Example: gptcli runs show --json
    """
    from gptcli.runs import find_run

    found = find_run(run)
    facts = _facts(found)
    lines = [f"{key}: {value}" for key, value in facts.items() if value is not None]
    profile = found.profile().model_dump(mode="json")
    emit({**facts, "profile": profile}, "\n".join(lines), as_json=as_json)


def _facts(run: RunDir) -> dict[str, Any]:
    """Sum a run up from its profile and its metrics."""
    from gptcli.metrics import read_events

    profile = run.profile()
    facts: dict[str, Any] = {
        "run": run.name,
        "folder": str(run.path),
        "corpus": profile.data.corpus,
        "tokenizer": profile.data.tokenizer,
        "step": 0,
        "max_steps": profile.train.max_steps,
        "best_step": None,
        "best_val_loss": None,
        "bits_per_byte": None,
    }
    damaged = list[int]()
    for event in read_events(run.metrics_path, damaged.append):
        facts["step"] = max(facts["step"], _number(event.get("step")) or 0)
        if event.get("event") == "evaluated" and event.get("best"):
            found = {key: _number(event.get(key)) for key in ("step", "val_loss", "bits_per_byte")}
            facts.update(best_step=found["step"], best_val_loss=found["val_loss"], bits_per_byte=found["bits_per_byte"])
    return {**facts, "damaged_lines": damaged or None}


def _number(value: object) -> int | float | None:
    """Return what is a number; anything else that a damaged line may hold is nothing, as is one without end."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


def _facts_or_problem(run: RunDir) -> dict[str, Any]:
    """A list says which run is damaged and goes on with the others."""
    try:
        return _facts(run)
    except GptcliError as error:
        return {"run": run.name, "folder": str(run.path), "problem": error.message}


def _summary(row: dict[str, Any]) -> str:
    if "problem" in row:
        return " ".join(row["problem"].split())
    return f"step {row['step']}/{row['max_steps']}  val_loss {_loss(row)}  {row['corpus']}"


def _loss(row: dict[str, Any]) -> str:
    return "-" if row["best_val_loss"] is None else f"{row['best_val_loss']:.4f} at step {row['best_step']}"
