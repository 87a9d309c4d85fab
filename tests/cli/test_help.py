"""The help of the commands: what is typed and nothing of Python's, the same in every width."""

from __future__ import annotations

import pytest
import typer

from gptcli.cli.help import Documented, argument_name, option_name, sections
from gptcli.cli.reference import walk_commands
from tests.cli.conftest import Cli

COMMANDS = {name: command for name, command in walk_commands() if isinstance(command, Documented)}


def help_of(cli: Cli, name: str) -> str:
    done = cli(*name.split()[1:], "--help")
    assert done.code == 0, done.stderr
    return done.stdout


def test_every_command_is_documented_in_one_form() -> None:
    leaves = {name for name, command in walk_commands() if not isinstance(command, typer.core.TyperGroup)}
    assert set(COMMANDS) == leaves
    assert {"gptcli train", "gptcli corpora show", "gptcli runs list", "gptcli profiles import"} <= leaves


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_no_type_of_python_is_shown(name: str, columns: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = help_of(cli, name)
    assert not [
        word
        for word in ("<", "bool", "list[", "None", "BOOLEAN", "TEXT...", "{")
        if word in text.split("Arguments:")[0]
    ]
    assert "<" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_says_what_it_is(name: str) -> None:
    context = typer.Context(COMMANDS[name], info_name=name)
    rows = [row for _, found in sections(COMMANDS[name], context) for row in found]
    assert rows
    assert not [row[0] for row in rows if len(row[1].split()) < 2]


def test_flag_shows_no_value_and_an_option_what_stands_for_its_own() -> None:
    fetch, export = ({p.name: p for p in COMMANDS[f"gptcli {name}"].params} for name in ("fetch", "export"))
    assert option_name(fetch["offline"]) == "--offline"
    assert option_name(fetch["vad"]) == "--vad / --no-vad"
    assert option_name(fetch["robots"]) == "--robots polite|strict|ignore"
    assert option_name(export["output"]) == "-o, --output DIR"
    assert argument_name(fetch["sources"]) == "SOURCE..."
    assert argument_name(export["run"]) == "RUN"


def test_usage_tells_what_may_be_left_out(cli: Cli) -> None:
    assert help_of(cli, "gptcli fetch").splitlines()[0].endswith("fetch [OPTIONS] SOURCE...")
    assert help_of(cli, "gptcli sample").splitlines()[0].endswith("sample [OPTIONS] [RUN] [-]")


def test_default_limits_and_environment_stand_behind_the_help(cli: Cli) -> None:
    text = " ".join(help_of(cli, "gptcli fetch").split())
    for remark in (
        "ignore. [default: polite]",
        "[0 to 3600]",
        "[at least 1]",
        "[env var: GPTCLI_CONTACT]",
        "[default: vad]",
    ):
        assert remark in text
    assert "recipe's name. [required]" in text
    assert "default: False" not in text


def test_options_of_one_matter_stand_together(cli: Cli) -> None:
    text = help_of(cli, "gptcli fetch")
    places = [
        text.index(f"\n{heading}:\n") for heading in ("Arguments", "Options", "Web", "JSON and tables", "Recordings")
    ]
    assert places == sorted(places)
    assert text.index("--whisper") > places[-1]
