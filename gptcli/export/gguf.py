"""GGUF files for llama.cpp and Ollama: the weights under llama.cpp's names, with the tokenizer and the settings.

It owns the correspondence with llama.cpp's architectures ``gpt2`` and ``qwen3``, and reads a file back to compare it
number by number. It runs no model, and it does not know where weights come from.
"""

from __future__ import annotations

import dataclasses
import errno
import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gptcli.bases.base import Base, build_model
from gptcli.config import ModelConfig
from gptcli.errors import ExportError
from gptcli.export.card import Card
from gptcli.export.gguf_tokens import encode_with, gguf_tokens
from gptcli.export.hf_tokenizer import chat_template_jinja
from gptcli.export.modelfile import modelfile
from gptcli.export.sample_text import compared_text, new_tokens, real_text, shown_prompt
from gptcli.export.weights import convert_weight
from gptcli.files import atomic_write
from gptcli.interchange import Parts, name_parts
from gptcli.model import GPT2_NORM_EPS

INSTALL_HINT = 'Install it in gptcli\'s checkout: pip install -e ".[export]"'
OTHER_FORMAT = "Another format may do: gptcli export NAME --format hf --output DIR"
ARCHITECTURES = {"gpt2": "gpt2", "modern": "qwen3"}
# llama.cpp's numbers for the format of most tensors of a file (llama_ftype) and of one tensor (ggml_type).
FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}
TENSOR_TYPES = {"float32": 0, "float16": 1, "bfloat16": 30}
QUANTIZATION_VERSION = 2
MAX_LAYERS = 512
# llama.cpp adds what these hold to other numbers, and does that in float32 alone.
ALWAYS_FLOAT32 = {"position_embd.weight"}

# Our module, and theirs whose rows stand in ours from top to bottom.
GPT2_MODULES = {
    "wte": ("token_embd",),
    "wpe": ("position_embd",),
    "blocks.{}.norm1": ("blk.{}.attn_norm",),
    "blocks.{}.attn.qkv": ("blk.{}.attn_qkv",),
    "blocks.{}.attn.proj": ("blk.{}.attn_output",),
    "blocks.{}.norm2": ("blk.{}.ffn_norm",),
    "blocks.{}.mlp.up": ("blk.{}.ffn_up",),
    "blocks.{}.mlp.down": ("blk.{}.ffn_down",),
    "norm": ("output_norm",),
}
QWEN3_MODULES = {
    "wte": ("token_embd",),
    "blocks.{}.norm1": ("blk.{}.attn_norm",),
    "blocks.{}.attn.qkv": ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
    "blocks.{}.attn.q_norm": ("blk.{}.attn_q_norm",),
    "blocks.{}.attn.k_norm": ("blk.{}.attn_k_norm",),
    "blocks.{}.attn.proj": ("blk.{}.attn_output",),
    "blocks.{}.norm2": ("blk.{}.ffn_norm",),
    "blocks.{}.mlp.gate_up": ("blk.{}.ffn_gate", "blk.{}.ffn_up"),
    "blocks.{}.mlp.down": ("blk.{}.ffn_down",),
    "norm": ("output_norm",),
    "head": ("output",),
}


def write_gguf(base: Base, folder: Path, dtype: str, card: Card) -> None:
    """Write ``NAME.gguf``, a ``Modelfile`` for Ollama and ``README.md`` into ``folder``.

    Matrices are in ``dtype``, vectors and learned positions in float32; one is read and written at a time. Raises
    ``ExportError`` when the package ``gguf`` is not installed, for a tokenizer that llama.cpp cannot be told, and for
    a weight that ``dtype`` cannot hold.
    """
    _check_shape(base.config)
    fields = {**_fields(base, dtype), **_facts(base, card)}
    gguf = load_package()
    path = folder / f"{card.name}.gguf"
    with closing(gguf.GGUFWriter(path, ARCHITECTURES[base.config.family])) as writer:
        for key, (kind, value) in fields.items():
            if key != "general.architecture":  # the writer has it already
                writer.add_key_value(key, value, gguf.GGUFValueType[kind])
        plan = _plan(base.config, dtype)
        for name, (shape, number_format) in plan.items():
            kind = gguf.GGMLQuantizationType(TENSOR_TYPES[number_format])
            size = math.prod(shape) * (4 if number_format == "float32" else 2)
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in _tensors(base):
            _write_tensor(writer, _converted(name, tensor, plan[name][1]))
    with atomic_write(folder / "Modelfile") as file:
        file.write(modelfile(path.name, base, card.sample).encode())
    with atomic_write(folder / "README.md") as file:
        file.write(card.markdown(_loading(path.name, base, card), tags=["gguf"]).encode())


def _write_tensor(writer: Any, numbers: npt.NDArray[Any]) -> None:  # noqa: ANN401
    try:
        writer.write_tensor_data(numbers)
    except OSError as error:
        if error.strerror is None:  # numpy only counts what was written
            raise OSError(errno.ENOSPC, f"the disk took no more: {error}") from error
        raise


def check_gguf(base: Base, folder: Path, dtype: str) -> tuple[str, ...]:
    """Read the file in ``folder`` back and compare every setting, token, merge and number; return what was equal.

    Numbers are compared bit by bit with the weights as they are converted to ``dtype``. What the file tells a reader
    (description, licence, corpus) decides nothing and is not compared. Raises ``ExportError`` for the first difference.
    """
    gguf = load_package()
    path = next(folder.glob("*.gguf"))
    try:
        reader = gguf.GGUFReader(path)
        found = {key: (field.types[0].name, field.contents()) for key, field in reader.fields.items()}
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise _difference(path, f"cannot be read ({error})") from error
    fields = {**_fields(base, dtype), "general.name": ("STRING", path.stem)}
    for key, (kind, value) in fields.items():
        expected = float(np.float32(value)) if kind == "FLOAT32" else value
        if found.get(key) != (kind, expected):
            raise _difference(path, f"has {key} {_shown(found.get(key, '?')[1])}, expected {_shown(expected)}")
    tensors, numbers = _check_tensors(path, reader.tensors, base, dtype)
    tokens, merges = (len(fields[f"tokenizer.ggml.{key}"][1]) for key in ("tokens", "merges"))
    settings = f"all {len(fields)} settings, {tokens:,} tokens and {merges:,} merges as written"
    return (
        f"{path.name} reads back as {fields['general.architecture'][1]} with {settings}.",
        f"Its {tensors} tensors hold {numbers:,} numbers, bit for bit the model's, the matrices in {dtype}.",
        _check_words(path, found, base),
        *_tell_gelu(base),
    )


def _check_shape(config: ModelConfig) -> None:
    """Raise ``ExportError`` for the shapes at which llama.cpp gives up (seen in November 2026)."""
    if config.head_width == 1:
        raise ExportError(
            f"The model's heads are one number wide (n_embd / n_head is {config.n_embd} / {config.n_head}), "
            "and llama.cpp cannot compute such attention.",
            OTHER_FORMAT,
        )
    if config.n_layer > MAX_LAYERS:
        raise ExportError(f"The model has {config.n_layer} layers; llama.cpp holds {MAX_LAYERS} at most.", OTHER_FORMAT)


def load_package() -> Any:  # noqa: ANN401 - gguf's types are numpy's of any kind
    """Return the package ``gguf``; raises ``ExportError`` where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise ExportError("Writing GGUF files needs the package gguf, which is not installed.", INSTALL_HINT) from error
    return gguf


def _fields(base: Base, dtype: str) -> dict[str, tuple[str, Any]]:
    """Return the metadata that llama.cpp computes with: the GGUF type and the value of every key."""
    config, tokens = base.config, gguf_tokens(base.tokenizer)
    assert config.vocab_size == len(tokens.texts), "the vocabulary of a base is its tokenizer's"
    family: dict[str, tuple[str, Any]] = {"attention.layer_norm_epsilon": ("FLOAT32", GPT2_NORM_EPS)}
    if config.family == "modern":
        family = {
            "attention.key_length": ("UINT32", config.head_width),
            "attention.value_length": ("UINT32", config.head_width),
            "attention.layer_norm_rms_epsilon": ("FLOAT32", config.norm_eps),
            "rope.dimension_count": ("UINT32", config.head_width),
            "rope.freq_base": ("FLOAT32", config.rope_theta),
        }
    settings = {
        "context_length": ("UINT32", config.block_size),
        "embedding_length": ("UINT32", config.n_embd),
        "block_count": ("UINT32", config.n_layer),
        "feed_forward_length": ("UINT32", config.inner_width),
        "vocab_size": ("UINT32", config.vocab_size),
        "attention.head_count": ("UINT32", config.n_head),
        "attention.head_count_kv": ("UINT32", config.kv_heads),
        **family,
    }
    tokenizer = {
        "model": ("STRING", "gpt2"),  # llama.cpp's word for byte-level BPE
        "pre": ("STRING", tokens.pre),
        "tokens": ("ARRAY", tokens.texts),
        "token_type": ("ARRAY", tokens.types),
        "merges": ("ARRAY", tokens.merges),
        "bos_token_id": ("UINT32", tokens.end_of_text),
        "eos_token_id": ("UINT32", tokens.end_of_text),
        "add_bos_token": ("BOOL", False),
        "add_eos_token": ("BOOL", False),
    }
    architecture = ARCHITECTURES[config.family]
    chat = {"tokenizer.chat_template": ("STRING", chat_template_jinja(base.chat))} if base.chat else {}
    return {
        "general.architecture": ("STRING", architecture),
        "general.type": ("STRING", "model"),
        "general.file_type": ("UINT32", FILE_TYPES[dtype]),
        "general.quantization_version": ("UINT32", QUANTIZATION_VERSION),
        **{f"{architecture}.{key}": value for key, value in settings.items()},
        **{f"tokenizer.ggml.{key}": value for key, value in tokenizer.items()},
        **chat,
    }


def _facts(base: Base, card: Card) -> dict[str, tuple[str, Any]]:
    """Return the metadata for a reader: what the model is called, what it was made from, whose that is."""
    told = [card.summary]
    for heading, lines in card.sections[:1]:
        told += [f"{heading}:", *map(_plain, lines)]
    facts = {"name": card.name, "description": "\n".join(told), "license": card.front.get("license")}
    known: dict[str, tuple[str, Any]] = {
        f"general.{key}": ("STRING", str(value)) for key, value in facts.items() if value
    }
    if "corpus" in base.origin:
        known["general.dataset.count"] = ("UINT32", 1)
        known["general.dataset.0.name"] = ("STRING", str(base.origin["corpus"]))
    return known


def _plain(markdown: str) -> str:
    """Return a line of the card without the signs that keep its words from being Markdown."""
    return html.unescape(re.sub(r"\\(.)", r"\1", markdown))


def _correspondence(config: ModelConfig) -> dict[str, Parts]:
    """Return theirs for each of our tensors; for gpt2 with its biases, whether ``config`` has them or not."""
    gpt2 = config.family == "gpt2"
    return name_parts(config.model_copy(update={"bias": gpt2}), GPT2_MODULES if gpt2 else QWEN3_MODULES)


def _plan(config: ModelConfig, dtype: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and the number format of every tensor of the file, in its order."""
    plan = {}
    for theirs in _correspondence(config).values():
        for name, rows in zip(theirs.names, theirs.rows, strict=True):
            single = len(theirs.shape) == 1 or name in ALWAYS_FLOAT32
            plan[name] = ((rows, *theirs.shape[1:]), "float32" if single else dtype)
    return plan


def _tensors(base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the file in its order, as the model has them; biases it does not have are zeros."""
    there = set(base.weights)
    for ours, theirs in _correspondence(base.config).items():
        tensor = base.weights[ours] if ours in there else torch.zeros(theirs.shape)
        yield from zip(theirs.names, torch.split(tensor, list(theirs.rows)), strict=True)


def _converted(name: str, tensor: Tensor, number_format: str) -> npt.NDArray[Any]:
    """Return the bits of a tensor in a number format; bfloat16, which numpy does not know, as int16."""
    converted = convert_weight(name, tensor, number_format).contiguous()
    return (converted.view(torch.int16) if number_format == "bfloat16" else converted).numpy()


def _check_tensors(path: Path, written: Sequence[Any], base: Base, dtype: str) -> tuple[int, int]:
    """Compare shapes, formats and bits of all tensors; return how many there are and how many numbers they hold."""
    plan = _plan(base.config, dtype)
    there = {tensor.name: tensor for tensor in written}
    if differing := sorted(there.keys() ^ plan.keys()):
        raise _difference(path, f"has tensors missing or too many: {', '.join(differing)}")
    for name, tensor in _tensors(base):
        shape, number_format = plan[name]
        form = (tuple(there[name].shape.tolist()[::-1]), int(there[name].tensor_type))
        if form != (shape, TENSOR_TYPES[number_format]):
            raise _difference(path, f"has {name} in another shape or format: {form}")
        ours = _converted(name, tensor, number_format).view(np.uint8).ravel()
        if not np.array_equal(there[name].data.view(np.uint8).ravel(), ours):
            raise _difference(path, f"has other numbers in {name}")
    return len(plan), sum(math.prod(shape) for shape, _ in plan.values())


def _check_words(path: Path, found: Mapping[str, tuple[str, Any]], base: Base) -> str:
    """Encode a text by the tokens, types and merges of the file, and compare."""
    said = {key: found[f"tokenizer.ggml.{key}"][1] for key in ("tokens", "token_type", "merges", "pre")}
    text = compared_text(base.tokenizer)
    ids = encode_with(said["tokens"], said["token_type"], said["merges"], said["pre"], text)
    if ids != base.tokenizer.encode(text).tolist():
        raise _difference(path, "has tokens and merges that make other ids of a text than the model's tokenizer")
    return f"Its tokens and merges make the same {len(ids):,} ids of {len(text):,} characters as the model's tokenizer."


def _tell_gelu(base: Base) -> tuple[str, ...]:
    """Say by how much llama.cpp's GELU, the approximation of GPT-2, moves the logits of a model of the exact one."""
    if base.config.gelu == "tanh":
        return ()
    tokens = torch.tensor([base.tokenizer.encode(real_text(base.tokenizer))[: base.config.block_size].tolist()])
    near = dataclasses.replace(base, config=base.config.model_copy(update={"gelu": "tanh"}))
    with torch.inference_mode():
        exact: Tensor = build_model(base)(tokens)
        moved = float((build_model(near)(tokens) - exact).abs().max())
    measured = f"that moves its logits by up to {moved:.1g} on {tokens.size(1)} tokens of text"
    return (f"llama.cpp approximates GELU as GPT-2 does, where this model computes it exactly: {measured}.",)


def _difference(path: Path, what: str) -> ExportError:
    return ExportError(f"{path.name} does not read back as the model: it {what}.", OTHER_FORMAT)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _loading(name: str, base: Base, card: Card) -> str:
    """Return the section of the card that says how to run the file, and what differs there from gptcli."""
    config, sample = base.config, card.sample
    prompt = shown_prompt(sample.prompt, base.tokenizer)
    drawn = f"--temp {sample.temperature:g} --top-k {sample.top_k or 0} --top-p {sample.top_p or 1:g}"
    how = f"-c {config.block_size} {drawn} --min-p {sample.min_p or 0:g}"
    call = f"llama-completion -m {name} {how} -n {new_tokens(100, config.block_size)} -no-cnv -p {quote(prompt)}"
    if base.chat is not None:
        call = f"llama-cli -m {name} {how} --jinja"
    tag = card.name.lower()
    notes = [
        f"The context is {config.block_size:,} tokens, prompt and continuation together.",
        "llama.cpp keeps keys and values in 16 bits: add `-ctk f32 -ctv f32` for gptcli's own text at temperature 0.",
    ]
    if config.family == "gpt2":
        notes.append("Positions are learned: llama.cpp ends with an error where a text grows longer than the context.")
    elif gguf_tokens(base.tokenizer).pre == "gpt-2":
        notes.append("Some versions of Ollama cut prompts into words as Qwen's models do, whatever the file says.")
    return (
        f"With llama.cpp:\n\n```\n{call}\n```\n\n"
        f"With Ollama, in this folder:\n\n```\nollama create {tag} -f Modelfile\nollama run {tag}\n```\n\n"
        + "\n".join(notes)
    )
