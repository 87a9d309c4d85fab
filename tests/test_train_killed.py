"""A run that is killed between any two renames can be read at once, and goes on to be the uninterrupted one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcli.checkpoint_folders import pointed
from gptcli.checkpoints import checkpoint_path
from gptcli.events import Evaluated, RunFinished
from gptcli.restore import run_weights
from gptcli.runs import RunDir, change_run
from tests.training import finish, interrupt

Create = Callable[..., RunDir]

# Trains copies of a run, each in a process of its own that is killed before rename number 0, 1, 2 ... ; it says which.
KILLS = """
import contextlib, os, shutil, signal, sys
from pathlib import Path
from gptcli.runs import RunDir
from gptcli.train import train

def train_until(n, run):
    left, replace = [n], os.replace
    def counted(*args, **kwargs):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return replace(*args, **kwargs)
    os.replace = counted
    with contextlib.closing(train(run)) as events:
        list(events)

n, killed, source = 0, True, Path(sys.argv[1])
while killed:
    copy = source.with_name(f"{source.name}-{n}")
    shutil.copytree(source, copy)
    pid = os.fork()
    if not pid:
        train_until(n, RunDir(copy))
        os._exit(0)
    killed, n = os.waitpid(pid, 0)[1] == signal.SIGKILL, n + 1
    if killed:
        print(copy, flush=True)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the copies have that are killed: sums over another number of threads are other numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def killed_copies(run: RunDir) -> list[RunDir]:
    """Return copies of the run, each killed before another rename of its training."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not live through a fork
    command = [sys.executable, "-c", KILLS, str(run.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [RunDir(Path(line)) for line in done.stdout.splitlines()]


def tensors(run: RunDir) -> dict[str, bytes]:
    path = pointed(run, "latest")
    assert path is not None
    return {file.name: file.read_bytes() for file in path.glob("*.safetensors")} | {"step": path.name.encode()}


def evaluations(run: RunDir) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics_path.read_text("utf-8").splitlines()]
    return [{key: line[key] for key in ("step", "val_loss", "best")} for line in lines if line["event"] == "evaluated"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("stopped_at", [0, 4], ids=["new", "stopped-before-an-evaluation"])
def test_a_finetune_killed_before_any_rename_is_whole_and_goes_on(new_finetune: Create, stopped_at: int) -> None:
    overrides = ("optimizer=adamw", "learning_rate=0.01", "max_steps=5", "save_interval=9")
    whole, parts = new_finetune("whole", *overrides), new_finetune("parts", *overrides)
    finish(whole)
    if stopped_at:
        interrupt(parts, stopped_at)
    copies = killed_copies(parts)
    assert len(copies) > 3
    for run in copies:
        run_weights(run, "latest")
        run_weights(run, "best")
        finish(run)
        assert tensors(run) == tensors(whole)
        assert evaluations(run) == evaluations(whole)
        assert checkpoint_path(run, "best").name == checkpoint_path(whole, "best").name
        assert not list(run.checkpoints_path.glob(".*"))
        shutil.rmtree(run.path)


def test_a_checkpoint_of_which_a_killed_save_moved_the_folder_aside_is_found_there_and_put_back(
    new_finetune: Create,
) -> None:
    run = new_finetune("r", "keep_checkpoints=0")
    path = pointed(run, "latest")
    assert path is not None
    aside = path.with_name(f".{path.name}.abcd1234.old")
    aside.mkdir()
    path.rename(aside / path.name)
    assert run_weights(run, "best")[1] == 0
    assert not path.exists(), "the run may be going on: reading moves nothing"
    finish(run)
    assert path.exists() == (checkpoint_path(run, "best") == path)
    assert not aside.exists()


def test_the_only_checkpoint_of_a_new_finetune_is_never_written_again(new_finetune: Create) -> None:
    run = new_finetune("r", "keep_checkpoints=9")
    path = pointed(run, "latest")
    assert path is not None
    before = path.stat().st_ino, path.stat().st_mtime_ns
    finish(run)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_a_best_that_was_found_after_the_save_is_not_forgotten_by_a_longer_run(new_finetune: Create) -> None:
    rates = ("optimizer=adamw", "learning_rate=0.01", "schedule=constant")
    run = new_finetune("r", *rates, "max_steps=7")
    interrupt(run, 7)  # before its evaluation, which is not of eval_interval 4
    found = [event for event in finish(run) if isinstance(event, Evaluated)]
    assert [(event.step, event.best) for event in found] == [(7, True)]
    assert checkpoint_path(run, "best").name == "step_000007"
    worse = finish(run, change_run(run, ["learning_rate=9", "max_steps=12", "eval_interval=4"]))
    assert [(event.step, event.best) for event in worse if isinstance(event, Evaluated)][:1] == [(7, True)]
    last = worse[-1]
    assert isinstance(last, RunFinished)
    assert (last.best_step, last.best_val_loss) == (7, found[0].val_loss)
    assert checkpoint_path(run, "best").name == "step_000007"
