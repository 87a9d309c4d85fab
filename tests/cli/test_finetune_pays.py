"""What finetuning is for: a model of the Python documentation learns a novel better than an empty one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import run_cli

STEPS = ("--set", "max_steps=160", "--set", "schedule=wsd", "--set", "patience=0", "--set", "eval_interval=160")
SAME = (*STEPS, "--set", "sample_interval=0", "--set", "batch_size=12", "--device", "cpu", "--quiet", "--json")
SHAPE = ("--set", "n_layer=2", "--set", "n_head=2", "--set", "n_embd=96", "--set", "block_size=64")
LORA = ("--set", "lora_rank=48", "--set", "freeze_embeddings=false", "--set", "optimizer=adamw")


def result(folder: Path, *args: str) -> dict[str, Any]:
    done = run_cli(folder, *args)
    assert done.code == 0, done.stderr
    return done.json()


@pytest.mark.slow
def test_novel_is_learned_faster_from_the_python_docs_than_from_nothing_and_as_well_by_adapters(
    tmp_path: Path, shared_data: Path
) -> None:
    novel = shared_data / "gutenberg" / "863-0.txt"
    assert run_cli(tmp_path, "fetch", str(novel), "--name", "novel").code == 0
    base = ("--profile", "quickstart", *SHAPE, *SAME, "--set", "max_steps=400", "--run", "base")
    result(tmp_path, "train", "python-docs", *base)
    tune = ("finetune", "novel", "--from", "base", "--profile", "finetune-small", *SAME)
    full = result(tmp_path, *tune, "--set", "learning_rate=0.002", "--set", "muon_learning_rate=0.01")
    lora = result(tmp_path, *tune, *LORA, "--set", "learning_rate=0.004")
    tokens = json.loads((Path(tmp_path) / full["folder"] / "dataset.json").read_bytes())["folder"]
    scratch = result(tmp_path, "train", tokens, "--profile", "quickstart", *SHAPE, *SAME, "--run", "scratch")
    assert full["base_val_loss"] == pytest.approx(lora["base_val_loss"], rel=0.01)
    assert full["best_val_loss"] < 0.7 * full["base_val_loss"]
    assert full["best_val_loss"] < 0.98 * scratch["best_val_loss"]
    assert lora["best_val_loss"] < 1.03 * full["best_val_loss"]
