"""The two sides of ``time_to_loss.py``, trained by their own commands, and the one evaluator that scores both.

Loss is over every token of val but the first, in windows of the block size that do not overlap, float32.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from side_by_side import GPTCLI, Process, copy_checkout, run

from gptcli.restore import load_model
from gptcli.runs import RunDir
from gptcli.shards import open_dataset
from gptcli.tokenizer import byte_lengths, gpt2_tokenizer, load_tokenizer

Ids = npt.NDArray[Any]
Logits = Callable[[torch.Tensor], torch.Tensor]
WINDOWS = 16
ITERATION = re.compile(r"^iter (\d+): loss [\d.naninf]+, time ([\d.]+)ms", re.MULTILINE)


class Score(NamedTuple):
    """What a model makes of the val split: loss in nats a token, and bits a byte of the text that was scored."""

    val_loss: float
    bits_per_byte: float


class Trained(NamedTuple):
    """A training run: wall seconds from process start to exit, those of its steps alone, and what came of it."""

    seconds: float
    training_seconds: float
    steps: int
    val_loss: float
    bits_per_byte: float
    minutes_to_target: float | None = None


def flags(**values: object) -> list[str]:
    """Return the arguments that nanoGPT's ``configurator.py`` reads."""
    return [f"--{name}={value}" for name, value in values.items()]


@torch.no_grad()
def score(logits: Logits, ids: Ids, block_size: int, lengths: npt.NDArray[np.int64]) -> Score:
    """Score ``ids`` with a function from inputs (B, T) to logits (B, T, V); ``lengths`` are the bytes of each id."""
    tokens = torch.from_numpy(ids.astype(np.int64))
    n_windows, total = (len(tokens) - 1) // block_size, 0.0
    whole = n_windows * block_size
    inputs, targets = tokens[:whole].view(-1, block_size), tokens[1 : whole + 1].view(-1, block_size)
    batches = list(zip(inputs.split(WINDOWS), targets.split(WINDOWS), strict=True))
    if whole + 1 < len(tokens):
        batches.append((tokens[None, whole:-1], tokens[None, whole + 1 :]))
    for inside, following in batches:
        out = logits(inside).flatten(0, 1).float()
        total += float(torch.nn.functional.cross_entropy(out, following.flatten(), reduction="sum"))
    n_bytes = int(lengths[ids[1:].astype(np.int64)].sum())
    return Score(total / (len(tokens) - 1), total / math.log(2) / n_bytes)


class NanoGPT:
    """nanoGPT's ``train.py`` in a copy of its checkout, with its own ``prepare.py`` of a data set."""

    def __init__(self, checkout: Path, text: Path, folder: Path, dataset: str, env: Mapping[str, str]) -> None:
        self.folder, self.out = copy_checkout(checkout, folder), "out-side"
        self.data = self.folder / "data" / dataset
        shutil.copy(text, self.data / "input.txt")
        run([sys.executable, str(self.data / "prepare.py")], self.folder, env)
        self.source = (self.folder / "train.py").read_text("utf-8")
        self.dataset, self.val = dataset, np.fromfile(self.data / "val.bin", dtype=np.uint16)
        # Bits a byte are of use for BPE alone; a character of tiny Shakespeare is one byte.
        bpe = dataset != "shakespeare_char"
        self.lengths = byte_lengths(gpt2_tokenizer()) if bpe else np.ones(65_536, np.int64)

    def train(self, seed: int, arguments: list[str], env: Mapping[str, str], limit: float | None = None) -> Process:
        """Train with nanoGPT's configuration for characters and these arguments over it."""
        seeded = self.source.replace("manual_seed(1337", f"manual_seed({seed}")
        (self.folder / "train_seeded.py").write_text(seeded, "utf-8")
        shutil.rmtree(self.folder / self.out, ignore_errors=True)
        fixed = ["--device=cpu", "--compile=False", f"--dataset={self.dataset}", f"--out_dir={self.out}"]
        command = [sys.executable, "-u", "train_seeded.py", "config/train_shakespeare_char.py", *fixed, *arguments]
        return run(command, self.folder, env, limit=limit)

    def trained(self, process: Process, eval_interval: int) -> Trained:
        """Return what a run came to; the steps that an evaluation was timed with count as the others do."""
        milliseconds = {int(number): float(time) for number, time in ITERATION.findall(process.stdout)}
        plain = [time for number, time in milliseconds.items() if number % eval_interval]
        each = sum(plain) / len(plain) / 1000
        return Trained(process.seconds, each * len(milliseconds), len(milliseconds), *self._score())

    def _score(self) -> Score:
        sys.path.insert(0, str(self.folder))
        from model import GPT, GPTConfig  # type: ignore[import-not-found]

        saved = torch.load(self.folder / self.out / "ckpt.pt", weights_only=True, map_location="cpu")
        with contextlib.redirect_stdout(sys.stderr):
            model = GPT(GPTConfig(**saved["model_args"]))
        model.load_state_dict(saved["model"])
        model.eval()
        # With targets nanoGPT gives the logits of all positions.
        return score(lambda x: model(x, x)[0], self.val, saved["model_args"]["block_size"], self.lengths)


class Gptcli:
    """``gptcli train`` on a text that was fetched and prepared before."""

    def __init__(self, text: Path, folder: Path, corpus: str, tokenizer: list[str], env: Mapping[str, str]) -> None:
        self.folder = folder / "gptcli"
        self.folder.mkdir(parents=True)
        run([*GPTCLI, "fetch", str(text.resolve()), "--name", corpus], self.folder, env)
        prepared = run([*GPTCLI, "prepare", corpus, *tokenizer, "--split-at", "0.9"], self.folder, env)
        self.tokens = self.folder / prepared.stdout.strip()
        self.dataset = open_dataset(self.tokens)

    def text(self) -> tuple[str, str]:
        """Return the text of both splits, as it became tokens."""
        tokenizer = load_tokenizer(self.tokens / "tokenizer.json")
        splits = (self.dataset.train, self.dataset.val)
        train, val = (tokenizer.decode(np.asarray(split.read(0, len(split)))) for split in splits)
        return train, val

    def train(self, name: str, arguments: list[str], env: Mapping[str, str], target: float | None = None) -> Trained:
        """Train a run to its end; ``minutes_to_target`` is when its own evaluation first found val at ``target``."""
        command = [*GPTCLI, "train", str(self.tokens), "--run", name, *arguments]
        process = run(command, self.folder, env)
        found = RunDir(self.folder / "runs" / name)
        events = [json.loads(line) for line in found.metrics_path.read_text("utf-8").splitlines()]
        minutes = None if target is None else _minutes_to(target, events, process.seconds)
        return Trained(process.seconds, _training_seconds(events), events[-1]["step"], *_score_run(found), minutes)


def _score_run(found: RunDir) -> Score:
    """Score the best checkpoint, which is what the run's user gets."""
    model, tokenizer, _ = load_model(found)
    val = found.dataset().val
    ids = np.asarray(val.read(0, len(val)))
    return score(model, ids, model.config.block_size, byte_lengths(tokenizer))


def _training_seconds(events: list[dict[str, Any]]) -> float:
    """Return the seconds of the steps by the run's own pace."""
    total, before = 0.0, 0
    for event in events:
        if event["event"] == "step_logged" and event["tokens_per_second"]:
            total += (event["tokens_seen"] - before) / event["tokens_per_second"]
            before = event["tokens_seen"]
    return total


def _minutes_to(target: float, events: list[dict[str, Any]], seconds: float) -> float | None:
    """Return the minutes from process start; all that the run's clock did not see is taken to lie before it."""
    outside = seconds - events[-1]["elapsed"]
    reached = (e["elapsed"] for e in events if e["event"] == "evaluated" and e["val_loss"] <= target)
    first = next(reached, None)
    return None if first is None else (first + outside) / 60
