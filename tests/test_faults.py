"""A write that fails, wherever it is, leaves what was there and ends with a sentence that names file and cause."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from tests.faults import Faults, Outcome

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the commands are forked")]

TINY = """\
description: One small layer, for tests
model: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16, dropout: 0.1}
data: {tokenizer: char, split_at: 0.9}
train: {batch_size: 4, max_steps: 8, warmup_steps: 2, log_interval: 2, eval_interval: 4, save_interval: 4,
        eval_tokens: 500, device: cpu, dtype: float32, compile: false}
sample: {max_new_tokens: 4, seed: 7}
"""
TRAIN = ("train", "text", "--profile", "tiny.yaml", "--run", "r")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    with Faults() as process:
        yield process


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, faults: Faults) -> Path:
    """A folder with a corpus, its tokens, a run that is done and one that was just created; tests copy it."""
    folder = tmp_path_factory.mktemp("ready")
    (folder / "text.txt").write_text("".join(topics[name] for name in sorted(topics)[:4]), "utf-8")
    (folder / "tiny.yaml").write_text(TINY, "utf-8")
    for arguments in (
        ("fetch", "text.txt"),
        ("prepare", "text", "--tokenizer", "char", "--split-at", "0.9"),
        ("train", "text", "--profile", "tiny.yaml", "--run", "done"),
    ):
        outcome = faults.run(folder, *arguments)
        assert outcome.code == 0, outcome.stderr
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files that a reader of the folder looks at."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if "/." not in f"/{name}"}


def assert_told(outcome: Outcome, folder: Path, error: int) -> None:
    """The error names the cause and something in the folder, in a sentence and not in a traceback."""
    assert outcome.code == 1, outcome
    assert "Traceback" not in outcome.stderr, outcome.stderr
    assert os.strerror(error) in outcome.stderr, outcome.stderr
    # Not a word of the hint: a path, of the place itself and not of a temporary one beside it.
    place = re.search(rf"(?:{re.escape(str(folder))}|corpora|runs)(?:/[\w./-]+|:)|Error: out\b", outcome.stderr)
    assert place, outcome.stderr
    assert not re.search(r"\.[a-z0-9_]{8}\.tmp:", outcome.stderr), outcome.stderr


@pytest.mark.parametrize("error", ERRORS, ids=[errno.errorcode[number] for number in ERRORS])
def test_prepare_leaves_the_tokens_that_were_there(tmp_path: Path, ready: Path, faults: Faults, error: int) -> None:
    folder = tmp_path / "work"
    shutil.copytree(ready, folder)
    before = contents(folder)
    command = ("prepare", "text", "--tokenizer", "char", "--split-at", "0.9", "--force")
    failed, number = 0, 0
    while True:
        outcome = faults.run(folder, *command, fault=number, error=error)
        if outcome.writes <= number:
            break
        if outcome.code:
            failed += 1
            assert_told(outcome, folder, error)
            assert contents(folder) == before
        before = contents(folder)  # a cache that could not be kept is no failure
        number += 1
    assert failed > 10
    assert outcome.code == 0, outcome.stderr


# Every third write in each: the three can be run side by side.
@pytest.mark.parametrize("first", range(3))
def test_train_keeps_its_checkpoints_and_goes_on_to_the_same_end(
    tmp_path: Path, ready: Path, faults: Faults, first: int
) -> None:
    whole = weights(ready / "runs" / "done")
    failed, number = 0, first
    while True:
        folder, error = tmp_path / f"work-{number}", ERRORS[number // 3 % len(ERRORS)]
        shutil.copytree(ready, folder, ignore=shutil.ignore_patterns("runs"))
        outcome = faults.run(folder, *TRAIN, fault=number, error=error)
        if outcome.writes <= number:
            break
        run = folder / "runs" / "r"
        if outcome.code:
            failed += 1
            assert_told(outcome, folder, error)
            done = faults.run(folder, *(("train", "--resume", "--run", "r") if run.exists() else TRAIN))
            assert done.code == 0, done.stderr
        assert weights(run) == whole, f"after write {number}"
        shutil.rmtree(folder)
        number += 3
    assert failed > 6
    assert outcome.code == 0, outcome.stderr


def weights(run: Path) -> dict[str, bytes]:
    latest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().split()[0]
    return {name: (latest / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


@pytest.mark.parametrize("format_", ["safetensors", "hf"])
def test_export_leaves_nothing_and_the_run_as_it_was(tmp_path: Path, ready: Path, faults: Faults, format_: str) -> None:
    folder = tmp_path / "work"
    shutil.copytree(ready, folder)
    before = contents(folder)
    failed = number = 0
    while True:
        error = ERRORS[number % len(ERRORS)]
        outcome = faults.run(folder, "export", "done", "--format", format_, "-o", "out", fault=number, error=error)
        if outcome.writes <= number:
            break
        if outcome.code:
            failed += 1
            assert_told(outcome, folder, error)
            assert contents(folder) == before
        else:
            shutil.rmtree(folder / "out")
        number += 1
    assert failed > 3
    assert outcome.code == 0, outcome.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB; only root can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.name == "nt" or os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    if subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True, check=False
    ).returncode:
        pytest.skip("this system mounts no file system of memory")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_really_full_disk_ends_training_with_a_good_checkpoint_and_room_lets_it_go_on(
    small_disk: Path, ready: Path, faults: Faults
) -> None:
    command = ("train", str(ready / "corpora" / "text" / "tokens" / "char"), "--profile", str(ready / "tiny.yaml"))
    more = ("--run", "r", "--set", "max_steps=400", "--set", "save_interval=1", "--set", "keep_checkpoints=400")
    full = faults.run(small_disk, *command, *more)
    assert_told(full, small_disk, errno.ENOSPC)
    assert faults.run(small_disk, "sample", "r", "--prompt", "a").code == 0
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    done = faults.run(small_disk, "train", "--resume", "--run", "r", "--set", "max_steps=60")
    assert done.code == 0, done.stderr


def test_a_read_only_folder_is_said(small_disk: Path, ready: Path, faults: Faults) -> None:
    shutil.copytree(ready, small_disk / "w")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    folder = small_disk / "w"
    for command in (
        ("prepare", "text", "--force"),
        ("train", "text", "--profile", "tiny.yaml", "--run", "new"),
        ("train", "--resume", "--run", "done", "--set", "max_steps=9"),
        ("export", "done", "--format", "hf", "-o", "out"),
    ):
        assert_told(faults.run(folder, *command), folder, errno.EROFS)
    assert faults.run(folder, "sample", "done", "--prompt", "a").code == 0
