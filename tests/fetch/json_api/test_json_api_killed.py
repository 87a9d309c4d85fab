from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.documents import read_documents
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.web import Web
from tests.fetch.datasette_server import DatasetteSite, datasette_site

ROOT = Path(__file__).resolve().parents[3]
MOMENTS = ("asked", "halfway", "answered")


def start(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """Fetch ``url`` as a user does, in a process of its own, into ``folder/corpora/blog``."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "gptcli", "fetch", url, "--delay", "0", "--name", "blog"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def complete(url: str, folder: Path) -> bytes:
    """Fetch without a disturbance; returns the documents as they lie on disk."""
    process = start(url, folder)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()
    return (folder / "corpora" / "blog" / "documents.jsonl").read_bytes()


def kill_at(site: DatasetteSite, url: str, folder: Path, stop: int, moment: str) -> None:
    """Fetch, and kill the process at one moment of the request of one number."""
    process = start(url, folder)
    site.on_request = lambda number, now: process.kill() if (number, now) == (stop, moment) else None
    try:
        _, stderr = process.communicate(timeout=120)
    finally:
        site.on_request = lambda *_: None
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, stderr.decode()


def stored(site: DatasetteSite, url: str, folder: Path) -> set[str]:
    """Return those of the requested paths that are in the raw store."""
    with Web(folder / "corpora" / "blog", url, FetchOptions(offline=True)) as web:
        return {path for path in site.requests if web.stored(f"{site.url}{path}")}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("query", ["?_shape=array", "?_shape=objects&_size=max"])
def test_a_fetch_killed_at_five_points_ends_as_if_it_had_not_been(tmp_path: Path, query: str) -> None:
    with datasette_site(tmp_path) as site:
        url = site.table + query
        whole = complete(url, tmp_path / "whole")
        undisturbed = list(site.requests)
        assert len(undisturbed) >= 17
        site.requests.clear()
        chance = random.Random(f"killed {query}")
        for stop in sorted(chance.sample(range(2, len(undisturbed)), 5)):
            before = len(site.requests)
            kept = stored(site, url, tmp_path / "killed") if before else set()
            kill_at(site, url, tmp_path / "killed", stop, chance.choice(MOMENTS))
            assert len(site.requests) == stop
            assert not kept & set(site.requests[before:])
        before, kept = len(site.requests), stored(site, url, tmp_path / "killed")
        assert complete(url, tmp_path / "killed") == whole
        assert not kept & set(site.requests[before:])
        # Only a page that was on its way when the process was killed is asked for again.
        assert set(site.requests) == set(undisturbed)
        assert len(site.requests) <= len(undisturbed) + 5
        documents = list(read_documents(tmp_path / "killed" / "corpora" / "blog" / "documents.jsonl"))
        assert [item.title for item in documents] == [post.title for post in site.posts if post.words]
