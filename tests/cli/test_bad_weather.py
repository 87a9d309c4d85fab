"""Every fault of a source as the command line tells it: its exact sentence, and a corpus that is the old or the new."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gptcli.fetch.web import http
from tests.cli.conftest import ROOT, Cli
from tests.fetch.conftest import Page, Site, site
from tests.fetch.formats.test_epub import book, page, write
from tests.fetch.recordings import noise, save_wav
from tests.fetch.tiny_whisper import save_tiny_whisper

__all__ = ["site"]

PEER = "peer closed connection without sending complete message body"
HTML = "text/html; charset=utf-8"
JSON = "application/json"
OLD = b"What the corpus held before."


@dataclass(frozen=True)
class Fault:
    """What lies at an address or in a file, and what ``fetch`` says of it; ``{url}`` stands for the address."""

    says: str
    pages: dict[str, Page | list[Page]] = field(default_factory=dict)
    path: str = "/a.txt"
    make: Callable[[Path], object] | None = None
    options: tuple[str, ...] = ()
    writes: bool = False
    """True where a part came: then a first fetch keeps it."""


def rows(first: int, count: int, following: str | None) -> bytes:
    listed = [{"id": n, "body": f"<p>Entry {n} of many.</p>"} for n in range(first, first + count)]
    return json.dumps({"rows": listed, "next_url": following}).encode()


def locked_book(folder: Path) -> None:
    files = book({"a.xhtml": page("<p>One.</p>")})
    files["META-INF/encryption.xml"] = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<EncryptedData xmlns="http://www.w3.org/2001/04/xmlenc#">'
        '<EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>'
        '<CipherData><CipherReference URI="OEBPS/a.xhtml"/></CipherData></EncryptedData></encryption>'
    )
    write(folder / "a.epub", files)


def bomb_book(folder: Path) -> None:
    write(folder / "a.epub", book({"a.xhtml": b" " * 20_000_000}))


def climbing_book(folder: Path) -> None:
    """A book whose only chapter lies outside of it."""
    (folder / "secret.xhtml").write_text(page("<p>A secret of this machine.</p>"), "utf-8")
    files = book({"../../secret.xhtml": ""})
    del files["OEBPS/../../secret.xhtml"]
    write(folder / "a.epub", files)


def noisy(folder: Path) -> None:
    save_wav(folder / "a.wav", noise(2))
    save_tiny_whisper(folder / "model", [(0.0, 1.0, " Words that nobody said.")])


FAULTS = {
    "404": Fault("{url}: the server answered 404 Not Found."),
    "401": Fault("{url}: the server answered 401 Unauthorized.", {"/a.txt": Page(status=401)}),
    "redirect loop": Fault(
        "{url} leads in circles: more than 10 redirects.",
        {"/a.txt": Page(status=302, headers={"Location": "/a.txt?again"})},
    ),
    "truncated body": Fault(
        f"The download of {{url}} broke off ({PEER} (received 4 bytes, expected 9)).",
        {"/a.txt": Page(b"half of i", cut=4)},
    ),
    "gzip bomb": Fault(
        "The fetch has reached its limit of 1,000,000 bytes, so {url} was not fetched.",
        {"/a.txt": Page(gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"})},
        options=("--max-bytes", "1MB"),
    ),
    "next page on another host": Fault(
        "The next page is said to be http://elsewhere.invalid/2, which is on another host than 127.0.0.1, "
        "so it was not followed.",
        {"/a.json": Page(rows(1, 3, "http://elsewhere.invalid/2"), JSON)},
        "/a.json",
        writes=True,
    ),
    "repeated page": Fault(
        "The server names this page again as the next one, so what comes after it is lost.",
        {"/a.json": Page(rows(1, 3, "?page=1"), JSON), "/a.json?page=1": Page(rows(4, 3, "?page=1"), JSON)},
        "/a.json",
        writes=True,
    ),
    "no list": Fault(
        "{url} is a single JSON object, and a list of records was expected. "
        "Its keys are status (a text), user (an object).",
        {"/a.json": Page(b'{"status": "fine", "user": {"name": "x"}}', JSON)},
        "/a.json",
    ),
    "null bodies": Fault(
        "There is no text in {url} (2 records without text).",
        {"/a.json": Page(b'[{"id": 1, "body": null}, {"id": 2, "body": null}]', JSON)},
        "/a.json",
    ),
    "book with DRM": Fault("a.epub is locked by DRM", path="a.epub", make=locked_book),
    "zip bomb": Fault(
        "a.epub inflates to more than 8,388,608 bytes, which no book does; it was not read on.",
        path="a.epub",
        make=bomb_book,
    ),
    "path out of an archive": Fault("a.epub", path="a.epub", make=climbing_book),
    "noise": Fault(
        "No speech was recognised in a.wav.", path="a.wav", make=noisy, options=("--whisper", "model/ctranslate2")
    ),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 0.3)


def fetched(folder: Path) -> str:
    path = folder / "corpora" / "x" / "documents.jsonl"
    return path.read_text("utf-8") if path.exists() else ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_clear_error_and_nothing_half_is_kept(folder: Path, cli: Cli, site: Site, name: str) -> None:
    fault = FAULTS[name]
    source = fault.path if fault.make else f"{site.url}{fault.path}"
    site.pages.update(fault.pages)
    if fault.make:
        fault.make(folder)
    done = cli("fetch", source, "--name", "x", *fault.options)
    assert (done.code, done.stdout) == (1, "")
    assert fault.says.format(url=source) in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert bool(fetched(folder)) == fault.writes
    assert "secret of this machine" not in fetched(folder)
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_leaves_the_complete_corpus_of_before(folder: Path, cli: Cli, site: Site, name: str) -> None:
    fault = FAULTS[name]
    (folder / "old.txt").write_bytes(OLD)
    assert cli("fetch", "old.txt", "--name", "x").code == 0
    before = fetched(folder)
    source = fault.path if fault.make else f"{site.url}{fault.path}"
    site.pages.update(fault.pages)
    if fault.make:
        fault.make(folder)
    assert cli("fetch", source, "--name", "x", *fault.options).code == 1
    assert fetched(folder) == before


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("https://nothing.invalid/a.txt", "There is no host nothing.invalid, or no network."),
        ("{tls}/a.txt", "The secure connection to 127.0.0.1 failed"),
        ("{silent}/a.txt", "{silent}/a.txt did not answer in time."),
    ],
)
def test_a_server_that_cannot_be_reached_is_a_sentence(
    folder: Path, cli: Cli, site: Site, source: str, says: str
) -> None:
    release = threading.Event()
    site.pages["/a.txt"] = Page(b"late", before=lambda: release.wait(5))
    names = {"tls": site.url.replace("http", "https"), "silent": site.url}
    try:
        done = cli("fetch", source.format(**names), "--name", "x")
    finally:
        release.set()
    assert (done.code, done.stdout) == (1, "")
    assert says.format(**names) in " ".join(done.stderr.split())
    assert not (folder / "corpora").exists() or not list((folder / "corpora").iterdir())


@pytest.mark.parametrize("status", [429, 503])
def test_a_burst_is_waited_out(cli: Cli, folder: Path, site: Site, status: int) -> None:
    busy = Page(status=status, headers={"Retry-After": "0"})
    site.pages["/a.txt"] = [busy, busy, busy, Page(b"There it is.")]
    assert cli("fetch", f"{site.url}/a.txt", "--name", "x").code == 0
    assert len(site.requests) == 4
    assert "There it is." in fetched(folder)


@pytest.mark.parametrize("declared", ["utf-8", "iso-8859-1", "klingon"])
def test_a_wrong_charset_does_not_spoil_the_words(cli: Cli, folder: Path, site: Site, declared: str) -> None:
    words = "Žluťoučký kůň úpěl ďábelské ódy."
    html = f"<html><head><meta charset='utf-8'><title>x</title></head><body><p>{words * 20}</p></body></html>"
    site.pages["/a"] = Page(html.encode(), f"text/html; charset={declared}")
    assert cli("fetch", f"{site.url}/a", "--name", "x").code == 0
    assert words in fetched(folder)


def test_a_calendar_without_end_is_left(cli: Cli, folder: Path, site: Site) -> None:
    def month(path: str) -> bytes:
        number = int(path.partition("?month=")[2] or 0)
        return (
            f"<html><head><title>Month {number}</title><link rel='next' href='/?month={number + 1}'></head>"
            f"<body><main><h1>Month {number}</h1><p>Nothing happens in month {number}.</p></main></body></html>"
        ).encode()

    site.pages["/"] = Page(month, HTML)
    done = cli("fetch", f"{site.url}/", "--name", "x", "--delay", "0")
    assert len(site.requests) < 40
    assert done.code == 0, done.stderr
    assert "has no end: 10 pages in a row brought nothing new" in " ".join(done.stderr.split())


def test_what_is_missing_is_listed_and_a_second_run_completes_it(cli: Cli, folder: Path, site: Site) -> None:
    site.pages["/a.json"] = Page(rows(1, 3, "?page=2"), JSON)
    site.pages["/a.json?page=2"] = [*[Page(status=500)] * 5, Page(rows(4, 2, None), JSON)]
    first = cli("fetch", f"{site.url}/a.json", "--name", "x")
    assert first.code == 1
    assert f"{site.url}/a.json?page=2: the server answered 500 Internal Server Error." in " ".join(first.stderr.split())
    assert "fetches only what is missing: gptcli fetch" in " ".join(first.stderr.split())
    assert len(fetched(folder).splitlines()) == 3
    source = json.loads((folder / "corpora" / "x" / "source.json").read_text("utf-8"))
    assert [item["what"] for item in source["missing"]] == [f"{site.url}/a.json?page=2"]
    asked = len(site.requests)
    second = cli("fetch", f"{site.url}/a.json", "--name", "x", "--json")
    assert second.code == 0, second.stderr
    assert second.json()["documents"] == 5
    assert [path for path, _ in site.requests[asked:] if "robots" not in path] == ["/a.json?page=2"]


def test_a_full_disk_is_a_sentence_and_leaves_the_old_corpus(folder: Path, cli: Cli, site: Site) -> None:
    (folder / "old.txt").write_bytes(OLD)
    assert cli("fetch", "old.txt", "--name", "x").code == 0
    before = fetched(folder)
    site.pages["/large.txt"] = Page(b"many words " * 200_000)
    command = [sys.executable, "-m", "gptcli", "fetch", f"{site.url}/large.txt", "--name", "x"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 512; exec "$@"', "-", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "corpora/x/raw cannot be written (File too large)." in done.stderr
    assert "Free some space" in done.stderr
    assert fetched(folder) == before


def test_a_book_with_a_name_that_climbs_reads_nothing_outside(folder: Path, cli: Cli) -> None:
    climbing_book(folder)
    with zipfile.ZipFile(folder / "a.epub", "a") as archive:
        archive.writestr("../../escaped.txt", "outside")
    assert cli("fetch", "a.epub", "--name", "x").code == 1
    assert not list(folder.parent.rglob("escaped.txt"))
