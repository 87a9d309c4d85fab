"""Our tokenizers as ``tokenizer.json`` of the ``tokenizers`` library, which transformers loads.

It owns the merges that stand behind the ranks of a byte-level BPE, and how a chat template is written in Jinja. It
knows nothing of models, and writes no file.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from gptcli.bpe import BpeTokenizer, byte_characters
from gptcli.chat_template import ChatTemplate
from gptcli.errors import ExportError
from gptcli.pretrained_tokenizer import PretrainedTokenizer
from gptcli.tokenizer import CharTokenizer, Tokenizer

END_OF_TEXT = "<|endoftext|>"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
Pair = tuple[bytes, bytes]
_EMPTY: dict[str, Any] = {
    "version": "1.0",
    **dict.fromkeys(("truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor")),
    **dict.fromkeys(("decoder", "model")),
}


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` that gives the ids of ``tokenizer`` for any text.

    One thing differs: there the text ``<|endoftext|>`` becomes the special token, as it does for every model of
    transformers; ours never lets a text do that. The file of a pretrained tokenizer is returned as it came. Raises
    ``ExportError`` for a vocabulary that no merges give.
    """
    if isinstance(tokenizer, CharTokenizer):
        return _whole(tokenizer, _characters(tokenizer))
    if isinstance(tokenizer, BpeTokenizer):
        return _whole(tokenizer, _merging(tokenizer))
    return _foreign(tokenizer)


def end_of_text_name(tokenizer: Tokenizer) -> str | None:
    """Return how end-of-text is written in the ``tokenizer.json``, or None where there is no such token."""
    if tokenizer.end_of_text is None:
        return None
    if isinstance(tokenizer, CharTokenizer | BpeTokenizer):
        return END_OF_TEXT
    added = _foreign(tokenizer).get("added_tokens", [])
    return next((str(token["content"]) for token in added if token["id"] == tokenizer.end_of_text), None)


def byte_level(token: bytes) -> str:
    """Return bytes in GPT-2's printable characters, as vocabularies and merges of byte-level BPE are written."""
    shown = _characters_of_bytes()
    return "".join(shown[byte] for byte in token)


@functools.cache
def _characters_of_bytes() -> dict[int, str]:
    return {byte: character for character, byte in byte_characters().items()}


def merges_of(tokenizer: Tokenizer) -> list[Pair]:
    """Return the merges of a byte-level BPE in the order of their ranks, each the bytes of its two sides.

    Where only ranks are kept, the two sides of a token are what its bytes become with the lower ranks alone: a merge
    inside a longer text meets them just so. Raises ``ExportError`` for a token that is not two such sides, and for
    a tokenizer that has no merges.
    """
    if isinstance(tokenizer, CharTokenizer):
        raise ExportError("A char tokenizer has no merges.", "Choose another format: gptcli export RUN --format hf")
    if not isinstance(tokenizer, BpeTokenizer):
        return _foreign_merges(tokenizer)
    size = tokenizer.vocab_size - (tokenizer.end_of_text is not None)
    tokens = [tokenizer.token_bytes(token_id) for token_id in range(size)]
    ranks: dict[bytes, int] = {bytes([byte]): -1 for byte in range(256)}
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) > 1:
            sides = _merged(token, ranks)
            if len(sides) != 2:
                raise ExportError(
                    f"The token {token!r} of the tokenizer {tokenizer.name} is not made of two earlier ones, "
                    "so it cannot be written as merges.",
                    "gptcli's own format keeps any tokenizer: gptcli export RUN --format safetensors",
                )
            merges.append((sides[0], sides[1]))
        ranks[token] = rank
    return merges


def _merged(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Join neighbours of ``token``'s bytes by rank, the lowest first and of equals the leftmost, while any is known."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        known = [
            (rank, at) for at in range(len(parts) - 1) if (rank := ranks.get(parts[at] + parts[at + 1])) is not None
        ]
        if not known:
            break
        at = min(known)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def chat_template_jinja(template: ChatTemplate) -> str:
    """Return ``template`` in Jinja for ``apply_chat_template``: with ``add_generation_prompt`` as ``write_prompt``.

    End-of-text after an answer is written as ``eos_token``.
    """

    def turn(start: str, end: str) -> str:
        parts = [ascii(start) if start else "", "(message['content'] | trim)", ascii(end) if end else ""]
        return f"{{{{ {' + '.join(filter(None, parts))} }}}}"

    return (
        "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}"
        f"{turn(template.answer_start + ' ', template.answer_end)}{{{{ eos_token }}}}"
        "{% elif message['role'] == 'system' %}"
        f"{turn(template.system_start, template.system_end)}"
        "{% else %}"
        f"{turn(template.user_start, template.user_end)}"
        "{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {template.answer_start!a} }}}}{{% endif %}}"
    )


def _whole(tokenizer: Tokenizer, parts: dict[str, Any]) -> dict[str, Any]:
    added = []
    if tokenizer.end_of_text is not None:
        marks = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [{"id": tokenizer.end_of_text, "content": END_OF_TEXT, **marks, "special": True}]
    return {**_EMPTY, "added_tokens": added, **parts}


def _merging(tokenizer: BpeTokenizer) -> dict[str, Any]:
    """Return model, pre-tokenizer and decoder of a byte-level BPE with GPT-2's pattern."""
    vocabulary = {byte_level(tokenizer.token_bytes(token_id)): token_id for token_id in range(tokenizer.vocab_size - 1)}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": _with_end_of_text(vocabulary, tokenizer),
        "merges": [[byte_level(left), byte_level(right)] for left, right in merges_of(tokenizer)],
    }
    return {"pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL, "model": model}


def _characters(tokenizer: CharTokenizer) -> dict[str, Any]:
    """Return model, pre-tokenizer and decoder of single characters; one outside the alphabet is an error there too."""
    size = tokenizer.vocab_size - (tokenizer.end_of_text is not None)
    vocabulary = {tokenizer.token_bytes(token_id).decode(): token_id for token_id in range(size)}
    each = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": _with_end_of_text(vocabulary, tokenizer), "unk_token": "[UNK]"}
    return {"pre_tokenizer": each, "decoder": {"type": "Fuse"}, "model": model}


def _with_end_of_text(vocabulary: dict[str, int], tokenizer: Tokenizer) -> dict[str, int]:
    return vocabulary if tokenizer.end_of_text is None else {**vocabulary, END_OF_TEXT: tokenizer.end_of_text}


def _foreign(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``tokenizer.json`` that a pretrained tokenizer came with; steps it lacks are named as none."""
    assert isinstance(tokenizer, PretrainedTokenizer)
    return {**_EMPTY, **tokenizer.tokenizer_json}


def _foreign_merges(tokenizer: Tokenizer) -> list[Pair]:
    """Read the merges of a ``tokenizer.json``, which older files write as one string with a space."""
    bytes_of = byte_characters()
    merges: Sequence[str | Sequence[str]] = _foreign(tokenizer)["model"]["merges"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [
        (bytes(bytes_of[character] for character in left), bytes(bytes_of[character] for character in right))
        for left, right in pairs
    ]
