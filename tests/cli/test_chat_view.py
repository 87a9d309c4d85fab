"""The line of status below a chat."""

from __future__ import annotations

import pytest

from gptcli.cli.chat_view import status_text, tail_of

FACTS, NOW = ("step 1,200", "val_loss 1.4700"), ("temperature 0.8", "33 tokens/s")


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, " a-long-name · step 1,200 · val_loss 1.4700 · temperature 0.8 · 33 tokens/s"),
        (75, " a-long-name · val_loss 1.4700 · temperature 0.8 · 33 tokens/s"),
        (60, " a-long-name · temperature 0.8 · 33 tokens/s"),
        (44, " a-long-na… · temperature 0.8 · 33 tokens/s"),
        (30, " a-long-na… · temperature 0.8"),
        (20, " a-long-name"),
        (10, " a-long-…"),
        (1, " …"),
    ],
)
def test_status_keeps_what_changes_in_a_narrow_window(width: int, shown: str) -> None:
    assert status_text("a-long-name", FACTS, NOW, width) == shown


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("", ""),
        ("One line\n", ""),
        ("One line\n  ", ""),
        ("One line\nand the nex", "and the nex"),
        (
            "It was the best of times, it was the worst of times, it was the a",
            "\u2026 it was the worst of times, it was the a",
        ),
        ("x" * 50, "\u2026 " + "x" * 40),
    ],
)
def test_tail_is_the_last_words_of_a_line_that_goes_on(text: str, tail: str) -> None:
    assert tail_of(text) == tail
