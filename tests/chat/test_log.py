from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.chat.events import Said
from gptcli.chat.log import ChatLog, is_log, open_chat_log, read_log
from gptcli.chat.page import conversation_text
from gptcli.chat_template import ChatTemplate, Message
from gptcli.errors import FormatError
from gptcli.runs import RunDir
from gptcli.writing import WritingModel
from tests.chat.desks import Desk, only


def events(log: ChatLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text("utf-8").splitlines()]


def message_log(message: str) -> str:
    """Return a log of one conversation of one message."""
    first = '{"event": "session", "format_version": 1, "conversation": true}'
    return f'{first}\n{{"id": 1, "after": 0, "messages": [{message}]}}\n'


@pytest.fixture
def log(a_run: RunDir) -> Iterator[ChatLog]:
    with contextlib.closing(open_chat_log(a_run)) as log:
        yield log


def test_a_log_begins_with_the_first_line_that_is_sent(alphabet: WritingModel, log: ChatLog) -> None:
    desk = Desk(alphabet, log=log)
    desk.send("/help", "/params", "/nonsense", "/quit")
    assert not log.begun
    assert not log.path.exists()
    desk.send("abc")
    first, given, reply = events(log)
    assert log.path.parent.name == "chats"
    assert (first["event"], first["format_version"], first["model"]) == ("session", 1, "parrot")
    assert first["settings"]["max_new_tokens"] == 8
    assert (given["event"], given["line"]) == ("input", "abc")
    assert {**reply, "time": 0, "seconds": 0} == {
        "time": 0,
        "event": "reply",
        "id": 1,
        "after": 0,
        "line": "abc",
        "given": "abc",
        "text": "defghijk",
        "seed": 1337,
        "tokens": 8,
        "finish_reason": "length",
        "seconds": 0,
    }
    assert first["time"] <= given["time"] <= reply["time"]
    assert first["time"].endswith("+00:00")


def test_every_line_is_on_disk_before_the_next_one(alphabet: WritingModel, log: ChatLog) -> None:
    desk = Desk(alphabet, log=log)
    desk.send("abc", "/set temperature 0.5 stop x", "/retry 7", "/undo", "/new", "/best-of 2", "1")
    kinds = [event["event"] for event in events(log)]
    assert kinds == [
        *("session", "input", "reply", "input", "set", "input", "reply", "input", "undo", "input", "new"),
        *("input", "choices", "input", "reply"),
    ]
    assert events(log)[4]["settings"] == {"temperature": 0.5, "stop": ["x"]}
    assert [event["seed"] for event in events(log) if event["event"] == "reply"] == [1337, 7, 1338]


def test_a_reply_that_was_stopped_is_logged(alphabet: WritingModel, log: ChatLog) -> None:
    Desk(alphabet, log=log).stop_after(3, "abc")
    reply = events(log)[-1]
    assert (reply["text"], reply["tokens"], reply["finish_reason"]) == ("de", 2, "interrupted")


def test_two_sessions_of_one_second_have_two_logs(tmp_path: Path) -> None:
    logs = [ChatLog(tmp_path) for _ in range(3)]
    for one in logs:
        one.path = tmp_path / "20260101T000000Z.jsonl"
    for one in logs:
        one.write("input", line="x")
    names = ["20260101T000000Z.jsonl", "20260101T000000Z-2.jsonl", "20260101T000000Z-3.jsonl"]
    assert [one.path.name for one in logs] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for one in logs:
        one.close()


def test_a_folder_that_cannot_be_written_is_told_once(alphabet: WritingModel, tmp_path: Path) -> None:
    (tmp_path / "chats").write_text("a file", "utf-8")
    desk = Desk(alphabet, log=ChatLog(tmp_path / "chats"))
    assert only(desk.send("abc"), Said).text.startswith("This session is not kept: ")
    assert not [event for event in desk.send("/more") if isinstance(event, Said)]
    assert desk.text == "abcdefghijklmnopqrs"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_disk_is_told_once(alphabet: WritingModel, tmp_path: Path) -> None:
    log = ChatLog(tmp_path)
    log.write("input", line="x")
    assert log._file is not None
    os.dup2(os.open("/dev/full", os.O_WRONLY), log._file.fileno())
    desk = Desk(alphabet, log=log)
    assert "No space left" in only(desk.send("abc"), Said).text
    assert not [event for event in desk.send("/more") if isinstance(event, Said)]


LINES = st.sampled_from(
    ["abc", "A:", "/more", "/retry", "/undo", "/edit xyz", "/new", "/best-of 2", "1", "/load STORY", "/set seed 3"]
)


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(LINES, max_size=8))
def test_the_log_alone_tells_the_final_text(
    alphabet: WritingModel, tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("session")
    (folder / "story.txt").write_text("once\nupon", "utf-8")
    log = ChatLog(folder / "chats")
    desk = Desk(alphabet, log=log, max_new_tokens=3, temperature=2.0)
    desk.send("abc", *(line.replace("STORY", str(folder / "story.txt")) for line in lines))
    assert read_log(log.path).text == desk.text
    assert read_log(log.path).messages is None
    log.close()


def test_the_log_of_a_conversation_tells_its_messages(talker: WritingModel, log: ChatLog, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n', "utf-8")
    desk = Desk(talker, log=log)
    desk.send("hi", "/set max_new_tokens 2", "what?", "/more", "/retry")
    for line in ("hi?", "/undo", f"/load {tmp_path / 'chats.jsonl'}", "/more", "ho"):
        desk.send(line)
        messages = read_log(log.path).messages
        assert messages is not None
        assert conversation_text(messages, ChatTemplate()) == desk.text


def test_a_session_goes_on_from_a_log(alphabet: WritingModel, log: ChatLog) -> None:
    first = Desk(alphabet, log=log)
    first.send("abc", "/more")
    second = Desk(alphabet)
    second.send(f"/load {log.path}")
    assert second.text == first.text


def test_a_cut_last_line_is_left_out(alphabet: WritingModel, log: ChatLog) -> None:
    desk = Desk(alphabet, log=log)
    desk.send("abc")
    text = desk.text
    desk.send("/more")
    whole = log.path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last, len(whole) - 1):
        log.path.write_bytes(whole[:end])
        assert read_log(log.path).text == text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "not the log of a session"),
        ('{"text": "a"}\n', "not the log of a session"),
        ('{"event": "session", "format_version": 2}\n', "format_version 2, this gptcli reads 1"),
        ('{"event": "session", "format_version": 1}\ncut\n{"event": "undo", "head": 0}\n', ":2: the log"),
        ('{"event": "session", "format_version": 1}\n[1]\n{"event": "undo", "head": 0}\n', ":2: the log"),
        ('{"event": "session", "format_version": 1}\n{"event": "reply", "id": 1}\n', "is damaged"),
        ('{"event": "session", "format_version": 1}\n{"event": "reply", "id": [], "after": 0}\n', "is damaged"),
        ('{"event": "session", "format_version": 1}\n{"id": 1, "after": 0, "text": 3}\n', "is damaged"),
        ('{"event": "session", "format_version": 1}\n{"id": 1, "after": 0, "messages": [3]}\n', "is damaged"),
        (message_log('{"role": "wizard", "content": "a"}'), "is damaged.*'wizard'"),
        (message_log('{"role": "user", "content": null}'), "is damaged"),
        (message_log('{"role": [], "content": "a"}'), "is damaged"),
    ],
)
def test_a_damaged_log_is_refused(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(FormatError, match=found):
        read_log(path)


@pytest.mark.parametrize("lost", ['{"id": 3, "after": 2, "text": "d"}', '{"event": "undo", "head": 2}'])
def test_a_log_is_read_as_far_as_no_step_is_missing(tmp_path: Path, lost: str) -> None:
    first = '{"event": "session", "format_version": 1}\n{"id": 1, "after": 0, "given": "ab", "text": "c"}\n'
    (tmp_path / "log.jsonl").write_text(f'{first}{lost}\n{{"id": 4, "after": 1, "text": "e"}}\n', "utf-8")
    assert read_log(tmp_path / "log.jsonl").text == "abc"


def test_texts_of_a_log_are_read_as_lines_that_are_sent(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = '{"event": "session", "format_version": 1}\n'
    path.write_text(first + '{"id": 1, "after": 0, "given": "a\\ud800\\r\\n", "text": "b\\udfff"}\n', "utf-8")
    assert read_log(path).text == "a\ufffd\nb\ufffd"
    path.write_text(message_log('{"role": "user", "content": "a\\ud800\\rb"}'), "utf-8")
    assert read_log(path).messages == (Message("user", "a\ufffd\nb"),)


def test_other_files_are_no_logs(tmp_path: Path, log: ChatLog) -> None:
    log.write("input", line="x")
    assert is_log(log.path)
    for content in (b"", b"\xff", b"[]", b'{"text": "session"}', b"[" * 100_000):
        (tmp_path / "other.jsonl").write_bytes(content)
        assert not is_log(tmp_path / "other.jsonl")
