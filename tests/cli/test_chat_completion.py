"""What a half-typed line of a chat can become."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptcli.cli.chat_completion import suggestions
from tests.cli.conftest import working_in

COMMANDS = {"save": "write a file", "set": "change a setting", "help": "explain"}
SETTINGS = {"temperature": "", "top_k": "", "top_p": ""}


def completed(before: str) -> list[str]:
    """The lines that ``before`` can become."""
    found = suggestions(before, COMMANDS, SETTINGS, lambda: ["tiny", "tune"])
    return [before[: len(before) - replaced] + text for text, replaced, _ in found]


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ("/", ["/save", "/set", "/help"]),
        ("/se", ["/set"]),
        ("/set ", ["/set temperature", "/set top_k", "/set top_p"]),
        ("/set to", ["/set top_k", "/set top_p"]),
        ("/set top_k 5 te", ["/set top_k 5 temperature"]),
        ("/set top_k 5", []),
        ("/help s", ["/help save", "/help set"]),
        ("/help /h", ["/help /help"]),
        ("/compare t", ["/compare tiny", "/compare tune"]),
        ("//s", []),
        ("se", []),
        ("a\n/se", []),
        ("", []),
    ],
)
def test_commands_settings_and_runs_are_completed(before: str, wanted: list[str]) -> None:
    assert completed(before) == wanted


def test_files_are_completed_below_folders_but_hidden_ones_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("texts/one.txt", "texts/other two.md", "texts/.hidden", "texts/\x1b[31m.txt", "top.txt"):
        (tmp_path / name).touch()
    with working_in(tmp_path):
        assert completed("/load t") == ["/load texts/", "/load top.txt"]
        assert completed("/save texts/o") == ["/save texts/one.txt", "/save texts/other two.md"]
        assert completed("/save texts/other t") == ["/save texts/other two.md"]
        assert completed(f"/load {tmp_path}{os.sep}texts/.h") == [f"/load {tmp_path}{os.sep}texts/.hidden"]
        assert completed("/load nowhere/") == completed("/load ~nobody-of-that-name/") == []
