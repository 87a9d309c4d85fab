"""``gptcli profiles suggest``: what is typed wrong, and a suggestion that trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.profiles import load_profile
from tests.cli.conftest import Cli


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "ten", "", "1e9"])
def test_minutes_that_are_no_time_are_wrong_usage(minutes: str, cli: Cli) -> None:
    done = cli("profiles", "suggest", "docs", "--minutes", minutes)
    assert (done.code, done.stdout) == (2, "")
    assert "is not a number of minutes" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("docks", 1, "There is no corpus called 'docks'"),
        ("docs --device gpu", 1, "'gpu' is not a device"),
        ("docs --device cuda:99", 1, "'cuda:99' is not on this machine"),
        ("docs -o mine.txt", 2, "a profile is a .yaml file"),
        ("docs -o tiny.yaml", 1, "tiny.yaml is there already"),
        ("docs --minutes 0.01", 1, "--minutes 0."),
    ],
)
def test_what_cannot_be_is_told_before_any_work(words: str, code: int, told: str, cli: Cli) -> None:
    if "0.01" in words:
        cli("fetch", "docs.txt")
    done = cli("profiles", "suggest", *words.split())
    assert (done.code, done.stdout) == (code, "")
    assert told in " ".join(done.stderr.split())


def test_suggestion_is_a_profile_that_trains(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt")
    done = cli("profiles", "suggest", "docs", "--minutes", "1", "--device", "cpu", "-o", "mine.yaml")
    assert (done.code, done.stdout) == (0, "mine.yaml\n")
    for words in ("Text: ", "Measured on cpu: ", "Suggested: ", "Next: gptcli train docs --profile mine.yaml"):
        assert words in done.stderr
    assert cli("profiles", "check", "mine.yaml").code == 0
    profile = load_profile(folder / "mine.yaml")
    assert profile.data.corpus == "docs"
    assert 0 < (profile.expects.minutes or 0) <= 1  # less where the text is read often enough before
    assert not (folder / "runs").exists()
    done = cli("train", "--profile", "mine.yaml", "--run", "r", "--set", "max_steps=2", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert "warning" not in done.stderr


def test_suggestion_goes_to_stdout_and_all_of_it_into_the_json(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt")
    done = cli("profiles", "suggest", "--minutes", "2", "--device", "cpu", "--quiet")
    assert done.stderr == ""
    assert done.stdout.startswith("# A suggestion for ")
    assert ", by gptcli profiles suggest.\n# Measured: " in done.stdout
    value = cli("profiles", "suggest", "--minutes", "2", "--device", "cpu", "--json").json()
    assert value["path"] is None
    assert value["profile"]["train"]["max_steps"] == value["expected"]["max_steps"]
    assert value["reasons"]["train.max_steps"].endswith(".")
    assert value["measured"]["tokens_per_second"] > 0
