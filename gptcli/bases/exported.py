"""Folders that ``gptcli export --format safetensors`` wrote: weights by our own names, read tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError

from gptcli.bases.base import Base
from gptcli.bases.folder import read_stored
from gptcli.chat_template import ChatTemplate
from gptcli.checkpoints import check_shapes
from gptcli.config import ModelConfig
from gptcli.errors import FormatError
from gptcli.files import read_json
from gptcli.interchange import MAX_LAYERS
from gptcli.model import empty_model
from gptcli.tokenizer import load_tokenizer

FORMAT_VERSION = 1


def open_exported(folder: Path, name: str) -> Base:
    """Open a folder with ``model.json``; ``FormatError`` when it is damaged or its parts do not fit together."""
    about = folder / "model.json"
    value = read_json(about, format_version=FORMAT_VERSION, what="the description of an exported model")
    try:
        config = ModelConfig.model_validate(value.get("model"))
        chat = ChatTemplate(**value["chat"]) if value.get("chat") is not None else None
    except (ValidationError, TypeError) as error:
        raise FormatError(f"{about}: the description of an exported model is damaged.") from error
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    if config.vocab_size != tokenizer.vocab_size:
        raise FormatError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model has {config.vocab_size}."
        )
    shapes, weights = read_stored([folder / "model.safetensors"])
    if config.n_layer > max(len(shapes), MAX_LAYERS):  # before a network of any size is laid out
        raise FormatError(f"{folder}: there are {len(shapes)} tensors for {config.n_layer:,} layers.")
    check_shapes(empty_model(config), {name: torch.Size(shape) for name, shape in shapes.items()}, str(folder))
    origin: dict[str, str | int] = {"folder": str(folder)}
    if isinstance(source := value.get("origin"), dict):
        origin |= {str(key): item for key, item in source.items() if isinstance(item, str | int) and key != "folder"}
    return Base(name, "gptcli", config, tokenizer, weights, origin, chat=chat)
