from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gptcli.documents import Document, read_documents
from gptcli.errors import SourceError
from gptcli.fetch import FetchResult, fetch
from gptcli.files import sha256_file


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(result: FetchResult) -> dict[str, str]:
    return {item.title: item.text for item in documents(result)}


def documents(result: FetchResult) -> list[Document]:
    return list(read_documents(result.folder / "documents.jsonl"))


def record(result: FetchResult) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((result.folder / "source.json").read_text("utf-8"))
    return value


def test_a_file_is_one_document_with_a_record_of_its_origin(shared_data: Path) -> None:
    path = shared_data / "tinyshakespeare.txt"
    result = fetch(str(path), name="shakespeare")
    assert texts(result) == {"tinyshakespeare": path.read_text("utf-8")}
    assert (result.name, result.folder, result.notes) == ("shakespeare", Path("corpora/shakespeare"), ())
    assert (result.documents, result.bytes) == (1, 1_115_394)
    found = record(result)
    assert found == result.source
    assert found["format_version"] == 1
    assert (found["kind"], found["source"], found["encodings"]) == ("file", str(path), {"utf-8": 1})
    assert found["sha256"] == sha256_file(result.folder / "documents.jsonl")
    assert found["command"].startswith("gptcli fetch ")
    assert found["fetched_at"].endswith("+00:00")


def test_text_is_as_pythons_text_mode_reads_it(here: Path) -> None:
    (here / "notes.md").write_bytes("\ufeffone\r\ntwo\rthree\n".encode())
    assert texts(fetch("notes.md")) == {"notes": "one\ntwo\nthree\n"}


def test_a_folder_is_read_in_order_without_hidden_binary_and_empty_files(here: Path) -> None:
    books = here / "My Books!"
    for name, data in {
        "b.txt": b"second",
        "a/z.md": b"first",
        "a/.hidden": b"no",
        ".git/config": b"no",
        "cover.png": b"\x89PNG\r\n\x1a\n\0\0\0",
        "empty.txt": b"",
        "blank.txt": b" \n",
        "c.txt": b"Gr\xfc\xdfe",
    }.items():
        (books / name).parent.mkdir(parents=True, exist_ok=True)
        (books / name).write_bytes(data)
    result = fetch("My Books!")
    assert result.name == "my-books"
    assert texts(result) == {"z": "first", "b": "second", "c": "Grüße"}
    assert list(texts(result)) == ["z", "b", "c"]
    assert result.source["dropped"] == {"binary": 1, "empty": 2}
    assert result.notes == (
        "1 file looks binary and was left out: cover.png.",
        "c.txt is not UTF-8; read as cp1252. Pass --encoding to insist on another.",
    )


def test_a_folder_that_holds_the_corpora_does_not_read_them(here: Path) -> None:
    (here / "a.txt").write_text("text")
    assert fetch(".", name="one").documents == 1
    assert fetch(".", name="two").documents == 1


def test_a_pattern_reads_what_it_matches(here: Path) -> None:
    for name in ("books/b.txt", "books/a.txt", "books/deep/c.txt", "books/d.md"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    assert list(texts(fetch("books/**/*.txt"))) == ["a", "b", "c"]
    assert fetch("books/*.md").name == "books-2", "books holds the text of another pattern"
    assert fetch("*/*.md").name == "texts"


def test_a_file_named_like_a_pattern_is_a_file(here: Path) -> None:
    (here / "what [1].txt").write_text("text")
    assert fetch("what [1].txt").name == "what-1"


def test_stdin_is_one_document_without_a_title(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("grüße".encode())))
    result = fetch("-")
    assert (result.name, result.source["kind"], texts(result)) == ("stdin", "stdin", {"": "grüße"})
    assert not sys.stdin.buffer.closed


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_can_be_read_though_only_once(here: Path) -> None:
    os.mkfifo(here / "pipe")
    writer = threading.Thread(target=lambda: (here / "pipe").write_text("from a pipe"))
    writer.start()
    assert texts(fetch("pipe")) == {"": "from a pipe"}
    writer.join()


def test_an_insisted_encoding_is_used_and_remembered(here: Path) -> None:
    (here / "a.txt").write_bytes("naïve".encode("utf-16-le"))
    result = fetch("a.txt", encoding="utf-16-le")
    assert texts(result) == {"a": "naïve"}
    assert result.source["command"] == "gptcli fetch a.txt --name a --encoding utf-16-le"


def test_a_file_name_that_is_no_utf8_is_no_obstacle(here: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        (here / name).write_text("text")
    except OSError:
        pytest.skip("this filesystem wants UTF-8 names")
    result = fetch(name)
    assert (result.name, texts(result)) == ("caf", {"caf�": "text"})


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("missing.txt", "There is no file, folder or recipe called 'missing.txt'"),
        ("python-doc", "There is no file, folder or recipe called 'python-doc'"),
        ("empty.txt", "empty.txt is empty"),
        ("blank.txt", "There is no text in blank.txt (1 empty)"),
        ("photo.jpg", "photo.jpg looks binary: it is binary data"),
        ("nothing", "The folder nothing has no files"),
        ("binaries", "There is no text in binaries (1 binary)"),
        ("*.rst", "The pattern *.rst matches nothing"),
        ("not*", "The pattern not* matches only folders"),
        ("", "The source is empty"),
        ("ftp://example.org/a.txt", "only http:// and https://"),
        ("a\0b", "There is no file, folder or recipe"),
        ("x" * 5000, "There is no file, folder or recipe"),
    ],
)
def test_what_cannot_be_read_gets_its_sentence_and_leaves_nothing(here: Path, source: str, sentence: str) -> None:
    (here / "empty.txt").write_bytes(b"")
    (here / "blank.txt").write_bytes(b"\n \n")
    (here / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (here / "nothing").mkdir()
    (here / "binaries").mkdir()
    (here / "binaries" / "a.bin").write_bytes(b"\0\1")
    with pytest.raises(SourceError) as caught:
        fetch(source)
    assert sentence in caught.value.message
    assert not list(here.glob("corpora/*"))


def test_the_nearest_recipe_is_offered() -> None:
    with pytest.raises(SourceError) as caught:
        fetch("shakespear")
    assert "Did you mean shakespeare?" in caught.value.hint
    assert "python-docs" in caught.value.message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(here: Path) -> None:
    (here / "secret.txt").write_text("text")
    (here / "secret.txt").chmod(0)
    for source in ("secret.txt", "."):
        with pytest.raises(SourceError, match="cannot be read"):
            fetch(source)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process as Linux tells it")
def test_memory_stays_flat_on_a_large_file(here: Path) -> None:
    words = "".join(f"Number {number} says that it is one.\n\n" for number in range(30_000)).encode()
    with (here / "large.txt").open("wb") as file:
        for _ in range(120):
            file.write(words)
    probe = (
        "from gptcli.fetch import fetch; from gptcli.split import plan_split, split_documents\n"
        "from gptcli.documents import read_documents\n"
        "result = fetch('large.txt'); path = result.folder / 'documents.jsonl'\n"
        "plan = plan_split(read_documents(path))\n"
        "n = sum(len(item.text) for _, item in split_documents(read_documents(path), plan))\n"
        "assert n == result.bytes, (n, result.bytes)\n"
        # Not getrusage: its peak begins with that of the process that started this one.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (here / "large.txt").stat().st_size > 120_000_000
    assert int(done.stdout) < 200_000  # kB
