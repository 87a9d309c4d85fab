from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.errors import SourceError
from gptcli.fetch.formats import gzipped
from gptcli.fetch.formats.input import Input, NoTextError
from gptcli.fetch.formats.json_files import _array
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source
from tests.fetch.formats.conftest import Read

POSTS = [
    {"id": 1, "title": "One", "body": "The <b>first</b> text &amp; more."},
    {"id": 2, "title": "Two", "body": "B."},
]


def lines(values: list[object]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines([*POSTS])),
        ("a.ndjson", lines([*POSTS]).replace("\n", "\r\n\r\n")),
        ("input.nl-json", "\ufeff" + lines([*POSTS]).rstrip()),
        ("a.json", lines([*POSTS])),
        ("a.json", json.dumps(POSTS)),
        ("a.json", "\n " + json.dumps(POSTS, indent=2)),
        ("a.json", json.dumps({"ok": True, "rows": POSTS, "next": None}, indent=1)),
        (
            "a.json",
            json.dumps({"count": 2, "columns": ["id", "title", "body"], "rows": [[*p.values()] for p in POSTS]}),
        ),
    ],
)
def test_records_are_found_however_they_are_written(read: Read, name: str, content: str) -> None:
    found = read(name, content)
    assert [(item.title, item.text) for item in found.documents] == [("One", "The first text & more."), ("Two", "B.")]


def test_lines_may_be_texts_or_titles_and_texts(read: Read) -> None:
    content = lines(["Only a text.", ["WaSP Phase II", "The project has <em>launched</em>."], ["a", "b", "c"], None, 3])
    found = read("input.nl-json", content)
    assert found.texts == ["Only a text.", "WaSP Phase II\n\nThe project has launched.", "a\n\nb\n\nc"]
    assert [item.title for item in found.documents] == ["", "WaSP Phase II", ""]
    assert found.dropped == {"rows without text": 2}


def test_a_separator_of_unicode_ends_no_line(read: Read) -> None:
    assert read("a.jsonl", '{"text": "one\u2028two\x85three"}\n').texts == ["one\u2028two\x85three"]


def test_the_first_broken_line_is_named(read: Read) -> None:
    with pytest.raises(SourceError) as caught:
        read("a.jsonl", lines([*POSTS]) + '{"id": 3, "body": "cut o')
    assert caught.value.message == "a.jsonl:3: this line is not JSON (unterminated string starting at)."
    assert "--as json" in caught.value.hint


@pytest.mark.parametrize("deep", ['{"a":' * 100_000, "[" * 100_000])
def test_nesting_beyond_reason_is_an_error_of_ours(read: Read, deep: str) -> None:
    with pytest.raises(SourceError, match="not JSON"):
        read("a.jsonl", deep)
    with pytest.raises(SourceError, match="not JSON"):
        read("a.json", deep)


def test_packed_lines_are_read_and_broken_archives_refused(read: Read) -> None:
    packed = gzip.compress(lines([*POSTS]).encode())
    assert len(read("a.jsonl.gz", packed).documents) == 2
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz is damaged: it cannot be unpacked"):
        read("a.jsonl.gz", packed[:-12])
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz is damaged: it cannot be unpacked"):
        read("a.jsonl.gz", b"not packed at all")


def test_a_gzip_bomb_is_refused_on_the_way(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzipped, "FREE_BYTES", 1 << 20)
    bomb = gzip.compress(b'"' + b" " * 30_000_000)
    with pytest.raises(SourceError, match=r"unpacks to more than 7,[0-9,]+ bytes, which no text does"):
        read("a.jsonl.gz", bomb)


def test_the_list_may_be_pointed_at(read: Read) -> None:
    content = json.dumps({"log": {"entries": POSTS}, "items": [{"text": "not this"}]})
    assert len(read("a.json", content, FetchOptions(items="log.entries")).documents) == 2
    with pytest.raises(SourceError, match=r"a\.json has nothing at 'log\.posts'"):
        read("a.json", content, FetchOptions(items="log.posts"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            '{"name": "gptcli", "version": 1}',
            "a.json is a single JSON object, and a list of records was expected. Its keys",
        ),
        ('[{"x": 1}, {"x": 2}]', "a.json: no field of the records looks like text. The fields are x."),
        ("3", "a.json is a number"),
    ],
)
def test_what_is_no_list_of_records_is_told_with_its_keys(read: Read, content: str, sentence: str) -> None:
    with pytest.raises(NoTextError) as caught:
        read("a.json", content)
    assert caught.value.message.startswith(sentence)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"a": 1', "a.json is not JSON (expecting ',' delimiter)."),
        ('{"items":[{"body":"words', "a.json is not JSON (unterminated string starting at)."),
        ("// comment\n{}", "a.json is not JSON (expecting value)."),
        ("[nothing]", "a.json is not JSON from element 1 of its list on (expecting value)."),
        ('{"a":' * 100_000, "a.json is not JSON ("),
    ],
)
def test_what_does_not_parse_is_damaged_and_no_other_text(read: Read, content: str, sentence: str) -> None:
    with pytest.raises(SourceError) as caught:
        read("a.json", content)
    assert caught.value.message.startswith(sentence)
    assert not isinstance(caught.value, NoTextError)


def test_a_blank_file_has_no_records(read: Read) -> None:
    assert read("a.json", " \n").texts == []


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "README"])
def test_a_file_is_json_where_the_user_says_so(read: Read, name: str) -> None:
    as_json = FetchOptions(as_kind="json")
    assert read(name, json.dumps({"posts": POSTS}, indent=1), as_json).texts == ["The first text & more.", "B."]
    assert read(name, lines([*POSTS]), as_json).texts == ["The first text & more.", "B."]
    with pytest.raises(SourceError, match=r"is not JSON \(expecting value\)"):
        read(name, "Once upon a time.\n", as_json)


def test_a_single_line_of_json_lines_is_a_record_though_json_is_insisted_on(read: Read) -> None:
    assert read("a.jsonl", '{"text": "Alone."}\n', FetchOptions(as_kind="json")).texts == ["Alone."]


def test_a_list_that_breaks_off_late_is_damaged(read: Read) -> None:
    content = json.dumps([{"text": f"Text {number}."} for number in range(500)])
    with pytest.raises(SourceError, match="from element 498 of its list on") as caught:
        read("a.json", content[:-50])
    assert not isinstance(caught.value, NoTextError)


def test_a_text_longer_than_a_part_is_one_document_of_several(read: Read) -> None:
    text = "All work and no play. " * 250_000
    found = read("a.jsonl", lines([{"title": "Long", "text": text}, {"title": "Short", "text": "End."}]))
    assert [(item.title, item.part) for item in found.documents] == [("Long", 0), ("Long", 1), ("Short", 0)]
    assert "".join(found.texts[:2]) == text.strip()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(values=st.lists(json_values, max_size=5), size=st.integers(1, 40), indent=st.sampled_from([None, 1]))
def test_a_list_streams_the_same_however_it_is_cut(values: list[object], size: int, indent: int | None) -> None:
    text = json.dumps(values, indent=indent) + "\n"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    path = Path("a.json")
    file = Input(path, path, path.name, "", "", Source("file", "", ""), FetchOptions())
    assert list(_array(file, pieces)) == values
