"""The ids of words in whole arrays, beside tiktoken's own."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gptcli import bpe, gpt2_words
from gptcli.bpe import BpeTokenizer, train_bpe
from gptcli.vocabulary import VocabularyTokenizer

PARTS = [
    *("'s", "'ll", "'re", "'ve", "'d", "'m", "'t", "'x", "'", "\u2019s", "\u201c", "S's"),
    *(" ", "  ", "     ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u2003", "\u3000", "\x85", "\x1c", "\x0b"),
    *(
        "a",
        "the",
        "The ",
        " dog",
        "é",
        "ß",
        "中文",
        "Ω",
        "ñandú",
        "1",
        "23",
        "²",
        "½",
        "٣",
        "!",
        "...",
        "--",
        "_",
        "😀",
    ),
    *("\u0301", "\u200b", "\ud800", "supercalifragilisticexpialidocious", "=" * 40, "xyzzyqqzzk", "\0"),
]


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    said = "the dog's name isn't known; they'll say 'the dog', 12 of them say it.\n\n" * 9
    # Tokens that end in what is no white space to tiktoken, or in what parts texts here.
    return train_bpe([said, "".join(PARTS), "!\0 [1]\x1c[2]\x1c" * 50], 420)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "CHUNK_CHARS", 150)
    monkeypatch.setattr(gpt2_words, "TABLE_BITS", 10)
    monkeypatch.setattr(gpt2_words, "MAX_KNOWN", 20)


def plain(tokenizer: BpeTokenizer, texts: list[str], parted: list[bool]) -> np.ndarray:
    """What tiktoken gives for each text."""
    return VocabularyTokenizer.encode_texts(tokenizer, texts, parted)


def same(tokenizer: BpeTokenizer, texts: list[str], parted: list[bool]) -> bool:
    """Say whether the ids are tiktoken's own."""
    found, expected = tokenizer.encode_texts(texts, parted), plain(tokenizer, texts, parted)
    return found.dtype == expected.dtype and np.array_equal(found, expected)


def test_random_texts_of_every_kind_of_character_give_tiktokens_own_ids(tokenizer: BpeTokenizer) -> None:
    rng = random.Random(1)
    for number in range(800):
        parts = PARTS if number % 20 == 0 else PARTS[:-1]
        texts = ["".join(rng.choices(parts, k=rng.randint(0, 200))) for _ in range(rng.randint(1, 4))]
        assert same(tokenizer, texts, [rng.random() < 0.5, *[True] * (len(texts) - 1)]), texts


def test_every_assigned_and_unassigned_character_is_what_tiktoken_says(tokenizer: BpeTokenizer) -> None:
    points = [point for point in range(1, 0x3400) if not 0xD800 <= point < 0xE000]
    assert same(tokenizer, ["".join(f"a{chr(point)}1{chr(point)}. {chr(point)}\n" for point in points)], [False])


def test_words_that_share_rows_of_the_table_are_told_apart(tokenizer: BpeTokenizer) -> None:
    rng = random.Random(2)
    words = ["".join(rng.choices("aeiouthdogs", k=rng.randint(1, 9))) for _ in range(5000)]
    for _ in range(2):
        assert same(tokenizer, [" ".join(words)], [False])


def test_a_text_of_long_words_alone_is_left_to_tiktoken(tokenizer: BpeTokenizer) -> None:
    text = "x".join(chr(0x4E00 + number) * 30 for number in range(200))
    assert tokenizer._words.encode(" ".join(text[start : start + 50] for start in range(0, 5000, 50)), None) is None
    assert same(tokenizer, [text, text.replace("x", " ")], [False, True])


def test_a_token_with_a_nul_behind_it_is_another_than_without() -> None:
    tokenizer = train_bpe(["name!\0value!\0 and then! some words.\n" * 300], 300)
    assert any(token.endswith(b"\0") and len(token) > 1 for token in tokenizer._vocabulary.tokens)
    assert same(tokenizer, ["name! and then! some words.\n" * 50], [False])


def test_no_word_is_cut_at_a_control_character_that_is_white_space_to_python_alone() -> None:
    tokenizer = train_bpe(["[1]\x1c[2]\x1c" * 300], 300)
    assert any(b"]\x1c[" in token for token in tokenizer._vocabulary.tokens)
    assert same(tokenizer, ["[1]\x1c[2]\x1c" * 500], [False])


def test_nul_in_a_text_parts_nothing(tokenizer: BpeTokenizer) -> None:
    assert same(tokenizer, ["the dog\0the dog " * 50, "\0", ""], [True, True, True])
