"""Memory is planned from the profile alone, and agrees with what autograd, the optimizer and the system hold."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity

from gptcli import fused, head, memory_forms
from gptcli import model as network_module
from gptcli.config import FinetuneConfig, ModelConfig, RunProfile, TrainConfig
from gptcli.lora import add_adapters, freeze
from gptcli.memory import FORMAT_BYTES, MemoryPlan, machine_memory, plan_memory, trained_parameters
from gptcli.memory_forms import EVALUATION_LOGITS, EVALUATION_TOKENS, FLOAT32, Forms, block_layers
from gptcli.model import GPT
from gptcli.optim import Optimizer
from gptcli.plan import count_parameters

SHAPES: list[dict[str, Any]] = [
    {"family": "gpt2"},
    {"family": "gpt2", "bias": True, "dropout": 0.1},
    {"family": "modern", "dropout": 0.1},
    {"family": "modern", "n_kv_head": 1},
    {"family": "modern", "n_kv_head": 2, "head_dim": 10, "n_inner": 72, "tie_embeddings": False},
]
# Longer than attention by matrices goes; one sequence, and one head; a vocabulary whose loss is computed by chunks.
LIMITS: list[dict[str, Any]] = [
    {"block_size": 512, "n_layer": 1, "n_kv_head": 2},
    {"block_size": 520, "n_layer": 1, "n_kv_head": 2},
    {"n_head": 1, "head_dim": 16},
    {"vocab_size": 4095},
    {"vocab_size": 4096},
    {"vocab_size": 5000, "tie_embeddings": False},
]
FINETUNES: list[dict[str, Any]] = [
    {},
    {"freeze_embeddings": True},
    {"lora_rank": 4},
    {"lora_rank": 4, "freeze_embeddings": False},
    {"lora_rank": 3, "lora_targets": ["attn.*"]},
    {"lora_rank": 2, "lora_targets": ["mlp.down", "attn.qkv"], "lora_dropout": 0.1},
]
FAMILIES = ("gpt2", "modern")
MODERN_KEYS = ("n_kv_head", "head_dim", "tie_embeddings")
# Large enough that the worst moment is in a block's MLP, in its T x T matrices, at the logits, or in their chunks.
PEAKS: list[dict[str, Any]] = [
    {"family": "gpt2", "n_layer": 4, "n_embd": 64, "block_size": 64},
    {"family": "gpt2", "n_embd": 64, "block_size": 256, "dropout": 0.1},
    {"family": "modern", "n_layer": 4, "n_embd": 64, "block_size": 64},
    {"family": "modern", "n_embd": 64, "block_size": 256, "n_kv_head": 1},
    {"family": "modern", "block_size": 64, "vocab_size": 2000},
    {"family": "gpt2", "block_size": 16, "vocab_size": 20000},
    {"family": "modern", "block_size": 128, "vocab_size": 5000, "tie_embeddings": False},
    {"family": "modern", "block_size": 256, "vocab_size": 30000, "n_layer": 1},
]


def profile(shape: dict[str, Any], finetune: dict[str, Any] | None = None, **train: Any) -> RunProfile:  # noqa: ANN401
    """A tiny profile; a ``finetune`` makes it one of a base."""
    sizes = {"vocab_size": 65, "n_layer": 3, "n_head": 4, "n_embd": 48, "block_size": 32}
    return RunProfile(
        model=ModelConfig(**{**sizes, **shape}),
        train=TrainConfig(**{"batch_size": 2, **train}),
        finetune=FinetuneConfig(**({} if finetune is None else {"base": "a base", **finetune})),
    )


def network(config: RunProfile) -> GPT:
    """The network as a run of this profile trains it."""
    model = GPT(config.model)
    if config.finetune.base is not None:
        if config.finetune.lora_rank:
            add_adapters(model, config.finetune)
        freeze(model, config.finetune)
    model.gradient_checkpointing = config.train.gradient_checkpointing
    return model.train()


def plan(config: RunProfile, dtype: str = "float32", frozen: str = "float32", device: str = "cpu") -> MemoryPlan:
    return plan_memory(config, compute_dtype=dtype, frozen_dtype=frozen, device=device)


def saved_bytes(config: RunProfile, dtype: str) -> int:
    """Bytes that autograd keeps of one forward pass besides weights, each storage once."""
    model, (tokens, targets) = network(config), batch(config)
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), tokens, targets)}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in weights:
            kept[pointer] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), mixed(dtype):
        model(tokens, targets, reduction="sum")
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def planned_bytes(config: RunProfile, dtype: str) -> int:
    """The same as the plan has it: of all logits' three tensors the forward pass keeps one; tokens are the batch's."""
    found, n_tokens = plan(config, dtype), config.train.batch_size * config.model.block_size
    kept_logits = 0 if forms(config, dtype).by_chunks else found.logits // 3
    return found.activations - 2 * 8 * n_tokens + kept_logits


def forms(config: RunProfile, dtype: str) -> Forms:
    return Forms(config, FORMAT_BYTES[dtype], FLOAT32, on_cpu=True)


def batch(config: RunProfile) -> tuple[Tensor, Tensor]:
    """Random tokens and targets of the profile's shape."""
    vocab_size = config.model.vocab_size
    assert vocab_size is not None
    shape = (config.train.batch_size, config.model.block_size)
    return torch.randint(vocab_size, shape), torch.randint(vocab_size, shape)


def mixed(dtype: str) -> contextlib.AbstractContextManager[object]:
    """What a run on a CPU computes its losses in."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch's allocator has given out during ``work`` and not got back."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    recorded: Any = profiler.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: int(event.start_ns())))
    most: int = max(accumulate(sizes))
    return most


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_activations_are_what_autograd_keeps(shape: dict[str, Any], dtype: str) -> None:
    config = profile(shape)
    assert planned_bytes(config, dtype) == pytest.approx(saved_bytes(config, dtype), rel=0.001)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", LIMITS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_change_where_the_computation_does(family: str, shape: dict[str, Any], dtype: str) -> None:
    gpt2 = {name: value for name, value in shape.items() if name not in MODERN_KEYS}
    for batch_size in (1, 2):
        config = profile({"family": family, **(gpt2 if family == "gpt2" else shape)}, batch_size=batch_size)
        assert planned_bytes(config, dtype) == pytest.approx(saved_bytes(config, dtype), rel=0.001)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("finetune", FINETUNES, ids=str)
def test_a_large_vocabulary_keeps_a_gradient_of_the_head_only_where_that_is_trained(
    finetune: dict[str, Any], dtype: str
) -> None:
    for tied in (True, False):
        config = profile({"family": "modern", "vocab_size": 5000, "tie_embeddings": tied}, finetune)
        assert planned_bytes(config, dtype) == pytest.approx(saved_bytes(config, dtype), rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("finetune", [None, {"lora_rank": 4}, {"freeze_embeddings": True}], ids=str)
@pytest.mark.parametrize("shape", PEAKS, ids=str)
def test_the_peak_of_a_training_step_is_planned(
    shape: dict[str, Any], finetune: dict[str, Any] | None, dtype: str
) -> None:
    config = profile(shape, finetune, batch_size=4)
    model, (tokens, targets) = network(config), batch(config)

    def step() -> None:
        with mixed(dtype):
            loss = model(tokens, targets, reduction="sum")
        loss.backward()

    assert forms(config, dtype).backward == pytest.approx(peak_bytes(step), rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("finetune", [None, {"lora_rank": 4}], ids=str)
@pytest.mark.parametrize("shape", PEAKS, ids=str)
def test_the_peak_of_an_evaluation_is_planned(
    shape: dict[str, Any], finetune: dict[str, Any] | None, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_forms, "GAPS_OF_EVALUATION", 0)
    config = profile(shape, finetune, batch_size=4, eval_tokens=4 * shape["block_size"])
    model, (tokens, targets) = network(config).eval(), batch(config)

    @torch.no_grad()
    def score() -> None:
        with mixed(dtype):
            model(tokens, targets, reduction="none")

    assert forms(config, dtype).evaluation == pytest.approx(peak_bytes(score), rel=0.08)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scratch_memory_of_the_head_has_a_limit(dtype: str) -> None:
    few = forms(profile({"vocab_size": 5000}, batch_size=3), dtype)
    assert few.scratch == 3 * 32 * 5000 * FORMAT_BYTES[dtype]
    many = forms(profile({"vocab_size": 50257}, batch_size=500), dtype)
    assert 0.9 * head.SCRATCH_BYTES < many.scratch <= head.SCRATCH_BYTES
    assert forms(profile({"vocab_size": 4095}), dtype).scratch == 0


def test_limits_are_those_of_the_network() -> None:
    assert memory_forms.MATRIX_ATTENTION == fused.MATRIX_ATTENTION
    assert memory_forms.LARGE_VOCABULARY == network_module.LARGE_VOCABULARY
    assert (memory_forms.SCRATCH_BYTES, memory_forms.HEAD_BLOCK) == (head.SCRATCH_BYTES, head.BLOCK)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("finetune", FINETUNES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_of_a_finetune_are_what_autograd_keeps(family: str, finetune: dict[str, Any], dtype: str) -> None:
    config = profile({"family": family}, finetune)
    # The first block's input needs no gradient under LoRA: the copies of its first matrix are not kept.
    assert planned_bytes(config, dtype) == pytest.approx(saved_bytes(config, dtype), rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_keeps_one_input_a_block(family: str) -> None:
    config = profile({"family": family, "n_layer": 6}, gradient_checkpointing=True)
    assert planned_bytes(config, "float32") == pytest.approx(saved_bytes(config, "float32"), rel=0.02)
    assert plan(config).activations < plan(profile({"family": family, "n_layer": 6})).activations / 5


@pytest.mark.parametrize("finetune", FINETUNES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_trained_parameters_are_those_that_require_a_gradient(shape: dict[str, Any], finetune: dict[str, Any]) -> None:
    config = profile(shape, finetune)
    trained = sum(p.numel() for p in network(config).parameters() if p.requires_grad)
    assert trained_parameters(config) == trained
    assert plan(config).gradients == 4 * trained


def test_finetune_keys_count_for_a_finetune_only() -> None:
    config = profile({})
    config = config.model_copy(update={"finetune": FinetuneConfig(lora_rank=4, freeze_embeddings=True)})
    assert trained_parameters(config) == count_parameters(config.model)
    assert "load" not in plan(config).phases


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layers_are_those_of_the_network(shape: dict[str, Any]) -> None:
    config = profile(shape)
    block = network(config).blocks[0]
    linears = [(name, m.in_features, m.out_features) for name, m in block.named_modules() if isinstance(m, nn.Linear)]
    assert [(layer.name, layer.inputs, layer.outputs) for layer in block_layers(config)] == linears


def test_weights_that_are_frozen_count_in_their_own_format() -> None:
    config = profile({}, {"lora_rank": 4})
    total, trained = count_parameters(config.model), trained_parameters(config)
    assert plan(config).weights == 4 * (total + trained)
    assert plan(config, "bfloat16", "bfloat16").weights == 2 * total + 4 * trained


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("finetune", [None, {"lora_rank": 4}], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_optimizer_holds_what_is_planned(
    shape: dict[str, Any], finetune: dict[str, Any] | None, optimizer: str
) -> None:
    config = profile(shape, finetune, optimizer=optimizer)
    model = network(config)
    optimizing = Optimizer(model, config.model, config.train)
    for p in optimizing.parameters.values():
        p.grad = torch.ones_like(p)
    optimizing.step(0, torch.float32)
    state = sum(tensor.nbytes for name, tensor in optimizing.state_tensors().items() if ".step." not in name)
    transient = plan(config).optimizer - state
    assert transient == 0 if optimizer == "adamw" else 0 < transient < 10 * plan(config).gradients


def test_an_evaluation_batch_is_that_of_evaluate() -> None:
    from gptcli import evaluate

    assert (EVALUATION_TOKENS, EVALUATION_LOGITS) == (evaluate.BATCH_TOKENS, evaluate.BATCH_LOGITS)


def test_the_peak_is_that_of_the_worst_phase() -> None:
    many_tokens = plan(profile({"n_layer": 8}, batch_size=512))
    assert many_tokens.peak == max(many_tokens.phases.values())
    assert many_tokens.phases["backward"] > many_tokens.phases["update"]
    # A tiny batch trains in less than it takes to score val, 16,384 tokens at a time.
    one = plan(profile({"n_embd": 256}, batch_size=1))
    assert one.peak == one.phases["evaluate"]
    short = plan(profile({"n_embd": 256}, batch_size=1, eval_tokens=64))
    assert short.phases["evaluate"] < one.phases["evaluate"]


def test_what_should_save_memory_does() -> None:
    shape = {"family": "gpt2", "n_layer": 24, "n_embd": 512, "n_head": 8, "block_size": 512, "vocab_size": 50257}
    whole = plan(profile(shape, {}, batch_size=4))
    assert plan(profile(shape, {}, batch_size=4, gradient_checkpointing=True)).peak < whole.peak
    assert plan(profile(shape, {"lora_rank": 8})).peak < whole.peak
    assert plan(profile(shape, {"freeze_embeddings": True})).peak < whole.peak
    assert plan(profile(shape, {}, batch_size=1)).peak < whole.peak
    lora = profile(shape, {"lora_rank": 8})
    assert plan(lora, "bfloat16", "bfloat16").peak < plan(lora, "bfloat16", "float32").peak


def test_a_gpu_keeps_no_matrices_of_a_long_context() -> None:
    for family in FAMILIES:
        config = profile({"family": family, "block_size": 512, "dropout": 0.1})
        on_gpu = plan(config, "bfloat16", device="cuda:0")
        assert on_gpu.activations < plan(config, "bfloat16").activations
        assert on_gpu.weights == plan(config).weights


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the gaps of the heap are those of glibc")
@pytest.mark.parametrize("case", ["gpt2-char-small"])
def test_a_run_takes_the_memory_that_is_planned(case: str, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "memory.py"
    done = subprocess.run(
        [sys.executable, script, "--case", case, "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(script.parents[1]), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert abs(json.loads(done.stdout)["difference"]) <= 0.15


def test_machine_memory_is_what_the_system_has() -> None:
    found = machine_memory()
    assert found is None or 2**26 < found < 2**50


@pytest.fixture
def unlimited(tmp_path: Path) -> Path:
    """A root with an empty ``proc/self/cgroup``."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n", "utf-8")
    return tmp_path


def limit(root: Path, file: str, text: str) -> None:
    (root / "sys/fs/cgroup" / file).parent.mkdir(parents=True, exist_ok=True)
    (root / "sys/fs/cgroup" / file).write_text(text, "utf-8")


def test_a_container_of_version_2_limits_memory(unlimited: Path) -> None:
    (unlimited / "proc/self/cgroup").write_text("0::/a/b\n", "utf-8")
    limit(unlimited, "a/b/memory.max", "max\n")
    limit(unlimited, "a/memory.max", f"{2**21}\n")
    limit(unlimited, "memory.max", f"{2**22}\n")
    assert machine_memory(unlimited) == 2**21


def test_a_container_that_sees_only_its_own_group_is_limited(unlimited: Path) -> None:
    (unlimited / "proc/self/cgroup").write_text("0::/docker/abc\n", "utf-8")
    limit(unlimited, "memory.max", f"{2**22}\n")
    assert machine_memory(unlimited) == 2**22


def test_a_container_of_version_1_limits_memory(unlimited: Path) -> None:
    (unlimited / "proc/self/cgroup").write_text("9:pids:/x\n4:memory:/x\n0::/\n", "utf-8")
    limit(unlimited, "memory/x/memory.limit_in_bytes", f"{2**23}\n")
    limit(unlimited, "memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert machine_memory(unlimited) == 2**23


def test_no_limit_is_the_machine_whole(unlimited: Path) -> None:
    limit(unlimited, "memory.max", "max\n")
    assert machine_memory(unlimited) == machine_memory(unlimited / "nowhere")
