"""A vocabulary: the bytes behind every token id. Knows nothing of how a text becomes ids, or of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcli.errors import TokenizerError

Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The bytes of ids 0, 1, 2 ...; when there is an end-of-text token, it is the id after them."""

    tokens: tuple[bytes, ...]
    has_end_of_text: bool

    @property
    def size(self) -> int:
        """Number of ids, end-of-text included."""
        return len(self.tokens) + self.has_end_of_text

    @property
    def end_of_text(self) -> int | None:
        """The id of end-of-text, or None."""
        return len(self.tokens) if self.has_end_of_text else None

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes behind one id, none for end-of-text; raises ``TokenizerError`` for an id outside."""
        if 0 <= token_id < len(self.tokens):
            return self.tokens[token_id]
        if token_id == self.end_of_text:
            return b""
        raise TokenizerError(f"Token id {token_id} is outside of the vocabulary, which has {self.size:,} ids.")

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """Return the text of the ids; bytes that are no UTF-8 become U+FFFD, end-of-text becomes nothing."""
        return b"".join(self.token_bytes(int(token_id)) for token_id in ids).decode("utf-8", "replace")

    def as_ids(self, values: npt.NDArray[np.uint32]) -> Ids:
        """Return the ids as an array of uint16 where that holds every id of this vocabulary, else of uint32."""
        return values.astype(np.uint16) if self.size <= 1 << 16 else values


def fingerprint(content: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of what decides the ids: kind, tokens and pattern, not the name."""
    decisive = {key: content[key] for key in content if key not in {"format_version", "name", "fingerprint"}}
    canonical = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
