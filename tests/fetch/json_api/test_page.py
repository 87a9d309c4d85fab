from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.json_api import open_json
from gptcli.fetch.json_api import page as json_page
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.web import Web
from tests.fetch.conftest import Page, Site
from tests.fetch.json_reading import plan, read, serve, texts


@pytest.mark.parametrize(
    "bomb", [b"[" * 200_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900, b"[" + b"9" * 5000 + b"]"]
)
def test_nesting_bombs_and_huge_numbers_end_in_a_sentence(site: Site, tmp_path: Path, bomb: bytes) -> None:
    url = serve(site, "/list", bomb)
    with pytest.raises(SourceError):
        read(url, tmp_path / "list")


def test_json_lines_of_arrays_and_objects_are_read_line_by_line(site: Site, tmp_path: Path) -> None:
    lines = (
        b'["WaSP Phase II", "The <b>Web</b> Standards project."]\n\n{"title": "Easy", "text": "It isn&#8217;t."}\r\n'
    )
    site.pages["/input.nl-json"] = Page(lines)
    source, documents = read(f"{site.url}/input.nl-json", tmp_path / "lines")
    assert texts(documents) == ["WaSP Phase II\n\nThe Web Standards project.", "It isn\u2019t."]
    assert ([item.title for item in documents], source.name) == (["WaSP Phase II", "Easy"], "input")


def test_the_plan_of_json_lines_does_not_count_them(site: Site, tmp_path: Path) -> None:
    site.pages["/a.jsonl"] = Page(b'{"text": "a"}\n' * 300)
    found, _ = plan(f"{site.url}/a.jsonl", tmp_path / "lines")
    assert found.steps == (f"read records on 1 page of {site.url}/a.jsonl; their text is the field text",)
    assert (found.requests, found.seconds) == (0, 0.0)


def test_damaged_lines_are_counted_and_the_others_kept(site: Site, tmp_path: Path) -> None:
    site.pages["/a.jsonl"] = Page(b'{"text": "a"}\n{"text": "b\nnull\n' + b"[" * 200_000 + b'\n{"text": "c"}\n{"te')
    source, documents = read(f"{site.url}/a.jsonl", tmp_path / "lines")
    assert texts(documents) == ["a", "c"]
    assert source.dropped == {"lines that are not JSON": 3, "elements that are no records": 1}
    assert source.notes == [f"{site.url}/a.jsonl: line 2 is the first that is not JSON."]


def test_a_file_that_only_claims_to_be_json_lines_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/a.jsonl"] = Page(b"hello\nyou\n")
    with pytest.raises(SourceError, match=r"a\.jsonl should be JSON lines, and line 1 is not JSON\."):
        read(f"{site.url}/a.jsonl", tmp_path / "lines")


def test_a_long_file_of_json_lines_is_never_whole_in_memory(site: Site, tmp_path: Path) -> None:
    line = json.dumps({"id": 1, "text": "word " * 400}).encode() + b"\n"
    site.pages["/a.jsonl"] = Page(line * 8_000)
    options = FetchOptions(delay=0)
    with Web(tmp_path / "lines", "lines", options) as web:
        response = web.get(f"{site.url}/a.jsonl")
        tracemalloc.start()
        try:
            count = sum(1 for _ in open_json(response.url, response, web, options).documents)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (count, response.bytes > 16e6) == (8_000, True)
    assert peak < 6e6


def test_one_piece_of_json_beyond_the_cap_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_page, "MAX_JSON_BYTES", 1000)
    url = serve(site, "/list", [{"body": "x" * 1000}])
    with pytest.raises(SourceError, match=r"is one piece of JSON of 1,014 bytes; at most 1,000 are read at once\."):
        read(url, tmp_path / "list")
    site.pages["/a.jsonl"] = Page(b'{"text": "xxxxxxxxx"}\n' * 100)
    assert len(read(f"{site.url}/a.jsonl", tmp_path / "lines")[1]) == 100


def test_a_line_beyond_the_cap_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_page, "MAX_LINE_CHARS", 1000)
    site.pages["/a.jsonl"] = Page(b'{"text": "a"}\n{"text": "' + b"x" * 2000)
    with pytest.raises(SourceError, match=r"a\.jsonl:2: the line is longer than 1,000 characters\."):
        read(f"{site.url}/a.jsonl", tmp_path / "lines")


@pytest.mark.parametrize("lines", [False, True])
def test_records_that_are_conversations_become_some(site: Site, tmp_path: Path, lines: bool) -> None:
    rows = [{"prompt": f"{n}?", "completion": f"{n}."} for n in range(3)] + [{"prompt": "What?", "completion": ""}]
    value = "".join(json.dumps(row) + "\n" for row in rows).encode() if lines else rows
    url = serve(site, "/chats.jsonl" if lines else "/chats", value)
    source, documents = read(url, tmp_path / "c")
    assert texts(documents) == [f"User: {n}?\nAssistant: {n}." for n in range(3)]
    assert all(item.answers for item in documents)
    assert source.dropped == {"empty answers": 1, "conversations without an answer": 1}
    assert any("read as conversations (prompt and completion)" in note for note in source.notes)
    _, ordinary = read(url, tmp_path / "t", text_fields=("prompt",))
    assert texts(ordinary) == ["0?", "1?", "2?", "What?"]
