from __future__ import annotations

import pytest

from gptcli.fetch.gutenberg.text import clean_gutenberg
from tests.fetch.gutenberg_samples import HEADER, ebook, etext

TEXT = "\n\n".join(f"{number} Then he went on, and said nothing more of it to anybody." for number in range(40))
WORK = f"THE WORK\n\nCHAPTER I\n\n{TEXT}\n\nTHE END"

CREDITS = {
    "a name": "Produced by Charles Keller",
    "a team": """Produced by David Edwards, Susan Theresa Morin and the
Online Distributed Proofreading Team at http://www.pgdp.net
(This file was produced from images generously made
available by The Internet Archive)""",
    "several paragraphs": """E-text prepared by Steven Gibbs and the Project Gutenberg Online Distributed
Proofreading Team



Note: Project Gutenberg also has an HTML version of this
      file which includes the original illustrations.
      See 40764-h.htm or 40764-h.zip


      Images of the original pages are available through
      Internet Archive. See
      http://archive.org/details/bartycrusoehisma00burn""",
    "the Shakespeare team": """This etext was produced by the PG Shakespeare Team,
a team of about twenty Project Gutenberg volunteers.""",
    "an edition": "Transcribed from the 1894 Cassell & Co. edition by David Price, email\nccx074@example.org",
    "a scanner": "Scanned by Georges Allaire <gall@example.net>\nEtext prepared by Dianne Bean of Phoenix, Arizona.",
    "with a signature": """This text was prepared for Project Gutenberg by Judith Smith and
Natalie Salter.

Judith Smith
judith@example.org""",
    "for HTML": "HTML version by Al Haines.",
    "without a verb": "Sandra Eder and the Online Distributed Proofreading Team\n(http://www.pgdp.net) from images",
    "a field": "Credits: The Online Distributed Proofreading Team",
    "a better edition": """**********************************************************************
THERE IS AN IMPROVED EDITION OF THIS TITLE WHICH MAY BE VIEWED AT
EBOOK (#25344)
**********************************************************************""",
}
NOTES = {
    "in brackets": "[Transcriber's Note: Obvious errors have been corrected\nwithout [sic] note.]",
    "in brackets over paragraphs": "[ Transcriber\u2019s Note:\n\n  The original spelling has been kept.\n\n]",
    "two paragraphs": "Transcriber's Note:\n\n   Minor errors have been corrected.\n\n   Italics are _so_.",
    "a list": "TRANSCRIBER\u2019S NOTES\n\n 1. P. 435, changed one thing.\n 2. Retained another.",
    "a list with gaps": "Transcriber's Note:\n\n  page 3 - changed one thing\n\n\n  page 281 - changed another",
    "in a box": """+------------------------------------------+
| Transcriber's Note:                      |
|                                          |
| Inconsistent hyphenation has been kept.  |
+------------------------------------------+""",
    "under a rule": "__________________\nTranscriber\u2019s Note:\n\nThis book was put on-line.\n__________________",
    "with bullets": " \u25cf Transcriber\u2019s Notes:\n    \u25cb Missing punctuation was corrected.",
    "corrections": "Typographical errors corrected by the etext transcriber:\n\nthe the=>the {pg 3}",
    "German": "Anmerkungen zur Transkription\n\nOffensichtliche Fehler wurden korrigiert.",
    "French": "Note de transcription:\n\nL'orthographe a \u00e9t\u00e9 conserv\u00e9e.",
    "bookmarks": "ETEXT EDITOR'S BOOKMARKS:\n\nAll as fools are who have good memories\nBetter to partake",
}


@pytest.mark.parametrize("credit", CREDITS.values(), ids=CREDITS)
def test_credits_go(credit: str) -> None:
    assert clean_gutenberg(ebook(f"{credit}\n\n\n\n\n{WORK}")).text == WORK
    assert clean_gutenberg(etext(f"{credit}\n\n\n\n\n{WORK}")).text == WORK


@pytest.mark.parametrize("note", NOTES.values(), ids=NOTES)
def test_notes_of_the_transcriber_go_before_and_after_the_work(note: str) -> None:
    assert clean_gutenberg(ebook(f"Produced by A. Volunteer\n\n\n\n\n{note}\n\n\n\n\n{WORK}")).text == WORK
    assert clean_gutenberg(ebook(f"{WORK}\n\n\n\n\n{note}\n\n\n\n\n\nEnd of Project Gutenberg's A Tale")).text == WORK
    assert clean_gutenberg(etext(f"{note}\n\n\n\n\n{WORK}")).text == WORK


def test_a_note_inside_a_sentence_goes_and_the_sentence_stays() -> None:
    noted = WORK.replace("20 Then he", "20 Then [Transcriber's note: so in the original] he")
    assert clean_gutenberg(ebook(noted)).text == WORK


def test_a_note_between_two_stories_takes_neither() -> None:
    two = f"{WORK}\n\n\n\n\n{{}}SECOND STORY\n\n{TEXT}"
    note = "Transcriber's Note: The next story was never printed.\n\n\n\n\n"
    assert clean_gutenberg(ebook(two.format(note))).text.split() == two.format("").split()


def test_a_note_in_the_contents_takes_its_line_only() -> None:
    contents = "CONTENTS\n\nI. The Beginning\n\nTRANSCRIBER'S NOTE\n\n\n\n\n"
    assert clean_gutenberg(ebook(contents + WORK)).text.split() == f"CONTENTS I. The Beginning {WORK}".split()


def test_a_note_ends_where_a_heading_begins() -> None:
    assert clean_gutenberg(ebook(f"Transcriber's note: Page 3 was missing.\n\n{WORK}")).text == WORK


@pytest.mark.parametrize(
    "first",
    [
        "PROJECT GUTENBERG (1971-2008)\n\nBY MARIE LEBERT",
        "THE RAVEN\n\nProduced by the committee, which met and met again",
        "A PLAY\n\nThe Project was his: Gutenberg, he said, by night.",
        "PREFACE\n\nThis translation was prepared from the Greek for the use of schools.",
        "THE SCANNER\n\nThe transcriber of these notes, he said, has been dead for years.",
    ],
)
def test_what_only_looks_like_a_credit_stays(first: str) -> None:
    title = first.partition("\n")[0].title()
    text = ebook(f"{first}\n\n{WORK}").replace(HEADER, HEADER.replace("A Tale of a Tub", title))
    assert clean_gutenberg(text).text == f"{first}\n\n{WORK}"


def test_a_book_that_speaks_of_the_end_of_project_gutenberg_goes_on() -> None:
    quoting = f"PREFACE\n\nEnd of Project Gutenberg's earlier volume, as they say.\n\n{WORK}\n\n{TEXT}\n\n{TEXT}"
    assert clean_gutenberg(ebook(quoting)).text == quoting


@pytest.mark.parametrize(
    "last_line",
    [
        "End of the Project Gutenberg EBook of A Tale of a Tub, by Jonathan Swift",
        "End of Project Gutenberg\u2019s A Tale of a Tub, by Jonathan Swift",
        "The End of the Project Gutenberg eBook of A Tale",
        "Ende dieses Projekt Gutenberg Etextes Faust",
        'Ende dieses Project Gutenberg Etextes "Faust"',
        "Ende dieses Etextes",
        "Fin de Project Gutenberg Etext de Candide",
        "Fin du Projet Gutenberg",
        "Fine del Progetto Gutenberg",
        "Fin del Proyecto Gutenberg",
        "Einde van het Project Gutenberg EBook van Max Havelaar",
        "End of this Etext of A Tale of a Tub",
        "End of this is COPYRIGHTED Project Gutenberg Etext",
        "More information about this book is at the top of this file.",
    ],
)
def test_last_lines_in_several_languages_go(last_line: str) -> None:
    assert clean_gutenberg(ebook(f"{WORK}\n\n\n{last_line}")).text == WORK
    assert clean_gutenberg(etext(f"{WORK}\n\n\n{last_line}\n\nand some address")).text == WORK
