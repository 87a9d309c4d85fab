"""What goes through a pipe comes out as it was, and half of it is an end."""

from __future__ import annotations

import io
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.encode_job import Piece, encode_job
from gptcli.encode_messages import (
    encoded_from,
    error_from,
    error_to,
    job_from,
    read_message,
    write_message,
)
from gptcli.errors import TokenizerError
from gptcli.tokenizer import train_bpe

PIECES = st.builds(
    Piece,
    split=st.sampled_from(["train", "val"]),
    text=st.text(st.characters(exclude_categories=()), max_size=200),
    separated=st.booleans(),
    scored=st.booleans(),
    ended=st.booleans(),
    conversation=st.none() | st.integers(0, 9),
    title=st.none() | st.text(max_size=90),
)


def through(value: object) -> object:
    pipe = io.BytesIO()
    write_message(pipe, value)
    pipe.seek(0)
    found: object = read_message(pipe)
    return found


@given(st.lists(PIECES, max_size=5))
def test_any_job_comes_out_as_it_was(job: list[Piece]) -> None:
    found = through(job)
    assert isinstance(found, list)
    assert job_from(found) == job


def test_tokens_come_out_as_they_were() -> None:
    texts = [topics[name] for name in sorted(topics)[:6]]
    tokenizer = train_bpe(texts, 300)
    talk = [Piece("train", "Who? ", separated=True, scored=False, conversation=0)]
    talk += [Piece("train", "Me.", separated=False, ended=True, conversation=0)]
    plain = [Piece("val" if number == 2 else "train", text, number > 0, title="t") for number, text in enumerate(texts)]
    for job in (plain, talk):
        expected = encode_job(job, tokenizer, indexed=True)
        sent = through(expected)
        assert isinstance(sent, dict)
        found = encoded_from(sent)
        assert list(found) == list(expected)
        for split, part in expected.items():
            other = found[split]
            assert (other.ids.dtype, other.n_bytes, other.lengths) == (part.ids.dtype, part.n_bytes, part.lengths)
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
