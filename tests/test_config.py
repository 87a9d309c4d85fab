from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError

from gptcli.config import MAX_SIZE, DataConfig, ExpectConfig, ModelConfig, RunProfile, SampleConfig, TrainConfig
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


def test_bytes_of_every_weight_of_a_model_of_any_allowed_size_can_be_counted() -> None:
    n = MAX_SIZE
    sizes = [name for name, field in ModelConfig.model_fields.items() if re.search(r"\bint\b", str(field.annotation))]
    assert len(sizes) == 8
    for name in sizes:
        with pytest.raises(ValidationError, match=f"{name}\n.*less than or equal to {n}"):
            ModelConfig.model_validate({name: n + 1})
    largest: dict[str, Any] = {"n_layer": 1, "n_embd": n, "n_inner": n, "vocab_size": n, "block_size": n}
    for shape in ({"n_head": 1}, {"n_head": n, "head_dim": 1, "family": "gpt2"}, {"n_head": n // 2, "head_dim": 2}):
        with torch.device("meta"):
            weights = GPT(ModelConfig.model_validate({**largest, **shape})).state_dict()
        assert max(tensor.numel() for tensor in weights.values()) >= n * n


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
