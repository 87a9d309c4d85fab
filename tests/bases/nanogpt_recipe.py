"""A checkpoint as nanoGPT's train.py writes it, and what such a model computes, from the formulas with torch alone.

The recipe: token plus position embedding; in each layer x + attention(LayerNorm(x)), then x + MLP(LayerNorm(x)) with
the exact GELU; a last LayerNorm; logits by the transposed token embedding. Linear layers keep (out, in).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

N_LAYER, N_HEAD, N_EMBD, BLOCK_SIZE = 2, 2, 16, 12


def nanogpt_checkpoint(
    vocab_size: int, *, bias: bool = True, dataset: str = "mine", n_embd: int = N_EMBD, seed: int = 3
) -> dict[str, Any]:
    """Return what ``torch.save`` gets, after one step of AdamW; the weights are large enough for GELU to matter."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "transformer.wte.weight": (vocab_size, n_embd),
        "transformer.wpe.weight": (BLOCK_SIZE, n_embd),
        "transformer.ln_f.weight": (n_embd,),
    }
    for layer in range(N_LAYER):
        h = f"transformer.h.{layer}"
        shapes |= {f"{h}.ln_1.weight": (n_embd,), f"{h}.ln_2.weight": (n_embd,)}
        shapes |= {f"{h}.attn.c_attn.weight": (3 * n_embd, n_embd), f"{h}.attn.c_proj.weight": (n_embd, n_embd)}
        shapes |= {f"{h}.mlp.c_fc.weight": (4 * n_embd, n_embd), f"{h}.mlp.c_proj.weight": (n_embd, 4 * n_embd)}
    for name in [name for name in shapes if bias and not name.endswith(("wte.weight", "wpe.weight"))]:
        shapes[name.removesuffix("weight") + "bias"] = shapes[name][:1]
    weights = {name: torch.nn.Parameter(torch.randn(*shape, generator=generator) / 2) for name, shape in shapes.items()}
    optimizer = torch.optim.AdamW([{"params": list(weights.values())}], lr=1e-3, betas=(0.9, 0.99))
    sum(p.square().sum() for p in weights.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    model = {name: p.detach() for name, p in weights.items()}
    model["lm_head.weight"] = model["transformer.wte.weight"]
    model_args = {"n_layer": N_LAYER, "n_head": N_HEAD, "n_embd": n_embd, "block_size": BLOCK_SIZE}
    return {
        "model": model,
        "optimizer": optimizer.state_dict(),
        "model_args": {**model_args, "bias": bias, "vocab_size": vocab_size, "dropout": 0.1},
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.4697),
        "config": {"dataset": dataset, "learning_rate": 1e-3, "compile": True, "out_dir": "out"},
    }


def nanogpt_logits(model: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Return the logits (B, T, vocab_size) of tokens (B, T)."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * model[f"{name}.weight"] + model.get(f"{name}.bias", 0.0)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ model[f"{name}.weight"].T + model.get(f"{name}.bias", 0.0)

    n_tokens = tokens.size(1)
    allowed = torch.ones(n_tokens, n_tokens).tril().bool()
    x = model["transformer.wte.weight"][tokens] + model["transformer.wpe.weight"][:n_tokens]
    for layer in range(N_LAYER):
        h = f"transformer.h.{layer}"
        heads = []
        for q, k, v in zip(
            *(part.chunk(N_HEAD, -1) for part in linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").chunk(3, -1)),
            strict=True,
        ):
            scores = (q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))).masked_fill(~allowed, -math.inf)
            heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ v)
        x = x + linear(torch.cat(heads, -1), f"{h}.attn.c_proj")
        hidden = linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f"{h}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ model["transformer.wte.weight"].T
