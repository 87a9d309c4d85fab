"""A terminal that is closed ends training as a signal does: the step is finished and saved."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gptcli.metrics import read_events
from tests.cli.conftest import ROOT, Cli

pexpect = pytest.importorskip("pexpect", reason="needs a pseudo-terminal")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGHUP")

COMMAND = ["-m", "gptcli", "train", "docs", "--profile", "tiny.yaml", "--run", "r"]
ENDLESS = ["--set", "max_steps=1000000", "--set", "save_interval=1000000", "--set", "eval_interval=1000000"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}


def last_step(folder: Path) -> int:
    """Return the last step that is reported."""
    events = read_events(folder / "runs" / "r" / "metrics.jsonl")
    return max((event["step"] for event in events if event["event"] == "step_logged"), default=0)


def wait_for_steps(folder: Path, after: int = 0) -> int:
    deadline = time.monotonic() + 60
    while last_step(folder) <= after:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return last_step(folder)


def assert_saved(folder: Path, reason: str) -> None:
    finished = list(read_events(folder / "runs" / "r" / "metrics.jsonl"))[-1]
    assert (finished["event"], finished["reason"]) == ("run_finished", reason)
    assert (folder / "runs" / "r" / "checkpoints" / f"step_{finished['step']:06d}").is_dir()


def test_a_closed_terminal_ends_training_with_a_checkpoint(folder: Path, cli: Cli) -> None:
    assert cli("fetch", "docs.txt").code == 0
    child = pexpect.spawn(sys.executable, [*COMMAND, *ENDLESS], cwd=folder, env=environment(), timeout=60)
    child.expect("tokens/s")
    wait_for_steps(folder)
    hang_up(child)
    _, status = os.waitpid(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert_saved(folder, "hung_up")


def hang_up(child: Any) -> None:  # noqa: ANN401 - pexpect has no types
    """Close the terminal, as its window does: the other end is gone, and the kernel sends SIGHUP."""
    os.close(child.child_fd)
    child.child_fd, child.closed, child.terminated = -1, True, True


@pytest.mark.parametrize("more", [(), ("--quiet",)], ids=["shown", "quiet"])
def test_the_closed_terminal_of_a_shell_ends_training_with_a_checkpoint(
    folder: Path, cli: Cli, more: tuple[str, ...]
) -> None:
    assert cli("fetch", "docs.txt").code == 0
    # A shell sends SIGHUP to its jobs and ends, then the kernel sends it to them again.
    child = pexpect.spawn("bash", ["--norc", "-i"], cwd=folder, env=environment(), timeout=60)
    child.sendline(shlex.join([sys.executable, *COMMAND, *ENDLESS, *more]))
    wait_for_steps(folder)
    hang_up(child)
    os.waitpid(child.pid, 0)
    deadline = time.monotonic() + 60
    while (folder / "runs" / "r" / ".writer.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert_saved(folder, "hung_up")


def start_piped(folder: Path, *more: str) -> tuple[subprocess.Popen[bytes], int]:
    """Begin a training whose streams are a pipe; returns it with the end that reads."""
    read, write = os.pipe()
    command = [sys.executable, *COMMAND, *ENDLESS, "--set", "log_interval=1", *more]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=write, stderr=write)
    os.close(write)
    return process, read


@pytest.mark.parametrize(("first", "code", "reason"), [(None, 129, "hung_up"), (signal.SIGINT, 130, "interrupted")])
def test_a_pipe_that_nobody_reads_any_more_ends_training_with_a_checkpoint(
    folder: Path, cli: Cli, first: signal.Signals | None, code: int, reason: str
) -> None:
    assert cli("fetch", "docs.txt").code == 0
    process, read = start_piped(folder)
    try:
        wait_for_steps(folder)
        if first is not None:  # a Ctrl-C, which ends tee before training has ended
            process.send_signal(first)
        os.close(read)
        assert process.wait(60) == code
    finally:
        process.kill()
    assert_saved(folder, reason)


def test_two_signals_of_one_moment_are_one(folder: Path, cli: Cli) -> None:
    assert cli("fetch", "docs.txt").code == 0
    process, read = start_piped(folder)
    try:
        wait_for_steps(folder)
        for _ in range(3):  # as timeout sends them, to the process and to its group
            process.send_signal(signal.SIGTERM)
            time.sleep(0.005)
        with os.fdopen(read) as file:
            said = file.read()
        assert process.wait(60) == 143, said
    finally:
        process.kill()
    assert_saved(folder, "terminated")


def test_below_nohup_a_hang_up_is_nothing(folder: Path, cli: Cli) -> None:
    assert cli("fetch", "docs.txt").code == 0
    ignore = (
        "import signal, sys, os; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", ignore, sys.executable, *COMMAND, *ENDLESS]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.DEVNULL)
    try:
        step = wait_for_steps(folder)
        process.send_signal(signal.SIGHUP)
        wait_for_steps(folder, step + 4)
        process.terminate()
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.wait()
    assert_saved(folder, "terminated")
