from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptcli.config import SampleConfig
from gptcli.sample import (
    apply_temperature,
    draw,
    filter_logits,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)


def probabilities(logits: torch.Tensor) -> list[float]:
    values: list[float] = logits.softmax(-1).tolist()
    return values


LOGITS = torch.tensor([0.9, 0.0, 0.0, 0.1]).log()
FLAT = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()


def test_top_k_keeps_the_likeliest() -> None:
    assert probabilities(keep_top_k(LOGITS, 1)) == pytest.approx([1, 0, 0, 0])
    assert probabilities(keep_top_k(FLAT, 2)) == pytest.approx([0, 4 / 7, 3 / 7, 0])
    assert keep_top_k(FLAT, 4) is FLAT
    assert keep_top_k(FLAT, 400) is FLAT


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    assert probabilities(keep_top_p(LOGITS, 0.3)) == pytest.approx([1, 0, 0, 0])
    assert probabilities(keep_top_p(LOGITS, 0.95)) == pytest.approx([0.9, 0, 0, 0.1])
    assert probabilities(keep_top_p(FLAT, 0.35)) == pytest.approx([0, 1, 0, 0])
    assert probabilities(keep_top_p(FLAT, 0.5)) == pytest.approx([0, 4 / 7, 3 / 7, 0])
    assert probabilities(keep_top_p(FLAT, 0.85)) == pytest.approx([0, 4 / 9, 3 / 9, 2 / 9])
    assert probabilities(keep_top_p(torch.zeros(2), 0.5)) == [1, 0]
    assert keep_top_p(FLAT, 1.0) is FLAT


def test_min_p_keeps_what_is_near_the_likeliest() -> None:
    assert probabilities(keep_min_p(LOGITS, 0.05)) == pytest.approx([0.9, 0, 0, 0.1])
    assert probabilities(keep_min_p(LOGITS, 0.2)) == pytest.approx([1, 0, 0, 0])
    assert probabilities(keep_min_p(FLAT, 0.6)) == pytest.approx([0, 4 / 7, 3 / 7, 0])
    assert probabilities(keep_min_p(FLAT, 1.0)) == pytest.approx([0, 1, 0, 0])
    assert keep_min_p(FLAT, 0.0) is FLAT


def test_temperature_sharpens_and_flattens() -> None:
    assert probabilities(apply_temperature(FLAT, 1.0)) == pytest.approx([0.1, 0.4, 0.3, 0.2])
    assert probabilities(apply_temperature(FLAT, 0.5)) == pytest.approx([1 / 30, 16 / 30, 9 / 30, 4 / 30])
    assert probabilities(apply_temperature(FLAT, 1e9)) == pytest.approx([0.25] * 4, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-40, 1e-30, 1e-9])
def test_temperature_of_nothing_takes_the_likeliest(temperature: float) -> None:
    assert probabilities(apply_temperature(FLAT, temperature)) == [0, 1, 0, 0]


def test_temperature_zero_takes_the_first_of_equals() -> None:
    assert probabilities(apply_temperature(torch.zeros(2, 3), 0.0)[1]) == [1, 0, 0]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[0, 1, 0, 0]])
    assert penalize_repetition(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]
    assert penalize_repetition(logits, seen, 1.0) is logits


def test_filters_treat_each_row_by_itself() -> None:
    both = torch.stack((LOGITS, FLAT))
    seen = torch.tensor([[0], [1]])
    for together, alone in (
        (keep_top_k(both, 2), [keep_top_k(LOGITS, 2), keep_top_k(FLAT, 2)]),
        (keep_top_p(both, 0.5), [keep_top_p(LOGITS, 0.5), keep_top_p(FLAT, 0.5)]),
        (keep_min_p(both, 0.6), [keep_min_p(LOGITS, 0.6), keep_min_p(FLAT, 0.6)]),
        (apply_temperature(both, 0.7), [apply_temperature(LOGITS, 0.7), apply_temperature(FLAT, 0.7)]),
        (
            penalize_repetition(both, seen, 1.5),
            [penalize_repetition(LOGITS, seen[0], 1.5), penalize_repetition(FLAT, seen[1], 1.5)],
        ),
    ):
        assert torch.equal(together, torch.stack(alone))


@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12),
    values=st.fixed_dictionaries(
        {
            "temperature": st.floats(0, 1e6),
            "top_k": st.none() | st.integers(1, 20),
            "top_p": st.none() | st.floats(0, 1, exclude_min=True),
            "min_p": st.none() | st.floats(0, 1),
            "repetition_penalty": st.floats(0.01, 100),
        }
    ),
)
def test_no_settings_exclude_every_token_nor_let_an_excluded_one_be_drawn(
    logits: list[float], values: dict[str, Any]
) -> None:
    rows = torch.tensor([logits], dtype=torch.float32)
    filtered = filter_logits(rows, torch.tensor([[0]]), SampleConfig(**values))[0]
    assert not filtered.isnan().any()
    for point in (0.0, 0.5, 1.0 - 2.0**-53):
        assert filtered[draw(filtered.numpy(), point)] > -math.inf
    drawn = draw(filtered.numpy(), 0.7)
    if values["temperature"] == 0 and values["repetition_penalty"] == 1:
        assert drawn == int(rows.argmax())


@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12),
    temperature=st.floats(0, 1e6),
    point=st.floats(0, 1, exclude_max=True),
)
def test_temperature_of_a_draw_is_that_of_the_filter(logits: list[float], temperature: float, point: float) -> None:
    rows = torch.tensor(logits, dtype=torch.float32)
    cumulative = apply_temperature(rows.double(), temperature).softmax(-1).cumsum(-1)
    drawn = draw(rows.numpy(), point, temperature)
    before = float(cumulative[drawn - 1]) if drawn else 0.0
    assert before - 1e-6 <= point <= float(cumulative[drawn]) + 1e-6


def test_a_draw_inverts_the_cumulative_distribution() -> None:
    logits = FLAT.numpy()
    drawn = [draw(logits, point) for point in (0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.7999, 0.8001, 0.9999)]
    assert drawn == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [draw(LOGITS.numpy(), point) for point in (0.0, 0.8999, 0.9001, 1 - 2**-53)] == [0, 0, 3, 3]


def test_drawn_frequencies_are_the_probabilities() -> None:
    expected = torch.tensor([0.5, 0.0, 0.25, 0.15, 0.09, 0.01])
    logits, possible, n = expected.log().numpy(), expected > 0, 1000
    chi_square = 0.0
    for seed in range(20):
        points = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()
        counts = torch.bincount(torch.tensor([draw(logits, point) for point in points]), minlength=6)
        assert counts[1] == 0
        chi_square += ((counts - n * expected)[possible] ** 2 / (n * expected[possible])).sum().item()
    assert 48.0 < chi_square < 124.8, "outside of 99.7 % of chi-square with 20 x 4 degrees of freedom"
