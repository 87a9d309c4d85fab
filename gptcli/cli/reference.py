"""The page docs/cli.md: every command with its usage, arguments and options, written from the commands themselves.

Knows how the page looks; what is said of a command is in its module, and in which form, in ``help``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from gptcli.cli import common
from gptcli.cli.app import app
from gptcli.cli.commands import Group, first_sentence
from gptcli.cli.help import EXAMPLE, example_of, paragraphs, sections, usage_pieces

if TYPE_CHECKING:
    from typer._click.core import Command, Context

HEAD = """\
# The commands

Every command with its arguments and options, as `gptcli COMMAND --help` shows them. Written by `make docs` from the
program; a change belongs there. `-h` or `--help` can stand behind each of them.
"""
STREAMS = """\
## Streams and exit codes

stdout carries data only: a path, a text, or with `--json` one JSON object. Notes, progress and errors go to stderr.
"""
EXIT_CODES = {
    0: "done",
    common.EXIT_ERROR: "an error, told in a sentence with what to type next; of `fetch` also: a part could not be had",
    2: "wrong usage: an unknown option, a value that cannot be",
    common.EXIT_HUNG_UP: "the terminal was closed; a run has been saved",
    common.EXIT_INTERRUPTED: "Ctrl-C; a run has been saved",
    common.EXIT_BROKEN_PIPE: "whoever read stdout has left",
    common.EXIT_TERMINATED: "terminated by SIGTERM; a run has been saved",
}


def command_reference() -> str:
    """Return the page as Markdown; it depends on the commands alone, not on the terminal or the version of Python."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="gptcli", **(app.info.context_settings or {}))
    commands = list(walk_commands())
    below = "\n".join(_section(name, command, context) for name, command in commands)
    listed = "\n".join(
        f"| [`{name}`](#{name.replace(' ', '-')}) | {_plain(_summary(each))} |" for name, each in commands
    )
    table = f"| command | what it does |\n|---|---|\n{listed}\n"
    codes = "\n".join(f"| {code} | {text} |" for code, text in EXIT_CODES.items())
    options = "".join(_parameters(root, context))
    top = f"```\ngptcli [OPTIONS] COMMAND [ARGS]...\n```\n{options}"
    return "\n".join([HEAD, top, table, below, f"{STREAMS}\n| code | meaning |\n|---|---|\n{codes}\n"])


def walk_commands() -> Iterator[tuple[str, Command]]:
    """Yield every command and group by its full name, such as ``gptcli corpora list``, each group before its own."""

    def walk(group: typer.core.TyperGroup, prefix: str) -> Iterator[tuple[str, Command]]:
        for name, command in group.commands.items():
            if command.hidden:
                continue
            yield f"{prefix} {name}", command
            if isinstance(command, typer.core.TyperGroup):
                yield from walk(command, f"{prefix} {name}")

    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    yield from walk(root, "gptcli")


def _section(name: str, command: Command, root: Context) -> str:
    context = typer.Context(command, info_name=name, parent=root)
    if isinstance(command, Group):
        return f"## {name}\n\n{_plain(command.help or '')}\n"
    depth = "#" * name.count(" ")
    usage = " ".join([name, *usage_pieces(command, context)])
    told = [_plain(text) for text in paragraphs(command.help or "") if not text.startswith(EXAMPLE)]
    example = example_of(command)
    blocks = [f"#{depth} {name}", *told, f"```\n{usage}\n```", *([f"Example: `{example}`"] if example else [])]
    return "\n\n".join(blocks) + "\n" + "".join(_parameters(command, context))


def _parameters(command: Command, context: Context) -> Iterator[str]:
    """Yield the arguments and the options of a command, a list under each heading."""
    for heading, rows in sections(command, context):
        told = [row for row in rows if row[0] != "-h, --help"]
        yield f"\n{heading}:\n\n" if told else ""
        for name, text, remarks in told:
            yield f"* `{name}`: {_plain(text)}{_bracketed(remarks)}\n"


def _summary(command: Command) -> str:
    return first_sentence(command.help or "")


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return text.replace("*", "\\*").replace("<", "&lt;").replace("|", "\\|")


def _bracketed(remarks: list[str]) -> str:
    return f" [{'; '.join(remarks)}]" if remarks else ""
