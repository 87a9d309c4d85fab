"""``gptcli prepare`` on gigabytes of text: MB/s, memory of all its processes, the same bytes for 1 and 2 workers.

    python benchmarks/prepare_scale.py --book FILE [--book FILE] [--megabytes 3100] [--corpora FOLDER]
                                       [--tokenizer gpt2] [--workers 2 1] [--json FILE]

The text is that of ``scale_text.py``, kept in the folder ``--corpora`` if that is given. It is prepared with each
number of workers, then once more with the first of them: SIGKILL at half of the time that this took, and gone on with
by the last of them. All tokens must be the same bytes. Memory is the resident set of each process, added up, read ten
times a second. What comes out is extrapolated to OpenWebText, 8 million documents and 54 GB. That is what nanoGPT says
its cache takes; the text alone is about 40 GB, so this is the most it can be.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from scale_text import write_corpus
from side_by_side import GPTCLI, environment, finish, make_parser, table

from gptcli.files import scratch_folder, sha256_file

NAME = "scale"
OPENWEBTEXT_BYTES, OPENWEBTEXT_DOCUMENTS = 54e9, 8e6
# What a document costs the survey at the most; tests/test_survey.py holds it.
BYTES_A_DOCUMENT = 40


class Measured(NamedTuple):
    """One prepare: its seconds, the MB of its largest process and of all together, and whether it was killed."""

    seconds: float
    largest: float
    together: float
    killed: bool


def resident(pid: int) -> dict[int, float]:
    """Return the MB that a process and all below it hold, by process."""
    found: dict[int, float] = {}
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):  # it has ended
            continue
        found[one] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return found


def prepare(folder: Path, tokenizer: str, workers: int, stop: Callable[[float], bool] = lambda _: False) -> Measured:
    """Prepare in a fresh process, killed with all its own when ``stop`` says so of the seconds that have gone."""
    command = [*GPTCLI, "prepare", NAME, "--tokenizer", tokenizer, "--workers", str(workers)]
    largest = together = 0.0
    killed = False
    begin = time.perf_counter()
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=environment(1))  # noqa: S603
        while process.poll() is None:
            held = resident(process.pid)
            largest, together = max(largest, *held.values(), 0), max(together, sum(held.values()))
            if stop(time.perf_counter() - begin):
                process.kill()
                killed = True
            time.sleep(0.1)
        said.seek(0)
        lines = said.read()
        if process.returncode and not killed:
            raise RuntimeError(f"prepare failed:\n{lines[-3000:]}")
    print(*(line for line in lines.splitlines() if line.startswith("Going on")), sep="\n", file=sys.stderr)
    return Measured(time.perf_counter() - begin, largest, together, killed)


def digests(tokens: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of tokens; of the manifest without the time that is in it."""
    found = {path.name: sha256_file(path) for path in sorted(tokens.iterdir())}
    manifest = json.loads((tokens / "manifest.json").read_text("utf-8"))
    del manifest["created_at"], manifest["checksum"]
    return found | {"manifest.json": hashlib.sha256(json.dumps(manifest).encode()).hexdigest()}


def measure(folder: Path, tokenizer: str, workers: list[int]) -> tuple[dict[str, Any], list[str]]:
    """Prepare the corpus in every way; return all figures and what is printed."""
    corpus = folder / "corpora" / NAME
    record = json.loads((corpus / "source.json").read_text("utf-8"))
    megabytes, documents = record["bytes"] / 1e6, record["documents"]
    tokens = corpus / "tokens" / tokenizer.replace(":", "-")
    runs: dict[str, list[Measured]] = {}
    expected: dict[str, str] | None = None
    for count in workers:
        shutil.rmtree(tokens.parent, ignore_errors=True)
        runs[f"{count} workers"] = [prepare(folder, tokenizer, count)]
        if expected is None:
            expected = digests(tokens)
            disk = sum(path.stat().st_size for path in tokens.iterdir()) / 1e6
        elif digests(tokens) != expected:
            raise RuntimeError(f"{count} workers made other bytes")
    shutil.rmtree(tokens.parent)
    half = runs[f"{workers[0]} workers"][0].seconds / 2
    killed = prepare(folder, tokenizer, workers[0], lambda seconds: seconds > half)
    runs["killed, gone on with"] = [killed, prepare(folder, tokenizer, workers[-1])]
    if not killed.killed or digests(tokens) != expected:
        raise RuntimeError("what was killed and gone on with has other bytes")
    rows = [
        [
            name,
            " + ".join(f"{one.seconds:.0f}" for one in parts),
            f"{megabytes / sum(one.seconds for one in parts):.1f}",
            f"{max(one.largest for one in parts):.0f}",
            f"{max(one.together for one in parts):.0f}",
        ]
        for name, parts in runs.items()
    ]
    lines = [
        f"{megabytes:,.0f} MB of text in {documents:,} documents, {tokenizer}; all tokens are the same bytes",
        table(["", "seconds", "MB/s", "MB of the largest process", "MB of all"], rows),
        *extrapolated(runs[f"{workers[0]} workers"][0], megabytes, documents, disk, corpus),
    ]
    return {"megabytes": megabytes, "documents": documents, "runs": runs, "tokens_mb": disk}, lines


def extrapolated(run: Measured, megabytes: float, documents: int, disk: float, corpus: Path) -> list[str]:
    """Say what that makes for OpenWebText."""
    times = OPENWEBTEXT_BYTES / 1e6 / megabytes
    lines = (corpus / "documents.jsonl").stat().st_size / 1e6 * times / 1e3
    memory = run.largest + BYTES_A_DOCUMENT * (OPENWEBTEXT_DOCUMENTS - documents) / 1e6
    known = f"{OPENWEBTEXT_BYTES / 1e9:.0f} GB of text, {OPENWEBTEXT_DOCUMENTS / 1e6:.0f} M documents"
    disk_gb = f"{lines:.0f} GB of documents, {disk * times / 1e3:.0f} GB of tokens"
    took = f"{run.seconds * times / 60:.0f} minutes"
    return [f"OpenWebText, {known}: {took}, {disk_gb}, at most {memory:.0f} MB in the largest process"]


def write_text(corpus: Path, megabytes: float, books: list[Path]) -> None:
    """Make the text whole or not at all, in a process of its own: it holds the words of the books."""
    with scratch_folder(corpus) as scratch:
        make = get_context("spawn").Process(target=write_corpus, args=(scratch / NAME, megabytes, books, 1))
        make.start()
        make.join()
        if make.exitcode:
            raise SystemExit(f"The text was not made: exit code {make.exitcode}.")
        (scratch / NAME).rename(corpus)


def main() -> None:
    """Make the text if it is not there, and measure."""
    parser = make_parser(__doc__)
    parser.add_argument("--megabytes", type=float, default=3100)
    parser.add_argument("--book", type=Path, action="append", default=[], help="a text whose words it has")
    parser.add_argument("--corpora", type=Path, help="a folder in which the text stays")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 1])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.corpora or Path(name)
        corpus = folder / "corpora" / NAME
        if not corpus.exists():
            if not options.book:
                parser.error(f"{corpus} is not there yet, so books are needed to write it of: --book FILE")
            write_text(corpus, options.megabytes, options.book)
        found, lines = measure(folder, options.tokenizer, options.workers)
    finish(found, lines, options.json)


if __name__ == "__main__":
    main()
