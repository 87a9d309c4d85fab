"""What a word for a corpus stands for: a name, a path, or a text that lies here and is no corpus yet."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Cli, run_cli


@pytest.fixture
def notes(folder: Path) -> Path:
    """A folder of texts with a profile of the same name beside it, as people have it."""
    texts = (folder / "docs.txt").read_text("utf-8")
    (folder / "notes").mkdir()
    for number in range(3):
        (folder / "notes" / f"{number}.md").write_text(texts[number * 9000 :][:9000], "utf-8")
    (folder / "tiny.yaml").rename(folder / "notes.yaml")
    return folder / "notes"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("word", ["notes", "notes/", "./notes"])
def test_a_folder_of_texts_is_fetched_by_train_and_nothing_is_written_into_it(
    word: str, notes: Path, folder: Path, cli: Cli
) -> None:
    before = names_in(notes)
    done = cli("train", word, "--profile", "notes.yaml", "--dry-run")
    assert done.code == 0, done.stderr
    assert f"{word} is a folder, not a corpus yet: fetching it." in done.stderr
    assert "recipe" not in done.stderr
    assert names_in(notes) == before
    assert names_in(folder / "corpora") == ["notes"]


@pytest.mark.parametrize("word", ["notes/", "./notes", "notes"])
def test_the_path_of_a_fetched_folder_stands_for_its_corpus(word: str, notes: Path, folder: Path, cli: Cli) -> None:
    before = names_in(notes)
    assert cli("fetch", "notes/").code == 0
    for command in ("prepare", "train --profile notes.yaml --dry-run", "corpora show"):
        done = cli(*command.split(), word)
        assert done.code == 0, done.stderr
        assert "fetching" not in done.stderr
    assert names_in(notes) == before
    assert names_in(folder / "corpora") == ["notes"]


def test_the_path_of_a_text_stands_for_the_corpus_that_was_fetched_from_it(folder: Path, cli: Cli) -> None:
    assert cli("fetch", "docs.txt", "--name", "mine").code == 0
    for word in ("docs.txt", "./docs.txt", str(folder / "docs.txt")):
        assert cli("corpora", "show", word, "--json").json()["name"] == "mine"


def test_a_file_is_fetched_by_prepare_and_found_again(folder: Path, cli: Cli) -> None:
    first = cli("prepare", "docs.txt", "--tokenizer", "char")
    assert first.code == 0, first.stderr
    assert "docs.txt is a file, not a corpus yet: fetching it." in first.stderr
    again = cli("prepare", "docs.txt", "--tokenizer", "char", "--json").json()
    assert (again["corpus"], again["reused"]) == ("docs", True)


def test_a_file_is_fetched_by_finetune(trained: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("finetune", "docs.txt", "--from", str(trained / "runs" / "tiny"), "--dry-run")
    assert done.code == 0, done.stderr


def test_a_corpus_made_by_hand_is_used_where_it_lies(notes: Path, folder: Path, cli: Cli) -> None:
    assert cli("fetch", "notes").code == 0
    (folder / "mine").mkdir()
    shutil.copy(folder / "corpora" / "notes" / "documents.jsonl", folder / "mine")
    done = cli("prepare", "./mine", "--tokenizer", "char")
    assert (done.code, done.stdout.strip()) == (0, str(Path("mine/tokens/char")))


@pytest.mark.parametrize("word", ["nots", "nots/", "nowhere/nots"])
def test_an_unknown_corpus_is_answered_first_with_what_was_meant(word: str, notes: Path, cli: Cli) -> None:
    assert cli("fetch", "notes").code == 0
    error, hint = cli("train", word).stderr.splitlines()[-2:]
    assert error == f"Error: There is no corpus called {word!r}."
    assert hint.startswith("Did you mean notes? Fetched: notes. ")
    assert "gptcli corpora list" in hint


def test_a_folder_that_could_be_a_corpus_is_told_where_none_is_made(notes: Path, cli: Cli) -> None:
    done = cli("corpora", "show", "notes/")
    assert done.code == 1
    assert "notes/ is a folder, not a corpus yet.\ngptcli fetch notes/" in done.stderr


@pytest.mark.parametrize("word", [".", "..", "corpora", "corpora/nothing", "runs", "runs/notes-notes"])
def test_no_folder_of_gptcli_and_not_all_that_lies_here_is_taken_for_a_text(word: str, notes: Path, cli: Cli) -> None:
    assert cli("train", "notes", "--profile", "notes.yaml").code == 0
    before = names_in(notes.parent / "corpora")
    assert cli("train", word).code == 1
    assert names_in(notes.parent / "corpora") == before


def test_the_text_of_a_corpus_read_in_place_of_a_folders_files_is_told(notes: Path, folder: Path, cli: Cli) -> None:
    assert cli("fetch", "notes").code == 0
    for name in ("documents.jsonl", "source.json"):
        shutil.copy(folder / "corpora" / "notes" / name, notes)
    (notes / "new.md").write_text("A new note.", "utf-8")
    done = cli("fetch", "notes", "--name", "again")
    assert "notes is the folder of a corpus: its documents.jsonl was read, and no other file in it." in done.stderr


def test_texts_that_lie_in_corpora_are_not_mixed_with_a_corpus_of_them(folder: Path, cli: Cli) -> None:
    texts = folder / "corpora" / "mine"
    texts.mkdir(parents=True)
    (texts / "a.txt").write_text("To be, or not to be.", "utf-8")
    done = cli("fetch", "corpora/mine")
    assert done.code == 1
    assert "--name" in done.stderr
    assert names_in(texts) == ["a.txt"]
    assert cli("fetch", "corpora/mine", "--name", "yours").code == 0


@pytest.mark.parametrize("source", [".", "**/*.*"])
def test_what_gptcli_made_is_passed_over_in_a_folder_of_texts(source: str, notes: Path, folder: Path, cli: Cli) -> None:
    (folder / "docs.txt").unlink()
    shutil.move(folder / "notes.yaml", notes / "tiny.yaml")
    assert run_cli(notes, "train", "0.md", "--profile", "tiny.yaml", "--run", "one").code == 0
    (notes / "tiny.yaml").unlink()
    (notes / "runs" / "own").mkdir()
    for where in (notes, folder):  # in the folder itself, and deeper
        done = run_cli(where, "fetch", source, "--name", "all", "--json")
        assert done.code == 0, done.stderr
        assert done.json()["documents"] == 3
        prefix = "" if where == notes else "notes/"
        assert f"Made by gptcli, and passed over: {prefix}corpora, {prefix}runs." in done.stderr
        shutil.rmtree(where / "corpora" / "all")


def test_a_folder_called_runs_that_is_somebodys_is_read(folder: Path, cli: Cli) -> None:
    (folder / "diary" / "runs").mkdir(parents=True)
    (folder / "diary" / "runs" / "monday.txt").write_text("Ten kilometres in the rain.", "utf-8")
    assert cli("fetch", "diary", "--json").json()["documents"] == 1


def test_the_folder_of_the_runs_is_no_text(trained: Path, cli: Cli) -> None:
    done = cli("fetch", str(trained / "runs"))
    assert done.code == 1
    assert "made by gptcli" in done.stderr


def test_a_corpus_in_place_of_a_model_is_answered_with_the_runs_on_it(trained: Path) -> None:
    error, hint = run_cli(trained, "sample", "docs").stderr.splitlines()[-2:]
    assert error == "Error: docs is a corpus, not a model."
    assert hint == "Trained on it: tiny. gptcli sample tiny writes with it."


def test_a_corpus_without_a_run_is_answered_with_the_command_that_trains_on_it(notes: Path, cli: Cli) -> None:
    assert cli("fetch", "notes").code == 0
    for word in ("notes", "./notes"):
        error, hint = cli("sample", word).stderr.splitlines()[-2:]
        assert error == f"Error: {word} is a corpus, not a model."
        assert hint == f"No run here is trained on it: gptcli train {word}"


def test_a_text_in_place_of_a_model_is_not_sent_to_its_folder(cli: Cli) -> None:
    stderr = cli("sample", "docs.txt").stderr
    assert "docs.txt is a file, not a model." in stderr
    assert "Try its folder" not in stderr
    assert "--prompt-file docs.txt" in stderr


@pytest.mark.parametrize("made", [True, False])
def test_a_profile_beside_a_folder_of_its_name_is_offered(made: bool, notes: Path, cli: Cli) -> None:
    if not made:
        shutil.rmtree(notes)
    done = cli("train", "docs.txt", "--profile", "notes")
    assert done.code == 1
    assert done.stderr.splitlines()[-1].startswith("Did you mean notes.yaml? ")


def test_an_unknown_source_is_answered_without_the_list_of_recipes(cli: Cli) -> None:
    error, hint = cli("fetch", "shakespear").stderr.splitlines()[-2:]
    assert error == "Error: There is no file, folder or recipe called 'shakespear'."
    assert hint == "Did you mean shakespeare? gptcli corpora list shows the recipes."


def test_an_empty_file_and_a_picture_are_answered_with_what_helps(folder: Path, cli: Cli) -> None:
    (folder / "empty.md").write_bytes(b"")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    empty, photo = cli("fetch", "empty.md").stderr, cli("fetch", "photo.jpg").stderr
    assert (
        "empty.md is empty.\nPut a text into it first. Of a folder, gptcli fetch FOLDER leaves empty files out."
        in empty
    )
    assert "photo.jpg looks binary: it is a picture (JPEG), not text.\n" in photo
    assert "--encoding" not in photo


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("options", [(), ("--documents",)])
def test_a_shown_corpus_fits_a_narrow_terminal_and_breaks_no_word(
    options: tuple[str, ...], notes: Path, folder: Path, cli: Cli
) -> None:
    pexpect = pytest.importorskip("pexpect")
    (notes / "a word or two beside another in the name.bin").write_bytes(b"\0\1")
    assert cli("fetch", "notes").code == 0
    child = pexpect.spawn(
        sys.executable,
        ["-m", "gptcli", "corpora", "show", "notes", *options],
        cwd=str(folder),
        env={"PYTHONPATH": str(ROOT), "TERM": "xterm", "PATH": "/usr/bin:/bin"},
        dimensions=(24, 40),
        encoding="utf-8",
        timeout=60,
    )
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in child.read().splitlines()]
    child.close()
    words = cli("corpora", "show", "notes", *options).stdout.split()
    shown = " ".join(lines).split()
    assert max(map(len, lines)) <= 40
    assert [word for word in words if len(word) <= 40 and word not in shown] == []
