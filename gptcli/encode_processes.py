"""Processes that encode jobs, because Python's lock lets the threads of one process do little at the same time.

Each takes jobs from its stdin and ends with it, however the process that began it ended. Knows neither documents nor
files.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from gptcli.encode_job import Encoded, Piece, encode_job
from gptcli.encode_messages import encoded_from, error_from, error_to, job_from, read_message, write_message
from gptcli.errors import CorpusError, GptcliError
from gptcli.shards import SplitName
from gptcli.tokenizer import Tokenizer, from_json

# Below, starting them takes longer than they save.
SMALLEST_TEXT = 20_000_000
# The one reader of documents keeps about three busy.
MOST = 4
SECONDS_TO_END = 10


class EncodeProcesses:
    """Begins ``count`` processes, which get ready until ``open`` gives them a tokenizer; ends them as a context."""

    def __init__(self, count: int) -> None:
        # With this process's own path: a numpy.py in the current folder is none of ours.
        code = f"import sys; sys.path[:] = {sys.path!r}; from gptcli.encode_processes import serve; serve()"
        self.count = count
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self._all.append(_begin(code))
        except OSError:
            self._end()
            raise

    def open(self, tokenizer: Tokenizer, *, indexed: bool) -> None:
        """Give all of them the tokenizer, and say whether the n-grams of train are wanted."""
        wanted = {"tokenizer": tokenizer.to_json(), "indexed": indexed}
        for process in self._all:
            _send(process, wanted)
            self._free.put(process)

    def encode(self, job: list[Piece]) -> dict[SplitName, Encoded]:
        """Have a free process do what ``encode_job`` does, and raise what it raises; from up to ``count`` threads."""
        process = self._free.get()
        try:
            _send(process, job)
            answer = _receive(process)
        finally:
            self._free.put(process)
        if "error" in answer:
            raise error_from(answer["error"])
        return encoded_from(answer["encoded"])

    def __enter__(self) -> EncodeProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._all:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    assert pipe is not None
                    pipe.close()
        for process in self._all:
            _wait_or_kill(process)


def encode_processes(n_bytes: int) -> contextlib.AbstractContextManager[EncodeProcesses | None]:
    """Return processes for a text of so many bytes; None where threads are as good, or no process can be begun."""
    count = min(MOST, usable_cores())
    if n_bytes >= SMALLEST_TEXT and count > 1 and sys.executable:
        with contextlib.suppress(OSError):
            return EncodeProcesses(count)
    return contextlib.nullcontext()


def usable_cores() -> int:
    """Return how many cores this process may use, in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def serve() -> None:
    """Answer jobs from stdin with their tokens, or with the user's error in them, until it is closed."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    # What a library prints is no answer.
    sys.stdout = sys.stderr
    with contextlib.suppress(EOFError, BrokenPipeError):
        wanted = read_message(source)
        tokenizer = from_json(wanted["tokenizer"], "the tokenizer in use")
        while True:
            job = job_from(read_message(source))
            answer: dict[str, Any]
            try:
                answer = {"encoded": encode_job(job, tokenizer, indexed=wanted["indexed"])}
            except GptcliError as error:
                answer = {"error": error_to(error)}
            write_message(sink, answer)


def _begin(code: str) -> subprocess.Popen[bytes]:
    """Begin a process that a terminal's Ctrl-C does not reach: it ends with its stdin."""
    group = 0
    if sys.platform == "win32":
        group = subprocess.CREATE_NEW_PROCESS_GROUP
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        creationflags=group,
    )


def _send(process: subprocess.Popen[bytes], message: object) -> None:
    assert process.stdin is not None
    try:
        write_message(process.stdin, message)
    except BrokenPipeError as error:
        raise _ended(process) from error


def _receive(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        answer: dict[str, Any] = read_message(process.stdout)
    except EOFError as error:
        raise _ended(process) from error
    return answer


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ended(process: subprocess.Popen[bytes]) -> CorpusError:
    code = process.wait(SECONDS_TO_END)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return CorpusError(
        f"A process that encodes the text {how}; nothing was changed.",
        "Where the system does so, there is mostly too little memory: close other programs, then run it again.",
    )
