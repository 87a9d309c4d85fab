"""A fetch of a data set that is killed between its files, or misses one, is gone on with by the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fetch.conftest import Page, Site
from tests.fetch.hub_server import COMMIT, downloads, parquet, serve

ROOT = Path(__file__).resolve().parents[3]
NAMES = [f"data/train-{number:05}-of-00004.parquet" for number in range(4)]
COMMAND = "gptcli fetch openwebtext --name openwebtext --delay 0"


@pytest.fixture
def openwebtext(hub: Site) -> Site:
    """A hub with an OpenWebText of four files."""
    files = {
        name: parquet({"text": [f"Page {number} of file {place}." for number in range(50)]})
        for place, name in enumerate(NAMES)
    }
    serve(hub, "Skylion007/openwebtext", files)
    return hub


def page_of(hub: Site, name: str) -> Page:
    page = hub.pages[f"/cdn/Skylion007/openwebtext/{COMMIT}/{name}"]
    assert isinstance(page, Page)
    return page


def start(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", *COMMAND.split()]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def fetched(folder: Path) -> tuple[int, str]:
    """Fetch to the end; returns the exit code and what was said."""
    process = start(folder)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_between_files_it_asks_for_none_twice_and_leaves_no_half_a_corpus(
    openwebtext: Site, tmp_path: Path
) -> None:
    assert fetched(tmp_path / "whole")[0] == 0
    whole = (tmp_path / "whole" / "corpora" / "openwebtext" / "documents.jsonl").read_bytes()
    assert whole.count(b"\n") == 200
    corpus = tmp_path / "killed" / "corpora" / "openwebtext"
    for name in NAMES[1:3]:
        process = start(tmp_path / "killed")
        page_of(openwebtext, name).before = process.kill
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        page_of(openwebtext, name).before = lambda: None
        assert not (corpus / "documents.jsonl").exists()
        assert len(list(corpus.glob(".documents.jsonl.*.tmp"))) == 1
    openwebtext.requests.clear()
    code, said = fetched(tmp_path / "killed")
    assert code == 0, said
    assert downloads(openwebtext) == [name.rpartition("/")[2] for name in NAMES[2:]]
    assert (corpus / "documents.jsonl").read_bytes() == whole
    assert not list(corpus.glob(".*.tmp"))


def test_a_file_that_is_missing_on_the_server_is_named_with_the_command_that_goes_on(
    openwebtext: Site, tmp_path: Path
) -> None:
    path = f"/cdn/Skylion007/openwebtext/{COMMIT}/{NAMES[2]}"
    page = openwebtext.pages[path]
    openwebtext.pages[path] = Page(b"gone", status=404)
    code, said = fetched(tmp_path)
    assert code == 1
    assert f"{NAMES[2]}: " in said
    assert "404" in said
    assert "1 more file" in said
    assert f"The same command again fetches only what is missing: {COMMAND}" in " ".join(said.split())
    openwebtext.pages[path] = page
    openwebtext.requests.clear()
    code, said = fetched(tmp_path)
    assert code == 0, said
    assert downloads(openwebtext) == [name.rpartition("/")[2] for name in NAMES[2:]]
    documents = (tmp_path / "corpora" / "openwebtext" / "documents.jsonl").read_bytes()
    assert documents.count(b"\n") == 200
