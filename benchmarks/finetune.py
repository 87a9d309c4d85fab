"""What finetuning buys on a small machine: from the Python documentation to one novel, whole and by adapters.

    python benchmarks/finetune.py --text 863-0.txt [--seeds 3] [--steps 400] [--json]

Pretrains ``quickstart`` on python-docs, then trains the novel in the same tokens for the same number of steps in four
ways, each through the command line: from scratch, finetuning all weights, adapters (LoRA) beside frozen weights, and
adapters with the embeddings. Every val_loss is the run's own: the whole val split, the best evaluation. No clock is
involved, so other work does no harm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TUNE = ("--profile", "finetune-small", "--set", "schedule=wsd")
FULL = ("--set", "learning_rate=0.002", "--set", "muon_learning_rate=0.01")
LORA = ("--set", "finetune.lora_rank=64", "--set", "optimizer=adamw", "--set", "learning_rate=0.003")


def gptcli(folder: Path, *args: str) -> str:
    """Run a command in ``folder`` and return its stdout; raises when it fails."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "gptcli", *args], cwd=folder, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise RuntimeError(f"gptcli {' '.join(args)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip()


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of one kind from a run's metrics."""
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def one_seed(folder: Path, base: str, seed: int, steps: int) -> dict[str, float]:
    """Train the three and return their best val_loss, and the base's own."""
    same = ("--set", f"train.seed={seed}", "--set", f"max_steps={steps}", "--set", "patience=0", "--quiet")
    tune = ("finetune", "novel", "--from", base, *TUNE, *same)
    full = folder / gptcli(folder, *tune, *FULL)
    lora = folder / gptcli(folder, *tune, *LORA)
    both = folder / gptcli(folder, *tune, *LORA, "--set", "freeze_embeddings=false")
    tokens = json.loads((full / "dataset.json").read_bytes())["folder"]
    shape = ("--set", "eval_interval=40", "--set", "sample_interval=0")
    scratch = folder / gptcli(folder, "train", tokens, "--profile", "quickstart", *shape, *same)
    return {
        "base": events(full, "evaluated")[0]["val_loss"],
        "from scratch": events(scratch, "run_finished")[-1]["best_val_loss"],
        "finetuned": events(full, "run_finished")[-1]["best_val_loss"],
        "by adapters": events(lora, "run_finished")[-1]["best_val_loss"],
        "by adapters, embeddings": events(both, "run_finished")[-1]["best_val_loss"],
    }


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a novel, such as Gutenberg's 863-0.txt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gptcli(folder, "fetch", str(arguments.text.resolve()), "--name", "novel")
        base = Path(gptcli(folder, "train", "--profile", "quickstart", "--quiet")).name
        results = [one_seed(folder, base, seed, arguments.steps) for seed in range(1, arguments.seeds + 1)]
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{'val_loss on the novel':<24}{'median':>8}{'lowest':>9}{'highest':>9}")
    for key in results[0]:
        values = [result[key] for result in results]
        print(f"{key:<24}{statistics.median(values):>8.4f}{min(values):>9.4f}{max(values):>9.4f}")
    for key in ("by adapters", "by adapters, embeddings"):
        ratios = [result[key] / result["finetuned"] for result in results]
        print(f"{key} against all weights: {100 * (statistics.median(ratios) - 1):+.1f} %")


if __name__ == "__main__":
    main()
