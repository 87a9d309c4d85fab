"""Where somebody stands in a folder, and that the command to type next is one that can be typed."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from gptcli.cli.app import app
from gptcli.config import RunProfile
from gptcli.metrics import REPORT, read_events
from gptcli.run_facts import run_facts
from gptcli.runs import RunDir
from gptcli.standing import Standing, find_standing
from tests.cli.conftest import run_cli
from tests.hostile_run import make_honest_run
from tests.test_run_lock import hold
from tests.training import NewRun, finish, interrupt


def standing(folder: Path) -> Standing:
    found = find_standing(folder / "runs", folder / "corpora")
    parses(found.next)
    return found


def parses(command: str) -> None:
    """See that the command line knows a command, its options and the number of its arguments."""
    program, *arguments = shlex.split(command)
    assert program == "gptcli"
    group: Any = typer.main.get_command(app)
    context: Any = group.make_context("gptcli", list(arguments))
    while hasattr(group, "resolve_command"):
        _, group, arguments = group.resolve_command(context, arguments)
        context = group.make_context(str(group.name), list(arguments), parent=context)


def stages(found: Standing) -> dict[str, bool]:
    return {stage.name: stage.done for stage in found.stages}


def test_empty_folder_begins_with_a_text(tmp_path: Path) -> None:
    found = standing(tmp_path)
    assert stages(found) == {"fetch": False, "prepare": False, "train": False, "sample": False}
    assert found.next == "gptcli fetch YOUR-TEXT.txt"
    done = run_cli(tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert "Next: gptcli fetch YOUR-TEXT.txt" in done.stdout
    assert "A folder of texts will do too, and so will an address" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_corpus_is_prepared_and_then_trained_on_next(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("One day it rained. " * 100, "utf-8")
    assert run_cli(tmp_path, "fetch", "a b.txt").code == 0
    found = standing(tmp_path)
    assert stages(found) == {"fetch": True, "prepare": False, "train": False, "sample": False}
    (corpus,) = (path.name for path in (tmp_path / "corpora").iterdir())
    assert (found.next_stage, found.next) == ("prepare", f"gptcli prepare {shlex.quote(corpus)}")
    prepared = run_cli(tmp_path, "prepare", corpus, "--tokenizer", "char")
    assert prepared.code == 0
    found = standing(tmp_path)
    assert (found.next_stage, found.next) == ("train", f"gptcli train {shlex.quote(corpus)} --profile macbook")
    assert prepared.stderr.endswith(f"Next: {found.next}\n"), "one thing comes next, whoever says it"
    assert stages(found)["prepare"]
    assert found.stages[1].text == f"{corpus}: char"
    assert f"✓ prepare  {corpus}: char" in run_cli(tmp_path).stdout


def test_profile_for_the_corpus_comes_before_the_one_for_any_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("One day it rained. " * 400, "utf-8")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "zz.yaml").write_text("data: {corpus: notes, tokenizer: char}\n", "utf-8")
    (tmp_path / "configs" / "tuned.yaml").write_text("data: {corpus: notes}\nfinetune: {base: gpt2}\n", "utf-8")
    (tmp_path / "configs" / "broken.yaml").write_text("data: [", "utf-8")
    run_cli(tmp_path, "fetch", "notes.txt")
    prepared = run_cli(tmp_path, "prepare", "notes", "--tokenizer", "char")
    assert prepared.stderr.endswith("Next: gptcli train notes --profile zz\n")
    assert "Next: gptcli train notes --profile zz\n" in run_cli(tmp_path).stdout


def test_arrow_stands_where_the_next_command_does(tmp_path: Path, new_run: NewRun) -> None:
    def arrow() -> list[str]:
        return [line.split()[1] for line in run_cli(tmp_path).stdout.splitlines() if line.startswith("  > ")]

    (tmp_path / "notes.txt").write_text("One day it rained. " * 400, "utf-8")
    assert arrow() == ["fetch"]
    run = new_run("r")
    interrupt(run, 4)
    assert arrow() == ["train"]
    finish(run)
    assert arrow() == ["sample"]
    run_cli(tmp_path, "fetch", "notes.txt")
    later = run.metrics_path.stat().st_mtime + 60
    os.utime(tmp_path / "corpora" / "notes" / "documents.jsonl", (later, later))
    assert arrow() == ["prepare"]


def test_run_goes_on_while_it_can_and_writes_when_it_is_done(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r")
    interrupt(run, 4)
    assert standing(tmp_path).next == "gptcli train --resume --run r"
    with hold(run):
        assert standing(tmp_path).next == "gptcli runs show r --watch"
    finish(run)
    found = standing(tmp_path)
    assert found.next == "gptcli sample r"
    assert "r: done, step 12 of 12, val_loss " in found.stages[2].text


def test_overview_reads_of_many_reports_only_the_last_ones(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r")
    finish(run)
    facts, lines = run_facts(run), run.metrics_path.read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.startswith(REPORT))
    run.metrics_path.write_bytes(b"".join([*lines[:first], *[lines[first]] * 1000, *lines[first:]]))
    assert len(list(read_events(run.metrics_path, brief=True))) <= len(lines)
    assert replace(run_facts(run), changed_at="") == replace(facts, changed_at="")


def test_corpus_that_is_newer_than_the_newest_run_is_trained_on_next(tmp_path: Path, tiny_profile: RunProfile) -> None:
    run = make_honest_run(tmp_path / "work", tiny_profile)
    assert standing(tmp_path / "work").next == "gptcli sample r"
    documents = tmp_path / "work" / "corpora" / "stories" / "documents.jsonl"
    later = run.metrics_path.stat().st_mtime + 60
    os.utime(documents, (later, later))
    assert standing(tmp_path / "work").next == "gptcli train stories --profile macbook"


def test_run_with_a_name_that_a_shell_would_take_apart_is_quoted(tmp_path: Path, new_run: NewRun) -> None:
    run = new_run("r")
    run.path.rename(run.path.with_name("my run; rm -rf $HOME"))
    assert standing(tmp_path).next == "gptcli train --resume --run 'my run; rm -rf $HOME'"


@pytest.mark.parametrize("content", ["", "model: [", "\x00", "model: {n_layr: 1}"])
def test_run_that_cannot_be_read_is_named_and_nothing_fails(tmp_path: Path, new_run: NewRun, content: str) -> None:
    new_run("r").profile_path.write_text(content, "utf-8")
    found = standing(tmp_path)
    assert found.stages[2].text == "r"
    assert run_cli(tmp_path).code == 0


def test_corpus_that_is_damaged_does_not_end_the_overview(tmp_path: Path, tiny_profile: RunProfile) -> None:
    make_honest_run(tmp_path / "work", tiny_profile)
    corpus = tmp_path / "work" / "corpora" / "stories"
    (corpus / "source.json").write_text("{", "utf-8")
    standing(tmp_path / "work")
    (corpus / "documents.jsonl").unlink()
    standing(tmp_path / "work")
    (corpus / "documents.jsonl").mkdir()
    standing(tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / "runs")
    (tmp_path / "work" / "runs").write_text("no folder", "utf-8")
    standing(tmp_path / "work")
    assert run_cli(tmp_path / "work").code == 0


def test_newest_of_several_runs_counts(tmp_path: Path, new_run: NewRun) -> None:
    first, second = new_run("a"), new_run("b")
    for run, age in ((first, 1000), (second, 2000)):
        os.utime(run.profile_path, (age, age))
    found = standing(tmp_path)
    assert found.stages[2].text.startswith("2 runs, the newest b: ")
    assert RunDir(tmp_path / "runs" / "b").name in found.next
