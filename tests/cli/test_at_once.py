"""Several commands on one run at the same moment, and a pipeline in which Python itself warns of nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Cli, start_cli


def test_two_trainings_a_sample_and_a_list_of_one_run_at_once(folder: Path, cli: Cli) -> None:
    assert cli("fetch", "docs.txt").code == 0
    more = ("--set", "max_steps=100000", "--set", "save_interval=5", "--set", "eval_interval=10")
    first = start_cli(folder, "train", "docs", "--profile", "tiny.yaml", "--run", "r", *more)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "runs" / "r" / "checkpoints" / "best").exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        others = [
            start_cli(folder, *command)
            for command in (
                ("train", "--resume", "--run", "r"),
                ("sample", "r", "--prompt", "The", "--max-new-tokens", "5"),
                ("runs", "show", "r"),
                ("runs", "plot", "r", "-o", "now.png"),
                ("eval", "r"),
            )
        ]
        said = [(*other.communicate(timeout=120), other.returncode) for other in others]
        assert first.poll() is None
        first.terminate()
        _, error = first.communicate(timeout=60)
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == 143, error
    assert [code for _, _, code in said] == [1, 0, 0, 0, 0], said
    assert f"is being trained by the process {first.pid};" in said[0][1].replace("\n", " ")
    assert cli("sample", "r", "--prompt", "The", "--max-new-tokens", "5").code == 0
    assert (folder / "now.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_python_has_nothing_to_warn_of_in_a_whole_pipeline(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in (
        ("fetch", "docs.txt"),
        ("prepare", "docs", "--tokenizer", "bpe:300"),
        ("train", "docs", "--profile", "tiny.yaml", "--run", "r", "--set", "sample_interval=6"),
        ("train", "--resume", "--run", "r", "--set", "max_steps=14"),
        ("sample", "r", "--prompt", "The", "--check-copies"),
        ("eval", "r", "--json"),
        ("export", "r", "--format", "safetensors", "-o", "out"),
        ("runs", "show", "r"),
        ("runs", "compare", "r", "r"),
        ("runs", "plot", "r", "-o", "r.svg", "--log"),
        ("runs", "report", "r"),
        ("runs", "export-metrics", "r"),
        ("doctor",),
        (),
    ):
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-m", "gptcli", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
