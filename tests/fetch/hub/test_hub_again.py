from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from gptcli.errors import SourceError
from gptcli.fetch.hub import open_hub
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.web import Web
from tests.fetch.conftest import Page, Site
from tests.fetch.hub.conftest import TALES, Fetched
from tests.fetch.hub_server import COMMIT, downloads, parquet, serve


@pytest.mark.parametrize("name", ["b.parquet", "a.parquet"])
def test_a_damaged_file_is_asked_for_again_and_it_alone(hub: Site, tmp_path: Path, name: str) -> None:
    good = {"a.parquet": parquet({"text": TALES[:1]}), "b.parquet": parquet({"text": TALES[1:]})}
    serve(hub, "someone/tales", {**good, name: b"PAR1 no"})
    with contextlib.suppress(SourceError):
        Fetched(tmp_path, "hf:someone/tales")
    serve(hub, "someone/tales", good)
    asked = len(downloads(hub))
    again = Fetched(tmp_path, "hf:someone/tales")
    assert (again.texts, again.source.missing) == (TALES, [])
    assert downloads(hub)[asked:] == ([name] if name == "b.parquet" else ["a.parquet", "b.parquet"])


def test_a_file_that_was_mended_by_a_new_commit_is_found(hub: Site, tmp_path: Path) -> None:
    good = parquet({"text": TALES[:1]})
    serve(hub, "someone/tales", {"a.parquet": good, "b.parquet": b"PAR1 no"})
    assert Fetched(tmp_path, "hf:someone/tales").source.missing
    serve(hub, "someone/tales", {"a.parquet": good, "b.parquet": parquet({"text": TALES[1:]})}, commit="b" * 40)
    assert Fetched(tmp_path, "hf:someone/tales").texts == TALES


def test_a_wrong_column_costs_no_second_download(hub: Site, tmp_path: Path) -> None:
    serve(hub, "someone/rows", {"a.csv": b"title,text\nOne,From a row.\n"})
    for where in ("hf:someone/tales", "hf:someone/rows"):
        with pytest.raises(SourceError, match="story"):
            Fetched(tmp_path / where[-4:], f"{where}:story")
        asked = len(downloads(hub))
        with pytest.raises(SourceError, match="story"):
            Fetched(tmp_path / where[-4:], f"{where}:story")
        assert len(downloads(hub)) == asked


def test_what_the_hub_garbles_is_asked_for_again(hub: Site, tmp_path: Path) -> None:
    tree = f"/api/datasets/someone/tales/tree/{COMMIT}?recursive=true"
    for path in ("/api/datasets/someone/tales", tree):
        for garbled in (b"<html>", b"3"):
            good = hub.pages[path]
            hub.pages[path] = Page(garbled)
            with pytest.raises(SourceError):
                Fetched(tmp_path, "hf:someone/tales")
            hub.pages[path] = good
    assert Fetched(tmp_path, "hf:someone/tales").texts == TALES


def test_progress_says_what_comes(hub: Site, tmp_path: Path) -> None:
    said: list[str] = []
    options = FetchOptions(delay=0.0)
    with Web(tmp_path / "corpus", "hf:someone/tales", options, said.append) as web:
        list(open_hub("hf:someone/tales", web, options).documents)
    lines = [line.partition(",")[0] for line in said if not line.startswith("downloading")]
    assert lines == ["hub listing 1", "hub listing 2", *(f"file {number} of 3" for number in (1, 2, 3))]


def test_a_later_fetch_of_the_same_commit_downloads_no_file(hub: Site, tmp_path: Path) -> None:
    Fetched(tmp_path, "hf:someone/tales", finish=True)
    asked = len(hub.asked)
    assert Fetched(tmp_path, "hf:someone/tales", finish=True).texts == TALES
    tree = f"/api/datasets/someone/tales/tree/{COMMIT}?recursive=true"
    assert hub.asked[asked:] == ["/api/datasets/someone/tales", tree]
    serve(hub, "someone/tales", {"a.parquet": parquet({"text": ["New."]})}, commit="c" * 40)
    assert Fetched(tmp_path, "hf:someone/tales").texts == ["New."]


@pytest.mark.parametrize("shape", ["messages", "pairs"])
def test_rows_that_are_conversations_become_some(hub: Site, tmp_path: Path, shape: str) -> None:
    turns = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}] for n in range(4)]
    prompts, answers = ([turn[place]["content"] for turn in turns] for place in (0, 1))
    columns = {"messages": turns} if shape == "messages" else {"prompt": prompts, "completion": answers}
    halves = [{name: rows[half] for name, rows in columns.items()} for half in (slice(2), slice(2, 4))]
    serve(hub, "someone/tales", {f"{number}.parquet": parquet(half) for number, half in enumerate(halves)})
    fetched = Fetched(tmp_path, "hf:someone/tales")
    assert fetched.texts == [f"User: {n}?\nAssistant: {n}." for n in range(4)]
    assert all(item.answers for item in fetched.items)
    assert sum("read as conversations" in note for note in fetched.source.notes) == 1
    if shape == "pairs":
        assert Fetched(tmp_path, "hf:someone/tales:prompt").texts == prompts


def test_rows_of_which_some_are_conversations_are_neither_lost_nor_guessed(hub: Site, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "A."}]
    texts = ["A text.", "B text.", "C text."]
    columns: dict[str, list[Any]] = {"messages": [turns, None, None], "text": texts}
    serve(hub, "someone/tales", {"0.parquet": parquet(columns)})
    with pytest.raises(SourceError, match="1 of the first 3 records is a conversation"):
        Fetched(tmp_path, "hf:someone/tales")
    assert Fetched(tmp_path, "hf:someone/tales:text").texts == texts
