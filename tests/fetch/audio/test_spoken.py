from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.fetch.audio.spoken import (
    NO_SPEECH,
    REPEATED,
    REPETITIVE,
    WELL_KNOWN,
    doubtful,
    drop_sentences,
    join_paragraphs,
    paragraphs,
    split_sentences,
)
from gptcli.fetch.audio.transcripts import Segment


def said(
    text: str,
    start: float = 0.0,
    end: float = 0.0,
    *,
    logprob: float = -0.2,
    no_speech: float = 0.01,
    ratio: float = 1.4,
) -> Segment:
    return Segment(start, end or start + 1.0, text, logprob, no_speech, ratio)


@pytest.mark.parametrize(
    ("segment", "why"),
    [
        (said(" It was dark."), None),
        (said(" It was dark.", no_speech=0.7), None),  # Whisper hears words it is sure of
        (said(" It was dark.", logprob=-1.2), None),  # mumbled, but spoken
        (said(" It was dark.", no_speech=0.7, logprob=-1.2), NO_SPEECH),
        (said(" and the and the and the", ratio=2.5), REPETITIVE),
        (said(" यह एक लंबी कहानी है", ratio=2.5), None),  # three bytes a letter compress well in any text
        (said(" Thank you."), None),
        (said(" Thank you.", no_speech=0.4), WELL_KNOWN),
        (said(" Thanks for watching!", logprob=-0.7), WELL_KNOWN),
        (said(" Untertitel der Amara.org-Community", no_speech=0.9), WELL_KNOWN),
        (said(" ご視聴ありがとうございました。", no_speech=0.9), WELL_KNOWN),
    ],
)
def test_a_segment_is_doubted_only_for_a_reason(segment: Segment, why: str | None) -> None:
    believed, doubts = doubtful([segment])
    assert [doubt.why for doubt in doubts] == ([] if why is None else [why])
    assert [*believed, *(doubt.segment for doubt in doubts)] == [segment]


def test_a_loop_is_said_once_and_emphasis_twice() -> None:
    texts = [" No!", " No!", " No!", " He went to the door.", " He went to the door.", " he went to the door", " No!"]
    believed, doubts = doubtful([said(text, start=number) for number, text in enumerate(texts)])
    assert [segment.text for segment in believed] == [" No!", " No!", " He went to the door.", " No!"]
    assert {doubt.why for doubt in doubts} == {REPEATED}
    assert [doubt.segment.start for doubt in doubts] == [2, 4, 5]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Chapter one. It was dark.", ["Chapter one.", " It was dark."]),
        ("Mr. Prosser met Dr. Watson at St. Mary's. Why?", ["Mr. Prosser met Dr. Watson at St. Mary's.", " Why?"]),
        ("Arthur C. Clarke wrote. He did.", ["Arthur C. Clarke wrote.", " He did."]),
        ("Chapter I. The end.", ["Chapter I.", " The end."]),
        ('"Stop!" said Ford. "Why?" He ran.', ['"Stop!" said Ford.', ' "Why?"', " He ran."]),
        ("It cost 3.14 dollars, i.e. nothing... nearly.", ["It cost 3.14 dollars, i.e. nothing... nearly."]),
        ("第一章。天黑了。「走。」他说。", ["第一章。", "天黑了。", "「走。」", "他说。"]),
        ("no end", ["no end"]),
        ("  ", []),
    ],
)
def test_sentences_are_cut_where_they_end(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text(alphabet='aB .!?。」\n…I"', max_size=40))
def test_cutting_sentences_loses_nothing(text: str) -> None:
    assert "".join(split_sentences(text)).split() == text.split()
    assert all(sentence.strip() for sentence in split_sentences(text))


def test_a_pause_begins_a_paragraph() -> None:
    segments = [said(" It was", 0, 1), said(" dark.", 1, 2), said(" It rained.", 4, 5), said(" A new day.", 7.01, 9)]
    assert paragraphs(segments) == [[" It was dark.", " It rained."], [" A new day."]]
    assert join_paragraphs(paragraphs(segments)) == "It was dark. It rained.\n\nA new day."


def test_a_title_without_a_full_stop_is_a_sentence_when_a_pause_and_a_capital_follow() -> None:
    assert paragraphs([said(" Chapter one", 0, 1), said(" It was dark.", 2, 3)]) == [[" Chapter one", " It was dark."]]
    assert paragraphs([said(" He said", 0, 1), said(" it was dark.", 2, 3)]) == [[" He said it was dark."]]
    assert paragraphs([said(" He met", 0, 1), said(" Arthur.", 1.2, 3)]) == [[" He met Arthur."]]


def test_languages_without_spaces_get_none() -> None:
    assert join_paragraphs(paragraphs([said("第一章。", 0, 1), said("天黑了。", 1, 2)])) == "第一章。天黑了。"


def test_only_the_sentence_that_was_asked_for_is_dropped() -> None:
    blocks = paragraphs(
        [said(" Chapter one. It was dark. In Chapter two it is not.", 0, 3), said(" Chapter two.", 9, 10)]
    )
    kept, dropped = drop_sentences(blocks, "^Chapter")
    assert dropped == ["Chapter one.", "Chapter two."]
    assert join_paragraphs(kept) == "It was dark. In Chapter two it is not."
