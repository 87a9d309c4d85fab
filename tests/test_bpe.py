from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.bpe import BpeTokenizer, encode_pieces, gpt2_tokenizer, train_bpe
from gptcli.errors import TokenizerError

WORDS = st.text(st.sampled_from("ab'sé7 \u00a0\n\t\x1c　!日"), max_size=40)


@pytest.fixture(scope="module")
def book(shared_data: Path) -> str:
    return (shared_data / "gutenberg" / "863-0.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def trained(book: str) -> BpeTokenizer:
    return train_bpe([book], 512)


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> BpeTokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
        return gpt2_tokenizer()


def test_gpt2_gives_tiktokens_own_ids(
    book: str, shared_data: Path, gpt2: BpeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiktoken

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    expected = tiktoken.get_encoding("gpt2").encode_ordinary(book)
    assert gpt2.encode(book).tolist() == expected
    assert (gpt2.vocab_size, gpt2.end_of_text) == (50257, 50256)


@given(text=st.text())
def test_any_text_survives_gpt2(gpt2: BpeTokenizer, text: str) -> None:
    assert gpt2.decode(gpt2.encode(text)) == text


@given(text=st.text())
def test_any_text_survives_a_trained_vocabulary(trained: BpeTokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text


def test_lone_surrogates_are_read_as_replacement_characters(trained: BpeTokenizer) -> None:
    assert trained.decode(trained.encode("a\ud800")) == "a�"


def test_a_trained_vocabulary_has_the_size_asked_for_and_shortens_its_text(book: str, trained: BpeTokenizer) -> None:
    assert (trained.name, trained.vocab_size, trained.end_of_text) == ("bpe:512", 512, 511)
    assert len(trained.encode(book)) < 0.5 * len(book.encode())


def test_training_is_the_same_however_the_text_arrives(book: str, trained: BpeTokenizer) -> None:
    at = book.index("\n\n", 100_000)
    assert train_bpe(iter([book[:at], "", book[at:]]), 512).fingerprint == trained.fingerprint


def test_merges_are_applied_as_the_library_that_learned_them_does(book: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1023, show_progress=False, initial_alphabet=alphabet, special_tokens=[])
    reference.train_from_iterator([book], trainer)
    assert train_bpe([book], 1024).encode(book).tolist() == reference.encode(book).ids


def test_a_text_too_small_for_its_merges_gives_fewer_ids_and_keeps_the_name() -> None:
    tokenizer = train_bpe(["low lower lowest"], 5000)
    assert tokenizer.name == "bpe:5000"
    assert 257 < tokenizer.vocab_size < 280
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1


def test_the_smallest_vocabulary_is_bytes_and_end_of_text() -> None:
    tokenizer = train_bpe(["abc"], 257)
    assert tokenizer.vocab_size == 257
    assert len(tokenizer.encode("é")) == 2


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="bpe:100 is too small: 256 bytes and end-of-text alone are 257"):
        train_bpe(["abc"], 100)


def test_training_without_text_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_bpe(["", ""], 512)


def test_of_much_text_an_even_sample_is_used() -> None:
    texts = ["alpha " * 20_000, "omega " * 20_000]
    sampled = train_bpe(texts, 300, total_bytes=400_000_000)
    assert {len(sampled.encode(word)) for word in (" alpha", " omega")} == {1}


@pytest.mark.parametrize("run", ["a", " ", "ab", "日", "\n", "!"])
def test_a_megabyte_of_one_thing_does_not_hang(gpt2: BpeTokenizer, trained: BpeTokenizer, run: str) -> None:
    begun = time.monotonic()
    text = run * (1_000_000 // len(run))
    for tokenizer in (gpt2, trained):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.monotonic() - begun < 20


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken.registry

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(TokenizerError) as caught:
        gpt2_tokenizer()
    assert "vocab.bpe and encoder.json" in caught.value.message
    assert all(word in caught.value.hint for word in ("TIKTOKEN_CACHE_DIR", "bpe:1024", "char", str(tmp_path)))


@given(text=WORDS, size=st.integers(1, 6), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_pieces_encode_to_the_tokens_of_the_whole(
    gpt2: BpeTokenizer, trained: BpeTokenizer, text: str, size: int, cuts: list[int]
) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[start:end] for start, end in pairwise(places)]
    pieces = list(encode_pieces(text, size))
    assert "".join(pieces) == text
    assert "".join(encode_pieces(parts, size)) == text
    if max(map(len, pieces), default=0) < 8 * size:
        for tokenizer in (gpt2, trained):
            for cut in (pieces, list(encode_pieces(parts, size))):
                ids = [tokenizer.encode(piece) for piece in cut]
                assert np.array_equal(np.concatenate([tokenizer.encode(""), *ids]), tokenizer.encode(text))


def test_a_book_in_pieces_has_the_tokens_of_the_whole(book: str, gpt2: BpeTokenizer) -> None:
    pieces = list(encode_pieces(book, 10_000))
    assert 30 < len(pieces) < 40
    assert np.array_equal(np.concatenate([gpt2.encode(piece) for piece in pieces]), gpt2.encode(book))


def test_a_run_without_a_place_to_cut_is_cut_anyway() -> None:
    assert [len(piece) for piece in encode_pieces("x" * 100, 5)] == [40, 40, 20]
    assert [len(piece) for piece in encode_pieces(["x" * 7] * 10, 5)] == [40, 30]
