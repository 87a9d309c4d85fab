from __future__ import annotations

import pytest

from gptcli.errors import SourceError
from tests.fetch.formats.conftest import Read

SRT = """\ufeff1
00:00:01,000 --> 00:00:03,500
{\\an8}<i>It was a dark</i>
and stormy night.

2
00:00:03,600 --> 00:00:05,000
<font color="#ffff00">The rain fell &amp; fell.</font>

3
00:00:09,000 --> 00:00:10,000
- Who is there?
- Nobody.

4
00:00:10,100 --> 00:00:11,000
42

5
00:00:11,100 --> 00:00:12,000
That is -5 degrees

below zero.
"""


def test_subrip_becomes_paragraphs_of_speech(read: Read) -> None:
    (item,) = read("film.srt", SRT.replace("\n", "\r\n")).documents
    assert item.title == "film"
    assert item.text.split("\n\n") == [
        "It was a dark and stormy night. The rain fell & fell.",
        "Who is there?",
        "Nobody. 42 That is -5 degrees below zero.",
    ]


def test_webvtt_loses_its_notes_styles_and_tags(read: Read) -> None:
    content = """WEBVTT - A talk
Kind: captions

NOTE
00:00 is when it begins

STYLE
::cue { color: papayawhip; }

intro
00:01.000 --> 00:02.000 align:start position:0%
<v Ada>Good <c.loud>morning</c>, <00:01.500>everyone.

00:02.100 --> 00:03.000
<v Ada>Sit down.</v>

00:03.100 --> 00:04.000
<v Bob>Thank&nbsp;you &lt;all&gt;.

100:00:00.000 --> 100:00:01.000
>> Much later.
"""
    (text,) = read("talk.vtt", content).texts
    assert text.split("\n\n") == ["Good morning, everyone. Sit down.", "Thank you <all>.", "Much later."]


def test_rolling_captions_say_everything_once(read: Read) -> None:
    content = """WEBVTT

00:00:00.000 --> 00:00:02.000
~
so<00:00:00.500><c> today</c><00:00:01.000><c> we</c>

00:00:02.000 --> 00:00:02.010
so today we
~

00:00:02.010 --> 00:00:04.000
so today we
look<00:00:02.500><c> at</c><00:00:03.000><c> cats</c>

00:00:04.000 --> 00:00:04.010
look at cats
~

00:00:04.010 --> 00:00:06.000
look at cats
and dogs
"""
    assert read("a.vtt", content.replace("~", " ")).texts == ["so today we look at cats and dogs"]


def test_captions_that_grow_word_by_word_say_everything_once(read: Read) -> None:
    times = ["00:00:01,000 --> 00:00:02,000", "00:00:02,000 --> 00:00:03,000", "00:00:03,000 --> 00:00:04,000"]
    said = ["I", "I am", "I am here now"]
    content = "\n\n".join(f"{n}\n{time}\n{text}" for n, (time, text) in enumerate(zip(times, said, strict=True), 1))
    assert read("a.srt", content).texts == ["I am here now"]


def test_what_is_said_twice_stays_twice(read: Read) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nNo.\n\n2\n00:00:02,100 --> 00:00:03,000\nNo.\n"
    assert read("a.srt", content).texts == ["No. No."]


def test_a_missing_blank_line_and_a_missing_number_do_no_harm(read: Read) -> None:
    content = (
        "1\n0:00:01.000 --> 0:00:02.000\nOne.\n2\n00:00:02,500 -->00:00:03,000\nTwo.\n\n00:00:03,5 --> 00:00:04\nx"
    )
    assert read("a.srt", content).texts == ["One. Two. 00:00:03,5 --> 00:00:04 x"]


def test_another_encoding_is_found_out(read: Read) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nSchöne Grüße!\n"
    assert read("a.srt", content.encode("cp1252")).texts == ["Schöne Grüße!"]


def test_a_file_without_times_is_no_subtitle(read: Read) -> None:
    with pytest.raises(SourceError, match=r"a\.srt has no subtitles: a line like 00:01:02,000"):
        read("a.srt", "Just some text.\n\nAnd more.")
