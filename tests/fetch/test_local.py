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
from gptcli.fetch.fetching import FetchResult, fetch
from gptcli.fetch.local import local_files, open_local
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Missing, Source
from gptcli.files import sha256_file
from tests.fetch.formats.test_epub import book, page, write


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(result: FetchResult) -> dict[str, str]:
    return {item.title: item.text for item in documents(result)}


def documents(result: FetchResult) -> list[Document]:
    return list(read_documents(result.folder / "documents.jsonl"))


def gathered(*sources: str, options: FetchOptions | None = None) -> Source:
    """Read all documents of what is opened, without a corpus; they are then in ``documents`` again."""
    source = open_local(sources, options or FetchOptions(), lambda _: None, Path("corpora"))
    assert source is not None
    source.documents = iter(list(source.documents))
    return source


def titles(source: Source) -> list[str]:
    return [item.title for item in source.documents]


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
    found.pop("checksum")
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


def test_the_corpora_themselves_are_no_text(here: Path) -> None:
    (here / "home").mkdir()
    (here / "a.txt").write_text("text")
    fetch("a.txt", name="one", corpora_dir=here / "home" / "corpora")
    for word, does in {"home/corpora": "is the folder of", "home": "holds nothing but"}.items():
        with pytest.raises(SourceError) as caught:
            open_local([word], FetchOptions(), lambda _: None, here / "home" / "corpora")
        assert caught.value.message.startswith(f"The folder {word} {does} the corpora that were fetched")
        assert caught.value.hint.startswith("gptcli corpora list shows them.")
    assert open_local(["home/corpora/*/*.jsonl"], FetchOptions(), lambda _: None, here / "home" / "corpora")


def test_a_pattern_reads_what_it_matches(here: Path) -> None:
    for name in ("books/b.txt", "books/a.txt", "books/deep/c.txt", "books/d.md"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    assert list(texts(fetch("books/**/*.txt"))) == ["a", "b", "c"]
    assert fetch("books/*.md").name == "books-2", "books holds the text of another pattern"
    assert fetch("*/*.md").name == "texts"


def test_a_pattern_does_not_read_the_corpora_unless_they_are_meant(here: Path) -> None:
    (here / "a.jsonl").write_text('{"text": "One."}\n')
    assert fetch("**/*.jsonl", name="one").documents == 1
    assert fetch("**/*.jsonl", name="two").documents == 1
    assert fetch("corpora/*/documents.jsonl", name="three").documents == 2


def test_several_files_come_in_the_order_they_are_given(here: Path) -> None:
    for name in ("b.txt", "a.txt", "more/z.txt", "more/y.txt", "c.txt"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(name)
    source = gathered("b.txt", "more", "a.txt", "./b.txt", "*.txt")
    assert titles(source) == ["b", "y", "z", "a", "c"]
    assert (source.kind, source.name, source.where) == ("files", "texts", "b.txt, more, a.txt and 2 more")


def test_what_the_shell_made_of_a_pattern_is_called_by_the_pattern(here: Path) -> None:
    for name in ("notes/a.txt", "notes/b.txt", "notes/c.md"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(name)
    source = gathered("notes/a.txt", "notes/b.txt")
    assert (source.name, source.where, titles(source)) == ("notes", "notes/*.txt", ["a", "b"])
    assert gathered("notes/a.txt", "notes/b.txt", "notes/c.md").where == "notes/*"
    assert gathered("notes/a.txt", "notes/c.md").where == "notes/a.txt, notes/c.md"


def test_several_words_of_which_one_is_no_file_are_no_files(here: Path) -> None:
    (here / "a.txt").write_text("text")
    assert local_files(["a.txt", "b.txt"], here / "corpora") is None
    assert local_files(["b.txt"], here / "corpora") is None


def test_a_folder_of_many_formats_is_read_by_the_name_of_each(here: Path) -> None:
    (here / "in").mkdir()
    write(here / "in" / "book.epub", book({"a.xhtml": page("<p>From a book.</p>")}))
    for name, data in {
        "page.html": b"<html><body><p>From a page.</p></body></html>",
        "post.md": b"---\ntitle: My Post\n---\nFrom a post.\n",
        "rows.csv": b"title,text\nRow,From a row.\n",
        "talk.srt": b"1\n00:00:01,000 --> 00:00:02,000\nFrom a talk.\n",
        "setup.json": b'{"version": 1}',
        "numbers.csv": b"x,y\n1,2\n",
        "song.mp3": b"ID3\x03\0",
        "talk.wav": b"RIFF\0",
        "photo.png": b"\x89PNG\0",
    }.items():
        (here / "in" / name).write_bytes(data)
    result = fetch("in")
    assert {title: text.strip() for title, text in texts(result).items()} == {
        "The Gate": "From a book.",
        "page": "From a page.",
        "My Post": "From a post.",
        "Row": "From a row.",
        "setup": '{"version": 1}',
        "talk": "From a talk.",
    }
    assert result.source["dropped"] == {"binary": 1, "recordings": 2, "tables without text": 1}
    assert result.notes == (
        "1 file looks binary and was left out: photo.png.",
        "2 recordings were left out: song.mp3, talk.wav; --as audio transcribes them.",
        "1 table has nothing that looks like text and was left out: numbers.csv; --text-fields names its columns.",
        "setup.json is JSON without a list of records, so it was read as plain text.",
    )


def test_damaged_json_is_missing_among_others_and_never_text(here: Path) -> None:
    (here / "in").mkdir()
    for name, data in {
        "a.json": '{"items":[{"body":"words',
        "b.json": '{"version": 1}',
        "c.json": '{"version": 2}',
        "d.txt": "A text.",
        "e.json": '{"a":' * 100_000,
        "f.json": "[nothing]",
    }.items():
        (here / "in" / name).write_text(data)
    source = gathered("in")
    assert [item.text for item in source.documents] == ['{"version": 1}', '{"version": 2}', "A text."]
    assert [missing.what for missing in source.missing] == ["a.json", "e.json", "f.json"]
    assert source.missing[0].why == "a.json is not JSON (unterminated string starting at)."
    assert source.notes == [
        "2 files (b.json, c.json) are JSON without a list of records, so they were read as plain text."
    ]
    with pytest.raises(SourceError, match=r"in/a\.json is not JSON"):
        gathered("in/a.json")


def test_json_without_records_is_missing_where_json_was_asked_for(here: Path) -> None:
    (here / "in").mkdir()
    (here / "in" / "a.json").write_text('{"version": 1}')
    (here / "in" / "b.txt").write_text('[{"text": "One."}]')
    source = gathered("in", options=FetchOptions(as_kind="json"))
    assert [item.text for item in source.documents] == ["One."]
    assert [missing.what for missing in source.missing] == ["a.json"]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("blog", "--as blog reads a web site, and a.txt is on this machine."),
        ("hub", "--as hub reads a data set of the Hugging Face hub, and a.txt is on this machine."),
    ],
)
def test_a_file_is_no_site_and_no_data_set(here: Path, kind: Any, sentence: str) -> None:  # noqa: ANN401
    (here / "a.txt").write_text("text")
    with pytest.raises(SourceError) as caught:
        gathered("a.txt", options=FetchOptions(as_kind=kind))
    assert caught.value.message == sentence


def test_a_broken_file_among_others_is_missing_and_alone_an_error(here: Path) -> None:
    (here / "in").mkdir()
    for name in ("a", "c"):
        write(here / "in" / f"{name}.epub", book({"a.xhtml": page(f"<p>{name}</p>")}))
    (here / "in" / "b.epub").write_bytes(b"PK\x03\x04 and no more")
    source = gathered("in")
    assert [item.text for item in source.documents] == ["a", "c"]
    assert [(item.what, item.why) for item in source.missing] == [
        ("b.epub", "b.epub is damaged: File is not a zip file.")
    ]
    (here / "in" / "a.epub").unlink()
    (here / "in" / "c.epub").unlink()
    for alone in ("in/b.epub", "in"):
        with pytest.raises(SourceError, match=r"b\.epub is damaged"):
            gathered(alone)


def test_a_note_that_is_true_of_many_files_is_said_once(here: Path) -> None:
    (here / "in").mkdir()
    for number in range(5):
        (here / "in" / f"{number}.txt").write_bytes(b"gr\xfc\xdfe %d" % number)
    assert gathered("in").notes == [
        "5 files (0.txt, 1.txt, 2.txt and 2 more) are not UTF-8; read as cp1252. Pass --encoding to insist on another."
    ]


def test_a_recording_is_no_text(here: Path) -> None:
    (here / "song.mp3").write_bytes(b"ID3")
    with pytest.raises(SourceError) as caught:
        gathered("song.mp3")
    assert caught.value.message == "song.mp3 is a recording, and a text was expected."
    assert caught.value.hint == "gptcli fetch song.mp3 --as audio transcribes it."


def test_the_plan_counts_files_without_reading_them(here: Path) -> None:
    (here / "in").mkdir()
    for name in ("a.txt", "b.txt", "c.epub", "d", "e.mp3"):
        (here / "in" / name).write_bytes(b"\0" * 500_000)
    source = open_local(["in"], FetchOptions(), lambda _: None, here / "corpora")
    assert source is not None
    plan = source.plan()
    assert plan.steps == (
        "Read 4 files of this machine (2 txt, 1 epub, 1 other), 2.0 MB.",
        "Leave out 1 recording, which --as audio hears.",
    )
    assert (plan.requests, plan.bytes) == (0, 2_000_000)


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
    result = fetch("a.txt", options=FetchOptions(encoding="utf-16-le"))
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
        ("photo.jpg", "photo.jpg looks binary: it is a picture (JPEG)"),
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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(here: Path) -> None:
    (here / "secret.txt").write_text("text")
    (here / "secret.txt").chmod(0)
    with pytest.raises(SourceError, match="cannot be read"):
        fetch("secret.txt")
    (here / "open.txt").write_text("text")
    assert gathered(".").missing == [Missing("secret.txt", "secret.txt cannot be read (Permission denied).")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process as Linux tells it")
def test_memory_stays_flat_on_a_large_file(here: Path) -> None:
    words = "".join(f"Number {number} says that it is one.\n\n" for number in range(30_000)).encode()
    with (here / "large.txt").open("wb") as file:
        for _ in range(120):
            file.write(words)
    probe = (
        "from gptcli.fetch.fetching import fetch; from gptcli.split import plan_split, split_documents\n"
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
