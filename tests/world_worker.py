"""One of several processes that torchrun has started for a test: does the jobs of a file, one after the other.

torchrun --standalone --nproc-per-node 2 -m tests.world_worker JOBS.json
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from gptcli.errors import GptcliError
from gptcli.events import StepLogged
from gptcli.runs import RunDir
from gptcli.train import StopRequest, train
from gptcli.world import World, joined, leave, own_device


def train_one(world: World, job: dict[str, Any]) -> None:
    """Train ``run`` to its end, or until rank ``stops`` is asked to stop after step ``stop_at``."""
    run, stop = RunDir(Path(job["run"])), StopRequest()
    profile = None if world.leads else run.profile()
    with contextlib.closing(train(run, profile=profile, stop=stop, world=world, dataset=run.dataset())) as events:
        for event in events:
            if isinstance(event, StepLogged) and event.step == job.get("stop_at") and world.rank == job.get("stops", 0):
                stop.reason = "terminated"


def refused(world: World, job: dict[str, Any]) -> None:
    """Do what cannot be done, and write what each process is told into ``to``."""
    told = {}
    try:
        if job["what"] == "device":
            own_device(world, torch.device(job["device"]))
        elif job["what"] == "version":
            world.alike("torch", "2.9.0" if world.rank == job["rank"] else "2.13.0", "Install the same.")
    except GptcliError as error:
        told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    Path(f"{job['to']}.{world.rank}").write_text(json.dumps(told), "utf-8")


if __name__ == "__main__":
    with joined() as here:
        for each in json.loads(Path(sys.argv[1]).read_text("utf-8")):
            (train_one if "run" in each else refused)(here, each)
    leave(0)
