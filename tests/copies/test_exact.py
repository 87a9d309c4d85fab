"""Read again, the training text gives what comparing word by word gives."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from gptcli.copies import exact
from gptcli.copies.exact import NGRAMS, Passage, Scan, scan
from gptcli.copies.words import find_words


def scan_texts(texts: list[str], query: str) -> Scan:
    return scan(
        (Passage(text, number, f"title {number}") for number, text in enumerate(texts)), find_words(query).hashes
    )


def longest_by_hand(texts: list[list[str]], query: list[str]) -> int:
    best = 0
    for words in texts:
        for start in range(len(query)):
            for place in range(len(words)):
                size = 0
                while query[start + size : start + size + 1] == words[place + size : place + size + 1] != []:
                    size += 1
                best = max(best, size)
    return best


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("batch_chars", [1, 150, 1 << 20])
def test_longest_run_and_ngrams_are_those_of_comparing_word_by_word(
    seed: int, batch_chars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "BATCH_CHARS", batch_chars)
    rng = random.Random(seed)
    texts = [rng.choices("abc", k=rng.randrange(60)) for _ in range(6)]
    query = rng.choices("abc", k=40)
    found = scan_texts([" ".join(words) for words in texts], " ".join(query))
    assert found.longest is not None
    assert found.longest.words == longest_by_hand(texts, query)
    start, size, number, title, _, place = found.longest
    assert title == f"title {number}"
    there = round(place * len(texts[number]))
    assert texts[number][there : there + size] == query[start : start + size]
    for n in NGRAMS:
        stored = {tuple(words[at : at + n]) for words in texts for at in range(len(words) - n + 1)}
        assert found.seen[n].tolist() == [tuple(query[at : at + n]) in stored for at in range(len(query) - n + 1)]
    assert (found.documents, found.bytes) == (6, sum(len(" ".join(words)) for words in texts))


def test_a_document_in_parts_is_one(monkeypatch: pytest.MonkeyPatch, prose: list[str]) -> None:
    monkeypatch.setattr(exact, "BATCH_CHARS", 50)
    words = prose[0].split()[:100]

    def passages() -> Iterator[Passage]:
        yield Passage("Another text altogether.", 0, "another")
        for start in range(0, 100, 7):
            yield Passage(" ".join(words[start : start + 7]) + " ", 1, "in parts")
        yield Passage("The last one.", 2, "last")

    query = " ".join(words[20:80])
    found = scan(passages(), find_words(query).hashes)
    assert found.longest is not None
    assert found.longest.words == find_words(query).hashes.size
    assert (found.longest.start, found.longest.number, found.longest.title) == (0, 1, "in parts")
    before, whole = (find_words(" ".join(words[:end])).hashes.size for end in (20, 100))
    assert found.longest.place == pytest.approx(before / whole)
    assert found.documents == 3


def test_sequences_made_to_have_equal_sums_are_told_apart() -> None:
    thue, other = "a", "b"
    for _ in range(11):
        thue, other = thue + other, other + thue
    longest, row = 0, np.zeros(len(thue) + 1, np.int64)
    there = np.frombuffer(other.encode(), np.uint8)
    for letter in thue.encode():
        row[1:] = np.where(there == letter, row[:-1] + 1, 0)
        longest = max(longest, int(row.max()))
    assert longest < len(thue)
    found = scan_texts([" ".join(other)], " ".join(thue)).longest
    assert found is not None
    assert found.words == longest
    place = round(found.place * len(other))
    assert thue[found.start : found.start + longest] == other[place : place + longest]


def test_two_documents_are_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scan_texts(["one two three four", "five six seven eight"], "three four five six")
    assert found.longest is not None
    assert found.longest.words == 2
    assert not found.seen[4].any()


@pytest.mark.parametrize("query", ["nothing of this", "word", "One", ""])
def test_words_alone_are_no_run(query: str) -> None:
    assert scan_texts(["one word"], query).longest is None


def test_nothing_to_compare_with_is_no_run() -> None:
    assert scan_texts([], "a b c d e").longest is None
    assert scan_texts(["", "..."], "a b c d e").longest is None
