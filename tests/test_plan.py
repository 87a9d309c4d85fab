"""The closed forms agree with the network itself."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from gptcli.config import ModelConfig
from gptcli.model import GPT
from gptcli.plan import count_parameters, flops_per_token

SHAPES: list[dict[str, Any]] = [
    {"family": "modern"},
    {"family": "modern", "n_kv_head": 2},
    {"family": "modern", "n_kv_head": 1, "head_dim": 10, "n_inner": 72},
    {"family": "modern", "tie_embeddings": False, "n_embd": 60, "n_head": 3},
    {"family": "modern", "n_layer": 1, "vocab_size": 7},
    {"family": "gpt2"},
    {"family": "gpt2", "bias": True},
    {"family": "gpt2", "bias": True, "n_inner": 100, "block_size": 33, "n_layer": 3},
]


def config(shape: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**{"vocab_size": 65, "n_layer": 2, "n_embd": 64, "block_size": 16, **shape})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parameters_are_counted_as_the_model_has_them(shape: dict[str, Any]) -> None:
    model = config(shape)
    assert count_parameters(model) == sum(p.numel() for p in GPT(model).parameters())


def test_gpt2_124m_has_its_known_size() -> None:
    model = ModelConfig(family="gpt2", n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50257, bias=True)
    assert count_parameters(model) == 124_439_808


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flops_count_every_linear_layer_the_head_and_attention(shape: dict[str, Any]) -> None:
    model = config(shape)
    network = GPT(model)
    linear = sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear))
    head = network.wte.weight.numel() if network.head is None else 0
    attention = 12 * model.n_layer * model.n_head * model.head_width * model.block_size
    assert flops_per_token(model) == 6 * (linear + head) + attention
