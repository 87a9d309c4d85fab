"""Any byte that is flipped or cut off a run, a corpus or its tokens is found, and said in a sentence."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

from gptcli.checkpoint_folders import point
from gptcli.checkpoints import FILES, checkpoint_path, load_checkpoint, load_frozen
from gptcli.config import DataConfig
from gptcli.corpora import find_corpus
from gptcli.documents import read_documents
from gptcli.errors import GptcliError
from gptcli.metrics import read_events
from gptcli.prepare import prepare
from gptcli.restore import load_model
from gptcli.runs import RunDir
from gptcli.shards import open_dataset
from tests.cli.conftest import run_cli, working_in
from tests.training import finish

resource = pytest.importorskip("resource", reason="measures memory")
FLIPS, RESUMED = 2000, 200
MOST_SECONDS, MOST_BYTES = 1.0, 64 * 1024 * 1024
TINY = """\
description: One small layer, for tests
model: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}
data: {tokenizer: char, split_at: 0.9}
train: {batch_size: 4, max_steps: 12, warmup_steps: 2, log_interval: 2, eval_interval: 6, save_interval: 4,
        eval_tokens: 500, keep_checkpoints: 9, device: cpu, dtype: float32, compile: false}
sample: {max_new_tokens: 4, seed: 7}
"""
# Nothing is computed from them: what was fetched when, on which machine a run began, and the empty file of its lock.
ONLY_TOLD = ("provenance.jsonl", "environment.json", ".lock")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, its tokens and a run of a few checkpoints."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "text.txt").write_text("".join(topics[name] for name in sorted(topics)[:4]), "utf-8")
    (folder / "tiny.yaml").write_text(TINY, "utf-8")
    for arguments in (("fetch", "text.txt"), ("train", "text", "--profile", "tiny.yaml", "--run", "r")):
        done = run_cli(folder, *arguments)
        assert done.code == 0, done.stderr
    return folder


def read_run(folder: Path) -> Any:  # noqa: ANN401 - compared as a whole
    run = RunDir(folder / "runs" / "r")
    weights = {
        which: {name: p.detach().numpy().tobytes() for name, p in load_model(run, which)[0].named_parameters()}
        for which in ("best", "latest")
    }
    steps = [load_checkpoint(path) for path in sorted(run.checkpoints_path.glob("step_*"))]
    states = [(step.state, {name: t.numpy().tobytes() for name, t in step.optimizer.items()}) for step in steps]
    damaged: list[int] = []
    events = list(read_events(run.metrics_path, damaged.append))
    if damaged:
        raise GptcliError("damaged lines are counted")
    about = (run.profile(), run.tokenizer().fingerprint, run.manifest(), load_frozen(run))
    return weights, states, events, about


def read_tokens(folder: Path) -> Any:  # noqa: ANN401 - compared as a whole
    dataset = open_dataset(folder / "corpora" / "text" / "tokens" / "char")
    splits = [np.asarray(split.read(0, len(split))).tobytes() for split in (dataset.train, dataset.val)]
    ngrams = (dataset.folder / "ngrams").read_bytes() if (dataset.folder / "ngrams").exists() else b""
    return dataset.manifest, dataset.tokenizer().fingerprint, splits, len(ngrams)


def read_corpus(folder: Path) -> Any:  # noqa: ANN401 - compared as a whole
    corpus = find_corpus("text", folder / "corpora")
    if any("licence are not known" in note for note in corpus.notes):
        raise GptcliError("it is said")
    prepare("text", DataConfig(tokenizer="bpe:260"), corpora_dir=folder / "corpora", force=True)
    texts = [item.text for item in read_documents(corpus.documents)]
    return corpus.sha256, corpus.n_bytes, corpus.licence, corpus.notes, texts


READERS: dict[str, Callable[[Path], Any]] = {"runs": read_run, "tokens": read_tokens, "corpora": read_corpus}


def reader_of(path: Path) -> Callable[[Path], Any]:
    return READERS["tokens" if "tokens" in path.parts else "runs" if "runs" in path.parts else "corpora"]


def damages(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield the content with one byte changed, or cut somewhere, without end."""
    while True:
        place = rng.randrange(len(content))
        if rng.random() < 0.2:
            yield content[:place]
        else:
            changed = content[place] ^ (1 << rng.randrange(8))
            yield content[:place] + bytes([changed]) + content[place + 1 :]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="measures memory")
def test_two_thousand_flips_and_cuts_are_never_taken_for_the_truth(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(good, folder)  # with its times: a corpus that is newer than its record was changed on purpose
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    files = [path for path in files if path.parent != folder and path.name not in ONLY_TOLD]
    assert len(files) > 25
    rng, slowest = random.Random(1), 0.0
    with working_in(folder):
        expected = {reader: reader(folder) for reader in READERS.values()}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(FLIPS):
            path = files[number % len(files)]
            content, times = path.read_bytes(), path.stat()
            path.write_bytes(next(damages(content, rng)))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            reader, begin = reader_of(path), time.process_time()
            with contextlib.suppress(GptcliError):
                found = reader(folder)
                if path.name == "metrics.jsonl" and content.startswith(path.read_bytes()):
                    # As a killed run leaves it: what is there is true.
                    found = (*found[:2], [*found[2], *expected[reader][2][len(found[2]) :]], found[3])
                assert found == expected[reader], f"{path.relative_to(folder)} was taken for the truth"
            slowest = max(slowest, time.process_time() - begin)
            path.write_bytes(content)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < MOST_BYTES
    assert slowest < MOST_SECONDS


def trained(run: RunDir) -> dict[str, bytes]:
    """What training made: weights, optimizer and progress of the newest checkpoint."""
    path = checkpoint_path(run, "latest")
    return {name: (path / name).read_bytes() for name in FILES}


@pytest.mark.slow
def test_a_run_with_a_flip_or_a_cut_anywhere_goes_on_to_the_same_end_or_says_why_not(
    good: Path, tmp_path: Path
) -> None:
    run, work = RunDir(good / "runs" / "r"), tmp_path / "work"
    stopped = tmp_path / "stopped"
    shutil.copytree(good, stopped)
    for path in RunDir(stopped / "runs" / "r").checkpoints_path.glob("step_000012"):
        shutil.rmtree(path)
    point(RunDir(stopped / "runs" / "r"), "latest", "step_000008")
    files = [path for path in sorted((stopped / "runs" / "r").rglob("*")) if path.is_file() and path.stat().st_size]
    files = [path.relative_to(stopped) for path in files if path.name not in ONLY_TOLD]
    rng, ended = random.Random(2), 0
    for number in range(RESUMED):
        shutil.copytree(stopped, work)
        damaged = work / files[number % len(files)]
        damaged.write_bytes(next(damages(damaged.read_bytes(), rng)))
        again = RunDir(work / "runs" / "r")
        with working_in(work), contextlib.suppress(GptcliError):
            finish(again)
            ended += 1
            assert trained(again) == trained(run), f"{damaged.relative_to(work)} changed the end"
        shutil.rmtree(work)
    assert ended > RESUMED // 3
