"""Tokenizers: one interface over characters, GPT-2's BPE and BPE trained on the corpus; choosing, saving, streaming.

A tokenizer is saved whole, so what was made with it never needs a network. Knows nothing of corpora and splits.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gptcli.bpe import bpe_from_json, check_bpe_size, encode_pieces, gpt2_tokenizer, train_bpe
from gptcli.config import TOKENIZER_NAME
from gptcli.documents import well_formed
from gptcli.errors import FormatError, TokenizerError
from gptcli.files import read_json, write_json
from gptcli.pretrained_tokenizer import pretrained_from_json
from gptcli.vocabulary import FORMAT_VERSION, Ids, Vocabulary, VocabularyTokenizer

__all__ = [
    "CharTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "byte_lengths",
    "char_tokenizer",
    "encode_pieces",
    "from_json",
    "gpt2_tokenizer",
    "load_tokenizer",
    "parse_name",
    "save_tokenizer",
    "suggest_tokenizer",
    "train_bpe",
]

DAMAGED_HINT = "Restore it from a copy, or make the tokens again: gptcli prepare CORPUS --force"
MAX_SHOWN = 10

# The largest corpus in bytes for which each is the best choice found so far.
SUGGESTIONS = (
    (50_000, "char"),
    (1_000_000, "bpe:512"),
    (5_000_000, "bpe:1024"),
    (20_000_000, "bpe:2048"),
    (100_000_000, "bpe:4096"),
)
LARGEST_SUGGESTION = "bpe:8192"


class Tokenizer(Protocol):
    """What turns text into ids and back. Ids are 0 .. ``vocab_size`` - 1."""

    name: str
    """`char`, `gpt2`, `bpe:N`, where N is the size that was asked for, or `pretrained`: it came with weights."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    def end_of_text(self) -> int | None:
        """The id that stands between documents, or None."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the vocabulary."""

    def encode(self, text: str) -> Ids:
        """Return the ids, 1-D, uint16 or uint32; no text ever becomes end-of-text."""

    def encode_texts(self, texts: Sequence[str], parted: Sequence[bool]) -> Ids:
        """Return the ids of texts one after the other; end-of-text comes before those that are ``parted``."""

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """Return the text of the ids; broken UTF-8 becomes U+FFFD, end-of-text becomes nothing."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes behind one id, none for end-of-text."""

    def to_json(self) -> dict[str, Any]:
        """Return the whole tokenizer as ``from_json`` reads it."""


class CharTokenizer(VocabularyTokenizer):
    """One id for each character of an alphabet, in the order of their code points, as nanoGPT has it."""

    def __init__(self, characters: str, *, end_of_text: bool) -> None:
        tokens = tuple(character.encode() for character in characters)
        end = len(tokens) if end_of_text else None
        super().__init__("char", Vocabulary((*tokens, b"") if end_of_text else tokens, end))
        self._characters = characters
        points = np.frombuffer(characters.encode("utf-32-le"), dtype=np.uint32)
        # The last entry answers for every code point above the alphabet.
        self._unknown = len(characters)
        self._ids = np.full(int(points.max()) + 2, self._unknown, dtype=np.uint32)
        self._ids[points] = np.arange(len(points), dtype=np.uint32)

    def encode(self, text: str) -> Ids:
        """Return one id a character, 1-D; raises ``TokenizerError`` that shows the characters it does not have."""
        points = np.frombuffer(well_formed(text).encode("utf-32-le"), dtype=np.uint32)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        unknown = points[ids == self._unknown]
        if len(unknown):
            self._refuse([chr(point) for point in dict.fromkeys(unknown.tolist())])
        return self._vocabulary.as_ids(ids)

    def content(self) -> dict[str, Any]:
        """Return what decides the ids."""
        return {"kind": "char", "end_of_text": self.end_of_text, "characters": self._characters}

    def _refuse(self, unknown: list[str]) -> None:
        shown = ", ".join(repr(character) for character in unknown[:MAX_SHOWN])
        more = f" and {len(unknown) - MAX_SHOWN} more" if len(unknown) > MAX_SHOWN else ""
        raise TokenizerError(
            f"The char tokenizer knows the {len(self._characters)} characters of its corpus only; "
            f"the text has others: {shown}{more}.",
            "Leave them out; or train on tokens that can hold any text: gptcli prepare CORPUS --tokenizer bpe:512",
        )


def char_tokenizer(texts: Iterable[str], *, end_of_text: bool) -> CharTokenizer:
    """Make a tokenizer of the characters of all texts; raises ``TokenizerError`` when there are none."""
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(well_formed(text))
    if not alphabet:
        raise TokenizerError("There is no text to take characters from.", "gptcli fetch SOURCE fetches a text.")
    return CharTokenizer("".join(sorted(alphabet)), end_of_text=end_of_text)


class StreamDecoder:
    """Turns ids into text one at a time and holds back the bytes of a character that is not whole yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, token_id: int) -> str:
        """Return the text that this id completes, possibly none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """Return U+FFFD when a character was left incomplete, and begin anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def byte_lengths(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Return the number of bytes behind each id, (vocab_size,); 0 for end-of-text."""
    return np.array([len(tokenizer.token_bytes(token_id)) for token_id in range(tokenizer.vocab_size)], dtype=np.int64)


def parse_name(name: str) -> tuple[str, int | None]:
    """Return the kind (`auto`, `char`, `gpt2`, `pretrained`, `bpe`) and for `bpe:N` the N.

    Raises ``TokenizerError`` for anything else and for an N that byte-level BPE cannot have.
    """
    if not TOKENIZER_NAME.fullmatch(name):
        raise TokenizerError(
            f"There is no tokenizer called {name!r}.", "Choose auto, char, gpt2 or bpe:N, such as --tokenizer bpe:512."
        )
    kind, _, size = name.partition(":")
    if not size:
        return kind, None
    check_bpe_size(int(size))
    return kind, int(size)


def suggest_tokenizer(n_bytes: int) -> tuple[str, str]:
    """Return the tokenizer for a corpus of this many bytes of text, and the sentence that says why.

    From runs of a minute on a 333 kB book, in bits per byte: bpe:512 1.82, bpe:1024 1.85, char 1.88, bpe:2048 1.90,
    gpt2 2.07. A larger corpus shows each token of a larger vocabulary often enough.
    """
    name = next((name for limit, name in SUGGESTIONS if n_bytes < limit), LARGEST_SUGGESTION)
    size = f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"
    if name == "char":
        return name, f"{size} of text is too little to learn more than its characters from"
    return name, f"on {size} of text a small vocabulary of its own gives fewer bits per byte than char or gpt2"


def from_json(value: dict[str, Any], where: str) -> Tokenizer:
    """Rebuild a tokenizer from ``to_json``; ``where`` names it in the ``FormatError`` for a damaged one."""
    try:
        tokenizer = _rebuild(value)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{where}: the tokenizer is damaged: {error}.", DAMAGED_HINT) from error
    if value.get("fingerprint") != tokenizer.fingerprint:
        raise FormatError(
            f"{where}: the tokenizer is damaged: its fingerprint is {value.get('fingerprint')}, "
            f"but its tokens give {tokenizer.fingerprint}.",
            DAMAGED_HINT,
        )
    return tokenizer


def _rebuild(value: dict[str, Any]) -> Tokenizer:
    kind = value.get("kind")
    if kind == "bpe":
        return bpe_from_json(value)
    if kind == "pretrained":
        return pretrained_from_json(value)
    if kind != "char":
        raise ValueError(f"its kind should be char, bpe or pretrained, found {kind!r}")
    characters, end_of_text = value.get("characters"), value.get("end_of_text")
    if not isinstance(characters, str) or not characters or sorted(set(characters)) != list(characters):
        raise ValueError("its characters should be different and in the order of their code points")
    if end_of_text not in (None, len(characters)):
        raise ValueError(f"end_of_text should be {len(characters)} or null, found {end_of_text!r}")
    return CharTokenizer(characters, end_of_text=end_of_text is not None)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer file; raises ``FormatError`` when it is missing, damaged or of another version."""
    return from_json(read_json(path, format_version=FORMAT_VERSION, what="the tokenizer"), str(path))


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer whole, atomically."""
    write_json(path, tokenizer.to_json())
