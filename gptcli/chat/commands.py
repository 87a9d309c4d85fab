"""The grammar of the writing desk: which commands there are, what each does, and how a line is read.

It knows nothing of models: what a command does to the text is the session's business.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from gptcli.errors import GptcliError


class CommandError(GptcliError):
    """A line that cannot be done: no such command, or one that does not fit what stands on the desk."""


@dataclass(frozen=True, slots=True)
class Command:
    """A slash command: its name without the slash, its arguments as help shows them, and what it does."""

    name: str
    arguments: str
    summary: str
    details: str = ""

    @property
    def usage(self) -> str:
        """The command as it is typed."""
        return f"/{self.name} {self.arguments}".rstrip()


COMMANDS = (
    Command("more", "", "go on without adding anything"),
    Command(
        "retry",
        "[SEED]",
        "draw the last reply again with another seed",
        "Without SEED the next one that was not used yet. /undo brings the reply before back.",
    ),
    Command(
        "undo",
        "",
        "take back the last step",
        "A step is a reply with the line that asked for it, a /retry, an /edit, a /load, a /new, or a choice of "
        "/best-of. Repeat it to go back further.",
    ),
    Command(
        "edit",
        "[TEXT]",
        "replace the last line sent and draw again",
        "What came after that line goes; /undo brings it back. Without TEXT the line is opened for editing.",
    ),
    Command(
        "best-of",
        "[N]",
        "draw N continuations (4) to choose from by number",
        "The next line chooses: a number takes that one, an empty line or a command takes none. In a conversation "
        "they are answers to the last question.",
    ),
    Command("next", "", "show the ten likeliest next tokens", "Probabilities are the model's own, without settings."),
    Command(
        "set",
        "NAME VALUE ...",
        "change how text is drawn",
        "Such as: /set temperature 0.7 top_k 50\n"
        '"none" empties a setting: /set top_k none\n'
        'Stop strings know \\n, are quoted where they hold spaces, and may be several: /set stop "\\n" stop "The end"\n'
        "/set seed N begins to count again: the next reply draws from N.\n"
        "/params shows what there is to set.",
    ),
    Command("params", "", "show the settings and which of them were changed"),
    Command(
        "compare",
        "RUN",
        "let another model write the last reply",
        "It reads the same text and draws with the same seed and settings. RUN is a run or whatever gptcli sample "
        "opens. The text stays as it is.",
    ),
    Command(
        "save",
        "FILE",
        "write the text to .txt, .md or .jsonl",
        "A .jsonl is fit for gptcli finetune, and a record is added to one that exists. Other files are never "
        "overwritten, but for those of this session that nobody changed since.",
    ),
    Command(
        "load",
        "FILE",
        "go on with the text of a file",
        "A .jsonl gives its last record, a session's log its final text; anything else is read as text. /undo brings "
        "the old text back.",
    ),
    Command(
        "copies",
        "",
        "ask how much of what was drawn stands in the training text",
        "Only drawn text is looked up, not what you wrote.",
    ),
    Command("new", "", "begin anew; /undo brings the old text back"),
    Command("help", "[COMMAND]", "show the commands, or what one does"),
    Command("quit", "", "leave"),
)
_BY_NAME = {command.name: command for command in COMMANDS}
# What people type who come from other programs.
_ELSEWHERE = {
    **dict.fromkeys(("exit", "bye", "q"), "quit"),
    **dict.fromkeys(("clear", "reset", "restart"), "new"),
    **dict.fromkeys(("continue", "go"), "more"),
    **dict.fromkeys(("regenerate", "regen", "again", "redo"), "retry"),
    **dict.fromkeys(("settings", "show", "parameters", "info"), "params"),
    **dict.fromkeys(("?", "h", "commands"), "help"),
    **dict.fromkeys(("back", "pop", "revert"), "undo"),
    **dict.fromkeys(("write", "export"), "save"),
    **dict.fromkeys(("temp", "temperature", "top_k", "top_p", "min_p", "stop", "seed", "max_new_tokens"), "set"),
    **dict.fromkeys(("open", "read"), "load"),
}
_LINES = (
    "Any other line is sent to the model; // begins one with a slash. Behind a text it begins on a line of its own, "
    "and in the same line when it begins with a space, a small letter or a comma."
)
_WITHOUT_ARGUMENT = {command.name for command in COMMANDS if not command.arguments}


@dataclass(frozen=True, slots=True)
class Order:
    """A line that is a command; ``argument`` is what stands behind it, letter by letter for /edit, else stripped."""

    name: str
    argument: str


def read_line(line: str) -> Order | str:
    """Return the command that a line is, or the text that it sends; ``//`` begins a text with one slash.

    Raises ``CommandError`` for an unknown command, with the nearest, and for an argument that a command has not.
    """
    if not line.startswith("/"):
        return line
    if line.startswith("//"):
        return line[1:]
    name, _, argument = re.sub(r"^(/\S*)\s", r"\1 ", line)[1:].partition(" ")
    command = find_command(name)
    if command.name != "edit":
        argument = argument.strip()
    if argument and command.name in _WITHOUT_ARGUMENT:
        raise CommandError(f"/{command.name} stands alone; {argument!r} is too much.", f"Type /{command.name}")
    return Order(command.name, argument)


def needed(argument: str, command: str, what: str, example: str) -> str:
    """Return the name that a command was given; ``CommandError`` where there is none, or one that nothing can have."""
    if not argument:
        raise CommandError(f"/{command} needs {what}.", f"Such as: {example}")
    if "\0" in argument:
        raise CommandError(f"{argument!r} holds a null character, which no name can.", f"Such as: {example}")
    return argument


def whole_number(text: str) -> int | None:
    """Return the number that a text is, of up to 30 digits; None for any other."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 30 else None


def find_command(name: str) -> Command:
    """Find a command by its name, without the slash; raises ``CommandError`` with the nearest."""
    name = name.lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    nearest = _ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.5)), None)
    hint = f"Did you mean /{nearest}? " if nearest else ""
    raise CommandError(
        f"There is no command /{name}.", f"{hint}/help shows them all; // begins a text that starts with a slash."
    )


def help_text(name: str = "") -> str:
    """Return what all commands do, a line each, or all about one; raises ``CommandError`` for an unknown one."""
    if name:
        command = find_command(name.removeprefix("/"))
        return "\n".join(filter(None, (f"{command.usage}: {command.summary}.", command.details)))
    width = max(len(command.usage) for command in COMMANDS)
    lines = [f"{command.usage:{width}}  {command.summary}" for command in COMMANDS]
    return "\n".join((*lines, _LINES))
