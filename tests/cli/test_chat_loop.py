"""What a signal does while a reply is drawn, and elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest

from gptcli.chat.events import ChatEvent, Drawn, Ended, Given, Said, Wrong
from gptcli.cli.chat_loop import Conversation, Signals
from gptcli.cli.chat_view import ChatView
from gptcli.cli.desk import PipedLines

if sys.platform == "win32":
    pytest.skip("needs POSIX signals", allow_module_level=True)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_first_signal_waits_while_a_reply_is_drawn_the_second_does_not() -> None:
    with Signals() as signals:
        signals.waits = True
        send(signal.SIGINT)
        assert signals.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        signals.begin()
        signals.waits = True
        send(signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(SystemExit, match="143"):
            send(signal.SIGTERM)


def test_signals_come_at_once_elsewhere() -> None:
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.number == signal.SIGINT
        signals.begin()
        with pytest.raises(SystemExit, match="129"):
            send(signal.SIGHUP)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Signals() as signals:
            send(number)
            assert signals.number is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_signals_are_what_they_were_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


class Told:
    """A session whose lines bring fixed events, and a Ctrl-C where one is None."""

    text = undrawn_text = "before"

    def __init__(self, *told: list[ChatEvent | None], choosing: bool = False) -> None:
        self.told, self.choosing = list(told), choosing
        self.lines: list[str] = []

    def feed(self, line: str) -> Iterator[ChatEvent]:
        self.lines.append(line)
        self.choosing = False
        for event in self.told.pop(0):
            if event is None:
                send(signal.SIGINT)
            else:
                yield event


class Keys:
    """What a person types; None is a Ctrl-C."""

    keeps_typing = took_back = False
    place = ""

    def __init__(self, *typed: str | None) -> None:
        self.typed = list(typed)

    def read(self, prompt: str) -> str:  # noqa: ARG002 - nobody reads it
        if not self.typed:
            raise EOFError
        line = self.typed.pop(0)
        if line is None:
            raise KeyboardInterrupt
        return line

    def edit(self, text: str) -> str | None:  # noqa: ARG002 - nobody changes it
        return None


def hold(session: Told, keys: Keys, *, has_person: bool = True) -> None:
    view = ChatView()
    with Signals() as signals, contextlib.closing(view):
        Conversation(cast("Any", session), keys, view, signals, has_person=has_person, has_turns=False).hold()


@pytest.mark.parametrize("kind", ["before the first token", "while drawn", "behind the reply", "in a slow command"])
def test_ctrl_c_anywhere_in_an_answer_stops_only_that(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    told: dict[str, list[ChatEvent | None]] = {
        "before the first token": [Given("line"), None, Drawn("never")],
        "while drawn": [Given("line"), Drawn(" a"), None, Drawn(" b"), Drawn(" never")],
        "behind the reply": [Given("line"), Drawn(" a"), Ended("length", 1, 1.0), None],
        "in a slow command": [None, Said("never")],
    }
    session = Told(told[kind], [Drawn(" more")])
    hold(session, Keys("line", "/more"))
    assert session.lines == ["line", "/more"]
    shown, said = capsys.readouterr()
    assert "never" not in shown + said
    assert " more" in shown
    assert said.count("Stopped.") == 1
    assert ("What is there is kept" in said) == (kind == "while drawn")
    assert (" b" in shown) == (kind == "while drawn")


def test_ctrl_c_between_an_answer_and_the_next_line_does_not_end_the_chat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Told([Drawn("a"), Ended("length", 1, 1.0)], [Drawn("b")])
    once = [None]

    def interrupted(self: ChatView) -> None:
        before(self)
        if session.told == [[Drawn("b")]] and once:
            once.pop()
            send(signal.SIGINT)

    before = ChatView.end_line
    monkeypatch.setattr(ChatView, "end_line", interrupted)
    hold(session, Keys("line", "/more"))
    assert session.lines == ["line", "/more"]
    assert "Stopped." in capsys.readouterr().err


def test_ctrl_c_in_a_pipe_ends_the_chat_also_before_the_first_token() -> None:
    session = Told([None, Drawn("a")], [Drawn("b")])
    with pytest.raises(KeyboardInterrupt):
        hold(session, Keys("line", "/more"), has_person=False)
    assert session.lines == ["line"]


def test_ctrl_c_where_a_number_is_asked_for_takes_none_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    session = Told([Said("None was taken.")], [Drawn("a")], choosing=True)
    hold(session, Keys(None, "line"))
    assert session.lines == ["", "line"]
    said = capsys.readouterr().err
    assert "None was taken." in said
    assert "leaves" not in said


def test_second_ctrl_c_on_empty_lines_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    session = Told([Said("x")])
    hold(session, Keys(None, "line", None, None, "unread"))
    assert session.lines == ["line"]
    assert capsys.readouterr().err.count("Ctrl-C again or Ctrl-D leaves.") == 2


def test_line_that_is_refused_stays_to_be_seen(capsys: pytest.CaptureFixture[str]) -> None:
    hold(Told([Wrong("The model has no é.")], [Given("fine"), Wrong("late")]), Keys("caf\u00e9", "fine"))
    said = capsys.readouterr().err
    assert said.index("> caf\u00e9\n") < said.index("The model has no")
    assert "> fine" not in said


def test_mistake_in_a_file_is_told_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    view, session = ChatView(), Told([Said("x")], [Wrong("no")])
    with Signals() as signals:
        lines = PipedLines(["one", "two"], "my.txt")
        Conversation(cast("Any", session), lines, view, signals, has_person=False, has_turns=False).hold()
    assert "Error: my.txt, line 2: no" in capsys.readouterr().err
