"""A session with a real run, from its checkpoint to the files that a session leaves."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gptcli.chat.events import Columns, Given, Said, Wrong
from gptcli.chat.log import ChatLog, open_chat_log, read_log
from gptcli.config import RunProfile
from gptcli.copies.check import CopyIndex, open_copy_index
from gptcli.runs import RunDir, create_run
from gptcli.shards import TokenDataset
from gptcli.train import train
from gptcli.writing import WritingModel, open_writing_model
from tests.chat.desks import Desk, only


@pytest.fixture
def run(tiny_dataset: TokenDataset, tiny_profile: RunProfile, tmp_path: Path) -> RunDir:
    run = create_run(tiny_profile, profile_name="tiny", dataset=tiny_dataset, runs_dir=tmp_path / "runs", name="tiny")
    for _ in train(run):
        pass
    return run


@pytest.fixture
def model(run: RunDir) -> WritingModel:
    return open_writing_model(str(run.path))


@pytest.fixture
def log(run: RunDir) -> Iterator[ChatLog]:
    with contextlib.closing(open_chat_log(run)) as log:
        yield log


def test_a_session_of_a_run_draws_with_its_own_settings_and_is_kept_in_it(
    model: WritingModel, run: RunDir, log: ChatLog
) -> None:
    desk = Desk(model, log=log)
    assert desk.send("The ")[0] == Given("The ")
    desk.send("/more", "/retry", "/undo")
    assert [path.name for path in (run.path / "chats").iterdir()] == [log.path.name]
    first = json.loads(log.path.read_text("utf-8").splitlines()[0])
    assert (first["step"], first["settings"]["max_new_tokens"]) == (model.step, 8)
    assert read_log(log.path).text == desk.text
    again = Desk(model)
    again.send("The ", "/more")
    assert again.text == desk.text


def test_another_checkpoint_can_be_compared(model: WritingModel, run: RunDir) -> None:
    latest = open_writing_model(str(run.path), which="latest")
    desk = Desk(model, latest)
    desk.send("The ")
    columns = only(desk.send("/compare tiny"), Columns)
    assert columns.left == columns.right


def test_copies_asks_for_what_was_drawn_and_not_for_what_was_written(
    model: WritingModel, run: RunDir, log: ChatLog, tmp_path: Path
) -> None:
    from pydoc_data.topics import topics

    opened: list[CopyIndex] = []

    def open_copies(run: RunDir) -> CopyIndex:
        opened.append(open_copy_index(run))
        return opened[-1]

    (tmp_path / "page.txt").write_text(topics["assert"], "utf-8")
    desk = Desk(model, log=log, copies=open_copies, max_new_tokens=40, temperature=3.0)
    assert only(desk.send(f"/load {tmp_path / 'page.txt'}", "/copies"), Wrong).text.startswith("Nothing was drawn yet")
    desk.send("/more")
    desk.send("The ")
    drawn = [json.loads(line)["text"] for line in log.path.read_text("utf-8").splitlines() if '"reply"' in line]
    assert len(drawn) == 2
    for _ in range(2):
        assert only(desk.send("/copies"), Said).text == "\n".join(opened[0].check(drawn).lines())
    assert len(opened) == 1
    assert json.loads(log.path.read_text("utf-8").splitlines()[-1])["event"] == "copies"


def test_copies_of_a_run_without_an_index_says_what_is_missing(model: WritingModel, run: RunDir) -> None:
    (run.path / "ngrams.bin").unlink()
    dataset = json.loads(run.dataset_path.read_text("utf-8"))
    run.dataset_path.write_text(json.dumps({**dataset, "checksum": None, "folder": "nowhere/tokens/char"}), "utf-8")
    desk = Desk(model, copies=open_copy_index)
    wrong = only(desk.send("The ", "/copies"), Wrong)
    assert "index of its training text" in wrong.text
    assert wrong.hint


def test_save_and_load_through_the_session(model: WritingModel, run: RunDir, log: ChatLog, tmp_path: Path) -> None:
    desk = Desk(model, log=log)
    assert only(desk.send(f"/save {tmp_path / 'a.md'}"), Wrong).text == "There is nothing to save yet."
    desk.send("The ", "/set top_k 3", "/more")
    text = desk.text
    for name in ("a.txt", "a.md", "a.jsonl"):
        assert only(desk.send(f"/save {tmp_path / name}"), Said).text.endswith(f"{tmp_path / name}.")
    assert '\nmodel: "tiny"\n' in (tmp_path / "a.md").read_text("utf-8")
    assert "\ntop_k: 3\n" in (tmp_path / "a.md").read_text("utf-8")
    for name in ("a.txt", "a.md", "a.jsonl"):
        assert desk.send("/new", f"/load {tmp_path / name}") == [Given(text)]
        assert only(desk.send("/retry"), Wrong).text == "There is no reply to draw again."
    assert desk.send(f"/load {log.path}") == [Given(text)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/save", "/save needs a file"),
        ("/load", "/load needs a file"),
        ("/load nowhere.txt", "cannot be read"),
        ("/load snowman.txt", "the text has others: '\u2603'"),
        ("/load talk.jsonl", "holds a conversation"),
    ],
)
def test_what_cannot_be_saved_or_loaded_changes_nothing(
    model: WritingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("snowman.txt").write_text("\u2603", "utf-8")
    Path("talk.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}', "utf-8")
    desk = Desk(model)
    desk.send("The ")
    text = desk.text
    assert found in only(desk.send(line), Wrong).text
    assert desk.text == text


def test_a_model_that_is_no_run_has_no_training_text_to_ask(model: WritingModel) -> None:
    desk = Desk(replace(model, run=None))
    assert "is no run" in only(desk.send("The ", "/copies"), Wrong).text
