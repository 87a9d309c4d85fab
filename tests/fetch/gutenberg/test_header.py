from __future__ import annotations

import pytest

from gptcli.fetch.gutenberg.header import COPYRIGHTED, PUBLIC_DOMAIN, Header, read_header

COPYRIGHT = "This is a COPYRIGHTED Project Gutenberg eBook, Details Below\n\n"


@pytest.mark.parametrize(
    ("header", "title", "author"),
    [
        ("Title: A Tale\n       or Two\n\nAuthor: A. B.\n", "A Tale or Two", "A. B."),
        ("Title: A Tale\n       In Parts\n\nAuthors: A. B.\n         C. D.\n", "A Tale: In Parts", "A. B.; C. D."),
        ("Title: A\n\nAuthor: One\n\nAuthor: Two\n\nTranslator: Three\n", "A", "One; Two"),
        ("Project Gutenberg Etext of Titus Andronicus by Shakespeare\n", "Titus Andronicus", "Shakespeare"),
        ("**The Project Gutenberg Etext of Purgatory, by Dante**\n", "Purgatory", "Dante"),
        ("*The Project Gutenberg Etext of Faust*\nby Goethe\n\nCopyright laws\n", "Faust", "Goethe"),
        ("Project Gutenberg's Alice in Wonderland, by Lewis Carroll\n", "Alice in Wonderland", "Lewis Carroll"),
        ("*Project Gutenberg is proud to cooperate with The World Library*\n", "", ""),
        ("", "", ""),
    ],
)
def test_title_and_author_are_found(header: str, title: str, author: str) -> None:
    found = read_header(header)
    assert (found.title, found.author) == (title, author)


@pytest.mark.parametrize(
    ("lines", "date"),
    [
        ("Release Date: July 27, 2008 [EBook #863]", "2008-07-27"),
        ("Release date: November 17, 2023 [eBook #863]\n             Most recently updated: May 1, 2024", "2023-11-17"),
        ("Posting Date: 8, 2009\nRelease Date: July, 1998  [Etext #863]", "1998-07"),
        ("March, 1997  [Etext #863]", "1997-03"),
        ("Release Date: February 30, 2008 [EBook #863]", ""),
        ("Release Date: soon [EBook #863]", ""),
    ],
)
def test_the_release_date_is_as_precise_as_it_is_given(lines: str, date: str) -> None:
    header = read_header(f"Title: A\n\n{lines}\n")
    assert (header.date, header.number) == (date, 863)


@pytest.mark.parametrize(
    ("language", "code"),
    [("English", "en"), ("French", "fr"), ("Ancient Greek", "grc"), ("German, English", "de"), ("Klingon", "")],
)
def test_languages_become_codes(language: str, code: str) -> None:
    assert read_header(f"Language: {language}\n").language == code


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("Title: A", PUBLIC_DOMAIN),
        (COPYRIGHT, COPYRIGHTED),
        (f"{COPYRIGHT}Copyright (C) 1999 Jane Roe.", f"{COPYRIGHTED}: \u00a9 1999 Jane Roe"),
        (f"{COPYRIGHT}https://creativecommons.org/licenses/by-sa/3.0/", "CC-BY-SA-3.0"),
    ],
)
def test_the_licence_is_what_the_header_says(text: str, licence: str) -> None:
    assert read_header(text, text).licence == licence


def test_nothing_is_made_up_for_a_header_that_says_nothing() -> None:
    assert read_header("Once upon a time") == Header()
