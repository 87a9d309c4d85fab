"""The line of status below a chat."""

from __future__ import annotations

import pytest

from gptcli.cli.chat_view import status_text

FACTS, NOW = ("step 1,200", "val_loss 1.4700"), ("temperature 0.8", "33 tokens/s")


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, " a-long-name · step 1,200 · val_loss 1.4700 · temperature 0.8 · 33 tokens/s"),
        (75, " a-long-name · val_loss 1.4700 · temperature 0.8 · 33 tokens/s"),
        (60, " a-long-name · temperature 0.8 · 33 tokens/s"),
        (44, " a-long-na… · temperature 0.8 · 33 tokens/s"),
        (10, " a-long-… · temperature 0.8 · 33 tokens/s"),
    ],
)
def test_status_keeps_what_changes_in_a_narrow_window(width: int, shown: str) -> None:
    assert status_text("a-long-name", FACTS, NOW, width) == shown
