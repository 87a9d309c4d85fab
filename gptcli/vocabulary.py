"""A vocabulary: the bytes behind every token id. Knows nothing of how a text becomes ids, or of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from gptcli.errors import TokenizerError

# The version of the JSON of every tokenizer.
FORMAT_VERSION = 1

Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The bytes of ids 0, 1, 2 ..., none for those that no text has; ``end_of_text`` is one of these, or None."""

    tokens: tuple[bytes, ...]
    end_of_text: int | None

    @property
    def size(self) -> int:
        """Number of ids, end-of-text included."""
        return len(self.tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes behind one id, none for end-of-text; raises ``TokenizerError`` for an id outside."""
        if 0 <= token_id < len(self.tokens):
            return self.tokens[token_id]
        raise TokenizerError(f"Token id {token_id} is outside of the vocabulary, which has {self.size:,} ids.")

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """Return the text of the ids; bytes that are no UTF-8 become U+FFFD, end-of-text becomes nothing."""
        return b"".join(self.token_bytes(int(token_id)) for token_id in ids).decode("utf-8", "replace")

    def as_ids(self, values: npt.NDArray[np.uint32]) -> Ids:
        """Return the ids as an array of uint16 where that holds every id of this vocabulary, else of uint32."""
        return values.astype(np.uint16) if self.size <= 1 << 16 else values


class VocabularyTokenizer:
    """The half of a tokenizer that its vocabulary answers for. How a text becomes ids, a child adds as ``encode``.

    ``content`` is all of the tokenizer but its name, as JSON; it decides the fingerprint.
    """

    def __init__(self, name: str, vocabulary: Vocabulary) -> None:
        self.name = name
        self._vocabulary = vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._vocabulary.size

    @property
    def end_of_text(self) -> int | None:
        """The id that stands between documents, or None."""
        return self._vocabulary.end_of_text

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the vocabulary."""
        return fingerprint(self.content())

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """Return the text of the ids; bytes that are no UTF-8 become U+FFFD, end-of-text becomes nothing."""
        return self._vocabulary.decode(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes behind one id, none for end-of-text; raises ``TokenizerError`` for an id outside."""
        return self._vocabulary.token_bytes(token_id)

    def to_json(self) -> dict[str, Any]:
        """Return the whole tokenizer, so that it can be rebuilt without any network."""
        content = self.content()
        return {"format_version": FORMAT_VERSION, "name": self.name, **content, "fingerprint": self.fingerprint}

    def encode_texts(self, texts: Sequence[str], parted: Sequence[bool]) -> Ids:
        """Return the ids of texts one after the other, 1-D; end-of-text comes before those that are ``parted``.

        A text that is not parted has to begin where no token crosses.
        """
        end = self._vocabulary.as_ids(np.array([] if self.end_of_text is None else [self.end_of_text], np.uint32))
        ids: list[Ids] = []
        for text, apart in zip(texts, parted, strict=True):
            ids += [end, self.encode(text)] if apart else [self.encode(text)]
        return cast("Ids", np.concatenate(ids))

    def encode(self, text: str) -> Ids:
        """Return the ids of a text."""
        raise NotImplementedError

    def content(self) -> dict[str, Any]:
        """Return what decides the ids."""
        raise NotImplementedError


def fingerprint(content: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of what decides the ids: kind, tokens and pattern, not the name."""
    decisive = {key: content[key] for key in content if key not in {"format_version", "name", "fingerprint"}}
    canonical = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
