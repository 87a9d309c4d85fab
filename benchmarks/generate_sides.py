"""The sides of ``generate.py``: each runs in a fresh process of the Python that has what it needs.

    python benchmarks/generate_sides.py '{"side": "transformers", "path": "...", "batch": 1, "lengths": [128]}'

Prints one JSON object in its last line: seconds to a first token, tokens a second for each length, peak memory. Only
the side ``gptcli`` and the preparation import gptcli. Every call gets a prompt of its own, so that nobody goes on from
what it has read before.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 32
TEMPERATURE = 0.8
GPT2: dict[str, Any] = {
    "family": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50_257,
    "bias": True,
}  # fmt: skip
CHARACTERS: dict[str, dict[str, Any]] = {
    "0.8M": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "vocab_size": 65},
    "10M": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65},
}

# Draw a number of tokens for each text of the batch after a prompt; returns how many came in all.
Draw = Callable[[list[int], int], int]


def main() -> None:
    """Do what the first argument says and print the answer."""
    spec = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):  # peers print
        answer = SIDES[spec["side"]](spec)
    print(json.dumps(answer))


def measure(draw: Draw, spec: dict[str, Any]) -> dict[str, Any]:
    """Warm up, then time first tokens and whole texts; tokens a second are over all texts, reading the prompt too."""
    prompts = prompts_of(spec["vocab_size"])
    draw(next(prompts), 8)
    first = []
    for _ in range(3):
        begin = time.perf_counter()
        draw(next(prompts), 1)
        first.append(time.perf_counter() - begin)
    rates = {}
    for length in spec["lengths"]:
        prompt = next(prompts)
        begin = time.perf_counter()
        drawn = draw(prompt, length)
        rates[str(length)] = drawn / (time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"first": statistics.median(first), "rates": rates, "rss": peak}


def prompts_of(vocab_size: int) -> Iterator[list[int]]:
    """Yield prompts that differ from the first token on."""
    number = 1
    while True:
        yield [(number * 1009 + place * 31) % (vocab_size - 1) for place in range(PROMPT_TOKENS)]
        number += 1


def run_gptcli(spec: dict[str, Any]) -> dict[str, Any]:
    """Write as ``gptcli sample`` does."""
    import torch

    from gptcli.config import SampleConfig
    from gptcli.sample import generate
    from gptcli.writing import open_writing_model

    model = open_writing_model(spec["path"], device="cpu", weight_format=spec["format"])

    def draw(prompt: list[int], length: int) -> int:
        config = SampleConfig(temperature=TEMPERATURE, max_new_tokens=length, num_samples=spec["batch"], seed=1)
        return sum(1 for _ in generate(model.decoder, model.tokenizer, torch.tensor(prompt), config))

    return measure(draw, spec)


def run_transformers(spec: dict[str, Any]) -> dict[str, Any]:
    """Write with ``GPT2LMHeadModel.generate`` and its cache."""
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(spec["path"]).eval()

    @torch.inference_mode()
    def draw(prompt: list[int], length: int) -> int:
        inputs = torch.tensor([prompt] * spec["batch"])
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            pad_token_id=0,
        )
        return int(out.numel() - inputs.numel())

    return measure(draw, spec)


def run_nanogpt(spec: dict[str, Any]) -> dict[str, Any]:
    """Write with nanoGPT's own ``generate``; weights are random and of the same shapes."""
    sys.path.insert(0, spec["checkout"])
    import torch
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    shape = {key: value for key, value in spec["shape"].items() if key != "family"}
    torch.manual_seed(0)
    model = GPT(GPTConfig(dropout=0.0, **{"bias": False, **shape})).eval()

    @torch.inference_mode()
    def draw(prompt: list[int], length: int) -> int:
        out = model.generate(torch.tensor([prompt] * spec["batch"]), length, temperature=TEMPERATURE)
        return int(out.numel()) - PROMPT_TOKENS * spec["batch"]

    return measure(draw, spec)


def run_llama(spec: dict[str, Any]) -> dict[str, Any]:
    """Write with llama.cpp, whose cache of keys and values is float16 as it is by default."""
    from llama_cpp import Llama

    threads = int(os.environ["OMP_NUM_THREADS"])
    model = Llama(spec["path"], n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)

    def draw(prompt: list[int], length: int) -> int:
        model.reset()
        drawn = 0
        for _ in model.generate(prompt, temp=TEMPERATURE, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0):
            drawn += 1
            if drawn == length:
                break
        return drawn

    return measure(draw, spec)


def run_ctranslate2(spec: dict[str, Any]) -> dict[str, Any]:
    """Write with CTranslate2."""
    import ctranslate2

    threads = int(os.environ["OMP_NUM_THREADS"])
    model = ctranslate2.Generator(
        spec["path"], device="cpu", compute_type=spec["format"], intra_threads=threads, inter_threads=1
    )
    words = json.loads((Path(spec["path"]) / "vocabulary.json").read_text("utf-8"))

    def draw(prompt: list[int], length: int) -> int:
        results = model.generate_batch(
            [[words[token] for token in prompt]] * spec["batch"],
            max_length=length,
            min_length=length,
            sampling_topk=0,
            sampling_temperature=TEMPERATURE,
            include_prompt_in_result=False,
            end_token=[words[-1]],
        )
        return sum(len(result.sequences_ids[0]) for result in results)

    return measure(draw, spec)


def convert(spec: dict[str, Any]) -> dict[str, Any]:
    """Make a folder of CTranslate2 of one by ``save_pretrained``."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(spec["path"]).convert(spec["to"], quantization=spec["format"], force=True)
    # It wants a word for what is unknown, which GPT-2's bytes never are, and writes null where there is none.
    path = Path(spec["to"]) / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "unk_token": config["unk_token"] or config["eos_token"]}), "utf-8")
    return {}


def bandwidth(spec: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - as all sides
    """Return the bytes a second of a sum over a gigabyte of float32, the best of some."""
    import torch

    numbers = torch.ones(1 << 28)
    seconds = []
    for _ in range(8):
        begin = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - begin)
    return {"bytes_per_second": numbers.nbytes / min(seconds)}


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Make the models that are asked for in a folder: random weights, the same for all sides; returns their sizes."""
    import torch

    from gptcli.bases.base import Base
    from gptcli.bpe import BpeTokenizer
    from gptcli.config import ModelConfig
    from gptcli.export.exporting import export
    from gptcli.model import GPT
    from gptcli.tokenizer import CharTokenizer, Tokenizer

    folder, sizes = Path(spec["folder"]), {}

    def make(name: str, shape: dict[str, Any], tokenizer: Tokenizer) -> Base:
        torch.manual_seed(0)
        model = GPT(ModelConfig.model_validate(shape))
        sizes[name] = model.n_params() - (model.wpe.weight.numel() if model.wpe is not None else 0)
        return Base(name, "run", model.config, tokenizer, {key: w.detach() for key, w in model.state_dict().items()})

    if "gpt2" in spec["models"]:
        single = [bytes([byte]) for byte in range(256)]
        pairs = [left + right for left in single for right in single]
        gpt2 = make("gpt2", GPT2, BpeTokenizer("bpe:50257", (single + pairs)[: GPT2["vocab_size"] - 1]))
        export(gpt2, "hf", folder / "gpt2")
        for dtype in spec["gguf"]:
            export(gpt2, "gguf", folder / f"gguf-{dtype}", dtype=dtype)
    letters = CharTokenizer("".join(map(chr, range(48, 48 + 65))), end_of_text=False)
    for size, shape in CHARACTERS.items():
        for family in ("gpt2", "modern"):
            if (name := f"{size} {family}") in spec["models"]:
                base = make(name, {"family": family, **shape}, letters)
                export(base, "safetensors", folder / name.replace(" ", "-"))
    return {"read_weights": sizes}


SIDES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "gptcli": run_gptcli,
    "transformers": run_transformers,
    "nanogpt": run_nanogpt,
    "llama": run_llama,
    "ctranslate2": run_ctranslate2,
    "convert": convert,
    "bandwidth": bandwidth,
    "prepare": prepare,
}

if __name__ == "__main__":
    main()
