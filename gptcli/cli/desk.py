"""Where the lines of a chat come from: a terminal with line editing, a bare terminal, or a pipe.

It owns how a person types and what is remembered of it. It knows nothing of models, sessions or what a line means.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from gptcli.errors import SourceError

BARE_TERMINALS = {"", "dumb", "unknown"}
MENU_LINES = 5
EDITING = " Enter takes it, Ctrl-C leaves it as it was"
Suggest = Callable[[str], Iterable[tuple[str, int, str]]]
"""For what stands before the cursor: texts to put in, how many characters each replaces, and what to say of it."""


class Lines(Protocol):
    """Lines as they come, and a text that the person may change."""

    @property
    def keeps_typing(self) -> bool:
        """Whether a typed line stays on the screen."""

    @property
    def took_back(self) -> bool:
        """Whether a Ctrl-C took typed text back since the last line was asked for."""

    @property
    def place(self) -> str:
        """Where the last line stands, as the beginning of a message about it; empty where a person knows."""

    def read(self, prompt: str) -> str:
        """Return the next line; ``EOFError`` at the end, ``KeyboardInterrupt`` for a Ctrl-C on an empty line."""

    def edit(self, text: str) -> str | None:
        """Return ``text`` as the person changed it; None when that is not wanted, or cannot be done here."""


def has_keyboard() -> bool:
    """Say whether a person types, and not a pipe, a file or nobody at all."""
    return sys.stdin is not None and sys.stdin.isatty()


def can_edit() -> bool:
    """Say whether there is a keyboard and a screen that understands cursor movements."""
    if sys.platform != "win32" and os.environ.get("TERM", "") in BARE_TERMINALS:
        return False
    return has_keyboard() and (sys.stdout.isatty() or sys.stderr.isatty())


class PipedLines:
    """Lines of a pipe, or of the file that is named, as they come."""

    keeps_typing = True
    took_back = False

    def __init__(self, lines: Iterable[str], name: str | None = None) -> None:
        self._lines = iter(lines)
        self._name, self._number = name, 0

    @property
    def place(self) -> str:
        """The name of a file, and the number of the line."""
        return "" if self._name is None else f"{self._name}, line {self._number}: "

    def read(self, prompt: str) -> str:  # noqa: ARG002 - nobody is there to read it
        """Return the next line."""
        try:
            line = next(self._lines)
        except StopIteration:
            raise EOFError from None
        self._number += 1
        return line

    def edit(self, text: str) -> str | None:  # noqa: ARG002 - nobody is there to change it
        """Return None: a pipe cannot change what it has not seen."""
        return None


def stdin_lines() -> Iterator[str]:
    """Yield the lines of stdin without their ends, each when it is there; ``SourceError`` for one that is no UTF-8."""
    raw_lines = iter(sys.stdin.buffer.readline, b"") if sys.stdin is not None else iter(())
    for number, raw in enumerate(raw_lines, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"Line {number} of stdin is not UTF-8 text (byte {error.start}).",
                "Put the prompts into a file: gptcli chat --prompt-file FILE --encoding cp1252",
            ) from error
        yield line.removesuffix("\n").removesuffix("\r")


class BareLines:
    """Lines typed into a terminal that cannot move its cursor: no editing but the terminal's own."""

    keeps_typing = True
    took_back = False
    place = ""

    def read(self, prompt: str) -> str:
        """Ask on the screen and return what was typed."""
        screen = sys.stdout if sys.stdout.isatty() else sys.stderr
        screen.write(prompt)
        screen.flush()
        raw = sys.stdin.buffer.readline()
        if not raw:
            screen.write("\n")
            raise EOFError
        return raw.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")

    def edit(self, text: str) -> str | None:  # noqa: ARG002 - it cannot be shown for changing
        """Return None: a text cannot be changed in place here."""
        return None


class _Asker(Protocol):
    """What is used of prompt_toolkit's ``PromptSession``, which is slow to import."""

    def prompt(self, message: str, *, default: str = "") -> str:
        """Let the person type, beginning with ``default``."""


class EditedLines:
    """Lines typed into a real terminal: editing, history, several lines in one, completion and a line of status.

    Enter sends, Alt-Enter and Ctrl-J begin another line; pasted text stays one input. A Ctrl-C takes back what was
    typed, on an empty line it is ``KeyboardInterrupt``. What was typed is wiped from the screen when it is sent.
    ``status`` is asked for a line that fits into so many columns.
    """

    keeps_typing = False
    place = ""

    def __init__(self, history: Path | None, suggest: Suggest, status: Callable[[int], str]) -> None:
        self.took_back = False
        self._asker = _make_asker(history, suggest, status, self._takes_back)
        self._editor: _Asker | None = None

    def read(self, prompt: str) -> str:
        """Let the person type."""
        self.took_back = False
        return _without_halves(self._asker.prompt(prompt))

    def edit(self, text: str) -> str | None:
        """Let the person change ``text``; None after a Ctrl-C or Ctrl-D, and when nothing is left of it."""
        if self._editor is None:
            self._editor = _make_asker(None, None, lambda _: EDITING, lambda _: False)
        try:
            return _without_halves(self._editor.prompt("edit> ", default=text)) or None
        except (EOFError, KeyboardInterrupt):
            return None

    def _takes_back(self, text: str) -> bool:
        """Say whether a Ctrl-C takes back what was typed, rather than being one to leave."""
        self.took_back = self.took_back or bool(text)
        return bool(text)


def _without_halves(text: str) -> str:
    """Replace typed bytes that are no UTF-8, which arrive as halves of surrogate pairs."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _make_asker(
    history: Path | None,
    suggest: Suggest | None,
    status: Callable[[int], str],
    takes_back: Callable[[str], bool],
) -> _Asker:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.output import create_output
    from prompt_toolkit.styles import Style

    return PromptSession(
        history=_history(history),
        completer=None if suggest is None else _completer(suggest),
        complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
        reserve_space_for_menu=MENU_LINES,
        key_bindings=_key_bindings(takes_back),
        multiline=True,
        prompt_continuation=lambda width, number, wrapped: " " * width,  # noqa: ARG005 - what prompt_toolkit passes
        bottom_toolbar=lambda: status(get_app().output.get_size().columns),
        style=Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack"}),
        erase_when_done=True,
        enable_suspend=True,
        output=create_output(always_prefer_tty=True),
    )


def _key_bindings(takes_back: Callable[[str], bool]) -> Any:  # noqa: ANN401 - KeyBindings
    from prompt_toolkit.filters import is_searching
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent

    bindings = KeyBindings()

    @bindings.add("enter", filter=~is_searching)
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    @bindings.add("c-j", filter=~is_searching)
    def _begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c", filter=~is_searching)
    @bindings.add("<sigint>")
    def _interrupt(event: KeyPressEvent) -> None:
        if takes_back(event.current_buffer.text):
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return bindings


def _completer(suggest: Suggest) -> Any:  # noqa: ANN401 - a Completer
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class Suggestions(Completer):
        """What ``suggest`` knows, in prompt_toolkit's terms."""

        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:  # noqa: ARG002
            for text, replaced, said in suggest(document.text_before_cursor):
                yield Completion(text, start_position=-replaced, display_meta=said)

    return Suggestions()


def _history(path: Path | None) -> Any:  # noqa: ANN401 - a History
    """Return the lines of earlier sessions, kept in a file that only its owner reads; None keeps them in memory."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if path is None:
        return InMemoryHistory()

    folder = path.parent

    class PrivateHistory(FileHistory):
        """A history that is a convenience: a file that cannot be read or written is no reason to stop."""

        def load_history_strings(self) -> Iterable[str]:
            with contextlib.suppress(OSError):
                return list(super().load_history_strings())
            return []

        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError, UnicodeError):
                folder.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self.filename, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600))
                super().store_string(string)

    return PrivateHistory(str(path))


@contextlib.contextmanager
def quiet_keys() -> Iterator[None]:
    """Keep what is typed while a reply is drawn for the next line, instead of letting the terminal show it at once.

    Ctrl-C stays a signal. Does nothing where there is no such terminal.
    """
    if sys.platform == "win32" or not has_keyboard():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = termios.tcgetattr(descriptor)
    quiet[0] &= ~termios.ICRNL
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
