"""Whisper models of a few kilobytes in CTranslate2's format: one with random weights, others that say a fixed text.

The vocabulary has the size and the special tokens of the real one, since the runtime counts on them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

WIDTH = 64
TEXT_TOKENS = 50_257
LANGUAGES = 99
VOCABULARY = 51_865
TIMESTAMPS = VOCABULARY - 1501
# How loudly a scripted model says its next token against the one it was given.
LOUDNESS = 10.0

Line = tuple[float, float, str]


def save_tiny_whisper(folder: Path, script: Sequence[Line] | None = None, *, speech: bool = True) -> Path:
    """Save a model that says ``script``, lines of (start, end, text), whatever it hears; random words without one.

    Without ``speech`` it is sure that nobody speaks, and says its lines all the same, as the real one does.
    """
    import torch
    from ctranslate2.converters import TransformersConverter
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    original = folder / "transformers"
    tokenizer = _save_tokenizer(original)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=WIDTH,
        decoder_ffn_dim=WIDTH,
    )
    model = WhisperForConditionalGeneration(config)
    if script is not None:
        _teach(model, _script_tokens(tokenizer, script, "<|en|>" if speech else "<|nocaptions|>"))
    ids = {token: tokenizer.token_to_id(token) for token in _languages()}
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        lang_to_id=ids, suppress_tokens=[], begin_suppress_tokens=[]
    )
    model.save_pretrained(original)
    converted = folder / "ctranslate2"
    TransformersConverter(str(original), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
        str(converted), quantization="int8"
    )
    return converted


def _teach(model: PreTrainedModel, says: Sequence[int]) -> None:
    """Make the decoder deaf, and let each of its positions ask for the next token of the script."""
    import torch

    decoder = model.model.decoder
    with torch.no_grad():
        decoder.embed_tokens.weight.normal_()
        for layer in decoder.layers:
            for output in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                output.weight.zero_()
                output.bias.zero_()
        decoder.embed_positions.weight.zero_()
        for position, token in enumerate(says):
            decoder.embed_positions.weight[position] = LOUDNESS * decoder.embed_tokens.weight[token]


def _script_tokens(tokenizer: Tokenizer, script: Sequence[Line], first: str) -> list[int]:
    """Return what each position of the decoder says: language, or that nobody speaks, then the task, then the text."""
    says = tokenizer.encode(f"{first}<|transcribe|>", add_special_tokens=False).ids
    for start, end, text in script:
        says.append(TIMESTAMPS + round(start / 0.02))
        says += tokenizer.encode(text, add_special_tokens=False).ids
        says.append(TIMESTAMPS + round(end / 0.02))
    return says + tokenizer.encode("<|endoftext|>", add_special_tokens=False).ids


def _languages() -> list[str]:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    return [f"<|{code}|>" for code in _LANGUAGE_CODES[:LANGUAGES]]


def _save_tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", letter) for letter in letters]  # else " -" would begin as every word does, and is suppressed
    words = [*letters, *(f"Ġ{letter}" for _, letter in merges)]
    words += [*(f"Ġw{number}" for number in range(TEXT_TOKENS - len(words) - 1)), ""]  # "" marks it as multilingual
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nocaptions", "notimestamps"]
    special = ["<|endoftext|>", "<|startoftranscript|>", *_languages(), *(f"<|{task}|>" for task in tasks)]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    features = {"feature_size": 80, "sampling_rate": 16_000, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps(features), "utf-8")
    return tokenizer
