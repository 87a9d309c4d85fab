"""The tokenizer in a folder of a model: GPT-2's own where it is that, else the ``tokenizer.json`` as it came.

It owns which file decides and which token ends a text. What a ``tokenizer.json`` may hold is the business of
``pretrained_tokenizer``.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptcli.bpe import BpeTokenizer, byte_characters
from gptcli.errors import FormatError, TokenizerError
from gptcli.pretrained_tokenizer import PretrainedTokenizer, added_tokens
from gptcli.tokenizer import Tokenizer, gpt2_tokenizer

GPT2_VOCAB_SIZE = 50_257
GPT2_FINGERPRINT = "4da6ce5ff8e1edbd"
END_OF_TEXT = "<|endoftext|>"
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


class DamagedFileError(FormatError):
    """The file at ``path`` cannot be read as what it should be; another copy of it may be whole."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message, "The file is damaged or was not copied whole: get it again.")
        self.path = path


def open_folder_tokenizer(folder: Path, settings: Mapping[str, Any], rows: int) -> Tokenizer:
    """Return the tokenizer of a folder whose ``config.json`` is ``settings``; the weights have ``rows`` for tokens.

    Without any file of a tokenizer a model of GPT-2's vocabulary size has GPT-2's. Raises ``TokenizerError`` where
    gptcli cannot use what is there, ``FormatError`` for a damaged file.
    """
    if (folder / "tokenizer.json").is_file():
        return _from_tokenizer_json(folder, settings)
    if (folder / "vocab.json").is_file():
        found = _gpt2(read_object(folder / "vocab.json"), {})
        if found is not None:
            return found
        where = inside_quotes(folder)
        raise TokenizerError(
            f"{folder}: vocab.json is not GPT-2's, and there is no tokenizer.json that says how it is used.",
            f"Write one: python -c \"from transformers import AutoTokenizer as A; A.from_pretrained('{where}')"
            f".save_pretrained('{where}')\"",
        )
    for name in SENTENCEPIECE:
        if (folder / name).is_file():
            raise _refused(folder, f"it is a SentencePiece model ({name}), gptcli reads byte-level BPE")
    if rows == GPT2_VOCAB_SIZE:
        return gpt2_tokenizer()
    raise TokenizerError(
        f"{folder}: there is no tokenizer.json, and the model's vocabulary of {rows:,} tokens is not GPT-2's "
        f"of {GPT2_VOCAB_SIZE:,}.",
        "Copy the tokenizer.json of the model beside its config.json.",
    )


def _from_tokenizer_json(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    content = read_object(folder / "tokenizer.json")
    try:
        added = added_tokens(content)
        model = content.get("model")
        if isinstance(model, dict) and isinstance(model.get("vocab"), dict) and _is_plain(content):
            found = _gpt2(model["vocab"], added)
            if found is not None:
                return found
        return PretrainedTokenizer(content, _end_of_text(folder, settings, content, added))
    except ValueError as error:
        raise _refused(folder, str(error)) from error


def inside_quotes(folder: Path) -> str:
    """Return a folder for a command that has it in quotes of two kinds; ``MODEL`` for one that could end them."""
    return str(folder) if re.fullmatch(r"[\w ./:~-]+", str(folder)) else "MODEL"


def _refused(folder: Path, reason: str) -> TokenizerError:
    return TokenizerError(
        f"{folder}: gptcli cannot use the tokenizer of this model: {reason}.",
        "Take a model with a byte-level BPE, such as gpt2 or Qwen/Qwen3-0.6B-Base.",
    )


def _is_plain(content: Mapping[str, Any]) -> bool:
    """Say whether a file has GPT-2's steps before the merges: ByteLevel with its own pattern, and nothing else."""
    step = content.get("pre_tokenizer")
    if content.get("normalizer") is not None or not isinstance(step, dict):
        return False
    return step.get("type") == "ByteLevel" and not step.get("add_prefix_space", True) and bool(step.get("use_regex", 1))


def _gpt2(vocabulary: Mapping[str, Any], added: Mapping[str, int]) -> BpeTokenizer | None:
    """Return GPT-2's tokenizer when the vocabulary is that, without asking for it elsewhere."""
    if len(vocabulary) != GPT2_VOCAB_SIZE or added.items() - {(END_OF_TEXT, GPT2_VOCAB_SIZE - 1)}:
        return None
    bytes_of = byte_characters()
    by_id = {token_id: token for token, token_id in vocabulary.items() if type(token_id) is int}
    names = [by_id.get(token_id) for token_id in range(GPT2_VOCAB_SIZE - 1)]
    if not all(name and all(character in bytes_of for character in name) for name in names):
        return None
    tokens = [bytes(bytes_of[character] for character in name or "") for name in names]
    if not {bytes([byte]) for byte in range(256)} <= set(tokens) or len(set(tokens)) != len(tokens):
        return None
    found = BpeTokenizer("gpt2", tokens)
    return found if found.fingerprint == GPT2_FINGERPRINT else None


def _end_of_text(
    folder: Path, settings: Mapping[str, Any], content: Mapping[str, Any], added: Mapping[str, int]
) -> int | None:
    """Return the special token that ends a text: the tokenizer's, else the model's, else the one so called."""
    special = {item["id"] for item in content.get("added_tokens") or [] if item.get("special")}
    ids = (token_id for token_id in _candidates(folder, settings, added) if token_id in special)
    return next(ids, None)


def _candidates(folder: Path, settings: Mapping[str, Any], added: Mapping[str, int]) -> Iterator[int | None]:
    if (folder / "tokenizer_config.json").is_file():
        name = read_object(folder / "tokenizer_config.json").get("eos_token")
        name = name.get("content") if isinstance(name, dict) else name
        yield added.get(name) if isinstance(name, str) else None
    eos = settings.get("eos_token_id")
    yield from (token_id for token_id in (eos if isinstance(eos, list) else [eos]) if type(token_id) is int)
    yield added.get(END_OF_TEXT)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that is not ours, so it has no format_version; ``DamagedFileError`` for anything else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} cannot be read ({in_a_line(error)}).", path) from error
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path} is damaged: a JSON object was expected, found {type(value).__name__}.", path)
    return value


def in_a_line(error: BaseException) -> str:
    """Return what an error says, short and without line ends, for the middle of a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text, 160, placeholder=" ...").rstrip(".")
