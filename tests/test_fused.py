from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gptcli.fused import MATRIX_ATTENTION, attend, dropout, position_heads, rms_norm, rotate, swiglu

Formula = Callable[..., Tensor]
# What rounding results and gradients to a format may cost, relative to the largest of them.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 0.015}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same(ours: Formula, exact: Formula, inputs: list[Tensor], dtype: torch.dtype) -> None:
    """Compare values and all gradients with those that autograd finds for the formula in float64."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    y, expected = ours(*leaves), exact(*wide)
    towards = drawn(*expected.shape, seed=9).to(y.dtype)
    y.backward(towards)  # type: ignore[no-untyped-call]
    expected.backward(towards.double())  # type: ignore[no-untyped-call]
    pairs = [(y, expected), *((a.grad, b.grad) for a, b in zip(leaves, wide, strict=True))]
    for found, right in pairs:
        assert found is not None
        assert right is not None
        assert found.shape == right.shape
        assert (found.double() - right).abs().max() <= TOLERANCE[dtype] * right.abs().max()


def exact_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def tables(block_size: int, width: int) -> tuple[Tensor, Tensor]:
    angles = drawn(block_size, 1, width // 2, seed=5)
    sin = angles.sin()
    return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-sin, sin), -1)


def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (t.repeat_interleave(q.size(1) // k.size(1), dim=1) for t in (k, v))
    hidden = torch.ones(q.size(2), q.size(2), dtype=torch.bool).triu(1)
    scores = (q @ k.mT * q.size(-1) ** -0.5).masked_fill(hidden, -torch.inf)
    mixed: Tensor = scores.softmax(-1) @ v
    return mixed


def test_rms_norm_and_its_gradients_are_those_of_the_formula() -> None:
    assert_same(lambda x, w: rms_norm(x, w, 1e-6), exact_norm, [drawn(3, 7, 20), drawn(20, seed=1)], torch.float32)


def test_rms_norm_gives_what_the_next_product_takes() -> None:
    x, weight = drawn(4, 8).float(), torch.ones(8)
    assert rms_norm(x, weight, 1e-6).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rms_norm(x, weight, 1e-6).dtype == torch.bfloat16


def test_rms_norm_of_zeros_is_zero_and_its_gradient_finite() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    y = rms_norm(x, torch.ones(8), 1e-6)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(y, torch.zeros(2, 8))
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_positioned_heads_and_their_gradients_are_those_of_the_formula(dtype: torch.dtype) -> None:
    cos, sin = tables(6, 8)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return position_heads(x, weight.float(), (cos.float(), sin.float()), 1e-6)

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        return rotate(exact_norm(x, weight), cos, sin).transpose(1, 2)

    assert_same(ours, exact, [drawn(2, 6, 3, 8), drawn(3, 8, seed=1)], dtype)


def test_positioned_heads_are_the_plain_operations_ones_in_float64() -> None:
    rotary, x, weight = tables(6, 8), drawn(2, 6, 3, 8), drawn(3, 8, seed=1)
    plain = position_heads(x, weight, rotary, 1e-6)
    by_hand = position_heads(x.float(), weight.float(), (rotary[0].float(), rotary[1].float()), 1e-6)
    torch.testing.assert_close(by_hand.double(), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_swiglu_and_its_gradient_are_those_of_the_formula(dtype: torch.dtype) -> None:
    def exact(stacked: Tensor) -> Tensor:
        gate, up = stacked.chunk(2, -1)
        return gate * torch.sigmoid(gate) * up

    assert_same(swiglu, exact, [3 * drawn(5, 4, 24)], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_attention_and_its_gradients_are_those_of_the_formula(heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    inputs = [drawn(2, heads, 10, 8), drawn(2, kv_heads, 10, 8, seed=1), drawn(2, kv_heads, 10, 8, seed=2)]
    assert_same(lambda q, k, v: attend(q, k, v, 0.0), exact_attention, inputs, dtype)


def test_attention_sees_no_later_position_at_all() -> None:
    q, k, v = (drawn(1, 2, 9, 8, seed=seed).bfloat16() for seed in range(3))
    before = attend(q, k, v, 0.0)
    k[:, :, 5:], v[:, :, 5:] = 30.0, 1000.0
    after = attend(q, k, v, 0.0)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5:], after[:, :, 5:])


def test_attention_past_the_context_of_matrices_keeps_no_scores() -> None:
    for T, keeps in ((MATRIX_ATTENTION, True), (MATRIX_ATTENTION + 8, False)):  # noqa: N806 - the module's letter
        kept: list[int] = []

        def note(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        q, k, v = (drawn(1, 1, T, 8, seed=seed).bfloat16().requires_grad_() for seed in range(3))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            y = attend(q, k, v, 0.0)
        assert (max(kept) >= T * T) == keeps
        exact = exact_attention(q.double(), k.double(), v.double())
        assert (y.double() - exact).abs().max() < TOLERANCE[torch.bfloat16]


def test_attention_with_dropout_is_torchs_own() -> None:
    q, k, v = (drawn(1, 2, 6, 8, seed=seed).bfloat16() for seed in range(3))
    torch.manual_seed(1)
    ours = attend(q, k, v, 0.5)
    torch.manual_seed(1)
    theirs = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), dropout_p=0.5, is_causal=True)
    assert torch.equal(ours, theirs.bfloat16())


def test_a_frozen_gain_gets_no_gradient() -> None:
    x = drawn(2, 6, 3, 8).float().requires_grad_()
    cos, sin = (table.float() for table in tables(6, 8))
    y = position_heads(rms_norm(x, torch.ones(8), 1e-6), torch.ones(3, 8), (cos, sin), 1e-6)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.98, 0.999])
def test_dropout_drops_its_share_keeps_the_mean_and_its_gradient(share: float) -> None:
    x = torch.ones(200, 203, requires_grad=True)
    torch.manual_seed(3)
    y = dropout(x, share, training=True)
    y.sum().backward()  # type: ignore[no-untyped-call]
    asked = round(share * 256) / 256 if 0.01 < share < 0.99 else share
    assert abs(asked - share) <= 1 / 512
    dropped = float((y == 0).float().mean())
    assert abs(dropped - asked) < 5 * (asked * (1 - asked) / x.numel()) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - asked)))
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_dropout_draws_from_torchs_generator() -> None:
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(torch.ones(1000), 0.5, training=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_is_dropped_when_not_training() -> None:
    x = torch.ones(1000)
    assert dropout(x, 0.5, training=False) is x
    assert torch.equal(dropout(x, 0.0, training=True), x)
