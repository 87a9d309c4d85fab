"""A session and a person, line by line: reading, showing, and what Ctrl-C does at each moment.

It decides when a reply stops and when the chat is over. It knows neither options nor how a line is typed.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Generator, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from gptcli.chat.events import ChatEvent, Drawn, EditRequest, Ended, Leave, Wrong
from gptcli.cli.common import EXIT_TERMINATED, note

if TYPE_CHECKING:
    from gptcli.chat.session import Session
    from gptcli.cli.chat_view import ChatView
    from gptcli.cli.desk import Lines

EXIT_HUNG_UP = 129
COMMAND = re.compile(r"/([^/\s]\S*)")
REPLACING = {"retry", "undo", "edit", "load", "new"}
ENDING = {"SIGTERM": EXIT_TERMINATED, "SIGHUP": EXIT_HUNG_UP}


class Signals:
    """Lets Ctrl-C, and a request to end, wait for the end of a token while a reply is drawn.

    So no text is lost and no line of the log is torn. A second one does not wait. Elsewhere they come at once.
    """

    def __init__(self) -> None:
        self._waits = False
        self.number: int | None = None
        """The signal that waits."""

    def __enter__(self) -> Signals:
        numbers = [getattr(signal, name) for name in ("SIGINT", *ENDING) if hasattr(signal, name)]
        self._before: dict[int, Any] = {number: signal.signal(number, self._come) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the first signal wait in ``number`` while this lasts."""
        self._waits, self.number = True, None
        try:
            yield
        finally:
            self._waits = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let signals through for a while, such as the opening of another model."""
        before, self._waits = self._waits, False
        try:
            yield
        finally:
            self._waits = before

    def _come(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what signal passes
        if self._waits and self.number is None:
            self.number = number
        else:
            obey(number)


def obey(number: int) -> None:
    """Do what a signal asks for."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(ENDING[signal.Signals(number).name])


def _is_unfinished(event: ChatEvent, before: bool) -> bool:
    """Say whether a reply has begun and has no end yet, or was cut off."""
    if isinstance(event, Ended):
        return before and event.finish_reason == "interrupted"
    return before or (isinstance(event, Drawn) and bool(event.text))


class Conversation:
    """Feeds a session with lines and shows what comes of them; ``went_wrong`` tells whether anything was a mistake."""

    def __init__(
        self,
        session: Session,
        lines: Lines,
        view: ChatView,
        signals: Signals,
        *,
        has_person: bool,
        has_turns: bool,
    ) -> None:
        self._session, self._lines, self._view, self._signals = session, lines, view, signals
        self._has_person, self._has_turns = has_person, has_turns
        self.went_wrong = False

    def hold(self) -> None:
        """Go on to the end of the lines, or until the person leaves."""
        was_interrupted = False
        while True:
            prompt = self._prompt()
            try:
                line = self._lines.read(prompt)
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self._has_person:
                    raise
                if was_interrupted and not self._lines.took_back:
                    return
                note("Ctrl-C again or Ctrl-D leaves.")
                was_interrupted = True
                continue
            was_interrupted = False
            if not line and not self._has_person and not self._session.choosing:
                continue
            if not self._answer(line, prompt):
                return

    def _prompt(self) -> str:
        return "number> " if self._session.choosing else "> "

    def _answer(self, line: str, prompt: str) -> bool:
        """Show what a line brings, and what the person makes of a text to change; False when it is time to leave."""
        if not self._lines.keeps_typing and (self._has_turns or self._session.choosing or COMMAND.match(line)):
            self._view.typed(prompt, line)
        self._view.begin(anew=self._is_anew(line))
        goes_on, request = self._feed(line)
        while request is not None:
            changed = self._lines.edit(request.text)
            if changed is None:
                self._cannot_edit()
                break
            if self._has_turns:
                self._view.typed(prompt, changed)
            goes_on, request = self._feed(f"/edit {changed}")
        return goes_on

    def _is_anew(self, line: str) -> bool:
        """Say whether what a line brings takes the place of text that was shown, or is an answer of its own."""
        match = COMMAND.match(line)
        return match[1].lower() in REPLACING if match else self._has_turns

    def _cannot_edit(self) -> None:
        if self._lines.keeps_typing:
            self._show_wrong()
        else:
            note("The text stays as it was.")

    def _show_wrong(self) -> None:
        self.went_wrong = True
        self._view.show(Wrong("A text cannot be changed in place here.", "Give the new one: /edit TEXT"))

    def _feed(self, line: str) -> tuple[bool, EditRequest | None]:
        """Show the events of one line; the second value is a text that the person may change."""
        request, has_drawn, goes_on = None, False, True
        try:
            with self._signals.waiting(), contextlib.closing(self._events(line)) as events:
                for event in events:
                    self._view.show(event)
                    self.went_wrong = self.went_wrong or isinstance(event, Wrong)
                    has_drawn = _is_unfinished(event, has_drawn)
                    request = event if isinstance(event, EditRequest) else request
                    goes_on = goes_on and not isinstance(event, Leave)
                    if self._signals.number is not None:
                        break
        except KeyboardInterrupt:
            if not self._has_person:
                raise
            self._signals.number = signal.SIGINT
        self._view.end_line()
        self._end_early(has_drawn)
        return goes_on, request

    def _events(self, line: str) -> Generator[ChatEvent, None, None]:
        yield from self._session.feed(line)

    def _end_early(self, has_drawn: bool) -> None:
        """Say that a reply was stopped, if a signal asked for it, and obey the signals that a person cannot send."""
        number, self._signals.number = self._signals.number, None
        if number is None:
            return
        if number != signal.SIGINT or not self._has_person:
            obey(number)
        self._view.stopped(has_drawn=has_drawn)
