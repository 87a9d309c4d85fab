"""A model as nanoGPT's ``ckpt.pt``, with its ``meta.pkl`` for characters: what its sample.py and train.py load.

It owns what such a checkpoint holds, in nanoGPT's names. Which tensors those are is known to ``bases.nanogpt``, which
also reads the file back.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from gptcli.bases.base import Base, build_model
from gptcli.bases.nanogpt import EMBEDDING, GPT2_VOCAB_SIZE, HEAD, nanogpt_names, open_nanogpt
from gptcli.bases.nanogpt_meta import meta_pickle
from gptcli.chat_template import ChatTemplate
from gptcli.errors import ExportError
from gptcli.export.card import Card
from gptcli.files import atomic_write
from gptcli.tokenizer import CharTokenizer, Tokenizer

CHECKPOINT, META, README = "ckpt.pt", "meta.pkl", "README.md"
# Largest difference of a logit, in nats, that another order of the same sums makes.
TOLERANCE = 1e-4
N_COMPARED = 64
TRAIN_HINT = "Train one for it: gptcli train CORPUS --set model.family=gpt2 --set data.tokenizer=char"

GPT2_LOADING = """
In nanoGPT's folder, where `DIR` is this one:

```
python sample.py --out_dir=DIR --device=cpu
```
"""
CHAR_LOADING = """
The characters go where nanoGPT's `sample.py` looks for them. In its folder, where `DIR` is this one:

```
mkdir -p data/NAME
cp DIR/meta.pkl data/NAME/
python sample.py --out_dir=DIR --device=cpu
```
"""
RESUMING = """
`python train.py --init_from=resume --out_dir=DIR --dataset=YOURS` trains it further on data prepared with the same
tokens, from iteration 0: the optimizer in the file has nanoGPT's settings and no memory of the steps before.
"""


def write_nanogpt(base: Base, folder: Path, dtype: str, card: Card) -> None:
    """Write ``ckpt.pt`` in ``dtype``, ``meta.pkl`` for characters, and the card.

    Raises ``ExportError``, before anything is written, for a model that nanoGPT's model.py cannot compute or whose
    tokens nanoGPT does not have.
    """
    _check_family(base)
    _check_tokenizer(base.tokenizer)
    loading, settings = GPT2_LOADING, {}
    if isinstance(base.tokenizer, CharTokenizer):
        settings["dataset"] = dataset = _dataset(base, card)
        loading = CHAR_LOADING.replace("NAME", dataset)
        with atomic_write(folder / META) as file:
            file.write(meta_pickle(_characters(base.tokenizer)))
    weights = {
        their: base.weights[ours].to(getattr(torch, dtype)) for ours, their in nanogpt_names(base.config).items()
    }
    checkpoint = {
        "model": {**weights, HEAD: weights[EMBEDDING]},
        "optimizer": _fresh_optimizer(weights),
        "model_args": {
            key: getattr(base.config, key)
            for key in ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
        },
        "iter_num": 0,
        "best_val_loss": 1e9,  # what train.py starts from
        "config": settings,
    }
    with atomic_write(folder / CHECKPOINT) as file:
        _save(checkpoint, file)
    with atomic_write(folder / README) as file:
        file.write(card.markdown(loading + RESUMING, tags=("nanogpt",)).encode())


def _save(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    """Write the checkpoint; raises ``OSError`` for a full disk, which torch hides behind an error of its own."""
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _check_family(base: Base) -> None:
    config = base.config
    if config.family != "gpt2":
        raise ExportError(
            f"nanoGPT computes GPT-2's network; {base.name} is of family {config.family}.",
            f"{TRAIN_HINT}; or take this one elsewhere: --format hf",
        )
    if config.inner_width != 4 * config.n_embd:
        raise ExportError(
            f"nanoGPT's MLP is 4 x n_embd wide, {4 * config.n_embd} here; that of {base.name} {config.inner_width}.",
            "Choose another format: --format hf",
        )


def _check_tokenizer(tokenizer: Tokenizer) -> None:
    gpt2 = tokenizer.name == "gpt2" and tokenizer.vocab_size == GPT2_VOCAB_SIZE
    if not gpt2 and not isinstance(tokenizer, CharTokenizer):
        raise ExportError(
            f"nanoGPT knows GPT-2's tokens and characters; this model has the tokenizer {tokenizer.name}.",
            f"{TRAIN_HINT}, or with =gpt2; or take this one elsewhere: --format hf",
        )


def _dataset(base: Base, card: Card) -> str:
    """Return the name of the folder in nanoGPT's ``data/`` for the characters."""
    dataset = str(base.origin.get("dataset", ""))
    return dataset if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", dataset) else card.name[:100]


def _characters(tokenizer: CharTokenizer) -> tuple[str, ...]:
    return tuple(tokenizer.token_bytes(token_id).decode() for token_id in range(tokenizer.vocab_size))


def _fresh_optimizer(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return the state of nanoGPT's AdamW before its first step: matrices decay, the rest does not."""
    counts = [sum((tensor.dim() >= 2) is wide for tensor in weights.values()) for wide in (True, False)]
    groups = [
        {"params": [nn.Parameter(torch.empty(0)) for _ in range(count)], "weight_decay": decay}
        for count, decay in zip(counts, (0.1, 0.0), strict=True)
    ]
    return torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95)).state_dict()


def check_nanogpt(base: Base, folder: Path, dtype: str) -> tuple[str, ...]:
    """Open the checkpoint as one of nanoGPT's and compare every tensor, the tokens and the logits of some.

    Returns what was found equal, with figures, and what nanoGPT has no place for. It computes GELU exactly where GPT-2
    approximates it. A model of the approximation is compared with the exact one, and how much that moves its logits is
    told. Raises ``ExportError`` for any other difference.
    """
    gpt2 = None if isinstance(base.tokenizer, CharTokenizer) else base.tokenizer
    again = open_nanogpt(folder / CHECKPOINT, tokenizer=gpt2)
    if again.tokenizer.fingerprint != base.tokenizer.fingerprint:
        raise ExportError("The tokens that were written are not the model's.")
    _check_weights(again, base, getattr(torch, dtype))
    exact = dataclasses.replace(base, config=base.config.model_copy(update={"gelu": "exact"}))
    theirs = _logits(again)
    difference = _largest(theirs, _logits(exact))
    if not difference <= TOLERANCE:
        raise ExportError(f"The checkpoint that was written gives other logits, by up to {difference:.2g}.")
    checks = [
        f"All {len(base.weights)} tensors in {dtype} read back the same.",
        f"Loaded back by nanoGPT's formulas in {dtype}: the logits differ by at most {difference:.1g}.",
    ]
    if base.config.gelu != "exact":
        moved = _largest(theirs, _logits(base))
        checks.append(
            "nanoGPT computes GELU exactly, where this model approximates it as GPT-2 does: "
            f"its logits differ by up to {moved:.1g}."
        )
    if isinstance(base.tokenizer, CharTokenizer):
        place = f"data/{again.origin['dataset']}/{META}"
        checks.append(f"nanoGPT's sample.py looks for the characters at {place}: copy {META} there.")
    if base.chat is not None:
        checks.append(
            "The chat template stays behind, which nanoGPT has no place for: a prompt has to be written as "
            f"{_chat_prompt(base.chat)!r}."
        )
    return tuple(checks)


def _check_weights(again: Base, base: Base, dtype: torch.dtype) -> None:
    """Raise ``ExportError`` that names the tensors whose numbers are not those of ``base``, each in ``dtype``."""
    names = sorted(set(base.weights) | set(again.weights))
    different = [name for name in names if not _same(again, base, name, dtype)]
    if different:
        raise ExportError(f"What was written does not read back the same: {', '.join(different[:8])}.")


def _same(again: Base, base: Base, name: str, dtype: torch.dtype) -> bool:
    if name not in again.weights or name not in base.weights:
        return False
    found = again.weights[name]
    return found.dtype == dtype and torch.equal(found, base.weights[name].to(dtype))


def _chat_prompt(chat: ChatTemplate) -> str:
    return f"{chat.user_start}...{chat.user_end}{chat.answer_start}"


@torch.inference_mode()
def _logits(base: Base) -> Tensor:
    """Return the logits of some tokens, the same for equal shapes."""
    length = min(base.config.block_size, N_COMPARED)
    tokens = torch.arange(2 * length).mul(7919).remainder(base.tokenizer.vocab_size).view(2, length)
    logits: Tensor = build_model(base)(tokens)
    return logits


def _largest(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())
