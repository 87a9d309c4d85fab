from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptcli.budget import dry_run, fit_budget
from gptcli.config import RunProfile
from gptcli.errors import ProfileError
from gptcli.profiles import build_profile
from gptcli.shards import TokenDataset


def test_a_budget_becomes_steps_that_are_written_into_the_profile(
    tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    profile = build_profile(tiny_profile.model_dump(mode="json"), ["compile=false"])
    short, _ = fit_budget(profile, tiny_dataset, 10)
    long, sentence = fit_budget(profile, tiny_dataset, 4000)
    assert 0 < short.train.max_steps < long.train.max_steps
    assert long.train.eval_interval == -(-long.train.max_steps // 10)
    assert f"{long.train.max_steps:,} steps" in sentence
    assert long.expects.val_loss is None, "the promise belonged to another number of steps"


def test_a_budget_too_short_for_a_step_says_what_it_takes(tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> None:
    with pytest.raises(ProfileError, match=r"A budget of 0 s is too short: .* take \d+ s here"):
        fit_budget(tiny_profile, tiny_dataset, 0.001)


def test_a_dry_run_tells_the_facts_and_writes_nothing(
    tiny_dataset: TokenDataset, tiny_profile: RunProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    facts = dry_run(tiny_profile, tiny_dataset)
    assert facts["tokens_seen"] == 12 * 4 * 16
    assert facts["epochs"] == pytest.approx(12 * 4 * 16 / len(tiny_dataset.train))
    assert facts["device"] == "cpu"
    assert facts["profile"]["model"]["vocab_size"] == tiny_dataset.manifest.vocab_size
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - hidden files count
