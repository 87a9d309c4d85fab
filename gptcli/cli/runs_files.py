"""``gptcli runs plot``, ``report``, ``export-metrics`` and ``rm``: what is made of runs, and what becomes of them."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptcli.cli.common import JsonOption, QuietOption, emit, import_torch, note, progress, reports_errors, write_stdout
from gptcli.cli.completion import complete_runs
from gptcli.errors import RunError

if TYPE_CHECKING:
    from gptcli.history import Evaluation, History, Report
    from gptcli.runs import RunDir

RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN...", autocompletion=complete_runs, help="Names of runs; else the newest."),
]
RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="RUN", autocompletion=complete_runs, help="Name of a run; the newest if none is given."),
]
COLUMNS = (
    *("step", "tokens_seen", "epoch", "train_loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu"),
    *("skipped_steps", "val_loss", "val_loss_stderr", "perplexity", "bits_per_byte", "best", "elapsed"),
)
SHOWN_FILES = 5


@reports_errors
def plot_command(
    runs: RunsArgument = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A .png, .svg or .pdf; else loss.png.")
    ] = None,
    x: Annotated[Literal["step", "tokens", "time"], typer.Option("--x", help="What runs from left to right.")] = "step",
    log: Annotated[bool, typer.Option("--log", help="Give the losses a logarithmic axis.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the losses of one run, or of several side by side; prints the picture's path.

    Val is thick, with a band of its standard error and a star at its best; train is thin. Runs in different tokens are
    drawn in bits per byte, as gptcli runs compare has them. Without --output one run's picture goes into the run.

    Example: gptcli runs plot --output loss.png
    """
    from gptcli.plot import SUFFIXES, curve_of, save_plot
    from gptcli.runs import find_run

    found = [find_run(name) for name in dict.fromkeys(runs)] if runs else [find_run()]
    place = output or (found[0].picture_path if len(found) == 1 else Path("loss.png"))
    replaces = _replaces(place, *SUFFIXES) and place != found[0].picture_path
    save_plot([curve_of(run) for run in found], place, x=x, log=log)
    if replaces:
        note(f"Replaced {place}.")
    emit({"path": place, "runs": [run.name for run in found]}, str(place), as_json=as_json)


@reports_errors
def report_command(
    run: RunArgument = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.html", help="Where it goes; else RUN.html.")
    ] = None,
    draws: Annotated[
        bool, typer.Option("--draw/--no-draw", help="Let the first weights and the best ones write for it.")
    ] = True,
    titles: Annotated[
        bool, typer.Option("--titles", help="List the titles of documents from files of yours too.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a page about a run that can be sent to anybody: one HTML file that asks for nothing; prints its path.

    What was trained on what, the losses, texts from the first step to the best, the profile, the data, the machine, and
    how to do it again. Folders of this machine are left out, and so are titles of documents from files on it.

    Example: gptcli runs report --output report.html
    """
    from gptcli.files import atomic_write
    from gptcli.runs import find_run

    found = find_run(run)
    place = output or Path(f"{found.name}.html")
    replaces = _replaces(place, ".html", ".htm")
    with progress(quiet=quiet) as going_on:
        if draws:
            going_on.show("Letting the model write")
            import_torch()
        from gptcli.report import make_report

        page = make_report(found, going_on.note, draws=draws, titles=titles)
    with atomic_write(place) as file:
        file.write(page.encode())
    if replaces and not quiet:
        note(f"Replaced {place}.")
    emit({"run": found.name, "path": place}, str(place), as_json=as_json)


@reports_errors
def export_metrics_command(
    run: RunArgument = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.csv", help="Where it goes; else stdout.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's losses as CSV, a row for each step that has any: for a spreadsheet, pandas or R.

    Example: gptcli runs export-metrics --output losses.csv
    """
    from gptcli.files import atomic_write
    from gptcli.history import read_history
    from gptcli.runs import find_run

    found = find_run(run)
    replaces = output is not None and _replaces(output, ".csv")
    rows = _rows(read_history(found))
    if output is None:
        emit({"run": found.name, "rows": rows}, "", as_json=True) if as_json else write_stdout(_csv(rows))
        return
    with atomic_write(output) as file:
        file.write(_csv(rows).encode())
    if replaces:
        note(f"Replaced {output}.")
    emit({"run": found.name, "path": output, "rows": len(rows)}, str(output), as_json=as_json)


def _replaces(place: Path, *suffixes: str) -> bool:
    """Say whether a file goes where one is already; refuses, before any work, what could not be written in the end."""
    from gptcli.files import check_writable

    if place.suffix.lower() not in suffixes:
        found = place.suffix or "no ending"
        raise typer.BadParameter(f"--output {place}: a file in {', '.join(suffixes)} is written; found {found!r}.")
    if place.exists() and not place.is_file():
        what = "a folder" if place.is_dir() else "a device or a pipe"
        raise RunError(f"{place} is {what}, so nothing was written.", "Choose another file with --output.")
    try:
        check_writable(place)
    except OSError as error:
        raise RunError(f"{place} cannot be written: {error.strerror}.", "Choose another file with --output.") from error
    return place.exists()


def _rows(history: History) -> list[dict[str, Any]]:
    """Fold the reports and evaluations of a step into one row, in the order of steps.

    What should be a number and is none is left out: a spreadsheet would take some texts for formulas.
    """
    from gptcli.history import number

    rows: dict[int, dict[str, Any]] = {}
    items: list[Report | Evaluation] = [*history.reports, *history.evaluations]
    for item in items:
        row = rows.setdefault(item.step, {})
        known = {key: value for key, value in item.record.items() if key in COLUMNS}
        row.update({key: value if isinstance(value, bool) else number(value) for key, value in known.items()})
        row["elapsed"] = item.seconds
    return [{key: rows[step].get(key) for key in COLUMNS} for step in sorted(rows)]


def _csv(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@reports_errors
def rm_command(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", autocompletion=complete_runs, help="Names of runs.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove runs, their checkpoints included, for good; asks before it does. Prints the folders that are gone.

    Files in a run that gptcli did not write are left where they are, and a run that is being trained is not touched.

    Example: gptcli runs rm old-run --yes
    """
    from gptcli.removal import find_removable

    found = list(dict.fromkeys(map(find_removable, runs)))
    _refuse_trained(found)
    if not yes:
        _ask(found)
    removed: list[dict[str, Any]] = []
    try:
        for run in found:
            removed.append(_remove(run, quiet=quiet))
            if not (as_json or run.path.exists()):
                write_stdout(f"{run.path}\n")
    finally:
        if as_json and removed:
            emit({"removed": removed}, "", as_json=True)


def _remove(run: RunDir, *, quiet: bool) -> dict[str, Any]:
    """Remove a run, say why its folder stays where it does, and return what became of it."""
    from gptcli.removal import remove_run

    contents = remove_run(run)
    if contents.foreign and not quiet:
        shown = ", ".join(path.name for path in contents.foreign[:SHOWN_FILES])
        more = f" and {len(contents.foreign) - SHOWN_FILES} more" if len(contents.foreign) > SHOWN_FILES else ""
        note(f"{run.path} stays: gptcli did not write {shown}{more}.")
    return {"run": run.name, "folder": run.path, "bytes": contents.n_bytes, "left": contents.foreign}


def _refuse_trained(runs: list[RunDir]) -> None:
    """Nothing is removed where one of several runs cannot be."""
    from gptcli.run_lock import is_trained

    for run in runs:
        if is_trained(run):
            raise RunError(
                f"The run {run.name!r} is being trained, so nothing was removed.",
                f"Stop it first, with Ctrl-C where it runs. gptcli runs show {run.name} --watch shows it.",
            )


def _ask(runs: list[RunDir]) -> None:
    """Say what would be lost, and end unless somebody says yes; ``RunError`` where nobody can."""
    from gptcli.figures import bytes_text
    from gptcli.removal import run_contents
    from gptcli.run_facts import children

    for run in runs:
        born = [name for name in children(run) if name not in {other.name for other in runs}]
        kept = f"; {', '.join(born)} began from it and stay{'s' if len(born) == 1 else ''} whole" if born else ""
        note(f"{run.path}: {bytes_text(run_contents(run).n_bytes)}{kept}")
    if not sys.stdin.isatty():
        raise RunError("Nothing was removed: there is nobody to ask.", "Add --yes if you mean it.")
    if not typer.confirm("Remove it for good?" if len(runs) == 1 else f"Remove these {len(runs)} for good?", err=True):
        note("Nothing was removed.")
        raise typer.Exit(1)
