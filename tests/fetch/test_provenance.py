from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

from gptcli.documents import document, document_parts, write_documents
from gptcli.fetch.provenance import Provenance, changes, names_by_id, read_provenance


def lines(file: io.BytesIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_each_document_has_a_line_with_its_digest_and_time() -> None:
    file = io.BytesIO()
    one, two = document("one", title="One", url="https://a.example/1"), document("two")
    provenance = Provenance(file, {one.id: "2026-01-02T03:04:05+00:00"}, "2026-11-20T00:00:00+00:00")
    assert list(provenance.watch([one, two])) == [one, two]
    assert lines(file) == [
        {"format_version": 1},
        {
            "id": one.id,
            "title": "One",
            "url": "https://a.example/1",
            "sha256": hashlib.sha256(b"one").hexdigest(),
            "fetched_at": "2026-01-02T03:04:05+00:00",
        },
        {"id": two.id, "sha256": hashlib.sha256(b"two").hexdigest(), "fetched_at": "2026-11-20T00:00:00+00:00"},
    ]


def test_the_digest_of_a_long_text_is_that_of_all_its_parts() -> None:
    file = io.BytesIO()
    text = "word " * 2_000_000
    list(Provenance(file, {}, "now").watch(document_parts([text])))
    (_, line) = lines(file)
    assert line["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_changes_are_counted_by_name(tmp_path: Path) -> None:
    before = [document("a", url="u/1"), document("b", url="u/2"), document("c", url="u/3"), document("no name")]
    after = [document("a", url="u/1"), document("B", url="u/2"), document("d", url="u/4"), document("other")]
    path = tmp_path / "documents.jsonl"
    with path.open("wb") as file:
        write_documents(file, before)
    found = names_by_id(path)
    assert found is not None
    assert changes(found, {item.id: item.url for item in after}) == {"new": 2, "changed": 1, "gone": 2}


def test_a_damaged_or_missing_file_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "provenance.jsonl"
    assert read_provenance(path) == {}
    path.write_text('{"format_version": 1}\n{"id": "x", "fetched_at": "then"}\n{"id":')
    assert read_provenance(path) == {"x": {"id": "x", "fetched_at": "then"}}
