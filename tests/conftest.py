"""Fixtures shared by all tests: real text, and a process environment that nobody's home folder leaks into."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptcli.config import DataConfig, ModelConfig, RunProfile, SampleConfig, TrainConfig
from gptcli.shards import TokenDataset, open_dataset

# Before torch is imported, as the command line does it; see cli/app.py.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real texts beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real texts in {SHARED_DATA.parent.name}/data beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """A few topics of Python's own documentation by characters, prepared for real: about 60 kB."""
    from pydoc_data.topics import topics

    from gptcli.fetch.fetching import fetch
    from gptcli.prepare import prepare

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "texts").mkdir()
    for name in (
        "assert",
        "assignment",
        "bltin-ellipsis-object",
        "booleans",
        "break",
        "class",
        "for",
        "if",
        "imaginary",
        "while",
        "with",
        "yield",
    ):
        if name in topics:
            (folder / "texts" / f"{name}.txt").write_text(topics[name], "utf-8")
    fetch(str(folder / "texts"), name="tiny", corpora_dir=folder / "corpora")
    result = prepare("tiny", DataConfig(tokenizer="char", split_at=0.9), corpora_dir=folder / "corpora")
    return open_dataset(result.folder)


@pytest.fixture
def tiny_profile() -> RunProfile:
    """A model of a few thousand weights whose steps take milliseconds."""
    return RunProfile(
        model=ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16),
        train=TrainConfig(
            batch_size=4, max_steps=12, warmup_steps=2, log_interval=3, eval_interval=4, save_interval=5, device="cpu"
        ),
        sample=SampleConfig(prompt="The ", max_new_tokens=8),
    )
