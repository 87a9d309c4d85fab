from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gptcli import matrices
from gptcli.errors import DeviceError
from gptcli.matrices import (
    AdaptedMatrix,
    Bfloat16Matrix,
    Float16Matrix,
    Float32Matrix,
    Int8Matrix,
    Matrix,
    StoredMatrix,
    WeightFormat,
    converted,
    stored,
)

pytestmark = pytest.mark.usefixtures("two_threads")
CPU = torch.device("cpu")
# Odd, prime and single numbers of rows and columns; small enough for numpy, and large enough for the threads of torch.
SHAPES = pytest.mark.parametrize("shape", [(7, 3), (1, 1), (65, 16), (384, 128), (509, 40), (1031, 130), (600, 256)])
# What rounding may cost, as a share of the largest result.
TOLERANCES: dict[WeightFormat, float] = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2, "int8": 2e-2}
FORMATS = pytest.mark.parametrize("weight_format", list(TOLERANCES))


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """What a row gives must not hang on the thread that multiplies it, which one thread alone cannot show."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return found.dtype == torch.float32 and bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@SHAPES
@FORMATS
@pytest.mark.parametrize("biased", [True, False])
def test_every_format_gives_the_products_of_a_linear_layer(
    shape: tuple[int, int], weight_format: WeightFormat, biased: bool
) -> None:
    weight, bias = values(*shape), values(shape[0], seed=1) if biased else None
    matrix = converted(weight, bias, weight_format, CPU)
    for n in (1, 2, 5, 70):
        x = values(n, shape[1], seed=n)
        expected = F.linear(x, weight, bias)
        assert close(matrix.rows(x), expected, TOLERANCES[weight_format])
        assert close(torch.from_numpy(matrix.step(x.numpy())), expected, TOLERANCES[weight_format])


@SHAPES
@pytest.mark.parametrize("weight_format", ["float16", "bfloat16", "int8"])
def test_rows_of_narrow_formats_never_depend_on_their_neighbours(
    shape: tuple[int, int], weight_format: WeightFormat
) -> None:
    matrix = converted(values(*shape), None, weight_format, CPU)
    x = values(9, shape[1], seed=1)
    together = matrix.rows(x)
    for begin, end in ((0, 1), (1, 3), (3, 9), (0, 8)):
        assert torch.equal(matrix.rows(x[begin:end]), together[begin:end])
    x[1:] *= 1000
    assert torch.equal(matrix.rows(x)[:1], together[:1])


@pytest.mark.parametrize("weight_format", ["float16", "bfloat16", "int8"])
def test_storing_weights_that_fit_the_format_costs_nothing(weight_format: WeightFormat) -> None:
    weight = torch.randint(-127, 128, (96, 64), generator=torch.Generator().manual_seed(0)).float()
    weight[:, 0] = 127.0  # so that int8's scale is 1
    x = torch.eye(64)
    assert torch.equal(converted(weight, None, weight_format, CPU).rows(x).round(), weight.t())


def test_int8_keeps_rows_of_zeros_and_of_very_different_sizes() -> None:
    weight = values(4, 32) * torch.tensor([[0.0], [1e-6], [1.0], [1e4]])
    found, expected = Int8Matrix(weight, None).rows(torch.eye(32)), weight.t()
    assert not found[:, 0].any()
    assert ((found - expected).abs() <= expected.abs().amax(0) / 100).all()


def test_int8_of_many_rows_is_that_of_few() -> None:
    matrix = Int8Matrix(values(300, 512), None)
    x = values(matrices.MANY_ROWS, 512, seed=1)
    few = torch.cat([matrix.rows(x[n : n + 10]) for n in range(0, len(x), 10)])
    assert close(matrix.rows(x), few, 1e-2)


def test_float32_weights_are_used_as_they_lie() -> None:
    weight = values(8, 4)
    for matrix in (stored(weight, None), converted(weight, None, "float32", CPU)):
        x = values(1, 4, seed=1)
        before = matrix.step(x.numpy()).copy()
        with torch.no_grad():
            weight *= 2
        assert np.array_equal(matrix.step(x.numpy()), before * 2)
        assert torch.equal(matrix.rows(x), F.linear(x, weight))


@pytest.mark.parametrize("shape", [(12, 8), (600, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adapters_add_their_product(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight, a, b = values(*shape).to(dtype), values(2, shape[1], seed=1), values(shape[0], 2, seed=2)
    x = values(3, shape[1], seed=3)
    expected = F.linear(x, weight.float() + 0.5 * b @ a)
    matrix = AdaptedMatrix(stored(weight, None), a, b, 0.5)
    assert close(matrix.rows(x), expected, 1e-2 if dtype != torch.float32 else 1e-5)
    assert close(torch.from_numpy(matrix.step(x[:1].numpy())), expected[:1], 2e-2 if dtype != torch.float32 else 1e-5)


def kind(matrix: Matrix) -> type:
    return type(matrix)


@pytest.mark.parametrize(
    ("weight_format", "probe", "fast"),
    [
        ("float16", "has_fbgemm", Float16Matrix),
        ("bfloat16", "has_bfloat16", Bfloat16Matrix),
        ("int8", "has_int8", Int8Matrix),
    ],
)
def test_formats_do_without_kernels_that_torch_does_not_have(
    weight_format: WeightFormat, probe: str, fast: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x = values(20, 32), values(3, 32, seed=1)
    if getattr(matrices, probe)():
        assert kind(converted(weight, None, weight_format, CPU)) is fast
    monkeypatch.setattr(matrices, probe, lambda: False)
    if weight_format == "int8":
        with pytest.raises(DeviceError, match=r"int8 .* cpu"):
            converted(weight, None, weight_format, CPU)
        return
    plain = converted(weight, None, weight_format, CPU)
    assert kind(plain) is StoredMatrix
    assert close(plain.rows(x), F.linear(x, weight), TOLERANCES[weight_format])


def test_float32_does_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias, x = values(600, 256), values(600, seed=1), values(5, 256, seed=2)
    expected = F.linear(x, weight, bias)
    assert close(Float32Matrix(weight, bias).rows(x), expected, 1e-6)
    monkeypatch.setattr(matrices, "has_onednn", lambda: False)
    assert torch.equal(Float32Matrix(weight, bias).rows(x), expected)


def test_weights_too_large_for_float16_are_refused() -> None:
    weight = values(4, 4)
    weight[1, 2] = 70_000.0
    with pytest.raises(DeviceError, match="float16"):
        converted(weight, None, "float16", CPU)
