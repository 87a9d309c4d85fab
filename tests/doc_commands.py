"""The commands in the docs: where each stands, and what it becomes where the world is on loopback.

A command is a line of a fenced block that calls ``gptcli``, or a whole call with arguments between backquotes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptcli.cli.reference import walk_commands

ROOT = Path(__file__).resolve().parents[1]
# Generated, and each command's example is run by tests/cli/test_examples_in_help.py; or told of the past, with figures.
LEFT_OUT = ("cli.md", "log.md", "benchmarks.md")
CALL = re.compile(r"(?:^|[|&;(]\s*)gptcli\s")
INLINE = re.compile(r"(?<!`)`(gptcli\s[^`]+)`(?!`)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What stands in a line for something of the reader's, or of the world, and what it is in the prepared folder. The first
# that fits goes first; {site}, {whisper} are known once they are there.
REPLACEMENTS = (
    (r"\bRUN --format nanogpt", "letters --format nanogpt"),
    (r"sample --chat", "sample talker --chat"),
    (r"profiles copy quickstart my\b", "profiles copy quickstart mine"),
    (r"profiles show NAME", "profiles show quickstart"),
    (r"corpora show NAME", "corpora show book"),
    (r"gptcli COMMAND", "gptcli sample"),
    (r"runs compare \S+ \S+", "runs compare my-run letters"),
    (r"runs (plot|report) [a-z]\S*", r"runs \1 my-run"),
    (r"runs rm \S+( --yes)?", "runs rm old-run --yes"),
    (r"profiles copy NAME", "profiles copy quickstart mine"),
    (r"profiles check FILE", "profiles check configs/my.yaml"),
    (r"-o mine\.yaml", "-o suggested.yaml"),
    (r"\bA B\b", "my-run letters"),
    (r"\bRUN OTHER\b", "my-run letters"),
    (r"URL\.json", "{site}/api/posts.json"),
    (r"\bSOURCE\b|YOUR-TEXT\.txt", "book.txt"),
    (r"\bCORPUS\b", "book"),
    (r"\bRUN\b", "my-run"),
    # How much fits into a time hangs on what else the machine does; what the option does has tests of its own.
    (r" --budget \S+", ""),
    (r"--nproc 8", "--nproc 2"),
    (r"n_embd=384", "n_embd=48"),
    (r"max_steps=\d{3,}", "max_steps=12"),
    (r"fetch (https://example\.org)", r"fetch --delay 0 \1"),
    (r"https://example\.org", "{site}"),
    (r"fetch (\"?gutenberg:)", r"fetch --mirror {site} --delay 0 \1"),
    (r"fetch hf:", "fetch --mirror {site} --delay 0 hf:"),
    (r" --whisper medium", ""),
    (r"fetch (audiobooks|speeches)", r"fetch --whisper {whisper} --no-vad \1"),
)
# What make demo prints at its end.
PRINTED = re.compile(r"\t  '  (gptcli [^']+)'")
VARIABLE = re.compile(r"\$\{?(\w+)")


@dataclass(frozen=True, slots=True)
class DocCommand:
    """A line to type, what has to be typed before it, and where it stands first."""

    line: str
    before: str
    where: str

    @property
    def words(self) -> str:
        """The line without its comment."""
        return re.split(r"\s+#\s", self.line)[0].rstrip()

    def typed(self, **world: object) -> str:
        """Return what is typed in the prepared folder; ``world`` says where the site and the model of Whisper are."""
        return typed("\n".join(filter(None, (self.before, self.words))), **world)


def typed(text: str, **world: object) -> str:
    """Return a text with what is near in place of what is far; ``world`` has what the table has in braces."""
    for pattern, ours in REPLACEMENTS:
        text = re.sub(pattern, ours, text)
    for name, value in world.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def pages() -> list[Path]:
    """Return every page whose commands are run."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if path.name not in LEFT_OUT]


def doc_commands() -> list[DocCommand]:
    """Return the distinct commands of all pages and of what ``make demo`` says, in their order."""
    found: dict[str, DocCommand] = {}
    for page in pages():
        for command in commands_in(page.read_text("utf-8"), str(page.relative_to(ROOT))):
            found.setdefault(f"{command.before}\n{command.words}", command)
    for number, line in enumerate((ROOT / "Makefile").read_text("utf-8").split("\n"), 1):
        if printed := PRINTED.match(line):
            found.setdefault(f"\n{printed[1]}", DocCommand(printed[1], "", f"Makefile:{number}"))
    return list(found.values())


@functools.cache
def names_alone() -> set[str]:
    """Return the names of commands that cannot be typed without an argument: in prose such a name is one, no more."""
    return {
        name
        for name, command in walk_commands()
        if any(parameter.param_type_name == "argument" and parameter.required for parameter in command.params)
    }


def commands_in(text: str, name: str) -> Iterator[DocCommand]:
    """Yield the commands of a page, those of its fences with the lines that set the variables they use."""
    prose = text
    for fence in FENCE.finditer(text):
        first = text.count("\n", 0, fence.start(1)) + 1
        prose = prose.replace(fence[0], "\n" * fence[0].count("\n"))
        lines = re.sub(r" *\\\n *", lambda _: " ", fence[1]).split("\n")
        for number, line in enumerate(lines):
            if CALL.search(line):
                used = VARIABLE.findall(line)
                before = [above for above in lines[:number] if any(f"{variable}=$(" in above for variable in used)]
                yield DocCommand(line.strip(), "\n".join(before), f"{name}:{first + number}")
    for found in INLINE.finditer(prose):
        if len(found[1].split()) < 3 or " ".join(found[1].split()) in names_alone():
            continue
        yield DocCommand(" ".join(found[1].split()), "", f"{name}:{prose.count(chr(10), 0, found.start()) + 1}")
