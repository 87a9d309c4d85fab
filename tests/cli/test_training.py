"""What ``train`` and ``finetune`` share around a run: where its figures go too, and a device that goes away."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from gptcli.cli.training import LOGS
from gptcli.sinks import KINDS
from tests.cli.conftest import Cli

ARGS = ("train", "docs", "--profile", "tiny.yaml", "--run", "tiny")
# What torch says where a card has fallen off its bus.
LOST = (
    "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported at some other API "
    "call, so the stacktrace below might be incorrect."
)


@pytest.fixture
def corpus(cli: Cli) -> None:
    assert cli("fetch", "docs.txt").code == 0


def test_logs_are_the_kinds_of_sinks() -> None:
    assert set(LOGS) == set(KINDS)


def test_log_lies_in_the_run_and_stdout_has_the_run_alone(folder: Path, cli: Cli, corpus: None) -> None:
    pytest.importorskip("tensorboard")
    done = cli(*ARGS, "--log", "tensorboard")
    assert (done.code, done.stdout) == (0, f"{Path('runs/tiny')}\n")
    assert "note: --log tensorboard: tensorboard --logdir runs shows the run." in done.stderr
    assert list((folder / "runs" / "tiny" / "tensorboard").glob("*tfevents*"))
    assert (folder / "runs" / "tiny" / "metrics.jsonl").is_file()


def test_quiet_run_says_nothing_of_its_log(folder: Path, cli: Cli, corpus: None) -> None:
    pytest.importorskip("tensorboard")
    done = cli(*ARGS, "--log", "tensorboard", "--quiet")
    assert (done.code, done.stderr) == (0, "")
    assert (folder / "runs" / "tiny" / "tensorboard").is_dir()


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_log_that_there_is_none_of_is_a_usage_error_that_names_them(cli: Cli, command: str) -> None:
    done = cli(command, "docs", "--log", "clearml")
    assert done.code == 2
    assert "--log clearml: choose tensorboard, wandb, trackio." in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", [ARGS, ("finetune", "docs", "--from", "gpt2")])
def test_log_whose_package_is_missing_is_an_error_before_any_work(
    folder: Path, cli: Cli, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    before = sorted(folder.rglob("*"))
    done = cli(*command, "--log", "wandb")
    assert (done.code, done.stdout) == (1, "")
    assert "Error: --log wandb needs the package wandb, which is not installed." in done.stderr
    assert "pip install 'gptcli[wandb]'" in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_device_that_goes_away_is_an_error_that_says_how_to_go_on(
    folder: Path, cli: Cli, corpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.nn.utils.get_total_norm, iter(range(100))

    def norm(*args: object, **kwargs: object) -> object:
        if next(calls) == 8:
            raise RuntimeError(LOST)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "get_total_norm", norm)
        done = cli(*ARGS)
    assert (done.code, done.stdout) == (1, "")
    assert "Error: The device was lost in the middle of the run: CUDA error: unspecified launch failure." in done.stderr
    assert "Its checkpoints are whole: gptcli train --resume --run tiny goes on" in done.stderr
    lines = (folder / "runs" / "tiny" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[-1])["event"] == "run_failed"
    again = cli("train", "--resume", "--run", "tiny")
    assert again.code == 0, again.stderr
    assert "resumes  after step 6" in again.stderr


def test_bug_is_no_lost_device(cli: Cli, corpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(*args: object, **kwargs: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", norm)
    with pytest.raises(RuntimeError, match="device-side assert"):
        cli(*ARGS)
