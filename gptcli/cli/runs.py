"""``gptcli runs``: which runs there are, how far each has come, and what is done with one that is there."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.common import JsonOption, emit, emit_lines, note, reports_errors, stdout_width
from gptcli.cli.runs_compare import compare_command
from gptcli.cli.runs_files import RunArgument, export_metrics_command, plot_command, report_command, rm_command
from gptcli.errors import GptcliError

if TYPE_CHECKING:
    from gptcli.cli.runs_view import Problem
    from gptcli.history import History
    from gptcli.run_facts import RunFacts
    from gptcli.runs import RunDir

runs_app = typer.Typer(help="Runs: list, show, compare, plot, report, remove.", no_args_is_help=True)


@runs_app.command("list")
@reports_errors
def list_command(as_json: JsonOption = False) -> None:
    """List all runs, the newest first: state, step, best val_loss, bits per byte, pace, size, corpus, profile.

    Example: gptcli runs list
    """
    from gptcli.cli.runs_view import Problem, list_lines
    from gptcli.runs import RunDir, run_names

    found = (_facts_or_problem(RunDir(Path("runs", name))) for name in run_names())
    rows = [row for row in found if row is not None]
    if as_json:
        emit(
            {"runs": [_problem_json(row) if isinstance(row, Problem) else row.to_json() for row in rows]},
            "",
            as_json=True,
        )
    elif rows:
        emit_lines(list_lines(rows, stdout_width()))
    else:
        note("There are no runs here yet: gptcli train CORPUS")


def _facts_or_problem(run: RunDir) -> RunFacts | Problem | None:
    """A list says which run is damaged and goes on with the others; None for one that was removed meanwhile."""
    from gptcli.cli.runs_view import Problem
    from gptcli.run_facts import run_facts

    row: RunFacts | Problem
    try:
        row = run_facts(run)
    except (GptcliError, OSError) as error:
        row = Problem(run.name, str(run.path), getattr(error, "message", str(error)))
    return row if run.profile_path.exists() else None


def _problem_json(problem: Problem) -> dict[str, Any]:
    return {"run": problem.run, "folder": problem.folder, "problem": problem.text}


@runs_app.command("show")
@reports_errors
def show_command(
    run: RunArgument = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the run while it is trained elsewhere.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a run: how far it has come, its loss curve, checkpoints, last sample, and what it came from.

    --watch follows one that another terminal trains, and leaves it alone on Ctrl-C. --json adds its whole profile.

    Example: gptcli runs show
    """
    from gptcli.runs import find_run

    found = find_run(run)
    if watch:
        if as_json:
            raise typer.BadParameter("--watch is for people; --json prints what is there now.")
        from gptcli.cli.runs_watch import watch_run

        try:
            watch_run(found)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"No longer watching {found.name}, which is left alone.") from stop
        return
    page = _page(found)
    if as_json:
        emit(page.to_json(), "", as_json=True)
    else:
        _show_page(page)


runs_app.command("compare")(compare_command)
runs_app.command("plot")(plot_command)
runs_app.command("report")(report_command)
runs_app.command("export-metrics")(export_metrics_command)
runs_app.command("rm")(rm_command)


@dataclass(frozen=True, slots=True)
class _Page:
    facts: RunFacts
    history: History
    more: dict[str, Any]
    profile: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the page as one object: the facts, what is around them, the evaluations, the profile."""
        last = self.history.samples[-1:]
        return {
            **self.facts.to_json(),
            **{key: value for key, value in self.more.items() if key not in ("model", "next")},
            "evaluations": [
                {
                    "step": e.step,
                    "val_loss": e.val_loss,
                    "val_loss_stderr": e.val_loss_stderr,
                    "bits_per_byte": e.bits_per_byte,
                    "seconds": e.seconds,
                }
                for e in self.history.evaluations
            ],
            "sample": {"step": last[0].step, "prompt": last[0].prompt, "text": last[0].text} if last else None,
            "profile": self.profile,
        }


def _page(run: RunDir) -> _Page:
    from gptcli.history import read_history
    from gptcli.run_facts import checkpoints, children, parent, run_facts

    history, profile = read_history(run), run.profile()
    facts, manifest, born = run_facts(run, history), run.manifest(), parent(run)
    more = {
        "model": profile.model.model_dump(mode="json"),
        "lora_rank": profile.finetune.lora_rank if facts.base else 0,
        "train_tokens": manifest.train.tokens,
        "val_tokens": manifest.val.tokens,
        "expected_val_loss": profile.expects.val_loss,
        "parent": born[0] if born else None,
        "parent_step": born[1] if born else None,
        "children": list(children(run)),
        "checkpoints": checkpoints(run),
        "next": _next(facts),
    }
    return _Page(facts, history, more, profile.model_dump(mode="json"))


def _next(facts: RunFacts) -> str:
    name = quote(facts.run)
    ways = {
        "running": f"gptcli runs show {name} --watch",
        "stopped": f"gptcli train --resume --run {name}",
        "failed": f"gptcli train --resume --run {name}",
        "done": f"gptcli sample {name}",
    }
    return ways[facts.state]


def _show_page(page: _Page) -> None:
    from rich.text import Text

    from gptcli.cli.runs_view import CURVE_WIDTH, curve_lines, page_facts, sample_lines
    from gptcli.display import print_facts, stdout_console

    width = stdout_width()
    facts = page_facts(page.facts, page.more)
    if width is None:
        emit_lines([Text(f"{key}: {value}") for key, value in facts])
    else:
        print_facts(stdout_console(), facts)
    curve = curve_lines(page.history, min(width or CURVE_WIDTH, 120))
    emit_lines([Text(""), *curve] if curve else [])
    if page.history.samples:
        last = page.history.samples[-1]
        emit_lines([Text(""), *sample_lines(last.prompt, last.text, last.step)])
    sys.stdout.flush()
