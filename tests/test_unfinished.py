"""A prepare that is killed anywhere is gone on with, by any number of workers, to the bytes of one that was not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptcli import documents, survey
from gptcli.chat_template import Message, write_conversation
from gptcli.config import DataConfig
from gptcli.documents import Document, document, document_parts, write_documents
from gptcli.encode import SplitTotals, Totals
from gptcli.errors import CorpusError, UnfinishedError
from gptcli.files import write_json
from gptcli.prepare import PrepareResult, prepare
from gptcli.shards import open_dataset
from gptcli.split import SplitPlan
from gptcli.tokenizer import char_tokenizer
from gptcli.unfinished import JOURNAL, Progress, read_progress, write_survey
from tests.test_prepare import texts_of

# Prepares, and kills itself when a file of the tokens is opened or renamed for the n-th time.
KILLED = """
import os, signal, sys
from pathlib import Path
from gptcli import documents, survey
from gptcli.config import DataConfig
from gptcli.prepare import prepare
documents.SPAN_BYTES, survey.STRETCH_CHARS = 9000, 3000
corpora, number, settings = Path(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])

def watch(event, values):
    global number
    if event in ("open", "os.rename") and f"{os.sep}tokens{os.sep}" in str(values[0]):
        number -= 1
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
prepare("text", DataConfig(tokenizer="char", **settings), corpora_dir=corpora, shard_tokens=20_000, workers=1)
"""
KINDS = ("documents", "paragraphs", "position", "conversations")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="a folder cannot be locked")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a short text be many parts, spans and stretches."""
    monkeypatch.setattr(documents, "PART_CHARS", 5000)
    monkeypatch.setattr(documents, "SPAN_BYTES", 9000)
    monkeypatch.setattr(survey, "STRETCH_CHARS", 3000)


def corpus_of(kind: str) -> tuple[list[Document], dict[str, Any]]:
    """Return the documents of a corpus of some kind, some of them twice, and how it is to be split."""
    texts = texts_of(60)
    if kind == "conversations":
        talks = [write_conversation([Message("user", text[:200]), Message("assistant", text)]) for text in texts]
        return [document(talk.text, answers=talk.answers) for talk in talks], {}
    whole = [document(text, title=text[:20]) for text in (*texts, *texts[:9])]
    parts = list(document_parts(texts, title="all of them"))
    assert len(parts) > 20
    settings = dict[str, dict[str, Any]](documents={}, paragraphs={"split": "paragraph"}, position={"split_at": 0.6})
    return [*whole[:30], *parts, *whole[30:]], settings[kind]


def write_corpus(corpora: Path, items: list[Document]) -> None:
    (corpora / "text").mkdir(parents=True)
    with (corpora / "text" / "documents.jsonl").open("wb") as file:
        write_documents(file, items)


def made(corpora: Path, settings: dict[str, Any], **options: Any) -> tuple[PrepareResult, list[str]]:  # noqa: ANN401
    said: list[str] = []
    result = prepare(
        "text",
        DataConfig(tokenizer="char", **settings),
        corpora_dir=corpora,
        **{"shard_tokens": 20_000, "on_progress": said.append, **options},
    )
    return result, said


def kill(corpora: Path, number: int, settings: dict[str, Any]) -> bool:
    """Prepare in a process that kills itself at the n-th file; say whether it did."""
    command = [sys.executable, "-c", KILLED, str(corpora), str(number), repr(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the tokens, masks, index and tokenizer by name, and the manifest without its time."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(found["manifest.json"])
    del manifest["created_at"], manifest["checksum"]
    return found | {"manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_workers_in_threads_or_processes_makes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    items, settings = corpus_of(kind)
    write_corpus(tmp_path, items)
    result, _ = made(tmp_path, settings, workers=1)
    expected = files_of(result.folder)
    assert len(result.manifest.train.shards) > 3
    assert result.manifest.ngrams is not None
    for options in ({"workers": None}, {"workers": 2}, {"workers": 3}):
        shutil.rmtree(result.folder)
        assert files_of(made(tmp_path, settings, **options)[0].folder) == expected
    # As one span and one stretch.
    monkeypatch.setattr(documents, "SPAN_BYTES", 1 << 30)
    monkeypatch.setattr(survey, "STRETCH_CHARS", 1 << 30)
    shutil.rmtree(result.folder)
    assert files_of(made(tmp_path, settings)[0].folder) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_file_it_goes_on_to_the_same_bytes_and_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    items, settings = corpus_of(kind)
    write_corpus(tmp_path / "whole", items)
    write_corpus(tmp_path / "killed", items)
    expected = files_of(made(tmp_path / "whole", settings)[0].folder)
    tokens = tmp_path / "killed" / "text" / "tokens"
    for number in (12, 47, 90):
        assert kill(tmp_path / "killed", number, settings)
        assert len(list(tokens.iterdir())) == 1  # what was killed before is gone on with, or gone
        assert not (tokens / "char").exists()
    result, said = made(tmp_path / "killed", settings, workers=2)
    assert any(line.startswith("Going on after shard ") for line in said), said
    assert any(note.startswith("Went on after shard ") for note in result.notes)
    assert "Reading text." not in said
    assert files_of(result.folder) == expected
    assert [path.name for path in tokens.iterdir()] == ["char"]


def test_another_order_or_force_or_a_changed_text_begins_anew(tmp_path: Path) -> None:
    items, _ = corpus_of("conversations")
    write_corpus(tmp_path, items)
    tokens = tmp_path / "text" / "tokens"

    def begins_anew(settings: dict[str, Any], **options: Any) -> bool:  # noqa: ANN401
        assert kill(tmp_path, 40, {})
        assert list(tokens.glob(f".char.*/{JOURNAL}"))
        result, said = made(tmp_path, settings, **options)
        assert [path.name for path in tokens.iterdir()] == ["char"]
        shutil.rmtree(result.folder)
        return "Reading text." in said

    assert not begins_anew({})
    assert begins_anew({}, force=True)
    assert begins_anew({"val_fraction": 0.2})
    assert begins_anew({}, shard_tokens=30_000)
    assert kill(tmp_path, 40, {})
    with (tmp_path / "text" / "documents.jsonl").open("ab") as file:
        write_documents(file, [document("One more.")])
    assert "Reading text." in made(tmp_path, {})[1]


@pytest.mark.parametrize("name", ["train-00000.bin", "plan.npz", "index-*.npz", "lengths-*.npz", JOURNAL, "the open"])
def test_what_was_damaged_since_is_not_gone_on_with(tmp_path: Path, name: str) -> None:
    items, settings = corpus_of("documents")
    write_corpus(tmp_path, items)
    expected = files_of(made(tmp_path, settings)[0].folder)
    (tmp_path / "text" / "tokens" / "char").rename(tmp_path / "before")
    assert kill(tmp_path, 60, settings)
    (left,) = (tmp_path / "text" / "tokens").iterdir()
    if name == "the open":
        begun = json.loads((left / JOURNAL).read_text("utf-8"))["begun"]
        name = next(file for split in begun.values() for file, _, _ in split["open"])
    for path in left.glob(name):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    result, said = made(tmp_path, settings)
    assert "Reading text." in said
    assert files_of(result.folder) == expected


@pytest.mark.parametrize("how", ["a name", "the name of a shard", "a device", "a link", "the folder"])
def test_a_journal_that_somebody_sent_leads_nowhere_else(tmp_path: Path, how: str) -> None:
    items, settings = corpus_of("documents")
    write_corpus(tmp_path, items)
    expected = files_of(made(tmp_path, settings)[0].folder)
    shutil.rmtree(tmp_path / "text" / "tokens")
    assert kill(tmp_path, 60, settings)
    (left,) = (tmp_path / "text" / "tokens").iterdir()
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    if how == "a name":
        value = json.loads((left / JOURNAL).read_text("utf-8"))
        value["begun"]["train"]["open"][0][:2] = ["../../../mine", 0]
        write_json(left / JOURNAL, value)
    elif how in ("the name of a shard", "a device"):
        value = json.loads((left / JOURNAL).read_text("utf-8"))
        outside = {"name": "../../../mine", "sha256": hashlib.sha256(b"mine").hexdigest()}
        value["begun"]["train"]["shards"][0] |= outside if how != "a device" else {"name": "/dev/zero"}
        write_json(left / JOURNAL, value)
    elif how == "a link":
        (left / "train-00009.bin").symlink_to(mine)
    else:
        left.rename(tmp_path / "elsewhere")
        left.symlink_to(tmp_path / "elsewhere")
    there = sorted((tmp_path / "elsewhere").iterdir()) if how == "the folder" else []
    result, said = made(tmp_path, settings)
    assert "Reading text." in said
    assert mine.read_bytes() == b"mine"
    assert sorted((tmp_path / "elsewhere").iterdir() if there else []) == there
    assert files_of(result.folder) == expected


def when_encoded(tmp_path: Path, do: Callable[[], object]) -> Callable[[str], None]:
    """Return what does something once, as soon as a shard is whole and noted."""
    waiting = [do]

    def on_progress(text: str) -> None:
        for path in (tmp_path / "text" / "tokens").glob(f".char.*/{JOURNAL}"):
            if (
                waiting
                and text.startswith("Encoding")
                and json.loads(path.read_text("utf-8"))["begun"]["train"]["shards"]
            ):
                waiting.pop()()

    return on_progress


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_that_the_system_ends_costs_no_whole_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.making.REPORT_BYTES", 1)
    items, settings = corpus_of("documents")
    write_corpus(tmp_path, items)
    expected = files_of(made(tmp_path, settings)[0].folder)
    shutil.rmtree(tmp_path / "text" / "tokens")

    def kill_one() -> None:
        (children,) = Path("/proc/self/task").glob(f"{os.getpid()}/children")
        os.kill(int(children.read_text().split()[0]), signal.SIGKILL)

    with pytest.raises(UnfinishedError, match="ended by signal 9") as raised:
        made(tmp_path, settings, workers=2, on_progress=when_encoded(tmp_path, kill_one))
    assert "The same command goes on" in raised.value.hint
    result, said = made(tmp_path, settings, workers=2)
    assert any(line.startswith("Going on after shard ") for line in said), said
    assert files_of(result.folder) == expected


def test_a_text_that_cannot_be_read_for_a_while_costs_no_whole_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptcli.making.REPORT_BYTES", 1)
    items, settings = corpus_of("documents")
    write_corpus(tmp_path, items)
    path = tmp_path / "text" / "documents.jsonl"
    with pytest.raises(UnfinishedError, match="cannot be read"):
        made(tmp_path, settings, workers=1, on_progress=when_encoded(tmp_path, lambda: path.rename(tmp_path / "gone")))
    (tmp_path / "gone").rename(path)
    assert any(line.startswith("Going on after shard ") for line in made(tmp_path, settings)[1])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ["others", "damaged"])
def test_a_text_that_is_replaced_while_it_is_prepared_makes_no_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, workers: int
) -> None:
    monkeypatch.setattr("gptcli.making.REPORT_BYTES", 1)
    items, settings = corpus_of("documents")
    write_corpus(tmp_path, items)
    write_corpus(tmp_path / "new", [replace(item, text=item.text.swapcase()) for item in items])
    path = tmp_path / "text" / "documents.jsonl"
    new = tmp_path / "new" / "text" / "documents.jsonl"
    if how == "damaged":
        new.write_bytes(b"{}\n" * 100_000)
    with pytest.raises(CorpusError, match="changed while it was prepared"):
        made(tmp_path, settings, workers=workers, on_progress=when_encoded(tmp_path, lambda: new.replace(path)))
    assert not list((tmp_path / "text" / "tokens").iterdir())


def test_ctrl_c_while_the_disk_takes_all_tokens_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, settings = corpus_of("documents")
    write_corpus(tmp_path, items)
    tokens, fsync = tmp_path / "text" / "tokens", os.fsync

    def interrupt(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino in [path.stat().st_ino for path in tokens.glob(".char.*/train-00000.bin")]:
            raise KeyboardInterrupt
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, settings)
    monkeypatch.setattr(os, "fsync", fsync)
    result, said = made(tmp_path, settings)
    assert any(line.startswith("Going on after shard ") for line in said), said
    assert open_dataset(result.folder).manifest == result.manifest
    assert [path.name for path in tokens.iterdir()] == ["char"]


def test_a_journal_is_small_however_many_conversations_there_are(tmp_path: Path) -> None:
    tokenizer = char_tokenizer(["abc"], end_of_text=True)
    plan = SplitPlan("position", 0.1, None, "", 200_000, 200_000, lengths=dict.fromkeys(range(200000), 9))
    totals: Totals = {"train": SplitTotals(200_000, lengths=array("q", range(200_000))), "val": SplitTotals()}
    write_survey(tmp_path, {}, Progress(plan, np.zeros((1, 5), np.int64), tokenizer, totals=totals))
    assert (tmp_path / JOURNAL).stat().st_size < 3000
    found = read_progress(tmp_path)
    assert found is not None
    assert (found.totals, found.plan) == (totals, plan)


def test_ctrl_c_keeps_what_is_whole_and_an_error_in_the_text_nothing(tmp_path: Path) -> None:
    items, settings = corpus_of("documents")
    write_corpus(tmp_path, items)
    tokens = tmp_path / "text" / "tokens"

    def interrupt(text: str) -> None:
        if text.startswith("Encoding"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"What was done lies in .*\.char\..*; the same command goes on"):
        made(tmp_path, settings, on_progress=interrupt)
    assert "Going on after the survey of the text." in made(tmp_path, settings)[1]
    with (tmp_path / "text" / "documents.jsonl").open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(Exception, match="this line is damaged"):
        made(tmp_path, settings)
    assert [path.name for path in tokens.iterdir()] == ["char"]
    (tmp_path / "text" / "documents.jsonl").write_bytes(b'{"id": "0", "text": "a"}\n')
    with pytest.raises(CorpusError, match="at least 2 are needed"):
        made(tmp_path, settings)
    assert [path.name for path in tokens.iterdir()] == ["char"]
