from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch

from gptcli.checkpoint_folders import pointed
from gptcli.checkpoints import (
    FILES,
    TrainState,
    checkpoint_path,
    load_checkpoint,
    load_state,
    load_weights,
    save_checkpoint,
)
from gptcli.config import ModelConfig, RunProfile
from gptcli.errors import FormatError, RunError
from gptcli.files import write_json
from gptcli.model import GPT
from gptcli.restore import load_model
from gptcli.runs import RunDir, create_run
from gptcli.shards import TokenDataset
from gptcli.train import train

MODEL = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=30)


@pytest.fixture
def trained(tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> RunDir:
    run = create_run(tiny_profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=tmp_path / "runs", name="r")
    with contextlib.closing(train(run)) as events:
        list(events)
    return run


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    run, model = RunDir(tmp_path / "run"), GPT(MODEL)
    state = TrainState(step=7, tokens_seen=70, best_val_loss=1.5, loss_sum=0.1)
    path = save_checkpoint(run, model.state_dict(), {"rng.cpu": torch.get_rng_state()}, state, best=True, keep=0)
    back = load_checkpoint(path)
    assert back.state == state
    assert all(torch.equal(back.model[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(back.optimizer["rng.cpu"], torch.get_rng_state())


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    model = GPT(MODEL)
    a, b = (
        save_checkpoint(
            RunDir(tmp_path / name),
            model.state_dict(),
            {"rng.cpu": torch.get_rng_state()},
            TrainState(step=1),
            best=False,
            keep=0,
        )
        for name in "ab"
    )
    assert [(a / f).read_bytes() for f in (*FILES, "manifest.json")] == [
        (b / f).read_bytes() for f in (*FILES, "manifest.json")
    ]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_any_flipped_byte_is_noticed_and_the_file_named(trained: RunDir, name: str) -> None:
    path = pointed(trained, "latest")
    assert path is not None
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 0x04
    (path / name).write_bytes(content)
    with pytest.raises(FormatError, match=r"step_000012"):
        load_checkpoint(path)


def test_a_model_is_read_without_its_optimizer(trained: RunDir) -> None:
    path = checkpoint_path(trained, "best")
    (path / "optimizer.safetensors").unlink()
    assert load_model(trained)[2] == int(path.name[5:])


def test_a_missing_file_and_a_missing_checkpoint_are_named(trained: RunDir, tmp_path: Path) -> None:
    path = checkpoint_path(trained, "latest")
    (path / "optimizer.safetensors").unlink()
    with pytest.raises(FormatError, match=r"optimizer\.safetensors: this file of the checkpoint is missing"):
        load_checkpoint(path)
    with pytest.raises(RunError, match="has no checkpoint yet"):
        checkpoint_path(RunDir(tmp_path / "empty"), "best")


def test_a_pointer_never_leads_out_of_the_run(trained: RunDir) -> None:
    (trained.checkpoints_path / "latest").write_text("../../elsewhere\n")
    with pytest.raises(FormatError, match="not a checkpoint of this run"):
        pointed(trained, "latest")


def test_an_unknown_version_of_the_state_is_refused(trained: RunDir) -> None:
    from gptcli.files import sha256_file

    path = checkpoint_path(trained, "latest")
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "checksum": None, "format_version": 99}))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.json"] = {
        "bytes": (path / "state.json").stat().st_size,
        "sha256": sha256_file(path / "state.json"),
    }
    (path / "manifest.json").write_text(json.dumps({**manifest, "checksum": None}))
    with pytest.raises(FormatError, match="format_version 99"):
        load_checkpoint(path)


def test_only_latest_best_and_those_asked_for_are_kept(tmp_path: Path) -> None:
    run, model = RunDir(tmp_path / "run"), GPT(MODEL)
    for step in range(1, 8):
        save_checkpoint(run, model.state_dict(), {}, TrainState(step=step), best=step == 2, keep=2)
    assert sorted(p.name for p in run.checkpoints_path.glob("step_*")) == [f"step_00000{n}" for n in (2, 5, 6, 7)]
    assert checkpoint_path(run, "best").name == "step_000002"


def test_what_killed_saves_left_is_cleared_away_and_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    run, model = RunDir(tmp_path / "run"), GPT(MODEL)
    for name in (".step_000001.abcdefg1.tmp", ".step_000001.abcdefg1.old", ".git", "step_000001-mine"):
        (run.checkpoints_path / name).mkdir(parents=True)
    (run.checkpoints_path / ".latest.abcdefg1.tmp").touch()
    (run.checkpoints_path / ".notes").touch()
    for step in (999_999, 1_000_000, 1_000_001):
        save_checkpoint(run, model.state_dict(), {}, TrainState(step=step), best=False, keep=1)
    others = [".git", ".notes", "latest", "step_000001-mine"]
    assert sorted(p.name for p in run.checkpoints_path.iterdir()) == [*others, "step_1000000", "step_1000001"]


@pytest.mark.skipif(os.name == "nt", reason="permissions")
def test_a_checkpoint_can_be_read_by_whoever_may_read_the_run(tmp_path: Path) -> None:
    path = save_checkpoint(RunDir(tmp_path), GPT(MODEL).state_dict(), {}, TrainState(step=1), best=False, keep=0)
    (tmp_path / "plain").touch()
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {usual}


def test_checkpoints_of_a_way_that_was_left_are_pruned_before_older_ones(tmp_path: Path) -> None:
    run, model = RunDir(tmp_path / "run"), GPT(MODEL)
    for step in (2, 4, 6, 8):
        save_checkpoint(run, model.state_dict(), {}, TrainState(step=step), best=False, keep=9)
    save_checkpoint(run, model.state_dict(), {}, TrainState(step=7), best=False, keep=1, follows=4)
    assert sorted(p.name for p in run.checkpoints_path.glob("step_*")) == ["step_000004", "step_000007"]


@pytest.mark.parametrize("old", [".step_000009.abcdefg1.old", ".step_x.old"])
def test_no_link_lets_a_run_take_the_checkpoints_of_another(tmp_path: Path, old: str) -> None:
    victim, run, model = RunDir(tmp_path / "victim"), RunDir(tmp_path / "run"), GPT(MODEL)
    save_checkpoint(victim, model.state_dict(), {}, TrainState(step=9), best=False, keep=9)
    run.checkpoints_path.mkdir(parents=True)
    (run.checkpoints_path / old).symlink_to(victim.checkpoints_path, target_is_directory=True)
    (run.checkpoints_path / "step_000003").symlink_to(victim.checkpoints_path / "step_000009")
    save_checkpoint(run, model.state_dict(), {}, TrainState(step=10), best=False, keep=0)
    assert sorted(p.name for p in victim.checkpoints_path.iterdir()) == ["latest", "step_000009"]
    load_checkpoint(victim.checkpoints_path / "step_000009")


@pytest.mark.parametrize(
    ("key", "value"),
    [("step", "3"), ("step", 4), ("epoch", -1), ("loss_sum", "x"), ("best_val_loss", []), ("lowered_rates", [1, "x"])],
)
def test_a_state_that_cannot_be_is_named(tmp_path: Path, key: str, value: object) -> None:
    run, model = RunDir(tmp_path / "run"), GPT(MODEL)
    path = save_checkpoint(run, model.state_dict(), {}, TrainState(step=3), best=False, keep=0)
    state = json.loads((path / "state.json").read_text("utf-8"))
    write_json(path / "state.json", {**state, key: value})
    with pytest.raises(FormatError, match=r"state\.json: the state of a checkpoint is"):
        load_state(path)


def test_the_best_model_is_loaded_ready_to_write(trained: RunDir) -> None:
    model, tokenizer, step = load_model(trained)
    assert not model.training
    assert step in (4, 8, 12)
    assert model.config.vocab_size == tokenizer.vocab_size


def test_weights_of_another_model_are_listed(tmp_path: Path) -> None:
    tensors = dict(GPT(MODEL).state_dict())
    tensors["wte.weight"] = torch.zeros(3, 3)
    tensors["more.weight"] = tensors.pop("norm.weight")
    with pytest.raises(FormatError) as caught:
        load_weights(GPT(MODEL), tensors, "x.safetensors")
    for fragment in ("missing norm.weight", "unexpected more.weight", "wte.weight is (3, 3), the model has (30, 16)"):
        assert fragment in caught.value.message
    assert "put back what was trained" in caught.value.hint
