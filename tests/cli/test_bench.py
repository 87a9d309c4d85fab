"""``gptcli bench``: figures on stdout, and no run left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli, run_cli

TINY = ("--profile", "tiny.yaml")


def test_bench_says_where_the_time_goes_and_leaves_no_run(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt")
    done = cli("bench", "docs", *TINY, "--steps", "3")
    assert done.code == 0, done.stderr
    for part in ("data", "forward", "backward", "optimizer", "eval", "save"):
        assert f"\n{part}  " in done.stdout
    assert "(3 steps timed)" in done.stdout
    assert "mfu          -" in done.stdout
    assert "; planned " in done.stdout
    assert not (folder / "runs").exists()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_bench_as_json_has_the_seconds_of_all_parts(trained: Path) -> None:
    before = sorted(path.name for path in (trained / "runs").iterdir())
    done = run_cli(trained, "bench", "docs", *TINY, "--steps", "2", "--json", "--quiet")
    facts = done.json()
    assert (facts["profile_name"], facts["n_steps"], facts["tokens_per_step"]) == ("tiny", 2, 128)
    assert facts["step_seconds"] == pytest.approx(sum(list(facts["parts"].values())[:4]))
    assert done.stderr == ""
    assert sorted(path.name for path in (trained / "runs").iterdir()) == before


def test_no_steps_are_a_usage_error(cli: Cli) -> None:
    assert cli("bench", *TINY, "--steps", "0").code == 2


def test_a_device_that_is_not_there_is_found_before_anything_is_fetched(folder: Path, cli: Cli) -> None:
    done = cli("bench", *TINY, "--device", "cuda:99")
    assert (done.code, "not on this machine" in done.stderr) == (1, True)
    assert not (folder / "corpora").exists()
