"""How a number looks, which columns fit, which rows stay, and hostile text made inert."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.events import Evaluated, StepLogged
from gptcli.figures import count_text, duration_text, loss_error_text, loss_text, visible
from gptcli.loss_table import COLUMNS, LossTable, Row, fitting_columns, heading_lines, row_line


def logged(step: int, train_loss: float = 2.5) -> StepLogged:
    return StepLogged(
        step=step, tokens_seen=2048 * step, epoch=0.1, train_loss=train_loss, learning_rate=3e-3, grad_norm=1.0,
        tokens_per_second=33_333.0, mfu=None, skipped_steps=0, elapsed=step / 10, remaining=100 - step / 10,
    )  # fmt: skip


def evaluated(step: int, val_loss: float, *, best: bool = True) -> Evaluated:
    return Evaluated(
        step=step, tokens_seen=2048 * step, val_loss=val_loss, val_loss_stderr=0.0123, perplexity=12.0,
        bits_per_byte=2.345, n_tokens=1000, best=best, elapsed=step / 10, remaining=100 - step / 10,
    )  # fmt: skip


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


def test_whole_table_fits_80_columns_with_the_widest_cells() -> None:
    row = Row(
        9_999_999, 86_400 * 9.5, 86_400 * 9.5, train_loss=10.8251, learning_rate=1.25e-4, tokens_per_second=123_456.0,
        val_loss=10.8251, val_loss_stderr=0.1234, bits_per_byte=12.345, best=True,
    )  # fmt: skip
    for column in COLUMNS:
        assert len(column.cell(row)) <= column.width
        assert max(map(len, column.heading)) <= column.width
    assert fitting_columns(80) == COLUMNS
    assert len(row_line(row, COLUMNS)) <= 80
    assert all(len(line) <= 80 for line in heading_lines(COLUMNS))


@pytest.mark.parametrize("width", [20, 40, 50, 60, 70, 79, 80, 200])
def test_narrow_terminals_drop_columns_but_keep_the_losses(width: int) -> None:
    columns = fitting_columns(width)
    names = " ".join(heading_lines(columns))
    assert all(name in names for name in ("step", "train_loss", "val_loss"))
    assert len(heading_lines(columns)[-1]) <= max(width, 36)


def test_reports_fold_into_the_row_of_their_evaluation() -> None:
    table = LossTable()
    for step in (10, 20, 30):
        table.add_report(logged(step, 4.0))
    assert [row.step for row in table.tail(10)] == [10, 20, 30]
    table.add_evaluation(evaluated(30, 3.5))
    (row,) = table.tail(10)
    assert (row.step, row.train_loss, row.val_loss, row.best) == (30, 4.0, 3.5, True)
    table.add_report(logged(40))
    assert [row.step for row in table.tail(10)] == [30, 40]


def test_row_of_an_evaluation_has_no_figures_of_an_older_step() -> None:
    table = LossTable()
    table.add_report(logged(20, 4.0))
    row = table.add_evaluation(evaluated(25, 3.5))
    assert (row.step, row.val_loss) == (25, 3.5)
    assert (row.train_loss, row.learning_rate, row.tokens_per_second) == (None, None, None)


def test_only_one_row_is_the_best_and_it_stays_in_sight() -> None:
    table = LossTable()
    for step, loss in ((10, 3.0), (20, 2.0), (30, 2.5), (40, 2.6), (50, 2.7)):
        table.add_evaluation(evaluated(step, loss, best=loss in (3.0, 2.0)))
    assert [(row.step, row.best) for row in table.tail(3)] == [(20, True), (40, False), (50, False)]
    assert [row.step for row in table.tail(1)] == [50]
