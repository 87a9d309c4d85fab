"""A session and a person, line by line: reading, showing, and what Ctrl-C does at each moment.

It decides when a reply stops and when the chat is over. It knows neither options nor how a line is typed.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Generator
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from gptcli.chat.events import ChatEvent, Drawn, EditRequest, Ended, Given, Leave, Said, Wrong
from gptcli.cli.common import EXIT_HUNG_UP, EXIT_TERMINATED, note

if TYPE_CHECKING:
    from gptcli.chat.session import Session
    from gptcli.cli.chat_view import ChatView
    from gptcli.cli.desk import Lines

COMMAND = re.compile(r"/([^/\s]\S*)")
REPLACING = {"retry", "undo", "edit", "load", "new"}
GOING_ON = {"more", "best-of"}
ENDING = {"SIGTERM": EXIT_TERMINATED, "SIGHUP": EXIT_HUNG_UP}


class Signals:
    """Lets Ctrl-C, and a request to end, wait for the end of a token while a reply is drawn.

    So no text is lost and no line of the log is torn. A second one does not wait. Elsewhere they come at once. A signal
    that is ignored, as SIGHUP below nohup, stays so.
    """

    def __init__(self) -> None:
        self.waits = False
        """Whether the first signal waits."""
        self.number: int | None = None
        """The last signal that came since ``begin``."""

    def __enter__(self) -> Signals:
        numbers = [getattr(signal, name) for name in ("SIGINT", *ENDING) if hasattr(signal, name)]
        self._before: dict[int, Any] = {
            number: signal.signal(number, self._come)
            for number in numbers
            if signal.getsignal(number) not in (signal.SIG_IGN, None)  # None is a handler that is not Python's
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self) -> None:
        """Forget what came; none waits until ``waits`` is set."""
        self.waits, self.number = False, None

    def _come(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what signal passes
        is_first, self.number = self.number is None, number
        if not (self.waits and is_first):
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
        self._is_reading = self._may_leave = self._is_on_screen = False
        self.went_wrong = False

    def hold(self) -> None:
        """Go on to the end of the lines, or until the person leaves."""
        goes_on = True
        while goes_on:
            self._is_reading = False
            try:
                goes_on = self._take_line()
            except KeyboardInterrupt:
                if not self._has_person:
                    raise
                goes_on = self._after_ctrl_c()

    def _take_line(self) -> bool:
        """Read a line and show what it brings; False at the end of the lines, and when it is time to leave."""
        prompt = self._prompt()
        self._is_reading = True
        try:
            line = self._lines.read(prompt)
        except EOFError:
            return False
        self._is_reading = self._may_leave = False
        if not line and not self._has_person and not self._session.choosing:
            return True
        return self._answer(line, prompt)

    def _after_ctrl_c(self) -> bool:
        """Stop what is going on: the choice between texts, or at the second time the chat, which is False."""
        if not self._is_reading:
            self._view.stopped(has_drawn=False)
            return True
        if self._session.choosing:
            return self._answer("", self._prompt())
        if self._may_leave and not self._lines.took_back:
            return False
        note("Ctrl-C again or Ctrl-D leaves.")
        self._may_leave = True
        return True

    def _prompt(self) -> str:
        return "number, or Enter for none> " if self._session.choosing else "> "

    def _answer(self, line: str, prompt: str) -> bool:
        """Show what a line brings, and what the person makes of a text to change; False when it is time to leave."""
        self._is_on_screen = self._lines.keeps_typing
        if self._has_turns or self._session.choosing or COMMAND.match(line):
            self._show_typed(prompt, line)
        self._view.begin(anew=self._is_anew(line), before=self._text_before(line))
        goes_on, request = self._feed(line, prompt)
        while request is not None:
            changed = self._lines.edit(request.text)
            if changed is None:
                self._cannot_edit()
                break
            self._is_on_screen = False
            if self._has_turns:
                self._show_typed(prompt, changed)
            goes_on, request = self._feed(f"/edit {changed}", prompt)
        return goes_on

    def _show_typed(self, prompt: str, line: str) -> None:
        """Show a line that the terminal has wiped, unless it is there already."""
        if not self._is_on_screen:
            self._view.typed(prompt, line)
        self._is_on_screen = True

    def _is_anew(self, line: str) -> bool:
        """Say whether what a line brings takes the place of text that was shown, or is an answer of its own."""
        match = COMMAND.match(line)
        return match[1].lower() in REPLACING if match else self._has_turns

    def _text_before(self, line: str) -> str:
        """Return the text that a reply goes on from which has no line of its own, so that its end can be shown."""
        match = COMMAND.match(line)
        name = match[1].lower() if match else ""
        if self._has_turns:
            return ""
        if name == "retry":
            return self._session.undrawn_text
        return self._session.text if name in GOING_ON or self._session.choosing else ""

    def _cannot_edit(self) -> None:
        if self._lines.keeps_typing:
            self._show_wrong()
        else:
            note("The text stays as it was.")

    def _show_wrong(self) -> None:
        self.went_wrong = True
        text = f"{self._lines.place}A text cannot be changed in place here."
        self._view.show(Wrong(text, "Give the new one: /edit TEXT"))

    def _feed(self, line: str, prompt: str) -> tuple[bool, EditRequest | None]:
        """Show the events of one line; the second value is a text that the person may change."""
        event: ChatEvent | None = None
        request, has_drawn, goes_on = None, False, True
        self._signals.begin()
        try:
            with contextlib.closing(self._events(line)) as events:
                for event in events:
                    self._signals.waits = isinstance(event, Drawn)
                    self._show(event, prompt, line)
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
        self._end_early(has_drawn=has_drawn, is_told=isinstance(event, Said))
        return goes_on, request

    def _show(self, event: ChatEvent, prompt: str, line: str) -> None:
        """Show an event; a line that the model cannot read would be gone from the screen, had nobody shown it."""
        if isinstance(event, Given):
            self._is_on_screen = True
        if isinstance(event, Wrong):
            self._show_typed(prompt, line)
            self.went_wrong = True
            event = replace(event, text=self._lines.place + event.text)
        self._view.show(event)

    def _events(self, line: str) -> Generator[ChatEvent, None, None]:
        yield from self._session.feed(line)

    def _end_early(self, *, has_drawn: bool, is_told: bool) -> None:
        """Say that something was stopped, if a signal asked for it, and obey the signals that a person cannot send."""
        number = self._signals.number
        self._signals.begin()
        if number is None:
            return
        if number != signal.SIGINT or not self._has_person:
            obey(number)
        if not is_told:
            self._view.stopped(has_drawn=has_drawn)
