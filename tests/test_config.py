from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from gptcli.config import (
    MAX_VOCABULARY,
    MAX_WIDTH,
    DataConfig,
    ExpectConfig,
    ModelConfig,
    RunProfile,
    SampleConfig,
    TrainConfig,
)
from gptcli.errors import SourceError
from gptcli.fetch.corpus import check_name
from gptcli.model import GPT
from gptcli.profiles import builtin_folder, load_profile


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [f.annotation for f in model.model_fields.values()]
    return [model, *(s for t in inner if isinstance(t, type) and issubclass(t, BaseModel) for s in sections(t))]


@pytest.mark.parametrize("section", sections(RunProfile), ids=lambda s: s.__name__)
def test_every_field_has_a_one_line_docstring(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        assert field.description, f"{section.__name__}.{name} has no docstring"
        assert "\n" not in field.description, f"{section.__name__}.{name}: one line, please"
        assert field.description.endswith("."), f"{section.__name__}.{name}: a docstring ends with a full stop"


@pytest.mark.parametrize(
    ("values", "fragment"),
    [
        ({"n_embd": 100, "n_head": 3}, "n_embd 100 is not divisible by n_head 3; try n_embd 99 or 102"),
        ({"n_embd": 4, "n_head": 8}, "try n_embd 8"),
        ({"n_embd": 12, "n_head": 4}, "even head width"),
        ({"n_head": 4, "n_kv_head": 3}, "n_head 4 is not divisible by n_kv_head 3"),
        ({"bias": True}, "bias is for family gpt2"),
        ({"family": "gpt2", "n_kv_head": 2}, "n_kv_head is for family modern"),
        ({"family": "gpt2", "tie_embeddings": False}, "gpt2 always ties them"),
        ({"family": "gpt2", "head_dim": 64}, "head_dim is for family modern"),
        ({"n_head": 2**14, "head_dim": 2**14}, "n_head 16384 x head_dim 16384 is more than 134217728"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_what_would(values: dict[str, object], fragment: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(fragment)):
        ModelConfig.model_validate(values)


def test_widths_are_resolved_from_n_embd() -> None:
    modern, gpt2 = ModelConfig(n_embd=96, n_head=2), ModelConfig(family="gpt2", n_embd=96, n_head=2)
    assert (modern.head_width, modern.kv_heads, modern.inner_width) == (48, 2, 256)
    assert (gpt2.head_width, gpt2.kv_heads, gpt2.inner_width) == (48, 2, 384)


SIZES = {
    "n_layer": 1000, "vocab_size": 2**24,
    **dict.fromkeys(("n_head", "n_kv_head", "n_embd", "head_dim", "n_inner", "block_size"), 2**20),
}  # fmt: skip


def test_no_size_of_a_model_is_more_than_any_model_has() -> None:
    sizes = {name for name, field in ModelConfig.model_fields.items() if re.search(r"\bint\b", str(field.annotation))}
    assert sizes == set(SIZES)
    for name, most in SIZES.items():
        with pytest.raises(ValidationError, match=f"{name}\n.*less than or equal to {most}"):
            ModelConfig.model_validate({name: most + 1})


def test_a_model_of_a_million_positions_is_allowed_and_longer_tables_than_its_own_are_not() -> None:
    values = {"n_head": 8, "n_embd": 2048, "head_dim": 128, "block_size": 1_010_000}  # as Qwen2.5-7B-1M has them
    assert ModelConfig.model_validate(values).block_size == 1_010_000
    with pytest.raises(ValidationError, match="block_size 1010000 x head_dim 256 is more than 134217728"):
        ModelConfig.model_validate({**values, "head_dim": 256})


def test_bytes_of_every_weight_of_a_model_of_any_allowed_size_can_be_counted() -> None:
    n = MAX_WIDTH
    largest: dict[str, Any] = {"n_layer": 1, "n_embd": n, "n_inner": n, "vocab_size": MAX_VOCABULARY}
    shapes: list[dict[str, Any]] = [
        {"n_head": 1, "block_size": 128},
        {"n_head": n, "head_dim": 1, "family": "gpt2", "block_size": n},
        {"n_head": n, "head_dim": 128, "block_size": n},
    ]
    for shape in shapes:
        with torch.device("meta"):
            weights = GPT(ModelConfig.model_validate({**largest, **shape})).state_dict()
        assert max(tensor.numel() for tensor in weights.values()) >= n * MAX_VOCABULARY


@pytest.mark.parametrize(
    "name", ["book", "My book", "\u2026 and more", "Moby Dick: or the whale", "-x", ".x", "a" * 255]
)
def test_a_corpus_may_be_called_as_any_folder(name: str) -> None:
    assert DataConfig(corpus=name).corpus == name


@pytest.mark.parametrize(
    "name",
    [
        *("..", ".", "/etc", "../x/away/python-docs", "corpora/book", "book/", "book/.", "a\\b", "C:x", "a\x00b"),
        *("a\x1bb", "a\nb", "a" * 256, "\u2026" * 86),
    ],
)
def test_a_profile_names_a_corpus_and_never_a_path(name: str) -> None:
    with pytest.raises(ValidationError, match="is not the name of a folder"):
        DataConfig(corpus=name)


@given(st.text(max_size=20))
def test_every_name_that_fetch_gives_a_corpus_can_stand_in_a_profile(name: str) -> None:
    with contextlib.suppress(SourceError):
        assert DataConfig(corpus=check_name(name)).corpus == name


def test_the_first_steps_have_the_short_context_and_as_many_tokens() -> None:
    train = TrainConfig(batch_size=6, max_steps=10, short_block_size=16, short_fraction=0.4)
    profile = RunProfile(model=ModelConfig(block_size=64), train=train)
    assert [profile.windows(step) for step in (0, 3, 4, 9)] == [(24, 16), (24, 16), (6, 64), (6, 64)]


def test_a_short_context_that_fills_no_batch_is_refused() -> None:
    train = TrainConfig(batch_size=1, short_block_size=48)
    with pytest.raises(ValidationError, match="short_block_size 48 does not divide batch_size x block_size, 64"):
        RunProfile(model=ModelConfig(block_size=64), train=train)


@pytest.mark.parametrize("short", [None, 64, 128])
def test_a_short_context_that_is_not_shorter_changes_nothing(short: int | None) -> None:
    profile = RunProfile(model=ModelConfig(block_size=64), train=TrainConfig(batch_size=6, short_block_size=short))
    assert profile.windows(0) == (6, 64)


def test_min_lr_must_fit_the_schedule() -> None:
    with pytest.raises(ValidationError, match=r"min_lr 0\.1 is above learning_rate 0\.01"):
        TrainConfig(learning_rate=0.01, min_lr=0.1)


@pytest.mark.parametrize("section", [TrainConfig, SampleConfig])
def test_seeds_are_numbers_that_torch_takes(section: type[TrainConfig | SampleConfig]) -> None:
    assert section(seed=2**63 - 1).seed == 2**63 - 1
    for seed in (2**63, -1):
        with pytest.raises(ValidationError, match="seed"):
            section(seed=seed)


@pytest.mark.parametrize("section", [ModelConfig, DataConfig, TrainConfig, SampleConfig, ExpectConfig])
@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_no_number_is_infinite_or_undefined(section: type[BaseModel], number: float) -> None:
    names = [name for name, field in section.model_fields.items() if re.search(r"\bfloat\b", str(field.annotation))]
    assert names
    with pytest.raises(ValidationError) as caught:
        section.model_validate(dict.fromkeys(names, number))
    assert {error["loc"][0] for error in caught.value.errors() if error["type"] == "finite_number"} == set(names)


@pytest.mark.parametrize("path", sorted(builtin_folder("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_built_in_profile_is_valid_and_says_what_it_is_for(path: Path) -> None:
    profile = load_profile(path)
    assert profile.description
    assert path.read_text("utf-8").startswith("# "), "the header says what it is for, where, how long, which loss"
    if profile.expects.minutes is not None:
        assert profile.expects.machine


@pytest.mark.parametrize("device", ["gpu", "cuda:128", "cuda:05", "cuda:\u0663", "cuda:"])
def test_a_device_that_torch_cannot_count_to_is_refused(device: str) -> None:
    with pytest.raises(ValidationError, match="choose auto, cpu, cuda, cuda:N or mps"):
        TrainConfig(device=device)
