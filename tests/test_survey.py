"""What a survey finds does not depend on how a corpus is cut into spans, and it holds little of each document."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli import documents
from gptcli.documents import Document, document, document_spans, placed_documents, write_documents
from gptcli.encode import stretches
from gptcli.errors import FormatError
from gptcli.split import plan_of, split_documents
from gptcli.survey import Survey, survey_documents

PARTED = st.lists(st.lists(st.sampled_from(["one", "two  words", "two words", "", "\n"]), min_size=1, max_size=4))


def corpus_of(texts: list[list[str]]) -> list[Document]:
    return [document(text, part=part) for parts in texts for part, text in enumerate(parts)]


def surveyed(path: Path, stretch_chars: int) -> tuple[Survey, list[int]]:
    """Survey a file span by span; returns the numbers of the lines that spans begin with too."""
    digest, survey, lines = hashlib.sha256(), Survey(), []
    for span in document_spans(path, digest):
        survey.add(survey_documents(placed_documents(path, span), 0.5, stretch_chars))
        lines.append(span.line)
    assert digest.digest() == hashlib.sha256(path.read_bytes()).digest()
    return survey, lines


@given(PARTED.filter(len), st.integers(1, 300), st.integers(1, 20), st.sampled_from(["document", "paragraph", 0.3]))
def test_spans_and_stretches_of_any_size_give_the_same_split(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[list[str]],
    span_bytes: int,
    stretch_chars: int,
    way: str | float,
) -> None:
    items = corpus_of(texts)
    path = tmp_path_factory.mktemp("survey") / "documents.jsonl"
    with path.open("wb") as file:
        write_documents(file, items)
    whole, _ = surveyed(path, 1 << 30)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(documents, "SPAN_BYTES", span_bytes)
        survey, lines = surveyed(path, stretch_chars)
    assert all(items[line - 1].part == 0 for line in lines)
    for one in (whole, survey):
        one.leave_out_duplicates()
    assert (survey.sides, survey.characters, survey.lengths) == (whole.sides, whole.characters, whole.lengths)
    settings = {"split_at": way} if isinstance(way, float) else {"mode": way}
    plan = plan_of(survey, val_fraction=0.5, **settings)
    expected = [(side, item.text, item.part > 0) for side, item in split_documents(items, plan)]
    found = []
    for stretch in stretches(plan, survey.begins(), path.stat().st_size):
        part = replace(plan, sides=stretch.sides.tobytes(), lengths=dict(stretch.lengths))
        lines_of = (item for _, item in placed_documents(path, stretch.span))
        found += [(side, item.text, item.part > 0) for side, item in split_documents(lines_of, part, stretch.before)]
    assert found == expected


def test_a_damaged_line_is_named_whatever_span_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "documents.jsonl"
    with path.open("wb") as file:
        write_documents(file, [document(f"number {number}") for number in range(40)])
        file.write(b'{"id": "0", "part": 1\n')
    monkeypatch.setattr(documents, "SPAN_BYTES", 200)
    with pytest.raises(FormatError, match=r"documents\.jsonl:41: this line is damaged"):
        surveyed(path, 100)


# Surveys as many documents as asked for, and tells what each has cost at the most, in bytes.
MEASURE = """
import sys
import numpy as np
from gptcli.split import plan_of
from gptcli.survey import Found, Survey

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

count, survey, rng, none = int(sys.argv[1]), Survey(), np.random.default_rng(1), np.zeros((0, 2), np.int64)
np.unique(np.zeros(9, "S16"), return_index=True)
before = peak()
for _ in range(count // 500):
    digests, sides = rng.integers(0, 256, 8000, dtype=np.uint8), (rng.random(500) < 0.1).astype(np.uint8)
    survey.add(Found(digests, sides, np.full(500, 5000), none, np.zeros((1, 4), np.int64), 0))
plan_of(survey)
survey.begins()
print((peak() - before) / count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process as Linux tells it")
def test_a_document_costs_the_survey_less_than_forty_bytes() -> None:
    command = [sys.executable, "-c", MEASURE, "1000000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert 17 < float(done.stdout) < 40, "8 million documents should stay under 320 MB"


def test_the_first_of_equal_documents_is_kept() -> None:
    survey = Survey()
    texts = [f"number {number % 700}" for number in range(2000)]
    pairs = placed([document(text) for text in texts])
    survey.add(survey_documents(pairs, 0.5))
    survey.leave_out_duplicates()
    assert (survey.documents, np.frombuffer(survey.sides, np.uint8).tolist()[700:]) == (700, [2] * 1300)


def placed(items: list[Document]) -> list[tuple[documents.Span, Document]]:
    return [(documents.Span(0, 0, 0), item) for item in items]
