"""Preparing more text takes next to no more memory: what each document costs is held to a few bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.documents import document, write_documents

A_DOCUMENT = 60
# Of memory that comes and goes: pieces of text, their tokens, and what malloc keeps.
SLACK = 15_000_000

MEASURE = """
import sys
from pathlib import Path
from gptcli.config import DataConfig
from gptcli.prepare import prepare
manifest = prepare(sys.argv[2], DataConfig(tokenizer="char"), corpora_dir=Path(sys.argv[1]), workers=1).manifest
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(manifest.train.documents + manifest.val.documents, int(peak) * 1024)
"""


def peak_of(corpora: Path, name: str, count: int) -> int:
    """Return the peak of a process that prepares so many short documents, one of which is there twice."""
    (corpora / name).mkdir()
    with (corpora / name / "documents.jsonl").open("wb") as file:
        write_documents(file, (document(f"Number {number} says that it is one.\n" * 12) for number in range(count)))
        write_documents(file, [document("Number 7 says that it is one.\n" * 12)])
    command = [sys.executable, "-c", MEASURE, str(corpora), name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    documents, peak = map(int, done.stdout.split())
    assert documents == count
    return peak


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process as Linux tells it")
def test_ten_times_the_text_costs_sixty_bytes_a_document_and_nothing_else(tmp_path: Path) -> None:
    few, many = 8_000, 80_000
    grown = peak_of(tmp_path, "many", many) - peak_of(tmp_path, "few", few)
    # 29 MB of text, and as many tokens of two bytes.
    assert grown < A_DOCUMENT * (many - few) + SLACK
