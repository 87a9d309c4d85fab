"""The network: one GPT with two families of blocks, to be read from top to bottom.

* ``gpt2``: learned positions, LayerNorm, GELU (tanh), optional biases, tied head: ``GPT2LMHeadModel``'s function.
* ``modern``: rotary positions, RMSNorm, QK-norm, SwiGLU, no biases: ``Qwen3ForCausalLM``'s function.

It knows tensors and ``ModelConfig``. It does not know text, files, devices or optimizers.
Letters in the shape comments: B sequences, T tokens, C ``n_embd``, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptcli.config import ModelConfig
from gptcli.fused import attend, by_hand, dropout, position_heads, product_dtype, rms_norm, swiglu
from gptcli.head import head_loss

Reduction = Literal["mean", "sum", "none"]
GPT2_NORM_EPS = 1e-5
# Below, all logits at once are as quick on a CPU (512 tokens: 0.4 to 2 times, 4096: 1.2 to 7.7; 2026-11).
LARGE_VOCABULARY = 4096


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, (block_size, D) each, for ``rotate`` (Su et al. 2021, in halves).

    The sign of rotate-half is in ``sin``, so that rotating is two products and one roll.
    """
    half = config.head_width // 2
    frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.outer(torch.arange(config.block_size, dtype=torch.float64), frequency)
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


class RMSNorm(nn.RMSNorm):
    """torch's own, computed by ``fused.rms_norm``."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        assert self.eps is not None
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.kv_heads, self.head_width = config.n_head, config.kv_heads, config.head_width
        width = self.n_head * self.head_width
        self.qkv = nn.Linear(config.n_embd, width + 2 * self.kv_heads * self.head_width, bias=config.bias)
        self.proj = nn.Linear(width, config.n_embd, bias=config.bias)
        self.dropout = config.dropout
        modern = config.family == "modern"
        # The fused kernel of a CPU has no dropout inside: modern drops in the residual stream alone.
        self.attention_dropout = 0.0 if modern else config.dropout
        if modern:
            self.eps = config.norm_eps
            self.q_norm = RMSNorm(self.head_width, eps=config.norm_eps)
            self.k_norm = RMSNorm(self.head_width, eps=config.norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Mix ``x`` (B, T, C) over its earlier positions; returns (B, T, C)."""
        B, T, _ = x.shape  # noqa: N806 - the letters of the shape comments
        qkv = self.qkv(x).view(B, T, self.n_head + 2 * self.kv_heads, self.head_width)
        qk, v = qkv.split((self.n_head + self.kv_heads, self.kv_heads), dim=2)  # (B, T, heads, D)
        qk = qk.transpose(1, 2) if rotary is None else position_heads(qk, self._head_gains(), rotary, self.eps)
        q, k = qk.split((self.n_head, self.kv_heads), dim=1)  # (B, heads, T, D)
        y = attend(q, k, v.transpose(1, 2), self.attention_dropout if self.training else 0.0)
        return dropout(self.proj(y.transpose(1, 2).reshape(B, T, -1)), self.dropout, self.training)

    def _head_gains(self) -> Tensor:
        """Return the weights of the norms of all query and key heads, (H + K, D)."""
        gains = (self.q_norm.weight.expand(self.n_head, -1), self.k_norm.weight.expand(self.kv_heads, -1))
        return torch.cat(gains)


class GeluMLP(nn.Module):
    """GPT-2's feed-forward layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.inner_width, bias=config.bias)
        self.down = nn.Linear(config.inner_width, config.n_embd, bias=config.bias)
        self.approximate = "tanh" if config.gelu == "tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        hidden: Tensor = self.down(F.gelu(self.up(x), approximate=self.approximate))
        return hidden


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020), gate and up in one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.n_embd, 2 * config.inner_width, bias=False)
        self.down = nn.Linear(config.inner_width, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        hidden: Tensor = self.down(swiglu(self.gate_up(x)))
        return hidden


class Embedding(nn.Embedding):
    """torch's own, but that nothing is drawn for weights without memory: on them it would import torch._dynamo, 1 s."""

    def reset_parameters(self) -> None:
        """Draw the weights, where they have memory."""
        if not self.weight.is_meta:
            super().reset_parameters()


def norm(config: ModelConfig) -> nn.Module:
    """Return the family's normalisation over the residual stream."""
    if config.family == "gpt2":
        return nn.LayerNorm(config.n_embd, eps=GPT2_NORM_EPS, bias=config.bias)
    return RMSNorm(config.n_embd, eps=config.norm_eps)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = norm(config)
        self.attn = Attention(config)
        self.norm2 = norm(config)
        self.mlp: nn.Module = GatedMLP(config) if config.family == "modern" else GeluMLP(config)
        self.dropout = config.dropout

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x + self.attn(self.norm1(x), rotary)
        return x + dropout(self.mlp(self.norm2(x)), self.dropout, self.training)


class GPT(nn.Module):
    """A decoder-only transformer that gives logits, or a loss when it is given targets.

    ``config.vocab_size`` has to be set. Weights are float32 and drawn from torch's generator; matrices that are not
    trained may be bfloat16 under autocast. With ``gradient_checkpointing`` set, the inside of each block is computed
    again in the backward pass instead of being kept.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "the tokenizer decides vocab_size before a model is built"
        self.config = config
        self.gradient_checkpointing = False
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.block_size, config.n_embd) if config.family == "gpt2" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = norm(config)
        self.head = None if config.tie_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if not self.wte.weight.is_meta:
            self.fill_tables()
            self._initialise()

    def fill_tables(self) -> None:
        """Compute what is no weight: the rotary tables of family modern."""
        if self.config.family == "modern":
            cos, sin = rotary_tables(self.config)
            self.register_buffer("cos", cos[:, None], persistent=False)
            self.register_buffer("sin", sin[:, None], persistent=False)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Return logits, or with ``targets`` the cross-entropy in nats.

        tokens: (B, T) int64 with T at most ``block_size``. Logits are float32 (B, T, V). targets: (B, T) int64, -1
        where a position is not scored; the loss is a scalar, or (B, T) with ``reduction="none"`` (0 where not scored).
        """
        end = tokens.size(1)
        assert end <= self.config.block_size, f"{end} positions do not fit into block_size {self.config.block_size}"
        x = self.wte(tokens).float()  # (B, T, C), the residual stream
        rotary = None
        if self.wpe is not None:
            x = x + self.wpe.weight[:end]
            x = dropout(x, self.config.dropout, self.training)
        else:
            rotary = (self.get_buffer("cos")[:end], self.get_buffer("sin")[:end])
        again = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, rotary, use_reentrant=False) if again else block(x, rotary)
        x, weight = self.norm(x), self.wte.weight if self.head is None else self.head.weight
        if targets is not None and reduction == "sum" and len(weight) >= LARGE_VOCABULARY and by_hand(x):
            return head_loss(x.flatten(0, 1), weight, targets.flatten(), dtype=product_dtype(x))
        logits = F.linear(x, weight).float()
        if targets is None:
            return logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=reduction)
        return loss.view_as(targets) if reduction == "none" else loss

    def n_params(self) -> int:
        """Return the number of weights; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw the initial weights.

        gpt2: normal 0.02, projections into the residual stream divided by sqrt(2 n_layer) (Radford et al. 2019).
        modern: normal 1/sqrt(fan-in), projections into the residual stream and an untied head zero, so that every
        block starts as the identity and the loss at ln(vocab_size). A tied head sees its own token's embedding then,
        so that one is drawn small enough (1/n_embd) not to favour repeating it.
        """
        modern = self.config.family == "modern"
        embedding = 1.0 if self.head is not None else 1 / self.config.n_embd if modern else 0.02
        for name, p in self.named_parameters():
            if p.dim() < 2:
                p.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.startswith(("wte", "wpe")):
                nn.init.normal_(p, std=embedding)
            elif modern and name.endswith(("proj.weight", "down.weight", "head.weight")):
                p.zero_()
            elif modern:
                nn.init.normal_(p, std=p.size(1) ** -0.5)
            else:
                residual = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * self.config.n_layer) if residual else 0.02)


def empty_model(config: ModelConfig) -> GPT:
    """Return a model whose weights have no memory yet: ``load_state_dict(..., assign=True)`` gives it some.

    Nothing is drawn from torch's generators.
    """
    with torch.device("meta"):
        model = GPT(config)
    model.fill_tables()
    return model
