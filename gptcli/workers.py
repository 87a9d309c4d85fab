"""Workers that survey and encode spans of a corpus: as many processes as are wanted, else threads, in order.

They read the corpus themselves, so no process has to read it for all others.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from gptcli import survey
from gptcli.documents import Span
from gptcli.encode_job import Encoded, Stretch, Task, encode_stretch
from gptcli.encode_processes import EncodeProcesses, SurveyTask, survey_span, usable_cores
from gptcli.memory import machine_memory
from gptcli.shards import SplitName
from gptcli.survey import Found
from gptcli.tokenizer import Tokenizer

# Below, starting processes takes longer than they save.
SMALLEST_TEXT = 20_000_000
# More threads than this only wait for Python's lock, and each holds a stretch's tokens.
MAX_THREADS = 16
# More workers a core than this only take memory.
MOST_A_CORE = 2
# Twice what a worker holds at its most.
WORKER_BYTES = 250_000_000

_Job = TypeVar("_Job")
_Done = TypeVar("_Done")


class Workers:
    """``count`` workers, in ``processes`` or in threads of this one."""

    def __init__(self, count: int, processes: EncodeProcesses | None = None) -> None:
        self.count = count
        self._processes = processes

    def survey(self, path: Path, val_fraction: float, spans: Iterable[Span]) -> Iterator[Found]:
        """Survey spans of whole documents, and yield what each holds, in order."""
        task = SurveyTask(str(path), val_fraction, survey.STRETCH_CHARS)
        work = self._processes.survey if self._processes else survey_span
        return _in_order(spans, partial(work, task), self.count)

    def encode(
        self, stretches: Iterable[Stretch], task: Task, tokenizer: Tokenizer
    ) -> Generator[dict[SplitName, Encoded], None, None]:
        """Encode stretches, and yield what each gives, in order."""
        if self._processes is None:
            return _in_order(stretches, partial(encode_stretch, task=task, tokenizer=tokenizer), self.count)
        self._processes.open(task, tokenizer)
        return _in_order(stretches, self._processes.encode, self.count)


@contextlib.contextmanager
def begin_workers(wanted: int | None, n_bytes: int) -> Iterator[Workers]:
    """Begin ``wanted`` workers, else one for each core that may be used; threads where a text is short."""
    count = count_workers(wanted)
    with contextlib.ExitStack() as stack:
        processes = None
        if count > 1 and (wanted is not None or n_bytes >= SMALLEST_TEXT) and sys.executable:
            with contextlib.suppress(OSError):
                processes = stack.enter_context(EncodeProcesses(count))
        yield Workers(count if processes or wanted is not None else min(count, MAX_THREADS), processes)


def count_workers(wanted: int | None) -> int:
    """Return how many workers are begun where so many are wanted: no more than cores and memory are good for."""
    cores = usable_cores()
    held = max(1, (machine_memory() or sys.maxsize) // WORKER_BYTES)
    return min(cores, held) if wanted is None else min(wanted, MOST_A_CORE * cores, held)


def worker_note(wanted: int | None) -> str:
    """Return what there is to say where more workers are wanted than there are cores; mostly nothing."""
    cores, count = usable_cores(), count_workers(wanted)
    if wanted is None or wanted <= cores:
        return ""
    on = "is 1 core" if cores == 1 else f"are {cores} cores"
    begun = f", so {count} were begun" if count < wanted else ""
    return f"There {on} for {wanted:,} workers{begun}; more workers than cores make nothing faster."


def _in_order(jobs: Iterable[_Job], work: Callable[[_Job], _Done], threads: int) -> Generator[_Done, None, None]:
    """Run ``work`` on the jobs in threads and yield the results in order.

    At most two jobs a thread are under way, so memory does not grow with the corpus.
    """
    waiting: deque[Future[_Done]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
