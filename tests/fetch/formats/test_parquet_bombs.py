"""Parquet files that unpack to more than any text are not read on; ordinary ones of every making are, as they were."""

from __future__ import annotations

import datetime as dt
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from gptcli.errors import SourceError
from gptcli.fetch.formats.parquet_batches import BATCH_ROWS, first_rows, row_batches
from gptcli.fetch.formats.parquet_pages import DICTIONARY, Chunk, read_pages, read_row_groups
from gptcli.fetch.hub.rows import choose_columns, holds_conversations
from tests.fetch.formats.conftest import Read

MB = 1 << 20
WORDS = "word " * 4_000_000  # 20 MB


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:  # noqa: ANN401
    parquet.write_table(pa.table(columns), path, **{"compression": "zstd", **options})
    return path


def one_text_in_a_dictionary(path: Path) -> Path:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), pa.array([WORDS]))
    return write(path, {"text": texts}, store_schema=False)


def one_page_of_one_letter(path: Path) -> Path:
    return write(path, {"text": pa.array(["a" * (80 * MB)])}, use_dictionary=False)


def one_text_many_times_in_a_list(path: Path) -> Path:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["a " * (MB // 4)]))
    return write(path, {"text": pa.ListArray.from_arrays([0, 200_000], texts)})


def one_text_many_times_in_a_conversation(path: Path) -> Path:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["a " * (MB // 4)]))
    roles = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 100_000, pa.int32()), pa.array(["user", "assistant"]))
    turns = pa.StructArray.from_arrays([roles, texts], ["role", "content"])
    return write(path, {"messages": pa.ListArray.from_arrays([0, 200_000], turns)})


def texts_that_begin_with_the_one_before(path: Path) -> Path:
    texts = ["a " * (MB // 2) + str(number) for number in range(100)]
    return write(path, {"text": texts}, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"})


def no_text_in_a_hundred_million_places(path: Path) -> Path:
    turns = pa.StructArray.from_arrays([pa.nulls(10**7, pa.int8()), pa.nulls(10**7, pa.string())], ["n", "content"])
    return write(path, {"messages": pa.ListArray.from_arrays([0, 10**7], turns)})


BOMBS = [
    one_text_in_a_dictionary,
    one_page_of_one_letter,
    one_text_many_times_in_a_list,
    one_text_many_times_in_a_conversation,
    texts_that_begin_with_the_one_before,
    no_text_in_a_hundred_million_places,
]


@pytest.mark.parametrize("make", BOMBS)
def test_a_bomb_is_told_and_not_read_on(tmp_path: Path, read: Read, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "a.parquet")
    assert path.stat().st_size < MB // 4
    with pytest.raises(SourceError) as caught:
        read(path)
    expected = f"a.parquet unpacks to more than {64 * MB:,} bytes, which no text does; it was not read on."
    assert (caught.value.message, "JSON Lines" in caught.value.hint) == (expected, True)
    with pytest.raises(SourceError, match=r"a/b unpacks to more than 67,108,864 bytes"):
        list(row_batches(path, parquet.read_schema(path).names, "a/b"))


READ = """
import sys
from pathlib import Path
from gptcli.errors import SourceError
from gptcli.fetch.formats.parquet_batches import row_batches
import pyarrow.compute, pyarrow.parquet

def peak():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

before = peak()
try:
    for batch in row_batches(Path(sys.argv[1]), [sys.argv[2]], "it"):
        batch.to_pylist()
except SourceError:
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("make", BOMBS)
def test_a_bomb_takes_little_memory(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "a.parquet")
    (name,) = parquet.read_schema(path).names
    command = [sys.executable, "-c", READ, str(path), name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert int(done.stdout) < 300 * MB


def test_a_bomb_of_the_hub_is_told_before_its_columns_are_chosen(tmp_path: Path) -> None:
    path = one_page_of_one_letter(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="unpacks to more than"):
        choose_columns(path, (), "a/b: a.parquet", "hf:a/b")
    with pytest.raises(SourceError, match="unpacks to more than"):
        holds_conversations(path, "a/b: a.parquet")


TURNS = [{"role": "user", "content": "Ask."}, {"role": "assistant", "content": None}]
WHEN = dt.datetime(2020, 1, 2, tzinfo=dt.timezone.utc)
ROWS: dict[str, Any] = {
    "text": [None if number % 7 == 3 else f"Text {number} " * (number % 50) for number in range(9000)],
    "long": [("x" if number % 2 else "y") * 3000 for number in range(9000)],
    "messages": [TURNS * (number % 3) for number in range(8999)] + [None],
    "page": [{"title": "One", "tags": [["a", None], [], [str(number)]]} for number in range(9000)],
    "kind": pa.array(["a", None, "b"] * 3000).dictionary_encode(),
    "when": pa.array([WHEN, None, WHEN] * 3000, pa.timestamp("us", tz="UTC")),
    "bytes": [b"\xff" * (number % 5) for number in range(9000)],
    "big": pa.array(["large"] * 9000, pa.large_string()),
    "nothing": pa.nulls(9000, pa.string()),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 50},
        {"compression": "none", "data_page_version": "2.0"},
        {"compression": "snappy", "data_page_size": 512, "write_page_checksum": True},
        {"compression": "gzip", "use_dictionary": False, "data_page_version": "2.0"},
        {"use_dictionary": False, "column_encoding": dict.fromkeys(["text", "long", "big"], "DELTA_BYTE_ARRAY")},
        {"use_dictionary": False, "column_encoding": {"messages.list.element.content": "DELTA_BYTE_ARRAY"}},
        {"dictionary_pagesize_limit": 1000, "store_schema": False, "write_page_index": True},
    ],
    ids=["plain", "small groups", "version 2", "small pages", "no dictionary", "deltas", "deltas inside", "mixed"],
)
def test_an_ordinary_file_is_read_as_it_is(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write(tmp_path / "a.parquet", ROWS, **options)
    batches = [batch.to_pylist() for batch in row_batches(path, list(ROWS), "it")]
    assert [row for batch in batches for row in batch] == pa.table(ROWS).to_pylist()
    assert max(map(len, batches)) <= BATCH_ROWS
    assert len(first_rows(iter(batches))) == BATCH_ROWS


def test_long_texts_that_are_honest_come_one_after_the_other(tmp_path: Path) -> None:
    rows = [[f"{number} " * 300_000] * 12 for number in range(1000, 1012)]
    path = write(tmp_path / "a.parquet", {"text": rows}, compression="none", dictionary_pagesize_limit=64 * MB)
    batches = [batch.to_pylist() for batch in row_batches(path, ["text"], "it")]
    assert (max(map(len, batches)), len(first_rows(iter(batches)))) == (1, 4)
    found: Iterator[Any] = (row for batch in row_batches(path, ["text"], "it") for row in batch.to_pylist())
    assert all(row["text"] == expected for row, expected in zip(found, rows, strict=True))


def test_pages_say_what_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["one", "two", "one", None] * 1000})
    with path.open("rb") as file:
        (group,) = read_row_groups(file)
        (chunk,) = group.chunks
        pages = list(read_pages(file, chunk))
    assert (group.n_rows, chunk.values) == (4000, 4000)
    assert [page.kind == DICTIONARY for page in pages] == [True, False]
    assert (pages[0].unpacked, pages[0].values, pages[1].values) == (2 * (4 + 3), 2, 4000)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_trouble_the_reader_of_pages(data: bytes) -> None:
    try:
        pages = list(read_pages(io.BytesIO(data), Chunk(0, len(data), 1000)))
    except ValueError:
        return
    assert all(page.packed >= 0 and page.unpacked >= 0 for page in pages)


SPOIL = """
import random, sys
from pathlib import Path
from gptcli.errors import SourceError
from gptcli.fetch.formats import read_file
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source

path = Path(sys.argv[1])
data = path.read_bytes()
chance = random.Random(1)
for _ in range(500):
    spoiled = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        spoiled[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(spoiled)
    source = Source("file", "", "a")
    try:
        list(read_file(path, suffix=".parquet", label="a", title="a", source=source, options=FetchOptions()))
    except SourceError:
        print("told")
"""


def test_no_damage_ends_the_process(tmp_path: Path) -> None:
    columns = {"text": [f"text {number} " * 5 for number in range(300)], "l": [["x", "y"]] * 300}
    path = write(tmp_path / "a.parquet", columns, compression="snappy", row_group_size=100)
    command = [sys.executable, "-c", SPOIL, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("told") > 200
