from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gptcli.documents import read_documents
from gptcli.errors import CorpusError, FormatError, SourceError
from gptcli.fetch.corpus import check_name, read_source, slug
from gptcli.fetch.fetching import fetch
from gptcli.files import atomic_write, sha256_file


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the first text")
    return tmp_path


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


def test_the_same_text_again_leaves_every_file_untouched() -> None:
    first = fetch("a.txt")
    before = state(first.folder)
    again = fetch("a.txt")
    assert state(first.folder) == before
    assert again.notes == ("The text of a is the same as before.",)
    assert again.source["fetched_at"] == first.source["fetched_at"]


def test_the_same_text_from_elsewhere_keeps_the_documents_and_renews_their_origin(here: Path) -> None:
    folder = fetch("a.txt").folder
    documents = state(folder)["documents.jsonl"]
    (here / "else").mkdir()
    shutil.copy("a.txt", "else/a.txt")
    fetch("else/a.txt", name="a")
    assert state(folder)["documents.jsonl"] == documents
    assert read_source(folder)["source"] == "else/a.txt"


def test_changed_text_replaces_the_old_and_keeps_the_tokens(here: Path) -> None:
    folder = fetch("a.txt").folder
    (folder / "tokens").mkdir()
    (here / "a.txt").write_text("the second text")
    result = fetch("a.txt")
    assert result.notes[0].startswith("The text of a has changed since it was fetched on 20")
    assert (folder / "tokens").is_dir()
    assert read_source(folder)["sha256"] == sha256_file(folder / "documents.jsonl") == result.source["sha256"]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("documents.jsonl", "provenance.jsonl", "source.json", "tokens")
    ]


def test_a_corpus_of_another_source_is_replaced_with_a_note(here: Path) -> None:
    fetch("a.txt")
    (here / "b.txt").write_text("other")
    assert fetch("b.txt", name="a").notes == ("The corpus a held the text of a.txt before; it was replaced.",)


def texts() -> dict[str, list[str]]:
    return {
        path.parent.name: [item.text for item in read_documents(path)]
        for path in Path("corpora").glob("*/documents.jsonl")
    }


def test_stdin_never_replaces_what_came_from_stdin_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("one", "two", "three"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        result = fetch("-")
    assert texts() == {"stdin": ["one"], "stdin-2": ["two"], "stdin-3": ["three"]}
    assert result.notes == (
        "The corpus stdin holds another text, so this one is called stdin-3; --name stdin would replace the other.",
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"four")))
    fetch("-", name="stdin")
    assert texts()["stdin"] == ["four"]


def test_files_of_one_name_are_corpora_of_their_own_and_each_is_fetched_again(here: Path) -> None:
    for folder in ("x", "y"):
        (here / folder).mkdir()
        (here / folder / "book.txt").write_text(f"book {folder}")
    assert [fetch(f"{folder}/book.txt").name for folder in "xyxy"] == ["book", "book-2", "book", "book-2"]
    (here / "y" / "book.txt").write_text("book y, second edition")
    assert fetch(str(here / "x" / ".." / "y" / "book.txt")).name == "book-2"
    assert texts() == {"book": ["book x"], "book-2": ["book y, second edition"]}
    assert fetch("y/book.txt", name="book").name == "book"
    assert texts()["book"] == ["book y, second edition"]


def test_a_corpus_made_by_hand_is_not_replaced_unasked(here: Path) -> None:
    (here / "corpora" / "a").mkdir(parents=True)
    (here / "corpora" / "a" / "documents.jsonl").write_text('{"id": "0", "text": "mine"}\n')
    assert fetch("a.txt").name == "a-2"
    assert texts() == {"a": ["mine"], "a-2": ["the first text"]}


def test_a_recipe_replaces_its_own_corpus_only(here: Path) -> None:
    fetch("a.txt", name="python-docs")
    assert [fetch("python-docs").name for _ in range(2)] == ["python-docs-2", "python-docs-2"]
    assert texts()["python-docs"] == ["the first text"]


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_what_comes_through_a_pipe_is_a_text_of_its_own(here: Path) -> None:
    os.mkfifo(here / "pipe")
    for text in ("one", "two"):
        writer = threading.Thread(target=(here / "pipe").write_text, args=(text,))
        writer.start()
        fetch("pipe")
        writer.join()
    assert texts() == {"pipe": ["one"], "pipe-2": ["two"]}


def test_a_fetch_that_fails_leaves_the_old_corpus(here: Path) -> None:
    folder = fetch("a.txt").folder
    before = state(folder)
    (here / "a.txt").write_bytes(b"\0")
    with pytest.raises(SourceError):
        fetch("a.txt")
    assert state(folder) == before


def test_documents_edited_by_hand_are_written_again(here: Path) -> None:
    result = fetch("a.txt")
    (result.folder / "documents.jsonl").write_text("spoiled")
    assert fetch("a.txt").source["sha256"] == sha256_file(result.folder / "documents.jsonl")


def test_a_damaged_record_is_told_and_the_next_fetch_repairs_it() -> None:
    folder = fetch("a.txt").folder
    for damage in ("{", '{"format_version": 2}', '{"format_version": 1, "name": "a"}'):
        (folder / "source.json").write_text(damage)
        with pytest.raises(FormatError, match=r"source\.json: the source of a corpus"):
            read_source(folder)
    fetch("a.txt")
    assert read_source(folder)["name"] == "a"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("missing", 5),
        ("missing", [{"what": "x"}]),
        ("conversations", "x"),
        ("documents", -1),
        ("documents", True),
        pytest.param("bytes", 10**4000, id="bytes-without-end"),
        ("notes", {"a": 1}),
        ("encodings", ["utf-8"]),
        ("dropped", {"empty": "many"}),
        ("changes", 3),
        ("more", [{"a": 1}]),
    ],
)
def test_a_record_of_wrong_types_is_told_with_the_field_and_the_next_fetch_repairs_it(
    field: str, value: object
) -> None:
    folder = fetch("a.txt").folder
    path = folder / "source.json"
    path.write_text(json.dumps({**read_source(folder), field: value}))
    with pytest.raises(FormatError, match=rf"missing or of the wrong type \({field}\)") as caught:
        read_source(folder)
    assert caught.value.hint == "gptcli fetch SOURCE writes it again."
    fetch("a.txt")
    assert read_source(folder)["documents"] == 1


def test_a_record_may_say_more_than_this_version_knows() -> None:
    folder = fetch("a.txt").folder
    record = {**read_source(folder), "more": 1, "others": ["x"], "facts": {"a": None}}
    (folder / "source.json").write_text(json.dumps(record))
    assert read_source(folder) == record


@pytest.mark.parametrize("where", ["~nobody-of-this-name/a.txt", "a\0.txt", "x" * 5000])
def test_a_record_whose_source_can_be_no_path_is_that_of_another_source(where: str) -> None:
    folder = fetch("a.txt").folder
    (folder / "source.json").write_text(json.dumps({**read_source(folder), "source": where}))
    assert fetch("a.txt").folder.name == "a-2"


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
@pytest.mark.parametrize("name", ["source.json", "documents.jsonl", "provenance.jsonl"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(name: str) -> None:
    folder = fetch("a.txt").folder
    (folder / name).unlink()
    os.mkfifo(folder / name)
    if name == "source.json":
        with pytest.raises(FormatError, match="should be a file, and this is none"):
            read_source(folder)
    fetch("a.txt", name="a")
    assert all(path.is_file() for path in folder.iterdir())


def test_between_its_two_renames_a_killed_fetch_is_still_one_whole_corpus(here: Path) -> None:
    folder = fetch("a.txt").folder
    old, old_record = (folder / "documents.jsonl").read_bytes(), (folder / "source.json").read_text()
    (here / "a.txt").write_text("the second text")
    new_record = json.dumps(fetch("a.txt").source)

    (folder / "source.json").write_text(old_record)
    (folder / ".source.next.json").write_text(new_record)
    assert read_source(folder)["bytes"] == len("the second text")

    (folder / "documents.jsonl").write_bytes(old)
    assert read_source(folder)["bytes"] == len("the first text")

    (folder / ".source.next.json").write_text("{")
    assert read_source(folder)["bytes"] == len("the first text")
    fetch("a.txt")
    assert not (folder / ".source.next.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_a_killed_fetch_leaves_the_old_corpus_or_the_new_one(here: Path) -> None:
    for name in ("one", "two"):
        (here / f"{name}.txt").write_text(f"{name} " * 50_000)
    folder = fetch("one.txt", name="x").folder
    loop = (
        "from gptcli.fetch.fetching import fetch\nwhile True:\n    for n in ('one', 'two'): fetch(n + '.txt', name='x')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    draw = random.Random(7)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", loop], env=environment) as child:
            began = (folder / "documents.jsonl").stat().st_mtime_ns
            while (folder / "documents.jsonl").stat().st_mtime_ns == began:
                time.sleep(0.005)
            time.sleep(draw.random() / 20)
            child.send_signal(signal.SIGKILL)
        record = read_source(folder)
        assert record["sha256"] == sha256_file(folder / "documents.jsonl")
        assert record["source"] in {"one.txt", "two.txt"}


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "c:", "a\nb", "x" * 101, " a", "what?", "\u202etxt"]
)
def test_a_name_that_cannot_be_a_folder_is_refused(here: Path, name: str) -> None:
    with pytest.raises(SourceError, match="cannot be the name of a corpus"):
        fetch("a.txt", name=name)
    assert not (here / "corpora").exists()


@pytest.mark.parametrize("name", ["my-corpus", "Größe-2", "v1.2_final"])
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert fetch("a.txt", name=name).folder == Path("corpora") / name
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My Book (2nd ed.)", "my-book-2nd-ed"), ("Émile", "emile"), ("本", "corpus"), ("..", "corpus"), ("a_b", "a_b")],
)
def test_names_from_sources_are_made_plain(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_a_corpus_folder_that_cannot_be_written_is_an_error_of_ours(here: Path) -> None:
    (here / "corpora").write_text("a file where a folder should be")
    with pytest.raises(CorpusError, match="cannot be written"):
        fetch("a.txt")


def test_a_fetch_killed_before_its_record_was_renamed_goes_on_under_its_name(here: Path) -> None:
    folder = fetch("a.txt").folder
    (folder / "source.json").rename(folder / ".source.next.json")
    again = fetch("a.txt")
    assert (again.name, sorted(path.name for path in Path("corpora").iterdir())) == ("a", ["a"])
    assert read_source(folder)["sha256"] == sha256_file(folder / "documents.jsonl")
    assert not (folder / ".source.next.json").exists()


def test_a_lost_provenance_comes_back_with_the_next_fetch(here: Path) -> None:
    folder = fetch("a.txt").folder
    (folder / "provenance.jsonl").unlink()
    before = (folder / "documents.jsonl").read_bytes()
    fetch("a.txt")
    assert len((folder / "provenance.jsonl").read_text().splitlines()) == 2
    assert (folder / "documents.jsonl").read_bytes() == before


def test_the_name_of_a_recipe_is_not_taken_by_another_text(here: Path) -> None:
    (here / "poirot.txt").write_text("not the book")
    assert fetch("poirot.txt").name == "poirot-2"


def test_what_killed_fetches_left_behind_is_swept_and_what_a_live_one_writes_is_not(here: Path) -> None:
    folder = fetch("a.txt").folder
    old, new = folder / ".documents.jsonl.abc.tmp", folder / ".documents.jsonl.def.tmp"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (0, 0))
    with atomic_write(folder / "documents.jsonl") as file:
        live = Path(file.name) if isinstance(file.name, str) else next(folder.glob(".documents.jsonl.????????.tmp"))
        fetch("a.txt")
        assert live.exists()
        assert not old.exists()
        assert new.exists() == (os.name == "nt")  # where nothing tells that it is nobody's
        file.write((folder / "documents.jsonl").read_bytes())
