"""What the commands share: options, the answer to errors, and the two streams.

stdout carries data only; notes, progress and errors go to stderr. Knows no command and no procedure.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, ParamSpec, TextIO, TypeVar

import typer

from gptcli.cli.completion import complete_devices, complete_sources
from gptcli.errors import DeviceError, GptcliError, ProfileError, SourceError, is_out_of_memory

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails
    from rich.text import Text

P = ParamSpec("P")
R = TypeVar("R")

LOG_SECONDS = 5.0
LEAST_WIDTH = 24
# More of a value does not help to find it.
SHOWN_CHARACTERS = 60
EXIT_ERROR, EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 1, 129, 130, 141, 143

LEARN_IN_LESS = (
    "Halve train.batch_size and double train.grad_accum_steps, which learns the same: --set batch_size=8 "
    "--set grad_accum_steps=4. Or try --set gradient_checkpointing=true, --set block_size=128 or a smaller model."
)
WRITE_IN_LESS = "Try --quantize int8 or --dtype bfloat16, or a smaller model."
MEMORY_HINTS = {
    "train_command": LEARN_IN_LESS,
    "finetune_command": LEARN_IN_LESS,
    "bench_command": LEARN_IN_LESS,
    "sample_command": WRITE_IN_LESS,
    "chat_command": WRITE_IN_LESS,
    "suggest_command": "Other programs may hold it; on a GPU that is full, --device cpu suggests for the CPU.",
}

Say = Callable[[str], None]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and the result.")]
NewestCorpus = Annotated[
    str | None,
    typer.Argument(
        metavar="CORPUS",
        autocompletion=complete_sources,
        help="A fetched corpus, a recipe, or a text here; else the newest.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE", autocompletion=complete_devices, help="auto, cpu, cuda, cuda:N or mps.", show_default=False
    ),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Insist on an encoding such as cp1252 instead of finding out."),
]
CheckpointOption = Annotated[
    Literal["best", "latest"], typer.Option(help="The checkpoint with the lowest val_loss, or the last one.")
]


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a user can cause into a message on stderr and an exit code: 1, 130 for Ctrl-C, 141 for a closed pipe.

    Stands inside ``app.command``, so that tests through typer's runner see the same as a shell. Bugs pass through.
    """

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            _catch_ctrl_c()
            return command(*args, **kwargs)
        except GptcliError as error:
            _fail(error.message, error.hint)
        except KeyboardInterrupt as stop:
            _leave_interrupted(str(stop))
        except BrokenPipeError:
            _leave_broken_pipe()
        except OSError as error:
            if error.strerror is None:
                raise
            _fail(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.")
        except (MemoryError, RuntimeError) as error:
            # Python wraps a Ctrl-C that falls into the making of a class, as happens while a package is imported.
            if isinstance(error.__cause__, KeyboardInterrupt):
                _leave_interrupted()
            if not is_out_of_memory(error):
                raise
            _fail("There is not enough memory for this.", MEMORY_HINTS.get(command.__name__, ""))

    return guarded


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Keep the garbage collector away while torch is imported: its half a million objects stay, and looking through
    them again and again takes 0.2 s.

    Ctrl-C ends the process meanwhile, since an import may swallow what Python makes of it.
    """
    was_on = gc.isenabled()
    gc.disable()
    caught = signal.getsignal(signal.SIGINT) is signal.default_int_handler and _hears_signals()
    if caught:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if caught:
            _catch_ctrl_c()
        gc.freeze()
        if was_on:
            gc.enable()


def import_torch() -> None:
    """Import torch under ``importing``, for a command that is going to compute."""
    with importing():
        import torch  # noqa: F401 - whoever computes finds it there


def _catch_ctrl_c() -> None:
    """Make Ctrl-C a ``KeyboardInterrupt`` again, which ``gptcli.__main__`` and ``importing`` let end the process."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and _hears_signals():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _hears_signals() -> bool:
    """Say whether this thread may say what a signal does."""
    return threading.current_thread() is threading.main_thread()


def _fail(message: str, hint: str = "") -> NoReturn:
    show_error(message, hint)
    raise typer.Exit(EXIT_ERROR)


def _leave_interrupted(message: str = "") -> NoReturn:
    """End after a Ctrl-C, with a word of it unless the command has more to say."""
    with contextlib.suppress(OSError):
        note(message or "Interrupted.")
    raise typer.Exit(EXIT_INTERRUPTED) from None


def _leave_broken_pipe() -> NoReturn:
    """End quietly: whoever read us has what it wanted."""
    forget(sys.stdout)
    raise typer.Exit(EXIT_BROKEN_PIPE)


def forget(stream: TextIO) -> None:
    """Keep Python from flushing into a pipe or a terminal that is gone, which would change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show_error(message: str, hint: str = "") -> None:
    """Print an error and its hint on stderr."""
    from rich.text import Text

    from gptcli.display import stderr_console
    from gptcli.figures import visible

    console = stderr_console()
    wide = not console.is_terminal
    console.print(Text.assemble(("Error: ", "bold red"), visible(message)), soft_wrap=wide)
    if hint:
        console.print(Text(visible(hint)), soft_wrap=wide)


def note(text: str) -> None:
    """Print one line for a person on stderr."""
    from rich.text import Text

    from gptcli.display import stderr_console
    from gptcli.figures import visible

    console = stderr_console()
    console.print(Text(visible(text)), soft_wrap=not console.is_terminal)


def silent(text: str) -> None:
    """Print nothing, where ``--quiet`` asks for that."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is going on (``show``) and what stays to be read (``note``), so that neither spoils the other."""

    show: Callable[[str], None]
    note: Callable[[str], None]


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Show what is going on: a line kept up to date in a terminal, with a bar and the time left where the share is
    known; a plain line now and then elsewhere.

    Nothing when ``quiet``.
    """
    from rich.text import Text

    from gptcli.display import stderr_console
    from gptcli.figures import visible

    console = stderr_console()
    if quiet or not console.is_interactive:
        yield Progress(silent, silent) if quiet else Progress(_now_and_then(note), note)
        return
    from gptcli.display import ProgressLine

    line = ProgressLine()
    with console.status(line):
        yield Progress(line.show, lambda text: console.print(Text(visible(text))))


def _now_and_then(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that says at most a line in ``LOG_SECONDS``, so that a log is not filled with progress."""
    from gptcli.progress import Portion

    begun, last = time.monotonic(), -math.inf

    def show(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if isinstance(text, Portion) and now - begun < LOG_SECONDS:
            return  # what is done that soon is not worth a line
        if now - last >= LOG_SECONDS:
            last = now
            say(text)

    return show


def emit(value: dict[str, Any], line: str, *, as_json: bool) -> None:
    """Print the result of a command on stdout: ``value`` as one JSON object, or ``line`` (nothing when it is empty)."""
    if as_json:
        write_stdout(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False) + "\n")
    elif line:
        write_stdout(line + "\n")


def stdout_width() -> int | None:
    """Return the cells of a line of the terminal that stdout is; None where it is a pipe or a file."""
    from gptcli.display import stdout_console

    console = stdout_console()
    return console.width if console.is_terminal else None


def emit_lines(lines: Iterable[Text]) -> None:
    """Print lines on stdout: in colour and wrapped, between words where that can be, in a terminal; whole elsewhere."""
    from gptcli.display import stdout_console

    console = stdout_console()
    if not console.is_terminal:
        write_stdout("".join(f"{line.plain}\n" for line in lines))
        return
    for line in lines:
        console.print(line)


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most ``width`` cells, broken between words, or inside one that is longer."""
    from rich.text import Text

    from gptcli.display import stdout_console

    return [line.plain.rstrip() for line in Text(text).wrap(stdout_console(), max(1, width))]


def padded(text: str, width: int) -> str:
    """Return a text with spaces behind it up to ``width`` cells; a letter of Chinese takes two."""
    from rich.cells import cell_len

    return text + " " * (width - cell_len(text))


def emit_columns(rows: Sequence[tuple[Text, ...]]) -> None:
    """Print rows of columns on stdout, the last of which is wrapped inside itself in a terminal, and nowhere else.

    Where that would leave it less than ``LEAST_WIDTH`` cells, it stands below the others.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from gptcli.display import stdout_console

    console = stdout_console()
    widths = [max(row[place].cell_len for row in rows) for place in range(len(rows[0]) - 1)]
    if not console.is_terminal:
        for row in rows:
            first = "".join(f"{padded(cell.plain, width)}  " for cell, width in zip(row, widths, strict=False))
            emit_lines([Text(first + " ".join(row[-1].plain.split("\n")))])
        return
    if console.width - sum(widths) - 2 * len(widths) < LEAST_WIDTH:
        for row in rows:
            console.print(*row[:-1])
            console.print(Padding(row[-1], (0, 0, 0, 2)))
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in rows[0][:-1]:
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return ``value`` with paths as text and numbers that JSON does not have as null."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_stdout(text: str) -> None:
    """Write data to stdout at once: exact UTF-8 to a pipe or a file, control characters made visible to a terminal."""
    if sys.stdout.isatty():
        from gptcli.figures import visible

        sys.stdout.write(visible(text))
        sys.stdout.flush()
    else:
        from gptcli.text_stream import write_exactly

        write_exactly(text)


def read_text(where: str, encoding: str | None, what: str) -> str:
    """Read a text from a file, a pipe or ``-`` (stdin), saying which encoding was guessed.

    Nothing is guessed about stdin, which has to be UTF-8 unless ``encoding`` says otherwise; ``what`` names it in the
    error ("the prompt").
    """
    if where == "-" and encoding is None:
        try:
            return sys.stdin.buffer.read().decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{what[0].upper()}{what[1:]} on stdin is not UTF-8 text (byte {error.start}).",
                "Say in which encoding it is, such as --encoding cp1252.",
            ) from error
    from gptcli.fetch.local import read_text as read

    text, guess = read(where, encoding)
    if guess:
        note(guess)
    return text


def wrong_options(error: ValidationError, hint: str) -> ProfileError:
    """Make one error of all values that a section of the profile refused when options were laid over it."""
    problems = (f"--{name.replace('_', '-')}: {what}" for name, what in refused_values(error))
    return ProfileError("These options cannot be:", hint, tuple(problems))


def refused_values(error: ValidationError) -> list[tuple[str, str]]:
    """Return the name of every value that a section of the profile refused, and what is wrong with it."""
    return [(str(item["loc"][0]), _refusal(item)) for item in error.errors()]


def refusals(error: ValidationError) -> str:
    """Return what is wrong with a value that stands for itself, such as that of an option."""
    return "; ".join(map(_refusal, error.errors()))


def _refusal(item: ErrorDetails) -> str:
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    found = "" if item["type"] == "value_error" else f", found {shortened(repr(item['input']))}"
    return message.partition(", unable to parse")[0] + found


def shortened(text: str) -> str:
    """Return a text that may be megabytes as it can stand in a message."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def check_device(device: str | None) -> None:
    """Raise ``DeviceError`` for a word that is no device; whether the machine has it is found out later."""
    if device is None:
        return
    from pydantic import ValidationError

    from gptcli.config import TrainConfig

    try:
        TrainConfig(device=device)
    except ValidationError as error:
        raise DeviceError(
            f"{device!r} is not a device; choose auto, cpu, cuda, cuda:N or mps.",
            "Leave --device out to take the best.",
        ) from error
