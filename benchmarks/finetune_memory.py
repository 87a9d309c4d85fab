"""Peak memory of finetuning GPT-2's larger shapes on a CPU, with random weights of those shapes.

    python benchmarks/finetune_memory.py [--case NAME ...] [--dtype auto|float32|bfloat16] [--steps 3] [--json]

Each case writes a run once into a temporary folder (3 to 6 GB), then trains it for some steps in a fresh process: the
base is evaluated, every step is made, the result evaluated and saved. Peak RSS is the kernel's own (getrusage), mapped
pages included. The vocabulary is as large as GPT-2's; the text is Python's own documentation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptcli.bases.base import Base, LazyWeights
from gptcli.config import DataConfig, ModelConfig
from gptcli.events import Evaluated, StepLogged
from gptcli.fetch.fetching import fetch
from gptcli.finetune import create_finetune
from gptcli.model import empty_model
from gptcli.plan import count_parameters
from gptcli.prepare import prepare
from gptcli.profiles import build_profile
from gptcli.runs import RunDir
from gptcli.shards import open_dataset
from gptcli.tokenizer import CharTokenizer
from gptcli.train import train

VOCAB_SIZE = 50_257
SHAPES = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
}
LORA = ("lora_rank=16",)
CHECKPOINTING = ("gradient_checkpointing=true",)
# The shape, the goal in GB (None: only told), and what the profile sets.
CASES: dict[str, tuple[str, float | None, tuple[str, ...]]] = {
    "large-lora-256": ("gpt2-large", 8.0, ("block_size=256", *LORA)),
    "large-lora-256-batch4": ("gpt2-large", 8.0, ("block_size=256", "batch_size=4", *LORA, *CHECKPOINTING)),
    "medium-full-256": ("gpt2-medium", 12.0, ("block_size=256",)),
    "medium-full-1024": ("gpt2-medium", 12.0, ("block_size=1024", *CHECKPOINTING)),
    "small-full-256": ("gpt2", None, ("block_size=256",)),
}


def random_base(shape: str, tokenizer: CharTokenizer) -> Base:
    """Return weights of a published shape, each drawn when it is asked for and the same every time."""
    config = ModelConfig.model_validate(
        {"family": "gpt2", "block_size": 1024, "bias": True, "vocab_size": VOCAB_SIZE, **SHAPES[shape]}
    )
    makers = {
        name: partial(draw, name, tuple(tensor.shape)) for name, tensor in empty_model(config).state_dict().items()
    }
    return Base(shape, "folder", config, tokenizer, LazyWeights(makers))


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return one random weight: 1 for the gain of a norm, 0 for a bias, small numbers for a matrix."""
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")))
    return torch.empty(shape).normal_(std=0.02, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def create(case: str, folder: Path, steps: int, dtype: str) -> RunDir:
    """Write the run of a case, with Python's documentation by characters of an alphabet as large as GPT-2's."""
    from pydoc_data.topics import topics

    (folder / "texts").mkdir()
    for name, text in topics.items():
        (folder / "texts" / f"{name}.txt").write_text(text, "utf-8")
    fetch(str(folder / "texts"), name="docs", corpora_dir=folder / "corpora")
    known = set("".join(topics.values()))
    others = (chr(code) for code in range(0x10000, 0x20000))  # beyond all surrogates
    alphabet = sorted(known | set(islice(others, VOCAB_SIZE - 1 - len(known))))
    tokenizer = CharTokenizer("".join(alphabet), end_of_text=True)
    result = prepare("docs", DataConfig(), tokenizer=tokenizer, corpora_dir=folder / "corpora")
    shape, _, overrides = CASES[case]
    train_values = {
        "device": "cpu", "dtype": dtype, "batch_size": 1, "max_steps": steps, "optimizer": "adamw", "compile": False,
        "learning_rate": 1e-4, "schedule": "constant", "warmup_steps": 0, "log_interval": 1, "eval_tokens": 2048,
    }  # fmt: skip
    return create_finetune(
        build_profile({"train": train_values}, overrides),
        random_base(shape, tokenizer),
        profile_name=case,
        dataset=open_dataset(result.folder),
        runs_dir=folder / "runs",
        name=case,
    )


def train_once(run: RunDir) -> dict[str, float]:
    """Train a run to its end; returns the seconds of a step and the val_loss before and after."""
    steps: list[float] = []
    losses: list[float] = []
    last = time.perf_counter()
    with contextlib.closing(train(run)) as events:
        for event in events:
            now = time.perf_counter()
            if isinstance(event, StepLogged):
                steps.append(now - last)
            elif isinstance(event, Evaluated):
                losses.append(event.val_loss)
            last = now
    return {"step_seconds": min(steps), "val_loss_before": losses[0], "val_loss_after": losses[-1]}


def peak_gb() -> float:
    """Return the peak RSS of this process so far, in GB (10^9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def in_fresh_process(part: str, case: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one part of a case in a process of its own; returns what it measured."""
    command = [sys.executable, __file__, "--part", part, "--case", case, "--folder", str(folder)]
    command += ["--dtype", arguments.dtype, "--steps", str(arguments.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very file
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Create and train one case; returns one row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        created = in_fresh_process("create", case, folder, arguments)
        trained = in_fresh_process("train", case, folder, arguments)
    return {"case": case, "create_gb": created["peak_gb"], **trained}


def run_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what a fresh process was started for."""
    case, folder = arguments.case[0], arguments.folder
    if arguments.part == "create":
        create(case, folder, arguments.steps, arguments.dtype)
        return {"peak_gb": peak_gb()}
    facts = train_once(RunDir(folder / "runs" / case))
    return {"peak_gb": peak_gb(), **facts}


def main() -> None:
    """Measure the cases one after the other and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=["create", "train"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(run_part(arguments)))
        return
    rows = []
    for case in arguments.case or [case for case, (_, goal, _) in CASES.items() if goal]:
        shape, goal, overrides = CASES[case]
        row = measure(case, arguments)
        rows.append({**row, "goal_gb": goal, "overrides": overrides, "shape": shape})
        if not arguments.json:
            n_params = count_parameters(random_base(shape, CharTokenizer("a", end_of_text=True)).config)
            print(
                f"{case:22} {n_params / 1e6:5.0f}M  peak {row['peak_gb']:5.2f} GB (goal {goal or '-'}), creating "
                f"{row['create_gb']:5.2f} GB, {row['step_seconds']:5.1f} s a step, val_loss "
                f"{row['val_loss_before']:.3f} -> {row['val_loss_after']:.3f}",
                flush=True,
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
