"""How far something is: a line of text that knows its share, for whoever can draw more than the line."""

from __future__ import annotations


class Portion(str):
    """A line of progress with how much of the work is done, from 0 to 1; where that is no use it is the line alone."""

    __slots__ = ("share",)
    share: float

    def __new__(cls, text: str, done: float, total: float) -> Portion:
        """Make a line that is done for ``done`` of ``total``."""
        portion = super().__new__(cls, text)
        portion.share = min(1.0, max(0.0, done / total)) if total > 0 else 0.0
        return portion
