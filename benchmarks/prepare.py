"""Time and memory of making tokens of a text: ``gptcli prepare`` beside the two ways of nanoGPT, with GPT-2's BPE.

    python benchmarks/prepare.py [--text FILE.jsonl] [--megabytes 100] [--book FILE ...] [--pairs 5]
                                 [--datasets FOLDER] [--threads N] [--json FILE]

``openwebtext`` follows nanoGPT's data/openwebtext/prepare.py step by step with Hugging Face's ``datasets``, from the
file in place of the hub: shuffled, ``encode_ordinary`` for each document in as many processes as there are cores, then
written in 1024 batches to a memory-mapped file. It runs where ``datasets`` is installed; ``--datasets`` names a folder
that ``pip install --target`` filled. ``lean`` is the same without that library, which only makes it faster.
``shakespeare`` follows data/shakespeare/prepare.py: one ``encode_ordinary`` of all text. All run
in turn in fresh processes, from documents in a JSON lines file; gptcli splits and indexes too. The memory is
that of the largest process of a side. Without ``--text`` the text is that of ``prepare_text.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from prepare_text import write_text
from side_by_side import finish, in_turn, make_parser, ratios, spread, table

SIDES = ("openwebtext", "lean", "shakespeare", "gptcli")
VAL_SHARE = 0.0005
BATCHES = 1024


def read_texts(path: Path) -> list[str]:
    """Return the texts of a JSON lines file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def encode_share(texts: list[str], out: Path) -> None:
    """Encode documents one by one, each with end-of-text behind it, and store ids and lengths."""
    import tiktoken

    encoding = tiktoken.get_encoding("gpt2")
    lengths = []
    with out.open("wb") as file:
        for text in texts:
            ids = encoding.encode_ordinary(text)
            ids.append(encoding.eot_token)
            file.write(np.array(ids, np.uint16).tobytes())
            lengths.append(len(ids))
    np.save(out.with_suffix(".npy"), np.array(lengths))


def encode_row(row: dict[str, str]) -> dict[str, Any]:
    """Return the tokens of a row, and how many they are."""
    import tiktoken

    encoding = tiktoken.get_encoding("gpt2")
    ids = [*encoding.encode_ordinary(row["text"]), encoding.eot_token]
    return {"ids": ids, "len": len(ids)}


def openwebtext(path: Path, folder: Path, processes: int) -> None:
    """Prepare as nanoGPT does a set of documents."""
    from datasets import load_dataset  # type: ignore[import-not-found]

    rows = load_dataset("json", data_files=str(path), cache_dir=str(folder / "cache"))["train"]
    splits = rows.train_test_split(test_size=VAL_SHARE, seed=2357, shuffle=True)
    splits["val"] = splits.pop("test")
    for split, tokens in splits.map(encode_row, remove_columns=["text"], num_proc=processes).items():
        written = np.memmap(folder / f"{split}.bin", np.uint16, "w+", shape=(int(np.sum(tokens["len"])),))
        n_batches, done = BATCHES if len(tokens) >= BATCHES else 1, 0
        for number in range(n_batches):
            batch = tokens.shard(num_shards=n_batches, index=number, contiguous=True).with_format("numpy")
            ids = np.concatenate(batch["ids"])
            written[done : done + len(ids)] = ids
            done += len(ids)
        written.flush()


def lean(path: Path, folder: Path, processes: int) -> None:
    """Do what ``openwebtext`` does without the library, all texts in memory."""
    texts = read_texts(path)
    random.Random(2357).shuffle(texts)
    n_val = max(1, int(len(texts) * VAL_SHARE))
    for split, chosen in (("val", texts[:n_val]), ("train", texts[n_val:])):
        share = -(-len(chosen) // processes)
        parts = [folder / f"{split}{number}.part" for number in range(processes)]
        context = get_context("fork")
        workers = [
            context.Process(target=encode_share, args=(chosen[number * share : (number + 1) * share], part))
            for number, part in enumerate(parts)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        total = sum(int(np.load(part.with_suffix(".npy")).sum()) for part in parts)
        tokens = np.memmap(folder / f"{split}.bin", np.uint16, "w+", shape=(total,))
        done = 0
        for part in parts:
            found = np.memmap(part, np.uint16, "r") if part.stat().st_size else np.zeros(0, np.uint16)
            for batch in np.array_split(found, BATCHES // processes):
                tokens[done : done + len(batch)] = batch
                done += len(batch)
        tokens.flush()


def shakespeare(path: Path, folder: Path) -> None:
    """Prepare as nanoGPT does one text."""
    import tiktoken

    text = "\n\n".join(read_texts(path))
    encoding = tiktoken.get_encoding("gpt2")
    cut = int(len(text) * 0.9)
    for split, part in (("train", text[:cut]), ("val", text[cut:])):
        np.array(encoding.encode_ordinary(part), np.uint16).tofile(folder / f"{split}.bin")


def run_side(side: str, text: Path, folder: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Run one side in a fresh process; return seconds from its start to its end, and MB of its largest process."""
    processes = options.threads
    shutil.rmtree(folder / "cache", ignore_errors=True)
    command = [sys.executable, __file__, "--side", side, "--text", str(text), "--threads", str(processes)]
    if side == "gptcli":
        command = [sys.executable, "-m", "gptcli", "prepare", "text", "--tokenizer", "gpt2", "--force"]
    with (folder / "said").open("w+") as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=peers_path(options))  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if process.returncode:
            raise RuntimeError(f"{side} failed:\n{said.read()[-3000:]}")
    return seconds, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def peers_path(options: argparse.Namespace) -> dict[str, str]:
    """Return the environment in which ``datasets`` is found, behind what is installed, and asks for nothing."""
    folders = [os.environ.get("PYTHONPATH"), options.datasets and str(options.datasets.resolve())]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders)), "HF_HUB_OFFLINE": "1"}


def has_datasets(options: argparse.Namespace) -> bool:
    """Say whether ``datasets`` can be imported by a side."""
    command = [sys.executable, "-c", "import datasets"]
    return not subprocess.run(command, env=peers_path(options), capture_output=True, check=False).returncode  # noqa: S603


def compare(text: Path, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Run all sides in turn; return all figures and the table."""
    command = [sys.executable, "-m", "gptcli", "fetch", str(text.resolve()), "--name", "text"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)  # noqa: S603
    with text.open(encoding="utf-8") as file:
        megabytes = sum(len(json.loads(line)["text"].encode()) for line in file) / 1e6
    sides = SIDES if has_datasets(options) else SIDES[1:]
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _, side in in_turn(sides, options.pairs):
        runs[side].append(run_side(side, text, folder, options))
    seconds = {side: [one for one, _ in runs[side]] for side in sides}
    rows = [
        [
            side,
            spread(seconds[side]).shown(2),
            spread([megabytes / one for one in seconds[side]]).shown(1),
            spread([peak for _, peak in runs[side]]).shown(0),
            ratios(seconds[side], seconds["gptcli"]).shown(2),
        ]
        for side in sides
    ]
    lines = [f"{megabytes:.1f} MB of text, medians (smallest to largest)"]
    lines.append(table(["", "seconds", "MB/s", "peak MB", "times as long as gptcli"], rows))
    return {"megabytes": megabytes, "processes": options.threads, "runs": runs}, lines


def main() -> None:
    """Run the sides and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--text", type=Path, help='documents as lines of JSON with a "text"')
    parser.add_argument("--megabytes", type=float, default=100, help="of the text that is made where none is given")
    parser.add_argument("--book", type=Path, action="append", default=[], help="a text whose words it may have")
    parser.add_argument("--datasets", type=Path, metavar="FOLDER", help="where Hugging Face's datasets is installed")
    parser.add_argument("--side", choices=SIDES[:3], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side in ("openwebtext", "lean"):
        return (openwebtext if options.side == "openwebtext" else lean)(options.text, Path(), options.threads)
    if options.side == "shakespeare":
        return shakespeare(options.text, Path())
    with tempfile.TemporaryDirectory() as name:
        text = options.text.resolve() if options.text else Path(name) / "made.jsonl"
        if options.text is None:
            # In a process of its own: the peak of a child begins at that of its parent.
            make = get_context("spawn").Process(target=write_text, args=(text, options.megabytes, options.book, 1))
            make.start()
            make.join()
        found, lines = compare(text, Path(name), options)
    return finish(found, lines, options.json)


if __name__ == "__main__":
    main()
