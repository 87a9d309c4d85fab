"""``gptcli doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

from dataclasses import asdict

from gptcli import __version__
from gptcli.cli.common import JsonOption, emit, emit_columns, import_torch, reports_errors

STYLES = {"ok": "", "note": "yellow", "warning": "bold red"}


@reports_errors
def doctor_command(as_json: JsonOption = False) -> None:
    """Say what gptcli finds on this machine, and how to get what is missing.

    Versions, devices, threads, compiler, memory, disk, caches, extras. Nothing is changed and no network is asked.

    Example: gptcli doctor
    """
    import_torch()
    from rich.text import Text

    from gptcli.figures import visible
    from gptcli.machine import examine

    findings = list(examine())
    if as_json:
        emit({"gptcli": __version__, "findings": [asdict(finding) for finding in findings]}, "", as_json=True)
        return
    rows = []
    for finding in findings:
        text = Text.assemble((_worded(finding.level, visible(finding.text)), STYLES[finding.level]))
        text.append(f"\n{visible(finding.hint)}" if finding.hint else "", "dim")
        rows.append((Text(finding.topic, "dim"), text))
    emit_columns(rows)


def _worded(level: str, text: str) -> str:
    return text if level == "ok" else f"{level}: {text}."
