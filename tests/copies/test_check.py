"""A run says what a text copies: exactly while its corpus is there, by its own index when that is gone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gptcli.config import DataConfig, RunProfile
from gptcli.copies import check
from gptcli.copies.check import CopiedRun, CopyReport, open_copy_index
from gptcli.copies.words import find_words
from gptcli.documents import read_documents, write_documents
from gptcli.errors import FormatError, RunError
from gptcli.fetch.fetching import fetch
from gptcli.files import write_json
from gptcli.prepare import prepare
from gptcli.runs import RunDir, create_run
from gptcli.shards import open_dataset

Draw = Callable[[Sequence[str], int, int], list[str]]


@pytest.fixture
def run(tmp_path: Path, prose: list[str], tiny_profile: RunProfile, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A new run on the help topics, whose tail is val; in a workspace of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(prose):
        (tmp_path / "texts" / f"topic {number:02}.txt").write_text(text, "utf-8", newline="\n")
    fetch("texts", name="topics")
    result = prepare("topics", DataConfig(tokenizer="char", split="paragraph"))
    return create_run(tiny_profile, profile_name="tiny", dataset=open_dataset(result.folder), name="mine")


def train_text(run: RunDir, title: str) -> str:
    """What was trained on of a document."""
    from gptcli.split import plan_split, split_documents

    path = Path("corpora/topics/documents.jsonl")
    plan = plan_split(read_documents(path), mode="paragraph")
    return next(
        item.text
        for split, item in split_documents(read_documents(path), plan)
        if (split, item.title) == ("train", title)
    )


def longest_title() -> str:
    return max(read_documents(Path("corpora/topics/documents.jsonl")), key=lambda item: len(item.text)).title


def words_of(text: str, start: int, count: int) -> str:
    words = find_words(text)
    return text[int(words.starts[start]) : int(words.ends[start + count - 1])]


def is_within(text: str, start: int, count: int, report: CopyReport) -> bool:
    """Say whether a report's longest run is these words, but for a few at its ends."""
    assert report.longest is not None
    middle = words_of(text, start + 1, count - 2)
    return " ".join(middle.split()) in " ".join(report.longest.text.split())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gone", [False, True])
def test_a_planted_copy_of_40_words_is_found_with_and_without_the_corpus(
    seed: int, gone: bool, run: RunDir, prose: list[str], novel_words: Draw
) -> None:
    title = longest_title()
    source = train_text(run, title)
    size = find_words(source).hashes.size
    start = random.Random(seed).randrange(size - 40)
    copied = words_of(source, start, 40)
    novel = novel_words(prose, 260, seed)
    text = f"{' '.join(novel[: 60 * seed])}\n{copied}\n{' '.join(novel[60 * seed :])}"
    if gone:
        shutil.rmtree("corpora")
    report = open_copy_index(run).check(text)
    assert report.exact is not gone
    assert report.longest is not None
    assert is_within(source, start, 40, report)
    assert (40 if not gone else 39) <= report.longest.words <= (43 if not gone else 52)
    assert report.words == find_words(text).hashes.size
    assert 39 <= report.copied_words <= 70
    if gone:
        assert report.longest.words >= report.shortest
        assert all(0.8 < share < 1 for share in report.novel.values())
    else:
        assert set(report.novel) == {4, 8, 16}
        assert report.novel[16] == pytest.approx(1 - 25 / (report.words - 15), abs=0.02)
    assert json.loads(json.dumps(report.to_json()))["longest"]["words"] == report.longest.words


@pytest.mark.parametrize("gone", [False, True])
def test_where_a_copy_stands_is_said(gone: bool, run: RunDir, prose: list[str], novel_words: Draw) -> None:
    title = longest_title()
    source = train_text(run, title)
    size = find_words(source).hashes.size
    text = f"{' '.join(novel_words(prose, 50, 9))} {words_of(source, size // 4, 60)}"
    if gone:
        shutil.rmtree("corpora")
    report = open_copy_index(run).check(text)
    assert report.longest is not None
    assert (report.longest.document, report.longest.titled) == (title, True)
    assert report.longest.place == pytest.approx(0.25, abs=0.01)
    assert report.lines()[0].startswith(f"Longest copy: {'about ' if gone else ''}6")
    assert f'in "{title}" at 25 %' in report.lines()[0]


@pytest.mark.parametrize("gone", [False, True])
def test_words_at_random_copy_nothing(gone: bool, run: RunDir, prose: list[str], novel_words: Draw) -> None:
    if gone:
        shutil.rmtree("corpora")
    index = open_copy_index(run)
    for seed in range(3):
        report = index.check(" ".join(novel_words(prose, 300, seed)))
        assert report.copied_words == 0
        assert set(report.novel.values()) == {1.0} or not gone
        assert report.longest is None or (not gone and report.longest.words < 8)
        assert ("stands in a copied run of" if gone else "Copied: none of its") in " ".join(report.lines())


def test_the_run_carries_its_index_which_is_under_2_percent_of_the_corpus(run: RunDir, prose: list[str]) -> None:
    assert (run.path / "ngrams.bin").stat().st_size < 0.02 * sum(len(text.encode()) for text in prose)
    expected = run.manifest().ngrams
    assert expected is not None
    assert expected.bytes == (run.path / "ngrams.bin").stat().st_size


def test_what_only_val_holds_is_no_training_text(run: RunDir, prose: list[str]) -> None:
    title = longest_title()
    whole = next(item.text for item in read_documents(Path("corpora/topics/documents.jsonl")) if item.title == title)
    val = whole[len(train_text(run, title)) :]
    assert find_words(val).hashes.size > 300
    exact = open_copy_index(run).check(val)
    assert exact.exact
    assert exact.copied_words < exact.words / 2, "some of it stands in other topics too"
    shutil.rmtree("corpora")
    assert open_copy_index(run).check(val).copied_words < exact.words / 2


def test_a_text_that_has_changed_is_not_asked(run: RunDir, prose: list[str]) -> None:
    path = Path("corpora/topics/documents.jsonl")
    items = list(read_documents(path))
    with path.open("wb") as file:
        write_documents(file, items[:-1])
    report = open_copy_index(run).check(words_of(prose[0], 0, 80))
    assert not report.exact
    assert report.longest is not None


def test_a_text_that_changes_meanwhile_is_not_believed(run: RunDir, prose: list[str]) -> None:
    index = open_copy_index(run)
    path = Path("corpora/topics/documents.jsonl")
    items = list(read_documents(path))
    with path.open("wb") as file:
        write_documents(file, items[:-1])
    assert not index.check(words_of(prose[0], 0, 80)).exact
    path.write_text("{", "utf-8")
    (run.path / "ngrams.bin").unlink()
    write_json(path.with_name("source.json"), {})
    alone = check.CopyIndex(None, path, run.manifest())
    with pytest.raises(FormatError, match=r"documents\.jsonl:1: this line is damaged"):
        alone.check("some words")


def test_a_run_without_an_index_asks_the_corpus_and_says_so_when_it_cannot(run: RunDir, prose: list[str]) -> None:
    dataset = json.loads(run.dataset_path.read_text("utf-8"))
    del dataset["manifest"]["ngrams"]
    write_json(run.dataset_path, dataset)
    (run.path / "ngrams.bin").unlink()
    report = open_copy_index(run).check(words_of(prose[0], 0, 50))
    assert report.exact
    assert report.longest is not None
    assert report.longest.words == 50
    assert open_copy_index(run).check("...").lines()[0] == "There are no words in the text."
    shutil.rmtree("corpora")
    with pytest.raises(RunError, match="has no index of its training text") as caught:
        open_copy_index(run)
    assert "gptcli prepare topics --force" in caught.value.hint


def test_a_damaged_index_is_said_to_be(run: RunDir) -> None:
    path = run.path / "ngrams.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FormatError, match="sha256") as caught:
        open_copy_index(run)
    assert str(path) in caught.value.message


def test_a_large_corpus_is_not_read_again(run: RunDir, prose: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "EXACT_BYTES", 1000)
    assert not open_copy_index(run).check(words_of(prose[0], 0, 80)).exact


def test_many_small_documents_are_numbered(
    tmp_path: Path, prose: list[str], tiny_profile: RunProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = " ".join(prose)
    size = len(whole) // 3000
    rows = [json.dumps({"text": whole[start : start + size]}) for start in range(0, 3000 * size, size)]
    Path("rows.jsonl").write_text("\n".join(rows), "utf-8")
    fetch("rows.jsonl", name="rows")
    result = prepare("rows", DataConfig(tokenizer="char"))
    run = create_run(tiny_profile, profile_name="tiny", dataset=open_dataset(result.folder), name="rows")
    assert (run.path / "ngrams.bin").stat().st_size < 0.02 * len(whole)
    exact = open_copy_index(run).check(whole[1000:30_000])
    shutil.rmtree("corpora")
    report = open_copy_index(run).check(whole[1000:30_000])
    for found in (exact, report):
        assert found.longest is None or " of " in found.longest.document
    assert exact.longest is not None
    assert exact.longest.document.endswith(f" of {result.manifest.train.documents:,}")
    assert exact.copied_words > 0.8 * exact.words


REPORT = CopyReport(
    words=300,
    longest=CopiedRun(41, "one two three", "The Mysterious Affair at Styles", 0.43),
    copied_words=44,
    novel={4: 0.124, 8: 0.999, 16: 1.0},
    exact=True,
    shortest=2,
)


def test_what_is_found_is_said_in_plain_sentences() -> None:
    assert REPORT.lines() == [
        'Longest copy: 41 words, in "The Mysterious Affair at Styles" at 43 %: "one two three"',
        "Copied: 44 of its 300 words, in runs of 8 or more.",
        "Novel: 12 % of its 4-grams, over 99 % of its 8-grams, 100 % of its 16-grams.",
    ]
    by_index = replace(REPORT, exact=False, shortest=36, novel={36: 0.99}, copied_from=36)
    assert by_index.lines() == [
        'Longest copy: about 41 words, in "The Mysterious Affair at Styles" at 43 %: "one two three"',
        "Copied: about 44 of its 300 words, in runs of 36 or more.",
        "Novel: 99 % of its 36-grams.",
        (
            "The training text was not read, as it is gone or large: "
            "by the run's own index, copies of fewer than 36 words cannot be told from chance."
        ),
    ]
    nothing = replace(by_index, longest=None, copied_words=0, novel={})
    assert nothing.lines() == [
        "None of its 300 words stands in a copied run of 36 or more.",
        by_index.lines()[-1],
    ]
    assert replace(nothing, exact=True, copied_from=8).lines() == [
        "No two of its 300 words stand together in the training text.",
        "Copied: none of its 300 words, in runs of 8 or more.",
    ]
    numbered = CopiedRun(41, " ".join(map(str, range(41))), "document 2 of 9", 1.0, titled=False)
    assert replace(REPORT, longest=numbered).lines()[0] == (
        'Longest copy: 41 words, in document 2 of 9 at 100 %: "0 1 2 3 4 5 6 7 … 33 34 35 36 37 38 39 40"'
    )
    assert replace(REPORT, words=0).lines()[0] == "There are no words in the text."


def test_json_has_everything() -> None:
    value = json.loads(json.dumps(REPORT.to_json()))
    assert value["longest"]["place"] == 0.43
    assert value["novel"] == {"4": 0.124, "8": 0.999, "16": 1.0}
    assert (value["exact"], value["shortest"], value["copied_from"], value["copied_words"]) == (True, 2, 8, 44)
