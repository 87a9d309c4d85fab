"""Texts to copy from, and indexes of texts, made as prepare makes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from gptcli.copies.index import IndexWriter, NgramIndex, job_grams, parse_ngrams

MakeIndex = Callable[..., NgramIndex]


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """The help topics of this Python, about half a megabyte of English."""
    return sorted({text for _, text in topics.items()})


@pytest.fixture
def make_index(tmp_path: Path) -> MakeIndex:
    """Return a function that makes the index of texts, one document each, and checks its promised size."""

    def make(texts: Sequence[str], titles: Sequence[str] | None = None) -> NgramIndex:
        writer = IndexWriter()
        writer.add(job_grams(zip(texts, titles or [""] * len(texts), strict=True)))
        size = sum(len(text.encode()) for text in texts)
        written = writer.write(tmp_path / "ngrams.bin", size)
        assert written is not None
        assert written.bytes == (tmp_path / "ngrams.bin").stat().st_size < 0.02 * size
        return parse_ngrams((tmp_path / "ngrams.bin").read_bytes(), "ngrams.bin")

    return make


@pytest.fixture
def novel_words() -> Callable[[Sequence[str], int, int], list[str]]:
    """Return a function that draws words of texts at random, so that their order is nobody's."""

    def draw(texts: Sequence[str], count: int, seed: int) -> list[str]:
        return random.Random(seed).choices([word for text in texts for word in text.split()], k=count)

    return draw
