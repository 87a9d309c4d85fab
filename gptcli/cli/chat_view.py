"""What a person sees of a chat: the text on stdout as it comes, everything about it on stderr.

It knows the events of a session and how wide the window is; it asks nothing and decides nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import RenderableType
from rich.status import Status
from rich.table import Table
from rich.text import Text

from gptcli.chat.events import ChatEvent, Choices, Columns, Drawn, Ended, Given, Ranked, Said, Wrong
from gptcli.cli.common import note, show_error
from gptcli.display import stderr_console
from gptcli.figures import visible
from gptcli.text_stream import open_text_stream

NARROW = 70
BAR = 24
MIN_LINES = 5
SILENT = 8
MIN_NAME = 8
TAIL = 40
PIPE_SECONDS = 0.05
ELLIPSIS = "\u2026"


class ChatView:
    """Shows events: ``given`` and ``drawn`` text through one stream, the rest beside it.

    Off a terminal stdout is the text as it grows; a line of three dashes stands where it begins anew. ``has_person``
    says that somebody types meanwhile, and may see the text come out of a pipe.
    """

    def __init__(self, *, has_person: bool = False) -> None:
        self._text = open_text_stream()
        self._live = sys.stdout.isatty()
        self._shares_screen = has_person and not self._live and _is_pipe()
        self._last = self._before = ""
        self._silent = 0
        self._counter: Status | None = None
        self._is_open = self._was_cut = self._is_anew = self._was_anew = self._has_reply = False

    def begin(self, *, anew: bool, before: str = "") -> None:
        """Get ready for what a line brings: text that goes on, or that begins anew unless the line is a mistake.

        In a terminal a reply on a line of its own begins with the last words of ``before``.
        """
        self._was_anew = self._is_anew
        self._is_anew = self._is_anew or anew
        self._before = tail_of(before) if self._live else ""

    def show(self, event: ChatEvent) -> None:
        """Show one event; what needs an answer of the person (EditRequest, Leave) shows nothing."""
        if isinstance(event, Drawn) and not event.text:
            self._count()
            return
        self._end_count()
        if isinstance(event, Given):
            self._before = ""
            self._write(self._text.given, self._fitting(event.text))
        elif isinstance(event, Drawn):
            self._has_reply = self._has_reply or bool(event.text.strip())
            self._show_before()
            self._write(self._text.drawn, event.text)
        elif isinstance(event, Ended):
            self._end(event)
        else:
            self.end_line()
            self._show_aside(event)

    def typed(self, prompt: str, line: str) -> None:
        """Show a line that the person sent and that is no longer on the screen."""
        self._print(Text(visible(prompt + line), style="dim"))

    def stopped(self, *, has_drawn: bool) -> None:
        """Say that something was stopped, and of a reply how to go on."""
        self.end_line()
        note("Stopped. What is there is kept: /more goes on, /undo takes it back." if has_drawn else "Stopped.")

    def end_line(self) -> None:
        """End a line of text that is not ended, so that something else can be shown in a terminal."""
        self._end_count()
        if not self._is_open:
            return
        if self._live:
            self._text.end()
            self._is_open, self._was_cut = False, True
        elif self._shares_screen:
            # What reads the pipe, such as tee, shows the text on this screen, a moment later than it was written.
            time.sleep(PIPE_SECONDS)
            self._print(Text())
            self._is_open = False

    def close(self) -> None:
        """End the last line of the text."""
        self._end_count()
        self._text.end()

    def _count(self) -> None:
        """Count tokens that come without a text, as those of /best-of do, in a line that goes away again."""
        self._silent += 1
        console = stderr_console()
        if self._counter is None and self._silent == SILENT and console.is_interactive and not self._is_open:
            self._counter = console.status("")
            self._counter.start()
        if self._counter is not None:
            self._counter.update(Text(f"Drawing, {self._silent:,} tokens. Ctrl-C stops it."))

    def _end_count(self) -> None:
        self._silent = 0
        if self._counter is not None:
            self._counter.stop()
            self._counter = None

    def _fitting(self, text: str) -> str:
        """Return what a window can show of the end of a text that may be a whole book, such as /load brings."""
        if not self._live:
            return text
        columns, lines = shutil.get_terminal_size()
        room = max(MIN_LINES, lines - MIN_LINES)
        end = "\n".join(text[-room * columns :].split("\n")[-room:])
        if len(end) < len(text):
            self.end_line()
            note(f"The end of a text of {len(text):,} characters:")
            self._was_cut = False
        return end

    def _write(self, write: Callable[[str], None], text: str) -> None:
        if not text:
            return
        if self._is_anew:
            self._separate()
        if self._was_cut:
            # A line was ended for the sake of the reader; what the text has there would be one too many.
            text, self._was_cut = text[1:] if text[0] in " \n" else text, False
        if text:
            write(text)
            self._last, self._is_open = text[-1], text[-1] != "\n"

    def _separate(self) -> None:
        self._is_anew = False
        if self._last and not self._live:
            self._text.end()
            self._text.given("---\n")

    def _show_before(self) -> None:
        """Show what the reply goes on from; what stands on the screen already is not shown again."""
        before, self._before = self._before, ""
        if before and not self._is_open:
            self._was_cut = False
            self._write(self._text.given, before)

    def _end(self, event: Ended) -> None:
        self.end_line()
        if not self._has_reply and event.finish_reason == "end_of_text":
            note("The model ended the text here. /retry draws another.")
        self._has_reply = False

    def _show_aside(self, event: ChatEvent) -> None:
        if isinstance(event, Said):
            note(event.text)
        elif isinstance(event, Wrong):
            self._is_anew = self._was_anew
            show_error(event.text, event.hint)
        elif isinstance(event, Columns):
            self._columns(event)
        elif isinstance(event, Ranked):
            self._ranked(event)
        elif isinstance(event, Choices):
            self._choices(event)

    def _columns(self, event: Columns) -> None:
        """Show two texts side by side, or in a narrow window and off a terminal one after the other."""
        console = stderr_console()
        texts = ((event.left_title, event.left), (event.right_title, event.right))
        if not console.is_interactive or console.width < NARROW:
            for title, text in texts:
                self._print(Text(visible(title), style="bold"))
                self._print(Text(visible(text)))
            return
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="bold")
        for title, _ in texts:
            table.add_column(Text(visible(title)), ratio=1, overflow="fold")
        table.add_row(*(Text(visible(text)) for _, text in texts))
        self._print(table)

    def _ranked(self, event: Ranked) -> None:
        """Show tokens in quotes, their probabilities, and in a terminal bars."""
        most = max((share for _, share in event.rows), default=0.0) or 1.0
        table = Table.grid(padding=(0, 2))
        table.add_column(overflow="fold")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for text, share in event.rows:
            quoted = json.dumps(visible(text), ensure_ascii=False)
            if not self._is_screen():
                self._print(Text(f"{_percent(share):>6}  {quoted}"))
            table.add_row(Text(quoted), Text(_percent(share)), Text(_bar(share / most), style="dim"))
        if self._is_screen():
            self._print(table)

    def _choices(self, event: Choices) -> None:
        """Show texts behind their numbers, the lines of each below one another, and above what they go on from."""
        if self._before:
            self._print(Text(visible(self._before), style="dim"))
        for number, text in enumerate(event.texts, start=1):
            shown = visible(text).strip("\n")
            if not self._is_screen():
                self._print(Text(f"{number}  " + shown.replace("\n", "\n   ")))
                continue
            row = Table.grid(padding=(0, 2))
            row.add_row(Text(str(number), style="bold"), Text(shown, overflow="fold"))
            self._print(row)

    def _is_screen(self) -> bool:
        return stderr_console().is_interactive

    def _print(self, shown: RenderableType) -> None:
        console = stderr_console()
        console.print(shown, soft_wrap=not console.is_interactive and isinstance(shown, Text))


def status_text(name: str, facts: Sequence[str], now: Sequence[str], width: int) -> str:
    """Lay out the line of status for ``width`` columns: ``facts`` leave a narrow one first, then the name is cut.

    Then ``now`` leaves it, the last first.
    """
    kept, changing = list(facts), list(now)
    while True:
        rest = "".join(f" \u00b7 {fact}" for fact in (*kept, *changing))
        room = width - len(rest) - 2
        if kept and len(name) > room:
            del kept[0]
        elif changing and room < min(len(name), MIN_NAME):
            del changing[-1]
        else:
            break
    room = max(1, room)
    return f" {name if len(name) <= room else name[: room - 1] + ELLIPSIS}{rest}"


def tail_of(text: str) -> str:
    """Return the last words of the last line of a text; empty where another line begins."""
    line = text.rpartition("\n")[2]
    if len(line) > TAIL:
        line = f"{ELLIPSIS} {line[-TAIL:].partition(' ')[2] or line[-TAIL:]}"
    return line if line.strip(f" {ELLIPSIS}") else ""


def _is_pipe() -> bool:
    """Say whether stdout goes to another program."""
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    return False


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def _bar(share: float) -> str:
    """Draw a share of the longest bar in eighths of a column."""
    eighths = round(8 * BAR * share)
    return "\u2588" * (eighths // 8) + " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"[eighths % 8].strip()
