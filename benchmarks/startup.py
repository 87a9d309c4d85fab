"""How long gptcli takes to start, beside an empty Python and one that imports torch.

    python benchmarks/startup.py [--pairs 11] [--json FILE]

Every command runs in turn in fresh processes with warm caches, in an empty folder; its excess is over the empty Python
of the same round. ``first step`` is the time from process start until a training run of python-docs, fetched and
prepared before, has logged its first step; its excess is over the Python that imports torch.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from side_by_side import GPTCLI, environment, finish, in_turn, make_parser, run, spread, table

EMPTY, TORCH, FIRST_STEP = "python -c pass", 'python -c "import torch"', "gptcli train, first step"
MUST = {"gptcli --help": "0.2 / 0.1"}
COMMANDS = (
    ("--help",),
    ("--version",),
    ("train", "--help"),
    ("profiles", "list"),
    ("train", "--profile", "nowhere"),
    ("train", "--set", "n_layr=3"),
)


def commands() -> dict[str, list[str]]:
    """Return what is timed from start to exit; gptcli by its script where this Python has one."""
    script = shutil.which("gptcli", path=str(Path(sys.executable).parent))
    ours = [script] if script else list(GPTCLI)
    shown = {" ".join(["gptcli", *arguments]): [*ours, *arguments] for arguments in COMMANDS}
    return {EMPTY: [sys.executable, "-c", "pass"], TORCH: [sys.executable, "-c", "import torch"], **shown}


def first_step(folder: Path, env: Mapping[str, str], name: str) -> float:
    """Return the seconds from process start to the first step that a run logs."""
    settings = [part for key in ("max_steps", "log_interval") for part in ("--set", f"{key}=1")]
    command = [*GPTCLI, "train", "python-docs", "--run", name, *settings]
    begin = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        metrics, seconds = folder / "runs" / name / "metrics.jsonl", 0.0
        while not seconds and process.poll() is None:
            if metrics.is_file() and b'"step_logged"' in metrics.read_bytes():
                seconds = time.perf_counter() - begin
            time.sleep(0.002)
        _, err = process.communicate()
    if process.returncode or not seconds:
        raise RuntimeError(f"{' '.join(command)} failed:\n{err[-2000:]}")
    return seconds


def measure(folder: Path, env: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each command and each round, after a round that fills the caches."""
    known = commands()
    run([*GPTCLI, "fetch", "python-docs"], folder, env)
    run([*GPTCLI, "prepare", "python-docs"], folder, env)

    def once(name: str, number: int) -> float:
        if name == FIRST_STEP:
            return first_step(folder, env, f"run-{number}")
        return run(known[name], folder, env, fails=True).seconds

    found: dict[str, list[float]] = {name: [] for name in (*known, FIRST_STEP)}
    for name in found:
        once(name, 0)
    for number, name in in_turn(list(found), rounds):
        found[name].append(once(name, number))
    return found


def main() -> None:
    """Time the commands and print the table."""
    parser = make_parser(__doc__)
    parser.set_defaults(pairs=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (work := Path(folder) / "work").mkdir()
        found = measure(work, environment(options.threads, Path(folder) / "caches"), options.pairs)
    rows = []
    for name, seconds in found.items():
        base = TORCH if name == FIRST_STEP else EMPTY
        excess = spread([own - other for own, other in zip(seconds, found[base], strict=True)])
        rows.append([f"`{name}`", spread(seconds).shown(3), excess.shown(3), MUST.get(name, "")])
    lines = [table(["", "seconds", "excess", "must / aim"], rows)]
    finish({"threads": options.threads, "seconds": found}, lines, options.json)


if __name__ == "__main__":
    main()
