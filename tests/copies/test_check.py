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
        assert ("No copy was found in its" if gone else "Copied: none of its") in " ".join(report.lines())


@pytest.mark.parametrize("gone", [False, True])
def test_no_copy_goes_from_one_text_into_the_next(gone: bool, run: RunDir, prose: list[str], novel_words: Draw) -> None:
    source = train_text(run, longest_title())
    one, two, novel = words_of(source, 300, 45), words_of(source, 345, 58), " ".join(novel_words(prose, 80, 3))
    if gone:
        shutil.rmtree("corpora")
    index = open_copy_index(run)
    together, apart = index.check(f"{novel} {one} {two}"), index.check([novel, one, "", two])
    assert together.words == apart.words
    assert together.longest is not None
    assert apart.longest is not None
    assert together.longest.words >= 103
    assert 58 <= apart.longest.words <= (60 if gone else 58)
    assert " ".join(two.split()) in " ".join(apart.longest.text.split())
    assert index.check([novel]) == index.check(novel)
    assert index.check(["", "..."]) == index.check([]) == index.check("")


def test_ngrams_of_several_texts_are_those_of_each(run: RunDir) -> None:
    source = train_text(run, longest_title())
    texts = [words_of(source, start, 12) for start in range(200, 300, 12)]
    assert open_copy_index(run).check(texts).novel == {4: 0.0, 8: 0.0}
    report = open_copy_index(run).check([*texts, "no such words"])
    assert (report.words, report.copied_words) == (12 * len(texts) + 3, 12 * len(texts))
    assert report.novel == {4: 0.0, 8: 0.0}


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
    report = index.check(words_of(prose[0], 0, 80))
    assert not report.exact
    assert report.why == f"{path}: the text is not the one the tokens were made from. So the run's own index was asked."
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


def test_damaged_documents_are_said_to_be_and_the_index_is_asked(run: RunDir, prose: list[str]) -> None:
    index = open_copy_index(run)
    path = Path("corpora/topics/documents.jsonl")
    path.write_text(path.read_text("utf-8") + "{", "utf-8")
    for _ in range(2):
        report = index.check(words_of(prose[0], 0, 80))
        assert not report.exact
        assert report.why.startswith(f"{path}:{len(prose) + 1}: this line is damaged: ")
        assert report.why in report.lines()


def test_a_damaged_index_is_no_trouble_while_the_text_is_here_and_else_is_said_to_be(
    run: RunDir, prose: list[str]
) -> None:
    path = run.path / "ngrams.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    report = open_copy_index(run).check(words_of(prose[0], 0, 50))
    assert (report.exact, report.copied_words) == (True, 50)
    shutil.rmtree("corpora")
    with pytest.raises(FormatError, match="sha256") as caught:
        open_copy_index(run)
    assert str(path) in caught.value.message


def test_a_large_corpus_is_not_read_again(run: RunDir, prose: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "EXACT_BYTES", 1000)
    report = open_copy_index(run).check(words_of(prose[0], 0, 80))
    assert not report.exact
    assert report.why == "The corpus is too large to read again, so the run's own index was asked."


def test_without_the_corpus_a_short_text_is_too_short_to_tell(run: RunDir, prose: list[str]) -> None:
    text = train_text(run, longest_title())
    shutil.rmtree("corpora")
    index = open_copy_index(run)
    report = index.check([words_of(text, 0, 12), words_of(text, 100, 9)])
    assert report.too_short
    assert report.to_json()["too_short"] is True
    assert report.lines() == [
        "This text is too short to tell whether it is a copy: its longest part has 12 words.",
        "The corpus is not here as it was trained on, so the run's own index was asked.",
        f"It can tell only copies of {report.shortest} or more words from chance.",
    ]
    assert index.check(words_of(text, 0, 12)).lines()[0].endswith("it is a copy: it has 12 words.")
    for start in range(0, 1000, 50):
        enough = index.check(words_of(text, start, report.shortest))
        assert enough.longest is not None, "so many words are enough"
        assert not enough.too_short
        assert enough.lines()[0].startswith(f"All or nearly all of its {report.shortest} words stand together")


def test_without_the_corpus_no_report_contradicts_itself(run: RunDir, prose: list[str], novel_words: Draw) -> None:
    source = train_text(run, longest_title())
    shutil.rmtree("corpora")
    index = open_copy_index(run)
    novel = " ".join(novel_words(prose, 60, 5))
    short = 0
    count = index.check(f"{novel} {novel}").shortest
    for start in range(100, 2000, 20):
        report = index.check(f"{words_of(source, start, count - start // 20 % 4)} {novel} {novel}")
        if report.longest is not None:
            assert report.copied_from <= report.longest.words <= report.copied_words
            assert report.copied_from <= report.shortest
            short += report.longest.words < report.shortest
    assert short, "some runs shorter than those that are always found are found"


@pytest.mark.parametrize(("count", "copied_from"), [(2, 2), (3, 3), (5, 4), (7, 4), (8, 8), (30, 8)])
def test_a_text_that_stands_there_whole_is_said_to_be(count: int, copied_from: int, run: RunDir) -> None:
    title = longest_title()
    copied = words_of(train_text(run, title), 40, count)
    report = open_copy_index(run).check(copied)
    assert (report.words, report.copied_words, report.copied_from) == (count, count, copied_from)
    assert report.lines()[0] == f"All of its {count} words stand together in the training text."
    assert report.lines()[1].startswith('They are in "')
    assert len(report.lines()) == 2


def test_of_several_texts_of_three_words_those_that_stand_there_are_counted(run: RunDir) -> None:
    copied = words_of(train_text(run, longest_title()), 40, 3)
    report = open_copy_index(run).check([copied, "Xylophone Xylophone", copied])
    assert (report.words, report.copied_words, report.copied_from) == (8, 6, 3)
    assert report.novel == {3: 0.0}
    assert report.lines()[1:] == [
        "Copied: 6 of its 8 words, in runs of 3 or more.",
        "Novel: 0 % of its 3-grams.",
    ]


def test_in_a_short_text_runs_of_four_words_count(run: RunDir) -> None:
    copied = words_of(train_text(run, longest_title()), 40, 5)
    report = open_copy_index(run).check(f"Xylophone {copied} Xylophone")
    assert (report.words, report.copied_words, report.copied_from) == (7, 5, 4)
    assert "Copied: 5 of its 7 words, in runs of 4 or more." in report.lines()


def test_an_untitled_document_is_told_by_how_it_begins(
    tmp_path: Path, prose: list[str], tiny_profile: RunProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [f"  Text number {number}\n has its own first words. {prose[number]}" for number in range(40)]
    Path("rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), "utf-8")
    fetch("rows.jsonl", name="rows")
    result = prepare("rows", DataConfig(tokenizer="char", split="document"))
    run = create_run(tiny_profile, profile_name="tiny", dataset=open_dataset(result.folder), name="rows")
    index = open_copy_index(run)
    found = 0
    for number, text in enumerate(texts):
        report = index.check(words_of(text, 0, 30))
        assert report.longest is not None
        assert not report.longest.titled
        if report.longest.words == 30:
            assert report.longest.document == f'the document that begins "Text number {number} has its own"'
            found += 1
    assert found == result.manifest.train.documents < 40


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
    assert exact.longest is not None
    assert exact.longest.document.startswith('the document that begins "')
    trained_on = f" of the {result.manifest.train.documents:,} trained on"
    assert report.longest is None or report.longest.document.endswith(trained_on)
    assert exact.copied_words > 0.8 * exact.words


REPORT = CopyReport(
    words=300,
    longest_text=300,
    longest=CopiedRun(41, "one two three", "The Mysterious Affair at Styles", 0.43),
    copied_words=44,
    novel={4: 0.124, 8: 0.999, 16: 1.0},
    exact=True,
    shortest=2,
)


def test_what_is_found_is_said_in_plain_sentences() -> None:
    assert REPORT.lines() == [
        'Longest copy: 41 words in a row, in "The Mysterious Affair at Styles" at 43 %: "one two three"',
        "Copied: 44 of its 300 words, in runs of 8 or more.",
        "Novel: 12 % of its 4-grams, over 99 % of its 8-grams, 100 % of its 16-grams.",
    ]
    why = "The corpus is not here as it was trained on, so the run's own index was asked."
    by_index = replace(REPORT, exact=False, shortest=36, novel={36: 0.99}, copied_from=35, why=why)
    assert by_index.lines() == [
        'Longest copy: about 41 words in a row, in "The Mysterious Affair at Styles" at 43 %: "one two three"',
        "Copied: about 44 of its 300 words, in runs of 35 or more.",
        why,
        "It may miss copies of fewer than 36 words.",
    ]
    nothing = replace(by_index, longest=None, copied_words=0, novel={})
    assert nothing.lines() == [
        "No copy was found in its 300 words.",
        why,
        "It may miss copies of fewer than 36 words.",
    ]
    assert replace(nothing, exact=True, copied_from=8).lines() == [
        "No two of its 300 words stand together in the training text.",
        "So nothing of it is copied.",
    ]
    untitled = CopiedRun(41, " ".join(map(str, range(41))), 'the document that begins "So"', 1.0, titled=False)
    assert replace(REPORT, longest=untitled).lines()[0] == (
        'Longest copy: 41 words in a row, in the document that begins "So" at 100 %: '
        '"0 1 2 3 4 5 6 7 … 33 34 35 36 37 38 39 40"'
    )
    assert replace(by_index, words=41, longest_text=41).lines() == [
        "All or nearly all of its 41 words stand together in the training text.",
        'They are in "The Mysterious Affair at Styles" at 43 %: "one two three"',
        why,
    ]
    assert replace(REPORT, words=41, longest_text=41, longest=untitled).lines() == [
        "All of its 41 words stand together in the training text.",
        'They are in the document that begins "So" at 100 %: "0 1 2 3 4 5 6 7 … 33 34 35 36 37 38 39 40"',
    ]


@pytest.mark.parametrize(("words", "longest_text"), [(0, 0), (1, 1), (3, 1)])
def test_words_alone_are_no_copies(words: int, longest_text: int) -> None:
    report = replace(REPORT, words=words, longest_text=longest_text, longest=None, copied_words=0, novel={})
    assert report.lines() == [
        "A word alone is no copy." if words else "There are no words in the text.",
        "So there is nothing to be compared with the training text.",
    ]


def test_json_has_everything() -> None:
    value = json.loads(json.dumps(REPORT.to_json()))
    assert value["longest"]["place"] == 0.43
    assert value["novel"] == {"4": 0.124, "8": 0.999, "16": 1.0}
    assert (value["exact"], value["shortest"], value["copied_from"], value["copied_words"]) == (True, 2, 8, 44)
    assert (value["longest_text"], value["too_short"], value["why"]) == (300, False, "")
