"""Several processes train the model that one would: the same losses, and checkpoints that move between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcli.checkpoints import load_checkpoint
from gptcli.config import RunProfile
from gptcli.device import Capabilities
from gptcli.errors import DeviceError, ProfileError
from gptcli.metrics import read_events
from gptcli.parallel import check_world_size, own_share
from gptcli.profiles import build_profile, write_profile
from gptcli.runs import RunDir, change_run, create_run
from gptcli.shards import TokenDataset
from gptcli.train import train
from gptcli.world import check_devices

ROOT = Path(__file__).resolve().parents[1]
STEPS = 50
FAMILIES = ("gpt2", "modern")
ENGINES = ("ddp", "fsdp")


def new_run(folder: Path, dataset: TokenDataset, name: str, *overrides: str) -> RunDir:
    """A run of 12 windows a step, whose model draws its weights from the same seed each time."""
    profile = build_profile(
        {
            "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32},
            "train": {
                "batch_size": 6,
                "grad_accum_steps": 2,
                "max_steps": STEPS,
                "warmup_steps": 5,
                "log_interval": 1,
                "eval_interval": 25,
                "save_interval": 20,
                "device": "cpu",
                "dtype": "float32",
            },
        },
        overrides,
        where="the test",
    )
    return create_run(profile, profile_name="tiny", dataset=dataset, runs_dir=folder, name=name)


def start_world(folder: Path, size: int, jobs: list[dict[str, Any]]) -> None:
    """Do the jobs in ``size`` processes."""
    file = folder / f"jobs-{size}.json"
    file.write_text(json.dumps(jobs), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.world_worker", str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def losses(run: RunDir) -> list[float]:
    """The loss of every step, and of every evaluation."""
    events = list(read_events(run.metrics_path))
    trained = [event["train_loss"] for event in events if event["event"] == "step_logged"]
    return trained + [event["val_loss"] for event in events if event["event"] == "evaluated"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: TokenDataset) -> dict[str, list[float]]:
    """What one process finds, by family."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {family: new_run(folder, tiny_dataset, family, f"model.family={family}") for family in FAMILIES}
    for run in runs.values():
        list(train(run))
    return {family: losses(run) for family, run in runs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_so_many_processes_find_the_losses_of_one_with_either_engine_and_family(
    tmp_path: Path, tiny_dataset: TokenDataset, alone: dict[str, list[float]], size: int
) -> None:
    runs = {
        (family, engine): new_run(
            *(tmp_path, tiny_dataset, f"{family}-{engine}", f"model.family={family}", f"train.parallel={engine}")
        )
        for family in FAMILIES
        for engine in ENGINES
    }
    start_world(tmp_path, size, [{"run": str(run.path)} for run in runs.values()])
    for (family, engine), run in runs.items():
        found = losses(run)
        assert len(found) == len(alone[family]) == STEPS + 2
        apart = max(abs(here - there) for here, there in zip(found, alone[family], strict=True))
        assert apart <= 1e-5, (family, engine, apart)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("fsdp", "ddp"), ("ddp", "fsdp")])
def test_a_checkpoint_of_four_processes_goes_on_in_three_and_then_alone(
    tmp_path: Path, tiny_dataset: TokenDataset, alone: dict[str, list[float]], before: str, after: str
) -> None:
    run = new_run(tmp_path, tiny_dataset, "r", f"train.parallel={before}", "gradient_checkpointing=true")
    start_world(tmp_path, 4, [{"run": str(run.path), "stop_at": 15, "stops": 3}])
    assert len(losses(run)) == 15
    write_profile(run.profile_path, change_run(run, [f"train.parallel={after}"]))
    start_world(tmp_path, 3, [{"run": str(run.path), "stop_at": 31}])
    list(train(run))
    apart = max(abs(here - there) for here, there in zip(losses(run), alone["modern"], strict=True))
    assert apart <= 1e-5


@pytest.mark.slow
def test_runs_with_dropout_in_two_processes_end_with_the_same_bytes_however_they_were_stopped(
    tmp_path: Path, tiny_dataset: TokenDataset
) -> None:
    dropout, few = "model.dropout=0.2", "max_steps=12"
    whole, stopped = (new_run(tmp_path, tiny_dataset, name, dropout, few) for name in ("whole", "stopped"))
    jobs: list[dict[str, Any]] = [{"run": str(whole.path)}, {"run": str(stopped.path), "stop_at": 5}]
    start_world(tmp_path, 2, [*jobs, {"run": str(stopped.path)}])
    first, second = (load_checkpoint(run.checkpoints_path / "step_000012") for run in (whole, stopped))
    assert all(torch.equal(tensor, second.model[name]) for name, tensor in first.model.items())
    assert all(torch.equal(tensor, second.optimizer[name]) for name, tensor in first.optimizer.items())
    assert first.state == second.state


@pytest.mark.slow
def test_what_is_wrong_in_one_process_is_said_by_rank_0_alone(tmp_path: Path) -> None:
    to = tmp_path / "told"
    jobs: list[dict[str, Any]] = [
        {"what": "version", "rank": 1, "to": f"{to}-version"},
        {"what": "device", "device": "mps", "to": f"{to}-mps"},
        {"what": "device", "device": "cuda", "to": f"{to}-cuda"},
    ]
    start_world(tmp_path, 2, jobs)

    def told(what: str, rank: int) -> dict[str, str]:
        result: dict[str, str] = json.loads(Path(f"{to}-{what}.{rank}").read_text("utf-8"))
        return result

    version = told("version", 0)
    assert version["message"].startswith("rank 1 on ")
    assert "torch is 2.9.0 here, and 2.13.0 on " in version["message"]
    assert "Apple GPU" in told("mps", 0)["message"]
    # Where torch has neither NCCL nor GPUs, it is NCCL that is missed first.
    assert told("cuda", 0)["message"].startswith(("This torch has no NCCL", "There are 2 processes"))
    assert {told(what, 1)["kind"] for what in ("version", "mps", "cuda")} == {"PeerError"}


def test_processes_that_cannot_share_a_step_evenly_are_told_the_nearest_number_that_can() -> None:
    profile = build_profile({"train": {"batch_size": 6, "grad_accum_steps": 2}}, (), where="the test")
    with pytest.raises(ProfileError, match=r"A step has 12 windows .* which 5 processes") as error:
        check_world_size(profile, 5)
    assert "--nproc 4" in error.value.hint
    assert "or 6" in error.value.hint
    with pytest.raises(ProfileError) as error:
        check_world_size(profile, 100)
    assert "--nproc 12" in error.value.hint


def test_a_share_of_a_step_holds_whole_short_windows_and_as_many_tokens_as_before() -> None:
    values = {"model": {"block_size": 96}, "train": {"batch_size": 4, "short_block_size": 64}}
    profile = build_profile(values, (), where="the test")
    with pytest.raises(ProfileError, match="A share of 1 windows of 96 tokens") as error:
        own_share(profile, 4)
    assert "short_block_size=null" in error.value.hint
    rows, block_size = own_share(profile, 2).windows(0)
    assert (2 * rows, block_size) == profile.windows(0) == (6, 64)


def test_processes_need_a_gpu_each_and_choose_it_themselves() -> None:
    have = Capabilities(cuda=("NVIDIA H100", "NVIDIA H100"), nccl=True, gloo=True)
    check_devices(torch.device("cuda", 0), have, 2)
    with pytest.raises(DeviceError, match="3 processes of this machine want a GPU each, found 2"):
        check_devices(torch.device("cuda", 0), have, 3)
    with pytest.raises(DeviceError, match="cannot all train on cuda:1"):
        check_devices(torch.device("cuda", 1), have, 2, asked="cuda:1")
    with pytest.raises(DeviceError, match="no NCCL"):
        check_devices(torch.device("cuda", 0), Capabilities(cuda=("T4", "T4"), gloo=True), 2)


def test_a_micro_batch_stays_as_large_as_it_is_where_it_can() -> None:
    def share(batch_size: int, grad_accum_steps: int, size: int) -> tuple[int, int]:
        train = {"batch_size": batch_size, "grad_accum_steps": grad_accum_steps}
        own: RunProfile = own_share(build_profile({"train": train}, (), where="the test"), size)
        assert own.train.batch_size * own.train.grad_accum_steps * size == batch_size * grad_accum_steps
        return own.train.batch_size, own.train.grad_accum_steps

    assert share(12, 40, 8) == (12, 5)
    assert share(12, 1, 4) == (3, 1)
    assert share(6, 2, 4) == (3, 1)
    assert share(6, 2, 3) == (4, 1)
    assert share(12, 40, 1) == (12, 40)
