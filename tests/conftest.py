"""Fixtures shared by all tests: real text, and a process environment that nobody's home folder leaks into."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gptcli.config import DataConfig, ModelConfig, RunProfile, SampleConfig, TrainConfig
from gptcli.profiles import build_profile
from gptcli.shards import TokenDataset, open_dataset

if TYPE_CHECKING:
    from gptcli.bases.base import Base
    from gptcli.runs import RunDir
    from gptcli.writing import WritingModel
    from tests.workplace import Workplace

# Before torch is imported, as the command line does it; see cli/app.py.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Models this small lose time to a second thread, and forty times as much where the other core has work of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A background job of a shell ignores Ctrl-C, and so would all that the tests start.
for _signal in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that share the dearest fixture side by side: then one process of ``make test`` prepares it."""
    items.sort(key=lambda item: "workplace" not in getattr(item, "fixturenames", ()))


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


@pytest.fixture
def make_base(tiny_dataset: TokenDataset) -> Callable[..., Base]:
    """Make a tiny model of a family with random weights, always the same, in the tokens of ``tiny_dataset``."""
    import torch

    from gptcli.bases.base import Base
    from gptcli.model import GPT

    def make(family: str = "gpt2") -> Base:
        config = ModelConfig.model_validate(
            {"family": family, "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "bias": family == "gpt2",
             "vocab_size": tiny_dataset.manifest.vocab_size}
        )  # fmt: skip
        torch.manual_seed(9)
        weights = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in GPT(config).state_dict().items()}
        origin = {"path": "somewhere"}
        return Base("tiny-base", "folder", config, tiny_dataset.tokenizer(), weights, origin, ("A note.",))

    return make


@pytest.fixture
def finetune_profile() -> Callable[..., RunProfile]:
    """Make a profile of twelve small steps for finetuning, with some values changed."""
    train = {
        "batch_size": 4, "max_steps": 12, "warmup_steps": 2, "log_interval": 1, "eval_interval": 4, "save_interval": 5,
        "device": "cpu", "dtype": "float32",
    }  # fmt: skip

    def make(*overrides: str) -> RunProfile:
        return build_profile({"train": dict(train), "sample": {"prompt": "The ", "max_new_tokens": 8}}, overrides)

    return make


@pytest.fixture
def new_run(tmp_path: Path, tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> Callable[..., RunDir]:
    """Create a run of the tiny profile with some values changed."""
    from gptcli.runs import create_run

    def make(name: str, *overrides: str) -> RunDir:
        profile = build_profile(tiny_profile.model_dump(mode="json"), overrides)
        return create_run(profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=tmp_path / "runs", name=name)

    return make


@pytest.fixture
def new_finetune(
    tmp_path: Path,
    tiny_dataset: TokenDataset,
    make_base: Callable[..., Base],
    finetune_profile: Callable[..., RunProfile],
) -> Callable[..., RunDir]:
    """Create a finetune of ``make_base``'s model with some values of the profile changed."""
    from gptcli.finetune import create_finetune

    def make(name: str, *overrides: str, family: str = "gpt2") -> RunDir:
        return create_finetune(
            finetune_profile(*overrides),
            make_base(family),
            profile_name="tune",
            dataset=tiny_dataset,
            runs_dir=tmp_path / "runs",
            name=name,
        )

    return make


@pytest.fixture(scope="session")
def alphabet() -> WritingModel:
    """Goes on with the alphabet, round and round."""
    from tests.chat.desks import ALPHABET, learned

    return learned(ALPHABET, characters=ALPHABET + "ABCDE \n,.:/")


@pytest.fixture(scope="session")
def talker() -> WritingModel:
    """Answers ``fine`` to whatever is asked, and ends there."""
    from tests.chat.desks import ALPHABET, END, learned

    return learned(f"User: hi\nAssistant: fine{END}", characters=ALPHABET + "UA: \n?", chat=True, name="talker")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A folder in which every command of the docs can be typed; GPT-2's vocabulary only where the real texts are."""
    from tests.workplace import open_workplace

    vocabulary = SHARED_DATA / "tiktoken"
    root = tmp_path_factory.mktemp("workplace")
    with open_workplace(root, vocabulary if vocabulary.is_dir() else None) as opened:
        yield opened
