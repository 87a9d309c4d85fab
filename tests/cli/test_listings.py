"""``profiles`` and ``corpora``: list and show."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli


def test_profiles_list_has_a_name_and_a_description_a_line(cli: Cli) -> None:
    lines = cli("profiles", "list").stdout.splitlines()
    quickstart = next(line for line in lines if line.startswith("quickstart "))
    assert len(quickstart.split()) > 3


def test_profile_of_the_working_folder_wins_over_the_builtin_one(folder: Path, cli: Cli) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "quickstart.yaml").write_text("description: mine\n", "utf-8")
    rows = {row["name"]: row for row in cli("profiles", "list", "--json").json()["profiles"]}
    assert (rows["quickstart"]["description"], rows["quickstart"]["builtin"]) == ("mine", False)


def test_profile_that_cannot_be_read_does_not_hide_the_others(folder: Path, cli: Cli) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "broken.yaml").write_text("model: {n_layr: 1}\n", "utf-8")
    done = cli("profiles", "list")
    assert done.code == 0
    assert "quickstart" in done.stdout
    assert "n_layr" in done.stdout


def test_corpora_list_has_the_fetched_ones_and_the_recipes(folder: Path, cli: Cli) -> None:
    assert "python-docs" in cli("corpora", "list").stdout
    cli("fetch", "docs.txt")
    cli("prepare", "docs", "--tokenizer", "char")
    rows = cli("corpora", "list", "--json").json()["corpora"]
    assert (rows[0]["name"], rows[0]["tokens"], rows[0]["fetched"]) == ("docs", ["char"], True)
    assert {row["name"] for row in rows if not row["fetched"]} >= {"python-docs", "shakespeare"}


def test_corpora_list_says_which_one_is_damaged(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt")
    (folder / "corpora" / "docs" / "source.json").write_text("{", "utf-8")
    done = cli("corpora", "list")
    assert done.code == 0
    assert "damaged" in done.stdout
    assert "python-docs" in done.stdout


def test_corpus_made_by_hand_is_listed_and_shown(folder: Path, cli: Cli) -> None:
    (folder / "corpora" / "mine").mkdir(parents=True)
    (folder / "corpora" / "mine" / "documents.jsonl").write_text('{"id": "0", "text": "The rest."}\n', "utf-8")
    first = cli("corpora", "list").stdout.splitlines()[0]
    assert " ".join(first.split()) == "mine made by hand, 33 bytes of documents, tokens: none yet"
    assert "kind: made by hand" in cli("corpora", "show", "mine").stdout


def test_corpus_shows_where_it_came_from(cli: Cli) -> None:
    cli("fetch", "docs.txt")
    assert "kind: file" in cli("corpora", "show").stdout
    shown = cli("corpora", "show", "docs", "--json").json()
    assert shown["source"] == "docs.txt"
    assert len(shown["sha256"]) == 64


def test_a_corpus_is_shown_by_its_path_too(cli: Cli, folder: Path) -> None:
    (folder / "text.txt").write_text("To be, or not to be.\n\nThat is the question.\n", "utf-8")
    printed = cli("fetch", "text.txt").stdout.strip()
    assert cli("corpora", "show", printed).stdout == cli("corpora", "show", "text").stdout
    assert cli("corpora", "show", f"{printed}/", "--documents").stdout
    (folder / "corpora" / "text").rename(folder / "elsewhere")
    assert "folder: elsewhere" in cli("corpora", "show", "./elsewhere").stdout
