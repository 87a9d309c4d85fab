from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from gptcli.errors import SourceError
from gptcli.fetch.formats import parquet as module
from gptcli.fetch.formats.input import Input, NoTextError
from gptcli.fetch.options import FetchOptions
from tests.fetch.formats.conftest import Read


def write(path: Path, columns: dict[str, Any], rows_in_group: int = 1000) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=rows_in_group, compression="zstd")
    return path


def test_each_row_is_a_document(tmp_path: Path, read: Read) -> None:
    when = dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)
    columns = {
        "id": [1, 2, 3],
        "text": ["The first.", None, "The <i>third</i> &amp; last."],
        "title": pa.array(["a", "b", "a"]).dictionary_encode(),
        "date": pa.array([when, None, when], pa.timestamp("ns", tz="Europe/Berlin")),
        "image": pa.array([b"\xff" * 100] * 3),
    }
    found = read(write(tmp_path / "a.parquet", columns))
    assert [(item.text, item.title) for item in found.documents] == [("The first.", "a"), ("The third & last.", "a")]
    assert found.documents[0].date.startswith("2020-01-02T03:04:05")
    assert found.dropped == {"rows without text": 1}


def test_many_rows_come_in_order_from_the_needed_columns_alone(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"Sentence number {number} of this set." for number in range(1000)]
    columns = {"text": rows, "meta": [{"source": "x", "raw": b"1"}] * 1000, "notes": ["other words"] * 1000}
    path = write(tmp_path / "a.parquet", columns, 150)
    asked: list[list[str]] = []
    batches = module._batches

    def watched(file: Input, names: list[str]) -> Iterator[list[dict[str, Any]]]:
        asked.append(names)
        return batches(file, names)

    monkeypatch.setattr(module, "_batches", watched)
    assert read(path).texts == rows
    assert asked == [["text", "meta.source", "notes"], ["text"]]


def test_fields_inside_others_and_lists_can_be_the_text(tmp_path: Path, read: Read) -> None:
    columns = {
        "page": [{"title": "One", "content": {"plain": "First.", "pdf": b"%PDF"}}] * 2,
        "turns": [["Hello.", "Hi."], []],
    }
    path = write(tmp_path / "a.parquet", columns)
    assert read(path, options=FetchOptions(text_fields=("page.content.plain",))).texts == ["First.", "First."]
    found = read(path, options=FetchOptions(text_fields=("turns",)))
    assert (found.texts, found.dropped) == (["Hello.\nHi."], {"rows without text": 1})


def test_words_stored_as_bytes_are_words(tmp_path: Path, read: Read) -> None:
    assert read(write(tmp_path / "a.parquet", {"text": [b"One.", b"Two."]})).texts == ["One.", "Two."]


def test_a_file_of_numbers_has_no_text(tmp_path: Path, read: Read) -> None:
    with pytest.raises(NoTextError, match="has no columns that could hold text"):
        read(write(tmp_path / "a.parquet", {"x": [1, 2]}))
    with pytest.raises(SourceError, match="no record has a field 'body'"):
        read(write(tmp_path / "b.parquet", {"text": ["x"]}), options=FetchOptions(text_fields=("body",)))


def test_a_file_without_rows_has_no_documents(tmp_path: Path, read: Read) -> None:
    assert read(write(tmp_path / "a.parquet", {"text": pa.array([], pa.string())})).documents == []


@pytest.mark.parametrize("damage", ["cut", "middle", "other"])
def test_a_damaged_file_gets_its_sentence(tmp_path: Path, read: Read, damage: str) -> None:
    rows = [f"Sentence number {number} of this set." for number in range(500)]
    path = write(tmp_path / "a.parquet", {"text": rows})
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "middle":
        path.write_bytes(data[:100] + b"\0" * 400 + data[500:])
    else:
        path.write_bytes(b"PAR1 but nothing else")
    with pytest.raises(SourceError, match=r"a\.parquet is damaged: "):
        read(path)
