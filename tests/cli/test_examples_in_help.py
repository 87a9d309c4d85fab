"""The example in the help of every command, typed for real in a folder where the README's path was walked."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from gptcli.cli.help import EXAMPLE, example_of
from gptcli.cli.reference import walk_commands
from tests.cli.conftest import Cli
from tests.workplace import Workplace

COMMANDS = {name: command for name, command in walk_commands() if not hasattr(command, "commands")}
# Their examples are on their way; this list goes when they are there.
MISSING = {"gptcli profiles list", "gptcli profiles show", "gptcli profiles import"}
NAMES = [name for name, command in COMMANDS.items() if name not in MISSING or example_of(command) is not None]
# What may be typed in an example and stands for something of the reader's has no place in one.
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")


@pytest.mark.parametrize("name", NAMES)
def test_help_ends_with_an_example_of_the_command(name: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    example = example_of(COMMANDS[name])
    assert example is not None, f"the last paragraph of the help of {name} has to be: {EXAMPLE}{name} ..."
    assert example == name or example.startswith(f"{name} ")
    assert not PLACEHOLDER.search(example)
    # In one line in a window of usual width, so that it can be copied.
    assert f"  {EXAMPLE}{example}\n" in cli(*name.split()[1:], "--help").stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the examples are typed into bash")
@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name: str, workplace: Workplace, tmp_path: Path) -> None:
    example = example_of(COMMANDS[name])
    assert example is not None
    done = workplace.run(example, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or ">" in example
