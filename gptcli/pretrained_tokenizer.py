"""Tokenizers that come with weights: any byte-level BPE in a ``tokenizer.json``, as Qwen3's.

It owns which of these files can be used, and says why not of the others. The library ``tokenizers`` does the encoding.
Where the file lies and which weights belong to it is not known here. Nothing of such a file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gptcli.bpe import byte_characters
from gptcli.documents import well_formed
from gptcli.errors import TokenizerError
from gptcli.vocabulary import Ids, Vocabulary, VocabularyTokenizer

NAME = "pretrained"
MAX_VOCAB = 1 << 24
MAX_SHOWN = 100
NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Sequence"}
PRE_TOKENIZERS = {"Split", "Digits", "ByteLevel", "Sequence"}
# What is kept of a file; the rest (padding, truncation, post-processing) is about batches and wrappers.
PARTS = ("normalizer", "pre_tokenizer", "decoder", "model", "added_tokens")


class PretrainedTokenizer(VocabularyTokenizer):
    """A byte-level BPE as its ``tokenizer.json`` has it. Any text has ids, and no text becomes a special token.

    Added tokens are left out of the encoding, but for those of nothing but whitespace, which are ordinary text. The
    ids give the text back as its normalizer (NFC) has it. ``ValueError`` says why a file cannot be used.
    """

    def __init__(self, tokenizer_json: Mapping[str, Any], end_of_text: int | None) -> None:
        self.tokenizer_json = _canonical(tokenizer_json)
        super().__init__(NAME, Vocabulary(_read_tokens(self.tokenizer_json), end_of_text))
        if end_of_text is not None and not (0 <= end_of_text < self.vocab_size and not self.token_bytes(end_of_text)):
            raise ValueError(f"its end-of-text {end_of_text} is not one of its special tokens")
        self._encoder = _make_encoder(self.tokenizer_json)

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, 1-D; special-token text is ordinary text, lone surrogates become U+FFFD.

        Raises ``TokenizerError`` where the steps before the merges give the text up, as endless patterns do.
        """
        try:
            # Half as much time as ``encode``, which keeps the place of every token too.
            (found,) = self._encoder.encode_batch_fast([well_formed(text)], add_special_tokens=False)
        except BaseException as error:
            if type(error) is not Exception and not _is_panic(error):
                raise
            raise TokenizerError(
                f"A text cannot be cut into tokens: the tokenizers library gives it up ({str(error)[:MAX_SHOWN]}).",
                "The patterns of the model's tokenizer.json are not usual ones. Take another model, such as gpt2.",
            ) from error
        return self._vocabulary.as_ids(np.array(found.ids, dtype=np.uint32))

    def content(self) -> dict[str, Any]:
        """Return what decides the ids: the file itself, added tokens included, and which of them ends a text."""
        return {"kind": NAME, "end_of_text": self.end_of_text, "tokenizer_json": self.tokenizer_json}


def pretrained_from_json(value: Mapping[str, Any]) -> PretrainedTokenizer:
    """Rebuild a tokenizer from ``to_json``; raises ``ValueError`` that says what is wrong with the value."""
    content, end_of_text = value.get("tokenizer_json"), value.get("end_of_text")
    if value.get("name") != NAME or not isinstance(content, dict):
        raise ValueError(f"its name should be {NAME}, and its tokenizer_json an object")
    if not (end_of_text is None or type(end_of_text) is int):
        raise ValueError(f"end_of_text should be an id or null, found {end_of_text!r}")
    return PretrainedTokenizer(content, end_of_text)


def added_tokens(tokenizer_json: Mapping[str, Any]) -> dict[str, int]:
    """Return the added tokens of a ``tokenizer.json`` and their ids; raises ``ValueError`` when they are damaged."""
    tokens = tokenizer_json.get("added_tokens") or []
    if not isinstance(tokens, list):
        raise ValueError("its added_tokens should be a list")
    found = {}
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not _is_id(token.get("id")):
            raise ValueError("an added token should have a content and an id")
        found[token["content"]] = token["id"]
    return found


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_VOCAB


def _canonical(tokenizer_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts that decide the ids, once they are found to be a byte-level BPE."""
    value = {"version": "1.0", **{part: tokenizer_json.get(part) for part in PARTS}}
    value["added_tokens"] = value["added_tokens"] or []
    value["model"] = _check_model(value["model"])
    _check_steps(value)
    return value


def _check_model(model: object) -> dict[str, Any]:
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        raise ValueError(f"its model is {kind or 'missing'}, gptcli reads byte-level BPE")
    for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise ValueError(f"its model has {key}, which a byte-level BPE has not")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not all(_is_id(token_id) for token_id in vocabulary.values()):
        raise ValueError("it has no vocabulary of tokens and their ids")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise ValueError("two of its tokens have the same id")
    if not isinstance(merges, list):
        raise ValueError("it has no merges")
    return {**model, "type": "BPE", "merges": [_join_merge(merge) for merge in merges]}


def _join_merge(merge: object) -> str:
    """Return a merge as two words of one string, the form that every version of ``tokenizers`` reads."""
    sides = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, str) and " " not in side for side in sides):
        return " ".join(sides)
    raise ValueError(f"its merge {merge!r} is not a pair of tokens")


def _check_steps(value: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for steps before the merges that would lose text, or that are not known to keep it."""
    for step in _steps(value["normalizer"], "normalizers"):
        if step.get("type") not in NORMALIZERS:
            raise ValueError(f"its normalizer {step.get('type')} is not known to gptcli")
    steps = list(_steps(value["pre_tokenizer"], "pretokenizers"))
    kinds = [step.get("type") for step in steps if step.get("type") != "Sequence"]
    for step in steps:
        if step.get("type") not in PRE_TOKENIZERS:
            raise ValueError(
                f"its pre-tokenizer {step.get('type')} is not known to gptcli; a byte-level BPE has ByteLevel"
            )
        if step.get("type") == "Split" and step.get("behavior") == "Removed":
            raise ValueError("its pre-tokenizer removes text")
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space", True):
            raise ValueError("its pre-tokenizer adds a space to every text")
    if kinds.count("ByteLevel") != 1 or kinds[-1] != "ByteLevel":
        raise ValueError("it has no ByteLevel step at the end of its pre-tokenizer, so it is not a byte-level BPE")


def _steps(step: object, inner: str) -> Iterator[dict[str, Any]]:
    """Yield a step of a pipeline and those inside it."""
    if step is None:
        return
    parts = (step.get(inner) or []) if isinstance(step, dict) else None
    if not isinstance(step, dict) or not isinstance(step.get("type"), str) or not isinstance(parts, list):
        raise ValueError("a step of it is damaged")
    yield step
    for part in parts:
        yield from _steps(part, inner)


def _read_tokens(value: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Return the bytes of every id: none for special tokens and for ids that nothing has."""
    vocabulary: dict[str, int] = value["model"]["vocab"]
    added, bytes_of = added_tokens(value), byte_characters()
    _check_ids(vocabulary, value["added_tokens"])
    tokens = [b""] * (max([*vocabulary.values(), *added.values()], default=-1) + 1)
    for token, token_id in vocabulary.items():
        if token not in added:
            if not all(character in bytes_of for character in token):
                raise ValueError(f"its token {token!r} is not made of bytes, so it is not a byte-level BPE")
            tokens[token_id] = bytes(bytes_of[character] for character in token)
    missing = 256 - len({token for token in tokens if len(token) == 1})
    if missing:
        raise ValueError(f"{missing} of the 256 bytes have no token, so it cannot hold any text")
    for item in value["added_tokens"]:
        tokens[item["id"]] = b"" if item.get("special") else item["content"].encode("utf-8", "replace")
    return tuple(tokens)


def _check_ids(vocabulary: Mapping[str, int], added: list[dict[str, Any]]) -> None:
    """Raise ``ValueError`` for an added token with the id of another one, which it would take out of every text."""
    owners = {token_id: token for token, token_id in vocabulary.items()}
    for item in added:
        owner = owners.setdefault(item["id"], item["content"])
        if owner != item["content"]:
            raise ValueError(f"its tokens {owner!r} and {item['content']!r} have the same id {item['id']}")


def _is_panic(error: BaseException) -> bool:
    """Say whether the library broke off inside of Rust: its exception can be told by its name alone."""
    return type(error).__name__ == "PanicException"


def _make_encoder(value: Mapping[str, Any]) -> Any:  # noqa: ANN401 - tokenizers has no types
    from tokenizers import Tokenizer

    kept = [token for token in value["added_tokens"] if token["content"].isspace() and not token.get("special")]
    try:
        encoder = Tokenizer.from_str(json.dumps({**value, "added_tokens": kept}))
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise ValueError(f"the tokenizers library cannot read it: {error}") from error
    if any(encoder.token_to_id(token["content"]) != token["id"] for token in kept):
        raise ValueError("its added tokens of whitespace have ids that cannot be kept")
    return encoder
