"""Which columns of the table of losses fit, which rows stay, and what folds into one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gptcli.events import Evaluated, StepLogged
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


def test_time_left_that_is_not_known_is_blank() -> None:
    table = LossTable()
    row = table.add_report(replace(logged(1), remaining=None))
    assert row_line(row, COLUMNS).endswith(" 0s")
    assert len(row_line(row, COLUMNS)) < len(row_line(table.add_report(logged(1)), COLUMNS))


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
