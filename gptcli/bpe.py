"""Byte-pair encoding: GPT-2's own vocabulary, and vocabularies trained on a corpus.

Both are served by tiktoken with GPT-2's pattern; ``tokenizers`` is used for the training only. Knows nothing of files.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gptcli.documents import well_formed
from gptcli.errors import TokenizerError
from gptcli.gpt2_words import EDGE_CHARACTER, MOST_IDS, WordEncoder
from gptcli.vocabulary import Ids, Vocabulary, VocabularyTokenizer

# How GPT-2 cuts a text into words before it merges bytes (openai/gpt-2, src/encoder.py), in tiktoken's faster form.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# 256 bytes and end-of-text.
SMALLEST_VOCAB = 257
SAMPLE_BYTES = 200_000_000
PIECE_CHARS = 1024 * 1024
# What a table of words encodes at a time, so that its arrays fit the cache; a shorter text is not worth a table.
CHUNK_CHARS = 1 << 16

# No match of GPT-2's pattern crosses the start of a space after a word; Qwen's and Llama's take line ends along with
# the punctuation before them, so a line end is a good place after a letter or a number only.
_SAFE_CUT = re.compile(r"(?<=\S)[ \t]|(?<=[^\W_])\n")
_GPT2_CUT = re.compile(r"(?<=\S)\n")
# Python's white space has four control characters that tiktoken's has not.
_ANY_GPT2_CUT = re.compile(r"(?<=\S)[^\S\x1c-\x1f]")


class BpeTokenizer(VocabularyTokenizer):
    """Byte-level BPE: any text has ids, and the ids give the text back. End-of-text is the last id.

    ``tokens`` are the bytes of every id before it, in the order in which the merges were learned.
    """

    def __init__(self, name: str, tokens: Sequence[bytes]) -> None:
        import tiktoken

        super().__init__(name, Vocabulary((*tokens, b""), end_of_text=len(tokens)))
        ranks = {token: rank for rank, token in enumerate(tokens)}
        # No special token is registered, so no text can ever become one.
        self._encoding = tiktoken.Encoding(name, pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, 1-D; special-token text is ordinary text, lone surrogates become U+FFFD."""
        return self._vocabulary.as_ids(self._encoding.encode_to_numpy(well_formed(text), disallowed_special=()))

    def encode_texts(self, texts: Sequence[str], parted: Sequence[bool]) -> Ids:
        """Return what ``VocabularyTokenizer`` does, faster for long texts."""
        joined = "".join(EDGE_CHARACTER + text if apart else text for text, apart in zip(texts, parted, strict=True))
        if len(joined) < CHUNK_CHARS or joined.count(EDGE_CHARACTER) != sum(parted) or self.vocab_size > MOST_IDS:
            return super().encode_texts(texts, parted)
        return np.concatenate([self._encode_chunk(chunk) for chunk in _chunks(well_formed(joined))])

    def _encode_chunk(self, chunk: str) -> Ids:
        ids = self._words.encode(chunk, self._vocabulary.size - 1)
        if ids is not None:
            return ids
        first, *others = chunk.split(EDGE_CHARACTER)
        return super().encode_texts([first, *others], [False] + [True] * len(others))

    @cached_property
    def _words(self) -> WordEncoder:
        return WordEncoder(self._encoding, self._vocabulary.tokens[:-1])

    def content(self) -> dict[str, Any]:
        """Return what decides the ids: the pattern, and the tokens in the order of their ranks."""
        return {
            "kind": "bpe",
            "pattern": GPT2_PATTERN,
            "end_of_text": self.end_of_text,
            "tokens": [base64.b64encode(token).decode("ascii") for token in self._vocabulary.tokens[:-1]],
        }


def bpe_from_json(value: Mapping[str, Any]) -> BpeTokenizer:
    """Rebuild a tokenizer from ``to_json``; raises ``ValueError`` that says what is wrong with the value."""
    name, encoded = value.get("name"), value.get("tokens")
    if value.get("pattern") != GPT2_PATTERN:
        raise ValueError("its pattern is not GPT-2's")
    if not isinstance(name, str) or not re.fullmatch(r"gpt2|bpe:[1-9][0-9]*", name):
        raise ValueError(f"its name should be gpt2 or bpe:N, found {name!r}")
    if not isinstance(encoded, list) or not all(isinstance(token, str) for token in encoded):
        raise ValueError("its tokens are not a list of strings")
    tokens = [base64.b64decode(token, validate=True) for token in encoded]
    if len(set(tokens)) != len(tokens) or not {bytes([byte]) for byte in range(256)} <= set(tokens) or b"" in tokens:
        raise ValueError("its tokens should be different, not empty, and contain every single byte")
    if value.get("end_of_text") != len(tokens):
        raise ValueError(f"end_of_text should be {len(tokens)}, found {value.get('end_of_text')!r}")
    return BpeTokenizer(name, tokens)


def gpt2_tokenizer() -> BpeTokenizer:
    """Return GPT-2's tokenizer: 50,257 ids, the last is end-of-text.

    Its vocabulary comes from tiktoken's cache or is downloaded once; ``TokenizerError`` when neither is possible.
    """
    import tiktoken

    try:
        encoding = tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:
        cache = os.environ.get("TIKTOKEN_CACHE_DIR")
        raise TokenizerError(
            "GPT-2's vocabulary (vocab.bpe and encoder.json, 1.5 MB) is not on this machine and could not be "
            f"downloaded ({type(error).__name__}).",
            f"Connect once, or put tiktoken's cache files in {cache or 'a folder'} and set TIKTOKEN_CACHE_DIR to it; "
            "the tokenizers bpe:1024 and char need no download.",
        ) from error
    return BpeTokenizer("gpt2", [encoding.decode_single_token_bytes(rank) for rank in range(encoding.n_vocab - 1)])


def train_bpe(texts: Iterable[str], vocab_size: int, *, total_bytes: int | None = None) -> BpeTokenizer:
    """Learn a byte-level BPE of ``vocab_size`` ids from texts.

    A text too small for that many merges gives fewer ids; the name stays ``bpe:vocab_size``, what was asked for.
    Of more than ``SAMPLE_BYTES`` of text a sample is used: spread evenly when ``total_bytes`` says how much there is,
    else the beginning. Raises ``TokenizerError`` below ``SMALLEST_VOCAB`` ids or without text.
    """
    check_bpe_size(vocab_size)
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
    )
    sample = _sample(texts, total_bytes)
    first = next(sample, None)
    if first is None:
        raise TokenizerError("There is no text to learn a vocabulary from.", "gptcli fetch SOURCE fetches a text.")
    learner.train_from_iterator(_chain(first, sample), trainer)
    symbols = sorted(learner.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    characters = byte_characters()
    return BpeTokenizer(
        f"bpe:{vocab_size}", [bytes(characters[character] for character in symbol) for symbol, _ in symbols]
    )


def check_bpe_size(vocab_size: int) -> None:
    """Raise ``TokenizerError`` for a vocabulary too small for byte-level BPE."""
    if vocab_size < SMALLEST_VOCAB:
        raise TokenizerError(
            f"bpe:{vocab_size} is too small: 256 bytes and end-of-text alone are {SMALLEST_VOCAB} tokens.",
            "bpe:512 is a good size for a short book.",
        )


def encode_pieces(text: str | Iterable[str], size: int = PIECE_CHARS) -> Iterator[str]:
    """Cut a long text, whole or as a stream, into pieces that encode one by one to the tokens of the whole.

    Pieces have about ``size`` characters and end before whitespace that follows a word: no match of the patterns of
    GPT-2, Qwen and Llama crosses that place. A run of 8 x ``size`` characters without such a place is cut at a line
    end, which is right for GPT-2's alone, and without that anywhere: there a token or two may differ.
    """
    waiting = ""
    for part in [text] if isinstance(text, str) else text:
        waiting += part
        start = 0
        while len(waiting) - start > size:
            found = _SAFE_CUT.search(waiting, start + size, start + 8 * size)
            if found is None and len(waiting) - start < 8 * size:
                break
            found = found or _GPT2_CUT.search(waiting, start + size, start + 8 * size)
            end = found.start() if found else start + 8 * size
            yield waiting[start:end]
            start = end
        waiting = waiting[start:]
    if waiting:
        yield waiting


def _chunks(text: str) -> Iterator[str]:
    """Cut a text before white space behind a word, where no match of GPT-2's pattern crosses."""
    start = 0
    while found := _ANY_GPT2_CUT.search(text, start + CHUNK_CHARS):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def _sample(texts: Iterable[str], total_bytes: int | None) -> Iterator[str]:
    """Yield pieces of the texts of about ``SAMPLE_BYTES`` together: every n-th one, where the total is known."""
    stride = -(-(total_bytes or 0) // SAMPLE_BYTES) or 1
    used = 0
    # Small pieces: the trainer holds 256 of them at a time.
    pieces = (piece for text in texts for piece in encode_pieces(text, 1 << 16) if piece)
    for number, piece in enumerate(pieces):
        if number % stride:
            continue
        yield well_formed(piece)
        used += len(piece.encode("utf-8", "surrogatepass"))
        if used >= SAMPLE_BYTES:
            return


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def byte_characters() -> dict[str, int]:
    """Return GPT-2's table from the printable characters that stand for bytes to the bytes (``bytes_to_unicode``)."""
    shown = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
