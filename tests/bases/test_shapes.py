"""The published shapes with random weights, from a folder by ``save_pretrained``: transformers' logits and tokens."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from gptcli.bases.base import build_model
from gptcli.bases.opening import open_base
from gptcli.config import ModelConfig
from gptcli.interchange import to_transformers_config


def gpt2(n_layer: int, n_head: int, n_embd: int) -> ModelConfig:
    return ModelConfig(
        family="gpt2", n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=1024, vocab_size=50_257, bias=True
    )


QWEN3 = ModelConfig(
    n_layer=28, n_head=16, n_kv_head=8, n_embd=1024, head_dim=128, n_inner=3072, block_size=32_768, vocab_size=50_257,
    rope_theta=1e6,
)  # fmt: skip
SHAPES = [
    ("gpt2", gpt2(12, 12, 768), torch.float32),
    ("gpt2-medium", gpt2(24, 16, 1024), torch.float32),
    ("gpt2-large", gpt2(36, 20, 1280), torch.bfloat16),
    ("gpt2-xl", gpt2(48, 25, 1600), torch.bfloat16),
    ("qwen3-0.6b", QWEN3, torch.float32),
]


def draw(config: ModelConfig, dtype: torch.dtype) -> Any:  # noqa: ANN401 - transformers' models have no types
    """Return transformers' model with random weights, tiled from a short draw: a billion would take a minute."""
    theirs_class: Any = transformers.GPT2LMHeadModel if config.family == "gpt2" else transformers.Qwen3ForCausalLM
    settings = to_transformers_config(config)
    with torch.device("meta"):
        theirs = theirs_class(settings).to(dtype)
    theirs.to_empty(device="cpu")
    theirs.tie_weights()
    if config.family == "modern":
        theirs.model.rotary_emb = type(theirs.model.rotary_emb)(settings)  # a buffer that is no weight
    drawn = torch.randn(1_000_003, generator=torch.Generator().manual_seed(3)).mul_(0.05).to(dtype)
    with torch.no_grad():
        for p in theirs.parameters():
            flat = p.view(-1)
            for start in range(0, flat.numel(), drawn.numel()):
                flat[start : start + drawn.numel()] = drawn[: flat.numel() - start]
    return theirs.eval()


def compute_in_float32(model: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Let a model in bfloat16 compute in float32, one block at a time in that format: no weight changes by that."""
    inside = {id(p) for block in blocks for p in block.parameters()}
    for p in model.parameters():
        if id(p) not in inside:
            p.data = p.data.float()
    for block in blocks:
        block.register_forward_pre_hook(lambda module, _: module.float() and None)
        block.register_forward_hook(lambda module, *_: module.bfloat16() and None)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "dtype"), [(c, d) for _, c, d in SHAPES], ids=[name for name, *_ in SHAPES])
def test_shape_gives_the_logits_and_greedy_tokens_of_transformers(
    config: ModelConfig, dtype: torch.dtype, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    folder = tmp_path / "model"
    theirs = draw(config, dtype)
    theirs.save_pretrained(folder)
    if dtype != torch.float32:
        compute_in_float32(theirs, theirs.transformer.h)
    tokens = torch.randint(config.vocab_size or 0, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        written = theirs.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None)
        expected = theirs(written[:, :-1]).logits
    del theirs
    base = open_base(str(folder))
    assert base.config == config
    assert {base.weights[name].dtype for name in base.weights} == {dtype}
    ours = build_model(base, dtype=None)
    shutil.rmtree(folder)
    if dtype != torch.float32:
        compute_in_float32(ours, list(ours.blocks))
    with torch.inference_mode():
        logits = ours(written[:, :-1])
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    # Each is the likeliest after those before it, which is what greedy writing takes: one pass shows all three.
    assert logits[:, -3:].argmax(-1).tolist() == written[:, -3:].tolist()
