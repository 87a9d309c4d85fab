from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.bases.base import Base
from gptcli.budget import fit_budget
from gptcli.config import RunProfile
from gptcli.errors import ProfileError
from gptcli.finetune import create_finetune
from gptcli.model import GPT
from gptcli.profiles import build_profile
from gptcli.runs import RunDir
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


def test_a_finetune_is_timed_with_its_own_weights(tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> None:
    config = tiny_profile.model.model_copy(update={"vocab_size": tiny_dataset.manifest.vocab_size})
    base = Base("b", "folder", config, tiny_dataset.tokenizer(), GPT(config).state_dict())
    profile = build_profile({"train": {"device": "cpu", "compile": False}}, ["lora_rank=2"])
    made: list[RunDir] = []

    def create(profile: RunProfile, *, profile_name: str, dataset: TokenDataset, runs_dir: Path) -> RunDir:
        run = create_finetune(profile, base, profile_name=profile_name, dataset=dataset, runs_dir=runs_dir)
        made.append(run)
        return run

    fitted, sentence = fit_budget(profile, tiny_dataset, 20, create=create)
    assert fitted.train.max_steps > 10
    assert "20 s allow" in sentence
    assert len(made) == 1
    assert not made[0].path.exists(), "thrown away"


def test_a_budget_too_short_for_a_step_says_what_it_takes(tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> None:
    with pytest.raises(ProfileError, match=r"A budget of 0 s is too short: .* take \d+ s here"):
        fit_budget(tiny_profile, tiny_dataset, 0.001)
