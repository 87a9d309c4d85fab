"""What every source of weights is opened as: a configuration, a tokenizer, and tensors that are read when asked for.

Names and shapes are those of ``GPT(config).state_dict()``. Where they come from is the business of the other modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gptcli.chat_template import ChatTemplate
from gptcli.config import ModelConfig
from gptcli.model import GPT, empty_model
from gptcli.tokenizer import Tokenizer

BaseKind = Literal["published", "folder", "run", "nanogpt", "gptcli"]


class LazyWeights(Mapping[str, Tensor]):
    """Tensors by name, each made by a function of its own whenever it is asked for, and kept by nobody.

    That way weights larger than the memory left can be converted one by one.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


@dataclass(frozen=True, slots=True)
class Base:
    """Weights to begin from, and everything that is needed to use them."""

    name: str
    """As the user typed it."""
    kind: BaseKind
    config: ModelConfig
    """``vocab_size`` is the tokenizer's: rows that only pad a vocabulary are left out."""
    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]
    """By the names of ``GPT(config).state_dict()``, in the number format they are stored in.

    They may be mapped from files and are not to be changed; ``build_model`` makes copies that can be."""
    origin: Mapping[str, str | int] = field(default_factory=dict)
    """Where exactly they come from: repository and revision, file and SHA-256, or run and step."""
    notes: tuple[str, ...] = ()
    """What a user should know, each a sentence."""
    chat: ChatTemplate | None = None
    """The template of a run that was tuned on conversations."""
    val_loss: float | None = None
    """Of a run's checkpoint, in nats a token, where it was evaluated."""


def build_model(base: Base, *, dtype: torch.dtype | None = torch.float32) -> GPT:
    """Return the model in evaluation mode around copies of its weights; ``dtype`` None keeps the stored ones."""
    model = empty_model(base.config)
    weights = {name: base.weights[name].to(dtype=dtype, copy=True) for name in base.weights}
    model.load_state_dict(weights, assign=True)
    return model.eval()
