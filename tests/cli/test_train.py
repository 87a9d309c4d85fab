"""``gptcli train``: the new run, the resumed run, and the run that is stopped by a signal."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gptcli.cli.training import parse_duration
from gptcli.runs import RunDir
from tests.cli.conftest import Cli, start_cli
from tests.test_run_lock import hold

posix_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows delivers no SIGINT to a single process")
ARGS = ("train", "docs", "--profile", "tiny.yaml")
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture
def corpus(cli: Cli) -> None:
    assert cli("fetch", "docs.txt").code == 0
    assert cli("prepare", "docs", "--profile", "tiny.yaml").code == 0


@contextlib.contextmanager
def started(folder: Path, *args: str, **options: Any) -> Iterator[subprocess.Popen[str]]:  # noqa: ANN401 - Popen's
    """Start the command; whatever the test does, no process stays behind."""
    process = start_cli(folder, *args, **options)
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
    path = checkpoints / (checkpoints / "latest").read_text("utf-8").split()[0]
    return {name: (path / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("1h1m1s", 3661), (" 5s ", 5)]
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "10 minutes", "-5m", "5m1h", "m", "1e3s", "\u0661s"])
def test_duration_that_is_none_names_the_forms(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="90s, 10m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "forms"), [("10", "10s, 10m or 10h"), ("1.5", r"1\.5s, 1\.5m or 1\.5h")])
def test_duration_without_a_unit_names_it_with_each(text: str, forms: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"has no unit; write {forms}"):
        parse_duration(text)


def test_duration_of_more_than_a_year_is_none() -> None:
    assert parse_duration("8760h") == 8760 * 3600
    with pytest.raises(typer.BadParameter, match=r"99999h.* is more than a year"):
        parse_duration("99999h")


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
    assert f"  {facts['n_params']:,}\n" in cli(*ARGS, "--dry-run").stdout
    assert not (folder / "runs").exists()


def test_dry_run_applies_the_budget(folder: Path, cli: Cli, corpus: None) -> None:
    done = cli(*ARGS, "--dry-run", "--budget", "5s", "--json", "--set", "save_interval=500")
    assert done.code == 0, done.stderr
    assert "5 s allow" in done.stderr
    assert done.json()["max_steps"] > 12
    assert not (folder / "runs").exists()


PROMISE = "description: A promise\nexpects: {val_loss: 3.5, tokenizer: 'bpe:300', minutes: 1.0, machine: here}\n"


@pytest.mark.parametrize(
    ("data", "args", "kept"),
    [
        ("{corpus: docs, tokenizer: 'bpe:300'}", (), True),
        ("{corpus: docs}", (), True),
        ("{corpus: other, tokenizer: 'bpe:300'}", (), False),
        ("{corpus: docs, split_at: 0.5}", (), False),
        ("{corpus: docs, val_fraction: 0.3}", (), False),
        ("{corpus: docs}", ("--set", "max_steps=5"), False),
        ("{}", (), False),
    ],
)
def test_promise_holds_for_the_tokens_and_values_it_was_made_for(
    folder: Path, cli: Cli, corpus: None, data: str, args: tuple[str, ...], kept: bool
) -> None:
    text = (folder / "tiny.yaml").read_text("utf-8").splitlines(keepends=True)
    own = "".join(line for line in text if not line.startswith(("description", "data")))
    (folder / "promise.yaml").write_text(f"{PROMISE}{own}data: {data}\n", "utf-8")
    tokens = str(Path("corpora/docs/tokens/bpe-300"))
    facts = cli("train", tokens, "--profile", "promise.yaml", "--dry-run", "--json", *args).json()
    assert facts["tokenizer"] == "bpe:300"
    assert facts["profile"]["expects"]["val_loss"] == (3.5 if kept else None)


def test_promise_made_with_another_tokenizer_is_dropped(folder: Path, cli: Cli, corpus: None) -> None:
    own = (folder / "tiny.yaml").read_text("utf-8").replace("description:", "# ").replace("data:", "# ")
    promise = PROMISE.replace("bpe:300", "char")
    (folder / "promise.yaml").write_text(f"{promise}{own}", "utf-8")
    tokens = str(Path("corpora/docs/tokens/bpe-300"))
    facts = cli("train", tokens, "--profile", "promise.yaml", "--dry-run", "--json").json()
    assert facts["profile"]["expects"]["val_loss"] is None


def test_a_device_that_is_not_there_leaves_no_run_behind(folder: Path, cli: Cli, corpus: None) -> None:
    done = cli("train", "docs", "--profile", "tiny.yaml", "--device", "cuda:7")
    assert done.code == 1
    assert "The device 'cuda:7' is not on this machine" in done.stderr
    assert not (folder / "runs").exists()


def test_train_says_which_tokenizer_auto_means(folder: Path, cli: Cli, corpus: None) -> None:
    done = cli("train", "docs", "--profile", "tiny.yaml", "--set", "data.tokenizer=auto", "--dry-run")
    assert "Tokenizer bpe:300: the corpus was last prepared with it." in done.stderr


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


def test_resume_with_dry_run_says_what_shows_the_run(cli: Cli) -> None:
    done = cli("train", "--resume", "--run", "a", "--dry-run")
    assert done.code == 2
    assert "gptcli runs show" in done.stderr


def test_name_of_a_run_that_is_being_trained_is_refused_with_its_process(folder: Path, cli: Cli, corpus: None) -> None:
    train = ("train", "docs", "--profile", "tiny.yaml", "--run", "a")
    assert cli(*train).code == 0
    with hold(RunDir(folder / "runs" / "a")) as process:
        done = cli(*train)
    assert done.code == 1
    assert f"being trained by the process {process.pid}" in done.stderr
    assert "gptcli runs show a --watch" in done.stderr
    assert "--resume" not in done.stderr
    assert "exists already" in cli(*train).stderr


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


# More steps than any machine takes before it is stopped. With a constant rate a step does not depend on the last one.
ENDLESS = 10_000_000
SETTINGS = ("--set", "log_interval=1", "--set", "model.dropout=0.1", "--set", "schedule=constant")


def wait_for_step(folder: Path, run: str, step: int, process: subprocess.Popen[str]) -> None:
    """Return when the metrics of a running process tell of this step."""
    metrics = folder / "runs" / run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and f'"step": {step},' in metrics.read_text("utf-8")):
        assert process.poll() is None, "training ended before it was stopped"
        assert time.monotonic() < deadline, f"step {step} was never reported"
        time.sleep(0.01)


def assert_goes_on_like_a_whole_run(folder: Path, run: str) -> None:
    """Resume for some more steps, and compare every byte with a run of as many steps that nobody stopped."""
    stopped_at = json.loads(checkpoint(folder, run)["state.json"])["step"]
    assert 0 < stopped_at < ENDLESS
    steps = ("--set", f"max_steps={stopped_at + 20}")
    for command in (("train", "--resume", "--run", run, *steps), (*ARGS, "--run", "whole", *SETTINGS, *steps)):
        with started(folder, *command, stderr=subprocess.DEVNULL) as process:
            assert process.wait(timeout=240) == 0
    assert json.loads(checkpoint(folder, run)["state.json"])["step"] == stopped_at + 20
    assert checkpoint(folder, run) == checkpoint(folder, "whole")


@posix_signals
def test_interrupted_and_resumed_run_has_the_bytes_of_an_uninterrupted_one(folder: Path, corpus: None) -> None:
    steps = ("--set", f"max_steps={ENDLESS}")
    with started(folder, *ARGS, "--run", "stopped", "--quiet", *SETTINGS, *steps) as process:
        wait_for_step(folder, "stopped", 8, process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 130
    assert stdout == f"{Path('runs/stopped')}\n"
    assert "Finishing the step, then saving." in stderr
    assert stderr.rstrip().endswith("gptcli train --resume --run stopped")
    assert_goes_on_like_a_whole_run(folder, "stopped")


@posix_signals
def test_killed_and_resumed_run_has_the_bytes_of_an_uninterrupted_one(folder: Path, corpus: None) -> None:
    steps = ("--set", f"max_steps={ENDLESS}")
    with started(folder, *ARGS, "--run", "killed", "--quiet", *SETTINGS, *steps) as process:
        wait_for_step(folder, "killed", 20, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
    assert_goes_on_like_a_whole_run(folder, "killed")


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
def test_a_step_that_would_take_long_is_left_for_the_next_time(folder: Path, corpus: None) -> None:
    slow = ("--set", "grad_accum_steps=100000", "--set", "log_interval=1")
    with started(folder, *ARGS, "--run", "r", "--quiet", *slow) as process:
        metrics = folder / "runs" / "r" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 130
    assert "Stopped after step 0. To go on: gptcli train --resume --run r" in stderr
    assert stdout == "runs/r\n"
    assert (folder / "runs" / "r" / "checkpoints" / "step_000000").is_dir()


@posix_signals
def test_second_signal_stops_in_the_middle_of_a_step(folder: Path, corpus: None) -> None:
    slow = ("--set", "batch_size=40000", "--set", "log_interval=1")
    with started(folder, *ARGS, "--run", "r", "--quiet", *slow) as process:
        metrics = folder / "runs" / "r" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        wait_for(process, "Once more stops at once")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 130
    assert "Stopped at once" in stderr
    assert "Interrupted." not in stderr
    assert "gptcli train --resume --run r" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
