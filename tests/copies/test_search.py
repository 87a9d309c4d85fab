"""The index alone finds what is copied and where, and finds nothing in what is not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from gptcli.copies import search
from gptcli.copies.index import NgramIndex
from gptcli.copies.search import Run, find_runs, shortest_run
from gptcli.copies.words import find_words

MakeIndex = Callable[..., NgramIndex]
Draw = Callable[[Sequence[str], int, int], list[str]]


def cut_words(text: str, start: int, count: int) -> str:
    words = find_words(text)
    return text[int(words.starts[start]) : int(words.ends[start + count - 1])]


def count_words(text: str) -> int:
    return find_words(text).hashes.size


def longest(runs: list[Run]) -> Run:
    return max(runs, key=lambda run: run.end - run.start)


@pytest.mark.parametrize("seed", range(12))
def test_a_planted_copy_of_40_words_is_found_with_its_place(
    seed: int, prose: list[str], make_index: MakeIndex, novel_words: Draw
) -> None:
    index = make_index(prose)
    rng = random.Random(seed)
    source = rng.choice([text for text in prose if count_words(text) > 200])
    copied = cut_words(source, rng.randrange(count_words(source) - 40), 40)
    novel = novel_words(prose, 260, seed)
    at = rng.randrange(len(novel))
    before = count_words(" ".join(novel[:at]))
    text = f"{' '.join(novel[:at])} {copied}, {' '.join(novel[at:])}"
    run = longest(find_runs(index, find_words(text).hashes))
    there = run.place + before - run.start
    everything = np.concatenate([find_words(other).hashes for other in prose])
    assert everything[there : there + 40].tolist() == find_words(copied).hashes.tolist()
    assert before - 8 <= run.start <= before + 1, "but for words that are alike by chance"
    assert before + 39 <= run.end <= before + 48


def test_a_copy_in_a_book_is_found_and_another_book_copies_nothing(shared_data: Path, make_index: MakeIndex) -> None:
    plays = (shared_data / "tinyshakespeare.txt").read_text("utf-8")
    index = make_index([plays])
    novel = (shared_data / "gutenberg" / "863-0.txt").read_text("utf-8")[20_000:24_000]
    assert shortest_run(index, count_words(novel)) <= 42
    assert find_runs(index, find_words(novel).hashes) == []
    for start in range(1000, 200_000, 20_000):
        copied = cut_words(plays, start, 45)
        run = longest(find_runs(index, find_words(f"{novel} {copied} {novel}").hashes))
        assert start - 10 <= run.place <= start + 1
        assert 44 <= run.end - run.start <= 60


def test_words_at_random_copy_nothing(prose: list[str], make_index: MakeIndex, novel_words: Draw) -> None:
    index = make_index(prose)
    texts = [" ".join(novel_words(prose, 300, seed)) for seed in range(100, 140)]
    found = [text for text in texts if find_runs(index, find_words(text).hashes)]
    assert len(found) <= 2, "one in a hundred is what chance is allowed"


def test_a_run_of_the_shortest_length_is_always_found(
    prose: list[str], make_index: MakeIndex, novel_words: Draw
) -> None:
    index = make_index([" ".join(novel_words(prose, 60_000, 1))])
    text = " ".join(novel_words(prose, 60_000, 1))
    for start in range(0, 5000, 91):
        novel = " ".join(novel_words(prose, 60, start + 2))
        size = count_words(novel) * 2 + 60
        copied = cut_words(text, start, shortest_run(index, size))
        runs = find_runs(index, find_words(f"{novel} {copied} {novel}").hashes)
        assert any(run.place <= start + 1 <= run.place + run.end - run.start for run in runs), start


def test_a_copy_never_goes_from_one_document_into_the_next(
    prose: list[str], make_index: MakeIndex, novel_words: Draw
) -> None:
    texts = [" ".join(novel_words(prose, 500, seed)) for seed in range(20)]
    index = make_index(texts)
    border = int(index.ends[3])
    joined = find_words(cut_words(texts[3], count_words(texts[3]) - 60, 60) + "\n" + cut_words(texts[4], 0, 80))
    one, two = sorted(find_runs(index, joined.hashes))
    assert one.place + one.end - one.start == border == two.place
    assert (one.start, one.end, two.start, two.end) == (0, 60, 60, 140)


def test_a_changed_word_parts_two_copies(prose: list[str], make_index: MakeIndex) -> None:
    index = make_index(prose)
    text = max(prose, key=len)
    parted = 0
    for start in range(1000, 3000, 200):
        one, two = cut_words(text, start, 60), cut_words(text, start + 61, 60)
        run = longest(find_runs(index, find_words(f"{one} Xylophone{start} {two}").hashes))
        parted += run.end - run.start < 75
    assert parted >= 6, "three words of bits miss a change in about one of eight places"


def test_a_loop_is_no_copy_of_other_loops(make_index: MakeIndex) -> None:
    loops = [" ".join([word] * 60) for word in map(str, range(2000))]
    index = make_index(loops)
    assert find_runs(index, find_words("again " * 300).hashes) == []


def test_what_stands_in_every_document_is_found_in_one_of_them_quickly(
    prose: list[str], make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_PLACES", 10)
    licence = cut_words(max(prose, key=len), 100, 80)
    index = make_index([f"{text[:400]} {licence}" for text in prose for _ in range(5)])
    runs = find_runs(index, find_words(f"{prose[0][-300:]} {licence}").hashes)
    assert 78 <= longest(runs).end - longest(runs).start <= 96
    assert len(runs) <= 11


def test_a_text_longer_than_a_slice_and_a_stream_longer_than_a_chunk_are_searched_whole(
    prose: list[str], make_index: MakeIndex, novel_words: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(prose)
    copied = cut_words(max(prose, key=len), 500, 60)
    text = " ".join([*novel_words(prose, 700, 1), copied, *novel_words(prose, 700, 2)])
    expected = find_runs(index, find_words(text).hashes)
    monkeypatch.setattr(search, "SLICE_WORDS", 64)
    monkeypatch.setattr(search, "CHUNK_BYTES", 100)
    assert longest(expected).end - longest(expected).start >= 59
    assert find_runs(index, find_words(text).hashes) == expected
    monkeypatch.setattr(search, "SEGMENT_WORDS", 300)
    monkeypatch.setattr(search, "OVERLAP_WORDS", 100)
    again = find_runs(index, find_words(text).hashes)
    assert set(expected) <= set(again), "where segments overlap, runs are found twice"


@pytest.mark.parametrize("text", ["", "one", "no more than five words"])
def test_next_to_no_words_copy_nothing(text: str, prose: list[str], make_index: MakeIndex) -> None:
    assert find_runs(make_index(prose), find_words(text).hashes) == []


def test_chinese_characters_are_words(make_index: MakeIndex) -> None:
    rng = random.Random(4)
    weights = 1 / (np.arange(3000) + 10)
    text = "".join(rng.choices([chr(0x4E00 + rank) for rank in range(3000)], weights.tolist(), k=200_000))
    index = make_index([text[start : start + 2000] for start in range(0, len(text), 2000)])
    novel = "".join(rng.sample(text, 200))
    length = shortest_run(index, 500)
    assert find_runs(index, find_words(novel).hashes) == []
    run = longest(find_runs(index, find_words(novel + text[70_500 : 70_500 + length + 4] + novel).hashes))
    assert 70_496 <= run.place <= 70_502
