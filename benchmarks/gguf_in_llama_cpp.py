"""Exported GGUF files in real llama.cpp: the same greedy text, the same tokens, the same logits as gptcli computes.

    python -m venv llama && llama/bin/pip install llama-cpp-python      # builds llama.cpp, about 4 minutes on 2 cores
    python benchmarks/gguf_in_llama_cpp.py --llama-python llama/bin/python [--steps 250] [--json]

Small models of both families are trained on python-docs through the command line, with bpe:512 and with GPT-2's
vocabulary; others are random, for shapes and tokenizers that training does not reach (Qwen's pattern, odd widths).
Each is exported as ``gptcli export --format gguf`` does it and opened by the other Python, each in a process of its
own, as llama.cpp aborts where it gives up. Exits with 1 when any of them differs.

What is compared: the tokens of 60 kB of text; the logits of the first ``block_size`` of them; and what the model goes
on with after a few prompts at temperature 0. A token that ties with ours within twice the difference of the logits may
stand in its place, and the continuation ends there. The cache of keys and values is float32 here; llama.cpp's default
is float16, which moves logits by about 0.002. Its GELU is a table in float16, which moves those of gpt2 by 0.001, and
with weights of 16 bits it rounds what they are multiplied with too. All of it takes about two minutes of one core.

The files are not quantized further here. llama.cpp's q8_0 kernels crashed in a build with AMX on one machine: build
with ``CMAKE_ARGS=-DGGML_NATIVE=OFF`` before the file is blamed for such a crash.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gptcli.bases.base import Base
    from gptcli.tokenizer import Tokenizer

PROMPTS = ("The ", "class Foo:\n    def ", "An expression list", "It's 42", "\n\n", "é", "")
NEW_TOKENS = 64
HARD = " \r\n\r\n  x\t\t y 12345 \u6f22\u5b57\u3068\u304b\u306a\u3000\U0001f44d\U0001f3fd \n \n  <|im_end|> I'LL     "
# By how much the logits may differ, for the reasons above.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 2e-1}
TOLERANCE_OF_GELU = 1e-2
TRAINING = (
    *("model.n_layer=2", "model.n_embd=64", "train.batch_size=8", "train.eval_tokens=2000", "train.compile=false"),
    *("train.dtype=float32", "train.device=cpu"),
)
TRAINED: dict[str, tuple[str, ...]] = {
    "gpt2 with biases": ("model.family=gpt2", "model.bias=true", "model.n_head=4", "model.block_size=128"),
    "gpt2": ("model.family=gpt2", "model.n_head=4", "model.block_size=96"),
    "modern": (
        *("model.n_head=4", "model.n_kv_head=2", "model.head_dim=24", "model.block_size=96"),
        *("model.rope_theta=50000.0", "model.norm_eps=1e-5"),
    ),
    "modern untied": ("model.n_head=2", "model.tie_embeddings=false", "model.block_size=128"),
}
ODD = {"n_layer": 2, "n_head": 3, "block_size": 33}
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "modern": ("qwen", {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64, "block_size": 64}),
    "gpt2 with biases": (
        "qwen",
        {"family": "gpt2", "bias": True, "n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 64},
    ),
    "modern, odd widths": ("bpe", {**ODD, "n_kv_head": 1, "head_dim": 6, "n_embd": 17, "n_inner": 13}),
    "gpt2, odd widths": ("bpe", {**ODD, "family": "gpt2", "n_embd": 21, "n_inner": 5}),
    "gpt2, exact GELU": (
        "bpe",
        {"family": "gpt2", "gelu": "exact", "n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 64},
    ),
    "modern, 2048 tokens": ("bpe", {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 2048, "rope_theta": 1e6}),
    "modern, bytes alone": ("bytes", {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 64}),
}


def main() -> int:
    """Train, export, run, compare and print; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run exported GGUF files in llama.cpp and compare.")
    parser.add_argument("--llama-python", help="a Python with llama-cpp-python")
    parser.add_argument("--steps", type=int, default=250, help="steps of each training")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(run_in_llama(arguments.inside)))
        return 0
    if not arguments.llama_python:
        parser.error("--llama-python is needed")
    if not arguments.json:
        print("| model | tokenizer | dtype | same text | with a float16 cache | tokens | logits differ by | |")
        print("|---|---|---|---|---|---|---|---|")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for family, base in bases(Path(folder), arguments.steps):
            for dtype in TOLERANCE if family in TRAINED and base.tokenizer.name != "gpt2" else ["float32"]:
                row = compare(family, base, dtype, Path(folder) / "case", arguments.llama_python)
                failed += not row["equal"]
                print(json.dumps(row) if arguments.json else table_row(row), flush=True)
    return 1 if failed else 0


def bases(folder: Path, steps: int) -> Iterator[tuple[str, Base]]:
    """Yield the models, each with the words for the first column."""
    from gptcli.bases.base import Base
    from gptcli.bases.run import open_run
    from gptcli.chat_template import ChatTemplate
    from gptcli.config import ModelConfig
    from gptcli.runs import RunDir

    plan = [(family, "bpe:512", steps) for family in TRAINED]
    plan += [(family, "gpt2", steps // 4) for family in ("gpt2 with biases", "modern")]  # a step takes ten times longer
    for family, tokenizer, n_steps in plan:
        name = f"{family}-{tokenizer}".replace(" ", "-").replace(":", "-")
        settings = (f"train.max_steps={n_steps}", f"data.tokenizer={tokenizer}", *TRAINED[family])
        train(folder, name, (*TRAINING, *settings))
        yield family, open_run(RunDir(folder / "runs" / name), name)
    tokenizers = make_tokenizers()
    for family, (kind, values) in RANDOM.items():
        config = ModelConfig(vocab_size=tokenizers[kind].vocab_size, **values)
        yield f"{family}, random", Base("random", "run", config, tokenizers[kind], random_weights(config))
    tuned = ModelConfig(vocab_size=tokenizers["bpe"].vocab_size, n_layer=2, n_head=2, n_embd=32)
    weights = random_weights(tuned)
    yield "modern, chat, random", Base("chat", "run", tuned, tokenizers["bpe"], weights, chat=ChatTemplate())


def train(folder: Path, name: str, settings: tuple[str, ...]) -> None:
    """Train a run on python-docs as a user does."""
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "gptcli", "train", "python-docs", "--run", name, "--quiet", *sets]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path})  # noqa: S603


def book() -> str:
    """Return half a megabyte of text that every Python carries."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def make_tokenizers() -> dict[str, Tokenizer]:
    """Return tokenizers that no training here makes: Qwen's pattern and tokens, a small vocabulary, single bytes."""
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Learner

    from gptcli.bpe import train_bpe
    from gptcli.export.gguf_tokens import QWEN_REGEX
    from gptcli.pretrained_tokenizer import PretrainedTokenizer

    text = book()[:200_000]
    learner = Learner(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    learner.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    content = {**json.loads(learner.to_str()), "normalizer": {"type": "NFC"}}
    qwen = PretrainedTokenizer(content, learner.token_to_id("<|endoftext|>"))
    return {"qwen": qwen, "bpe": train_bpe([text], 400), "bytes": train_bpe([text], 257)}


def random_weights(config: Any) -> dict[str, Any]:  # noqa: ANN401 - a ModelConfig
    """Return weights at which every part of the network has a say, biases and norms included."""
    import torch

    from gptcli.model import GPT

    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in GPT(config).state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        norm = "norm" in name and name.endswith("weight")
        weights[name] = 1 + 0.3 * noise if norm else noise * (0.7 / tensor.size(-1) ** 0.5 if tensor.dim() > 1 else 0.2)
    return weights


def compare(family: str, base: Base, dtype: str, folder: Path, llama_python: str) -> dict[str, Any]:
    """Export a model, run it here and there, and return a row of the table."""
    import shutil

    from gptcli.export.exporting import export

    export(base, "gguf", folder, dtype=dtype)
    ours = run_here(base, dtype, folder)
    command = [llama_python, str(Path(__file__).resolve()), "--inside", str(folder)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)  # noqa: S603
    row = {"model": family, "tokenizer": base.tokenizer.name, "dtype": dtype}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ASSERT" in line or "rror" in line]
        shutil.rmtree(folder)
        return {**row, "equal": False, "problem": (lines or ["it ended without a word"])[-1]}
    theirs = json.loads(done.stdout.splitlines()[-1])
    difference = float(np.abs(np.load(folder / "theirs.npy") - ours["logits"]).max())
    shutil.rmtree(folder)
    same = [is_same(a, b, difference) for a, b in zip(ours["texts"], theirs["texts"], strict=True)]
    tolerance = max(TOLERANCE[dtype], TOLERANCE_OF_GELU if base.config.family == "gpt2" else 0)
    tokens = theirs["ids"] == ours["ids"]
    return {
        **row,
        "equal": all(same) and tokens and difference <= tolerance and theirs["chat"] == ours["chat"],
        "texts": len(same),
        "same": same.count("same"),
        "ties": same.count("tie"),
        "same_with_float16_cache": sum(
            a["ids"] == b for a, b in zip(ours["texts"], theirs["texts_with_float16_cache"], strict=True)
        ),
        "tokens_equal": tokens,
        "tokens": len(ours["ids"]),
        "logits_differ_by": difference,
    }


def run_here(base: Base, dtype: str, folder: Path) -> dict[str, Any]:
    """Return what gptcli makes of the weights as they stand in the file, and leave the questions in ``folder``."""
    import torch

    from gptcli.bases.base import build_model
    from gptcli.config import SampleConfig
    from gptcli.sample import generate

    rounded = {
        name: tensor.to(getattr(torch, dtype)).float() if tensor.dim() > 1 and name != "wpe.weight" else tensor
        for name, tensor in ((name, base.weights[name]) for name in base.weights)
    }
    model, tokenizer, size = build_model(dataclasses.replace(base, weights=rounded)), base.tokenizer, base.config
    text = book()[:60_000] + HARD
    ids = tokenizer.encode(text).tolist()
    texts = []
    for prompt in PROMPTS:
        begin = tokenizer.encode(prompt).tolist() or [tokenizer.end_of_text]
        count = min(NEW_TOKENS, size.block_size - len(begin))
        drawn = generate(model, tokenizer, prompt, SampleConfig(temperature=0.0, max_new_tokens=count))
        new = [piece.token_id for piece in drawn]
        with torch.inference_mode():
            logits = model(torch.tensor([[*begin, *new]]))[0, len(begin) - 1 : -1]
        texts.append({"begin": begin, "ids": new, "logits": logits, "count": count})
    with torch.inference_mode():
        logits = model(torch.tensor([ids[: size.block_size]]))[0].numpy()
    chat = chat_ids(base)
    questions = {"text": text, "ids": ids[: size.block_size], "block_size": size.block_size, "chat": chat is not None}
    questions["texts"] = [{key: item[key] for key in ("begin", "count")} for item in texts]
    (folder / "questions.json").write_text(json.dumps(questions), "utf-8")
    return {"ids": ids, "texts": texts, "logits": logits, "chat": chat}


CONVERSATION = (("system", "Be short."), ("user", "Who are you?"), ("assistant", "A model."), ("user", "And\nshe?"))


def chat_ids(base: Base) -> list[int] | None:
    """Return the tokens of a conversation by the template of a model, or None where it has none."""
    from gptcli.chat_template import Message, write_prompt

    if base.chat is None:
        return None
    pieces = write_prompt([Message(*message) for message in CONVERSATION], base.chat)
    ids = [token_id for piece in pieces for token_id in (base.tokenizer.end_of_text, *base.tokenizer.encode(piece))]
    return [int(token_id) for token_id in ids[1:]]


def is_same(ours: Mapping[str, Any], theirs: list[int], difference: float) -> str:
    """Return "same", "tie" where the two part at tokens that are equally likely within the difference, or ""."""
    at = next((n for n, (a, b) in enumerate(zip(ours["ids"], theirs, strict=False)) if a != b), None)
    if at is None:
        return "same" if len(theirs) == len(ours["ids"]) else ""
    row = ours["logits"][at]
    return "tie" if float(row[ours["ids"][at]] - row[theirs[at]]) <= 2 * difference else ""


def table_row(row: Mapping[str, Any]) -> str:
    """Return a row in Markdown."""
    begin = f"| {row['model']} | {row['tokenizer']} | {row['dtype']} |"
    if "problem" in row:
        return f"{begin} | | | | {row['problem']} |"
    ties = f", {row['ties']} tie" if row["ties"] else ""
    return (
        f"{begin} {row['same']} of {row['texts']}{ties} | {row['same_with_float16_cache']} of {row['texts']} "
        f"| {'equal' if row['tokens_equal'] else 'DIFFER'} ({row['tokens']:,}) "
        f"| {row['logits_differ_by']:.1g} | {'' if row['equal'] else 'DIFFERS'} |"
    )


def run_in_llama(folder: Path) -> dict[str, Any]:
    """Answer the questions in ``folder`` with llama.cpp; runs in the other Python, which has no gptcli."""
    from llama_cpp import GGML_TYPE_F16, GGML_TYPE_F32, Llama

    questions = json.loads((folder / "questions.json").read_text("utf-8"))
    path, size = str(next(folder.glob("*.gguf"))), questions["block_size"]
    how = {"n_ctx": size, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    llama = Llama(path, type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, logits_all=True, **how)
    answers: dict[str, Any] = {
        "ids": llama.tokenize(questions["text"].encode(), add_bos=False, special=False),
        "texts": [go_on(llama, item) for item in questions["texts"]],
        "chat": chat_in_llama(llama) if questions["chat"] else None,
    }
    llama.reset()
    llama.eval(questions["ids"])
    np.save(folder / "theirs.npy", np.array(llama.scores[: len(questions["ids"])]))
    usual = Llama(path, type_k=GGML_TYPE_F16, type_v=GGML_TYPE_F16, **how)
    answers["texts_with_float16_cache"] = [go_on(usual, item) for item in questions["texts"]]
    return answers


def go_on(llama: Any, question: Mapping[str, Any]) -> list[int]:  # noqa: ANN401 - no types there
    """Return the likeliest continuation, end-of-text included."""
    llama.reset()
    found: list[int] = []
    for token in llama.generate(question["begin"], temp=0.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0):
        found.append(token)
        if len(found) == question["count"] or token == llama.token_eos():
            break
    return found


def chat_in_llama(llama: Any) -> list[int]:  # noqa: ANN401
    """Return the tokens of the conversation by the template in the file."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    end = llama.detokenize([llama.token_eos()], special=True).decode()
    formatter = Jinja2ChatFormatter(llama.metadata["tokenizer.chat_template"], eos_token=end, bos_token=end)
    prompt = formatter(messages=[{"role": role, "content": content} for role, content in CONVERSATION]).prompt
    return list(llama.tokenize(prompt.encode(), add_bos=False, special=True))


if __name__ == "__main__":
    sys.exit(main())
