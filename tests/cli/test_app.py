"""The front door: help, version, what is imported on the way, and how errors leave."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import typer

import gptcli
from gptcli.cli.common import reports_errors
from tests.cli.conftest import Cli, start_cli

COMMANDS = ("fetch", "prepare", "train", "sample", "eval", "profiles", "corpora", "runs")


def test_without_arguments_the_way_through_is_shown(cli: Cli) -> None:
    done = cli()
    assert done.code == 0
    places = [done.stdout.index(f" {name} ") for name in ("fetch", "prepare", "train", "sample")]
    assert places == sorted(places)
    assert "gptcli --help" in done.stdout


def test_help_names_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    assert cli(command, "-h").code == 0


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"gptcli {gptcli.__version__}\n"


def test_unknown_command_is_a_usage_error(cli: Cli) -> None:
    assert cli("tarin").code == 2


def test_starting_up_imports_nothing_slow() -> None:
    code = "import json, sys, gptcli.cli.app; print(json.dumps(sorted(sys.modules)))"
    root = Path(gptcli.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, encoding="utf-8", check=True)
    slow = {"torch", "numpy", "pydantic", "rich", "yaml", "httpx", "tokenizers", "tiktoken", "transformers"}
    assert not slow & set(json.loads(done.stdout))


def exhaust(kind: str) -> None:
    import torch

    if kind == "numpy":
        np.ones(1 << 60, dtype=np.uint8)
    elif kind == "torch":
        torch.empty(1 << 60, dtype=torch.uint8)
    elif kind == "gpu":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")


@pytest.mark.parametrize("kind", ["numpy", "torch", "gpu"])
def test_too_little_memory_is_one_clear_error(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        reports_errors(exhaust)(kind)
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err == "Error: There is not enough memory for this.\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train_command", ("train.batch_size", "train.grad_accum_steps", "smaller model", "--set")),
        ("finetune_command", ("train.batch_size", "--set")),
        ("sample_command", ("--quantize int8", "--dtype bfloat16")),
        ("chat_command", ("--quantize int8", "--dtype bfloat16")),
    ],
)
def test_hint_about_memory_suits_the_command(
    name: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        exhaust("numpy")

    command.__name__ = name
    with pytest.raises(typer.Exit):
        reports_errors(command)()
    hint = capsys.readouterr().err.partition("\n")[2]
    for word in words:
        assert word in hint
    assert ("batch_size" in hint) == ("train.batch_size" in words)


def test_paragraphs_of_help_are_wrapped_by_the_window_alone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    for command in ("chat", "sample", "train", "finetune", "fetch", "prepare", "eval", "export"):
        lines = [line.strip() for line in cli(command, "--help").stdout.partition("Arguments")[0].splitlines()]
        for line, following in pairwise(lines):
            if line and following[:1].isalpha() and "Usage" not in line:
                assert len(f" {line} {following.split()[0]}") > 79, (command, line)


@pytest.mark.parametrize(
    ("stop", "said"), [(KeyboardInterrupt(), "Interrupted.\n"), (KeyboardInterrupt("All is kept."), "All is kept.\n")]
)
def test_ctrl_c_ends_a_command_with_a_word(
    stop: KeyboardInterrupt, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise stop

    with pytest.raises(typer.Exit) as caught:
        reports_errors(stopped)()
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == said


def test_ctrl_c_in_the_making_of_a_class_is_an_interrupt() -> None:
    def stopped() -> None:
        raise RuntimeError("Error calling __set_name__ on 'slots'") from KeyboardInterrupt()

    with pytest.raises(typer.Exit) as caught:
        reports_errors(stopped)()
    assert caught.value.exit_code == 130


def test_other_errors_of_torch_are_bugs() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"):
        reports_errors(exhaust)("bug")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX pipe")
def test_reader_that_leaves_early_causes_no_traceback(folder: Path) -> None:
    process = start_cli(folder, "profiles", "list")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
    process.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="folder permissions are POSIX's")
def test_file_where_a_folder_belongs_is_an_error_with_its_name(folder: Path, cli: Cli) -> None:
    (folder / "corpora").write_text("a file", "utf-8")
    done = cli("fetch", "docs.txt")
    assert done.code == 1
    assert "corpora" in done.stderr
