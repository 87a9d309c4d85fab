from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gptcli.errors import CorpusError, FormatError, SourceError
from gptcli.fetch.web.response import Response
from gptcli.fetch.web.store import Store, last_fetch

SOURCE = "https://example.org/"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "corpora" / "x"


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., Store]]:
    """Open stores that are closed after the test."""
    stores: list[Store] = []

    def open_one(source: str = SOURCE, *, offline: bool = False) -> Store:
        for store in stores:
            store.close()
        stores.append(Store(folder, source, offline=offline))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def put(store: Store, url: str, body: bytes = b"text", *, status: int = 200, final_url: str = "") -> Response:
    digest = hashlib.sha256(body).hexdigest() if status == 200 else ""
    size = len(body) if status == 200 else 0
    response = Response(
        url, final_url or url, "text/plain", "utf-8", {"etag": '"1"'}, digest, size, Path(), "2026", status
    )
    if status != 200:
        return store.keep(response, None)
    with store.incoming() as incoming:
        incoming.file.write(body)
        return store.keep(response, incoming)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_kept_is_found_with_everything_about_it(opened: Callable[..., Store], folder: Path) -> None:
    store = opened()
    kept = put(store, "http://h/a", b"the text")
    assert store.find("http://h/a") == kept
    assert kept.path.read_bytes() == b"the text"
    assert kept.path == folder / "raw" / "objects" / kept.sha256[:2] / kept.sha256
    assert (store.find("http://h/b"), store.pages, store.bytes) == (None, 1, 8)


def test_equal_bodies_are_one_file_and_nothing_else_is_left(opened: Callable[..., Store], folder: Path) -> None:
    for url in ("http://h/a", "http://h/b"):
        put(opened(), url)
    opened().close()
    assert len(files(folder / "raw" / "objects")) == 1
    assert files(folder / "raw") == ["ledger.sqlite", files(folder / "raw")[1]]


def test_where_redirects_led_is_known_under_that_name_too(opened: Callable[..., Store]) -> None:
    store = opened()
    put(store, "http://h/old", final_url="http://h/new")
    found = store.find("http://h/new")
    assert found is not None
    assert (found.url, found.final_url) == ("http://h/new", "http://h/new")
    put(store, "http://h/new", b"its own")
    assert store.find("http://h/new") == put(store, "http://h/new", b"its own")


def test_an_unfinished_fetch_is_gone_on_with(opened: Callable[..., Store]) -> None:
    assert opened().resumed is None
    put(opened(), "http://h/a", b"1234")
    store = opened()
    assert store.resumed is not None
    assert store.resumed.startswith("20")
    assert (store.pages, store.bytes) == (1, 4)
    assert store.find("http://h/a") is not None


def test_a_finished_fetch_begins_anew_and_knows_what_it_had(opened: Callable[..., Store]) -> None:
    store = opened()
    put(store, "http://h/a")
    store.finish()
    store = opened()
    assert (store.resumed, store.pages, store.find("http://h/a")) == (None, 0, None)
    before = store.before("http://h/a")
    assert before is not None
    assert before.headers == {"etag": '"1"'}
    store.keep(before, None)
    assert store.find("http://h/a") == before


def test_another_source_begins_anew(opened: Callable[..., Store], folder: Path) -> None:
    put(opened(), "http://h/a")
    store = opened("https://other.org/")
    assert (store.resumed, store.find("http://h/a")) == (None, None)
    store.close()
    assert last_fetch(folder) == ("https://other.org/", "")


def test_finishing_forgets_what_no_longer_belongs_to_it(opened: Callable[..., Store], folder: Path) -> None:
    store = opened()
    put(store, "http://h/old", b"old")
    put(store, "http://h/both", b"before")
    store.finish()
    store = opened()
    kept = put(store, "http://h/both", b"after")
    assert len(files(folder / "raw" / "objects")) == 3
    store.finish()
    assert files(folder / "raw" / "objects") == [f"{kept.sha256[:2]}/{kept.sha256}"]
    assert opened(offline=True).find("http://h/old") is None


def test_a_failing_refresh_leaves_what_the_finished_fetch_had(opened: Callable[..., Store]) -> None:
    store = opened()
    put(store, "http://h/a", b"old")
    put(store, "http://h/a2", b"old too")
    store.finish()
    store = opened()
    put(store, "http://h/a", status=404)
    put(store, "http://h/a2", b"new")
    put(store, "http://h/b", b"only new")
    store = opened()
    found = store.find("http://h/a")
    assert found is not None
    assert found.status == 404
    before = store.before("http://h/a")
    assert before is not None
    assert before.path.read_bytes() == b"old"
    store = opened(offline=True)
    read = [store.find(f"http://h/{name}") for name in ("a", "a2", "b")]
    assert [found.path.read_bytes() for found in read if found] == [b"old", b"old too", b"only new"]


def test_finishing_without_some_keeps_what_was_there_of_them_and_no_more(
    opened: Callable[..., Store], folder: Path
) -> None:
    store = opened()
    for name in ("kept", "renewed", "gone"):
        put(store, f"http://h/{name}", f"old {name}".encode())
    store.finish()
    store = opened()
    put(store, "http://h/renewed", b"new")
    put(store, "http://h/gone", status=404)
    store.finish(keep_older=True)
    assert len(files(folder / "raw" / "objects")) == 2
    store = opened()
    assert store.resumed is None
    assert [bool(store.before(f"http://h/{name}")) for name in ("kept", "renewed", "gone")] == [True, True, False]
    assert store.find("http://h/renewed") is None


def test_what_is_forgotten_is_not_believed_of_an_older_fetch_either(opened: Callable[..., Store]) -> None:
    store = opened()
    put(store, "http://h/same", b"useless")
    put(store, "http://h/other", b"useful")
    store.finish()
    store = opened()
    put(store, "http://h/same", b"useless")
    put(store, "http://h/other", b"useless")
    store.forget("http://h/same")
    store.forget("http://h/other")
    assert store.find("http://h/same") is store.find("http://h/other") is store.before("http://h/same") is None
    assert store.before("http://h/other") is not None


def test_offline_everything_is_found_and_nothing_is_begun(opened: Callable[..., Store]) -> None:
    store = opened()
    put(store, "http://h/a")
    store.finish()
    put(opened(), "http://h/b")
    store = opened(offline=True)
    assert store.resumed is None
    assert store.find("http://h/a") is not None
    assert store.find("http://h/b") is not None
    store.finish()
    assert opened().resumed is not None


def test_offline_without_a_store_is_an_error_that_makes_nothing(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"^Nothing of https://example\.org/ was fetched before, so there is nothing"):
        Store(folder, SOURCE, offline=True)
    assert not folder.parent.exists()


def test_what_is_gone_is_remembered_without_a_body(opened: Callable[..., Store]) -> None:
    store = opened()
    put(store, "http://h/")
    put(store, "http://h/a", status=404)
    found = opened().find("http://h/a")
    assert found is not None
    assert found.status == 404
    assert opened().before("http://h/a") is None


@pytest.mark.parametrize("damage", ["missing", "cut", "grown", "a folder"])
def test_a_body_that_is_not_whole_was_never_fetched(opened: Callable[..., Store], damage: str) -> None:
    path = put(opened(), "http://h/a", b"the text").path
    if damage == "cut":
        path.write_bytes(b"the")
    elif damage == "grown":
        path.write_bytes(b"the text and more")
    else:
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    store = opened()
    assert store.find("http://h/a") is None
    assert store.before("http://h/a") is None
    if damage != "a folder":
        assert put(store, "http://h/a", b"the text").path.read_bytes() == b"the text"


def test_a_store_without_a_document_leaves_nothing(opened: Callable[..., Store], folder: Path) -> None:
    put(opened(), "http://h/a", status=404)
    with opened().incoming() as incoming:
        incoming.file.write(b"half")
    opened().close()
    assert not folder.parent.exists()


def test_what_was_there_before_stays(opened: Callable[..., Store], folder: Path) -> None:
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "transcript.json").write_text("{}")
    opened().close()
    assert files(folder) == ["raw/transcript.json"]


def test_a_second_fetch_of_the_corpus_is_refused(opened: Callable[..., Store], folder: Path) -> None:
    put(opened(), "http://h/a")
    for offline in (False, True):
        with pytest.raises(CorpusError) as caught:
            Store(folder, SOURCE, offline=offline)
        assert caught.value.message == f"{folder} is being fetched by another gptcli."
        assert "--name" in caught.value.hint
    assert last_fetch(folder) is None


HOLD = """
import sys
from pathlib import Path
from gptcli.fetch.web.store import Store
store = Store(Path(sys.argv[1]), "https://example.org/")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_another_process_keeps_its_lock_until_it_is_killed(opened: Callable[..., Store], folder: Path) -> None:
    put(opened(), "http://h/a")
    opened().close()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], env=environment, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(CorpusError, match="another gptcli"):
            opened()
        child.send_signal(signal.SIGKILL)
    assert opened().find("http://h/a") is not None


def test_a_ledger_of_another_version_is_told(opened: Callable[..., Store], folder: Path) -> None:
    put(opened(), "http://h/a")
    opened().close()
    ledger = folder / "raw" / "ledger.sqlite"
    with closing(sqlite3.connect(ledger)) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(FormatError) as caught:
        opened()
    assert caught.value.message == f"{ledger}: the ledger of a corpus has format_version 7, this gptcli reads 1."
    assert caught.value.hint.endswith(f"rm {ledger}")


@pytest.mark.parametrize("damage", ["text", "cut", "foreign", "headers", "empty"])
def test_a_damaged_ledger_is_told_with_what_to_remove(opened: Callable[..., Store], folder: Path, damage: str) -> None:
    store = opened()
    put(store, "http://h/")
    for number in range(300):
        put(store, f"http://h/{number}", status=404)
    store.close()
    ledger = folder / "raw" / "ledger.sqlite"
    spoil(ledger, damage)
    if damage == "empty":
        assert opened().find("http://h/0") is None
        return
    with pytest.raises(CorpusError) as caught:
        read_all(opened)
    assert caught.value.message.startswith(f"{ledger} is damaged (")
    assert caught.value.hint == f"Remove it, and the next fetch asks for everything again: rm {ledger}"
    assert last_fetch(folder) in {None, (SOURCE, "")}
    ledger.unlink()
    assert opened().find("http://h/0") is None


def read_all(opened: Callable[..., Store]) -> None:
    store = opened()
    for number in range(300):
        store.find(f"http://h/{number}")


def put_many(store: Store) -> None:
    for number in range(1000):
        put(store, f"http://h/{number}", status=404)


def spoil(ledger: Path, damage: str) -> None:
    if damage == "text":
        ledger.write_text("this was a ledger once" * 100)
    elif damage == "cut":
        data = ledger.read_bytes()
        ledger.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    elif damage == "empty":
        ledger.write_bytes(b"")
    else:
        with closing(sqlite3.connect(ledger)) as database:
            statements = {"foreign": "DROP TABLE pages", "headers": "UPDATE pages SET headers = '{'"}
            database.execute(statements[damage])
            database.commit()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CorpusError, match=r"raw cannot be written \(Not a directory\)"):
        Store(tmp_path / "file", SOURCE)


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_is_told_and_the_store_is_still_good(opened: Callable[..., Store], folder: Path) -> None:
    import resource

    store = opened()
    put(store, "http://h/a")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(CorpusError, match=r"raw cannot be written \(File too large\)"):
            put(store, "http://h/b", b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.find("http://h/b") is None
    assert store.find("http://h/a") is not None
    assert not (folder / "raw" / "incoming").exists()
    assert put(store, "http://h/b", b"x" * 1_000_000).path.stat().st_size == 1_000_000
    assert opened().find("http://h/b") is not None


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_ledger_without_space_is_told_and_keeps_what_it_has(opened: Callable[..., Store], folder: Path) -> None:
    import resource

    store = opened()
    put(store, "http://h/a")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (folder / "raw" / "ledger.sqlite").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(CorpusError, match=r"ledger\.sqlite cannot be written \((disk I/O error|database or disk)"):
            put_many(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    put(store, "http://h/z")
    store = opened()
    assert store.find("http://h/a") is not None
    assert store.find("http://h/z") is not None


KEEP = """
import hashlib, sys
from pathlib import Path
from gptcli.fetch.web.response import Response
from gptcli.fetch.web.store import Store
store = Store(Path(sys.argv[1]), "https://example.org/")
for number in range(100_000):
    body = f"{number} ".encode() * 2000
    with store.incoming() as incoming:
        incoming.file.write(body)
        url = f"http://h/{number}"
        digest = hashlib.sha256(body).hexdigest()
        store.keep(Response(url, url, "text/plain", "", {}, digest, len(body), Path(), "2026"), incoming)
    print(number, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_whatever_was_kept_when_it_was_killed_is_whole(opened: Callable[..., Store], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    for rounds in (3, 10, 25):
        with subprocess.Popen(
            [sys.executable, "-c", KEEP, folder], env=environment, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                last = int(line)
                if last >= rounds:
                    break
            child.send_signal(signal.SIGKILL)
        store = opened()
        for number in range(last + 1):
            found = store.find(f"http://h/{number}")
            assert found is not None
            assert found.path.read_bytes() == f"{number} ".encode() * 2000
        store.close()
    assert json.dumps(files(folder / "raw")).count("incoming") <= 1


@pytest.mark.parametrize("content", [None, b"", b"no database"])
def test_a_corpus_without_a_ledger_has_no_source(folder: Path, content: bytes | None) -> None:
    (folder / "raw").mkdir(parents=True)
    if content is not None:
        (folder / "raw" / "ledger.sqlite").write_bytes(content)
    assert last_fetch(folder) is None
