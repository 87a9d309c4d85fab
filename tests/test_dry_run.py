from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptcli.bases.opening import BaseFacts
from gptcli.config import FinetuneConfig, ModelConfig, RunProfile, TrainConfig
from gptcli.dry_run import memory_facts, memory_warning, plan_finetune, plan_training
from gptcli.finetune import settle_profile
from gptcli.memory import machine_memory
from gptcli.places import place_here
from gptcli.shards import TokenDataset

XL = ModelConfig(family="gpt2", n_layer=48, n_head=25, n_embd=1600, block_size=1024, vocab_size=50_257, bias=True)
CPU = TrainConfig(device="cpu", batch_size=1, optimizer="adamw", compile=False)


def test_a_dry_run_tells_the_facts_and_writes_nothing(
    tiny_dataset: TokenDataset, tiny_profile: RunProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    facts = plan_training(tiny_profile, tiny_dataset, place_here(tiny_profile.train))
    assert facts["tokens_seen"] == 12 * 4 * 16
    assert facts["epochs"] == pytest.approx(12 * 4 * 16 / len(tiny_dataset.train))
    assert facts["device"] == "cpu"
    assert facts["profile"]["model"]["vocab_size"] == tiny_dataset.manifest.vocab_size
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - hidden files count


def test_a_finetune_is_planned_from_the_shape_of_its_base_alone() -> None:
    base = BaseFacts("gpt2-xl", XL, 6_431_829_964, "float32", "to be downloaded")
    settled = settle_profile(RunProfile(train=CPU), base.name, base.config)
    whole = plan_finetune(settled, base, "book")
    assert (whole["n_params"], whole["trained_params"]) == (1_557_611_200, 1_557_611_200)
    assert whole["memory_gradients"] == 4 * whole["n_params"]
    assert whole["memory_peak"] > 16 * whole["n_params"]
    adapters = FinetuneConfig(lora_rank=8, frozen_dtype="float32")
    small = plan_finetune(settle_profile(RunProfile(train=CPU, finetune=adapters), "gpt2-xl", XL), base, "book")
    assert small["trained_params"] == 48 * 8 * 1600 * ((1 + 3) + (1 + 1) + (1 + 4) + (4 + 1))
    assert 4 * small["n_params"] < small["memory_peak"] < 0.6 * whole["memory_peak"]
    assert small["run_folder_bytes"] < whole["run_folder_bytes"] / 5
    assert small["download_bytes"] == 6_431_829_964


def test_a_run_larger_than_the_machine_is_warned_of_with_what_would_help() -> None:
    have = machine_memory()
    if have is None:
        pytest.skip("this system does not say how much memory it has")
    huge = XL.model_copy(update={"n_layer": max(48, have // 400_000_000)})
    profile = RunProfile(model=huge, train=CPU.model_copy(update={"batch_size": 4}), finetune=FinetuneConfig(base="x"))
    warning = memory_warning(profile)
    assert warning is not None
    for way in ("finetune.lora_rank=16", "gradient_checkpointing=true", "batch_size=1", "block_size=256"):
        assert f"--set {way}" in warning
    tiny = RunProfile(model=ModelConfig(vocab_size=65), train=CPU)
    assert memory_warning(tiny) is None
    facts = memory_facts(tiny, place_here(CPU))
    assert (facts["machine_memory"], facts["device_memory"]) == (have, None)
