"""Matrices to multiply activations with, one class a number format, each with the quickest kernel there is for it.

Activations and results are float32 and rows never influence each other, whatever the weights are stored in. It knows
one matrix at a time; which of them make a model is ``decoder``'s business. Times are of the 49 matrices of GPT-2 124M
for one token, on two cores of a Zen 5 (2026-11).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gptcli.errors import DeviceError

WeightFormat = Literal["float32", "bfloat16", "float16", "int8"]
Floats = npt.NDArray[np.float32]

# Up to this many weights numpy on one thread is quicker than torch: waking the other costs more than it does.
SMALL = 2**17
# OpenBLAS, which numpy comes with, multiplies so many weights with a vector on one thread.
ONE_THREAD = 9216
MANY_SLICES = 64
# From so many rows on it pays to widen int8 to float32 first.
MANY_ROWS = 48
# The int8 kernel reads past the end of rows that are not a multiple of this long, and may crash.
INT8_ALIGNMENT = 32


class Matrix(Protocol):
    """A matrix (out, in) with an optional bias (out,)."""

    def rows(self, x: Tensor) -> Tensor:
        """Return the products (R, out) of ``x`` (R, in), for many rows."""

    def step(self, x: Floats) -> Floats:
        """Return the products (B, out) of ``x`` (B, in) on a CPU, for few rows."""


class _OfRows:
    """A matrix whose step is that of ``rows``."""

    def rows(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def step(self, x: Floats) -> Floats:
        result: Floats = self.rows(torch.from_numpy(x)).numpy()
        return result


class StoredMatrix(_OfRows):
    """Weights used as they lie, in any number format and on any device; activations are rounded to that format."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def rows(self, x: Tensor) -> Tensor:
        """See ``Matrix``."""
        y = F.linear(x.to(self.weight.dtype), self.weight).float()
        return y if self.bias is None else y + self.bias


class Float32Matrix:
    """float32 weights used as they lie on a CPU, mapped files too: 13 ms, where ``F.linear`` takes 28.

    One row is a batch of products of parts of the matrix, one a thread, which reads at the speed of the memory.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight.contiguous(), bias
        out, width = weight.shape
        parts = max(2, torch.get_num_threads())
        even = out // parts * parts
        self.parts = self.weight[:even].view(parts, even // parts, width)
        self.rest = self.weight[even:]
        self.added: Floats | None = None if bias is None else bias.numpy()
        self.slices: Floats | None = None
        if weight.numel() <= SMALL:
            heights = range(min(out, max(1, ONE_THREAD // width)), out // MANY_SLICES, -1)
            height = next((n for n in heights if out % n == 0), out)
            self.slices = self.weight.numpy().reshape(out // height, height, width)

    def rows(self, x: Tensor) -> Tensor:
        """See ``Matrix``."""
        return linear(x, self.weight, self.bias)

    def step(self, x: Floats) -> Floats:
        """See ``Matrix``."""
        if self.slices is not None:
            y: Floats
            y = np.matmul(self.slices, x[0]).reshape(1, -1) if len(x) == 1 else self._few(self.slices, x)
        elif len(x) == 1:
            y = self._one(torch.from_numpy(x)).numpy()
        else:
            return self.rows(torch.from_numpy(x)).numpy()
        return y if self.added is None else np.add(y, self.added, out=y)

    def _few(self, slices: Floats, x: Floats) -> Floats:
        y: Floats = np.matmul(slices, x.T).reshape(-1, len(x)).T
        return np.ascontiguousarray(y)

    def _one(self, x: Tensor) -> Tensor:
        column = x.t()
        y = torch.bmm(self.parts, column.expand(len(self.parts), -1, -1)).view(1, -1)
        return y if not len(self.rest) else torch.cat((y, torch.mm(self.rest, column).t()), dim=1)


class Float16Matrix(_OfRows):
    """float16 weights in fbgemm's order, float32 activations and sums: 7 ms."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight.float().contiguous(), bias)

    def rows(self, x: Tensor) -> Tensor:
        """See ``Matrix``."""
        if len(x) > 1:
            y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
            return y
        # One row alone takes a path that is 27 times slower than two.
        y = torch.ops.quantized.linear_dynamic_fp16(x.expand(2, -1), self.packed)
        return y[:1]


class Bfloat16Matrix(_OfRows):
    """bfloat16 weights in oneDNN's order; activations and results are rounded to bfloat16: 8 ms."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.bfloat16().contiguous()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)  # noqa: SLF001 - no public name has it
        self.bias = bias

    def rows(self, x: Tensor) -> Tensor:
        """See ``Matrix``."""
        y = _onednn_linear(x.bfloat16(), self.packed, None).float()
        return y if self.bias is None else y + self.bias


class Int8Matrix(_OfRows):
    """Weights of 8 bits and a scale for each output; activations and results are rounded to bfloat16: 5 ms."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = F.pad(weight.float(), (0, -weight.size(1) % INT8_ALIGNMENT))
        # The scale is rounded before it divides, so that its own rounding costs nothing.
        self.scale = (weight.abs().amax(1) / 127).bfloat16()
        scale = self.scale.float()[:, None]
        self.weight = (weight / scale.where(scale > 0, 1)).round().clamp(-127, 127).to(torch.int8)
        self.bias = bias

    def rows(self, x: Tensor) -> Tensor:
        """See ``Matrix``."""
        if missing := self.weight.size(1) - x.size(1):
            x = F.pad(x, (0, missing))
        if len(x) < MANY_ROWS:
            kernel = torch._weight_int8pack_mm  # noqa: SLF001 - no public name has it
            y = kernel(x.bfloat16(), self.weight, self.scale).float()
        else:
            y = linear(x.bfloat16().float(), self.weight.float().mul_(self.scale.float()[:, None]), None)
        return y if self.bias is None else y + self.bias


class AdaptedMatrix(_OfRows):
    """A matrix with a low-rank adapter beside it: W x + b + strength * B A x."""

    def __init__(self, matrix: Matrix, lora_a: Tensor, lora_b: Tensor, strength: float) -> None:
        self.matrix, self.lora_a, self.lora_b, self.strength = matrix, lora_a, lora_b, strength

    def rows(self, x: Tensor) -> Tensor:
        """See ``Matrix``."""
        return torch.addmm(self.matrix.rows(x), x @ self.lora_a.t(), self.lora_b.t(), alpha=self.strength)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` of float32 on a CPU; by oneDNN, twice as quick as MKL on an AMD and no slower elsewhere."""
    if weight.numel() <= SMALL or not has_onednn():
        return F.linear(x, weight, bias)
    return _onednn_linear(x, weight, bias)


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: SLF001 - no public name
    return y


def stored(weight: Tensor, bias: Tensor | None) -> Matrix:
    """Return a matrix around the weights themselves: what changes them later changes it."""
    if weight.dtype == torch.float32 and weight.device.type == "cpu":
        return Float32Matrix(weight, bias)
    return StoredMatrix(weight, bias)


def converted(weight: Tensor, bias: Tensor | None, weight_format: WeightFormat, device: torch.device) -> Matrix:
    """Return a matrix in ``weight_format`` on ``device``; float32 weights on a CPU are used as they lie.

    ``DeviceError``: the format is not to be had there, or float16 cannot hold the weights.
    """
    bias = None if bias is None else bias.to(device, torch.float32)
    if weight_format == "float16" and weight.abs().max() > torch.finfo(torch.float16).max:
        raise DeviceError(
            f"The model has weights as large as {weight.abs().max():.3g}, and float16 ends at 65504.",
            "Leave the format out for float32, or take bfloat16.",
        )
    if device.type == "cpu":
        if weight_format == "int8" and has_int8():
            return Int8Matrix(weight, bias)
        if weight_format == "float16" and has_fbgemm():
            return Float16Matrix(weight, bias)
        if weight_format == "bfloat16" and has_bfloat16():
            return Bfloat16Matrix(weight, bias)
    if weight_format == "int8":
        raise DeviceError(
            f"Weights in int8 are not to be had on {device} with torch {torch.__version__}.",
            "Leave the format out for float32, or take float16.",
        )
    return stored(weight.to(device, getattr(torch, weight_format)).contiguous(), bias)


@cache
def has_onednn() -> bool:
    """Say whether torch has oneDNN's linear layer and it computes what ``F.linear`` does."""
    return _computes(lambda x, w: _onednn_linear(x, w, None))


@cache
def has_fbgemm() -> bool:
    """Say whether torch has fbgemm's product with float16 weights."""
    return _computes(lambda x, w: Float16Matrix(w, None).rows(x))


@cache
def has_bfloat16() -> bool:
    """Say whether torch has oneDNN's linear layer in bfloat16."""
    return _computes(lambda x, w: Bfloat16Matrix(w, None).rows(x))


@cache
def has_int8() -> bool:
    """Say whether torch has a product with int8 weights."""
    return _computes(lambda x, w: Int8Matrix(w, None).rows(x))


def _computes(product: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Try a product that is exact in every format; builds of torch differ in the private operators they have."""
    x, weight = torch.eye(2, 32), torch.eye(32) * 127
    try:
        return torch.equal(product(x, weight), F.linear(x, weight))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
