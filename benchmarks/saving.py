"""How long training stands still while a checkpoint is saved, and how long a stop takes.

    python benchmarks/saving.py [--profiles NAME,...] [--steps 12] [--saves 5] [--stops 40,4,1] [--json FILE]

Real runs of profiles on python-docs, on this machine's device: the median of ``Trainer.update`` and of ``Trainer.save``
(tensors, reading back, checksums, fsync, renames), in turn. The share is that of a save at the profile's own
``save_interval``, which has to be below 1 %. ``124M`` is GPT-2's small shape with its tokenizer, at one sequence of 256
tokens a step. A stop is SIGTERM to ``gptcli train`` with that model at so many sequences of 1024 a step, 25 seconds
after it began to train, to the end of the process, which has to come within 10 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import finish, spread, table

from gptcli.cli.common import EXIT_TERMINATED
from gptcli.config import DataConfig, ModelConfig, RunProfile, TrainConfig
from gptcli.prepare import ensure_tokens
from gptcli.profiles import find_profile, load_profile
from gptcli.runs import create_run
from gptcli.shards import open_dataset
from gptcli.trainer import Trainer

MOST, MOST_SECONDS, AFTER_SECONDS = 1.0, 10.0, 25.0
STOPPED = """\
description: GPT-2's small shape
model: {family: gpt2, n_layer: 12, n_head: 12, n_embd: 768, block_size: 1024}
data: {tokenizer: gpt2}
train: {batch_size: 1, max_steps: 1000, log_interval: 1}
"""
GPT2 = RunProfile(
    model=ModelConfig(family="gpt2", n_layer=12, n_head=12, n_embd=768, block_size=256),
    train=TrainConfig(batch_size=1),
)


def measure(name: str, steps: int, saves: int) -> tuple[int, list[float], list[float]]:
    """Return the steps between two saves, and the seconds of steps and of saves."""
    profile = GPT2 if name == "124M" else load_profile(find_profile(name).path)
    data = DataConfig(tokenizer="gpt2" if name == "124M" else "bpe:512")
    found = ensure_tokens("python-docs", data, on_notice=lambda _: None)
    run = create_run(profile, profile_name=name, dataset=open_dataset(found.folder), name=name)
    trainer = Trainer(run)
    of_steps, of_saves = list[float](), list[float]()
    for _ in range(saves):
        for _ in range(max(1, steps // saves)):
            begin = time.perf_counter()
            trainer.update()
            of_steps.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        trainer.save(best=False)
        of_saves.append(time.perf_counter() - begin)
    return profile.train.save_interval, of_steps[1:], of_saves


def stop(sequences: int) -> float:
    """Return the seconds from SIGTERM to the end of a training with so many sequences a step."""
    name = f"stopped-{sequences}"
    Path("stopped.yaml").write_text(STOPPED, "utf-8")
    options = ("--profile", "stopped.yaml", "--run", name, "--quiet", "--set", f"grad_accum_steps={sequences}")
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "gptcli", "train", "python-docs", *options]
    )
    metrics = Path("runs") / name / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError(f"training ended with {process.returncode}")
        time.sleep(0.1)
    time.sleep(AFTER_SECONDS)
    begin = time.perf_counter()
    process.terminate()
    if process.wait() != EXIT_TERMINATED:
        raise RuntimeError(f"training ended with {process.returncode}")
    return time.perf_counter() - begin


def main() -> None:
    """Measure the profiles and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", default="quickstart,macbook,laptop-10min,124M")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--stops", default="40,4,1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    file = options.json and options.json.resolve()
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in options.profiles.split(","):
            interval, steps, saves = measure(name, options.steps, options.saves)
            figures[name] = {"save_interval": interval, "steps": steps, "saves": saves}
            step, save = spread(steps), spread(saves)
            share = 100 * save.median / (interval * step.median)
            rows.append([name, step.shown(3), save.shown(3), f"{interval:,}", f"{share:.2f} %"])
        stops = [[number, f"{stop(int(number)):.1f}"] for number in options.stops.split(",")]
        os.chdir("/")
    columns = ["", "seconds a step", "seconds a save", "save_interval", "share"]
    tables = [table(columns, rows), f"must be below {MOST:g} %", table(["sequences a step", "seconds to stop"], stops)]
    finish({**figures, "stops": stops}, [*tables, f"must be below {MOST_SECONDS:g} s"], file)


if __name__ == "__main__":
    main()
