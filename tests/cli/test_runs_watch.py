"""``runs show --watch``: what another process trains, as its own terminal shows it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Cli, run_cli, start_cli
from tests.training import NewRun, finish, interrupt

if sys.platform == "win32":
    pytest.skip("needs signals and a pseudo-terminal", allow_module_level=True)

LONG = (
    "--set",
    "max_steps=100000",
    "--set",
    "save_interval=20",
    "--set",
    "eval_interval=20",
    "--set",
    "log_interval=5",
)
ROW = re.compile(r"^ *(\d+) ", re.MULTILINE)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


@pytest.fixture
def training(folder: Path, cli: Cli) -> Iterator[subprocess.Popen[str]]:
    """A process that trains the run ``r`` for longer than any test."""
    assert cli("fetch", "docs.txt").code == 0
    process = start_cli(
        folder, "train", "docs", "--profile", "tiny.yaml", "--run", "r", *LONG, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not (folder / "runs" / "r" / "checkpoints" / "best").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def steps_of(text: str) -> list[int]:
    """The steps of the rows of a table in a pipe."""
    return [int(step) for step in ROW.findall(text)]


def test_finished_run_is_shown_from_its_header_to_its_end_at_once(trained: Path) -> None:
    done = run_cli(trained, "runs", "show", "tiny", "--watch")
    assert (done.code, done.stderr) == (0, "")
    assert "corpus" in done.stdout
    assert steps_of(done.stdout) == [2, 4, 6, 8, 10, 12]
    assert "gptcli sample tiny" in done.stdout


def test_run_that_stopped_ends_with_the_command_to_go_on(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r")
    done = run_cli(tmp_path, "runs", "show", "r", "--watch")
    assert done.code == 0
    assert "has not begun yet: gptcli train --resume --run r" in done.stderr
    interrupt(run, 6)
    assert "gptcli train --resume --run r" in run_cli(tmp_path, "runs", "show", "r", "--watch").stdout
    finish(run)
    steps = steps_of(run_cli(tmp_path, "runs", "show", "r", "--watch").stdout)
    assert steps == sorted(set(steps))
    assert steps[-1] == 12


def test_watch_and_json_are_not_both_possible(trained: Path) -> None:
    assert run_cli(trained, "runs", "show", "tiny", "--watch", "--json").code == 2


def test_live_run_is_followed_to_its_end_and_nothing_is_shown_twice(
    folder: Path, training: subprocess.Popen[str]
) -> None:
    watching = start_cli(folder, "runs", "show", "r", "--watch")
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(25)]
    training.send_signal(signal.SIGINT)
    training.wait(60)
    rest, error = watching.communicate(timeout=60)
    text = "".join(lines) + rest
    assert watching.returncode == 0, error
    steps = steps_of(text)
    assert steps == sorted(set(steps))
    assert steps[0] == 5
    assert len(steps) > 10
    assert "gptcli train --resume --run r" in rest


def test_ctrl_c_ends_the_watching_and_leaves_the_run_alone(folder: Path, training: subprocess.Popen[str]) -> None:
    watching = start_cli(folder, "runs", "show", "r", "--watch")
    assert watching.stdout is not None
    for _ in range(15):
        watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, error = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert error == "No longer watching r, which is left alone.\n"
    assert training.poll() is None


def test_run_that_is_killed_ends_the_watching_with_the_command_to_go_on(
    folder: Path, training: subprocess.Popen[str]
) -> None:
    watching = start_cli(folder, "runs", "show", "r", "--watch")
    assert watching.stdout is not None
    for _ in range(15):
        watching.stdout.readline()
    training.kill()
    _, error = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "Nobody trains the run r just now. To go on: gptcli train --resume --run r" in error


def test_window_of_80_by_24_shows_header_rows_and_progress(folder: Path, training: subprocess.Popen[str]) -> None:
    pexpect = pytest.importorskip("pexpect")
    hidden = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    child = pexpect.spawn(
        sys.executable, ["-m", "gptcli", "runs", "show", "r", "--watch"], cwd=str(folder), dimensions=(24, 80),
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": "xterm"}, encoding="utf-8", timeout=60,
    )  # fmt: skip
    child.expect_exact("gptcli train")
    child.expect_exact("val_loss")
    child.expect("step [0-9,]+/100,000, [^\r\n]* left")
    assert all(len(line) <= 80 for line in ESCAPES.sub("", child.before).splitlines())
    training.send_signal(signal.SIGINT)
    child.expect_exact("gptcli train --resume --run r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
