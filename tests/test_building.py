"""A run's model: built from a checkpoint and the frozen base under it, merged for sampling, and never half."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcli.checkpoint_folders import pointed
from gptcli.checkpoints import FILES, load_checkpoint, load_frozen
from gptcli.config import RunProfile
from gptcli.errors import FormatError, RunError
from gptcli.events import Notice, RunFinished, SampleDrawn, TrainEvent
from gptcli.model import GPT
from gptcli.profiles import build_profile
from gptcli.restore import load_model
from gptcli.runs import RunDir
from gptcli.train import train
from gptcli.trainer import Trainer

LORA = ("lora_rank=2", "lora_dropout=0.2")
Create = Callable[..., RunDir]


def finish(run: RunDir, profile: RunProfile | None = None) -> list[TrainEvent]:
    with contextlib.closing(train(run, profile=profile)) as events:
        return list(events)


def test_checkpoints_hold_the_adapters_alone(new_finetune: Create) -> None:
    run = new_finetune("r", *LORA, "optimizer=adamw")
    frozen = (run.base_path / "model.safetensors").read_bytes()
    finish(run)
    path = pointed(run, "latest")
    assert path is not None
    checkpoint = load_checkpoint(path)
    assert all("lora_" in name for name in (*checkpoint.model, *checkpoint.optimizer) if "rng" not in name)
    assert (run.base_path / "model.safetensors").read_bytes() == frozen


def test_the_model_to_sample_is_merged_and_has_the_logits_of_the_trained_one(new_finetune: Create) -> None:
    run = new_finetune("r", *LORA, "learning_rate=0.05")
    finish(run)
    model, _, step = load_model(run, "latest")
    trainer = Trainer(run)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), trainer.model.eval()(tokens), rtol=1e-4, atol=1e-5)
    assert step == 12
    assert set(model.state_dict()) == set(GPT(run.profile().model).state_dict())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_run_is_whole_without_its_base_and_its_corpus(new_finetune: Create, tmp_path: Path) -> None:
    run = new_finetune("r", *LORA)
    finish(run)
    moved = RunDir(tmp_path / "elsewhere" / "r")
    shutil.move(run.path, moved.path)
    assert load_model(moved)[0].n_params() == GPT(moved.profile().model).n_params()


def test_frozen_matrices_are_mapped_in_the_format_of_the_products(new_finetune: Create) -> None:
    run = new_finetune("r", *LORA, "train.dtype=bfloat16", "sample_interval=4")
    stored = load_frozen(run)
    assert stored["blocks.0.mlp.up.weight"].dtype == torch.bfloat16
    assert stored["blocks.0.norm1.weight"].dtype == stored["blocks.0.mlp.up.bias"].dtype == torch.float32
    events = finish(run)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].best_val_loss is not None
    assert any(isinstance(event, SampleDrawn) for event in events)
    assert not any(isinstance(event, Notice) for event in events)
    trainer = Trainer(run)
    assert trainer.model.wte.weight.dtype == torch.bfloat16
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    wider = build_profile(run.profile().model_dump(mode="json"), ["train.dtype=float32", "max_steps=14"])
    assert isinstance(finish(run, profile=wider)[-1], RunFinished), "goes on where the products are float32"


def test_samples_are_drawn_with_trained_embeddings_over_bfloat16_matrices(new_finetune: Create) -> None:
    run = new_finetune("r", *LORA, "freeze_embeddings=false", "train.dtype=bfloat16", "sample_interval=4")
    assert load_frozen(run)["blocks.0.attn.qkv.weight"].dtype == torch.bfloat16
    events = finish(run)
    assert Trainer(run).model.wte.weight.dtype == torch.float32
    assert any(isinstance(event, SampleDrawn) for event in events)


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_a_flipped_byte_of_the_frozen_weights_is_noticed(new_finetune: Create, place: int) -> None:
    run = new_finetune("r", *LORA)
    file = run.base_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    for load in (lambda: load_model(run), lambda: Trainer(run)):
        with pytest.raises(FormatError, match=r"base/model\.safetensors: the frozen weights are damaged"):
            load()


def test_a_base_that_is_gone_is_named(new_finetune: Create) -> None:
    run = new_finetune("r", *LORA)
    (run.base_path / "model.safetensors").unlink()
    with pytest.raises(FormatError, match="the frozen weights of the run are missing"):
        load_model(run)
    (run.base_path / "base.json").write_text('{"format_version": 1, "name": "x"}', "utf-8")
    with pytest.raises(FormatError, match="the base of a run is damaged"):
        load_model(run)
    shutil.rmtree(run.base_path)
    for load in (lambda: load_model(run), lambda: Trainer(run)):
        with pytest.raises(RunError, match="was finetuned from tiny-base, and this file of it is missing"):
            load()


def test_a_finetune_without_checkpoints_is_not_trained_from_scratch(new_finetune: Create) -> None:
    run = new_finetune("r")
    shutil.rmtree(run.checkpoints_path)
    for load in (lambda: load_model(run), lambda: Trainer(run)):
        with pytest.raises(RunError, match="it has no checkpoint any more") as caught:
            load()
        assert "gptcli finetune tiny --from tiny-base" in caught.value.hint


def test_a_checkpoint_of_another_shape_is_listed(new_finetune: Create) -> None:
    run = new_finetune("r", *LORA)
    other = build_profile(run.profile().model_dump(mode="json"), ["lora_rank=3"])
    with pytest.raises(FormatError, match=r"lora_a is \(2, 16\), the model has \(3, 16\)"):
        Trainer(run, None, other)


def test_a_checkpoint_that_is_pruned_while_it_is_open_does_no_harm(new_finetune: Create) -> None:
    run = new_finetune("r", *LORA, "optimizer=adamw")
    finish(run)
    trainer = Trainer(run)
    path = pointed(run, "latest")
    assert path is not None
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    state = {name: tensor.clone() for name, tensor in trainer.updates.optimizer.state_tensors().items()}
    assert len(state) == 3 * 16
    for name in FILES:
        (path / name).write_bytes(b"\0" * (path / name).stat().st_size)
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainer.updates.optimizer.state_tensors().items())
