"""Wall time and loss of a first result on tiny Shakespeare: ``shakespeare-char-cpu`` beside nanoGPT's README command.

    python benchmarks/time_to_loss.py --nanogpt PATH_TO_CHECKOUT --text input.txt [--pairs 5] [--json]

Both sides run in turn (A B A B ...) in fresh processes from a prepared corpus; the clock is from process start to exit.
One evaluator scores both afterwards: the whole val split in windows of 64 that do not overlap, float32. nanoGPT is
copied into a temporary folder first, so that the checkout stays as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

BLOCK_SIZE = 64
NANOGPT_ARGUMENTS = [
    "--device=cpu",
    "--compile=False",
    "--eval_iters=20",
    "--log_interval=1",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--max_iters=2000",
    "--lr_decay_iters=2000",
    "--dropout=0.0",
]


def full_val_loss(logits: Callable[[torch.Tensor], torch.Tensor], ids: np.ndarray) -> float:
    """Return the mean loss in nats over every token of ``ids`` but the first and the last partial window."""
    n_windows = (len(ids) - 1) // BLOCK_SIZE
    tokens = torch.from_numpy(ids[: n_windows * BLOCK_SIZE + 1].astype(np.int64))
    inputs, targets = tokens[:-1].view(-1, BLOCK_SIZE), tokens[1:].view(-1, BLOCK_SIZE)
    total = 0.0
    with torch.no_grad():
        for start in range(0, n_windows, 128):
            out = logits(inputs[start : start + 128]).flatten(0, 1)
            total += float(
                torch.nn.functional.cross_entropy(out, targets[start : start + 128].flatten(), reduction="sum")
            )
    return total / targets.numel()


def timed(command: list[str], folder: Path) -> float:
    """Run a command to its end and return its seconds; raises when it fails."""
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds


class NanoGPT:
    """nanoGPT's README command for a CPU."""

    def __init__(self, checkout: Path, text: Path, folder: Path) -> None:
        self.folder = folder / "nanoGPT"
        shutil.copytree(checkout, self.folder, ignore=shutil.ignore_patterns(".git"))
        shutil.copy(text, self.folder / "data" / "shakespeare_char" / "input.txt")
        timed([sys.executable, "data/shakespeare_char/prepare.py"], self.folder)
        self.val = np.fromfile(self.folder / "data" / "shakespeare_char" / "val.bin", dtype=np.uint16)

    def run(self, number: int) -> tuple[float, float]:
        """Train once with the seed ``number``; return seconds and val loss."""
        source = (self.folder / "train.py").read_text("utf-8")
        (self.folder / "train_seeded.py").write_text(
            source.replace("manual_seed(1337", f"manual_seed({number}"), "utf-8"
        )
        command = [sys.executable, "train_seeded.py", "config/train_shakespeare_char.py", *NANOGPT_ARGUMENTS]
        seconds = timed(command, self.folder)
        return seconds, self._loss()

    def _loss(self) -> float:
        sys.path.insert(0, str(self.folder))
        from model import GPT, GPTConfig  # type: ignore[import-not-found]

        saved = torch.load(self.folder / "out-shakespeare-char" / "ckpt.pt", weights_only=True, map_location="cpu")
        with contextlib.redirect_stdout(sys.stderr):
            model = GPT(GPTConfig(**saved["model_args"]))
        model.load_state_dict(saved["model"])
        model.eval()
        # With targets nanoGPT gives the logits of all positions.
        return full_val_loss(lambda x: model(x, x)[0], self.val)


class Gptcli:
    """The built-in profile ``shakespeare-char-cpu``, with nothing asked for."""

    def __init__(self, text: Path, folder: Path) -> None:
        self.folder = folder / "gptcli"
        self.folder.mkdir()
        self.command = [sys.executable, "-m", "gptcli"]
        timed([*self.command, "fetch", str(text.resolve()), "--name", "shakespeare"], self.folder)
        timed([*self.command, "prepare", "shakespeare", "--tokenizer", "char", "--split-at", "0.9"], self.folder)

    def run(self, number: int) -> tuple[float, float]:
        """Train once with the seed ``number``; return seconds and val loss."""
        profile = ["--profile", "shakespeare-char-cpu", "--set", f"train.seed={number}"]
        seconds = timed([*self.command, "train", "shakespeare", *profile, "--run", f"s{number}"], self.folder)
        return seconds, self._loss(number)

    def _loss(self, number: int) -> float:
        from gptcli.checkpoints import load_model
        from gptcli.runs import RunDir

        model, _, _ = load_model(RunDir(self.folder / "runs" / f"s{number}"))
        val = RunDir(self.folder / "runs" / f"s{number}").dataset().val
        return full_val_loss(model, np.asarray(val.read(0, len(val))))


def summary(rows: list[tuple[float, float]]) -> dict[str, Any]:
    """Median, smallest and largest of seconds and losses."""
    seconds, losses = [row[0] for row in rows], [row[1] for row in rows]
    return {
        "seconds": [round(f(seconds), 2) for f in (statistics.median, min, max)],
        "val_loss": [round(f(losses), 4) for f in (statistics.median, min, max)],
    }


def main() -> None:
    """Run the pairs and print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="tiny Shakespeare, nanoGPT's input.txt")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        nanogpt, gptcli = NanoGPT(options.nanogpt, options.text, Path(name)), Gptcli(options.text, Path(name))
        for number in range(1, options.pairs + 1):
            theirs.append(nanogpt.run(number))
            ours.append(gptcli.run(number))
            print(f"pair {number}: nanoGPT {theirs[-1]}, gptcli {ours[-1]}", file=sys.stderr)
    ratios = [a[0] / b[0] for a, b in zip(theirs, ours, strict=True)]
    result: dict[str, Any] = {
        "nanogpt": summary(theirs),
        "gptcli": summary(ours),
        "times_faster": [round(f(ratios), 2) for f in (statistics.median, min, max)],
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'':12}{'seconds':>24}{'val loss':>30}")
    for side in ("nanogpt", "gptcli"):
        seconds, losses = (
            f"{median} ({low} to {high})" for median, low, high in (result[side]["seconds"], result[side]["val_loss"])
        )
        print(f"{side:12}{seconds:>24}{losses:>30}")
    median, low, high = result["times_faster"]
    print(f"times faster: {median} ({low} to {high})")


if __name__ == "__main__":
    main()
