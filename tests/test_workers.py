"""How many workers there are, and that what they do comes in order."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from gptcli.documents import Document, Span, document, write_documents
from gptcli.encode_job import Stretch, Task
from gptcli.encode_processes import usable_cores
from gptcli.errors import TokenizerError
from gptcli.split import Before
from gptcli.tokenizer import char_tokenizer
from gptcli.workers import MOST_A_CORE, Workers, begin_workers, count_workers, worker_note


def encode_lines(folder: Path, items: list[Document], workers: Workers) -> list[int]:
    """Encode a corpus a line at a time, and return the first id of each."""
    path, spans, at = folder / "documents.jsonl", [], 0
    with path.open("wb") as file:
        for number, item in enumerate(items, 1):
            write_documents(file, [item])
            spans.append(Span(at, file.tell(), number))
            at = file.tell()
    stretches = (Stretch(span, Before(), np.zeros(1, np.uint8), []) for span in spans)
    tokenizer = char_tokenizer(["0123456789"], end_of_text=False)
    task = Task(str(path), "document", 0.1, None, indexed=False)
    return [int(part["train"].ids[0]) for part in workers.encode(stretches, task, tokenizer)]


@pytest.mark.parametrize("wanted", [1, 2])
def test_what_workers_do_comes_in_order(tmp_path: Path, wanted: int) -> None:
    # Long ones among short ones, so that they are done out of order.
    items = [document(str(number % 10) * (200_000 if number % 3 else 1)) for number in range(30)]
    with begin_workers(wanted, 0) as workers:
        assert encode_lines(tmp_path, items, workers) == [number % 10 for number in range(30)]


def test_an_error_in_a_thread_reaches_the_caller(tmp_path: Path) -> None:
    items = [document("1")] * 50
    with pytest.raises(TokenizerError, match="'z'"):
        encode_lines(tmp_path, [*items, document("zebra"), *items], Workers(3))


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "20000 100000"}, 1),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_a_container_has_as_many_cores_as_its_quota(
    tmp_path: Path, group: str, files: dict[str, str], cores: int | None
) -> None:
    for name, text in {"proc/self/cgroup": group, **{f"sys/fs/cgroup/{name}": files[name] for name in files}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n", "utf-8")
    assert usable_cores(tmp_path) == (cores or usable_cores(tmp_path / "nowhere"))


@pytest.mark.skipif(sys.platform != "linux", reason="sets the cores that may be used")
def test_more_workers_than_cores_are_few_and_that_is_said() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert [count_workers(wanted) for wanted in (None, 1, 2, 500)] == [1, 1, 2, MOST_A_CORE]
        assert worker_note(None) == worker_note(1) == ""
        assert worker_note(2) == "There is 1 core for 2 workers; more workers than cores make nothing faster."
        assert ", so 2 were begun;" in worker_note(500)
    finally:
        os.sched_setaffinity(0, cores)
