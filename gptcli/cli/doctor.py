"""``gptcli doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

from dataclasses import asdict

from gptcli import __version__
from gptcli.cli.common import JsonOption, emit, emit_lines, import_torch, reports_errors, stdout_width

STYLES = {"ok": "", "note": "yellow", "warning": "bold red"}


@reports_errors
def doctor_command(as_json: JsonOption = False) -> None:
    """Say what gptcli finds on this machine, and how to get what is missing.

    Versions, devices, threads, compiler, memory, disk, caches, extras. Nothing is changed and no network is asked.

    Example: gptcli doctor
    """
    import_torch()
    from rich.table import Table
    from rich.text import Text

    from gptcli.display import stdout_console
    from gptcli.figures import visible
    from gptcli.machine import examine

    findings = list(examine())
    if as_json:
        emit({"gptcli": __version__, "findings": [asdict(finding) for finding in findings]}, "", as_json=True)
        return
    rows = [(finding.topic, finding.level, finding.text, finding.hint) for finding in findings]
    if stdout_width() is None:
        width = max(len(topic) for topic, *_ in rows)
        emit_lines([Text(f"{topic:>{width}}  {_plain(*rest)}") for topic, *rest in rows])
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for topic, level, text, hint in rows:
        shown = Text.assemble((visible(text), STYLES[level]), (f"\n{visible(hint)}" if hint else "", "dim"))
        grid.add_row(Text(topic), shown)
    stdout_console().print(grid)


def _plain(level: str, text: str, hint: str) -> str:
    mark = "" if level == "ok" else f"{level}: "
    return f"{mark}{text}{f'. {hint}' if hint else ''}"
