"""``gptcli doctor``: what it looks at, what it says is missing, and that it asks nobody."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gptcli.config import TrainConfig
from gptcli.device import choose_setup, detect, features
from gptcli.doctor import GPT2_FILES
from tests.cli.conftest import ROOT, Cli

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


def test_doctor_says_whole_what_is_on_here_and_why(cli: Cli) -> None:
    have = detect()
    found = findings(cli)
    for feature in features(choose_setup(TrainConfig(), have), have):
        assert found[feature.name]["text"] == f"{'on' if feature.on else 'off'}: {feature.reason}"


def test_gpt2_tokens_are_there_or_how_to_get_them_is_said(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder / "cache"))
    found = findings(cli)["gpt2 tokens"]
    assert (found["level"], str(folder / "cache") in found["text"]) == ("note", True)
    assert re.search("gpt2 tokens +note: not in ", cli("doctor").stdout)
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


# What Python imports before anything else, where it finds it: nothing can import the package that is named.
HIDING = """
import sys
class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hiding())
"""


def run_beside(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command where Python looks for packages in ``folder`` first."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    command = [sys.executable, "-m", "gptcli", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False, timeout=120)


@pytest.mark.parametrize(
    ("package", "name"), [("torch", "torch"), ("tiktoken", "tiktoken"), ("huggingface_hub", "huggingface-hub")]
)
def test_doctor_ends_without_a_package_and_says_how_to_get_it(tmp_path: Path, package: str, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDING.format(package=package), "utf-8")
    done = run_beside(tmp_path, "doctor", "--json")
    assert done.returncode == 1
    found = {finding["topic"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert (found[name]["level"], found[name]["text"]) == ("error", "not installed")
    assert found[name]["hint"].startswith("pip install ")
    assert name in found[name]["hint"]
    assert ("device" in found) == (package != "torch")
    assert found.keys() >= {"gptcli", "packages", "disk", "terminal"}
    others = [finding for finding in found.values() if finding["level"] == "error" and finding["topic"] != name]
    assert {finding["hint"] for finding in others} <= {found[name]["hint"]}


def test_doctor_ends_with_a_torch_that_is_broken(tmp_path: Path) -> None:
    said = "libtorch_cpu.so: cannot open shared object file"
    (tmp_path / "torch.py").write_text(f"raise OSError({said!r})\n", "utf-8")
    done = run_beside(tmp_path, "doctor")
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("torch "))
    assert f"error: cannot be imported: {said}. pip install --force-reinstall 'torch" in line


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_command_that_cannot_start_says_which_package_is_missing(tmp_path: Path, package: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDING.format(package=package), "utf-8")
    done = run_beside(tmp_path, "doctor")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"Error: gptcli needs the package {package}: No module named {package!r}.",
        f"pip install {package}; gptcli doctor then says what else is missing.",
    ]
