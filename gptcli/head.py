"""The loss of the output head on a CPU, without ever holding the logits of all positions.

The gradient is computed in the forward pass, while a chunk of the logits is at hand (the idea of Liger's fused
cross-entropy, Hsu et al. 2024); what is kept for the backward pass has the shapes of the head's inputs. It knows one
product and its loss, not the model around it; whether it is used is decided in ``model``.

For one position with logits l and target t, everything is taken relative to l_t, so that no maximum is needed:
  e_j = exp(l_j - l_t),  others = sum of e_j over j != t,  loss = log(1 + others)
  gradient of l_j = e_j / (1 + others), of l_t = -others / (1 + others)
Relative to the target a small loss and its small gradients are exact where ``log_softmax`` in bfloat16 is not.

Letters in the shape comments: N positions, R those of one chunk, C width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Memory for the logits of one chunk of positions: what device.keep_freed_memory keeps; 96 MiB were no quicker.
SCRATCH_BYTES = 30 * 2**20
# Tokens that are computed at once: their logits stay in the cache between the product and its exponential.
BLOCK = 2048
# Sums beyond this are computed again relative to the largest logit; bfloat16 and float32 end at 2**128.
LARGEST_SUM = 2.0**64


def head_loss(x: Tensor, weight: Tensor, targets: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return the summed cross-entropy in nats of the logits ``x @ weight.T``, a float32 scalar.

    x: (N, C) float32 or bfloat16. weight: (V, C), of which the gradient is float32. targets: (N,) int64, negative
    where a position is not scored and costs nothing. Products and sums of a block of tokens are rounded
    to ``dtype``, those of blocks are float32. Gradients are only
    computed for what requires them; the loss is not finite where ``x`` or the logits are not. All tensors on a CPU.
    """
    scored = targets >= 0
    if not scored.all():
        positions = scored.nonzero().squeeze(1)
        x, targets = x.index_select(0, positions), targets.index_select(0, positions)
    grad = torch.is_grad_enabled()
    with torch.autocast(x.device.type, enabled=False):
        loss: Tensor = _HeadLoss.apply(x, weight, targets, dtype, grad)  # type: ignore[no-untyped-call]
    return loss


class _Context(Protocol):
    """What this module uses of torch's ``FunctionCtx``."""

    x_dtype: torch.dtype
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor | None, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for the backward pass."""


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, grad: bool) -> Tensor:
        ctx.x_dtype = x.dtype
        dx = torch.empty_like(x, dtype=torch.float32) if grad and ctx.needs_input_grad[0] else None
        dw = torch.zeros_like(weight, dtype=torch.float32) if grad and ctx.needs_input_grad[1] else None
        # Two columns of ones beside the weight: what ``x`` has there is added to its logits inside the product.
        wide = torch.ones(weight.size(0), weight.size(1) + 2, dtype=dtype)
        wide[:, :-2] = weight
        loss = torch.zeros(())
        most = max(1, SCRATCH_BYTES // dtype.itemsize // len(weight))
        rows = math.ceil(len(x) / max(1, math.ceil(len(x) / most)))
        exponentials = torch.empty(rows * len(weight), dtype=dtype)
        for start in range(0, len(x), max(1, rows)):
            end = min(start + rows, len(x))
            chunk = _Chunk(x[start:end].float(), wide, targets[start:end], exponentials)
            loss += chunk.losses().sum()
            if dx is not None or dw is not None:
                chunk.add_gradients(None if dx is None else dx[start:end], dw)
        ctx.save_for_backward(dx, dw)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dw = ctx.saved_tensors
        return (
            None if dx is None else (dx * grad).to(ctx.x_dtype),
            None if dw is None else dw * grad,
            *(None, None, None),
        )


class _Chunk:
    """The positions of one chunk: ``x`` (R, C) float32, the weight with its ones (V, C + 2), ``targets`` (R,)."""

    def __init__(self, x: Tensor, wide: Tensor, targets: Tensor, scratch: Tensor) -> None:
        self.x, self.targets = x, targets
        R, V = len(x), len(wide)  # noqa: N806 - the letters of the shape comments
        starts = range(0, V, BLOCK)
        # The exponentials lie block after block, each (R, its tokens), so that every product reads whole rows.
        self.flat = scratch[: R * V]
        self.blocks = [self.flat[i * R : min(i + BLOCK, V) * R].view(R, -1) for i in starts]
        self.wide = [wide[i : i + BLOCK] for i in starts]
        first = targets // BLOCK * BLOCK
        self.places = first * R + torch.arange(R) * (V - first).clamp(max=BLOCK) + targets - first
        self.own = wide[targets, :-2].float()  # (R, C), the weights of the targets

    def losses(self) -> Tensor:
        """Return the cross-entropy (R,) and keep the exponentials and their sums."""
        # In powers of two, which are three times as quick as those of e.
        x = (self.x * (1 / math.log(2))).to(self.flat.dtype)
        target = (x.float() * self.own).sum(1)  # (R,)
        self._exponentiate(x, target, target)
        if not (self.others < LARGEST_SUM).all():
            self._exponentiate(x, self._largest(x), target)
        return (torch.logaddexp2(self.others.log2(), self.distance) - self.distance) * math.log(2)

    def _exponentiate(self, x: Tensor, shift: Tensor, target: Tensor) -> None:
        high = shift.to(x.dtype)
        low = (shift - high).to(x.dtype)
        shifted = torch.cat((x, -high[:, None], -low[:, None]), dim=1)  # (R, C + 2)
        for block, weight in zip(self.blocks, self.wide, strict=True):
            torch.mm(shifted, weight.t(), out=block).exp2_()
        self.flat[self.places] = 0
        self.others = torch.stack([block.sum(1) for block in self.blocks]).float().sum(0)
        self.distance = target - high.float() - low.float()

    def _largest(self, x: Tensor) -> Tensor:
        products = (torch.mm(x, weight[:, :-2].t()).amax(1) for weight in self.wide)
        return torch.stack(list(products)).amax(0).float()

    def add_gradients(self, dx: Tensor | None, dw: Tensor | None) -> None:
        """Write the gradient of the chunk's ``x`` to ``dx`` (R, C), add the weight's to ``dw`` (V, C)."""
        scale = (1 / (self.others + self.distance.exp2()))[:, None]
        self.flat[self.places] = -self.others.to(self.flat.dtype)
        if dx is not None:
            dx.zero_()
            for block, weight in zip(self.blocks, self.wide, strict=True):
                dx += torch.mm(block, weight[:, :-2])
            dx *= scale
        if dw is not None:
            scaled = (self.x * scale).to(self.flat.dtype)
            for block, rows in zip(self.blocks, torch.split(dw, BLOCK), strict=True):
                rows += torch.mm(block.t(), scaled)
