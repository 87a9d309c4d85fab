"""The loss of the head in chunks, against torch's cross-entropy in float64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gptcli import head
from gptcli.head import head_loss

DTYPES = (torch.float32, torch.bfloat16)
# Of the loss, and of the gradients relative to their norm: rounding x and weight to bfloat16 alone costs so much.
TOLERANCE = {torch.float32: (1e-6, 1e-5), torch.bfloat16: (1e-3, 1e-2)}


class Result(NamedTuple):
    """A loss and its gradients."""

    loss: Tensor
    dx: Tensor
    dw: Tensor


class Case(NamedTuple):
    """What goes into the loss."""

    x: Tensor
    weight: Tensor
    targets: Tensor

    def exact(self) -> Result:
        """The right answer."""
        x, weight = (p.detach().double().requires_grad_() for p in self[:2])
        loss = F.cross_entropy(x @ weight.T, self.targets, ignore_index=-1, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert weight.grad is not None
        return Result(loss.detach(), x.grad, weight.grad)

    def ours(self, dtype: torch.dtype, *, scale: float = 1.0) -> Result:
        """The answer of ``head_loss``."""
        x, weight = (p.detach().clone().requires_grad_() for p in self[:2])
        loss = head_loss(x, weight, self.targets, dtype=dtype)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert weight.grad is not None
        return Result(loss.detach(), x.grad, weight.grad)


def make_case(n: int = 100, width: int = 24, vocab_size: int = 300, *, spread: float = 0.5) -> Case:
    generator = torch.Generator().manual_seed(n + vocab_size)
    x = torch.randn(n, width, generator=generator)
    weight = torch.randn(vocab_size, width, generator=generator) * spread
    return Case(x, weight, torch.randint(vocab_size, (n,), generator=generator))


def assert_near(ours: Result, exact: Result, dtype: torch.dtype) -> None:
    of_loss, of_gradient = TOLERANCE[dtype]
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=of_loss, atol=of_loss * 5)
    for mine, right in zip(ours[1:], exact[1:], strict=True):
        assert (mine - right).norm() <= of_gradient * right.norm() + 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "vocab_size"), [(100, 300), (77, 2048), (50, 2049), (64, 5001)])
def test_loss_and_gradients_are_those_of_float64(n: int, vocab_size: int, dtype: torch.dtype) -> None:
    case = make_case(n, 24, vocab_size)
    assert_near(case.ours(dtype), case.exact(), dtype)


def test_one_position_and_two_tokens() -> None:
    case = make_case(1, 24, 2)
    assert_near(case.ours(torch.float32), case.exact(), torch.float32)


def test_bfloat16_costs_a_position_no_more_than_under_autocast() -> None:
    case = make_case(300)
    exact = F.cross_entropy(case.x.double() @ case.weight.double().T, case.targets, reduction="none")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = F.linear(case.x, case.weight)
    plain = F.cross_entropy(logits.float(), case.targets, reduction="none")
    pairs = zip(torch.split(case.x, 1), torch.split(case.targets, 1), strict=True)
    ours = torch.stack([head_loss(x, case.weight, target, dtype=torch.bfloat16) for x, target in pairs])
    assert (ours - exact).square().mean() <= 1.2 * (plain - exact).square().mean()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 50, 99])
def test_many_chunks_add_up(rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case()
    monkeypatch.setattr(head, "SCRATCH_BYTES", rows * 300 * dtype.itemsize)
    monkeypatch.setattr(head, "BLOCK", 64)
    assert_near(case.ours(dtype), case.exact(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_that_are_not_scored_count_nothing(dtype: torch.dtype) -> None:
    case = make_case()
    case.targets[::3] = -1
    case.x[::3] = torch.nan
    ours = case.ours(dtype)
    case.x[::3] = 0
    assert_near(ours, case.exact(), dtype)
    assert not ours.dx[::3].any()


@pytest.mark.parametrize("n", [0, 100])
def test_without_scored_positions_all_is_zero(n: int) -> None:
    case = make_case(n)
    case.targets[:] = -1
    ours = case.ours(torch.bfloat16)
    assert ours.loss == 0
    assert not ours.dx.any()
    assert not ours.dw.any()
    assert ours.dx.shape == case.x.shape
    assert ours.dw.shape == case.weight.shape


def test_a_small_loss_is_as_exact_as_a_large_one() -> None:
    case = Case(torch.eye(8) * 9, torch.eye(8), torch.arange(8))  # 7 exp(-9) each
    for dtype in DTYPES:
        ours = case.ours(dtype)
        exact = case.exact()
        torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=0.05, atol=0)
        torch.testing.assert_close(ours.dx.double(), exact.dx, rtol=0.05, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", [1e2, 1e4])
def test_large_logits_stay_finite_and_right(largest: float, dtype: torch.dtype) -> None:
    case = make_case(width=64)
    case = case._replace(weight=case.weight * (largest / (case.x @ case.weight.T).abs().max()))
    ours, exact = case.ours(dtype), case.exact()
    assert all(t.isfinite().all() for t in ours)
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=1e-3, atol=0)
    if dtype == torch.float32:
        assert_near(ours, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_shows_in_the_loss(bad: float, dtype: torch.dtype) -> None:
    case = make_case()
    case.x[3, 5] = bad
    assert not case.ours(dtype).loss.isfinite()


def test_the_incoming_gradient_scales_both() -> None:
    case = make_case()
    one, half = case.ours(torch.float32), case.ours(torch.float32, scale=0.5)
    assert torch.equal(half.dx, one.dx * 0.5)
    assert torch.equal(half.dw, one.dw * 0.5)


def test_the_same_numbers_every_time() -> None:
    case = make_case(vocab_size=5001)
    first, second = case.ours(torch.bfloat16), case.ours(torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_only_what_requires_a_gradient_gets_one(frozen: str) -> None:
    case = make_case()
    x, weight = case.x.requires_grad_(frozen != "x"), case.weight.requires_grad_(frozen != "weight")
    head_loss(x, weight, case.targets, dtype=torch.float32).backward()  # type: ignore[no-untyped-call]
    assert (x.grad is None) == (frozen == "x")
    assert (weight.grad is None) == (frozen == "weight")
    exact = case.exact()
    right, mine = (exact.dw, weight.grad) if frozen == "x" else (exact.dx, x.grad)
    assert mine is not None
    torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-6)


def test_without_gradients_the_loss_is_the_same() -> None:
    case = make_case()
    expected = case.ours(torch.bfloat16).loss
    case.x.requires_grad_()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            loss = head_loss(case.x, case.weight, case.targets, dtype=torch.bfloat16)
        assert torch.equal(loss, expected)
        assert not loss.requires_grad
        assert torch.equal(case.ours(torch.bfloat16).loss, expected)


def test_twice_in_one_graph_with_a_tied_weight_and_backward_twice() -> None:
    case = make_case()
    weight = case.weight.clone().requires_grad_()
    x = F.embedding(case.targets.roll(1), weight)
    loss = sum(head_loss(x * factor, weight, case.targets, dtype=torch.float32) for factor in (1.0, 2.0))
    assert isinstance(loss, Tensor)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    loss.backward()  # type: ignore[no-untyped-call]
    exact = case.weight.double().requires_grad_()
    rows = F.embedding(case.targets.roll(1), exact)
    right = sum(F.cross_entropy(rows * f @ exact.T, case.targets, reduction="sum") for f in (1.0, 2.0))
    assert isinstance(right, Tensor)
    (2 * right).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(weight.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_under_checkpoint_and_autocast_nothing_changes(use_reentrant: bool) -> None:
    case = make_case()
    expected = case.ours(torch.float32)
    x, weight = case.x.requires_grad_(), case.weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = checkpoint(
            lambda a, b: head_loss(a, b, case.targets, dtype=torch.float32), x, weight, use_reentrant=use_reentrant
        )
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert weight.grad is not None
    assert torch.equal(loss, expected.loss)
    assert torch.equal(x.grad, expected.dx)
    assert torch.equal(weight.grad, expected.dw)


def test_bfloat16_positions_get_their_gradient_in_bfloat16() -> None:
    case = make_case()
    case = case._replace(x=case.x.bfloat16())
    ours = case.ours(torch.bfloat16)
    assert ours.dx.dtype == torch.bfloat16
    assert ours.dw.dtype == torch.float32
    assert_near(ours, case.exact(), torch.bfloat16)
