"""How fast gptcli writes, beside transformers, llama.cpp, CTranslate2 and nanoGPT.

    python benchmarks/generate.py [--nanogpt CHECKOUT] [--llama-python PYTHON] [--ctranslate2-python PYTHON]
                                  [--rows NAME,...] [--pairs 5] [--quick] [--json FILE]

CHECKOUT is a folder with nanoGPT's ``model.py``, PYTHON an interpreter that has ``llama_cpp``, or ``ctranslate2`` and
``transformers``. Rows whose peer is not given are left out, and that is said. nanoGPT runs in this very Python.

The sides of a row run in turn (A B A B ...), each in a fresh process with the same number of threads. The models have
random weights, made here once (1.5 GB): GPT-2 124M in a folder as ``save_pretrained`` writes it, which gptcli,
transformers and CTranslate2's converter read; GGUF by ``gptcli export``; nanoGPT's have the same shapes. Every side
draws at temperature 0.8 from the whole vocabulary, after a prompt of 32 tokens, and does not end before its last token.

Tokens a second are those of all texts together over the whole call, reading the prompt too; the first token's time is
that of a call for one token, the median of three; peak memory is the process's (getrusage, mapped pages included). The
share of the bandwidth is the bytes of the weights that a step has to read, times steps a second, over what a sum over
a gigabyte of float32 reads a second on the same threads; small models lie in the processor's caches and have none.

Nothing else may run meanwhile: the threads of the peers spin while they wait. gptcli's do so for a moment only, which
is what its command line asks for (GOMP_SPINCOUNT). With five pairs all of it takes about 18 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generate_sides import CHARACTERS, GPT2

HERE = Path(__file__).resolve()
WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
OUR_HEAD_WIDTH = {**WIDTH, "int8": 2}  # gptcli keeps the head of int8 in float16
PROMPT = "The for statement"
TIMEOUT = 600


@dataclass(frozen=True)
class Job:
    """One side of a row: a model in a number format, a batch, and how many tokens are drawn."""

    side: str
    model: str
    batch: int = 1
    lengths: tuple[int, ...] = (128, 512)
    format: str = "float32"


@dataclass(frozen=True)
class Row:
    """A line of the table: the two sides and how many times faster gptcli has to be and should be."""

    name: str
    ours: Job
    theirs: Job
    lengths: tuple[int, ...]
    must: float | None = None
    aim: float | None = None
    what: str = ""


OURS = Job("gptcli", "gpt2")
OURS_8 = Job("gptcli", "gpt2", batch=8)
LLAMA_16 = Job("llama", "gpt2", format="float16")


def all_rows() -> list[list[Row]]:
    """Return the rows in groups; the sides of a group run in turn."""
    both, short, text = (128, 512), (128,), (500,)
    nanogpt = Job("nanogpt", "gpt2", lengths=short)
    groups = [
        [
            Row("transformers", OURS, Job("transformers", "gpt2"), both, 1.2, 1.4),
            Row("transformers", OURS_8, Job("transformers", "gpt2", 8, short), short),
            Row("llama-float32", OURS, Job("llama", "gpt2"), both, None, 1.0),
            Row("nanogpt", OURS, nanogpt, short, 4, 6),
            Row("batch", OURS_8, OURS, both, 3, 5, "8 texts against 8 x 1"),
        ],
        [
            Row("float16", Job("gptcli", "gpt2", format="float16"), LLAMA_16, both, 0.7, 1.0),
            Row("bfloat16", Job("gptcli", "gpt2", format="bfloat16"), LLAMA_16, both, 0.7, 1.0),
        ],
        [
            Row(
                "int8",
                Job("gptcli", "gpt2", batch, lengths, "int8"),
                Job("ctranslate2", "gpt2", batch, lengths, "int8"),
                lengths,
                1.2,
                2.0,
            )
            for batch, lengths in ((1, both), (8, short))
        ],
    ]
    for size in CHARACTERS:
        theirs = Job("nanogpt", f"{size} gpt2", lengths=text)
        rows = [Row(size, Job("gptcli", f"{size} {f}", lengths=text), theirs, text, 4, 10) for f in ("gpt2", "modern")]
        groups.append(rows)
    return groups


class Sitting:
    """The models, the peers and everything measured so far."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.pythons = {"llama": options.llama_python, "ctranslate2": options.ctranslate2_python}
        self.read_weights: dict[str, int] = {}
        self.bandwidth: list[float] = []
        self.answers: dict[Job, list[dict[str, Any]]] = {}
        self.left_out: dict[str, str] = {}
        threads = str(options.threads)
        self.environment = {
            **os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip

    def ask(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Run a side in a fresh process of its Python; raises ``RuntimeError`` with its last words when it fails."""
        side = "ctranslate2" if spec["side"] == "convert" else spec["side"]
        command = [self.pythons.get(side) or sys.executable, str(HERE.with_name("generate_sides.py")), json.dumps(spec)]
        environment = dict(self.environment)
        if side == "gptcli" and "OMP_WAIT_POLICY" not in environment:
            environment.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it
        if side in self.pythons:
            environment.pop("PYTHONPATH")
        try:
            done = subprocess.run(  # noqa: S603
                command, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"no answer within {TIMEOUT} s") from error
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1])
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def missing(self, job: Job) -> str | None:
        """Return what a side lacks."""
        if job.side == "nanogpt" and self.options.nanogpt is None:
            return "--nanogpt is not given"
        if job.side in self.pythons and self.pythons[job.side] is None:
            return f"--{job.side}-python is not given"
        return None

    def runnable(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows whose sides lack nothing; the others are noted."""
        for job in (job for row in rows for job in (row.ours, row.theirs)):
            if (why := self.missing(job)) is not None:
                self.left_out[words_of(job)] = why
        return [row for row in rows if not {words_of(row.ours), words_of(row.theirs)} & self.left_out.keys()]

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Make the models that the jobs read."""
        ggufs = sorted({job.format for job in jobs if job.side == "llama"})
        models = sorted({job.model for job in jobs})
        spec = {"side": "prepare", "folder": str(self.folder), "models": models, "gguf": ggufs}
        self.read_weights = self.ask(spec)["read_weights"]
        if any(job.side == "ctranslate2" for job in jobs):
            whole, to = str(self.folder / "gpt2"), str(self.folder / "ctranslate2-int8")
            try:
                self.ask({"side": "convert", "path": whole, "to": to, "format": "int8"})
            except (RuntimeError, OSError) as error:
                self.left_out |= {words_of(job): f"not converted: {error}" for job in jobs if job.side == "ctranslate2"}

    def spec(self, job: Job) -> dict[str, Any]:
        """Return what the side of a job is told."""
        shape = shape_of(job)
        path = {
            "llama": self.folder / f"gguf-{job.format}" / "gpt2.gguf",
            "ctranslate2": self.folder / f"ctranslate2-{job.format}",
        }.get(job.side, self.folder / job.model.replace(" ", "-"))
        return {
            "side": job.side, "path": str(path), "format": job.format, "batch": job.batch, "shape": shape,
            "lengths": [32] if self.options.quick else job.lengths, "vocab_size": shape["vocab_size"],
            "checkout": str(self.options.nanogpt),
        }  # fmt: skip

    def measure(self, jobs: Sequence[Job]) -> None:
        """Run the sides of a group in turn, once a pair; one that fails is left out from then on."""
        for number in range(1, self.options.pairs + 1):
            if number in (1, self.options.pairs):
                self.bandwidth.append(self.ask({"side": "bandwidth"})["bytes_per_second"])
            for job in jobs:
                if words_of(job) in self.left_out:
                    continue
                try:
                    answer = self.ask(self.spec(job))
                except (RuntimeError, OSError, ValueError) as error:
                    self.left_out[words_of(job)] = str(error)
                    say(f"{words_of(job)}: {error}")
                    continue
                self.answers.setdefault(job, []).append(answer)
                rates = ", ".join(f"{length}: {rate:.1f}" for length, rate in answer["rates"].items())
                say(f"pair {number}, {words_of(job)}: {rates} tokens/s")

    def results(self, row: Row) -> list[dict[str, Any]]:
        """Return a row's figures, one entry a length; none when one of its sides has no answers."""
        ours, theirs = self.answers.get(row.ours, []), self.answers.get(row.theirs, [])
        if not ours or len(ours) != len(theirs):
            return []
        return [
            {
                "row": row.name,
                "what": row.what or f"{words_of(row.ours)} against {words_of(row.theirs)}",
                "batch": row.ours.batch,
                "new_tokens": int(length),
                "ours": self.figures(row.ours, ours, length),
                "theirs": self.figures(row.theirs, theirs, length),
                "times": spread([a["rates"][length] / b["rates"][length] for a, b in zip(ours, theirs, strict=True)]),
                "must": row.must,
                "aim": row.aim,
            }
            for length in (["32"] if self.options.quick else map(str, row.lengths))
        ]

    def figures(self, job: Job, answers: Sequence[dict[str, Any]], length: str) -> dict[str, Any]:
        """Return the medians of a side, the rates with their spread."""
        rates = spread([answer["rates"][length] for answer in answers])
        shape = shape_of(job)
        head = shape["vocab_size"] * shape["n_embd"]
        head_width = (OUR_HEAD_WIDTH if job.side == "gptcli" else WIDTH)[job.format]
        read = (self.read_weights[job.model] - head) * WIDTH[job.format] + head * head_width
        return {
            "tokens_per_second": rates,
            "first_token_seconds": spread([answer["first"] for answer in answers]),
            "peak_rss_bytes": statistics.median(answer["rss"] for answer in answers),
            "bandwidth_share": (
                read * rates[0] / job.batch / statistics.median(self.bandwidth) if job.model == "gpt2" else None
            ),
        }

    def measure_start(self) -> dict[str, Any]:
        """Time a small run's first token from process start, beside a Python that imports torch and writes a line."""
        train = ["train", "--profile", "quickstart", "--set", "max_steps=5", "--run", "small", "--quiet"]
        command = [sys.executable, "-m", "gptcli"]
        subprocess.run([*command, *train], cwd=self.folder, env=self.environment, check=True, capture_output=True)  # noqa: S603
        sample = [*command, "sample", "small", "--prompt", PROMPT, "--max-new-tokens", "8"]
        ours, theirs = [], []
        for _ in range(self.options.pairs):
            theirs.append(self.seconds_to([sys.executable, "-c", "import torch; print()"], 1))
            ours.append(self.seconds_to(sample, len(PROMPT) + 1))
        return {
            "ours": spread(ours),
            "import_torch": spread(theirs),
            "later": spread([a - b for a, b in zip(ours, theirs, strict=True)]),
            "must": 0.7,
            "aim": 0.3,
        }

    def seconds_to(self, command: Sequence[str], size: int) -> float:
        """Return the seconds until a process has written ``size`` bytes."""
        begin = time.perf_counter()
        with subprocess.Popen(  # noqa: S603
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        ) as process:
            assert process.stdout is not None
            written = 0
            while written < size:
                if not (piece := process.stdout.read(4096)):
                    raise RuntimeError(f"{' '.join(command)} ended before it wrote {size} bytes")
                written += len(piece)
            seconds = time.perf_counter() - begin
            process.stdout.read()
        return seconds


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, smallest and largest."""
    return statistics.median(values), min(values), max(values)


def shape_of(job: Job) -> dict[str, Any]:
    """Return the shape of a job's model."""
    return GPT2 if job.model == "gpt2" else CHARACTERS[job.model.split()[0]]


def words_of(job: Job) -> str:
    """Return what a side is called."""
    side = {"llama": "llama.cpp", "nanogpt": "nanoGPT", "ctranslate2": "CTranslate2"}.get(job.side, job.side)
    number_format = "" if job.side == "nanogpt" or job.model != "gpt2" else f" {job.format}"
    return f"{side} {job.model}{number_format}{f', {job.batch} texts' if job.batch > 1 else ''}"


def say(text: str) -> None:
    """Print what goes on."""
    print(text, file=sys.stderr, flush=True)


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table in Markdown."""
    columns = ("", "batch", "new tokens", "tokens/s", "theirs", "times as fast", "must / aim", "first token, ms")
    columns = (*columns, "peak memory, MB", "of the bandwidth")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for result in results:
        sides = result["ours"], result["theirs"]
        rates = [shown(side["tokens_per_second"], 1) for side in sides]
        first = " / ".join(f"{1000 * side['first_token_seconds'][0]:.0f}" for side in sides)
        memory = " / ".join(f"{side['peak_rss_bytes'] / 1e6:.0f}" for side in sides)
        shares = [side["bandwidth_share"] for side in sides]
        share = " / ".join(f"{100 * share:.0f} %" for share in shares if share is not None)
        goal = f"{result['must'] or '-'} / {result['aim'] or '-'}"
        lines.append(
            f"| {result['what']} | {result['batch']} | {result['new_tokens']} | {rates[0]} | {rates[1]} "
            f"| {shown(result['times'], 2)} | {goal} | {first} | {memory} | {share} |"
        )
    return lines


def shown(values: tuple[float, float, float], digits: int) -> str:
    """Return a median with its spread."""
    median, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{median} ({low} to {high})"


def chosen_rows(names: str | None) -> list[list[Row]]:
    """Return the groups with the rows that are named, or all."""
    wanted = None if names is None else set(names.split(","))
    groups = [[row for row in group if wanted is None or row.name in wanted] for group in all_rows()]
    return [group for group in groups if group]


def parse() -> argparse.Namespace:
    """Read the command line."""
    known = [*dict.fromkeys(row.name for group in all_rows() for row in group), "start"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a folder with nanoGPT's model.py")
    parser.add_argument("--llama-python", help="a Python with llama_cpp")
    parser.add_argument("--ctranslate2-python", help="a Python with ctranslate2 and transformers")
    parser.add_argument("--rows", help=f"some of {','.join(known)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one pair of 32 tokens, to see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if unknown := set(options.rows.split(",") if options.rows else ()) - set(known):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.nanogpt is not None and not (options.nanogpt / "model.py").is_file():
        parser.error(f"{options.nanogpt} has no model.py")
    if options.quick:
        options.pairs = 1
    return options


def run(options: argparse.Namespace, sitting: Sitting) -> dict[str, Any]:
    """Run the rows that can be run; returns all figures."""
    groups = [sitting.runnable(group) for group in chosen_rows(options.rows)]
    jobs = [list(dict.fromkeys(job for row in group for job in (row.ours, row.theirs))) for group in groups]
    if any(jobs):
        say("Making the models.")
        sitting.prepare([job for group in jobs for job in group])
    for group in jobs:
        sitting.measure(group)
    start = None
    if options.rows is None or "start" in options.rows.split(","):
        try:
            start = sitting.measure_start()
        except (RuntimeError, subprocess.CalledProcessError) as error:
            sitting.left_out["start"] = str(error)
    return {
        "results": [figures for group in groups for row in group for figures in sitting.results(row)],
        "start": start,
        "left_out": sitting.left_out,
        "bytes_per_second": statistics.median(sitting.bandwidth) if sitting.bandwidth else None,
        "pairs": options.pairs,
        "threads": options.threads,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table and what stands beside it."""
    for line in table(found["results"]) if found["results"] else ():
        print(line)
    if (start := found["start"]) is not None:
        print(
            f"First token of a small run {shown(start['ours'], 2)} s after process start, {shown(start['later'], 2)} s "
            f"after a Python that imports torch and writes a line ({shown(start['import_torch'], 2)} s); "
            f"must {start['must']}, aim {start['aim']}."
        )
    for side, why in found["left_out"].items():
        print(f"Left out: {side} ({why}).")
    if found["bytes_per_second"]:
        print(f"A sum over float32 reads {found['bytes_per_second'] / 1e9:.1f} GB/s on {found['threads']} threads.")
    print(f"{found['pairs']} pairs in {found['minutes']:.1f} minutes.")


def main() -> None:
    """Run the rows, print the table and write the figures."""
    options, begin = parse(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = run(options, Sitting(options, Path(folder)))
    found["minutes"] = (time.perf_counter() - begin) / 60
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
