"""gptcli's own format: safetensors by our names, with the configuration and the whole tokenizer beside them.

Every model of gptcli fits into it, and ``--from DIR`` and ``gptcli sample DIR`` read it (``bases.exported``).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from gptcli.bases.base import Base
from gptcli.bases.exported import FORMAT_VERSION, open_exported
from gptcli.data_facts import without_folders
from gptcli.errors import ExportError
from gptcli.export.card import Card
from gptcli.files import atomic_write, write_json
from gptcli.tokenizer import save_tokenizer

MODEL, WEIGHTS, TOKENIZER = "model.json", "model.safetensors", "tokenizer.json"
LOADING = """
```
gptcli sample DIR --prompt "..."
gptcli finetune CORPUS --from DIR
```

`DIR` is this folder. `model.safetensors` has the weights by gptcli's own names, `model.json` the shape of the network.
"""


def write_own(base: Base, folder: Path, dtype: str, card: Card) -> None:
    """Write weights as ``base`` gives them, configuration, tokenizer and card."""
    model = base.config.model_dump(mode="json")
    chat = asdict(base.chat) if base.chat is not None else None
    origin = {key: without_folders(value) if isinstance(value, str) else value for key, value in base.origin.items()}
    about = {"model": model, "dtype": dtype, "chat": chat, "origin": origin}
    write_json(folder / MODEL, {"format_version": FORMAT_VERSION, **about})
    save_tokenizer(base.tokenizer, folder / TOKENIZER)
    with atomic_write(folder / "README.md") as file:
        file.write(card.markdown(LOADING).encode())
    save_file({name: base.weights[name].contiguous() for name in base.weights}, folder / WEIGHTS)
    shutil.copymode(folder / MODEL, folder / WEIGHTS)  # safetensors makes it the user's alone


def check_own(base: Base, folder: Path, dtype: str) -> tuple[str, ...]:
    """Open the folder as ``--from`` does and compare it, bit by bit; ``ExportError`` for any difference."""
    found = open_exported(folder, base.name)
    problems = [
        what
        for what, same in (
            ("the configuration", found.config == base.config),
            ("the chat template", found.chat == base.chat),
            ("the tokenizer", found.tokenizer.fingerprint == base.tokenizer.fingerprint),
        )
        if not same
    ]
    names = sorted(set(base.weights) | set(found.weights))
    problems += [name for name in names if not _equal(found, base, name, getattr(torch, dtype))]
    if problems:
        raise ExportError(f"What was written does not read back the same: {', '.join(problems[:8])}.")
    return (f"All {len(names)} tensors in {dtype}, the tokenizer and the configuration read back the same.",)


def _equal(found: Base, base: Base, name: str, dtype: torch.dtype) -> bool:
    if name not in found.weights or name not in base.weights:
        return False
    tensor = found.weights[name]
    return tensor.dtype == dtype and torch.equal(tensor, base.weights[name])
