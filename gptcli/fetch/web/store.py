"""The raw store of a corpus: what servers answered, in ``raw/objects`` by SHA-256, and a ledger of it in SQLite.

An answer is on disk before the ledger knows of it, so that a killed process leaves nothing half. Knows no network.

A fetch has a number. What came under the present number is never asked for again; what came under an older one stays
beside it until a fetch is finished, for asking whether it has changed and for reading offline. The ledger is locked as
long as the store is open.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

from gptcli.errors import CorpusError, FormatError, SourceError
from gptcli.fetch.web.response import Response
from gptcli.files import refuse_links_out, sync_folder

FORMAT_VERSION = 1
RAW = "raw"
LEDGER = "ledger.sqlite"
OBJECTS = "objects"
GOES_ON_FOR = timedelta(days=1)
WRITE_HINT = "Free some space or check the folder's permissions, and run the same command again: what came is kept."
_SCHEMA = f"""
BEGIN;
CREATE TABLE fetches (number INTEGER PRIMARY KEY, source TEXT NOT NULL, command TEXT NOT NULL,
  began TEXT NOT NULL, ended TEXT, finished TEXT
);
CREATE TABLE pages (
  url TEXT NOT NULL, fetch INTEGER NOT NULL, status INTEGER NOT NULL, final_url TEXT NOT NULL,
  content_type TEXT NOT NULL, charset TEXT NOT NULL, headers TEXT NOT NULL, sha256 TEXT NOT NULL,
  bytes INTEGER NOT NULL, fetched_at TEXT NOT NULL, PRIMARY KEY (url, fetch)
);
CREATE INDEX pages_by_final_url ON pages (final_url);
PRAGMA user_version = {FORMAT_VERSION};
COMMIT;
"""
_SHA256 = re.compile("[0-9a-f]{64}")
_COLUMNS = "url, final_url, content_type, charset, headers, sha256, bytes, fetched_at, status"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A file that a body is being written to; it belongs to the store once it is kept."""

    file: IO[bytes]
    path: Path


class Store:
    """The raw store in ``folder``, open for one fetch of ``source``; close it, also after an error.

    ``resumed`` says when the fetch was begun that this one goes on with. ``pages`` and ``bytes`` count what came under
    its number. Raises ``CorpusError`` where another process has the store, or it is damaged or cannot be written, and
    ``FormatError`` for one of another version; ``SourceError`` where ``offline`` finds nothing to read.
    """

    def __init__(self, folder: Path, source: str, *, command: str = "", offline: bool = False) -> None:
        self.folder = folder / RAW
        self._path = self.folder / LEDGER
        self._offline = offline
        self._new = not self._path.exists()
        self._made: list[Path] = []
        if offline and self._new:
            raise SourceError(
                f"Nothing of {source} was fetched before, so there is nothing to read offline.",
                "Without --offline it is fetched.",
            )
        with self._telling():
            refuse_links_out(folder, RAW, f"{RAW}/{LEDGER}", f"{RAW}/{OBJECTS}")
            self._make_folders()
            self._database = sqlite3.connect(self._path, isolation_level=None, timeout=0.2)
        try:
            with self._telling():
                self._lock()
                self.resumed = self._begin(source, command)
                counted = "SELECT count(*), coalesce(sum(bytes), 0) FROM pages WHERE fetch = ?"
                self.pages, self.bytes = map(int, self._database.execute(counted, (self._number,)).fetchone())
        except BaseException as error:
            self._database.close()
            self._remove_made()
            if isinstance(error, (ValueError, TypeError, OverflowError)):  # SQLite keeps any type in any column
                raise self._explained(error) from error
            raise

    def find(self, url: str) -> Response | None:
        """Return what this fetch has of an address, or of one that led to it.

        Offline that is what the last finished fetch has, and else the newest document that any has.
        """
        # Only offline there are rows of other fetches to choose from.
        order = "fetch = :fetch DESC, fetch <> :fetch AND status = 200 DESC, fetch DESC, url = :url DESC"
        return self._row("(url = :url OR final_url = :url) AND (fetch = :fetch OR :offline)", url, order)

    def before(self, url: str) -> Response | None:
        """Return the newest document that an older fetch had at this address."""
        return self._row("url = :url AND fetch < :fetch AND status = 200", url, "fetch DESC")

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """Open a file for a body; it is gone after the block unless it was kept. Raises ``CorpusError`` if it is full.

        There is one at a time and it has one name, so a killed process leaves no more than that one.
        """
        path = self.folder / "incoming"
        try:
            with self._telling():
                path.unlink(missing_ok=True)  # a link there would have its target overwritten
            with self._telling(), path.open("xb") as file:
                yield Incoming(file, path)
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def keep(self, response: Response, incoming: Incoming | None) -> Response:
        """Keep an answer, with the body that was written; returns it with its place on disk."""
        with self._telling():
            if incoming is not None:
                response = replace(response, path=self._object(response.sha256))
                incoming.file.flush()
                os.fsync(incoming.file.fileno())
                incoming.file.close()  # Windows renames no open file
                refuse_links_out(self.folder.parent, str(response.path.parent.relative_to(self.folder.parent)))
                response.path.parent.mkdir(parents=True, exist_ok=True)
                incoming.path.replace(response.path)
                sync_folder(response.path.parent)
            row = (
                *(response.url, response.final_url, response.content_type, response.charset),
                *(json.dumps(dict(response.headers)), response.sha256, response.bytes, response.fetched_at),
                *(response.status, self._number),
            )
            statement = f"INSERT OR REPLACE INTO pages ({_COLUMNS}, fetch) VALUES ({', '.join('?' * 10)})"  # noqa: S608
            self._database.execute(statement, row)
        self.pages += 1
        self.bytes += response.bytes
        return response

    def forget(self, url: str) -> None:
        """Forget what this fetch has of an address, and the same document in older fetches, which is of no more use."""
        here = "(url = :url OR final_url = :url)"
        same = f"sha256 IN (SELECT sha256 FROM pages WHERE fetch = :fetch AND {here})"  # noqa: S608
        self._delete(f"{here} AND (fetch = :fetch OR {same})", url)

    def break_off(self) -> None:
        """Note that the fetch has ended with something missing, and forget its answers that there is nothing.

        For a day the next fetch goes on with it; after that it begins anew, so that what is missing for good does not
        keep out what is new.
        """
        self._delete("fetch = :fetch AND status <> 200")
        if not self._offline:
            with self._telling():
                self._database.execute("UPDATE fetches SET ended = ? WHERE number = ?", (now(), self._number))

    def discard(self) -> None:
        """Forget all answers of this fetch."""
        self._delete("fetch = :fetch")

    def has_older(self) -> bool:
        """Say whether an older fetch has left answers."""
        with self._telling():
            found = self._database.execute("SELECT 1 FROM pages WHERE fetch < ? LIMIT 1", (self._number,)).fetchone()
        return found is not None

    def finish(self, *, keep_older: bool = False) -> None:
        """Note that the fetch is complete, and forget the answers that it had no use for.

        ``keep_older`` keeps what older fetches had of the addresses that this one has no answer of.
        """
        if self._offline:
            return
        renewed = "AND url IN (SELECT url FROM pages WHERE fetch = :fetch)" if keep_older else ""
        with self._telling():
            self._database.execute("BEGIN")
            self._delete(f"fetch < :fetch {renewed}")
            self._database.execute("DELETE FROM fetches WHERE number < ?", (self._number,))
            self._database.execute("UPDATE fetches SET finished = ? WHERE number = ?", (now(), self._number))
            self._database.execute("COMMIT")
            used = {sha256 for (sha256,) in self._database.execute("SELECT sha256 FROM pages")}
            for path in _objects(self.folder / OBJECTS):
                if path.name not in used:
                    path.unlink()

    def close(self) -> None:
        """Unlock and close the ledger; a store without a document leaves nothing behind that was not there before."""
        with contextlib.suppress(sqlite3.Error):
            if self._new and not self._database.execute("SELECT 1 FROM pages WHERE status = 200 LIMIT 1").fetchone():
                self._database.close()
                self._path.unlink(missing_ok=True)
        self._database.close()
        self._remove_made()

    def _make_folders(self) -> None:
        for folder in (self.folder, *self.folder.parents):
            if folder.exists():
                break
            self._made.append(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _remove_made(self) -> None:
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def _lock(self) -> None:
        """Lock the ledger as long as it is open, and make its tables; the system unlocks it when the process dies."""
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("BEGIN EXCLUSIVE")
        self._database.execute("COMMIT")
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found == 0 and not self._database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            self._database.executescript(_SCHEMA)
        elif found != FORMAT_VERSION:
            raise FormatError(
                f"{self._path}: the ledger of a corpus has format_version {found}, this gptcli reads {FORMAT_VERSION}.",
                f"It was written by another version: update gptcli, or remove it to fetch everything again: "
                f"rm {self._path}",
            )

    def _begin(self, source: str, command: str) -> str | None:
        """Go on with an unfinished fetch of this source, or begin one; returns when the one gone on with was begun."""
        last = self._database.execute(
            "SELECT number, source, began, finished, ended FROM fetches ORDER BY number DESC LIMIT 1"
        ).fetchone()
        self._number = last[0] if last else 0
        if self._offline:
            finished = "SELECT max(number) FROM fetches WHERE finished IS NOT NULL"
            self._number = self._database.execute(finished).fetchone()[0] or self._number
            return None
        if last and last[1] == source and last[3] is None and not _is_old(last[4]):
            self._database.execute("UPDATE fetches SET command = ? WHERE number = ?", (command, self._number))
            some = self._database.execute("SELECT 1 FROM pages WHERE fetch = ? LIMIT 1", (self._number,)).fetchone()
            return str(last[2]) if some else None
        self._number += 1
        self._database.execute(
            "INSERT INTO fetches (number, source, command, began) VALUES (?, ?, ?, ?)",
            (self._number, source, command, now()),
        )
        return None

    def _row(self, where: str, url: str, order: str) -> Response | None:
        """Return the first answer whose body is whole."""
        with self._telling():
            rows = self._database.execute(
                f"SELECT {_COLUMNS} FROM pages WHERE {where} ORDER BY {order}",  # noqa: S608
                {"url": url, "fetch": self._number, "offline": self._offline},
            ).fetchall()
        for row in rows:
            known = dict(zip(_COLUMNS.split(", "), row, strict=True))
            try:
                known["headers"] = json.loads(known["headers"])
                response = Response(path=self._object(_checked(known)["sha256"]), **known)
            except (ValueError, TypeError) as error:
                raise self._explained(error) from error
            # One that was lost or cut off is as good as never fetched.
            if response.status != 200 or _size(response.path) == response.bytes:
                return replace(response, url=url)
        return None

    def _delete(self, where: str, url: str = "") -> None:
        if not self._offline:
            with self._telling():
                self._database.execute(f"DELETE FROM pages WHERE {where}", {"fetch": self._number, "url": url})  # noqa: S608

    def _object(self, sha256: str) -> Path:
        return self.folder / OBJECTS / sha256[:2] / sha256

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn the errors of the disk and of SQLite into sentences."""
        try:
            yield
        except OSError as error:
            raise CorpusError(f"{self.folder} cannot be written ({error.strerror}).", WRITE_HINT) from error
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> CorpusError:
        if "locked" in str(error):
            return CorpusError(
                f"{self.folder.parent} is being fetched by another gptcli.",
                "Wait until that one is done, or fetch into another corpus: --name NAME",
            )
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            return CorpusError(f"{self._path} cannot be written ({error}).", WRITE_HINT)
        return CorpusError(
            f"{self._path} is damaged ({error}).",
            f"Remove it, and the next fetch asks for everything again: rm {self._path}",
        )


def last_fetch(folder: Path) -> tuple[str, str] | None:
    """Return source and command of the newest fetch in the raw store of a corpus; None for none, or one in use."""
    path = folder.absolute() / RAW / LEDGER
    if not path.is_file():  # opening a pipe would wait for ever
        return None
    with contextlib.suppress(sqlite3.Error):
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0.2)) as database:
            row: Any = database.execute("SELECT source, command FROM fetches ORDER BY number DESC LIMIT 1").fetchone()
        return (str(row[0]), _harmless(str(row[1]))) if row else None
    return None


def _harmless(command: str) -> str:
    """Return a command as it is where it is one that fetches and nothing else: users are told to type it."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    plain = words[:2] == ["gptcli", "fetch"] and shlex.join(words) == command and command.isprintable()
    return command if plain or not command else "gptcli fetch SOURCE"


def _is_old(ended: str | None) -> bool:
    return ended is not None and datetime.fromisoformat(ended) < datetime.now(timezone.utc) - GOES_ON_FOR


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _size(path: Path) -> int:
    """Return how many bytes a file of the store has; -1 where it is missing or no file, a symbolic link included."""
    try:
        found = path.lstat()
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _objects(folder: Path) -> Iterator[Path]:
    """Yield the files that are named as the store names them; everything else is somebody else's."""
    for inside in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch("[0-9a-f]{2}", inside.name) and inside.is_dir() and not inside.is_symlink():
            yield from (path for path in inside.iterdir() if _SHA256.fullmatch(path.name) and _size(path) >= 0)


def _checked(known: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the ledger; raises ``ValueError`` for what no fetch has written: SQLite keeps any type."""
    numbers = {"bytes", "status"}
    for name, value in known.items():
        if type(value) is not (int if name in numbers else dict if name == "headers" else str):
            raise ValueError(f"the {name} of a page is a {type(value).__name__}")
    if not all(isinstance(value, str) for value in known["headers"].values()):
        raise ValueError("a header of a page is no text")
    if not _SHA256.fullmatch(known["sha256"]) and (known["sha256"] or known["status"] == 200):
        raise ValueError("the sha256 of a page is not 64 hexadecimal digits")
    return known
