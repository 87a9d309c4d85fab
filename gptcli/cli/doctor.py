"""``gptcli doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.text import Text

from gptcli import __version__
from gptcli.cli.common import EXIT_ERROR, JsonOption, emit, emit_columns, importing, reports_errors
from gptcli.doctor import Finding, examine
from gptcli.figures import visible

STYLES = {"ok": "", "note": "yellow", "warning": "bold red", "error": "bold red"}


@reports_errors
def doctor_command(as_json: JsonOption = False) -> None:
    """Say what gptcli finds on this machine, and how to get what is missing.

    Versions, devices, threads, compiler, memory, disk, caches, extras. Nothing is changed and no network is asked.
    The exit code is 1 where a package that gptcli needs is missing or broken.

    Example: gptcli doctor
    """
    with importing():
        findings = list(examine())
    if as_json:
        emit({"gptcli": __version__, "findings": [asdict(finding) for finding in findings]}, "", as_json=True)
    else:
        emit_columns([(Text(finding.topic, "dim"), _text(finding)) for finding in findings])
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(EXIT_ERROR)


def _text(finding: Finding) -> Text:
    said = visible(finding.text)
    text = Text(said if finding.level == "ok" else f"{finding.level}: {said}.", STYLES[finding.level])
    return text.append(f"\n{visible(finding.hint)}" if finding.hint else "", "dim")
