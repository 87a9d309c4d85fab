"""Peak memory of real runs on a CPU beside the prediction that ``--dry-run`` shows.

    python benchmarks/memory.py [--case NAME ...] [--json]

Each case is one run of three steps with two evaluations and its checkpoints, in a fresh process that reports its own
peak RSS (getrusage, mapped pages included). The text is Python's own documentation. Set OMP_NUM_THREADS to choose the
number of threads. This process imports no torch, since a child's peak begins at that of its parent. The built-in
profiles are run as people run them: ``gptcli train`` to its end, its picture included, of tokens that are there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.config import FinetuneConfig, ModelConfig, RunProfile, TrainConfig
from gptcli.memory import plan_memory
from gptcli.plan import count_parameters

if TYPE_CHECKING:
    from gptcli.runs import RunDir

GPT2: dict[str, Any] = {"family": "gpt2", "bias": True}
ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 3e-4}
BFLOAT16: dict[str, Any] = {"dtype": "bfloat16"}


def shape(n_layer: int, n_embd: int, block_size: int, **more: bool | int | float | str) -> dict[str, Any]:
    """Return the model section of a case; heads are 64 wide where that divides."""
    return {"n_layer": n_layer, "n_head": max(1, n_embd // 64), "n_embd": n_embd, "block_size": block_size, **more}


# Tokenizer, model, train, finetune (of a run of the same shape; None: from scratch).
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    "modern-char": ("char", shape(4, 128, 256), {"batch_size": 32}, None),
    "gpt2-char-small": ("char", shape(4, 128, 64, family="gpt2"), {"batch_size": 12, **ADAMW}, None),
    "gpt2-char-dropout": ("char", shape(6, 384, 256, **GPT2, dropout=0.1), {"batch_size": 4, **ADAMW}, None),
    "modern-char-bf16": ("char", shape(6, 384, 256, dropout=0.1), {"batch_size": 8, **BFLOAT16}, None),
    "modern-bpe-deep": ("bpe:1024", shape(24, 256, 128), {"batch_size": 8}, None),
    "modern-bpe-long": ("bpe:1024", shape(8, 512, 1024), {"batch_size": 1, "grad_accum_steps": 2}, None),
    "modern-bpe-wide-batch": ("bpe:1024", shape(2, 256, 256), {"batch_size": 32, **BFLOAT16}, None),
    "modern-bpe-grouped": ("bpe:1024", shape(6, 384, 512, n_kv_head=2), {"batch_size": 3, **ADAMW}, None),
    "gpt2-bpe-adamw": ("bpe:1024", shape(12, 512, 512, **GPT2), {"batch_size": 2, **ADAMW}, None),
    "gpt2-bpe-muon-accum": ("bpe:1024", shape(4, 320, 256, **GPT2), {"batch_size": 8, "grad_accum_steps": 3}, None),
    "gpt2-bpe-checkpointing": (
        "bpe:1024",
        shape(12, 512, 512, **GPT2),
        {"batch_size": 4, "gradient_checkpointing": True, **ADAMW},
        None,
    ),
    "gpt2-124m": ("gpt2", shape(12, 768, 64, **GPT2), {"batch_size": 1, **ADAMW}, None),
    "gpt2-vocab-bf16": ("gpt2", shape(4, 256, 256, **GPT2), {"batch_size": 4, **ADAMW, **BFLOAT16}, None),
    "modern-vocab-untied": ("gpt2", shape(2, 256, 64, tie_embeddings=False), {"batch_size": 16}, None),
    "modern-vocab-muon": ("gpt2", shape(6, 512, 128), {"batch_size": 4, "grad_accum_steps": 2}, None),
    "gpt2-lora": ("gpt2", shape(12, 768, 128, **GPT2), {"batch_size": 4, **ADAMW}, {"lora_rank": 16}),
    "gpt2-lora-bf16": (
        "gpt2",
        shape(12, 768, 256, **GPT2),
        {"batch_size": 2, "gradient_checkpointing": True, **ADAMW, **BFLOAT16},
        {"lora_rank": 16, "lora_targets": ["attn.*"]},
    ),
    "modern-freeze": ("bpe:1024", shape(8, 384, 256), {"batch_size": 4, **ADAMW}, {"freeze_embeddings": True}),
}

# Built-in profiles, by the command line.
PROFILES = ("quickstart", "macbook")


def profile_of(name: str) -> RunProfile:
    """Return a case's profile; ``vocab_size`` is left to the tokens."""
    tokenizer, model, train, finetune = CASES[name]
    steps = {"device": "cpu", "compile": False, "max_steps": 3, "eval_interval": 2, "warmup_steps": 0}
    # Three batches of an evaluation with GPT-2's vocabulary.
    limit = {"eval_tokens": 4000} if tokenizer == "gpt2" else {}
    return RunProfile(
        model=ModelConfig(**model),
        train=TrainConfig(**{"dtype": "float32", **steps, **limit, **train}),
        finetune=FinetuneConfig(**(finetune or {})),
    )


def measure(name: str, folder: str) -> dict[str, Any]:
    """Return a case's figures, prediction and peak in MB; children do the work in ``folder``."""
    tokenizer = CASES[name][0]
    call("prepare", tokenizer, folder)
    if CASES[name][3] is not None:
        call("base", name, folder)
    measured = call("finetune" if CASES[name][3] is not None else "train", name, folder)
    config = profile_of(name)
    model = config.model.model_copy(update={"vocab_size": measured["vocab_size"]})
    finetune = config.finetune.model_copy(update={"base": "a run" if CASES[name][3] is not None else None})
    plan = plan_memory(
        config.model_copy(update={"model": model, "finetune": finetune}),
        compute_dtype=config.train.dtype,
        frozen_dtype=config.train.dtype,
        device="cpu",
    )
    return {
        "case": name,
        "n_params": count_parameters(model),
        "predicted_mb": round(plan.peak / 1e6),
        "measured_mb": round(measured["peak"] / 1e6),
        "difference": round(plan.peak / measured["peak"] - 1, 4),
        "phases_mb": {phase: round(size / 1e6) for phase, size in plan.phases.items()},
    }


def measure_command(name: str, folder: str) -> dict[str, Any]:
    """Return the figures of a built-in profile whose tokens are made by another process."""
    order = ("python-docs", "--profile", name)
    gptcli("prepare", *order, "--quiet", folder=folder)
    facts = json.loads(gptcli("train", *order, "--device", "cpu", "--dry-run", "--json", folder=folder))
    command = [sys.executable, "-m", "gptcli", "train", *order, "--device", "cpu", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)  # noqa: S603 - gptcli itself
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{name} ended with {status}"
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "case": name,
        "n_params": facts["n_params"],
        "predicted_mb": round(facts["memory_peak"] / 1e6),
        "measured_mb": round(peak / 1e6),
        "difference": round(facts["memory_peak"] / peak - 1, 4),
    }


def gptcli(*words: str, folder: str) -> str:
    """Run a command in ``folder``, and return what it printed."""
    command = [sys.executable, "-m", "gptcli", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout  # noqa: S603 - itself


def call(task: str, argument: str, folder: str) -> dict[str, Any]:
    """Do one task of ``work`` in a fresh process, and return what it found."""
    command = [sys.executable, str(Path(__file__).resolve()), "--task", task, argument]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)  # noqa: S603 - this very file
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(task: str, argument: str) -> dict[str, Any]:
    """Prepare tokens, make a base, or measure a run; in the working directory."""
    from gptcli.config import DataConfig
    from gptcli.prepare import ensure_tokens
    from gptcli.runs import create_run
    from gptcli.shards import open_dataset

    tokenizer = argument if task == "prepare" else CASES[argument][0]
    # A val split of several batches, as most corpora have: the first one takes less than those that follow.
    data = DataConfig(tokenizer=tokenizer, val_fraction=0.4)
    tokens = ensure_tokens("python-docs", data, on_notice=lambda _: None)
    if task == "prepare":
        return {}
    dataset, profile, name = open_dataset(tokens.folder), profile_of(argument), argument
    if task == "finetune":
        from gptcli.bases.opening import open_base
        from gptcli.finetune import create_finetune

        base = open_base(f"runs/{argument}-base", which="latest")
        run = create_finetune(profile, base, profile_name="memory", dataset=dataset, name=name)
        del base
        return {"peak": peak_of(run), "vocab_size": dataset.manifest.vocab_size}
    if task == "base":
        name = f"{argument}-base"
        train = profile.train.model_copy(update={"max_steps": 1, "batch_size": 1, "eval_tokens": 500})
        profile = RunProfile(model=profile.model, train=train)
    run = create_run(profile, profile_name="memory", dataset=dataset, name=name)
    return {"peak": peak_of(run), "vocab_size": dataset.manifest.vocab_size}


def peak_of(run: RunDir) -> int:
    """Train the run to its end; returns the peak RSS of this process in bytes."""
    import resource

    from gptcli.train import train

    with contextlib.closing(train(run)) as events:
        for _ in events:
            pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure the cases asked for, each in a temporary folder, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=(*CASES, *PROFILES), help="may be repeated; default: all")
    parser.add_argument("--json", action="store_true", help="a JSON line for each case in place of the table")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(work(*arguments.task)))
        return
    if not arguments.json:
        print("| case | parameters | predicted MB | measured MB | difference |\n|---|---|---|---|---|")
    for name in arguments.case or (*CASES, *PROFILES):
        with tempfile.TemporaryDirectory() as folder:
            row = (measure_command if name in PROFILES else measure)(name, folder)
        line = "| {case} | {n_params:,} | {predicted_mb:,} | {measured_mb:,} | {difference:+.1%} |".format(**row)
        print(json.dumps(row) if arguments.json else line, flush=True)


if __name__ == "__main__":
    main()
