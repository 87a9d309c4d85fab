"""A tokenizer as GGUF has it: the text of every token, its type, the merges, and how llama.cpp cuts a text into words.

It owns which tokenizers llama.cpp computes as we do, and says why not of the others. It writes no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptcli.bpe import BpeTokenizer
from gptcli.errors import ExportError
from gptcli.export.hf_tokenizer import byte_level, end_of_text_name, merges_of
from gptcli.tokenizer import CharTokenizer, Tokenizer

# The types of tokens that llama.cpp has: ordinary ones, special ones, words found in any text, and gaps.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
# llama.cpp has its own code for each known pattern, chosen by a name; these are the ones proven to agree with ours.
GPT2_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
REGEXES = {"gpt-2": GPT2_REGEX, "qwen2": QWEN_REGEX}
ELSEWHERE = "transformers reads it as it is: gptcli export NAME --format hf --output DIR"


@dataclass(frozen=True, slots=True)
class GgufTokens:
    """What ``tokenizer.ggml.*`` says of a tokenizer; ``texts`` and ``types`` have one entry for each id."""

    texts: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    """llama.cpp's name for the pattern that cuts a text into words."""
    end_of_text: int


def gguf_tokens(tokenizer: Tokenizer) -> GgufTokens:
    """Return a tokenizer as llama.cpp reads it; raises ``ExportError`` for one that it cannot be told."""
    if isinstance(tokenizer, CharTokenizer):
        raise ExportError(
            "The model has a char tokenizer, and llama.cpp knows none: its vocabularies are made of bytes.",
            "Train on bytes instead: gptcli train CORPUS --set data.tokenizer=bpe:512; "
            "or take a format that has it: gptcli export NAME --format hf --output DIR",
        )
    end_of_text, name = tokenizer.end_of_text, end_of_text_name(tokenizer)
    if end_of_text is None or name is None:
        raise ExportError(
            "The tokenizer has no end-of-text, and llama.cpp would end every text at token 11 then.", ELSEWHERE
        )
    pre = "gpt-2" if isinstance(tokenizer, BpeTokenizer) else _pattern_name(tokenizer.to_json()["tokenizer_json"])
    texts, types = _tokens(tokenizer, end_of_text, name)
    if len(set(texts)) != len(texts):
        twice = Counter(texts).most_common(1)[0][0]
        raise ExportError(f"Two tokens are written {twice!r}, which llama.cpp cannot tell apart.", ELSEWHERE)
    merges = [f"{byte_level(left)} {byte_level(right)}" for left, right in merges_of(tokenizer)]
    # Without any merge llama.cpp refuses the file; no text has this pair.
    return GgufTokens(texts, types, merges or [f"{name} {name}"], pre, end_of_text)


def encode_with(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre: str, text: str) -> list[int]:
    """Return the ids of ``text`` by what a GGUF file says: its tokens, its merges, the pattern it names."""
    from tokenizers import AddedToken, Regex, models, pre_tokenizers
    from tokenizers import Tokenizer as Encoder

    vocabulary = {token: token_id for token_id, token in enumerate(tokens) if types[token_id] in (NORMAL, USER_DEFINED)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges) if left in vocabulary]
    encoder = Encoder(models.BPE(vocab=vocabulary, merges=pairs))
    cut = pre_tokenizers.Split(Regex(REGEXES[pre]), "isolated")
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    encoder.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED]
    )
    found: list[int] = encoder.encode(text, add_special_tokens=False).ids
    return found


def _tokens(tokenizer: Tokenizer, end_of_text: int, name: str) -> tuple[list[str], list[int]]:
    """Return the text and the type of every id.

    Only whitespace among a foreign tokenizer's added tokens is found in a text, as ``PretrainedTokenizer`` has it.
    """
    added: list[dict[str, Any]] = []
    if not isinstance(tokenizer, BpeTokenizer):
        added = tokenizer.to_json()["tokenizer_json"]["added_tokens"]
    special = {item["id"]: item["content"] for item in added if item.get("special")} | {end_of_text: name}
    spaces = {item["id"]: item["content"] for item in added if item["content"].isspace() and item["id"] not in special}
    texts, types = [], []
    for token_id in range(tokenizer.vocab_size):
        token = tokenizer.token_bytes(token_id)
        if token_id in special:
            text, kind = special[token_id], CONTROL
        elif token_id in spaces:
            text, kind = spaces[token_id], USER_DEFINED
        elif token:
            text, kind = byte_level(token), NORMAL
        else:
            text, kind = f"[PAD{token_id}]", UNUSED
        texts.append(text)
        types.append(kind)
    return texts, types


def _pattern_name(tokenizer_json: dict[str, Any]) -> str:
    """Return llama.cpp's name for what a ``tokenizer.json`` does before the merges."""
    normalizer, model = tokenizer_json.get("normalizer"), tokenizer_json["model"]
    # llama.cpp normalises nothing; NFC leaves nearly every text as it is, and Qwen's own files do without it too.
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise ExportError(
            f"The tokenizer normalises text ({normalizer.get('type')}), and llama.cpp does not.", ELSEWHERE
        )
    if model.get("ignore_merges"):
        raise ExportError("The tokenizer takes whole words before merges, which llama.cpp does not here.", ELSEWHERE)
    regex = _regex(tokenizer_json.get("pre_tokenizer") or {})
    name = next((name for name, known in REGEXES.items() if known == regex), None)
    if name is None:
        raise ExportError(
            f"The tokenizer cuts words in a way that gptcli does not know by a name of llama.cpp's: {regex}. "
            f"Known are those of {' and '.join(REGEXES)} (GPT-2's and Qwen's).",
            ELSEWHERE,
        )
    return name


def _regex(step: dict[str, Any]) -> str:
    """Return the one pattern of a pre-tokenizer, or for several steps what they are."""
    steps = [step] if step.get("type") != "Sequence" else step["pretokenizers"]
    found = []
    for part in steps:
        if part.get("type") == "ByteLevel":
            found += [GPT2_REGEX] if part.get("use_regex", True) else []
        elif part.get("type") == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
            pattern = part["pattern"]
            found.append(pattern.get("Regex") or repr(pattern.get("String")))
        else:
            found.append(" ".join(str(part.get(key)) for key in ("type", "behavior", "pattern") if part.get(key)))
    return ", then ".join(found) or "not at all"
