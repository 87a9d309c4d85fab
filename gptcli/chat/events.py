"""What a session tells whoever shows it: frozen events, and nothing of terminals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gptcli.sample import FinishReason

EndReason = FinishReason | Literal["interrupted"]


@dataclass(frozen=True, slots=True)
class Given:
    """Text that stands already: what was sent, with what joins it to the text before; what /load or /undo left.

    A turn of a conversation is not told again: whoever sent it has seen it.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next piece of drawn text; an empty one is an occasion to stop, nothing to show."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A reply is over; ``seconds`` is the time the model took, not what was done between its tokens."""

    finish_reason: EndReason
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Said:
    """A note for the person, of one line or more; never part of the text."""

    text: str


@dataclass(frozen=True, slots=True)
class Wrong:
    """What cannot be done, and what to type instead; it changed nothing but what was shown already."""

    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """Two whole texts side by side, of /compare."""

    left_title: str
    left: str
    right_title: str
    right: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """The likeliest next tokens, each with its probability (0 to 1), the likeliest first, of /next."""

    rows: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Choices:
    """The continuations of /best-of, to be numbered from 1; the next line chooses one or leaves them."""

    texts: list[str]


@dataclass(frozen=True, slots=True)
class EditRequest:
    """The person may change this text; then comes ``/edit`` with the new one."""

    text: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The person wants to leave."""


ChatEvent = Given | Drawn | Ended | Said | Wrong | Columns | Ranked | Choices | EditRequest | Leave
