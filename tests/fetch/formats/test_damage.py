"""Whatever happens to the bytes of a file, it ends in documents or in a sentence, never in a traceback."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from gptcli.errors import SourceError
from tests.fetch.formats.conftest import Read
from tests.fetch.formats.test_epub import book, page, write
from tests.fetch.formats.test_pdf import PAGES, pdf
from tests.fetch.formats.test_subtitles import SRT

LINES = b'{"text": "abc", "n": [1, 2]}\n["title", "body"]\n"text"\n' * 3
ROUNDS = 40


def whole(folder: Path, suffix: str) -> bytes:
    """Return an undamaged file of this kind."""
    if suffix == ".epub":
        return write(folder / "whole", book({"a.xhtml": page("<p>Hello</p>" * 20)})).read_bytes()
    if suffix == ".parquet":
        parquet.write_table(pa.table({"text": ["One.", "Two."] * 50, "n": [None, {"a": "x"}] * 50}), folder / "whole")
        return (folder / "whole").read_bytes()
    return {
        ".pdf": pdf(PAGES),
        ".csv": b'id,title,body\n1,"a ""b"" c","x\ny, z"\n2,q,"hello world"\n' * 4,
        ".tsv": b'a\tb\n"x"\ty "z"\n' * 5,
        ".jsonl": LINES,
        ".jsonl.gz": gzip.compress(LINES),
        ".json": json.dumps({"rows": [{"text": "abc", "n": {"q": 1}}] * 4}).encode(),
        ".srt": SRT.encode(),
        ".md": b"---\ntitle: a\ndate: 2020-01-01\nauthor: [a, {name: b}]\n---\nbody\n",
        ".html": b"<html><head><title>x</title></head><body><p>one <b>two</b></p><ul><li>x</ul></body></html>",
    }[suffix]


def damaged(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at, way = chance.randrange(len(changed)), chance.random()
        if way < 0.5:
            changed[at] = chance.choice([chance.randrange(256), *b"\"'{}[],;\t\n\0<>&/-"])
        elif way < 0.75:
            del changed[at : at + chance.randint(1, 30)]
        else:
            changed[at:at] = chance.randbytes(chance.randint(1, 6))
    return bytes(changed)


@pytest.mark.parametrize(
    "suffix", [".epub", ".pdf", ".parquet", ".csv", ".tsv", ".jsonl", ".jsonl.gz", ".json", ".srt", ".md", ".html"]
)
def test_any_damage_ends_in_documents_or_a_sentence(tmp_path: Path, read: Read, suffix: str) -> None:
    chance = random.Random(suffix)
    data = whole(tmp_path, suffix)
    assert read(f"whole{suffix}", data).documents
    for _ in range(ROUNDS):
        with contextlib.suppress(SourceError):
            read(f"damaged{suffix}", damaged(data, chance))
