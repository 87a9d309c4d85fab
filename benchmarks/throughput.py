"""Tokens a second of training, beside nanoGPT with the same architecture and batch, on a CPU.

    python benchmarks/throughput.py --nanogpt CHECKOUT --text input.txt [--rows NAME,...] [--pairs 5] [--steps N]
                                    [--set KEY=VALUE ...] [--json FILE]

Both sides are of family gpt2 (4 layers, 4 heads, no dropout, no biases, AdamW), train on tiny Shakespeare without a
compiler, and run in turn (A B A B ...), each in a fresh process with the same threads. nanoGPT is its own ``train.py``,
whose seconds of each step are those that it prints; gptcli's are those of ``Trainer.update`` on a real run. The first
steps are not counted, nothing is evaluated or saved between the others, and a process's figure is that of its median
step. Each side has the number formats that it chooses here: nanoGPT float32, gptcli what ``dtype: auto`` is; ``--set``
changes keys of gptcli's profile, such as ``train.dtype=float32``.

``char`` has the 65 characters of the text, the ``head`` rows GPT-2's vocabulary (nanoGPT makes 50,304 of its 50,257).
``clock`` compares the tokens_per_second that a run reports, with evaluations, samples and checkpoints between its
steps, with a clock of its reader's around the same steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from side_by_side import ROOT, environment, finish, in_turn, make_parser, ratios, run, spread, table
from training_sides import ITERATION, Gptcli, NanoGPT, flags

WARM_UP = 10
CLOCK_STEPS = 64  # which a report looks back on
CLOCK_REPORTS = 5


@dataclass(frozen=True)
class Row:
    """One architecture and batch, how many steps are timed, and how many times as fast gptcli must and should be."""

    name: str
    tokenizer: str
    n_embd: int
    block_size: int
    batch_size: int
    steps: int
    must: float
    aim: float


ROWS = (
    Row("char", "char", 128, 64, 12, 200, 1.3, 2.0),
    Row("head-64", "gpt2", 64, 64, 12, 40, 1.5, 3.0),
    Row("head-128", "gpt2", 128, 64, 12, 40, 1.5, 3.0),
    Row("head-256", "gpt2", 256, 64, 12, 30, 1.5, 3.0),
    Row("head-384", "gpt2", 384, 64, 12, 20, 1.5, 3.0),
    Row("head-256-long", "gpt2", 256, 256, 4, 20, 1.5, 3.0),
)
DATASETS = {"char": "shakespeare_char", "gpt2": "shakespeare"}


class Sitting:
    """The prepared tokens of both sides, and how each is timed."""

    def __init__(self, options: argparse.Namespace, folder: Path, tokenizers: set[str]) -> None:
        self.options, self.folder, self.env = options, folder, environment(options.threads)
        self.n_runs = 0
        self.gptcli = {
            name: Gptcli(options.text, folder / name, "shakespeare", ["--tokenizer", name], self.env)
            for name in sorted(tokenizers | {"char"})
        }
        self.nanogpt = {
            name: NanoGPT(options.nanogpt, options.text, folder / name, DATASETS[name], self.env)
            for name in sorted(tokenizers)
        }

    def ours(self, row: Row) -> dict[str, Any]:
        """Return the seconds of each timed step, and the number format."""
        model = {"family": "gpt2", "n_layer": 4, "n_head": 4, "n_embd": row.n_embd, "block_size": row.block_size}
        train = {"batch_size": row.batch_size, "optimizer": "adamw", "compile": False, "max_steps": 100_000}
        return self._side(
            row.tokenizer, {"model": model, "train": train}, what="steps", warm_up=WARM_UP, steps=self._steps(row)
        )

    def clock(self) -> list[tuple[float, float]]:
        """Return tokens a second as reported and as seen from outside, report by report."""
        intervals = ("log_interval", "eval_interval", "save_interval", "sample_interval")
        train = {
            "batch_size": 12,
            "max_steps": CLOCK_STEPS * CLOCK_REPORTS,
            "eval_tokens": 8192,
            **dict.fromkeys(intervals, CLOCK_STEPS),
        }
        model = {"n_layer": 2, "n_head": 2, "n_embd": 96, "block_size": 64}
        answer = self._side("char", {"model": model, "train": train}, what="clock")
        return [(product, outside) for product, outside in answer["product_and_outside"]]

    def _side(self, tokenizer: str, profile: dict[str, Any], **spec: object) -> dict[str, Any]:
        """Run gptcli's side in a fresh process."""
        self.n_runs += 1
        spec |= {"profile": profile, "set": self.options.set, "tokens": str(self.gptcli[tokenizer].tokens)}
        spec["runs"] = str(self.folder / f"runs-{self.n_runs}")
        side = str(ROOT / "benchmarks" / "throughput_side.py")
        # As gptcli's command line has it.
        env = self.env if "OMP_WAIT_POLICY" in self.env else {"GOMP_SPINCOUNT": "1000", **self.env}
        answer: dict[str, Any] = json.loads(run([sys.executable, side, json.dumps(spec)], self.folder, env).stdout)
        return answer

    def theirs(self, row: Row) -> list[float]:
        """Return the seconds of each timed step."""
        arguments = flags(
            n_layer=4, n_head=4, n_embd=row.n_embd, block_size=row.block_size, batch_size=row.batch_size, dropout=0.0,
            gradient_accumulation_steps=1, log_interval=1, eval_iters=1, eval_interval=100_000,
            max_iters=WARM_UP + self._steps(row) - 1,
        )  # fmt: skip
        process = self.nanogpt[row.tokenizer].train(1, arguments, self.env)
        return [float(milliseconds) / 1000 for _, milliseconds in ITERATION.findall(process.stdout)[WARM_UP:]]

    def _steps(self, row: Row) -> int:
        return self.options.steps or row.steps


def measure(sitting: Sitting, row: Row, pairs: int) -> dict[str, Any]:
    """Run the sides of a row in turn; returns tokens a second of each process, and the ratios' spread."""
    tokens, dtype = row.batch_size * row.block_size, ""
    rates: dict[str, list[float]] = {"nanogpt": [], "gptcli": []}
    for _, side in in_turn(list(rates), pairs):
        if side == "gptcli":
            answer = sitting.ours(row)
            seconds, dtype = answer["seconds"], answer["dtype"]
        else:
            seconds = sitting.theirs(row)
        rates[side].append(tokens / spread(seconds).median)
    return {**asdict(row), "dtype": dtype, **rates, "times": ratios(rates["gptcli"], rates["nanogpt"])}


def shown(results: list[dict[str, Any]]) -> str:
    """Return the table of all rows."""
    lines = []
    for found in results:
        rates = [spread(found[side]).shown(0) for side in ("gptcli", "nanogpt")]
        shape = f"{found['n_embd']} wide, {found['batch_size']} x {found['block_size']}"
        goal = f"{found['must']} / {found['aim']}"
        lines.append([found["name"], shape, found["dtype"], *rates, found["times"].shown(2), goal])
    columns = ["", "shape", "gptcli's dtype", "gptcli, tokens/s", "nanoGPT, tokens/s", "times as fast", "must / aim"]
    return table(columns, lines)


def compare_clocks(sitting: Sitting, rounds: int) -> dict[str, Any]:
    """Return how far the reported pace is from an outside clock, in percent, over the reports of some runs."""
    pairs = [pair for _, _ in in_turn(["clock"], rounds) for pair in sitting.clock()]
    return {"pairs": pairs, "percent": spread([100 * (product / outside - 1) for product, outside in pairs])}


def parse() -> argparse.Namespace:
    """Read the command line."""
    known = [*(row.name for row in ROWS), "clock"]
    parser = make_parser(__doc__)
    parser.add_argument("--nanogpt", type=Path, required=True, help="nanoGPT's checkout")
    parser.add_argument("--text", type=Path, required=True, help="tiny Shakespeare, nanoGPT's input.txt")
    parser.add_argument("--rows", default=",".join(known), help=f"some of {','.join(known)}")
    parser.add_argument("--steps", type=int, help="steps to time in each process; else 20 to 200 by row")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of gptcli's profile")
    options = parser.parse_args()
    options.rows = options.rows.split(",")
    if unknown := set(options.rows) - set(known):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return options


def main() -> None:
    """Run the rows and print the table."""
    options = parse()
    rows = [row for row in ROWS if row.name in options.rows]
    results, lines, clocks = [], [], None
    with tempfile.TemporaryDirectory() as folder:
        sitting = Sitting(options, Path(folder), {row.tokenizer for row in rows})
        for row in rows:
            results.append(measure(sitting, row, options.pairs))
            print(shown(results[-1:]), file=sys.stderr)
        if "clock" in options.rows:
            clocks = compare_clocks(sitting, options.pairs)
    if results:
        lines.append(shown(results))
    if clocks:
        lines.append(f"tokens_per_second is {clocks['percent'].shown(2)} % above an outside clock; must be within 2")
    finish({"rows": results, "clock": clocks, "threads": options.threads}, lines, options.json)


if __name__ == "__main__":
    main()
