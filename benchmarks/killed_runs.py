"""Kill training again and again, go on with ``--resume``, and compare the result with a run that nobody disturbed.

    python benchmarks/killed_runs.py [--kills 500] [--seed 1] [--json FILE]

Every attempt is the command line in a process of its own, ended by SIGKILL: half of them at a random moment of the time
that a third of a run takes, the others as soon as a checkpoint is being written after such a moment. Where a run comes
to its end before enough kills are done, another one begins. Final weights, optimizer, random state, progress, the
pointers, the events and a greedy text have to be the very bytes of the undisturbed run; exit code 1 where one is not.
Linux and macOS: the attempts are forked from one process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before torch is imported: threads do not live through a fork.
os.environ["OMP_NUM_THREADS"] = "1"

PROFILE = """\
description: A small run with everything that is drawn at random, saved all the time
model: {n_layer: 2, n_head: 2, n_embd: 32, block_size: 32, dropout: 0.1}
data: {tokenizer: char, split_at: 0.9}
train: {batch_size: 4, max_steps: 240, warmup_steps: 5, log_interval: 3, eval_interval: 40, save_interval: 4,
        sample_interval: 60, eval_tokens: 2000, keep_checkpoints: 1, device: cpu, compile: false, short_block_size: 16}
sample: {prompt: The, max_new_tokens: 20, seed: 3}
"""
TOPICS = 12
SHARE = 1 / 3
PATIENCE_SECONDS = 60.0
CLOCK = {"tokens_per_second", "elapsed", "remaining", "path", "folder", "run"}
NOT_COMPARED = {"run_started", "run_finished", "checkpoint_saved"}


def command(*arguments: str) -> int:
    """Run the command line in a forked process to its end; returns its exit code."""
    _, status = os.waitpid(begin(*arguments), 0)
    return os.waitstatus_to_exitcode(status)


def begin(*arguments: str, out: Path | None = None) -> int:
    """Begin the command line in a forked process; returns its number."""
    number = os.fork()
    if number:
        return number
    from gptcli.cli.app import main as cli

    said = os.open(os.devnull if out is None else out, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(said, 1)
    os.dup2(os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    sys.argv = ["gptcli", *arguments]
    code = 1
    try:
        cli()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    finally:
        os._exit(code)


def kill(number: int, checkpoints: Path, rng: random.Random, longest: float) -> bool | None:
    """End a process at a random moment, or in a save; says whether it was in one, None where it had ended before."""
    in_save, moment, known = rng.random() < 0.5, time.monotonic() + rng.uniform(0, longest), unfinished(checkpoints)
    while time.monotonic() < moment + (PATIENCE_SECONDS if in_save else 0):
        if os.waitpid(number, os.WNOHANG)[0]:
            return None
        if in_save and time.monotonic() >= moment and unfinished(checkpoints) - known:
            time.sleep(rng.uniform(0, 0.004))
            break
        time.sleep(0.0005)
    os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    return bool(unfinished(checkpoints) - known) if os.WIFSIGNALED(status) else None


def unfinished(checkpoints: Path) -> set[str]:
    """Return the names of what is being written in the folder, or was when its process was killed."""
    with contextlib.suppress(FileNotFoundError):
        return {path.name for path in checkpoints.iterdir() if path.name.startswith(".")}
    return set()


def contents(run: Path) -> dict[str, Any]:
    """Return all of a run that has to be equal."""
    found: dict[str, Any] = {which: (run / "checkpoints" / which).read_text() for which in ("latest", "best")}
    for which in ("latest", "best"):
        folder = run / "checkpoints" / found[which].split()[0]
        found |= {f"{which}/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())}
    from gptcli.metrics import read_events

    kept = [event for event in read_events(run / "metrics.jsonl") if event["event"] not in NOT_COMPARED]
    found["metrics"] = [{key: value for key, value in event.items() if key not in CLOCK} for event in kept]
    text = Path("text.txt")
    text.unlink(missing_ok=True)
    greedy = ("--prompt", "The", "--temperature", "0", "--max-new-tokens", "60")
    os.waitpid(begin("sample", run.name, *greedy, out=text), 0)
    found["text"] = text.read_text("utf-8")
    return found


def disturb(kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill runs until there were enough kills, each driven to its end; returns what came of it."""
    start = time.monotonic()
    if command("train", "text", "--profile", "killed.yaml", "--run", "whole"):
        raise RuntimeError(Path("said.txt").read_text("utf-8")[-2000:])
    longest = SHARE * (time.monotonic() - start)
    whole, done, in_save, runs, lost = contents(Path("runs/whole")), 0, 0, 0, list[str]()
    while done < kills:
        runs += 1
        run, resumed = Path("runs") / f"run-{runs}", ("train", "--resume", "--run", f"run-{runs}")
        first = ("train", "text", "--profile", "killed.yaml", "--run", run.name)
        while done < kills:
            found = kill(
                begin(*(resumed if (run / "profile.yaml").is_file() else first)), run / "checkpoints", rng, longest
            )
            if found is None:
                break
            done, in_save = done + 1, in_save + found
        if (run / "profile.yaml").is_file() and command(*resumed):
            lost.append(f"{run.name} does not go on: {Path('said.txt').read_text('utf-8')[-500:]}")
        elif (run / "profile.yaml").is_file() and (odd := differing(contents(run), whole)):
            lost.append(f"{run.name} differs in {', '.join(odd)}")
    return {"kills": done, "in_a_save": in_save, "runs": runs, "lost": lost}


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the names of what is not equal."""
    return [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the corpus, disturb runs and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    options = parser.parse_args(arguments)
    from pydoc_data.topics import topics

    import torch  # noqa: F401 - here once, so that an attempt begins at once

    with tempfile.TemporaryDirectory() as folder:
        json_file = options.json and options.json.resolve()
        os.chdir(folder)
        Path("text.txt").write_text("".join(topics[name] for name in sorted(topics)[:TOPICS]), "utf-8")
        Path("killed.yaml").write_text(PROFILE, "utf-8")
        for step in (("fetch", "text.txt"), ("prepare", "text", "--tokenizer", "char", "--split-at", "0.9")):
            if command(*step):
                raise RuntimeError(Path("said.txt").read_text("utf-8")[-2000:])
        result = disturb(options.kills, random.Random(options.seed))
        os.chdir("/")
    if json_file:
        json_file.write_text(json.dumps(result), "utf-8")
    print(f"{result['kills']} kills, {result['in_a_save']} of them in a save, over {result['runs']} runs:", end=" ")
    print("\n".join(result["lost"]) or "all came to their end as if nothing had happened.")
    return 1 if result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
