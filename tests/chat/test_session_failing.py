"""What the system and the model refuse is told, and the session goes on with what it had."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from gptcli import reading
from gptcli.chat.events import Ended, Said, Wrong
from gptcli.chat.log import ChatLog, read_log
from gptcli.errors import RunError
from gptcli.sample import Piece, generate
from gptcli.writing import WritingModel, open_writing_model
from tests.chat.desks import Desk, only

Break = Callable[[int, BaseException], None]


@pytest.fixture
def break_after(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Let drawing fail after some tokens."""

    def arrange(n_tokens: int, error: BaseException) -> None:
        def broken(*args: object, **options: object) -> Iterator[Piece]:
            yield from islice(generate(*args, **options), n_tokens)  # type: ignore[arg-type]
            raise error

        monkeypatch.setattr(reading, "generate", broken)

    return arrange


FAILED = Wrong("The model computes numbers that are not finite.", "Train again.")


def test_an_error_before_the_first_token_leaves_the_session_as_it_was(
    alphabet: WritingModel, break_after: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(alphabet, temperature=3.0)
    twin = Desk(alphabet, temperature=3.0)
    desk.send("abc")
    break_after(0, RunError(FAILED.text, FAILED.hint))
    for line in ("A:", "/more", "/retry", "/edit x", "/best-of 2"):
        assert desk.send(line)[-1] == FAILED
    monkeypatch.undo()
    desk.send("/more")
    twin.send("abc", "/more")
    assert desk.text == twin.text


def test_an_error_in_the_middle_of_a_reply_keeps_what_was_shown(
    alphabet: WritingModel, break_after: Break, tmp_path: Path
) -> None:
    log = ChatLog(tmp_path)
    desk = Desk(alphabet, log=log)
    desk.send("abc")
    break_after(3, RunError(FAILED.text, FAILED.hint))
    events = desk.send("/more")
    assert only(events, Wrong) == FAILED
    assert "/undo" in only(events, Said).text
    assert desk.text == "abcdefghijklmn"
    assert read_log(log.path).text == desk.text
    log.close()
    desk.send("/undo")
    assert desk.text == "abcdefghijk"


def test_an_error_of_best_of_leaves_the_text_as_it_was(alphabet: WritingModel, break_after: Break) -> None:
    desk = Desk(alphabet)
    desk.send("abc")
    break_after(3, RunError(FAILED.text, FAILED.hint))
    assert desk.send("/best-of 2") == [*desk.send("/best-of 2")[:-1], FAILED]
    assert desk.text == "abcdefghijk"
    assert not desk.session.choosing


def test_a_request_to_end_keeps_what_was_shown(alphabet: WritingModel, break_after: Break) -> None:
    desk = Desk(alphabet)
    break_after(2, SystemExit(143))
    with pytest.raises(SystemExit):
        desk.send("abc")
    assert desk.text == "abcde"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
@pytest.mark.parametrize("line", ["/more", "/best-of 2"])
def test_too_little_memory_ends_no_session(
    alphabet: WritingModel, break_after: Break, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    desk = Desk(alphabet)
    desk.send("abc")
    break_after(1, error)
    wrong = only(desk.send(line), Wrong)
    assert "not enough memory" in wrong.text
    assert "max_new_tokens" in wrong.hint
    monkeypatch.undo()
    assert only(desk.send("/more"), Ended).finish_reason == "length"


def test_a_mistake_of_ours_is_not_hidden(alphabet: WritingModel, break_after: Break) -> None:
    break_after(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        Desk(alphabet).send("abc")


@pytest.mark.parametrize(
    "line",
    ["/save " + 300 * "a" + ".txt", "/save " + 300 * "a" + ".jsonl", "/load " + 300 * "a", "/compare " + 300 * "a"],
)
def test_a_name_that_is_too_long_is_told(alphabet: WritingModel, line: str) -> None:
    desk = Desk(alphabet, opens=open_writing_model)
    desk.send("abc")
    assert "File name too long" in only(desk.send(line), Wrong).text


@pytest.mark.parametrize("line", ["/save a\0b.txt", "/load a\0b", "/compare a\0b"])
def test_a_name_that_no_file_can_have_is_told(alphabet: WritingModel, line: str) -> None:
    desk = Desk(alphabet, opens=open_writing_model)
    desk.send("abc")
    assert "'a\\x00b" in only(desk.send(line), Wrong).text


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
@pytest.mark.parametrize("line", ["/load pipe", "/load pipe.jsonl", "/save pipe.jsonl", "/save pipe.txt"])
def test_a_pipe_is_neither_read_nor_written(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pipe", "pipe.jsonl", "pipe.txt"):
        os.mkfifo(name)
    desk.send("abc")
    wrong = only(desk.send(line), Wrong)
    assert "no ordinary file" in wrong.text
    assert wrong.hint
    assert stat.S_ISFIFO(Path(line.split()[1]).stat().st_mode)


# The log.


def test_a_log_keeps_what_is_no_unicode(alphabet: WritingModel, tmp_path: Path) -> None:
    log = ChatLog(tmp_path)
    desk = Desk(alphabet, log=log, stop=("\udcff",))
    desk.send("abc")
    log.close()
    events = [json.loads(line) for line in log.path.read_text("utf-8").splitlines()]
    assert events[0]["settings"]["stop"] == ["\ufffd"]
    assert events[-1]["text"] == "defghijk"


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions")
def test_a_log_is_for_its_owner_alone(alphabet: WritingModel, tmp_path: Path) -> None:
    log = ChatLog(tmp_path)
    Desk(alphabet, log=log).send("abc")
    log.close()
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_ctrl_c_while_a_step_is_logged_leaves_no_step_that_the_log_does_not_have(
    alphabet: WritingModel, tmp_path: Path
) -> None:
    class Interrupted(ChatLog):
        def write(self, event: str, **values: object) -> None:
            if event in ("reply", "new", "undo", "load") and not interrupted:
                interrupted.append(event)
                raise KeyboardInterrupt
            super().write(event, **values)

    (tmp_path / "a.txt").write_text("abc", "utf-8")
    for lines in (["abc"], ["abc", "/new"], ["abc", "/undo"], [f"/load {tmp_path / 'a.txt'}"]):
        interrupted: list[str] = ["not yet"]
        log = Interrupted(tmp_path / "chats")
        desk = Desk(alphabet, log=log)
        desk.send(*lines[:-1])
        before = desk.text
        interrupted.clear()
        with pytest.raises(KeyboardInterrupt):
            desk.send(lines[-1])
        assert desk.text == before
        desk.send("xyz")
        assert read_log(log.path).text == desk.text
        log.close()
