"""A finetune begins from given weights, trains what it should, stops and goes on exactly, and is self-contained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptcli.bases.base import Base, build_model
from gptcli.checkpoint_folders import pointed
from gptcli.checkpoints import load_checkpoint
from gptcli.config import RunProfile
from gptcli.device import Setup, detect
from gptcli.errors import CorpusError, DeviceError, ProfileError, RunError
from gptcli.evaluate import evaluate
from gptcli.events import CheckpointSaved, Evaluated, Notice, RunFinished, RunStarted, StepLogged
from gptcli.files import sha256_file, write_json
from gptcli.finetune import choose_frozen_dtype, create_finetune, settle_profile
from gptcli.metrics import base_val_loss
from gptcli.profiles import build_profile
from gptcli.restore import run_weights
from gptcli.runs import RunDir
from gptcli.shards import TokenDataset
from gptcli.tokenizer import CharTokenizer, byte_lengths
from gptcli.trainer import Trainer
from tests.training import checkpoint_bytes, finish, interrupt, metrics

LORA = ("lora_rank=2", "lora_dropout=0.2")
Create = Callable[..., RunDir]
MakeBase = Callable[..., Base]
MakeProfile = Callable[..., RunProfile]


@pytest.mark.parametrize("family", ["gpt2", "modern"])
@pytest.mark.parametrize(
    "overrides",
    [
        LORA,
        ("dropout=0.2",),
        ("dropout=0.2", "gradient_checkpointing=true", "grad_accum_steps=2"),
        (*LORA, "dropout=0.1", "gradient_checkpointing=true", "optimizer=adamw", "block_size=16", "train.dtype=auto"),
        ("freeze_embeddings=true", "optimizer=adamw"),
        (*LORA, "freeze_embeddings=false", "optimizer=adamw"),
    ],
    ids=["lora", "full", "full-checkpointing", "lora-checkpointing", "frozen-embeddings", "lora-and-embeddings"],
)
def test_an_interrupted_and_resumed_finetune_is_the_uninterrupted_one_bit_for_bit(
    new_finetune: Create, overrides: tuple[str, ...], family: str
) -> None:
    whole, parts = new_finetune("whole", *overrides, family=family), new_finetune("parts", *overrides, family=family)
    finish(whole)
    assert interrupt(parts, 0)[-1].step == 0, "stopped before the base is evaluated"
    assert interrupt(parts, 7)[-1].step == 7
    finish(parts)
    assert checkpoint_bytes(parts) == checkpoint_bytes(whole)
    assert metrics(parts) == metrics(whole)


@pytest.mark.parametrize("overrides", [("dropout=0.2",), ("dropout=0.1", *LORA)], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing_but_memory(new_finetune: Create, overrides: tuple[str, ...]) -> None:
    kept, again = new_finetune("kept", *overrides), new_finetune("again", *overrides, "gradient_checkpointing=true")
    finish(kept)
    finish(again)
    assert checkpoint_bytes(kept) == checkpoint_bytes(again)


def test_the_first_row_is_the_base_before_any_training(
    new_finetune: Create, tiny_dataset: TokenDataset, make_base: MakeBase
) -> None:
    run = new_finetune("r", "learning_rate=0.01")
    events = finish(run)
    first = next(event for event in events if isinstance(event, Evaluated))
    assert first.step == 0
    assert [event.step for event in events if isinstance(event, Evaluated)] == [0, 4, 8, 12]
    assert next(event.step for event in events if isinstance(event, CheckpointSaved)) == 0
    model = build_model(make_base())
    setup = Setup(torch.device("cpu"), torch.float32, compile=False, reason="")
    direct = evaluate(model, tiny_dataset.val, byte_lengths(tiny_dataset.tokenizer()), setup)
    assert first.val_loss == direct.val_loss
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert last.base_val_loss == first.val_loss == base_val_loss(run.metrics_path)
    assert last.best_val_loss is not None
    assert last.best_val_loss < first.val_loss - 0.02, "it learns"


def test_a_finetune_carries_the_index_of_what_it_is_tuned_on(new_finetune: Create, tiny_dataset: TokenDataset) -> None:
    index = new_finetune("r").path / "ngrams.bin"
    assert index.read_bytes() == (tiny_dataset.folder / "ngrams.bin").read_bytes()


def test_a_resumed_run_still_knows_what_it_began_from(new_finetune: Create) -> None:
    run = new_finetune("r")
    interrupt(run, 6)
    last = finish(run)[-1]
    assert isinstance(last, RunFinished)
    assert last.base_val_loss == base_val_loss(run.metrics_path) is not None


def test_a_shorter_block_size_keeps_the_first_positions(new_finetune: Create, make_base: MakeBase) -> None:
    weights, step = run_weights(new_finetune("r", "block_size=16"), "latest")
    assert step == 0
    assert torch.equal(weights["wpe.weight"], make_base().weights["wpe.weight"][:16])


@pytest.mark.parametrize("overrides", [LORA, ("freeze_embeddings=true",), ()], ids=["lora", "embeddings", "full"])
def test_a_new_run_has_the_weights_of_its_base_and_says_which(
    new_finetune: Create, overrides: tuple[str, ...], make_base: MakeBase
) -> None:
    run = new_finetune("r", *overrides)
    weights, _ = run_weights(run)
    expected = make_base().weights
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    base = run.base()
    assert base is not None
    assert {key: base[key] for key in ("name", "kind", "origin", "notes")} == {
        "name": "tiny-base", "kind": "folder", "origin": {"path": "somewhere"}, "notes": ["A note."],
    }  # fmt: skip
    assert list(base["files"]) == (["model.safetensors"] if overrides else [])
    profile = run.profile()
    assert profile.finetune.base == "tiny-base"
    assert profile.model == make_base().config


def test_bfloat16_weights_with_float32_products_are_refused(
    new_finetune: Create, tmp_path: Path, finetune_profile: MakeProfile
) -> None:
    with pytest.raises(ProfileError, match="frozen_dtype is bfloat16, but the products are float32 here"):
        new_finetune("r", *LORA, "frozen_dtype=bfloat16")
    assert not (tmp_path / "runs" / "r").exists()
    wide = Setup(torch.device("cpu"), torch.float32, compile=False, reason="")
    narrow = Setup(torch.device("cpu"), torch.bfloat16, compile=False, reason="")
    assert [choose_frozen_dtype(finetune_profile(), setup) for setup in (wide, narrow)] == ["float32", "bfloat16"]
    assert choose_frozen_dtype(finetune_profile("frozen_dtype=float32"), narrow) == "float32"


def test_everything_that_does_not_fit_the_weights_is_said_at_once(
    make_base: MakeBase, finetune_profile: MakeProfile
) -> None:
    profile = finetune_profile(
        "n_layer=3", "n_embd=32", "n_head=2", "block_size=64", "lora_rank=2", "lora_targets=c_attn"
    )
    with pytest.raises(ProfileError) as caught:
        settle_profile(profile, "tiny-base", make_base().config)
    assert caught.value.problems[:3] == (
        "model.n_embd is 32, tiny-base has 16",
        "model.n_layer is 3, tiny-base has 2",
        (
            "model.block_size is 64, tiny-base has 32 and no embedding for later positions; "
            "the most is --set block_size=32"
        ),
    )
    assert "c_attn (attn.qkv here)" in caught.value.problems[3]
    assert len(caught.value.problems) == 4


def test_settling_twice_is_settling_once(make_base: MakeBase, finetune_profile: MakeProfile) -> None:
    once = settle_profile(finetune_profile("block_size=16", "dropout=0.3"), "b", make_base().config)
    assert (once.model.block_size, once.model.dropout, once.model.n_layer) == (16, 0.3, 2)
    assert settle_profile(once, "b", make_base().config) == once
    same_in_other_words = finetune_profile("family=gpt2", "n_head=2", "head_dim=8", "n_embd=16", "n_inner=64")
    assert settle_profile(same_in_other_words, "b", make_base().config).model == make_base().config


def test_a_modern_base_refuses_a_longer_block_size_too(make_base: MakeBase, finetune_profile: MakeProfile) -> None:
    with pytest.raises(ProfileError, match="has 32 and has never seen later positions"):
        settle_profile(finetune_profile("block_size=33"), "b", make_base("modern").config)


def test_tokens_of_another_tokenizer_are_refused(
    tiny_dataset: TokenDataset, tmp_path: Path, make_base: MakeBase, finetune_profile: MakeProfile
) -> None:
    base = make_base()
    other = Base(base.name, base.kind, base.config, CharTokenizer("abc", end_of_text=True), base.weights)
    with pytest.raises(CorpusError, match="tiny-base has its own tokenizer") as caught:
        create_finetune(finetune_profile(), other, profile_name="t", dataset=tiny_dataset, runs_dir=tmp_path / "runs")
    assert "gptcli finetune tiny --from tiny-base" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tiny_dataset: TokenDataset, tmp_path: Path, make_base: MakeBase, finetune_profile: MakeProfile
) -> None:
    with pytest.raises(DeviceError):
        create_finetune(
            finetune_profile(), make_base(), profile_name="t", dataset=tiny_dataset, runs_dir=tmp_path / "runs",
            device="cuda:99",
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_an_error_that_leaves_nothing(
    tiny_dataset: TokenDataset, tmp_path: Path, make_base: MakeBase, finetune_profile: MakeProfile
) -> None:
    (tmp_path / "runs").write_text("a file", "utf-8")
    with pytest.raises(RunError, match=r"runs/r: the run cannot be created \(.*(directory|exists)"):
        create_finetune(
            finetune_profile(), make_base(), profile_name="t", dataset=tiny_dataset, runs_dir=tmp_path / "runs",
            name="r",
        )  # fmt: skip
    assert (tmp_path / "runs").read_text("utf-8") == "a file"


def test_names_are_those_of_runs_and_an_existing_one_is_refused(
    new_finetune: Create, tiny_dataset: TokenDataset, tmp_path: Path, make_base: MakeBase, finetune_profile: MakeProfile
) -> None:
    new_finetune("r")
    with pytest.raises(RunError, match="'r' exists already"):
        new_finetune("r")
    unnamed = create_finetune(
        finetune_profile(), make_base(), profile_name="tune", dataset=tiny_dataset, runs_dir=tmp_path / "runs"
    )
    assert unnamed.name == "tiny-tune"


def test_creating_a_run_leaves_the_random_state_alone(new_finetune: Create, make_base: MakeBase) -> None:
    make_base()  # draws from torch's generator, seeded
    before = torch.get_rng_state()
    first, other = new_finetune("r", *LORA), new_finetune("s", *LORA, "train.seed=5")
    assert torch.equal(torch.get_rng_state(), before)
    drawn = [run_weights_of_start(run)["blocks.0.attn.qkv.lora_a"] for run in (first, other)]
    assert not torch.equal(*drawn), "from the profile's seed"


def run_weights_of_start(run: RunDir) -> dict[str, torch.Tensor]:
    return load_checkpoint(run.checkpoints_path / "step_000000").model


def test_the_header_knows_what_is_trained(new_finetune: Create) -> None:
    full, lora = finish(new_finetune("full"))[0], finish(new_finetune("lora", *LORA))[0]
    assert isinstance(full, RunStarted)
    assert isinstance(lora, RunStarted)
    assert (full.base, full.trained_params) == ("tiny-base", None)
    per_block = 2 * (16 + 48) + 2 * (16 + 16) + 2 * (16 + 64) + 2 * (64 + 16)
    assert (lora.n_params, lora.trained_params) == (full.n_params, 2 * per_block)


def test_a_run_that_no_longer_gets_better_ends_early_and_can_go_on(new_finetune: Create) -> None:
    rates = ("learning_rate=9", "muon_learning_rate=9", "max_steps=40", "warmup_steps=0")
    run = new_finetune("r", *rates, "patience=2")
    events = finish(run)
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert (last.reason, last.step, last.best_step) == ("stopped_early", 8, 0)
    assert pointed(run, "latest") == run.checkpoints_path / "step_000008"
    again = finish(run)
    assert [type(event) for event in again] == [RunStarted, RunFinished]
    assert isinstance(again[0], RunStarted)
    assert again[0].stopped_early
    assert again[-1].reason == "stopped_early"  # type: ignore[union-attr]
    more = build_profile(run.profile().model_dump(mode="json"), ["patience=0"])
    whole = new_finetune("whole", *rates)
    finish(whole)
    assert finish(run, profile=more)[-1].reason == "completed"  # type: ignore[union-attr]
    assert checkpoint_bytes(run) == checkpoint_bytes(whole)


def test_patience_counts_evaluations_whatever_lies_between_them(new_finetune: Create) -> None:
    rates = ("learning_rate=9", "muon_learning_rate=9", "max_steps=40", "warmup_steps=0")
    run = new_finetune("r", *rates, "patience=2", "eval_interval=6")
    interrupt(run, 11)  # one evaluation since the best at step 0
    denser = build_profile(run.profile().model_dump(mode="json"), ["eval_interval=2"])
    last = finish(run, profile=denser)[-1]
    assert isinstance(last, RunFinished)
    assert (last.reason, last.step, last.best_step) == ("stopped_early", 12, 0)


def test_a_state_of_before_patience_was_counted_is_read(new_finetune: Create) -> None:
    run = new_finetune("r")
    finish(run)
    path = pointed(run, "latest")
    assert path is not None
    whole = load_checkpoint(path).state
    value = json.loads((path / "state.json").read_bytes())
    del value["evaluations_since_best"]
    write_json(path / "state.json", value)
    facts = {"bytes": (path / "state.json").stat().st_size, "sha256": sha256_file(path / "state.json")}
    manifest = json.loads((path / "manifest.json").read_bytes())
    write_json(path / "manifest.json", {**manifest, "files": {**manifest["files"], "state.json": facts}})
    assert load_checkpoint(path).state == replace(whole, evaluations_since_best=0)
    assert [type(event) for event in finish(run)] == [RunStarted, RunFinished]


def test_a_base_whose_val_loss_is_no_number_is_named(
    tiny_dataset: TokenDataset, tmp_path: Path, make_base: MakeBase, finetune_profile: MakeProfile
) -> None:
    base = make_base()
    base.weights["blocks.0.norm1.weight"][3] = torch.nan
    run = create_finetune(
        finetune_profile(), base, profile_name="t", dataset=tiny_dataset, runs_dir=tmp_path / "runs", name="r"
    )
    with pytest.raises(RunError, match="tiny-base: its val_loss before any training is nan in float32") as caught:
        finish(run)
    assert f"delete {run.path}" in caught.value.hint
    assert "dtype=float32" not in caught.value.hint
    narrow = build_profile(run.profile().model_dump(mode="json"), ["train.dtype=bfloat16"])
    with pytest.raises(RunError) as caught:
        finish(run, profile=narrow)
    assert "--set dtype=float32" in caught.value.hint


def test_a_run_that_gets_better_uses_its_steps(new_finetune: Create) -> None:
    last = finish(new_finetune("r", "learning_rate=0.01", "patience=1"))[-1]
    assert isinstance(last, RunFinished)
    assert (last.reason, last.step) == ("completed", 12)


def test_a_batch_in_which_nothing_is_scored_leaves_the_weights_alone(new_finetune: Create) -> None:
    from gptcli.batches import Batch

    trainer = Trainer(new_finetune("r"))
    trainer.update()
    take = trainer.batches.next_batch

    def unscored(rank: int = 0, world_size: int = 1) -> Batch:
        batch = take(rank, world_size)
        return Batch(batch.inputs, batch.targets * 0 - 1)

    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    seen = trainer.state.tokens_seen
    trainer.batches.next_batch = unscored  # type: ignore[method-assign]
    trainer.update()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    assert (trainer.state.step, trainer.state.skipped_steps, trainer.state.tokens_seen) == (2, 0, seen)
    assert trainer.report().train_loss < 10
    trainer.batches.next_batch = take  # type: ignore[method-assign]
    trainer.update()
    assert not torch.equal(trainer.model.wte.weight, before["wte.weight"])


def test_a_finetune_of_a_finetune_begins_where_that_ended(
    new_finetune: Create, tiny_dataset: TokenDataset, tmp_path: Path, finetune_profile: MakeProfile
) -> None:
    first = new_finetune("first", *LORA, "learning_rate=0.05")
    finish(first)
    weights, step = run_weights(first, "latest")
    base = Base("first", "run", first.profile().model, first.tokenizer(), weights, {"step": step})
    second = create_finetune(
        finetune_profile("lora_rank=1"),
        base,
        profile_name="t",
        dataset=tiny_dataset,
        runs_dir=tmp_path / "runs",
        name="b",
    )
    merged, _ = run_weights(second)
    assert all(torch.equal(merged[name], weights[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from inside its compiler
@pytest.mark.skipif(not detect().compiler, reason="needs a C++ compiler")
def test_a_compiled_finetune_has_the_losses_of_an_eager_one(new_finetune: Create) -> None:
    torch.compiler.reset()
    overrides = ("lora_rank=2", "gradient_checkpointing=true", "train.dtype=bfloat16")
    eager = finish(new_finetune("eager", *overrides, "compile=false"))
    compiled = finish(new_finetune("compiled", *overrides, "compile=true"))
    assert not [event for event in compiled if isinstance(event, Notice)]
    losses = [[event.train_loss for event in events if isinstance(event, StepLogged)] for events in (eager, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
