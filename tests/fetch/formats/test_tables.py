from __future__ import annotations

import csv
import gzip
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptcli.errors import SourceError
from gptcli.fetch.formats import tables
from gptcli.fetch.formats.input import NoTextError
from gptcli.fetch.formats.tables import Dialect, column_names, sniff
from gptcli.fetch.options import FetchOptions
from tests.fetch.formats.conftest import Read


def test_each_row_is_a_document_with_title_author_and_date(read: Read) -> None:
    found = read(
        "posts.csv",
        "id,title,body,author,date,url\n"
        '1,First,"Hello, world.\n\nA second ""paragraph"".",Ada,2020-01-02,https://example.org/1\n'
        "2,Second,Just one line.,Bob,2021-03-04,\n",
    )
    first, second = found.documents
    assert first.text == 'Hello, world.\n\nA second "paragraph".'
    assert (first.title, first.author, first.date, first.url) == ("First", "Ada", "2020-01-02", "https://example.org/1")
    assert (second.text, second.title) == ("Just one line.", "Second")
    assert found.notes == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "title,text\none,first text\ntwo,second text\n"),
        ("a.csv", "title;text\r\none;first text\r\ntwo;second text\r\n"),
        ("a.csv", "sep=;\ntitle;text\none;first text\ntwo;second text\n"),
        ("a.csv", "title|text\none|first text\ntwo|second text"),
        ("a.csv", "\ufefftitle\ttext\none\tfirst text\n\ntwo\tsecond text\n"),
        ("a.tsv", "title\ttext\none\tfirst text\ntwo\tsecond text\n"),
        ("a.csv", ',title,text\n0,one,"first text"\n1,two,"second text"\n'),
    ],
)
def test_the_dialect_is_found_out(read: Read, name: str, content: str) -> None:
    found = read(name, content)
    assert [(item.title, item.text) for item in found.documents] == [("one", "first text"), ("two", "second text")]


def test_quotes_in_tab_separated_values_may_be_ordinary(read: Read) -> None:
    content = 'title\ttext\none\t"Stop!" he said\ntwo\t"Why?" she asked, "now?"\nthree\t"So it\n'
    assert read("a.tsv", content).texts == ['"Stop!" he said', '"Why?" she asked, "now?"', '"So it']


def test_backslashes_may_escape_quotes(read: Read) -> None:
    content = 'title,text\none,"He said \\"no\\", and left."\ntwo,"Fine, then."\n'
    assert read("a.csv", content).texts == ['He said "no", and left.', "Fine, then."]


def test_lines_of_prose_with_commas_are_one_column(read: Read) -> None:
    lines = ["He came, he saw, he left.", "Nothing, then.", "A line without any.", "One, two, three, four, five."]
    found = read("lines.csv", "\n".join(lines))
    assert found.texts == lines
    assert found.notes == ["lines.csv: no header line was recognised; the column is column1."]


def test_a_column_of_names_has_no_header_unless_it_says_so(read: Read) -> None:
    assert read("names.csv", "Emma\nOlivia\nAva\n").texts == ["Emma", "Olivia", "Ava"]
    assert read("names.csv", "name\nEmma\nOlivia\nAva\n").texts == ["Emma", "Olivia", "Ava"]


def test_rows_without_a_header_have_numbered_columns(read: Read) -> None:
    content = "1,The first sentence of it all.,2020\n2,And here is the second one.,2021\n"
    found = read("a.csv", content)
    assert found.texts == ["The first sentence of it all.", "And here is the second one."]
    assert found.notes == ["a.csv: no header line was recognised; the columns are column1 to column3."]
    assert read("a.csv", content, FetchOptions(text_fields=("column3",))).texts == ["2020", "2021"]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([["text"], ["a"]], ["text"]),
        ([["Quote of the day"], ["x" * 90], ["y" * 80]], ["Quote of the day"]),
        ([["year"], ["1999"], ["2001"]], ["year"]),
        ([["", "a", "b"], ["0", "x", "y"]], ["column1", "a", "b"]),
        ([["speaker", "words"], ["Romeo", "Hi"]], ["speaker", "words"]),
        ([["1", "2"], ["3", "4"]], []),
        ([["a", "a"], ["x", "y"]], []),
        ([["He went home."], ["She stayed."]], []),
        ([["title", "See https://example.org"], ["x", "y"]], []),
        ([["alone"]], []),
        ([], []),
    ],
)
def test_a_header_is_told_from_a_row(rows: list[list[str]], names: list[str]) -> None:
    assert column_names(rows) == names


def test_the_wanted_columns_make_the_text(read: Read) -> None:
    content = "q,a,n\nWho?,Me.,1\nWhat?,That.,2\n"
    assert read("a.csv", content, FetchOptions(text_fields=("q", "a"))).texts == ["Who?\n\nMe.", "What?\n\nThat."]
    with pytest.raises(SourceError, match=r"a\.csv: no record has a field 'answer'\. The fields are q, a, n\."):
        read("a.csv", content, FetchOptions(text_fields=("answer",)))


def test_a_table_of_numbers_has_no_text(read: Read) -> None:
    with pytest.raises(NoTextError, match="The fields are x, y"):
        read("a.csv", "x,y\n1,2\n3,4\n")


def test_rows_without_text_and_rows_that_are_too_long_are_told(read: Read) -> None:
    found = read("a.csv", "title,text\none,first\ntwo,\nthree\nfour,commas, unquoted, here\nfive,last\n")
    assert found.texts == ["first", "commas, unquoted, here", "last"]
    assert found.dropped == {"rows without text": 2}
    assert found.notes == [
        "a.csv: 1 row has more fields than there are columns; the rest of it was taken into the last column."
    ]


def test_a_quote_that_is_never_closed_is_named_by_its_line(read: Read) -> None:
    rows = "".join(f'{number},"The text of row {number}."\n' for number in range(2, 30_000))
    with pytest.raises(SourceError, match=r"a\.csv:20001: the row that begins here cannot be read"):
        read("a.csv", "n,text\n" + rows.replace('row 20001."', "row 20001."))


def test_a_field_beyond_reason_is_refused(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_FIELD_CHARS", 300_000)
    csv.field_size_limit(131_072)
    long = 'n,text\n1,"' + "many words\n" * 30_000 + '"\n'
    with pytest.raises(SourceError, match=r"a\.csv:2: the row that begins here cannot be read \(field larger than"):
        read("a.csv", long)
    with pytest.raises(SourceError, match=r"a\.csv:2: the line is longer than 300,000 characters"):
        read("a.csv", long.replace("\n", " ").replace("text ", "text\n"))


def test_other_encodings_and_packed_files_are_read(read: Read) -> None:
    content = "title,text\neins,Größe und Maß\nzwei,über die Straße\n"
    assert read("a.csv", content.encode("utf-16")).texts == ["Größe und Maß", "über die Straße"]
    latin = read("a.csv.gz", gzip.compress(content.encode("cp1252")))
    assert latin.texts == ["Größe und Maß", "über die Straße"]
    assert latin.notes == ["a.csv.gz is not UTF-8; read as cp1252. Pass --encoding to insist on another."]


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=20)


@example([("0", "\\")], ",")
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_what_python_writes_comes_back(rows: list[tuple[str, str]], delimiter: str) -> None:
    table = [("title", "text"), *rows]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(table)
    found, sample = sniff(text.getvalue(), (",", ";", "\t", "|"), whole=True)
    assert (found, [tuple(row) for row in sample]) == (Dialect(delimiter), table)
