"""Folders that ``gptcli export --format safetensors`` wrote: weights by our own names, read tensor by tensor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from gptcli.bases.base import Base
from gptcli.bases.folder import read_stored
from gptcli.bases.folder_tokenizer import in_a_line
from gptcli.chat_template import ChatTemplate
from gptcli.checkpoints import check_shapes
from gptcli.config import ModelConfig
from gptcli.errors import FormatError
from gptcli.files import read_json
from gptcli.model import GPT
from gptcli.tokenizer import load_tokenizer

FORMAT_VERSION = 1


def open_exported(folder: Path, name: str) -> Base:
    """Open a folder with ``model.json``; ``FormatError`` when it is damaged or its parts do not fit together."""
    about = folder / "model.json"
    value = read_json(about, format_version=FORMAT_VERSION, what="the description of an exported model")
    try:
        config = ModelConfig.model_validate(value.get("model"))
        chat = _template(value.get("chat"))
    except (ValidationError, TypeError) as error:
        raise FormatError(
            f"{about}: the description of an exported model is damaged ({in_a_line(error)}).",
            "Make the folder again: gptcli export RUN --format safetensors",
        ) from error
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    if config.vocab_size != tokenizer.vocab_size:
        raise FormatError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model has {config.vocab_size}."
        )
    shapes, weights = read_stored([folder / "model.safetensors"])
    with torch.device("meta"):  # without rotary tables, whose length no tensor vouches for
        model = GPT(config)
    check_shapes(model, {name: torch.Size(shape) for name, shape in shapes.items()}, str(folder))
    origin: dict[str, str | int] = {"folder": str(folder)}
    if isinstance(source := value.get("origin"), dict):
        origin |= {str(key): item for key, item in source.items() if isinstance(item, str | int) and key != "folder"}
    return Base(name, "gptcli", config, tokenizer, weights, origin, chat=chat)


def _template(value: Any) -> ChatTemplate | None:  # noqa: ANN401 - as it was in the file
    """Return the chat template of a description; raises ``TypeError`` for anything but strings."""
    if value is None:
        return None
    template = ChatTemplate(**value)
    if wrong := [name for name, part in asdict(template).items() if not isinstance(part, str)]:
        raise TypeError(f"chat.{wrong[0]} should be a string")
    return template
