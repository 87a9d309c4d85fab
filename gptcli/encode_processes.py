"""Processes that survey and encode, because Python's lock lets the threads of one process do little at the same time.

Each takes jobs from its stdin and ends with it, however the process that began it ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

from gptcli.documents import Span, placed_documents
from gptcli.encode_job import Encoded, Stretch, Task, encode_stretch
from gptcli.encode_messages import encoded_from, error_from, error_to, read_message, stretch_from, write_message
from gptcli.errors import GptcliError, UnfinishedError
from gptcli.memory import cgroup_quotas
from gptcli.shards import SplitName
from gptcli.survey import Found, survey_documents
from gptcli.tokenizer import Tokenizer, from_json

SECONDS_TO_END = 10


class SurveyTask(NamedTuple):
    """What all spans of a survey have in common; see ``survey_documents``."""

    path: str
    val_fraction: float
    stretch_chars: int


def survey_span(task: SurveyTask, span: Span) -> Found:
    """Read a span of whole documents once; raises ``FormatError`` for damaged ones."""
    return survey_documents(placed_documents(Path(task.path), span), task.val_fraction, task.stretch_chars)


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
                self._free.put(self._all[-1])
        except OSError:
            self._end()
            raise

    def survey(self, task: SurveyTask, span: Span) -> Found:
        """Have a free process do what ``survey_span`` does, and raise what it raises; from up to ``count`` threads."""
        return Found(*self._ask({"survey": task, "span": span}))

    def open(self, task: Task, tokenizer: Tokenizer) -> None:
        """Tell all of them, while they are free, what is to be encoded and how."""
        for process in self._all:
            _send(process, {"task": task, "tokenizer": tokenizer.to_json()})

    def encode(self, stretch: Stretch) -> dict[SplitName, Encoded]:
        """Have a free process do what ``encode_stretch`` does, as ``survey`` has."""
        return encoded_from(self._ask({"stretch": stretch}))

    def _ask(self, job: dict[str, Any]) -> Any:  # noqa: ANN401 - each job has an answer of its own
        process = self._free.get()
        try:
            _send(process, job)
            answer = _receive(process)
        finally:
            self._free.put(process)
        if "error" in answer:
            raise error_from(answer["error"])
        return answer["done"]

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


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, in a container often fewer than the machine has.

    ``root`` is where ``proc`` and ``sys`` lie.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min([cores, *(max(1, round(quota)) for quota in cgroup_quotas(root))])


def serve() -> None:
    """Answer jobs from stdin with what comes of them, or with the user's error in them, until it is closed."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    # What a library prints is no answer.
    sys.stdout = sys.stderr
    task, tokenizer = None, None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            job = read_message(source)
            if "tokenizer" in job:
                task, tokenizer = Task(*job["task"]), from_json(job["tokenizer"], "the tokenizer in use")
                continue
            answer: dict[str, Any]
            try:
                if "survey" in job:
                    answer = {"done": survey_span(SurveyTask(*job["survey"]), Span(*job["span"]))}
                else:
                    assert task is not None
                    assert tokenizer is not None
                    answer = {"done": encode_stretch(stretch_from(job["stretch"]), task, tokenizer)}
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
    except OSError as error:  # a broken pipe; Windows calls it an invalid argument
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


def _ended(process: subprocess.Popen[bytes]) -> UnfinishedError:
    code = process.wait(SECONDS_TO_END)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return UnfinishedError(
        f"A process that reads the text {how}; the tokens that were there are as they were.",
        "Where the system does so, there is mostly too little memory: close other programs, or take fewer --workers. "
        "The same command goes on after the last whole shard.",
    )
