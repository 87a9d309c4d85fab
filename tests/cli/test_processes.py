"""``gptcli train`` in several processes, by its own launcher and by torchrun, and what is said when one fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptcli.checkpoints import load_checkpoint
from gptcli.metrics import read_events
from gptcli.runs import RunDir

ROOT = Path(__file__).resolve().parents[2]
PROFILE = """
model: {n_layer: 1, n_head: 2, n_embd: 32, block_size: 32, dropout: 0.1}
data: {tokenizer: char}
train: {batch_size: 4, grad_accum_steps: 3, max_steps: 150, warmup_steps: 2, log_interval: 1, eval_interval: 50,
  save_interval: 10, dtype: float32, device: cpu}
"""
GPTCLI = [sys.executable, "-m", "gptcli"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs signals")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared corpus ``t`` and the profile ``tiny.yaml``."""
    folder = tmp_path_factory.mktemp("prepared")
    from pydoc_data.topics import topics

    (folder / "t.txt").write_text("\n\n".join(topics[name] for name in ("class", "for", "if", "with")), "utf-8")
    (folder / "tiny.yaml").write_text(PROFILE, "utf-8")
    for command in (["fetch", "t.txt"], ["prepare", "t", "--tokenizer", "char"]):
        subprocess.run([*GPTCLI, *command], cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test of its own."""
    return Path(shutil.copytree(prepared, tmp_path / "work"))


def environment(**more: str) -> dict[str, str]:
    """What a user has, and a line of 80 columns."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GPTCLI_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80", **more}


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*GPTCLI, *command], cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=240
    )


def begin(command: list[str], folder: Path, **more: str) -> subprocess.Popen[str]:
    """Begin a command; its output goes to pipes."""
    return subprocess.Popen(
        command, cwd=folder, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command; returns its exit code, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


def children(pid: int) -> Iterator[int]:
    """The worker processes that a launcher has now."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                yield int(entry.name)


def rank_of(pid: int) -> str:
    """The rank of a worker, from its environment."""
    variables = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
    return next(value.decode().partition("=")[2] for value in variables if value.startswith(b"RANK="))


def wait_for_step(folder: Path, name: str, step: int, process: subprocess.Popen[str]) -> None:
    """Return as soon as the run has made ``step``."""
    metrics = RunDir(folder / "runs" / name).metrics_path
    while process.poll() is None:
        events = list(read_events(metrics)) if metrics.is_file() else []
        if any(event["event"] == "step_logged" and event["step"] >= step for event in events):
            return
        time.sleep(0.02)
    pytest.fail(f"it ended before step {step}: {process.communicate()}")


def assert_same_ends(folder: Path, first: str, second: str) -> None:
    """The last checkpoints of two runs have the same weights, optimizer and progress, to the byte."""
    here, there = (load_checkpoint(folder / "runs" / name / "checkpoints" / "step_000150") for name in (first, second))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (here.path / name).read_bytes() == (there.path / name).read_bytes(), name
    assert here.state == there.state


@pytest.fixture(scope="module")
def undisturbed(prepared: Path) -> Path:
    """A workspace with a run ``calm`` of two processes that nothing happened to."""
    done = run("train", "t", "--profile", "tiny.yaml", "--run", "calm", "--nproc", "2", folder=prepared)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "runs/calm\n", "rank 0 alone prints"
    assert done.stderr.count("tokens_per_step") + done.stderr.count("calm: done") == 1
    assert "2 processes, ddp" in " ".join(done.stderr.split())
    return prepared


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_killed_rank_is_named_and_the_run_comes_back_and_ends_with_the_same_bytes(undisturbed: Path) -> None:
    command = [*GPTCLI, "train", "t", "--profile", "tiny.yaml", "--run", "killed", "--nproc", "2"]
    process = begin([*command, "--max-restarts", "2"], undisturbed)
    wait_for_step(undisturbed, "killed", 24, process)
    os.kill(next(pid for pid in children(process.pid) if rank_of(pid) == "1"), signal.SIGKILL)
    code, stdout, stderr = ended(process)
    assert code == 0, stderr
    assert stdout == "runs/killed\n"
    said = " ".join(stderr.split())
    assert "Rank 1 was ended by SIGKILL. All begin again from the last checkpoint (restart 1 of 2)." in said
    assert "Traceback" not in stderr
    assert_same_ends(undisturbed, "calm", "killed")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_without_restarts_a_killed_rank_ends_the_job_and_the_run_goes_on_later_in_another_number(
    workspace: Path,
) -> None:
    process = begin(
        [*GPTCLI, "train", "t", "--profile", "tiny.yaml", "--run", "r", "--nproc", "3"], workspace, LOGLEVEL="INFO"
    )
    wait_for_step(workspace, "r", 7, process)
    os.kill(next(pid for pid in children(process.pid) if rank_of(pid) == "2"), signal.SIGKILL)
    code, stdout, stderr = ended(process)
    assert (code, stdout) == (1, "")
    assert "Rank 2 was ended by SIGKILL. The job has ended." in " ".join(stderr.split())
    done = run("train", "--resume", "--run", "r", "--nproc", "2", folder=workspace)
    assert done.returncode == 0, done.stderr
    assert (workspace / "runs/r/checkpoints/step_000150").is_dir()


def test_ctrl_c_and_sigterm_finish_the_step_save_and_say_how_to_go_on(undisturbed: Path) -> None:
    process = begin([*GPTCLI, "train", "t", "--profile", "tiny.yaml", "--run", "stopped", "--nproc", "2"], undisturbed)
    wait_for_step(undisturbed, "stopped", 3, process)
    process.send_signal(signal.SIGINT)
    code, _, stderr = ended(process)
    assert code == 130, stderr
    assert "gptcli train --resume --run stopped" in " ".join(stderr.split())
    assert "Traceback" not in stderr
    again = begin([*GPTCLI, "train", "--resume", "--run", "stopped", "--nproc", "2"], undisturbed)
    wait_for_step(undisturbed, "stopped", 12, again)
    again.send_signal(signal.SIGTERM)
    assert ended(again)[0] == 143
    done = run("train", "--resume", "--run", "stopped", "--nproc", "2", folder=undisturbed)
    assert done.returncode == 0, done.stderr
    assert_same_ends(undisturbed, "calm", "stopped")


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        port: int = there.getsockname()[1]
        return port


def torchrun(port: int, *command: str) -> list[str]:
    """The command of one of two nodes with a process each."""
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=job"]
    # Without the -- torchrun takes --run for a short form of an option of its own.
    return [*agent, "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "-m", "--", "gptcli", *command]


def two_nodes(first: Path, second: Path, *command: str) -> list[tuple[int, str, str]]:
    """Run a command on two nodes, which share no folder."""
    port = free_port()
    processes = [begin(torchrun(port, *command), folder) for folder in (first, second)]
    return [ended(process) for process in processes]


def test_two_nodes_without_a_common_disk_train_one_run_as_two_processes_of_one_machine_do(
    undisturbed: Path, prepared: Path, tmp_path: Path
) -> None:
    first, second = (Path(shutil.copytree(prepared, tmp_path / name)) for name in ("first", "second"))
    ends = two_nodes(first, second, "train", "t", "--profile", "tiny.yaml", "--run", "nodes")
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert sorted(stdout for _, stdout, _ in ends) == ["", "runs/nodes\n"]
    holder, other = sorted((first, second), key=lambda folder: not (folder / "runs/nodes").is_dir())
    assert not (other / "runs/nodes").exists(), "rank 0 alone writes"
    shutil.copytree(holder / "runs/nodes", undisturbed / "runs/nodes")
    assert_same_ends(undisturbed, "calm", "nodes")


def test_two_nodes_with_a_common_disk_train_one_run(prepared: Path, tmp_path: Path) -> None:
    common = Path(shutil.copytree(prepared, tmp_path / "common", ignore=shutil.ignore_patterns("runs")))
    command = ("train", "t", "--profile", "tiny.yaml", "--run", "nodes", "--set", "max_steps=3")
    ends = two_nodes(common, common, *command)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert sorted(stdout for _, stdout, _ in ends) == ["", "runs/nodes\n"]


def test_a_shard_that_is_missing_on_one_node_is_said_with_its_rank_and_its_machine(
    prepared: Path, tmp_path: Path
) -> None:
    first, second = (Path(shutil.copytree(prepared, tmp_path / name)) for name in ("first", "second"))
    for folder in (first, second):
        shutil.rmtree(folder / "runs", ignore_errors=True)
    done = run("train", "t", "--profile", "tiny.yaml", "--run", "r", "--set", "max_steps=1", folder=first)
    assert done.returncode == 0, done.stderr
    shutil.copytree(first / "runs", second / "runs")
    for shard in (second / "corpora/t/tokens").glob("*/train-*.bin"):
        shard.unlink()
    ends = two_nodes(first, second, "train", "--resume", "--run", "r", "--set", "max_steps=10")
    assert all(code for code, _, _ in ends)
    said = " ".join(" ".join(stderr for _, _, stderr in ends).split())
    assert said.count("the token file cannot be read") == 1, said
    assert "train-00000.bin" in said
    assert f"on {socket.gethostname()}" in said or "Error: corpora" in said, said


def test_a_port_that_another_program_has_and_more_processes_than_cores_do_not_hinder(workspace: Path) -> None:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("", 29500))
        taken.listen()
        size = next(n for n in (2, 3, 4, 6, 12) if n > cores) if cores < 12 else 12
        done = run(
            *("train", "t", "--profile", "tiny.yaml", "--run", "r", "--nproc", str(size), "--set", "max_steps=2"),
            *("--set", "eval_tokens=100", "--json"),
            folder=workspace,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 2
    if size > cores:
        assert f"{size} processes share {cores} cores" in " ".join(done.stderr.split())


def test_a_number_of_processes_that_does_not_divide_a_step_is_refused_before_there_is_a_run(workspace: Path) -> None:
    done = run("train", "t", "--profile", "tiny.yaml", "--run", "r", "--nproc", "5", folder=workspace)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "A step has 12 windows (batch_size 4 x grad_accum_steps 3), which 5 processes cannot share evenly." in said
    assert "--nproc 4" in said
    assert not (workspace / "runs" / "r").exists()


def test_an_error_of_the_user_is_said_once_and_never_tried_again(undisturbed: Path) -> None:
    shutil.copytree(undisturbed / "runs/calm", undisturbed / "runs/broken")
    for checkpoint in (undisturbed / "runs/broken/checkpoints").glob("step_*"):
        (checkpoint / "model.safetensors").write_bytes(b"")
    done = run(
        *("train", "--resume", "--run", "broken", "--nproc", "2", "--max-restarts", "3", "--set", "max_steps=200"),
        folder=undisturbed,
    )
    assert done.returncode == 1
    assert done.stderr.count("Error: ") == 1, done.stderr
    assert "All begin again" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_rank_that_is_asked_to_stop_stops_all_and_none_begins_again(undisturbed: Path) -> None:
    command = [*GPTCLI, "train", "t", "--profile", "tiny.yaml", "--run", "asked", "--nproc", "2"]
    process = begin([*command, "--max-restarts", "2"], undisturbed)
    wait_for_step(undisturbed, "asked", 4, process)
    os.kill(next(pid for pid in children(process.pid) if rank_of(pid) == "1"), signal.SIGTERM)
    code, _, stderr = ended(process)
    assert code == 143, stderr
    assert "All begin again" not in stderr
    assert list((undisturbed / "runs/asked/checkpoints").glob("step_*"))


def test_what_keeps_processes_apart_is_said(workspace: Path) -> None:
    command = [*GPTCLI, "train", "t", "--profile", "tiny.yaml", "--run", "r", "--nproc", "2"]
    code, _, stderr = ended(begin(command, workspace, GLOO_SOCKET_IFNAME="nowhere0"))
    assert code == 1
    said = " ".join(stderr.split())
    assert "cannot connect to the others" in said
    assert "GLOO_SOCKET_IFNAME" in said
    half = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    code, _, stderr = ended(begin([*GPTCLI, "train", "t", "--profile", "tiny.yaml"], workspace, **half))
    assert code == 78
    assert "LOCAL_WORLD_SIZE" in stderr
    assert "Traceback" not in stderr


def test_options_that_look_at_one_process_do_not_go_with_several(workspace: Path) -> None:
    for more in (["--budget", "10s"], ["--dry-run"]):
        done = run("train", "t", "--profile", "tiny.yaml", "--nproc", "2", *more, folder=workspace)
        assert done.returncode == 2
        assert "leave out --nproc" in " ".join(done.stderr.replace("│", " ").split())
