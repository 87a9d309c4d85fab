from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from gptcli.bases.base import Base, LazyWeights
from gptcli.errors import ExportError
from gptcli.export.weights import convert_weight, convert_weights


def test_weights_are_converted_when_they_are_read(base: Base) -> None:
    half, same = convert_weights(base, "bfloat16"), convert_weights(base, None)
    assert list(half.weights) == list(same.weights) == list(base.weights)
    for name, tensor in base.weights.items():
        assert torch.equal(half.weights[name], tensor.to(torch.bfloat16))
        assert same.weights[name] is tensor


@pytest.mark.parametrize(
    ("value", "dtype", "says", "hint"),
    [
        (70_000.0, "float16", "w has numbers too large for float16", "--dtype bfloat16"),
        (float("nan"), "float32", "w is not finite: the training diverged", "--checkpoint latest"),
        (float("-inf"), "float16", "w is not finite: the training diverged", "--checkpoint latest"),
    ],
)
def test_numbers_that_cannot_be_kept_are_refused(value: float, dtype: str, says: str, hint: str) -> None:
    with pytest.raises(ExportError, match=says) as caught:
        convert_weight("w", torch.tensor([1.0, value]), dtype)
    assert hint in caught.value.hint


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), SafetensorError("header too large")])
def test_weight_that_cannot_be_read_is_named(error: Exception, base: Base) -> None:
    def fail() -> Tensor:
        raise error

    broken = dataclasses.replace(base, weights=LazyWeights({"norm.weight": fail}))
    weights = convert_weights(broken, None).weights
    with pytest.raises(
        ExportError, match=r"norm\.weight of tiny cannot be read \((Input/output error|header too large)"
    ):
        weights["norm.weight"]
