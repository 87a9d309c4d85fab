"""The sub-commands of ``gptcli``: their names, the first sentence of each one's help, and how one is had by its name.

``gptcli.cli.NAME`` is imported when NAME is wanted, not when all are listed; it holds ``NAME_command``, or ``NAME_app``
where there are commands below. Knows nothing else of them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click.core import Command, Context
    from typer._click.formatting import HelpFormatter

SUMMARIES = {
    "fetch": "Fetch a text and keep it as a corpus in corpora/; prints its folder.",
    "prepare": "Turn a corpus into tokens for training; prints their folder.",
    "plan": "Say what a run would be and need, and how long it would take; prints the plan.",
    "train": "Train a GPT on a corpus; prints the run's folder.",
    "finetune": "Finetune a model that exists on a corpus; prints the run's folder.",
    "sample": "Let a model write; prints the prompt and what follows it.",
    "chat": "Write with a model, line by line: it goes on with what you type, or answers if it was tuned on "
    "conversations.",
    "eval": "Score a run on its val split, or on any text; prints val_loss, its standard error, and bits_per_byte.",
    "export": "Write a model for another program; prints the folder.",
    "profiles": "Run profiles: list, show, copy, check, compare, suggest one, import nanoGPT's.",
    "corpora": "Corpora: list them and the recipes, show one.",
    "runs": "Runs: list, show, compare, plot, report, remove.",
    "bench": "Measure how fast this machine trains a profile, and where the time goes; prints the figures.",
    "doctor": "Say what gptcli finds on this machine, and how to get what is missing.",
}


class Group(TyperGroup):
    """A group that lists its commands with the first sentence of their help, however long it is."""

    def summaries(self) -> dict[str, str]:
        """Return what each command does."""
        return {name: first_sentence(command.help or "") for name, command in self.commands.items()}

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - as typer calls it
        """Write the names and what each command does."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries().items()))


class Commands(Group):
    """The group of all sub-commands, none of which is imported before it is asked for."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - what typer knows about the group
        super().__init__(**attributes)
        self.commands = _OnDemand()  # type: ignore[assignment] # none is ever added

    def summaries(self) -> dict[str, str]:
        """Return what each command does."""
        return SUMMARIES


class _OnDemand(Mapping[str, "Command"]):
    """The commands by name; each is imported when it is looked up."""

    def __getitem__(self, name: str) -> Command:
        if name not in SUMMARIES:
            raise KeyError(name)
        return load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


@functools.cache
def load(name: str) -> Command:
    """Import a command, or a group of them, and return it as typer runs it."""
    from gptcli.cli.help import Documented, paragraphs

    module = importlib.import_module(f"gptcli.cli.{name}")
    holder = typer.Typer(rich_markup_mode=None)
    below = getattr(module, f"{name}_app", None)
    if below is not None:
        holder.add_typer(below, name=name, cls=Group)
    else:
        holder.command(name)(getattr(module, f"{name}_command"))
    for command in (holder if below is None else below).registered_commands:
        command.cls = Documented
        # A line of a docstring ends where the source wants it; typer would end it there in a narrow window too.
        command.help = "\n\n".join(paragraphs(inspect.getdoc(command.callback) or ""))
    return typer.main.get_group(holder).commands[name]


def first_sentence(text: str) -> str:
    """Return the first sentence of a help text in one line."""
    return f"{' '.join(text.split()).partition('. ')[0].rstrip('.')}."
