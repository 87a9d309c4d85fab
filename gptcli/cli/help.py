"""How a command presents itself: its usage, its arguments and its options, in one form for ``--help`` and docs/cli.md.

Typer's own form changes from version to version. Knows the parameters of a command, not what they do.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click.core import Command, Context, Parameter
    from typer._click.formatting import HelpFormatter

EXAMPLE = "Example: "


class Documented(TyperCommand):
    """A command whose help says what a person has to type, and no types of Python's."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read what was typed; a value that is refused is told as everywhere here, whatever typer makes of it."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            from pydantic import ValidationError

            if isinstance(error.__cause__, ValidationError):
                from gptcli.cli.common import refusals

                error.message = refusals(error.__cause__)
            raise

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Return what stands behind the command's name in its first line of help."""
        return usage_pieces(self, ctx)

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the arguments, and the options under their headings."""
        for heading, rows in sections(self, ctx):
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, " ".join(filter(None, (text, _in_brackets(more))))) for name, text, more in rows]
                )


def usage_pieces(command: Command, context: Context) -> list[str]:
    """Return ``[OPTIONS]`` and the arguments of a command; those in brackets may be left out."""
    arguments = [parameter for parameter in command.get_params(context) if parameter.param_type_name == "argument"]
    names = [(argument_name(argument), argument.required) for argument in arguments]
    return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]


def sections(command: Command, context: Context) -> Iterator[tuple[str, list[tuple[str, str, list[str]]]]]:
    """Yield ``Arguments``, ``Options`` and what other headings there are; of each parameter how it is typed, its help,
    and what else is to be known: default, limits, environment.
    """
    found: dict[str, list[tuple[str, str, list[str]]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(context):
        shown: Any = parameter
        if shown.hidden:
            continue
        if parameter.param_type_name == "argument":
            found["Arguments"].append((argument_name(parameter), shown.help or "", _remarks(parameter, context)))
        else:
            heading = getattr(parameter, "rich_help_panel", None) or "Options"
            row = (option_name(parameter), shown.help or "", _remarks(parameter, context))
            found.setdefault(heading, []).append(row)
    yield from ((heading, rows) for heading, rows in found.items() if rows)


def argument_name(argument: Parameter) -> str:
    """Return what stands for an argument in the usage."""
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.nargs == 1 or name.endswith("...") else f"{name}..."


def option_name(option: Parameter) -> str:
    """Return how an option is typed, short forms first, with what stands for its value; a flag has none."""
    names = [", ".join(sorted(names, key=len)) for names in (option.opts, option.secondary_opts) if names]
    shown: Any = option
    if shown.is_flag:
        return " / ".join(names)
    return f"{names[0]} {option.metavar or '|'.join(_choices(option)) or (option.name or '').upper()}"


def example_of(command: Command) -> str | None:
    """Return the example in the help of a command, a whole line to type; None where there is none."""
    last = (command.help or "").split("\n\n")[-1]
    return last.removeprefix(EXAMPLE) if last.startswith(EXAMPLE) else None


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a docstring, each in one line."""
    return [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n")]


def _remarks(parameter: Parameter, context: Context) -> list[str]:
    """Return the limits of a parameter, its default, and the variable of the environment that stands in for it."""
    shown: Any = parameter
    remarks: list[str] = []
    if shown.show_envvar and parameter.envvar:
        remarks.append(f"env var: {parameter.envvar}")
    low, high = (_limit(parameter, name) for name in ("min", "max"))
    if low is not None:
        remarks.append(f"{low:g} to {high:g}" if high is not None else f"at least {low:g}")
    default = parameter.get_default(context, call=False)
    if shown.show_default and default not in (None, False, (), []):
        remarks.append(f"default: {parameter.opts[0].lstrip('-') if getattr(shown, 'is_flag', False) else default}")
    return [*remarks, "required"] if parameter.required else remarks


def _choices(parameter: Parameter) -> Sequence[str]:
    # Typer before 0.29 keeps them in the type.
    kind = getattr(parameter, "type_descriptor", None) or getattr(parameter, "type", None)
    return [str(choice) for choice in getattr(kind, "choices", None) or ()]


def _limit(parameter: Parameter, name: str) -> float | None:
    value = getattr(parameter, name, None)
    return getattr(getattr(parameter, "type", None), name, None) if value is None else value


def _in_brackets(remarks: list[str]) -> str:
    return f"[{'; '.join(remarks)}]" if remarks else ""
