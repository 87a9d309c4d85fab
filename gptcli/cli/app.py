"""The ``gptcli`` command: its sub-commands, ``--version``, and the way through them for a newcomer.

Nothing slow is imported here: a command is imported when it is typed, and imports what it runs when it runs.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from gptcli import __version__
from gptcli.cli.commands import Commands

HEADLINE = "gptcli trains a small GPT on your own text and writes with it."
FOOTER = "gptcli --help lists all commands, gptcli COMMAND --help their options."

app = typer.Typer(
    name="gptcli",
    cls=Commands,
    help="Train a small GPT on your own text and write with it.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 1000},  # the window decides
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,  # its panels take longer to import than all the rest
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gptcli {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def overview(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - the callback answers it
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train a small GPT on your own text and write with it: fetch, prepare, train, sample."""
    if context.invoked_subcommand is None:
        from gptcli.cli.common import reports_errors

        reports_errors(_show_standing)()


def _show_standing() -> None:
    """Print the way from a text to a model that writes, how far it is gone in this folder, and what to type next."""
    from rich.text import Text

    from gptcli.cli.common import emit_columns, emit_lines
    from gptcli.figures import visible
    from gptcli.standing import find_standing

    found = find_standing()
    rows = []
    for stage in found.stages:
        is_next = stage.name == found.next_stage
        mark, style = (">", "bold") if is_next else ("✓", "green") if stage.done else (" ", "dim")
        rows.append((Text(f"  {mark} {stage.name}", style), Text(visible(stage.text))))
    emit_lines([Text(HEADLINE), Text("")])
    emit_columns(rows)
    lines = [Text(""), Text.assemble("Next: ", (visible(found.next), "bold"))]
    if not any(stage.done for stage in found.stages):
        lines.append(Text("A folder of texts will do too, and so will an address such as https://example.org/."))
        lines.append(Text("No text at hand? gptcli train takes Python's own documentation, and a minute."))
    emit_lines([*lines, Text(""), Text(FOOTER)])


def main() -> None:
    """Run the command line: UTF-8 on every console, and SIGTERM as an orderly end with exit code 143."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that spin while they wait make a step 20 times slower when anything else needs a core.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    signal.signal(signal.SIGTERM, _terminate)
    if "--install-completion" in sys.argv:  # typer says nothing of that
        sys.stderr.write("This may add a line to the start-up file of your shell, such as ~/.bashrc.\n")
    if "COMP_WORDS" in os.environ:
        from gptcli.cli.completion import join_words

        join_words(os.environ)
    try:
        app()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is Python's own tidying up


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal passes
    sys.exit(128 + number)
