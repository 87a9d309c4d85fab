from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.fetch.gutenberg.header import COPYRIGHTED
from gptcli.fetch.gutenberg.text import clean_gutenberg, is_gutenberg_text
from gptcli.fetch.html import html_to_text
from tests.fetch.gutenberg_samples import (
    END,
    END_OF_SMALL_PRINT,
    FOOTER,
    HEADER,
    NOTICE,
    SMALL_PRINT,
    START,
    ebook,
    etext,
)

# What must not be left in any of the real texts.
LICENCE_WORDS = re.compile(
    r"gutenberg|\be-?text\b|\bebook\b|small print|produced by|licen[sc]e|copyright|donations|\*\*\*|volunteers,? and",
    re.IGNORECASE,
)
# How each real rendering begins and ends, and what stands below its last line.
RENDERINGS = {
    "863-0.txt": (
        "The Mysterious Affair at Styles\n\nby Agatha Christie\n\nContents\n\n\nCHAPTER I. I GO TO STYLES\nCHAPTER II.",
        "who knows? And then\u2014\u2014\u201d\n\n\n\nTHE END",
        "End of Project Gutenberg's",
    ),
    "863.txt": (
        "THE MYSTERIOUS AFFAIR AT STYLES\n\n\nBy Agatha Christie\n\n\n\n\nCONTENTS",
        'And\nthen----"\n\n\nTHE END',
        "End of Project Gutenberg's",
    ),
    "masac10.txt": (
        "THE MYSTERIOUS AFFAIR AT STYLES \nAGATHA CHRISTIE\n\n\n\n\nCONTENTS\n\nI.     I GO TO STYLES",
        'We may hunt together again, who\nknows? And then----"',
        "*The Project Gutenberg Etext of",
    ),
    "1513-0.txt": (
        "THE TRAGEDY OF ROMEO AND JULIET\n\n\n\nby William Shakespeare\n\n\n\n\n\n\nContents\n\nTHE PROLOGUE.",
        "For never was a story of more woe\nThan this of Juliet and her Romeo.\n\n [_Exeunt._]",
        "End of the Project Gutenberg EBook",
    ),
}


@pytest.fixture(scope="session")
def work(shared_data: Path) -> str:
    """Some thousand words that begin with a title and end like a book."""
    text = (shared_data / "tinyshakespeare.txt").read_text("utf-8")
    return f"THE WORK\n\nCHAPTER I\n\n{text[:16_000].strip()}\n\nTHE END"


def rendering(shared_data: Path, name: str) -> str:
    return (shared_data / "gutenberg" / name).read_bytes().decode("utf-8")


def words(text: str) -> list[str]:
    """The words as any rendering has them: without accents and typographic signs, parted by dashes."""
    text = re.sub("['\u2018\u2019]", "", re.sub("[\u2014_-]", " ", text))
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.findall(r"[a-z0-9]+", plain.lower())


@pytest.mark.parametrize("name", RENDERINGS)
def test_of_a_real_rendering_the_work_is_left_and_nothing_else(shared_data: Path, name: str) -> None:
    begins, ends, below = RENDERINGS[name]
    raw = rendering(shared_data, name)
    cleaned = clean_gutenberg(raw)
    assert cleaned.text.startswith(begins)
    assert cleaned.text.endswith(ends)
    assert not LICENCE_WORDS.search(cleaned.text)
    plain = raw.replace("\r\n", "\n")
    assert cleaned.text == plain[plain.index(begins) : plain.rindex(below)].strip()
    assert cleaned.note == ""
    assert cleaned.dropped_lines > 250
    assert is_gutenberg_text(raw[:4096])


def test_two_renderings_of_a_book_give_the_same_words(shared_data: Path) -> None:
    texts = (clean_gutenberg(rendering(shared_data, name)).text for name in ("863-0.txt", "863.txt"))
    modern, plain = (Counter(words(text)) for text in texts)
    different = sum((modern - plain).values()) + sum((plain - modern).values())
    # "practised" and "practiced", "someone" and "some one"; and "CHAPTER" stands in one of the two contents.
    assert different < 0.01 * sum(modern.values())


def test_the_headers_of_the_real_renderings_are_read(shared_data: Path) -> None:
    of_863 = [clean_gutenberg(rendering(shared_data, name)).header for name in ("863-0.txt", "863.txt", "masac10.txt")]
    assert {header.title for header in of_863} == {"The Mysterious Affair at Styles"}
    assert {header.author for header in of_863} == {"Agatha Christie"}
    assert {header.number for header in of_863} == {863}
    assert [header.date for header in of_863] == ["2008-07-27", "2008-07-27", "1997-03"]
    assert [header.language for header in of_863] == ["en", "en", ""]
    play = clean_gutenberg(rendering(shared_data, "1513-0.txt")).header
    assert (play.title, play.author, play.language) == ("Romeo and Juliet", "William Shakespeare", "en")
    assert (play.date, play.number) == ("1998-11", 1513)


def test_a_rendering_in_html_has_the_words_of_the_one_in_text(shared_data: Path) -> None:
    cleaned = clean_gutenberg(html_to_text(rendering(shared_data, "1513-h.htm")))
    assert cleaned.text.startswith("THE TRAGEDY OF ROMEO AND JULIET")
    assert cleaned.text.endswith("[Exeunt.]")
    assert not LICENCE_WORDS.search(cleaned.text)
    text = Counter(words(clean_gutenberg(rendering(shared_data, "1513-0.txt")).text))
    assert sum((text - Counter(words(cleaned.text))).values()) < 0.01 * sum(text.values())
    assert cleaned.header.title == "Romeo and Juliet"


@pytest.mark.parametrize("stars", ["*** {} ***", "***{}***", "*** {}", "  *** {} ***", "** {} **"])
@pytest.mark.parametrize("the", ["THE", "THIS", "THE COPYRIGHTED"])
@pytest.mark.parametrize(
    "what", ["PROJECT GUTENBERG EBOOK X", "PROJECT GUTENBERG ETEXT, X", "Project Gutenberg eBook X"]
)
def test_every_form_of_the_markers_is_known(work: str, stars: str, the: str, what: str) -> None:
    start, end = (stars.format(f"{word} OF {the} {what}") for word in ("START", "END"))
    assert clean_gutenberg(ebook(work, start, end)).text == work


@pytest.mark.parametrize(
    "marker",
    [
        "*** {} OF THIS PROJECT GUTENBERG EBOOK A TALE OF\nA TUB, WRITTEN FOR THE\nUNIVERSAL IMPROVEMENT ***",
        "*** {} OF THE PROJECT\nGUTENBERG EBOOK A TALE ***",
        "*** {} OF THE PROJECT GUTENBERG EBOOK A\nTALE***",
    ],
)
def test_markers_may_be_wrapped_over_lines(work: str, marker: str) -> None:
    assert clean_gutenberg(ebook(work, marker.format("START"), marker.format("END"))).text == work


@pytest.mark.parametrize(
    "end_of_small_print",
    [
        END_OF_SMALL_PRINT,
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.07/27/01*END*",
        "*END THE SMALL PRINT!*END*\n[Portions of this header are copyright by Michael S. Hart\nand these Etexts.]",
        '["Small Print" V.12.08.93]',
    ],
)
@pytest.mark.parametrize(
    "last_line",
    [
        "End of The Project Gutenberg Etext of A Tale of a Tub",
        "End of this Project Gutenberg Etext of A Tale of a Tub,\nby Jonathan Swift",
        "*The Project Gutenberg Etext of A Tale of a Tub*",
        "End of Project Gutenberg Etext of A Tale\nPG has multiple editions of this work",
        "",
    ],
)
def test_an_etext_of_the_nineties_begins_below_its_small_print(
    work: str, end_of_small_print: str, last_line: str
) -> None:
    cleaned = clean_gutenberg(etext(f"{work}\n\n\n\n{last_line}", end_of_small_print))
    assert cleaned.text == work
    assert (cleaned.header.title, cleaned.header.author) == ("A Tale of a Tub", "Jonathan Swift")
    assert (cleaned.header.number, cleaned.header.date) == (4737, "1997-05")


def test_small_print_below_the_work_is_no_beginning(work: str) -> None:
    below = f"{SMALL_PRINT}\n*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n"
    assert clean_gutenberg(f"{HEADER}{START}\n\n{work}\n\n{END}\n\n{below}").text == work
    last_line = "End of the Project Gutenberg Etext of A Tale"
    assert clean_gutenberg(f"{HEADER}\n\n{work}\n\n{last_line}\n\n{below}").text == work


def test_the_etexts_of_one_file_are_all_kept_and_the_licences_between_them_go(work: str) -> None:
    one, two, three = (work.replace("THE WORK", f"WORK {number}") for number in (1, 2, 3))
    text = ebook(f"Produced by A. Volunteer\n\n\n{one}") + ebook(two) + etext(three)
    assert clean_gutenberg(text).text == "\n\n\n\n".join([one, two, three])


def test_the_notices_between_the_plays_of_a_copyrighted_etext_go(work: str) -> None:
    marked = "** This is a COPYRIGHTED Project Gutenberg eBook, Details Below **\n\n"
    small_print = (
        "***** SMALL PRINT! for COMPLETE SHAKESPEARE *****\n\nTHIS ELECTRONIC VERSION ...\n\n"
        '****   SMALL PRINT! FOR __ COMPLETE SHAKESPEARE ****\n["Small Print" V.12.08.93]\n\n'
    )
    text = f"{HEADER}{marked}{START}\n\nProduced by World Library\n\n{NOTICE}\n\n{small_print}{NOTICE}\n\n\n\n\n"
    text += f"1609\n\n{work}\n\n\n\n{NOTICE}\n\n\n\n1603\n\n{work}\n\n\n\n{NOTICE}\n\n\n\nEnd of this Etext\n\n{END}\n"
    cleaned = clean_gutenberg(text)
    assert words(cleaned.text) == words(f"1609 {work} 1603 {work}")
    assert cleaned.header.licence == f"{COPYRIGHTED}: \u00a9 1990-1993 WORLD LIBRARY, INC"


def test_where_most_would_go_all_between_the_outermost_markers_stays_with_a_note(work: str) -> None:
    body = f"A few words.\n\n[Transcriber's Note: {work[:5000]}]"
    cleaned = clean_gutenberg(ebook(body))
    assert cleaned.text == body
    assert "More than half of the text looked like licence" in cleaned.note


def test_a_short_work_is_a_work() -> None:
    cleaned = clean_gutenberg(ebook("Four score and seven years ago."))
    assert (cleaned.text, cleaned.note) == ("Four score and seven years ago.", "")


def test_a_text_without_markers_keeps_all_its_words(work: str) -> None:
    cleaned = clean_gutenberg(f"\ufeff\r\n{work}\r\n".replace("\n", "\r\n"))
    assert cleaned.text == work
    assert cleaned.header.title == ""
    assert not is_gutenberg_text(work)


def test_a_text_is_known_by_its_head() -> None:
    assert is_gutenberg_text(HEADER)
    assert is_gutenberg_text(f"\ufeff{START}\n")
    assert is_gutenberg_text(etext("x"))
    assert is_gutenberg_text("\n\nProject Gutenberg\u2019s Romeo and Juliet, by William Shakespeare\n")
    assert not is_gutenberg_text("Project Gutenberg was founded by Michael Hart.")
    assert not is_gutenberg_text("In 1971 Michael Hart began Project Gutenberg. This eBook is a study of it.")


PARAGRAPHS = st.lists(
    st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyzäéß", min_size=3, max_size=9), min_size=3, max_size=30).map(
        lambda found: f"It {' '.join(found)}."
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(
    paragraphs=PARAGRAPHS,
    gap=st.integers(1, 5),
    newline=st.sampled_from(["\n", "\r\n"]),
    stars=st.sampled_from(["*** {} ***", "***{}***"]),
    credit=st.sampled_from(["", "Produced by A. Volunteer\n\n\n", "E-text prepared by A. Volunteer\n\n\n"]),
)
def test_any_paragraphs_between_markers_come_back_as_they_are(
    paragraphs: list[str], gap: int, newline: str, stars: str, credit: str
) -> None:
    body = ("\n" * (gap + 1)).join(paragraphs)
    start, end = (stars.format(f"{word} OF THE PROJECT GUTENBERG EBOOK X") for word in ("START", "END"))
    text = ebook(f"{credit}{body}\n\nEnd of Project Gutenberg's X", start, end)
    assert clean_gutenberg(text.replace("\n", newline)).text == body


PIECES = st.sampled_from(
    [
        *(START, END, SMALL_PRINT, END_OF_SMALL_PRINT, HEADER, FOOTER, NOTICE, "\n\n\n\n", "]", ">>"),
        *("Transcriber's Note:", "[Transcriber's Note:", "+----------+", "| Transcriber", "Produced by X"),
        *(
            "Title: A",
            "Release Date: May 3, 0000",
            "This is a COPYRIGHTED Project Gutenberg eBook",
            "Copyright 1999 by",
        ),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=40), PIECES), max_size=30))
def test_nothing_breaks_it_and_no_word_is_made_up(lines: list[str]) -> None:
    text = "\n".join(lines)
    cleaned = clean_gutenberg(text)
    is_gutenberg_text(text)
    assert not Counter(cleaned.text.split()) - Counter(text.split())


@pytest.mark.parametrize(
    ("piece", "times"),
    [
        *(("*", 300_000), (" ", 300_000), ("\n", 300_000), ("[", 300_000), ("- - ", 80_000), (".\n\n", 100_000)),
        *(("+----------+\n", 20_000), ("Title: ", 50_000), ("END OF ", 40_000), ("[Transcriber's Note: ", 12_000)),
        *(("Transcriber's Note:\n\n", 1_000), ("<<THIS ELECTRONIC VERSION\n", 10_000), (f"{START}\n", 8_000)),
    ],
)
def test_hostile_texts_take_no_more_time_than_others(piece: str, times: int) -> None:
    assert clean_gutenberg(f"{piece * times}x").text.endswith("x")
