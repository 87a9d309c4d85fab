"""How a number looks, and hostile text made inert."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.figures import count_text, duration_text, loss_error_text, loss_text, promise_text, visible


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (1234, "1.23k"), (12_345, "12.3k"), (99_960, "100k"), (999_499, "999k"),
     (999_500, "1.00M"), (124_439_808, "124M"), (1_557_611_200, "1.56B")],
)  # fmt: skip
def test_large_numbers_have_three_digits(number: float, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-3, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (65, "1m 05s"), (3600, "1h 00m"), (7620, "2h 07m"),
     (100_000, "1d 03h"), (float("inf"), "0s"), (float("nan"), "0s")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_losses() -> None:
    assert loss_text(1.23456) == "1.2346"
    assert loss_text(10.825) == "10.825"
    assert loss_text(float("nan")) == "nan"
    assert loss_text(None) == ""
    assert loss_error_text(1.4697, 0.0123) == "1.4697 \u00b1 0.0123"
    assert loss_error_text(1.4697, None) == "1.4697"


def test_visible_shows_what_could_command_a_terminal() -> None:
    assert visible("a\x1b[31m\x07\r\x7f\x9b\u202e\u2028\u061c\u200f\ud800") == (
        "a\u241b[31m\u2407\u240d\u2421<U+009B><U+202E><U+2028><U+061C><U+200F><U+D800>"
    )


@given(st.text())
def test_visible_leaves_no_control_and_keeps_the_rest(text: str) -> None:
    made = visible(text)
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not [c for c in made if unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"} and c not in "\n\t"]
    assert not [c for c in made if unicodedata.bidirectional(c) in bidi]
    made.encode("utf-8")
    if text.isprintable() and text.isascii():
        assert made == text


@pytest.mark.parametrize(
    ("best", "ended", "text"),
    [
        (1.49, True, "reached"),
        (1.5, False, "reached"),
        (1.6, False, "not yet, the run is not complete"),
        (None, False, "not yet, the run is not complete"),
        (1.6, True, "not reached, missed by 0.1000"),
        (None, True, "not reached"),
    ],
)
def test_promise_is_missed_only_by_a_run_that_has_ended(best: float | None, ended: bool, text: str) -> None:
    assert promise_text(1.5, best, ended=ended) == f"val_loss 1.5: {text}"
