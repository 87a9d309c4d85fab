"""Processes give what threads give, hand errors on, and are never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from gptcli import encode, encode_processes
from gptcli.config import DataConfig
from gptcli.encode_job import Piece, encode_job
from gptcli.encode_processes import EncodeProcesses
from gptcli.errors import CorpusError, TokenizerError
from gptcli.prepare import prepare
from gptcli.tokenizer import char_tokenizer
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


def token_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_processes_make_the_very_files_that_threads_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(text, "utf-8")
    assert run_cli(tmp_path, "fetch", "texts").code == 0
    monkeypatch.setattr(encode, "JOB_CHARS", 3000)
    corpora, data = tmp_path / "corpora", DataConfig(tokenizer=tokenizer)
    by_threads = prepare("texts", data, corpora_dir=corpora)
    expected = token_files(by_threads.folder)
    monkeypatch.setattr(encode_processes, "SMALLEST_TEXT", 0)
    monkeypatch.setattr(encode_processes, "usable_cores", lambda: 2)
    by_processes = prepare("texts", data, corpora_dir=corpora, force=True)
    assert by_processes.manifest.train == by_threads.manifest.train
    assert token_files(by_processes.folder) == expected


def test_an_error_in_a_process_is_raised_here_with_its_hint_and_the_next_job_is_done() -> None:
    tokenizer = char_tokenizer(["abc"], end_of_text=True)
    good = [Piece("train", "cab", separated=False)]
    with EncodeProcesses(1) as processes:
        processes.open(tokenizer, indexed=False)
        with pytest.raises(TokenizerError, match="knows the 3 characters") as raised:
            processes.encode([Piece("train", "xyz", separated=False)])
        assert "gptcli prepare" in raised.value.hint
        found, expected = processes.encode(good), encode_job(good, tokenizer, indexed=False)
    assert found["train"].ids.tolist() == expected["train"].ids.tolist() == [2, 0, 1]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_process_that_the_system_ends_is_an_error_that_says_so() -> None:
    with EncodeProcesses(1) as processes:
        processes.open(char_tokenizer(["abc"], end_of_text=True), indexed=False)
        processes._all[0].kill()
        processes._all[0].wait()
        with pytest.raises(CorpusError, match="ended by signal 9"):
            processes.encode([Piece("train", "cab", separated=False)])


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
    (tmp_path / "long.txt").write_text(lines * (1 + encode_processes.SMALLEST_TEXT // len(lines)), "utf-8")
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
