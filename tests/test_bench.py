"""Steps of a real run taken to pieces: the pieces are the step, and nothing stays behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from gptcli.bench import PARTS, bench, probe
from gptcli.config import RunProfile
from gptcli.errors import CorpusError
from gptcli.places import place_here
from gptcli.plan import count_parameters
from gptcli.shards import TokenDataset


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(profile: RunProfile, **train: Any) -> RunProfile:  # noqa: ANN401 - values of any key
    return profile.model_copy(update={"train": profile.train.model_copy(update=train)})


@pytest.mark.parametrize("train", [{}, {"grad_accum_steps": 3, "optimizer": "adamw", "short_block_size": 8}], ids=str)
def test_the_parts_are_positive_and_sum_up_to_the_step(
    tiny_profile: RunProfile, tiny_dataset: TokenDataset, workspace: Path, train: dict[str, Any]
) -> None:
    profile = changed(tiny_profile, **train)
    facts = bench(profile, tiny_dataset, steps=3)
    assert list(facts["parts"]) == [*PARTS, "eval", "save"]
    assert all(seconds > 0 for seconds in facts["parts"].values())
    assert sum(facts["parts"][part] for part in PARTS) == pytest.approx(facts["step_seconds"])
    assert facts["parts"]["eval"] == pytest.approx(facts["evaluation_seconds"] / 4)
    assert facts["parts"]["save"] == pytest.approx(facts["save_seconds"] / 5)
    assert facts["tokens_per_second"] == pytest.approx(profile.tokens_per_step / facts["step_seconds"])
    assert (facts["n_steps"], facts["mfu"]) == (3, None)
    assert facts["n_params"] == count_parameters(RunProfile.model_validate(facts["profile"]).model)
    assert [path.name for path in workspace.rglob("*")] == [], "thrown away"


def test_the_memory_of_the_steps_stands_beside_that_of_the_plan_whatever_the_process_took_before(
    tiny_profile: RunProfile, tiny_dataset: TokenDataset
) -> None:
    before = 600_000_000
    bytes(bytearray(b"x") * before)  # as a prepare does: taken, and given back
    facts = bench(tiny_profile, tiny_dataset, steps=1, device="cpu")
    assert facts["memory_planned"] > 2**28
    measured = facts["memory_measured"]
    assert measured is None or 2**27 < measured < 2 * before, "two copies were taken before the steps"


def test_what_is_going_on_is_said_meanwhile(tiny_profile: RunProfile, tiny_dataset: TokenDataset) -> None:
    said: list[str] = []
    bench(tiny_profile, tiny_dataset, steps=1, say=said.append)
    assert said == ["The first step, which warms up.", "Timing steps.", "Timing an evaluation and a save."]


def test_a_text_too_short_for_the_profile_is_the_error_of_a_run(
    tiny_profile: RunProfile, tiny_dataset: TokenDataset
) -> None:
    model = tiny_profile.model.model_copy(update={"block_size": 10**6})
    with pytest.raises(CorpusError, match="block_size 1000000 needs at least"):
        bench(tiny_profile.model_copy(update={"model": model}), tiny_dataset)


def test_a_probe_needs_no_text_and_says_of_what_it_timed_steps(tiny_profile: RunProfile) -> None:
    model = tiny_profile.model.model_copy(update={"vocab_size": 100})
    profile = tiny_profile.model_copy(update={"model": model})
    setup = place_here(profile.train).setup
    seconds, forward, said = probe(profile, setup, 4)
    assert 0 < forward < seconds < math.inf
    assert said == "20 steps timed"
    assert probe(profile, setup, 1)[2] == "20 steps of 1 x 16 timed"
