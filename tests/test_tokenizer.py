from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.errors import FormatError, TokenizerError
from gptcli.tokenizer import (
    StreamDecoder,
    Tokenizer,
    byte_lengths,
    char_tokenizer,
    from_json,
    gpt2_tokenizer,
    load_tokenizer,
    parse_name,
    save_tokenizer,
    suggest_tokenizer,
    train_bpe,
)

# CJK, emoji that are several code points, combining characters, right-to-left, and what is no letter at all.
HARD = "日本語の文章。👩‍👩‍👧‍👦 🇫🇷 é ñ ẛ̣ שלום नमस्ते <|endoftext|> \x00\x1b \u2028\n\n\t 🤷🏽‍♀️"
ENGLISH = "It was a dark and stormy night; the rain fell in torrents.\n\n" * 20
NAMES = ["char", "gpt2", "bpe:300"]


@pytest.fixture(scope="module")
def tokenizers(shared_data: Path) -> dict[str, Tokenizer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
        gpt2 = gpt2_tokenizer()
    return {
        "char": char_tokenizer([HARD, ENGLISH], end_of_text=True),
        "gpt2": gpt2,
        "bpe:300": train_bpe([ENGLISH], 300),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_tokenizer_gives_the_text_back(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    for text in (HARD, ENGLISH, ""):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert (str(ids.dtype), ids.ndim) == ("uint16", 1)
    assert tokenizer.name == name


@pytest.mark.parametrize("name", NAMES)
def test_no_text_becomes_end_of_text(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1
    assert tokenizer.end_of_text not in tokenizer.encode(HARD)
    assert tokenizer.decode([*tokenizer.encode("rain"), tokenizer.end_of_text, *tokenizer.encode("fell")]) == "rainfell"
    assert tokenizer.token_bytes(tokenizer.end_of_text) == b""


@pytest.mark.parametrize("name", NAMES)
def test_streaming_never_breaks_a_character(tokenizers: dict[str, Tokenizer], name: str) -> None:
    stream = StreamDecoder(tokenizers[name])
    pieces = [stream.decode(int(token)) for token in tokenizers[name].encode(HARD)]
    assert "".join(pieces) == HARD
    assert stream.flush() == ""
    assert all("�" not in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, 299), max_size=30))
def test_streaming_any_ids_gives_what_decoding_them_gives(tokenizers: dict[str, Tokenizer], ids: list[int]) -> None:
    tokenizer = tokenizers["bpe:300"]
    ids = [token for token in ids if token < tokenizer.vocab_size]
    stream = StreamDecoder(tokenizer)
    assert "".join(stream.decode(token) for token in ids) + stream.flush() == tokenizer.decode(ids)


def test_a_stream_that_ends_inside_a_character_shows_one_replacement(tokenizers: dict[str, Tokenizer]) -> None:
    stream = StreamDecoder(tokenizers["bpe:300"])
    assert [stream.decode(int(token)) for token in tokenizers["bpe:300"].encode("語")[:2]] == ["", ""]
    assert (stream.flush(), stream.flush()) == ("�", "")


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizers: dict[str, Tokenizer], name: str) -> None:
    lengths = byte_lengths(tokenizers[name])
    assert lengths.shape == (tokenizers[name].vocab_size,)
    assert lengths[tokenizers[name].encode(HARD)].sum() == len(HARD.encode())
    assert lengths[-1] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_tokenizer_is_the_same_without_a_network(
    tokenizers: dict[str, Tokenizer], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    path = tmp_path / "tokenizer.json"
    save_tokenizer(tokenizers[name], path)
    loaded = load_tokenizer(path)
    assert (loaded.name, loaded.fingerprint) == (name, tokenizers[name].fingerprint)
    assert (loaded.vocab_size, loaded.end_of_text) == (tokenizers[name].vocab_size, tokenizers[name].end_of_text)
    assert np.array_equal(loaded.encode(HARD), tokenizers[name].encode(HARD))


@pytest.mark.parametrize("name", NAMES)
def test_an_id_outside_of_the_vocabulary_is_an_error_of_ours(tokenizers: dict[str, Tokenizer], name: str) -> None:
    for token in (-1, tokenizers[name].vocab_size):
        with pytest.raises(TokenizerError, match="outside of the vocabulary"):
            tokenizers[name].decode([token])


def test_fingerprints_differ_with_the_vocabulary_but_not_with_the_name() -> None:
    first, second = train_bpe([ENGLISH], 260), train_bpe([ENGLISH], 261)
    assert first.fingerprint != second.fingerprint
    assert train_bpe([ENGLISH], 9_000).fingerprint == train_bpe([ENGLISH], 8_000).fingerprint
    with_end, without = (char_tokenizer(["ab"], end_of_text=wanted) for wanted in (True, False))
    assert with_end.fingerprint != without.fingerprint


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("char", {"characters": "ba"}),
        ("char", {"characters": "abc"}),
        ("char", {"characters": ""}),
        ("char", {"characters": 5}),
        ("char", {"end_of_text": 7}),
        ("char", {"kind": "word"}),
        ("char", {"fingerprint": "0" * 16}),
        ("char", {"format_version": 99}),
        ("bpe:300", {"pattern": "(a+)+$"}),
        ("bpe:300", {"name": "../evil"}),
        ("bpe:300", {"tokens": ["!!"]}),
        ("bpe:300", {"tokens": ["YQ==", "YQ=="]}),
        ("bpe:300", {"tokens": [1, 2]}),
        ("bpe:300", {"tokens": None}),
        ("bpe:300", {"end_of_text": 5}),
        ("bpe:300", {"fingerprint": None}),
    ],
)
def test_a_tampered_file_is_refused(
    tokenizers: dict[str, Tokenizer], tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**tokenizers[name].to_json(), **change}), "utf-8")
    with pytest.raises(FormatError) as caught:
        load_tokenizer(path)
    assert str(path) in caught.value.message


def test_swapped_tokens_are_noticed_by_the_fingerprint(tokenizers: dict[str, Tokenizer]) -> None:
    value = tokenizers["bpe:300"].to_json()
    value["tokens"][260], value["tokens"][261] = value["tokens"][261], value["tokens"][260]
    with pytest.raises(FormatError, match="fingerprint"):
        from_json(value, "here")


def test_tiny_shakespeare_has_nanogpts_65_characters(shared_data: Path) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_text("utf-8")
    tokenizer = char_tokenizer([text[:500_000], text[500_000:]], end_of_text=False)
    table = {character: place for place, character in enumerate(sorted(set(text)))}
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (65, None)
    assert tokenizer.encode(text[:5000]).tolist() == [table[character] for character in text[:5000]]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(min_size=1), st.data())
def test_any_text_over_the_alphabet_survives_char(alphabet: str, data: st.DataObject) -> None:
    tokenizer = char_tokenizer([alphabet], end_of_text=False)
    text = data.draw(st.text(st.sampled_from(alphabet)))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_more_than_65536_characters_need_uint32() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x12000)]))
    tokenizer = char_tokenizer([every], end_of_text=False)
    assert tokenizer.vocab_size > 1 << 16
    assert tokenizer.encode(every).dtype == np.uint32
    assert tokenizer.decode(tokenizer.encode(every[-9:])) == every[-9:]


def test_unknown_characters_are_shown_and_another_tokenizer_offered() -> None:
    with pytest.raises(TokenizerError) as caught:
        char_tokenizer(["abc"], end_of_text=False).encode("ab\x1bé\x1b😀" + "ABCDEFGHIJ")
    assert r"others: '\x1b', 'é', '😀', 'A', 'B', 'C', 'D', 'E', 'F', 'G' and 3 more." in caught.value.message
    assert "--tokenizer bpe:512" in caught.value.hint


def test_no_characters_are_an_error() -> None:
    with pytest.raises(TokenizerError, match="no text"):
        char_tokenizer([""], end_of_text=True)


@pytest.mark.parametrize(
    ("name", "parsed"), [("auto", ("auto", None)), ("char", ("char", None)), ("bpe:512", ("bpe", 512))]
)
def test_names_are_parsed(name: str, parsed: tuple[str, int | None]) -> None:
    assert parse_name(name) == parsed


@pytest.mark.parametrize("name", ["", "bpe", "bpe:", "bpe:0512", "bpe:-5", "bpe:1e3", "GPT2", "word", "bpe:100"])
def test_wrong_names_are_refused_with_a_right_one(name: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        parse_name(name)
    assert "bpe:512" in caught.value.hint


@pytest.mark.parametrize(
    ("n_bytes", "name"),
    [(10_000, "char"), (333_000, "bpe:512"), (1_115_394, "bpe:1024"), (10**7, "bpe:2048"), (10**10, "bpe:8192")],
)
def test_the_suggestion_follows_the_size_and_says_why(n_bytes: int, name: str) -> None:
    suggestion, why = suggest_tokenizer(n_bytes)
    assert suggestion == name
    assert "of text" in why
