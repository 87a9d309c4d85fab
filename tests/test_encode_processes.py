"""Processes hand errors on, and are never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from gptcli.documents import Span, document, write_documents
from gptcli.encode_job import Stretch, Task, encode_stretch
from gptcli.encode_processes import EncodeProcesses, SurveyTask
from gptcli.errors import CorpusError, FormatError, TokenizerError
from gptcli.split import Before
from gptcli.tokenizer import char_tokenizer
from gptcli.workers import SMALLEST_TEXT
from tests.cli.conftest import run_cli

TEXTS = [text for _, text in sorted(topics.items())][:20]
LEAVE_ONE_BEHIND = """
import os, signal
from gptcli.encode_processes import EncodeProcesses
processes = EncodeProcesses(1)
print(processes._all[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def task_and_stretch(path: Path, text: str) -> tuple[Task, Stretch]:
    """Write a corpus of one text, and return what a process is told to encode it."""
    with path.open("wb") as file:
        write_documents(file, [document(text)])
    stretch = Stretch(Span(0, path.stat().st_size, 1), Before(), np.zeros(1, np.uint8), [])
    return Task(str(path), "document", 0.1, None, indexed=False), stretch


def test_an_error_in_a_process_is_raised_here_with_its_hint_and_the_next_job_is_done(tmp_path: Path) -> None:
    tokenizer = char_tokenizer(["abc"], end_of_text=True)
    path = tmp_path / "documents.jsonl"
    with EncodeProcesses(1) as processes:
        task, stretch = task_and_stretch(path, "xyz")
        processes.open(task, tokenizer)
        with pytest.raises(TokenizerError, match="knows the 3 characters") as raised:
            processes.encode(stretch)
        assert "gptcli prepare" in raised.value.hint
        _, stretch = task_and_stretch(path, "cab")
        found, expected = processes.encode(stretch), encode_stretch(stretch, task, tokenizer)
        survey = SurveyTask(str(path), 0.1, 1000)
        surveyed = processes.survey(survey, stretch.span)
        path.write_bytes(b"{}\n")
        with pytest.raises(FormatError, match=r"documents\.jsonl:1: this line is damaged"):
            processes.survey(survey, stretch.span)
    assert found["train"].ids.tolist() == expected["train"].ids.tolist() == [3, 2, 0, 1]
    assert surveyed.sizes.tolist() == [3]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_process_that_the_system_ends_is_an_error_that_says_so(tmp_path: Path) -> None:
    task, stretch = task_and_stretch(tmp_path / "documents.jsonl", "cab")
    with EncodeProcesses(1) as processes:
        processes.open(task, char_tokenizer(["abc"], end_of_text=True))
        processes._all[0].kill()
        processes._all[0].wait()
        with pytest.raises(CorpusError, match="ended by signal 9"):
            processes.encode(stretch)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_process_outlives_the_one_that_began_it_even_killed() -> None:
    begun = subprocess.run([sys.executable, "-c", LEAVE_ONE_BEHIND], capture_output=True, text=True, check=False)
    assert begun.returncode == -signal.SIGKILL
    pid, deadline = int(begun.stdout), time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
    assert begun.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_while_processes_encode_leaves_no_tokens_and_no_traceback(tmp_path: Path) -> None:
    lines = "".join(f"{number} {text}" for number in range(80) for text in TEXTS)
    (tmp_path / "long.txt").write_text(lines * (1 + SMALLEST_TEXT // len(lines)), "utf-8")
    assert run_cli(tmp_path, "fetch", "long.txt").code == 0
    command = [sys.executable, "-m", "gptcli", "prepare", "long", "--tokenizer", "bpe:300"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        tokens = tmp_path / "corpora" / "long" / "tokens"
        while process.poll() is None and not list(tokens.glob(".*/*.bin")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not list((tmp_path / "corpora" / "long").glob("tokens/*/manifest.json"))
