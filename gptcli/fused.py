"""Parts of the network that a CPU computes quicker by hand than torch does by itself, with their gradients.

Each function is a formula of ``model`` and gives the same result on every device. On a CPU it makes few passes over
memory and writes the number format that the next matrix product wants; elsewhere, and under torch.compile, the plain
operations stay, which a GPU's kernels and the compiler fuse. Milliseconds are of two cores of a Zen 5 (2026-11).
Letters: B sequences, T tokens, H heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Longer contexts take the fused attention, which keeps no T x T scores.
MATRIX_ATTENTION = 512
# Added to the scores of later positions; -inf would make NaN of a gradient times zero.
HIDDEN = -1e30


def by_hand(x: Tensor) -> bool:
    """Say whether ``x`` is computed here by hand: on a CPU, in the formats that are trained in, not compiled."""
    return x.device.type == "cpu" and x.dtype != torch.float64 and not torch.compiler.is_compiling()


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the number format in which matrix products take ``x`` here: autocast's, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(mean(x^2) + eps) over the last dimension, kept as 1."""
    squares: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return squares.div_(x.size(-1)).add_(eps).rsqrt_()


def _norm_gradient(grad: Tensor, normed: Tensor, inverse: Tensor) -> Tensor:
    """Turn the gradient of ``normed`` = x * inverse, in place, into that of x."""
    inner = (grad * normed).sum(-1, keepdim=True).div_(-grad.size(-1))
    return grad.addcmul_(normed, inner).mul_(inverse)


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, inverse = ctx.saved_tensors
        grad, normed = grad.float(), x * inverse
        by_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return _norm_gradient(grad * weight, normed, inverse), by_weight, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension of ``x`` (..., C) float32 by its root mean square, times ``weight`` (C,).

    (Zhang and Sennrich 2019.) In the products' number format where it is computed by hand, 0.1 ms where torch's eight
    operations take 3.6.
    """
    if not by_hand(x):
        return F.rms_norm(x, (x.size(-1),), weight, eps)
    return _apply(_RMSNorm, x, weight, eps, product_dtype(x))


class _Position(Function):
    """y = norm(x) * weight, turned by the angles of its position: the weight is folded into the tables."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:  # noqa: ANN401
        half = x.size(-1) // 2
        wide = x.float().contiguous()
        inverse = _inverse_rms(wide, eps)
        turned = wide * (cos * weight)
        turned.addcmul_(wide.roll(half, -1), sin * weight.roll(half, -1)).mul_(inverse)
        ctx.save_for_backward(x, weight, cos, sin, inverse)
        return turned.transpose(1, 2).to(x.dtype, memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight, cos, sin, inverse = ctx.saved_tensors
        wide = grad.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        back = (wide * sin).roll(x.size(-1) // 2, -1).addcmul_(wide, cos)  # turned back
        normed = x * inverse
        by_weight = (back * normed).sum((0, 1)) if ctx.needs_input_grad[1] else None
        return _norm_gradient(back.mul_(weight), normed, inverse).to(x.dtype), by_weight, None, None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the heads of ``x`` (B, T, H, D) by the angles of their positions: ``model.rotary_tables``, (T, 1, D)."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)


def position_heads(x: Tensor, weight: Tensor, rotary: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """Normalise each head of ``x`` (B, T, H, D), times ``weight`` (H, D), and turn it by its position's angles.

    ``rotary`` is cos and sin, (T, 1, D) each, for ``rotate``. Returns (B, H, T, D) in the format of ``x``.
    """
    if by_hand(x):
        return _apply(_Position, x, weight, *rotary, eps)
    normed = F.rms_norm(x.float(), (x.size(-1),), None, eps) * weight
    return rotate(normed, *rotary).to(x.dtype).transpose(1, 2)


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, stacked: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(stacked)
        gate, up = stacked.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        (stacked,) = ctx.saved_tensors
        gate, up = stacked.chunk(2, dim=-1)
        result = torch.empty_like(stacked)
        by_gate, by_up = result.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=by_up)
        by_gate.copy_(torch.ops.aten.silu_backward(grad * up, gate))
        return result


def swiglu(stacked: Tensor) -> Tensor:
    """Return silu(gate) * up of ``stacked`` (..., 2 I), gate first: (..., I). (Shazeer 2020.)"""
    if by_hand(stacked):
        return _apply(_SwiGLU, stacked)
    gate, up = stacked.chunk(2, dim=-1)
    return F.silu(gate) * up


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Return the causal scaled dot-product attention of ``q`` (B, H, T, D) to ``k`` and ``v`` (B, K, T, D).

    K divides H. On a CPU, bfloat16 takes three products of matrices up to a context of 512, half the time of torch's
    fused kernel in float32, which longer contexts take, as bfloat16 in that kernel has a backward 7 times slower.
    """
    if by_hand(q) and q.dtype == torch.bfloat16 and not dropout and q.size(2) <= MATRIX_ATTENTION:
        return _attend_by_matrices(q, k, v)
    dtype, grouped = q.dtype, k.size(1) != q.size(1)
    if q.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()
    with torch.autocast(q.device.type, enabled=False):
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=grouped)
    return y.to(dtype)


def _attend_by_matrices(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The heads that share keys and values lie one under the other, as more rows of one product."""
    B, H, T, D = q.shape  # noqa: N806 - the letters of the module
    groups, stacked = B * k.size(1), H // k.size(1) * T
    hidden = torch.full((T, T), HIDDEN, dtype=q.dtype).triu_(1).repeat(stacked // T, 1)
    scores = torch.baddbmm(hidden, q.reshape(groups, stacked, D), k.reshape(groups, T, D).mT, alpha=D**-0.5)
    return torch.bmm(scores.softmax(-1), v.reshape(groups, T, D)).view(B, H, T, D)


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Set a ``share`` of ``x`` to zero while training, and scale the rest so that the mean stays.

    By hand the share is a whole number of 256ths, so that a draw of torch's generator decides about eight numbers: a
    tenth of the time. Shares that this would change much are torch's own.
    """
    dropped = round(share * 256)
    if not training or not 4 <= dropped <= 252 or not by_hand(x):
        return F.dropout(x, share, training)
    bits = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)
    kept = bits[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def _apply(function: type[Function], *inputs: object) -> Tensor:
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]
    return result
