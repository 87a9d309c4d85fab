"""The pace of a run: seconds of training and of evaluating, and what they say about the time that is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds spent training and evaluating; the pace is that of training alone."""

    def __init__(self) -> None:
        self._steps, self._evaluation = 0, 0.0
        self._recent: list[tuple[int, float]] = []

    def trained(self, n_tokens: int, seconds: float) -> None:
        """Count one step; the first one warms caches up (or compiles) and is left out of the pace."""
        self._steps += 1
        if self._steps > 1:
            self._recent = [*self._recent[-63:], (n_tokens, seconds)]

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Time one evaluation."""
        begin = time.perf_counter()
        yield
        self._evaluation = time.perf_counter() - begin

    def tokens_per_second(self) -> float:
        """The pace of the last 64 steps."""
        seconds = sum(seconds for _, seconds in self._recent)
        return sum(n for n, _ in self._recent) / seconds if seconds else 0.0

    def remaining(self, steps: int, evaluations: int) -> float | None:
        """Seconds that ``steps`` and ``evaluations`` more will take at this pace; None before there is one."""
        if not self._recent:
            return None
        per_step = sum(seconds for _, seconds in self._recent) / len(self._recent)
        return steps * per_step + evaluations * self._evaluation
