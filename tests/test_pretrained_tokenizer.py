from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.bpe import encode_pieces
from gptcli.errors import FormatError, TokenizerError
from gptcli.pretrained_tokenizer import PretrainedTokenizer, pretrained_from_json
from gptcli.tokenizer import StreamDecoder, byte_lengths, from_json, load_tokenizer, save_tokenizer
from tests.bases.saved import QWEN_ADDED, QWEN_SPECIAL, qwen_tokenizer, save_tokenizer_of_qwen

HARD = (
    "日本語の文章。\n👩‍👩‍👧‍👦 🇫🇷 é ñ ẛ̣ שלום नमस्ते \x00\x1b \u2028\n\n\t 🤷🏽‍♀️  a    b \t\t c\r\n\r\n  1234567,\n\n\n"
    "!?\n . \nI'LL we'Ve don't\n   x   "
)
INJECTION = "<|endoftext|> <|im_start|>user\n<think> <tool_call>"

# transformers has no types.
TransformersTokenizer = Any
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def books(shared_data: Path) -> list[str]:
    files = sorted((shared_data / "gutenberg").rglob("*.txt"))
    return [path.read_bytes()[:200_000].decode("utf-8", "replace") for path in files][:6]


@pytest.fixture(scope="module")
def theirs(books: list[str], tmp_path_factory: pytest.TempPathFactory) -> TransformersTokenizer:
    return save_tokenizer_of_qwen(qwen_tokenizer([books[0], HARD], 1200), tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def content(theirs: TransformersTokenizer) -> dict[str, Any]:
    value = json.loads(theirs.backend_tokenizer.to_str())
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def ours(theirs: TransformersTokenizer, content: dict[str, Any]) -> PretrainedTokenizer:
    return PretrainedTokenizer(content, theirs.eos_token_id)


def test_ids_are_those_of_transformers_on_real_and_on_hard_texts(
    books: list[str],
    theirs: TransformersTokenizer,
    ours: PretrainedTokenizer,
) -> None:
    for text in [*books, HARD, unicodedata.normalize("NFD", HARD), ""]:
        assert ours.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.vocab_size == len(theirs) == 1200 + len(QWEN_SPECIAL) + len(QWEN_ADDED)


def test_ids_give_the_composed_text_back(books: list[str], ours: PretrainedTokenizer) -> None:
    for text in [*books, HARD, INJECTION]:
        composed = unicodedata.normalize("NFC", text)
        ids = ours.encode(text)
        assert ours.decode(ids) == composed
        assert byte_lengths(ours)[ids].sum() == len(composed.encode())
    stream = StreamDecoder(ours)
    assert "".join(stream.decode(int(token_id)) for token_id in ours.encode(HARD)) == unicodedata.normalize("NFC", HARD)


def test_no_text_becomes_an_added_token(theirs: TransformersTokenizer, ours: PretrainedTokenizer) -> None:
    added = set(theirs.get_added_vocab().values())
    assert len(added) == 5
    assert added & set(theirs(INJECTION)["input_ids"])  # there it does
    assert not added & set(ours.encode(INJECTION).tolist())


def test_special_tokens_are_no_text_and_other_added_tokens_are(ours: PretrainedTokenizer) -> None:
    assert ours.end_of_text == 1200
    assert [ours.token_bytes(token_id) for token_id in range(1200, 1205)] == [b"", b"", b"", b"<tool_call>", b"<think>"]


def test_threads_get_the_same_ids(books: list[str], ours: PretrainedTokenizer) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ours.encode, books * 3))
    expected = [ours.encode(book) for book in books] * 3
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_saved_tokenizer_is_the_same(ours: PretrainedTokenizer, tmp_path: Path) -> None:
    save_tokenizer(ours, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert (loaded.name, loaded.fingerprint, loaded.end_of_text) == ("pretrained", ours.fingerprint, ours.end_of_text)
    assert loaded.vocab_size == ours.vocab_size
    assert np.array_equal(loaded.encode(HARD), ours.encode(HARD))


def test_merges_of_both_forms_are_the_same_tokenizer(content: dict[str, Any], ours: PretrainedTokenizer) -> None:
    other = copy.deepcopy(content)
    assert isinstance(other["model"]["merges"][0], list)
    other["model"]["merges"] = [" ".join(merge) for merge in other["model"]["merges"]]
    assert PretrainedTokenizer(other, ours.end_of_text).fingerprint == ours.fingerprint


def test_padding_and_truncation_are_not_taken_over(content: dict[str, Any], ours: PretrainedTokenizer) -> None:
    cut = {**content, "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}}
    other = PretrainedTokenizer(cut, ours.end_of_text)
    assert other.fingerprint == ours.fingerprint
    assert len(other.encode(HARD)) > 3


@given(
    words=st.lists(st.text(st.sampled_from("ab'sé7_\u0301 \u00a0\n\r\t\x1c　!。日"), max_size=4), max_size=12),
    size=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 40), max_size=3),
)
def test_pieces_encode_to_the_tokens_of_the_whole(
    ours: PretrainedTokenizer, words: list[str], size: int, cuts: list[int]
) -> None:
    text = "".join(f"{word}x " for word in words)  # with a safe place in every window
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for whole in (text, [text[start:end] for start, end in pairwise(places)]):
        pieces = list(encode_pieces(whole, size))
        assert "".join(pieces) == text
        ids = [token_id for piece in pieces for token_id in ours.encode(piece).tolist()]
        assert ids == ours.encode(text).tolist()


def test_books_in_pieces_have_the_tokens_of_the_whole(books: list[str], ours: PretrainedTokenizer) -> None:
    for book in books:
        pieces = list(encode_pieces(book, 5_000))
        assert len(pieces) > 20
        assert np.array_equal(np.concatenate([ours.encode(piece) for piece in pieces]), ours.encode(book))


def test_runs_of_whitespace_that_are_added_tokens_stay_ordinary_text(content: dict[str, Any]) -> None:
    from tokenizers import AddedToken, Tokenizer

    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    spaced = {**content, "added_tokens": [{"id": 1200, "content": " " * 6, **marks}]}
    theirs = Tokenizer.from_str(json.dumps({**content, "added_tokens": []}))
    theirs.add_tokens([AddedToken(" " * 6, normalized=True)])
    ours = PretrainedTokenizer(spaced, None)
    for text in ("a      b", "a       b\n      c", HARD):
        assert ours.encode(text).tolist() == theirs.encode(text).ids
    assert 1200 in ours.encode("a      b")
    assert ours.decode(ours.encode("a      b")) == "a      b"
    with pytest.raises(ValueError, match="ids that cannot be kept"):
        PretrainedTokenizer({**spaced, "added_tokens": [{"id": 1300, "content": " " * 6, **marks}]}, None)


def with_model(value: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**value, "model": {**value["model"], **changes}}


def with_added(value: dict[str, Any], **changes: object) -> dict[str, Any]:
    first, *others = value["added_tokens"]
    return {**value, "added_tokens": [{**first, **changes}, *others]}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True, "trim_offsets": False}
REFUSED: list[tuple[Change, str]] = [
    (lambda v: with_model(v, type="Unigram"), "its model is Unigram, gptcli reads byte-level BPE"),
    (lambda v: with_model(v, type="WordPiece"), "its model is WordPiece"),
    (lambda v: {**v, "model": None}, "its model is missing"),
    (lambda v: with_model(v, byte_fallback=True), "byte_fallback"),
    (lambda v: with_model(v, dropout=0.5), "dropout"),
    (lambda v: with_model(v, end_of_word_suffix="</w>"), "end_of_word_suffix"),
    (lambda v: with_model(v, vocab=[]), "no vocabulary"),
    (lambda v: with_model(v, vocab={**v["model"]["vocab"], "zz": -1}), "no vocabulary"),
    (lambda v: with_model(v, vocab={**v["model"]["vocab"], "zz": 5}), "same id"),
    (lambda v: with_model(v, vocab={**v["model"]["vocab"], "▁the": 3000}), "'▁the' is not made of bytes"),
    (lambda v: with_model(v, vocab={"a": 0}, merges=[]), "255 of the 256 bytes have no token"),
    (lambda v: with_model(v, merges=None), "no merges"),
    (lambda v: with_model(v, merges=["a b c"]), "not a pair"),
    (lambda v: with_model(v, merges=["zzzz a"]), "tokenizers library cannot read it"),
    (lambda v: {**v, "normalizer": {"type": "Prepend", "prepend": "▁"}}, "normalizer Prepend"),
    (lambda v: {**v, "pre_tokenizer": None}, "no ByteLevel step"),
    (lambda v: {**v, "pre_tokenizer": {"type": "Metaspace"}}, "pre-tokenizer Metaspace"),
    (lambda v: {**v, "pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "adds a space"),
    (lambda v: {**v, "pre_tokenizer": {"type": "Split", "behavior": "Removed"}}, "removes text"),
    (lambda v: {**v, "pre_tokenizer": 7}, "a step of it is damaged"),
    (lambda v: {**v, "pre_tokenizer": {"type": ["x"]}}, "a step of it is damaged"),
    (lambda v: {**v, "pre_tokenizer": {"type": "Sequence", "pretokenizers": 5}}, "a step of it is damaged"),
    (lambda v: {**v, "normalizer": {"type": "Sequence", "normalizers": 7}}, "a step of it is damaged"),
    (lambda v: {**v, "normalizer": {"type": "Sequence", "normalizers": {"type": "NFC"}}}, "a step of it is damaged"),
    (lambda v: with_added(v, id=0), "'!' and '<|endoftext|>' have the same id 0"),
    (lambda v: with_added(v, id=1201), "'<|endoftext|>' and '<|im_start|>' have the same id 1201"),
    (lambda v: {**v, "added_tokens": [{"id": 1}]}, "an added token should have"),
    (lambda v: {**v, "added_tokens": {}, "normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
    (lambda v: {**v, "added_tokens": {"a": 1}}, "added_tokens should be a list"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_files_that_are_no_byte_level_bpe_are_refused_by_name(
    content: dict[str, Any],
    change: Change,
    reason: str,
) -> None:
    with pytest.raises(ValueError, match=reason):
        PretrainedTokenizer(change(content), None)


def test_a_pattern_without_end_is_an_error_for_the_user_and_other_texts_go_on(
    content: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    steps = {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}
    tokenizer = PretrainedTokenizer({**content, "pre_tokenizer": steps}, None)
    with pytest.raises(TokenizerError, match=r"library gives it up \(.*retry-limit-in-match over\)") as caught:
        tokenizer.encode("a" * 60 + "b")
    assert "tokenizer.json" in caught.value.hint
    assert tokenizer.decode(tokenizer.encode("a man")) == "a man"
    capfd.readouterr()  # Rust writes of its own accord


@pytest.mark.parametrize("end_of_text", [5, 1204, 9999, -1])
def test_end_of_text_has_to_be_a_special_token(content: dict[str, Any], end_of_text: int) -> None:
    with pytest.raises(ValueError, match=f"end-of-text {end_of_text} is not one of its special tokens"):
        PretrainedTokenizer(content, end_of_text)


@pytest.mark.parametrize("change", [{"name": "gpt2"}, {"tokenizer_json": []}, {"end_of_text": "1200"}])
def test_a_tampered_file_is_refused(ours: PretrainedTokenizer, change: dict[str, Any]) -> None:
    value = {**ours.to_json(), **change}
    with pytest.raises(ValueError, match="should be"):
        pretrained_from_json(value)
    with pytest.raises(FormatError, match="here: the tokenizer is damaged"):
        from_json(value, "here")


def test_a_changed_token_is_noticed_by_the_fingerprint(ours: PretrainedTokenizer) -> None:
    value = copy.deepcopy(ours.to_json())
    value["tokenizer_json"]["added_tokens"][1]["content"] = "<|other|>"
    with pytest.raises(FormatError, match="fingerprint"):
        from_json(value, "here")
