"""Replies on their way: what was drawn so far, how long it took, and which seeds are still free."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from gptcli.chat.events import EndReason
from gptcli.chat.page import Step
from gptcli.config import SampleConfig
from gptcli.sample import Piece

N_SEEDS = 2**63


@dataclass(slots=True)
class Reply:
    """A reply as it comes; ``interrupted`` as long as it has no end."""

    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    finish_reason: EndReason = "interrupted"

    @property
    def text(self) -> str:
        """What was drawn so far."""
        return "".join(self.parts)


class Drawing:
    """One reply or several that are drawn at once."""

    def __init__(self, settings: SampleConfig) -> None:
        self.replies = [Reply() for _ in range(settings.num_samples)]
        self.seconds = 0.0
        """What the model took, without what is done between its tokens."""

    @property
    def tokens(self) -> int:
        """Tokens drawn so far, of all replies."""
        return sum(reply.tokens for reply in self.replies)

    def follow(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Put every piece into its reply on its way."""
        begin = time.perf_counter()
        for piece in pieces:
            self.seconds += time.perf_counter() - begin
            reply = self.replies[piece.sample]
            reply.parts.append(piece.text)
            reply.tokens += 1
            reply.finish_reason = piece.finish_reason or reply.finish_reason
            yield piece
            begin = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Offer:
    """What /best-of drew: the step to be, the settings with the first seed, the replies to choose from."""

    draft: Step
    settings: SampleConfig
    drawing: Drawing

    def settings_of(self, number: int) -> SampleConfig:
        """Return what reply ``number``, from 0, was drawn with."""
        seed = (self.settings.seed + number) % N_SEEDS
        return self.settings.model_copy(update={"seed": seed, "num_samples": 1})


class Seeds:
    """The seeds of a session: each reply takes the next that drew nothing yet."""

    def __init__(self) -> None:
        self._used: set[int] = set()

    def free(self, first: int, n: int = 1) -> int:
        """Return where the next ``n`` free seeds in a row begin, from ``first`` on."""
        while taken := [i for i in range(n) if (first + i) % N_SEEDS in self._used]:
            first += taken[-1] + 1
        return first % N_SEEDS

    def use(self, settings: SampleConfig) -> None:
        """Take the seeds of a drawing."""
        self._used.update((settings.seed + i) % N_SEEDS for i in range(settings.num_samples))

    def clear(self) -> None:
        """Make every seed free again."""
        self._used.clear()
