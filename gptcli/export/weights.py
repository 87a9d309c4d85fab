"""Weights on their way into a file: read one by one, and brought into a number format that can hold them.

It knows no format of files; which names the tensors get there is the business of the formats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from safetensors import SafetensorError
from torch import Tensor

from gptcli.bases.base import Base, LazyWeights
from gptcli.errors import ExportError

ANOTHER = "Another checkpoint may be whole: gptcli export RUN --checkpoint latest (or best)"


def convert_weight(name: str, tensor: Tensor, dtype: str) -> Tensor:
    """Return ``tensor`` in a number format; raises ``ExportError`` for numbers that are no numbers or too large."""
    converted = tensor.to(getattr(torch, dtype))
    if converted.isfinite().all():
        return converted
    if tensor.isfinite().all():
        raise ExportError(f"The weight {name} has numbers too large for {dtype}.", "Take --dtype bfloat16 or float32.")
    raise ExportError(f"The weight {name} is not finite: the training diverged.", ANOTHER)


def convert_weights(base: Base, dtype: str | None) -> Base:
    """Return ``base`` with each weight converted when it is read; ``dtype`` None leaves them as they are stored.

    A weight that cannot be read raises ``ExportError`` then, as one does that ``dtype`` cannot hold.
    """

    def maker(name: str) -> Callable[[], Tensor]:
        def make() -> Tensor:
            tensor = _read(base, name)
            return tensor if dtype is None else convert_weight(name, tensor, dtype)

        return make

    return dataclasses.replace(base, weights=LazyWeights({name: maker(name) for name in base.weights}))


def _read(base: Base, name: str) -> Tensor:
    try:
        return base.weights[name]
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise ExportError(f"The weight {name} of {base.name} cannot be read ({why}).", ANOTHER) from error
