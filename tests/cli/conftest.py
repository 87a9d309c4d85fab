"""A working folder with a real text, the command line run inside it, and a run that was trained once for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gptcli.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
TINY = """\
description: One small layer, for tests
model: {n_layer: 1, n_head: 2, n_embd: 32, block_size: 32}
data: {tokenizer: bpe:300}
train: {batch_size: 4, max_steps: 12, warmup_steps: 2, log_interval: 2, eval_interval: 6, save_interval: 6,
        eval_tokens: 1000, device: cpu, dtype: float32, compile: false}
sample: {max_new_tokens: 12, seed: 7}
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value


Cli = Callable[..., Done]


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_cli(folder: Path, *args: str, stdin: str | bytes | None = None) -> Done:
    """Run ``gptcli ARGS`` in ``folder`` inside this process."""
    with working_in(folder):
        result = CliRunner().invoke(app, list(args), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def start_cli(folder: Path, *args: str, **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401 - Popen's own options
    """Start ``gptcli ARGS`` in ``folder`` as a process of its own; stderr is read line by line."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "gptcli", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


@pytest.fixture(scope="session")
def real_text() -> str:
    """About 60 kB of the Python documentation."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))[:60_000]


@pytest.fixture
def folder(tmp_path: Path, real_text: str) -> Path:
    """An empty working folder but for ``docs.txt`` and the profile ``tiny.yaml``."""
    (tmp_path / "docs.txt").write_text(real_text, "utf-8")
    (tmp_path / "tiny.yaml").write_text(TINY, "utf-8")
    return tmp_path


@pytest.fixture
def cli(folder: Path) -> Cli:
    """``cli("fetch", "docs.txt")`` runs the command in ``folder``."""
    return lambda *args, **options: run_cli(folder, *args, **options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, real_text: str) -> Path:
    """A working folder with the corpus ``docs`` and the run ``tiny``; tests only read it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "docs.txt").write_text(real_text, "utf-8")
    (folder / "tiny.yaml").write_text(TINY, "utf-8")
    for args in (("fetch", "docs.txt"), ("train", "docs", "--profile", "tiny.yaml", "--run", "tiny")):
        done = run_cli(folder, *args)
        assert done.code == 0, done.stderr
    return folder
