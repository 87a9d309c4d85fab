"""Models in which every weight matters, and a look at how they are used."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gptcli.config import ModelConfig
from gptcli.decoder import Decoder
from gptcli.matrices import Floats, Matrix
from gptcli.model import GPT


def random_model(config: ModelConfig, spread: float, seed: int = 3) -> GPT:
    """Return a model of random weights: none is the zero or one of an initialisation, norms and biases included.

    A large ``spread`` makes a model with opinions, whose likeliest token stands out.
    """
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * spread + (1.0 if p.dim() < 2 else 0.0))
    return model.eval()


class Counting:
    """A matrix that notes how many rows it was multiplied with."""

    def __init__(self, matrix: Matrix, counts: list[int]) -> None:
        self.matrix, self.counts = matrix, counts

    def rows(self, x: Tensor) -> Tensor:
        self.counts.append(len(x))
        return self.matrix.rows(x)

    def step(self, x: Floats) -> Floats:
        self.counts.append(len(x))
        return self.matrix.step(x)


def counted(decoder: Decoder) -> list[int]:
    """Note how many positions each read goes through: the rows that the first layer is asked for."""
    counts: list[int] = []
    first, *others = decoder.parts.layers
    decoder.parts = replace(decoder.parts, layers=[replace(first, qkv=Counting(first.qkv, counts)), *others])
    return counts
