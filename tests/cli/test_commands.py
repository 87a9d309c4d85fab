"""The list of commands: true to the modules behind it, and none of them is imported to show it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.cli.app import app
from gptcli.cli.commands import SUMMARIES, first_sentence, load
from tests.cli.conftest import ROOT, Cli

PROBE = """
import json, sys
from gptcli.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
print("\\n" + json.dumps(sorted(name for name in sys.modules if name.startswith("gptcli.cli."))))
"""


def modules_after(*args: str) -> set[str]:
    """Run ``gptcli ARGS`` in a process of its own; returns what it imported of the command line."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("args", "more"), [("--help", set()), ("--version", set()), ("", {"gptcli.cli.common", "gptcli.cli.completion"})]
)
def test_no_command_is_imported_to_list_them(args: str, more: set[str]) -> None:
    assert modules_after(*args.split()) == {"gptcli.cli.app", "gptcli.cli.commands"} | more


def test_one_command_does_not_import_the_others() -> None:
    modules = modules_after("train", "--help")
    assert "gptcli.cli.train" in modules
    assert not modules & {f"gptcli.cli.{name}" for name in SUMMARIES if name != "train"}


@pytest.mark.parametrize("name", SUMMARIES)
def test_summary_is_the_first_sentence_of_the_help(name: str) -> None:
    command = load(name)
    assert command.name == name
    assert first_sentence(command.help or "") == SUMMARIES[name]


def test_every_module_with_a_command_is_listed() -> None:
    texts = {path.stem: path.read_text("utf-8") for path in (ROOT / "gptcli" / "cli").glob("*.py")}
    found = {name for name, text in texts.items() if f"def {name}_command(" in text or f"\n{name}_app = " in text}
    assert found == set(SUMMARIES)


def test_help_lists_every_command_with_its_whole_summary(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    words = " ".join(cli("--help").stdout.split())
    for name, summary in SUMMARIES.items():
        assert f" {name} {summary}" in words


@pytest.mark.parametrize("group", ["profiles", "corpora", "runs"])
def test_help_of_a_group_lists_its_commands_with_whole_sentences(group: str, cli: Cli) -> None:
    lines = cli(group, "--help").stdout.partition("Commands:")[2].splitlines()
    assert "..." not in "".join(lines)
    assert lines[-1].endswith(".")


def test_mistyped_command_is_answered_with_the_nearest(cli: Cli) -> None:
    done = cli("trian")
    assert done.code == 2
    assert "'train'" in done.stderr


def test_first_sentence_ends_at_the_first_full_stop_that_is_one() -> None:
    assert first_sentence("List those of ./configs\nfirst; e.g here. More.\n\nMuch more.") == (
        "List those of ./configs first; e.g here."
    )
    assert first_sentence("One") == "One."


def test_typer_writes_the_documentation_of_every_command_and_option(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "typer", "gptcli.cli.app", "utils", "docs", "--name", "gptcli"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    )
    for name in (*SUMMARIES, "profiles import"):
        assert f"## `gptcli {name}`" in done.stdout
    assert "* `--budget TIME`" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [("gptcli pr", ["prepare", "profiles"]), ("gptcli profiles sh", ["show"]), ("gptcli train --bud", ["--budget"])],
)
def test_shell_completes_commands_and_their_options(words: str, expected: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from gptcli.cli.app import app; app(prog_name='gptcli')"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_GPTCLI_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.stdout.split() == expected


def test_app_has_no_command_that_is_not_on_demand() -> None:
    assert not app.registered_commands
    assert not app.registered_groups
