"""A model made ready for writing: steps of one token, a cache, weights in the number format that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from gptcli.config import ModelConfig
from gptcli.model import GPT, empty_model

WeightFormat = Literal["float32", "bfloat16", "float16", "int8"]


class Decoder:
    """A model made ready for writing."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        *,
        weight_format: WeightFormat = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        self.model = empty_model(config)
        self.model.load_state_dict({name: weights[name].float() for name in weights}, assign=True)
        self.model = self.model.to(device).eval()

    @classmethod
    def of(cls, model: GPT) -> Decoder:
        """Return a decoder around a model's own weights."""
        decoder = object.__new__(cls)
        decoder.config, decoder.model = model.config, model
        return decoder
