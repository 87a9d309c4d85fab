"""Adapters: nothing changes at first, only they are trained, and merging gives the same function."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptcli.config import FinetuneConfig, ModelConfig
from gptcli.errors import ProfileError
from gptcli.lora import LoraLinear, add_adapters, freeze, initial_adapters, is_trained, merged
from gptcli.model import GPT, empty_model

MODERN = ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=30)
GPT2 = MODERN.model_copy(update={"family": "gpt2", "bias": True})
SHAPES = pytest.mark.parametrize("config", [MODERN, GPT2], ids=["modern", "gpt2"])
TOKENS = torch.arange(24).view(2, 12) % 30


def random_model(config: ModelConfig, seed: int = 0) -> GPT:
    """A model none of whose weights is zero."""
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return model.eval()


def adapted(model: GPT, tuning: FinetuneConfig) -> dict[str, Tensor]:
    """Give the model adapters as if they had been trained; returns its state dict."""
    add_adapters(model, tuning)
    freeze(model, tuning)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn_like(p) * 0.2)
    return model.state_dict()


@SHAPES
def test_fresh_adapters_change_nothing(config: ModelConfig) -> None:
    model = random_model(config)
    before = model(TOKENS)
    names = add_adapters(model, FinetuneConfig(lora_rank=3))
    assert len(names) == 8
    assert "blocks.1.mlp.down" in names
    assert torch.equal(model(TOKENS), before)
    assert model.state_dict()["blocks.0.attn.qkv.lora_a"].any(), "or it would never learn"
    assert tuple(model.state_dict()["blocks.0.attn.qkv.lora_b"].shape) == (48, 3)


@SHAPES
def test_merged_weights_have_the_logits_of_the_adapted_model(config: ModelConfig) -> None:
    tuning = FinetuneConfig(lora_rank=3, lora_alpha=5.0, lora_targets=("attn.*", "mlp.down"))
    model = random_model(config)
    before = model(TOKENS)
    weights = merged(adapted(model, tuning), tuning)
    plain = empty_model(config)
    assert set(weights) == set(plain.state_dict())
    plain.load_state_dict({name: weights[name] for name in weights}, assign=True)
    assert (model(TOKENS) - before).abs().max() > 0.1
    torch.testing.assert_close(plain.eval()(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-5)


def test_the_adapter_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(1)
    layer = LoraLinear(5, 4, bias=True, rank=2, alpha=6.0, dropout=0.0)
    torch.nn.init.normal_(layer.lora_a)
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 5)
    expected = x @ (layer.weight + 6.0 / 2 * layer.lora_b @ layer.lora_a).T + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_dropout_meets_the_adapter_alone_and_only_in_training() -> None:
    torch.manual_seed(1)
    layer = LoraLinear(50, 4, bias=False, rank=2, alpha=2.0, dropout=0.5)
    torch.nn.init.normal_(layer.lora_a)
    x = torch.randn(3, 50)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight)), "lora_b is zero"
    torch.nn.init.normal_(layer.lora_b)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    ("tuning", "trained"),
    [
        (FinetuneConfig(lora_rank=2, lora_targets=("attn.proj",)), {"blocks.0.attn.proj.lora_a"}),
        (FinetuneConfig(lora_rank=2, freeze_embeddings=False), {"wte.weight", "blocks.0.attn.proj.lora_a"}),
        (FinetuneConfig(freeze_embeddings=True), {"blocks.0.attn.proj.weight", "norm.weight", "head.weight"}),
        (FinetuneConfig(), {"wte.weight", "blocks.0.attn.proj.weight"}),
    ],
    ids=["adapters", "adapters-and-embeddings", "frozen-embeddings", "full"],
)
def test_only_what_is_asked_for_is_trained(tuning: FinetuneConfig, trained: set[str]) -> None:
    model = random_model(MODERN.model_copy(update={"tie_embeddings": False}))
    if tuning.lora_rank:
        add_adapters(model, tuning)
    freeze(model, tuning)
    model(TOKENS, TOKENS).backward()
    moving = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained <= moving
    assert moving == {name for name, _ in model.named_parameters() if is_trained(name, tuning)}
    assert ("wte.weight" in moving) == ("wte.weight" in trained)
    assert ("norm.weight" in moving) == (tuning.lora_rank == 0)


def test_only_the_targets_get_adapters() -> None:
    names = add_adapters(random_model(GPT2), FinetuneConfig(lora_rank=1, lora_targets=("attn.qkv", "*.up")))
    assert names == ["blocks.0.attn.qkv", "blocks.0.mlp.up", "blocks.1.attn.qkv", "blocks.1.mlp.up"]


@pytest.mark.parametrize(
    ("config", "target", "answer"),
    [
        (GPT2, "c_attn", r"matches c_attn \(attn\.qkv here\); there is attn\.qkv, attn\.proj, mlp\.up, mlp\.down"),
        (GPT2, "c_proj", r"c_proj \(attn\.proj or mlp\.down here\)"),
        (MODERN, "self_attn.q_proj", r"self_attn\.q_proj \(attn\.qkv here\)"),
        (MODERN, "up_proj", r"up_proj \(mlp\.gate_up here\); there is attn\.qkv, attn\.proj, mlp\.gate_up, mlp\.down"),
        (MODERN, "down", r"down \(mlp\.down here\)"),
        (MODERN, "mlp.up", r"matches mlp\.up; there is"),
    ],
)
def test_a_target_that_matches_nothing_is_answered_with_what_there_is(
    config: ModelConfig, target: str, answer: str
) -> None:
    model = random_model(config)
    with pytest.raises(ProfileError, match=answer):
        add_adapters(model, FinetuneConfig(lora_rank=2, lora_targets=("attn.qkv", target)))
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_a_model_without_memory_gets_adapters_without_any_and_draws_nothing() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model = empty_model(MODERN)
    add_adapters(model, FinetuneConfig(lora_rank=2))
    assert all(p.is_meta for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    drawn = initial_adapters(model)
    assert all(tensor.dtype == torch.float32 and not tensor.is_meta for tensor in drawn.values())
    bound = drawn["blocks.0.mlp.down.lora_a"].abs().max()
    assert 0.5 * MODERN.inner_width**-0.5 < bound <= MODERN.inner_width**-0.5


def test_merging_is_float32_even_where_the_frozen_matrices_are_not() -> None:
    tuning = FinetuneConfig(lora_rank=2, lora_targets=("mlp.down",))
    state = adapted(random_model(GPT2), tuning)
    narrow = {name: t if "lora" in name or t.dim() < 2 else t.bfloat16() for name, t in state.items()}
    weights = merged(narrow, tuning)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    a, b = state["blocks.0.mlp.down.lora_a"], state["blocks.0.mlp.down.lora_b"]
    expected = narrow["blocks.0.mlp.down.weight"].float() + 2.0 * b @ a
    torch.testing.assert_close(weights["blocks.0.mlp.down.weight"], expected)
