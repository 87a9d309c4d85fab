"""What goes through a pipe comes out as it was, and half of it is an end."""

from __future__ import annotations

import io
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.chat_template import Message, write_conversation
from gptcli.documents import Document, Span, document
from gptcli.encode_job import Stretch, encode_job
from gptcli.encode_messages import (
    encoded_from,
    error_from,
    error_to,
    read_message,
    stretch_from,
    write_message,
)
from gptcli.errors import TokenizerError
from gptcli.shards import SplitName
from gptcli.split import Before
from gptcli.tokenizer import train_bpe

PLACES = st.integers(0, 2**62)
STRETCHES = st.builds(
    Stretch,
    span=st.builds(Span, PLACES, PLACES, PLACES),
    before=st.builds(Before, st.integers(-1, 2**62), PLACES, PLACES),
    sides=st.binary(max_size=9).map(lambda sides: np.frombuffer(sides, np.uint8)),
    lengths=st.lists(st.tuples(PLACES, PLACES), max_size=3),
)


def through(value: object) -> object:
    pipe = io.BytesIO()
    write_message(pipe, value)
    pipe.seek(0)
    found: object = read_message(pipe)
    return found


@given(STRETCHES)
def test_any_stretch_comes_out_as_it_was(stretch: Stretch) -> None:
    found = through(stretch)
    assert isinstance(found, list)
    other = stretch_from(found)
    assert other.sides.tolist() == stretch.sides.tolist()
    assert other._replace(sides=stretch.sides) == stretch


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_comes_out_as_it_was(text: str) -> None:
    assert through({"text": [text, None, 3]}) == {"text": [text, None, 3]}


def test_tokens_come_out_as_they_were() -> None:
    texts = [topics[name] for name in sorted(topics)[:6]]
    tokenizer = train_bpe(texts, 300)
    conversation = write_conversation([Message("user", "Who?"), Message("assistant", "Me.")])
    talk: list[tuple[SplitName, Document]] = [("train", document(conversation.text, answers=conversation.answers))]
    plain: list[tuple[SplitName, Document]] = [
        ("val" if number == 2 else "train", document(text, title="t")) for number, text in enumerate(texts)
    ]
    for job in (plain, talk):
        expected = encode_job(job, tokenizer, indexed=True)
        sent = through(expected)
        assert isinstance(sent, dict)
        found = encoded_from(sent)
        assert list(found) == list(expected)
        for split, part in expected.items():
            other = found[split]
            assert other.ids.dtype == part.ids.dtype
            assert other[1:6] == part[1:6]
            assert other.lengths == part.lengths
            assert np.array_equal(other.ids, part.ids)
            assert (other.scored is None) == (part.scored is None)
            if other.scored is not None and part.scored is not None:
                assert np.array_equal(other.scored, part.scored)
            assert (other.grams is None) == (part.grams is None)
            if other.grams is not None and part.grams is not None:
                assert [array.tolist() for array in other.grams[:4]] == [array.tolist() for array in part.grams[:4]]
                assert other.grams.titles == part.grams.titles


def test_an_error_comes_out_with_its_kind_and_hint() -> None:
    sent = through(error_to(TokenizerError("no", "type this")))
    assert isinstance(sent, dict)
    found = error_from(sent)
    assert type(found) is TokenizerError
    assert (found.message, found.hint) == ("no", "type this")


def test_half_a_message_is_an_end() -> None:
    pipe = io.BytesIO()
    write_message(pipe, {"a": "x" * 100})
    whole = pipe.getvalue()
    for size in range(len(whole)):
        with pytest.raises(EOFError):
            read_message(io.BytesIO(whole[:size]))
