"""The rules lead near the profiles that were tuned by hand, and stay sensible far from them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.config import ModelConfig, RunProfile
from gptcli.plan import flops_per_token
from gptcli.profiles import find_profile, load_profile
from gptcli.sizing import (
    MOST_STEPS,
    TextFacts,
    block_weights,
    choose_batch,
    choose_learning,
    choose_shape,
    shapes,
    times_text,
    wanted_tokens,
    why_dropout,
    why_this_size,
)

SHAKESPEARE = TextFacts(vocab_size=65, train_tokens=1_003_854, val_tokens=111_540, train_bytes=1_003_854)
BOOK = TextFacts(vocab_size=512, train_tokens=141_963, val_tokens=15_474, train_bytes=300_000)


def tuned(name: str) -> RunProfile:
    return load_profile(find_profile(name).path)


@pytest.mark.parametrize(
    ("name", "text", "flops"),
    [
        ("shakespeare-char-cpu", SHAKESPEARE, 0.41e12),
        ("laptop-2min", SHAKESPEARE, 30e12),
        ("laptop-10min", SHAKESPEARE, 152e12),
        ("macbook", BOOK, 8e12),
    ],
)
def test_the_shape_is_the_one_that_won_with_as_much_arithmetic(name: str, text: TextFacts, flops: float) -> None:
    model = choose_shape(text, flops)
    won = tuned(name).model
    assert (model.n_layer, model.n_embd, model.n_head) == (won.n_layer, won.n_embd, won.n_head)
    assert (model.block_size, model.tie_embeddings) == (won.block_size, won.tie_embeddings)
    assert f"{block_weights(model) / 1e6:.2g}M weights" in why_this_size(text, flops, model)


@pytest.mark.parametrize("name", ["shakespeare-char-cpu", "laptop-2min", "laptop-10min"])
def test_rates_and_regularisation_are_near_those_that_won(name: str) -> None:
    profile = tuned(name)
    train = profile.train
    epochs = train.max_steps * profile.tokens_per_step / SHAKESPEARE.train_tokens
    choices = {path: value for path, (value, _) in choose_learning(profile.model, train.max_steps, epochs).items()}
    assert choices["train", "learning_rate"] == pytest.approx(train.learning_rate, rel=0.2)
    assert choices["train", "muon_learning_rate"] == pytest.approx(train.muon_learning_rate, rel=0.1)
    assert choices["train", "muon_momentum"] == train.muon_momentum
    assert choices["train", "warmup_steps"] == train.warmup_steps
    assert choices["train", "decay_fraction"] == train.decay_fraction
    assert choices.get(("train", "short_block_size")) == train.short_block_size
    assert choices["model", "dropout"] == profile.model.dropout
    assert choices["train", "weight_decay"] == train.weight_decay


@pytest.mark.parametrize("name", ["shakespeare-char-cpu", "laptop-2min", "laptop-10min", "macbook"])
def test_batches_are_those_that_won(name: str) -> None:
    profile = tuned(name)
    rows, parts, why = choose_batch(
        profile.model, SHAKESPEARE, profile.tokens_per_step * profile.train.max_steps, on_cpu=True
    )
    assert (rows, parts) == (profile.train.batch_size, 1)
    assert f"{profile.tokens_per_step:,} tokens a step" in why


def test_the_text_bounds_the_model_and_says_so() -> None:
    model = choose_shape(BOOK, 1e18)
    assert block_weights(model) <= 3 * BOOK.train_bytes
    assert "learn it by heart" in why_this_size(BOOK, 1e18, model)
    largest = choose_shape(TextFacts(50_257, 10**10, 10**8, 4 * 10**10), 1e22)
    assert (largest.n_layer, largest.n_embd) == (24, 1024)


def test_a_text_that_is_read_often_is_held_against_by_more_and_more() -> None:
    model = choose_shape(BOOK, 8e12)
    found = [choose_learning(model, 1000, epochs) for epochs in (0.5, 2, 10, 30, 100)]
    assert [choices["model", "dropout"][0] for choices in found] == [0.0, 0.0, 0.1, 0.2, 0.3]
    assert [choices["train", "weight_decay"][0] for choices in found] == [0.0, 0.05, 0.1, 0.1, 0.1]
    assert [("train", "patience") in choices for choices in found] == [False, False, False, False, True]


def test_larger_models_want_more_tokens_a_weight_up_to_twenty() -> None:
    assert wanted_tokens(100_000) == 1
    assert 2 < wanted_tokens(10_000_000) < 10
    assert wanted_tokens(10**12) == 20


def test_the_next_larger_shape_is_never_said_to_see_less_than_it_does() -> None:
    model, larger = list(shapes(BOOK))[3:5]
    most = 2 * wanted_tokens(block_weights(larger)) * block_weights(larger) * flops_per_token(larger)
    assert "they would see 0.5, and below 1 larger" in why_this_size(BOOK, most / 4, model)
    assert "they would see 2, and below about 1 larger" in why_this_size(BOOK, most, model)


def test_dropout_is_explained_as_it_is_also_where_the_text_is_read_a_little_more_often() -> None:
    assert why_dropout(0.0, 4.2) == "The text is read 4.2 times: too few to learn it by heart."
    assert why_dropout(0.2, 12) == "The text is read 12 times: some of it against learning it by heart."


@settings(deadline=None)
@given(
    st.integers(2, 250_000),
    st.integers(2, 10**12),
    st.integers(2, 10**11),
    st.floats(1, 1e24),
    st.booleans(),
    st.integers(1, 10**6),
)
def test_whatever_the_text_and_the_machine_there_is_a_valid_profile(
    vocab_size: int, train_tokens: int, val_tokens: int, flops: float, on_cpu: bool, steps: int
) -> None:
    text = TextFacts(vocab_size, train_tokens, val_tokens, 2 * train_tokens)
    model = choose_shape(text, flops)
    assert model in list(shapes(text))
    assert why_this_size(text, flops, model).endswith(".")
    assert model.block_size <= max(8, min(train_tokens, val_tokens) // 8)
    tokens = flops / 1e6
    rows, parts, _ = choose_batch(model, text, tokens, on_cpu=on_cpu)
    assert rows >= 1
    if rows * model.block_size < train_tokens // 4 - model.block_size:
        assert tokens / (rows * parts * model.block_size) <= 2 * MOST_STEPS
    choices = choose_learning(model, steps, tokens / train_tokens)
    values: dict[str, dict[str, object]] = {"model": model.model_dump(), "train": {"batch_size": rows}}
    for (section, key), (value, _) in choices.items():
        values[str(section)][str(key)] = value
    assert ModelConfig.model_validate(RunProfile.model_validate(values).model.model_dump())


@pytest.mark.parametrize(
    ("epochs", "said"), [(0.5, "0.5 times"), (0.998, "once"), (1.3, "1.3 times"), (42, "42 times")]
)
def test_a_text_is_read_once_or_so_many_times(epochs: float, said: str) -> None:
    assert times_text(epochs) == said
