"""Tokens a second of several processes with a thread each, beside one process with as many threads, on a CPU.

    python benchmarks/scaling.py --text input.txt [--rows NAME,...] [--pairs 5] [--threads 2] [--json FILE]

Every side is ``gptcli train`` on the same text, shape, tokens per step and seed, in float32, in a fresh job whose
processes ``--nproc`` starts. Sides run in turn (A B C A B C ...). A side's figure is the pace that the run reports at
its last step: that of 64 steps, evaluations and saves left out. ``one`` is one process with one thread, for scale.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from side_by_side import GPTCLI, environment, finish, in_turn, make_parser, ratios, run, spread, table


@dataclass(frozen=True)
class Row:
    """A shape, its batch, and how many steps are made."""

    name: str
    n_layer: int
    n_embd: int
    block_size: int
    batch_size: int
    steps: int


ROWS = (Row("small", 4, 128, 64, 32, 150), Row("middle", 4, 256, 256, 16, 50), Row("large", 6, 512, 256, 8, 30))


def main(arguments: list[str]) -> int:
    """Run all sides and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS))
    parser.add_argument("--engine", choices=("ddp", "fsdp"), default="ddp")
    options = parser.parse_args(arguments)
    n = options.threads
    # Processes and threads of each.
    sides = {f"{n} x 1": (n, 1), f"1 x {n}": (1, n), "one": (1, 1)}
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([*GPTCLI, "fetch", str(options.text.resolve()), "--name", "text"], folder, environment(1))
        run([*GPTCLI, "prepare", "text", "--tokenizer", "char"], folder, environment(1))
        for row in (row for row in ROWS if row.name in options.rows.split(",")):
            found[row.name] = {side: [] for side in sides}
            for number, side in in_turn(list(sides), options.pairs):
                processes, threads = sides[side]
                job = f"{row.name}-{processes}-{threads}-{number}"
                run(_command(row, job, processes, options.engine), folder, environment(threads))
                found[row.name][side].append(_pace(folder / "runs" / job / "metrics.jsonl"))
    lines = []
    for row_name, paces in found.items():
        each = [spread(paces[side]).shown(0) for side in sides]
        lines.append([row_name, *each, ratios(paces[f"{n} x 1"], paces[f"1 x {n}"]).shown(2)])
    columns = ["tokens/s", *(f"{side} thread{'s' * (side != 'one')}" for side in sides), f"{n} x 1 / 1 x {n}"]
    finish({"tokens_per_second": found}, [table(columns, lines)], options.json)
    return 0


def _command(row: Row, job: str, processes: int, engine: str) -> list[str]:
    shape = {"n_layer": row.n_layer, "n_embd": row.n_embd, "n_head": 4, "block_size": row.block_size, "dropout": 0}
    train = {"batch_size": row.batch_size, "max_steps": row.steps, "dtype": "float32", "parallel": engine}
    sets = {**shape, **train, "eval_interval": row.steps, "eval_tokens": 1000, "short_block_size": "null"}
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    several = ["--nproc", str(processes)] if processes > 1 else []
    return [*GPTCLI, "train", "text", "--profile", "macbook", "--run", job, "--device", "cpu", *several, *words]


def _pace(metrics: Path) -> float:
    events = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    return float([event for event in events if event["event"] == "step_logged"][-1]["tokens_per_second"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
