from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.bpe import BpeTokenizer, train_bpe
from gptcli.chat_template import ChatTemplate, Message, write_prompt
from gptcli.errors import ExportError
from gptcli.export.hf_tokenizer import END_OF_TEXT, chat_template_jinja, end_of_text_name, merges_of, tokenizer_json
from gptcli.pretrained_tokenizer import PretrainedTokenizer
from gptcli.tokenizer import Tokenizer, char_tokenizer

KINDS = pytest.mark.parametrize("kind", ["bpe", "gpt2", "char", "char without end"])
SMALL = train_bpe(["the cat sat on the mat, that is that; and the cat's mat was flat. " * 20], 300)
HARD = (
    "naïve café — “quotes”",
    "👍🏽👩‍👩‍👧 漢字とかな \u3000全角",
    "  two\u00a0nbsp \x85 next\r\n\r\n\t\ttabs \n \n  end   ",
    "I'll we've IT'S 12345 ½ Ⅷ ٣",
    "\x00\x1c\u200b\u2028\ufeff\U0010ffff",
)


def load(tokenizer: Tokenizer) -> Any:  # noqa: ANN401 - the library has no types
    return theirs.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))


@KINDS
def test_whole_books_give_the_same_ids_and_come_back(
    kind: str, tokenizers: dict[str, Tokenizer], real_texts: list[str]
) -> None:
    ours = tokenizers[kind]
    found = load(ours)
    for text in real_texts[: 1 if kind == "char without end" else 2]:
        ids = ours.encode(text).tolist()
        assert found.encode(text).ids == ids
        assert found.decode(ids) == text


@pytest.mark.parametrize("text", HARD, ids=ascii)
@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_hard_text_gives_the_same_ids(kind: str, text: str, tokenizers: dict[str, Tokenizer]) -> None:
    ids = tokenizers[kind].encode(text).tolist()
    found = load(tokenizers[kind])
    assert found.encode(text).ids == ids
    assert found.decode(ids) == text


def test_characters_of_the_first_two_planes_count_as_the_same_kind_of_character() -> None:
    found = load(SMALL)
    for start in range(0, 0x20000, 1 << 14):
        points = [point for point in range(start, start + (1 << 14)) if not 0xD800 <= point < 0xE000]
        text = "".join(f"a{chr(point)} {chr(point)}1." for point in points)
        assert found.encode(text).ids == SMALL.encode(text).tolist()


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_the_same_ids(text: str) -> None:
    assert load(SMALL).encode(text).ids == SMALL.encode(text).tolist()


@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_merges_make_the_whole_vocabulary_in_its_order(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size - 1)]
    merges = merges_of(tokenizer)
    assert [left + right for left, right in merges] == [token for token in tokens if len(token) > 1]
    earlier = set(tokens[:256])
    for left, right in merges:
        assert {left, right} <= earlier
        earlier.add(left + right)


def test_text_of_the_special_token_becomes_it_there_and_not_with_us(tokenizers: dict[str, Tokenizer]) -> None:
    for kind in ("bpe", "gpt2"):
        ours, found = tokenizers[kind], load(tokenizers[kind])
        assert ours.end_of_text in found.encode(f"a{END_OF_TEXT}b").ids
        assert ours.end_of_text not in ours.encode(f"a{END_OF_TEXT}b").tolist()
        assert found.decode([ours.end_of_text], skip_special_tokens=True) == ""


def test_character_outside_of_the_alphabet_is_an_error_there_too() -> None:
    tokenizer = char_tokenizer(["abc \n"], end_of_text=False)
    found = load(tokenizer)
    assert found.get_vocab_size() == 5
    assert found.encode("a\n b").ids == tokenizer.encode("a\n b").tolist()
    with pytest.raises(Exception, match="Missing"):
        found.encode("x")
    assert end_of_text_name(tokenizer) is None


def test_token_that_no_merges_give_is_named() -> None:
    tokens = [*(bytes([byte]) for byte in range(256)), b"abc"]
    with pytest.raises(ExportError, match=r"token b'abc' of the tokenizer bpe:258 is not made of two earlier ones"):
        tokenizer_json(BpeTokenizer("bpe:258", tokens))


def test_characters_have_no_merges() -> None:
    with pytest.raises(ExportError, match="has no merges"):
        merges_of(char_tokenizer(["ab"], end_of_text=False))


def test_pretrained_tokenizer_is_handed_through(pretrained: PretrainedTokenizer) -> None:
    found = load(pretrained)
    for text in (*HARD, "the cat 1234\r\n sat"):
        assert found.encode(text).ids == pretrained.encode(text).tolist()
    assert found.token_to_id("<|im_start|>") is not None
    assert end_of_text_name(pretrained) == "<|im_end|>"


def test_merges_of_a_pretrained_tokenizer_are_bytes(pretrained: PretrainedTokenizer) -> None:
    merges = merges_of(pretrained)
    known = {pretrained.token_bytes(token_id) for token_id in range(pretrained.vocab_size)}
    assert (b"t", b"h") in merges
    assert all({left, right, left + right} <= known for left, right in merges)
    assert any(left.startswith(b" ") for left, _ in merges)


def render(template: ChatTemplate, messages: list[Message]) -> str:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    source = chat_template_jinja(template)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    turns = [message._asdict() for message in messages]
    marks = {"eos_token": "<E>", "add_generation_prompt": True}
    return environment.from_string(source).render(messages=turns, **marks)


TEXTS = st.text(st.sampled_from("aB \n\t'\"\\{}%#<|é👍"), max_size=8)


@settings(deadline=None)
@given(
    st.builds(ChatTemplate, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=5),
)
def test_chat_template_writes_what_write_prompt_writes(template: ChatTemplate, messages: list[Message]) -> None:
    assert render(template, messages) == "<E>".join(write_prompt(messages, template))
