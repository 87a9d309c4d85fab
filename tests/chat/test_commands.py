from __future__ import annotations

import pytest

from gptcli.chat.commands import COMMANDS, CommandError, Order, find_command, help_text, read_line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ROMEO:", "ROMEO:"),
        ("", ""),
        (" /more", " /more"),
        ("//etc/passwd", "/etc/passwd"),
        ("//", "/"),
        ("/more", Order("more", "")),
        ("/more  ", Order("more", "")),
        ("/MORE", Order("more", "")),
        ("/retry 42", Order("retry", "42")),
        ("/set top_k   50 ", Order("set", "top_k   50")),
        ("/edit  two spaces ", Order("edit", " two spaces ")),
        ("/edit a\nb\n", Order("edit", "a\nb\n")),
        ("/edit\na", Order("edit", "a")),
        ("/edit", Order("edit", "")),
        ("/save my story.txt", Order("save", "my story.txt")),
    ],
)
def test_a_line_is_a_command_or_text(line: str, expected: str | Order) -> None:
    assert read_line(line) == expected


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("retyr", "retry"),
        ("best", "best-of"),
        ("exit", "quit"),
        ("clear", "new"),
        ("undoo", "undo"),
        ("temperature", "set"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(CommandError, match=f"There is no command /{name}") as caught:
        read_line(f"/{name} now")
    assert f"/{nearest}?" in caught.value.hint


@pytest.mark.parametrize("line", ["/", "/ more", "/etc/passwd is a file", "/Wörter"])
def test_a_text_that_looks_like_a_command_is_told_how_to_be_sent(line: str) -> None:
    with pytest.raises(CommandError) as caught:
        read_line(line)
    assert "// begins a text" in caught.value.hint


@pytest.mark.parametrize("name", [command.name for command in COMMANDS if not command.arguments])
def test_a_command_that_stands_alone_takes_nothing(name: str) -> None:
    with pytest.raises(CommandError, match="stands alone; 'please' is too much"):
        read_line(f"/{name} please")


def test_help_names_every_command_on_a_line_of_its_own() -> None:
    lines = help_text().splitlines()
    for command in COMMANDS:
        assert [line for line in lines if line.startswith(command.usage) and line.endswith(command.summary)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_one_command_begins_with_its_usage(command: object) -> None:
    assert isinstance(command, type(COMMANDS[0]))
    assert help_text(command.name).startswith(f"{command.usage}: ")
    assert help_text(f"/{command.name}") == help_text(command.name)
    assert find_command(command.name) is command


def test_help_of_an_unknown_command_offers_the_nearest() -> None:
    with pytest.raises(CommandError) as caught:
        help_text("retri")
    assert "/retry" in caught.value.hint


def test_a_paragraph_of_help_is_broken_by_the_window_alone() -> None:
    assert len(help_text().splitlines()) == len(COMMANDS) + 1
