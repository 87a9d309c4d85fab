"""A loss curve in characters: always of the size that was asked for, whatever the losses are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.curve import BEST, VAL, draw_curve, in_the_middle, loss_range

LOSSES = st.floats(min_value=-1e6, max_value=1e12) | st.sampled_from([math.nan, math.inf, -math.inf])
POINTS = st.lists(st.tuples(st.integers(0, 10**9), LOSSES), max_size=30).map(
    lambda points: sorted(points, key=lambda p: p[0])
)


@settings(max_examples=300, deadline=None)
@given(train=POINTS, val=POINTS, width=st.integers(30, 160), height=st.integers(3, 40), ascii_only=st.booleans())
def test_curve_has_the_size_that_was_asked_for(
    train: list[tuple[float, float]], val: list[tuple[float, float]], width: int, height: int, ascii_only: bool
) -> None:
    lines = draw_curve(train, val, width=width, height=height, ascii_only=ascii_only)
    finite = [y for _, y in (*train, *val) if math.isfinite(y)]
    assert len(lines) == (height + 1 if finite else 0)
    assert all(len(line) <= width for line in lines)
    if ascii_only:
        assert all(line.isascii() for line in lines)


def test_marks_stand_where_the_evaluations_are_and_the_star_at_the_lowest() -> None:
    lines = draw_curve([], [(25, 4.0), (50, 2.0), (75, 3.0), (100, 3.5)], width=60, height=9)
    (row,) = [number for number, line in enumerate(lines) if BEST in line]
    assert row == 8
    body = [line.partition("│")[2] for line in lines[:-1]]
    columns = sorted((line.index(mark), mark) for line in body for mark in (VAL, BEST) if mark in line)
    assert [mark for _, mark in columns] == [VAL, BEST, VAL, VAL]
    assert lines[-1].split() == ["0", "step", "100"]
    assert lines[0].split("│")[0].strip() == "4.00"
    assert lines[8].split("│")[0].strip() == "2.00"


@pytest.mark.parametrize("points", [[(5, 3.0)], [(n, 3.0) for n in range(50)], [(0, 3.0)], [(5, 0.0)]])
def test_one_point_or_a_level_loss_can_be_drawn(points: list[tuple[float, float]]) -> None:
    for train, val in ((points, []), ([], points), (points, points)):
        lines = draw_curve(train, val, width=50, height=7)
        assert len(lines) == 8
        assert any(BEST in line for line in lines) == bool(val)
        assert any(0x2800 < ord(char) < 0x2900 for line in lines for char in line) or not train or bool(val)


def test_high_losses_of_the_first_steps_do_not_press_the_rest_flat() -> None:
    train = [(1, 1000.0), *((step, 3 - step / 100) for step in range(10, 101, 10))]
    labels = [line.split("│")[0].strip() for line in draw_curve(train, [], width=60, height=9)[:-1]]
    assert float(labels[0]) < 3


def test_means_stand_in_the_middle_of_what_they_are_over_also_after_a_step_back() -> None:
    reports = [(10, 4.0), (20, 3.0), (15, 3.5), (25, 2.0)]
    assert in_the_middle(reports) == [(5, 4.0), (15, 3.0), (15, 3.5), (20, 2.0)]
    lines = draw_curve([(50, 3.0), (100, 2.0)], [], width=60, height=9)
    columns = [line.partition("│")[2] for line in lines[:-1]]
    drawn = [place for line in columns for place, char in enumerate(line) if char != " "]
    width = 60 - lines[0].index("│") - 1
    assert [min(drawn) / width, max(drawn) / width] == pytest.approx([0.25, 0.75], abs=0.03)
    assert lines[-1].split() == ["0", "step", "100"]


def test_losses_shown_are_those_after_the_first_steps_and_every_val_but_a_high_one() -> None:
    train = [(1.0, 90.0), (50.0, 3.0), (100.0, 2.0)]
    assert loss_range(train, [(0.0, 1.5), (100.0, 2.5)]) == (1.5, 3.0)
    assert loss_range(train, [(0.0, 50.0), (100.0, math.nan)]) == (2.0, 3.0)
    assert loss_range([], [])[0] == 0.0
