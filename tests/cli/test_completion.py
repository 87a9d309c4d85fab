"""What a shell is told when somebody presses Tab, asked as bash, zsh and fish ask it; and a real bash."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import ROOT

pexpect = pytest.importorskip("pexpect")
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command as it is installed: a script called gptcli."""
    path = tmp_path_factory.mktemp("bin") / "gptcli"
    body = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from gptcli.__main__ import main; main()"
    path.write_text(f"#!{sys.executable}\n{body}\n", "utf-8")
    path.chmod(0o755)
    return path


def completed(command: Path, folder: Path, line: str, shell: str = "bash") -> list[str]:
    """Return what ``line`` is completed to in ``folder``; its last word is the one that is being typed."""
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [sys.executable, command],
        cwd=folder,
        env={**os.environ, "_GPTCLI_COMPLETE": f"complete_{shell}", **asked},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_installing_says_that_the_file_a_shell_starts_with_changes(command: Path, tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    line = [shutil.which("bash") or "bash", "-c", f"{command} --install-completion; true"]
    done = subprocess.run(line, env=env, capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert "the start-up file of your shell, such as ~/.bashrc" in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_is_told_the_names_of_runs(command: Path, trained: Path, shell: str) -> None:
    assert "tiny" in " ".join(completed(command, trained, "gptcli runs show ti", shell))
    assert "docs" not in " ".join(completed(command, trained, "gptcli runs show ti", shell))


@pytest.mark.parametrize(
    ("line", "expected", "absent"),
    [
        ("gptcli tr", "train", "tiny"),
        ("gptcli runs ", "compare", "tiny"),
        ("gptcli train do", "docs", "tiny"),
        ("gptcli train sha", "shakespeare", "shakespeare-char"),
        ("gptcli train docs --profile quick", "quickstart", "macbook"),
        ("gptcli train docs --set train.max", "train.max_steps=", "model.n_layer="),
        ("gptcli sample gpt2-x", "gpt2-xl", "gpt2"),
        ("gptcli finetune docs --from ti", "tiny", "docs"),
        ("gptcli corpora show ", "docs", "shakespeare"),
        ("gptcli profiles show mac", "macbook", "quickstart"),
        ("gptcli eval ", "tiny", "gpt2"),
        ("gptcli prepare docs --tokenizer bpe:5", "bpe:512", "char"),
        ("gptcli train --device c", "cpu", "mps"),
        ("gptcli profiles show quickstart --set train.max", "train.max_steps=", "model.n_layer="),
        ("gptcli train docs --set train.seed=", "train.seed=1337", "train.max_steps="),
        ("gptcli train docs --set train.optimizer=a", "train.optimizer=adamw", "train.optimizer=muon"),
    ],
)
def test_names_that_fit_are_completed(command: Path, trained: Path, line: str, expected: str, absent: str) -> None:
    found = completed(command, trained, line)
    assert expected in found
    assert absent not in found


def test_an_empty_folder_completes_to_no_run_and_no_error(command: Path, tmp_path: Path) -> None:
    assert completed(command, tmp_path, "gptcli runs show ") == []


def test_names_that_could_command_a_shell_are_not_completed(command: Path, tmp_path: Path) -> None:
    for name in ("plain", "two\nlines", "\x1b[31mred"):
        (tmp_path / "corpora" / name).mkdir(parents=True)
        (tmp_path / "corpora" / name / "documents.jsonl").write_text("", "utf-8")
    assert completed(command, tmp_path, "gptcli corpora show ") == ["plain"]


@contextlib.contextmanager
def real_bash(command: Path, trained: Path, tmp_path: Path) -> Iterator[Any]:
    """A bash in the folder of the trained run, with the script that it is given."""
    env = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "TERM": "dumb"}
    given = subprocess.run([command, "--show-completion", "bash"], env=env, capture_output=True, check=True, timeout=60)
    (tmp_path / "completion.sh").write_bytes(given.stdout)
    bash = pexpect.spawn(
        "bash", ["--norc", "--noprofile", "-i"], cwd=str(trained), env=env, encoding="utf-8", timeout=60
    )
    try:
        bash.sendline(f"source {tmp_path}/completion.sh; echo loa''ded")
        bash.expect("loaded\r\n")
        yield bash
    finally:
        bash.close(force=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("runs show ti", "runs show tiny "),
        ("prepare docs --tokenizer bpe:5", "prepare docs --tokenizer bpe:512 "),
        ("prepare docs --tokenizer=bpe:5", "prepare docs --tokenizer=bpe:512 "),
        ("train docs --set train.se", "train docs --set train.seed="),
        ("train docs --set train.seed=", "train docs --set train.seed=1337 "),
        ("train docs --set train.seed=7 --set train.optimizer=ad", "train.optimizer=adamw "),
        ("train docs --set train.seed=7 --profile quicks", "--profile quickstart "),
    ],
)
def test_a_real_bash_completes_with_the_script_it_is_given(
    command: Path, trained: Path, tmp_path: Path, typed: str, becomes: str
) -> None:
    with real_bash(command, trained, tmp_path) as bash:
        bash.send(f"gptcli {typed}\t|")
        bash.expect_exact("|")
        assert bash.before.replace("\a", "").endswith(becomes)
