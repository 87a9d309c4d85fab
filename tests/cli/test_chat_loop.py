"""What a signal does while a reply is drawn, and elsewhere."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from gptcli.cli.chat_loop import Signals

if sys.platform == "win32":
    pytest.skip("needs POSIX signals", allow_module_level=True)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_first_signal_waits_while_a_reply_is_drawn_the_second_does_not() -> None:
    with Signals() as signals:
        with signals.waiting():
            send(signal.SIGINT)
            assert signals.number == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
        with signals.waiting():
            send(signal.SIGTERM)
            assert signals.number == signal.SIGTERM
            with pytest.raises(SystemExit, match="143"):
                send(signal.SIGTERM)


def test_signals_come_at_once_elsewhere() -> None:
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        with signals.waiting():
            with signals.at_once(), pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
            send(signal.SIGINT)
            assert signals.number == signal.SIGINT
        with pytest.raises(SystemExit, match="129"):
            send(signal.SIGHUP)


def test_signals_are_what_they_were_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
