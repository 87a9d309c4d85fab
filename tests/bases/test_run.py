from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
import torch

from gptcli.bases.base import build_model
from gptcli.bases.run import open_run
from gptcli.checkpoints import checkpoint_path, load_checkpoint
from gptcli.config import RunProfile
from gptcli.errors import FormatError
from gptcli.runs import RunDir, create_run
from gptcli.shards import TokenDataset
from gptcli.train import train


@pytest.fixture
def run(tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> RunDir:
    """Keeps the checkpoints of all its steps that were saved."""
    profile = tiny_profile.model_copy(update={"train": tiny_profile.train.model_copy(update={"keep_checkpoints": 9})})
    made = create_run(profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=tmp_path, name="r")
    with contextlib.closing(train(made)) as events:
        list(events)
    return made


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_step_and_val_loss_are_those_of_the_checkpoint(run: RunDir) -> None:
    best = load_checkpoint(checkpoint_path(run, "best")).state
    base = open_run(run, "r")
    assert (base.origin["step"], base.val_loss, base.notes) == (best.step, best.best_val_loss, ())
    latest = load_checkpoint(checkpoint_path(run, "latest")).state
    base = open_run(run, "r", which="latest")
    assert (base.origin["step"], base.val_loss) == (12, latest.last_val_loss)


def test_in_place_of_a_damaged_checkpoint_another_is_opened_and_noted(run: RunDir) -> None:
    path = checkpoint_path(run, "best")
    others = {int(each.name[5:]): each for each in run.checkpoints_path.glob("step_*") if each != path}
    assert others, "something has to be left"
    cut(path / "model.safetensors")
    base = open_run(run, "r")
    assert base.origin["step"] == max(others)
    assert len(base.notes) == 1
    assert str(path / "model.safetensors") in base.notes[0]
    expected = load_checkpoint(others[max(others)])
    assert all(torch.equal(base.weights[name], tensor) for name, tensor in expected.model.items())
    assert base.val_loss == expected.state.val_loss
    for other in others.values():
        cut(other / "model.safetensors")
    with pytest.raises(FormatError, match="damaged"):
        open_run(run, "r")


def test_a_built_model_can_be_changed_and_the_run_stays_as_it_is(run: RunDir) -> None:
    base = open_run(run, "r")
    with torch.no_grad():
        for weight in build_model(base).parameters():
            weight.fill_(7)
    again = open_run(run, "r").weights
    assert all(not (base.weights[name] == 7).all() for name in base.weights)
    assert all(torch.equal(base.weights[name], again[name]) for name in again)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
def test_float32_weights_are_used_where_they_lie_in_the_file(run: RunDir) -> None:
    weights = open_run(run, "r").weights
    file = str(checkpoint_path(run, "best") / "model.safetensors")
    mapped = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if file in line]
    spans = [range(int(begin, 16), int(end, 16)) for begin, end in mapped]
    assert [name for name in weights if not any(weights[name].data_ptr() in span for span in spans)] == []
