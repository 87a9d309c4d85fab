"""``gptcli doctor``: what it looks at, what it says is missing, and that it asks nobody."""

from __future__ import annotations

import importlib.metadata
import socket
from pathlib import Path
from typing import Any

import pytest

from gptcli.machine import GPT2_FILES
from tests.cli.conftest import Cli

TOPICS = {"gptcli", "packages", "device", "threads", "compiler", "disk", "gpt2 tokens", "models", "terminal"}


def findings(cli: Cli) -> dict[str, dict[str, Any]]:
    done = cli("doctor", "--json")
    assert (done.code, done.stderr) == (0, "")
    told = done.json()
    assert set(told) == {"gptcli", "findings"}
    for finding in told["findings"]:
        assert set(finding) == {"topic", "level", "text", "hint"}
        assert finding["level"] in ("ok", "note", "warning")
        assert finding["text"]
        assert finding["hint"] or finding["level"] == "ok"
    return {finding["topic"]: finding for finding in told["findings"]}


def test_doctor_looks_at_the_machine_and_says_each_thing_on_a_line(cli: Cli) -> None:
    found = findings(cli)
    assert found.keys() >= TOPICS
    assert "torch " in found["packages"]["text"]
    lines = cli("doctor").stdout.splitlines()
    assert [line.split("  ")[0].strip() or line.strip().split("  ")[0] for line in lines] == list(found)


def test_gpt2_tokens_are_there_or_how_to_get_them_is_said(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder / "cache"))
    found = findings(cli)["gpt2 tokens"]
    assert (found["level"], str(folder / "cache") in found["text"]) == ("note", True)
    assert "gpt2 tokens  note: not in " in cli("doctor").stdout
    (folder / "cache").mkdir()
    for name in GPT2_FILES:
        (folder / "cache" / name).touch()
    assert findings(cli)["gpt2 tokens"]["level"] == "ok"


def test_missing_extra_is_named_with_its_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "gguf":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = findings(cli)["export"]
    assert found["level"] == "note"
    assert "not installed: gguf" in found["text"]
    assert "pip install 'gptcli[export]'" in found["hint"]


def test_colours_that_are_off_are_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "NO_COLOR" not in findings(cli)["terminal"]["text"]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "colours off by NO_COLOR" in findings(cli)["terminal"]["text"]


def test_network_is_not_asked_and_nothing_is_written(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    before = sorted(folder.rglob("*"))
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    findings(cli)
    assert sorted(folder.rglob("*")) == before
