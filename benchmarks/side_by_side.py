"""What the benchmarks share: fresh processes, their clock, medians with their spread, tables, and nanoGPT's copy.

Knows neither what is run nor what a row means.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
GPTCLI = (sys.executable, "-m", "gptcli")
# Caches that a first start fills: Python's bytecode, the compiler's kernels, and whatever else keeps to the standard.
CACHES = ("PYTHONPYCACHEPREFIX", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")
SECONDS_TO_END = 10


class Spread(NamedTuple):
    """A median with the smallest and the largest of what was measured."""

    median: float
    low: float
    high: float

    def shown(self, digits: int) -> str:
        """Return it for a table."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


class Process(NamedTuple):
    """What a process did: its seconds from start to exit, its stdout, and whether it had to be ended."""

    seconds: float
    stdout: str
    ended: bool = False


def spread(values: Sequence[float]) -> Spread:
    """Return median, smallest and largest."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Return the spread of the ratios pair by pair."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def environment(threads: int, caches: Path | None = None) -> dict[str, str]:
    """Return the environment of both sides: the same threads, this checkout, and the caches inside a folder if given.

    An empty folder makes a cold start. The system's own cache of files stays as it is.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
    inside = {} if caches is None else {name: str(caches / name.lower()) for name in CACHES}
    # Where Python may not write bytecode, every start would be a cold one.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **own, **inside}


def run(
    command: Sequence[str], folder: Path, env: Mapping[str, str], *, limit: float | None = None, fails: bool = False
) -> Process:
    """Run a command in a fresh process, ended after ``limit`` seconds; raises when it fails and may not."""
    begin = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        ended = False
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            ended = True
            process.kill()
            out, err = process.communicate(timeout=SECONDS_TO_END)
    seconds = time.perf_counter() - begin
    if process.returncode and not ended and not fails:
        raise RuntimeError(f"{' '.join(command)} failed:\n{out[-2000:]}\n{err[-2000:]}")
    return Process(seconds, out, ended)


def in_turn(sides: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield the sides A B A B ..., each with the number of its round from 1, saying on stderr where we are."""
    for number in range(1, rounds + 1):
        for side in sides:
            print(f"{number} of {rounds}: {side}", file=sys.stderr, flush=True)
            yield number, side


def copy_checkout(checkout: Path, folder: Path) -> Path:
    """Copy nanoGPT's checkout, so that it stays as it is; returns the copy."""
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    return copy


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shared(parser)
    return parser


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks have."""
    parser.add_argument("--pairs", type=int, default=5, help="how often each side runs (default 5)")
    parser.add_argument("--threads", type=int, default=len(_cores()), help="of each side (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")


def _cores() -> Sequence[int]:
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else range(os.cpu_count() or 1)


def finish(found: Mapping[str, Any], lines: Sequence[str], file: Path | None) -> None:
    """Print what was found, and write all figures to a file if one is given."""
    print("\n".join(lines))
    if file is not None:
        file.write_text(json.dumps(found, indent=1), "utf-8")
