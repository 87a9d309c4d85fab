"""``gptcli train``: the new run, the resumed run, and the run that is stopped by a signal."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from gptcli.cli.train import parse_duration
from tests.cli.conftest import Cli, start_cli

posix_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows delivers no SIGINT to a single process")
ARGS = ("train", "docs", "--profile", "tiny.yaml")
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture
def corpus(cli: Cli) -> None:
    assert cli("fetch", "docs.txt").code == 0
    assert cli("prepare", "docs", "--profile", "tiny.yaml").code == 0


@contextlib.contextmanager
def started(folder: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command; whatever the test does, no process stays behind."""
    process = start_cli(folder, *args)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read stderr up to the line with ``words``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"{words!r} was never printed:\n{''.join(lines)}")


def checkpoint(folder: Path, run: str) -> dict[str, bytes]:
    checkpoints = folder / "runs" / run / "checkpoints"
    path = checkpoints / (checkpoints / "latest").read_text("utf-8").strip()
    return {name: (path / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("1h1m1s", 3661), (" 5s ", 5)]
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "0s", "10 minutes", "-5m", "5m1h", "m", "1e3s", "\u0661s"])
def test_duration_that_is_none_names_the_forms(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="90s, 10m or 1h30m"):
        parse_duration(text)


def test_stdout_has_the_run_and_stderr_the_story(cli: Cli, corpus: None) -> None:
    done = cli(*ARGS)
    assert done.stdout == f"{Path('runs/docs-tiny')}\n"
    for words in ("corpus  docs", "bpe:300", "block_size 32", "cpu (asked for", "runs", "train_loss", "overfits"):
        assert words in done.stderr
    assert "next  gptcli sample docs-tiny" in done.stderr
    assert "\x1b" not in done.stderr


def test_quiet_leaves_only_the_path(cli: Cli, corpus: None) -> None:
    done = cli(*ARGS, "--quiet")
    assert (done.stdout, done.stderr) == (f"{Path('runs/docs-tiny')}\n", "")


def test_dry_run_tells_and_makes_nothing(folder: Path, cli: Cli, corpus: None) -> None:
    facts = cli(*ARGS, "--dry-run", "--json").json()
    assert facts["max_steps"] == 12
    assert facts["tokens_per_step"] == 128
    assert "n_params: " in cli(*ARGS, "--dry-run").stdout
    assert not (folder / "runs").exists()


def test_set_overrides_the_profile(folder: Path, cli: Cli, corpus: None) -> None:
    assert cli(*ARGS, "--run", "r", "--set", "max_steps=2", "--set", "train.seed=5", "-q").code == 0
    profile = cli("runs", "show", "r", "--json").json()["profile"]
    assert (profile["train"]["max_steps"], profile["train"]["seed"]) == (2, 5)


def test_complete_run_goes_on_with_more_steps(cli: Cli, corpus: None) -> None:
    assert cli(*ARGS, "--run", "r").code == 0
    again = cli("train", "--resume", "--run", "r", "--json")
    assert again.json()["step"] == 12
    assert "This run is complete" in again.stderr
    assert cli("train", "--resume", "--set", "max_steps=14", "--json").json()["step"] == 14


@pytest.mark.parametrize("extra", [("docs",), ("--profile", "tiny.yaml"), ("--budget", "5s"), ("--dry-run",)])
def test_resume_refuses_what_it_cannot_change(cli: Cli, extra: tuple[str, ...]) -> None:
    done = cli("train", "--resume", *extra)
    assert done.code == 2
    assert extra[0].replace("docs", "CORPUS") in done.stderr


def test_training_gives_the_signals_back(cli: Cli, corpus: None) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert cli(*ARGS, "-q").code == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_samples_drawn_while_training_are_shown(cli: Cli, corpus: None) -> None:
    done = cli(*ARGS, "--set", "sample_interval=6", "--set", "prompt=The")
    assert done.stderr.count("-- sample at step") == 2
    assert 'gptcli sample docs-tiny --prompt "The"' in done.stderr


@pytest.mark.slow
def test_budget_fits_the_steps_to_the_clock(cli: Cli, corpus: None) -> None:
    done = cli(*ARGS, "--budget", "10s", "--json", "--set", "log_interval=50", "--set", "save_interval=500")
    assert done.code == 0, done.stderr
    assert "10 s allow" in done.stderr
    assert done.json()["step"] == done.json()["max_steps"]


@posix_signals
def test_interrupted_and_resumed_run_has_the_bytes_of_an_uninterrupted_one(folder: Path, corpus: None) -> None:
    settings = ("--set", "max_steps=100", "--set", "log_interval=1", "--set", "model.dropout=0.1")
    with started(folder, *ARGS, "--run", "stopped", *settings) as process:
        wait_for(process, "train_loss")
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 130
    assert stdout == f"{Path('runs/stopped')}\n"
    assert "Finishing the step, then saving." in stderr
    assert stderr.rstrip().endswith("gptcli train --resume --run stopped")
    assert json.loads(checkpoint(folder, "stopped")["state.json"])["step"] < 100
    for command in (("train", "--resume", "--run", "stopped", "-q"), (*ARGS, "--run", "whole", "-q", *settings)):
        with started(folder, *command) as process:
            assert process.wait(timeout=120) == 0
    assert checkpoint(folder, "stopped") == checkpoint(folder, "whole")


@posix_signals
def test_terminated_run_saves_and_ends_with_143(folder: Path, corpus: None) -> None:
    with started(folder, *ARGS, "--run", "r", "--json", "--set", "max_steps=100000") as process:
        wait_for(process, "train_loss")
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 143
    assert json.loads(stdout)["reason"] == "terminated"
    assert "gptcli train --resume --run r" in stderr
    assert checkpoint(folder, "r")


@posix_signals
def test_second_signal_stops_in_the_middle_of_a_step(folder: Path, corpus: None) -> None:
    slow = ("--set", "grad_accum_steps=100000", "--set", "log_interval=1")
    with started(folder, *ARGS, "--run", "r", "--quiet", *slow) as process:
        metrics = folder / "runs" / "r" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        wait_for(process, "Once more stops at once")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 130
    assert "Stopped at once" in stderr
    assert "gptcli train --resume --run r" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
