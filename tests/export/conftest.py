"""Models small enough to be exported in a blink, with real tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers as theirs
import torch

from gptcli.bases.base import Base
from gptcli.chat_template import ChatTemplate
from gptcli.config import ModelConfig
from gptcli.export.card import Card, make_card
from gptcli.model import GPT
from gptcli.pretrained_tokenizer import PretrainedTokenizer
from gptcli.tokenizer import Tokenizer, char_tokenizer, gpt2_tokenizer, train_bpe

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", "bias": True},
    "gpt2 without bias": {"family": "gpt2"},
    "gpt2 with exact gelu": {"family": "gpt2", "bias": True, "gelu": "exact"},
    "modern": {"n_kv_head": 2, "head_dim": 12},
    "modern untied": {"tie_embeddings": False, "rope_theta": 1e6},
}


@pytest.fixture(scope="session")
def real_texts(shared_data: Path) -> list[str]:
    """A play and a novel, with the line ends they have."""
    files = (shared_data / "tinyshakespeare.txt", shared_data / "gutenberg" / "863-0.txt")
    return [path.read_bytes().decode("utf-8-sig") for path in files]


@pytest.fixture(scope="session")
def tokenizers(real_texts: list[str], shared_data: Path) -> dict[str, Tokenizer]:
    """One tokenizer of each kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
        gpt2 = gpt2_tokenizer()
    return {
        "bpe": train_bpe(real_texts, 700),
        "gpt2": gpt2,
        "char": char_tokenizer(real_texts, end_of_text=True),
        "char without end": char_tokenizer(real_texts[:1], end_of_text=False),
    }


@pytest.fixture(scope="session")
def pretrained() -> PretrainedTokenizer:
    """A tokenizer of Qwen's making, with special tokens one of which ends a text."""
    learner = theirs.Tokenizer(theirs.models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = theirs.pre_tokenizers.Split(theirs.Regex(pattern), "isolated")
    level = theirs.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.normalizer = theirs.normalizers.NFC()
    learner.pre_tokenizer = theirs.pre_tokenizers.Sequence([split, level])
    learner.decoder = theirs.decoders.ByteLevel()
    trainer = theirs.trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=theirs.pre_tokenizers.ByteLevel.alphabet()
    )
    learner.train_from_iterator(["the cat and the mat and 1234 hats that sat"] * 9, trainer)
    learner.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    end = learner.token_to_id("<|im_end|>")
    return PretrainedTokenizer(json.loads(learner.to_str()), end)


def random_base(shape: str, tokenizer: Tokenizer, *, chat: bool = False, block_size: int = 48) -> Base:
    """A model whose weights, norms and biases included, are all drawn at random."""
    config = ModelConfig(
        n_layer=2, n_head=4, n_embd=32, block_size=block_size, vocab_size=tokenizer.vocab_size, **SHAPES[shape]
    )
    torch.manual_seed(3)
    model = GPT(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return Base("tiny", "run", config, tokenizer, model.state_dict(), chat=ChatTemplate() if chat else None)


@pytest.fixture
def base(tokenizers: dict[str, Tokenizer]) -> Base:
    """A model with a chat template and a vocabulary of its own."""
    return random_base("modern", tokenizers["bpe"], chat=True)


@pytest.fixture
def written(base: Base, tmp_path: Path) -> Callable[[Callable[[Base, Path, str, Card], None]], Path]:
    """Calls a writer and returns the folder it wrote."""

    def write(writer: Callable[[Base, Path, str, Card], None]) -> Path:
        folder = tmp_path / "written"
        folder.mkdir()
        writer(base, folder, "float32", make_card(base, None, "float32"))
        return folder

    return write
