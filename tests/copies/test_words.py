"""Words are found as a regular expression finds them, and their hashes are those of the words alone."""

from __future__ import annotations

import random
import re

import pytest

from gptcli.copies.words import CHUNK_CHARS, MAX_WORD_CHARS, find_words


def words_of(text: str) -> list[str]:
    found = find_words(text)
    return [text[start:end] for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)]


def test_english_words_are_those_of_a_regular_expression_and_equal_words_alone_have_equal_hashes(
    prose: list[str],
) -> None:
    text = "\n".join(prose)
    words = words_of(text)
    assert words == re.findall("\\w+(?:['\u2019]\\w+)*", text)
    hashes = find_words(text).hashes.tolist()
    assert len(set(hashes)) == len(set(words)) == len(set(zip(words, hashes, strict=True)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" ' ", []),
        ("'Tis 'quoted', don't l\u2019été", ["Tis", "quoted", "don't", "l\u2019été"]),
        ("snake_case(x1, 2)", ["snake_case", "x1", "2"]),
        ("日本語のテキスト、hello世界", [*"日本語のテキスト", "hello", "世", "界"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("nai\u0308f ❤️ 👍🏽", ["nai\u0308f"]),
        ("می\u200cرسم", ["می\u200cرسم"]),
    ],
)
def test_what_a_word_is_in_other_scripts(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_a_word_has_the_same_hash_wherever_it_stands_and_whatever_else_is_in_the_text(prose: list[str]) -> None:
    text = "\n".join(prose)[: 4 * CHUNK_CHARS]
    plain, beside = find_words(text), find_words("日 " + text + " é")
    assert beside.hashes[1:-1].tolist() == plain.hashes.tolist()
    assert find_words("x " * 40_000 + "needle").hashes[-1] == find_words("needle").hashes[0]


def test_endless_words_are_told_apart_by_their_beginnings() -> None:
    rng = random.Random(5)
    start = "".join(rng.choices("ACGT", k=MAX_WORD_CHARS))
    one, other, third = find_words(f"{start}AC {start}{'GT' * CHUNK_CHARS} A{start}").hashes.tolist()
    assert one == other != third


def test_lone_surrogates_are_no_trouble() -> None:
    assert words_of("a\udc80b") == ["a", "b"]
