"""One more token of each text, on a CPU: numpy around the large products, because a step is hardly more than calls.

A call of numpy costs a third of one of torch, which decides the speed of a small model; threads work in the products
alone. The same network as ``GPT.forward``, from top to bottom; ``decoder`` decides when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gptcli.config import ModelConfig
from gptcli.matrices import Floats, Matrix
from gptcli.model import GPT2_NORM_EPS

# From so many numbers in a text's keys of a layer on, torch's threads read them sooner than numpy alone.
MANY_KEYS = 2**16
NUMPY_2 = hasattr(np, "vecdot")


class Norm:
    """A layer's normalisation: LayerNorm for family gpt2, RMSNorm for modern."""

    def __init__(self, weight: Tensor, bias: Tensor | None, config: ModelConfig) -> None:
        self.weight, self.bias = weight, bias
        self.centred = config.family == "gpt2"
        self.eps = GPT2_NORM_EPS if self.centred else config.norm_eps
        self.shape = tuple(weight.shape)
        self.array: Floats = weight.numpy() if weight.device.type == "cpu" else np.empty(0, np.float32)

    def rows(self, x: Tensor) -> Tensor:
        """Return ``x`` (R, C) normalised."""
        if self.centred:
            return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)
        return F.rms_norm(x, self.shape, self.weight, self.eps)

    def step(self, x: Floats) -> Floats:
        """Return ``x`` (B, C) normalised, on a CPU."""
        if self.centred:
            result: Floats = torch.layer_norm(torch.from_numpy(x), self.shape, self.weight, self.bias, self.eps).numpy()
            return result
        factors = [(square / len(self.array) + self.eps) ** -0.5 for square in _sum_of_squares(x).tolist()]
        # One number is multiplied with twice as quickly as an array of one, and to the same result.
        y: Floats = x * (factors[0] if len(factors) == 1 else np.array(factors, np.float32)[:, None])
        y *= self.array
        return y


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one block; ``up`` is gate and up in one for family modern."""

    norm1: Norm
    qkv: Matrix
    qk_norm: Tensor | None
    """What query and key heads are multiplied with, (H + K, D); family modern alone."""
    proj: Matrix
    norm2: Norm
    up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Parts:
    """The weights of a model; positions are ``wpe`` (block_size, C) or the tables ``cos`` and ``sin``."""

    config: ModelConfig
    wte: Tensor
    wpe: Tensor | None
    cos: Tensor | None
    sin: Tensor | None
    layers: list[Layer]
    norm: Norm
    head: Matrix


class Stepper:
    """Reads one more token of each of ``n_rows`` texts into a cache (layers, 2, B K, positions, D)."""

    def __init__(self, parts: Parts, cache: Tensor, n_rows: int) -> None:
        config = parts.config
        self.parts, self.config, self.n_rows = parts, config, n_rows
        self.n_head, self.kv_heads, self.head_width = config.n_head, config.kv_heads, config.head_width
        self.scale = config.head_width**-0.5
        self.keys, self.values = cache[:, 0].numpy(), cache[:, 1].numpy()
        self.wte = parts.wte.numpy() if parts.wte.dtype == torch.float32 else None
        self.wpe = None if parts.wpe is None else parts.wpe.numpy()
        self.rotary: tuple[Floats, Floats] | None = None
        if parts.cos is not None and parts.sin is not None:
            self.rotary = parts.cos.numpy(), parts.sin.view(config.block_size, 2, -1).numpy()
        self.qk_norms = [None if layer.qk_norm is None else self._scaled(layer.qk_norm) for layer in parts.layers]
        self.approximate = "tanh" if config.gelu == "tanh" else "none"

    def _scaled(self, qk_norm: Tensor) -> Floats:
        """Put the scale of attention into the norm of the queries: rotating keeps it."""
        scaled = qk_norm.clone()
        scaled[: self.n_head] *= self.scale
        return scaled.numpy()

    @np.errstate(all="ignore")  # numbers that are not finite are found in the logits
    def step(self, tokens: npt.NDArray[np.int64], place: int) -> Floats:
        """Read ``tokens`` (B,) at position ``place`` of the window; return the logits (B, V) of what follows."""
        x = self._embed(tokens, place)
        end = place + 1
        keys, values = self.keys[:, :, :end], self.values[:, :, :end]
        for number, layer in enumerate(self.parts.layers):
            heads = layer.qkv.step(layer.norm1.step(x)).reshape(self.n_rows, -1, self.head_width)
            y = self._attend(heads, self.qk_norms[number], keys[number], values[number])
            x += layer.proj.step(y)
            x += layer.down.step(self._activate(layer.up.step(layer.norm2.step(x))))
        return self.parts.head.step(self.parts.norm.step(x))

    def _embed(self, tokens: npt.NDArray[np.int64], place: int) -> Floats:
        if self.wte is None:
            x: Floats = self.parts.wte[torch.from_numpy(tokens)].float().numpy()
        else:
            x = self.wte[tokens]
        if self.wpe is not None:
            x += self.wpe[place]
        return x

    def _attend(self, heads: Floats, qk_norm: Floats | None, keys: Floats, values: Floats) -> Floats:
        """Return the mixed values (B, H D) of ``heads`` (B, H + 2 K, D); ``keys`` and ``values`` are (B K, n, D)."""
        H, K, D, place = self.n_head, self.kv_heads, self.head_width, keys.shape[1] - 1  # noqa: N806 - shapes
        if qk_norm is None:
            qk = heads[:, : H + K]
            q = qk[:, :H] * self.scale
        else:
            qk = self._turned(heads[:, : H + K], qk_norm, place)
            q = qk[:, :H]
        keys[:, place] = qk[:, H:].reshape(-1, D)
        values[:, place] = heads[:, H + K :].reshape(-1, D)
        q = q.reshape(self.n_rows * K, H // K, D)
        if keys.size > MANY_KEYS * self.n_rows:
            return _attend_in_threads(q, keys, values).reshape(self.n_rows, H * D)
        scores = np.matmul(q, keys.swapaxes(1, 2))
        scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        y: Floats = np.matmul(scores, values)
        y /= np.add.reduce(scores, axis=-1, keepdims=True)
        return y.reshape(self.n_rows, H * D)

    def _turned(self, qk: Floats, qk_norm: Floats, place: int) -> Floats:
        """Return query and key heads (B, H + K, D) normalised and rotated by the angles of ``place``."""
        assert self.rotary is not None
        qk = qk / root_mean_square(qk, self.config.norm_eps)
        qk *= qk_norm
        half = self.head_width // 2
        swapped: Floats = qk.reshape(self.n_rows, -1, 2, half)[:, :, ::-1] * self.rotary[1][place]
        qk *= self.rotary[0][place]
        qk += swapped.reshape(qk.shape)
        return qk

    def _activate(self, up: Floats) -> Floats:
        if self.rotary is None:
            activated: Floats = F.gelu(torch.from_numpy(up), approximate=self.approximate).numpy()
            return activated
        half = up.shape[1] // 2
        gated: Floats = F.silu(torch.from_numpy(up[:, :half])).numpy()
        gated *= up[:, half:]
        return gated


def _sum_of_squares(x: Floats) -> Floats:
    squares: Floats = np.vecdot(x, x) if NUMPY_2 else np.matmul(x[..., None, :], x[..., None])[..., 0, 0]
    return squares


def root_mean_square(x: Floats, eps: float) -> Floats:
    """Return sqrt(mean(x^2) + eps) over the last axis of ``x`` (..., n), as (..., 1)."""
    squares = _sum_of_squares(x)[..., None]
    squares *= 1 / x.shape[-1]
    squares += eps
    np.sqrt(squares, out=squares)
    return squares


def _attend_in_threads(q: Floats, keys: Floats, values: Floats) -> Floats:
    scores = torch.bmm(torch.from_numpy(q), torch.from_numpy(keys).transpose(1, 2))
    y: Floats = torch.bmm(torch.softmax(scores, -1), torch.from_numpy(values)).numpy()
    return y
