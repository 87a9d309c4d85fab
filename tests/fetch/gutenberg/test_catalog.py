from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.gutenberg import catalog as gutenberg_catalog
from gptcli.fetch.gutenberg.catalog import Entry, find_title, read_catalog

COLUMNS = ("Text#", "Type", "Issued", "Title", "Language", "Authors", "Subjects", "LoCC", "Bookshelves")
SHAKESPEARE, CHRISTIE = "Shakespeare, William, 1564-1616", "Christie, Agatha, 1890-1976"
ROWS = (
    (11, "Text", "Alice's Adventures in Wonderland", "en", "Carroll, Lewis, 1832-1898"),
    (46, "Text", "A Christmas Carol in Prose; Being a Ghost Story of Christmas", "en", "Dickens, Charles, 1812-1870"),
    (84, "Text", "Frankenstein; Or, The Modern Prometheus", "en", "Shelley, Mary Wollstonecraft, 1797-1851"),
    (863, "Text", "The Mysterious Affair at Styles", "en", CHRISTIE),
    (1112, "Text", "The Tragedy of Romeo and Juliet", "en", SHAKESPEARE),
    (1513, "Text", "Romeo and Juliet", "en", SHAKESPEARE),
    (2261, "Text", "Romeo and Juliet", "en", SHAKESPEARE),
    (4650, "Text", "Candide,\nou l'optimisme\n", "fr", "Voltaire, 1694-1778"),
    (19942, "Text", "Candide", "en", "Voltaire, 1694-1778; Littell, Philip [Author of introduction]"),
    (20687, "Sound", "Styles Read Aloud", "en", CHRISTIE),
    (61262, "Text", "Poirot Investigates", "en", CHRISTIE),
    (70114, "Text", "Les \u00e9toiles d'or", "fr; en", ""),
)


def catalog(*rows: tuple[object, ...]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for number, kind, title, language, authors in rows:
        writer.writerow((number, kind, "2008-06-25", title, language, authors, "Fiction", "PR", ""))
    return file.getvalue().encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "pg_catalog.csv.gz"
    found.write_bytes(gzip.compress(catalog(*ROWS)))
    return found


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("The Mysterious Affair at Styles", 863),
        ("mysterious affair at STYLES", 863),
        ("alices adventures in wonderland", 11),
        ("Frankenstein", 84),
        ("frankenstein, or the modern prometheus!", 84),
        ("a christmas carol", 46),
        ("candide ou l'optimisme", 4650),
        ("candide", 19942),
        ("etoiles d\u2019or", 70114),
        ("poirot", 61262),
        ("styles christie", 863),
        ("tragedy of romeo", 1112),
    ],
)
def test_a_title_is_found_however_it_is_written(path: Path, words: str, number: int) -> None:
    assert find_title(path, words).number == number


def test_an_uncompressed_catalogue_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(b"\xef\xbb\xbf" + catalog(*ROWS))
    assert find_title(tmp_path / "c.csv", "Poirot Investigates") == Entry(
        61262, "Poirot Investigates", "Agatha Christie", "en"
    )


def test_a_book_whose_number_has_no_end_is_passed_over(tmp_path: Path) -> None:
    content = catalog(*ROWS).decode().replace("61262,", f"{'9' * 5000},")
    (tmp_path / "c.csv").write_text(content, "utf-8")
    assert "61262," not in content
    numbers = {entry.number for entry in read_catalog(tmp_path / "c.csv", "x")}
    assert 863 in numbers
    assert all(number < 10**9 for number in numbers)


def test_titles_and_names_are_made_readable(path: Path) -> None:
    found = {entry.number: entry for entry in read_catalog(path, "x")}
    assert found[4650].title == "Candide,: ou l'optimisme"
    assert found[4650].author == "Voltaire"
    assert found[84].author == "Mary Wollstonecraft Shelley"
    assert found[70114].author == ""
    assert 20687 not in found, "a recording has no text"


def test_several_books_of_a_title_are_listed_with_the_command_for_each(path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        find_title(path, "romeo and juliet")
    assert caught.value.message == (
        "2 books of Project Gutenberg go by 'romeo and juliet':\n"
        "  gptcli fetch gutenberg:1513   Romeo and Juliet, by William Shakespeare\n"
        "  gptcli fetch gutenberg:2261   Romeo and Juliet, by William Shakespeare"
    )
    assert caught.value.hint == "Fetch one by its number, or give more of its title and author."


def test_of_many_books_ten_are_listed(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(
        catalog(*((n, "Text", "Poems", "en", f"Poet{chr(64 + n)}, Jo") for n in range(1, 14)))
    )
    with pytest.raises(SourceError) as caught:
        find_title(tmp_path / "c.csv", "poems")
    assert caught.value.message.count("gptcli fetch") == 10
    assert caught.value.message.endswith("\n  and 3 more")
    assert find_title(tmp_path / "c.csv", "poems poetg").number == 7


def test_a_language_narrows_the_search(path: Path) -> None:
    assert find_title(path, "etoiles d'or", language="fr").number == 70114
    with pytest.raises(SourceError, match=r"no book with the title 'poirot' among those in the language fr"):
        find_title(path, "poirot", language="fr")


@pytest.mark.parametrize("words", ["a book that nobody wrote", "!?"])
def test_no_such_title_says_where_to_search(path: Path, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        find_title(path, words)
    assert "has no book with the title" in caught.value.message
    assert "gptcli fetch gutenberg:1513" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is missing"),
        (b"<html>404</html>", "is missing"),
        (b"id,title\n1,A\n", "is missing"),
        (b"\x1f\x8b" + b"broken" * 9, "or damaged"),
        (gzip.compress(catalog(*ROWS))[:-40], "or damaged"),
        (catalog(*ROWS) + b"\xff\xfe", "or damaged"),
        (catalog(*ROWS) + b'1,Text,,"' + b"x" * 200_000, "or damaged"),
    ],
    ids=["empty", "html", "other columns", "no gzip", "truncated", "no UTF-8", "endless field"],
)
def test_a_broken_catalogue_is_an_error(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(SourceError) as caught:
        find_title(tmp_path / "c", "romeo", label="the catalogue")
    assert caught.value.message.startswith("the catalogue is not the catalogue of Project Gutenberg")
    assert problem in caught.value.message


def test_a_catalogue_that_inflates_without_end_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gutenberg_catalog, "MAX_CHARS", 500)
    with pytest.raises(SourceError, match="larger than 500 characters when it is inflated"):
        find_title(path, "romeo")


def test_short_and_strange_rows_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(
        catalog(*ROWS) + b"\r\n7\r\nnine,Text,,A,en,,,,\r\n,,,,,,,,,,,,\r\n8,Text,,Lear,en\r\n"
    )
    assert find_title(tmp_path / "c", "lear") == Entry(8, "Lear", "", "en")
