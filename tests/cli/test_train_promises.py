"""What built-in profiles reach after a fixed number of steps: a change that makes them learn less is seen here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import run_cli


def bits_per_byte(folder: Path, *args: str) -> float:
    done = run_cli(folder, "train", *args, "--device", "cpu", "--quiet", "--json")
    assert done.code == 0, done.stderr
    found = done.json()["best_bits_per_byte"]
    assert isinstance(found, float)
    return found


@pytest.mark.slow
def test_quickstart_learns_the_python_docs(tmp_path: Path) -> None:
    steps = ("--set", "max_steps=120", "--set", "eval_interval=120")
    # 2.47 and 2.50 with two seeds; the text is that of the Python that runs this.
    assert bits_per_byte(tmp_path, "--profile", "quickstart", *steps) == pytest.approx(2.48, abs=0.08)


@pytest.mark.slow
def test_shakespeare_char_cpu_keeps_its_promise(tmp_path: Path, shared_data: Path) -> None:
    text = shared_data / "tinyshakespeare.txt"
    assert run_cli(tmp_path, "fetch", str(text), "--name", "shakespeare").code == 0
    # 1.838 to 1.869 nats with five seeds.
    assert bits_per_byte(tmp_path, "--profile", "shakespeare-char-cpu") == pytest.approx(2.68, abs=0.04)
