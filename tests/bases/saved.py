"""Models and tokenizers as users of transformers save them: random, small, and of the real classes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from gptcli.config import ModelConfig
from gptcli.interchange import to_transformers_config

# Of Qwen/Qwen3-0.6B-Base's tokenizer.json.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_ADDED = ("<tool_call>", "<think>")
GPT2 = ModelConfig(family="gpt2", n_layer=2, n_head=2, n_embd=8, block_size=16, vocab_size=50_257, bias=True)
MODERN = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=16, block_size=16, vocab_size=50_257)


def make_theirs(config: ModelConfig) -> Any:  # noqa: ANN401 - transformers' models have no types
    """Return transformers' random model of a configuration, in evaluation mode."""
    torch.manual_seed(5)
    theirs_class: Any = transformers.GPT2LMHeadModel if config.family == "gpt2" else transformers.Qwen3ForCausalLM
    return theirs_class(to_transformers_config(config)).eval()


def save_model(config: ModelConfig, folder: Path, **how: Any) -> Any:  # noqa: ANN401
    """Save a random model as a user of transformers does; returns theirs."""
    theirs = make_theirs(config)
    theirs.save_pretrained(folder, **how)
    return theirs


def rewrite_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def qwen_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer of Qwen3's kind: NFC, its pattern, bytes, and special tokens above the vocabulary."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, initial_alphabet=alphabet)
    )
    learner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in QWEN_SPECIAL])
    learner.add_tokens([AddedToken(token, normalized=False) for token in QWEN_ADDED])
    return learner


def save_tokenizer_of_qwen(tokenizer: Tokenizer, folder: Path) -> Any:  # noqa: ANN401
    """Save a tokenizer as transformers saves Qwen3's; returns what ``AutoTokenizer`` makes of the folder."""
    names = dict.fromkeys(("eos_token", "pad_token"), QWEN_SPECIAL[0])
    theirs_class: Any = transformers.PreTrainedTokenizerFast
    theirs = theirs_class(tokenizer_object=tokenizer, **names)
    theirs.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)
