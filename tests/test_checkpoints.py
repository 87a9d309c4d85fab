from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

import pytest
import torch

from gptcli.checkpoints import (
    FILES,
    TrainState,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    load_model,
    load_weights,
    readable_checkpoint,
    run_weights,
    save_checkpoint,
)
from gptcli.config import ModelConfig, RunProfile
from gptcli.errors import FormatError, RunError
from gptcli.model import GPT
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
    path = latest_checkpoint(trained)
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
        latest_checkpoint(trained)


def test_an_unknown_version_of_the_state_is_refused(trained: RunDir) -> None:
    from gptcli.files import sha256_file

    path = checkpoint_path(trained, "latest")
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format_version": 99}))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.json"] = {
        "bytes": (path / "state.json").stat().st_size,
        "sha256": sha256_file(path / "state.json"),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
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
    (run.checkpoints_path / ".step_000001.x.tmp").mkdir(parents=True)
    for step in (999_999, 1_000_000, 1_000_001):
        save_checkpoint(run, model.state_dict(), {}, TrainState(step=step), best=False, keep=1)
    assert sorted(p.name for p in run.checkpoints_path.iterdir()) == ["latest", "step_1000000", "step_1000001"]


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


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x04
    file.write_bytes(content)


def save_filled(run: RunDir, step: int, *, best: bool = True, keep: int = 9) -> Path:
    """Save a checkpoint whose every weight is the step's number."""
    tensors = {name: torch.full_like(tensor, step) for name, tensor in GPT(MODEL).state_dict().items()}
    return save_checkpoint(run, tensors, {}, TrainState(step=step), best=best, keep=keep)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "missing"])
def test_in_place_of_a_damaged_checkpoint_the_newest_whole_one_is_read_and_said(
    tmp_path: Path, name: str, gone: bool
) -> None:
    run, notices = RunDir(tmp_path / "run"), list[str]()
    for step in (1, 2, 3, 4, 5):
        path = save_filled(run, step, best=step == 3)
        if step in (3, 5):
            (path / name).unlink() if gone else flip(path / name)
    found = readable_checkpoint(run, "best", notices.append)
    assert (found.state.step, float(found.model["wte.weight"][0, 0])) == (4, 4)
    assert len(notices) == 1
    assert str(Path("step_000003") / name) in notices[0]
    assert "The checkpoint of step 4 takes its place." in notices[0]
    with pytest.raises(FormatError, match="step_000003"):
        readable_checkpoint(run, "best")
    with pytest.raises(FormatError, match="step_000003"):
        run_weights(run, "best")


def test_a_whole_checkpoint_is_read_without_a_word_whatever_lies_beside_it(tmp_path: Path) -> None:
    run, notices = RunDir(tmp_path / "run"), list[str]()
    for step in (1, 2, 3):
        flip(save_filled(run, step, best=step == 1) / "optimizer.safetensors")
    flip(run.checkpoints_path / "step_000003" / "model.safetensors")
    assert readable_checkpoint(run, "best", notices.append).state.step == 1
    assert not notices


def test_a_pointer_to_nothing_is_named_and_the_newest_whole_checkpoint_read(tmp_path: Path) -> None:
    run, notices = RunDir(tmp_path / "run"), list[str]()
    for step in (1, 2):
        save_filled(run, step)
    (run.checkpoints_path / "best").write_text("step_000007\n")
    assert readable_checkpoint(run, "best", notices.append).state.step == 2
    assert "it points at 'step_000007'" in notices[0]
    with pytest.raises(FormatError, match="it points at 'step_000007'"):
        readable_checkpoint(run, "best")


def test_without_any_whole_checkpoint_the_first_problem_is_told_with_what_is_left_to_do(trained: RunDir) -> None:
    for path in trained.checkpoints_path.glob("step_*"):
        flip(path / "model.safetensors")
    best = checkpoint_path(trained, "best").name
    with pytest.raises(FormatError, match=f"{best}.*damaged") as caught:
        readable_checkpoint(trained, "best", lambda _: None)
    assert caught.value.hint.endswith("gptcli train tiny")
    with pytest.raises(RunError, match="has no checkpoint yet"):
        readable_checkpoint(RunDir(trained.path.parent / "none"), "best", lambda _: None)


def test_checkpoints_are_read_while_training_writes_and_prunes_them(tmp_path: Path) -> None:
    run, notices = RunDir(tmp_path / "run"), list[str]()
    save_filled(run, 1)
    writer = threading.Thread(target=lambda: [save_filled(run, step, keep=0) for step in range(2, 60)])
    writer.start()
    seen = []
    while writer.is_alive():
        found = readable_checkpoint(run, "best", notices.append)
        assert all((tensor == found.state.step).all() for tensor in found.model.values())
        seen.append(found.state.step)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert not notices
