from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gptcli.bases.base import Base
from gptcli.budget import _probe, fit_budget, meeting_intervals
from gptcli.config import RunProfile
from gptcli.errors import ProfileError
from gptcli.finetune import create_finetune
from gptcli.model import GPT
from gptcli.profiles import build_profile
from gptcli.runs import RunDir
from gptcli.shards import TokenDataset
from gptcli.trainer import Trainer


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, beside whose runs/ the timed run lies."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_budget_becomes_steps_that_are_written_into_the_profile(
    tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    profile = build_profile(tiny_profile.model_dump(mode="json"), ["compile=false"])
    short, _ = fit_budget(profile, tiny_dataset, 10)
    long, sentence = fit_budget(profile, tiny_dataset, 4000)
    assert 0 < short.train.max_steps < long.train.max_steps
    train = long.train
    tenth = -(-train.max_steps // 10)
    assert tenth <= train.eval_interval == train.save_interval < tenth + train.log_interval
    assert train.eval_interval % train.log_interval == 0
    assert f"{long.train.max_steps:,} steps" in sentence
    assert long.expects.val_loss is None, "the promise belonged to another number of steps"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [((20, 83), (21, 84)), ((25, 60), (20, 60)), ((10, 1001), (11, 1001)), ((1, 7), (1, 7)), ((50, 7), (7, 7)),
     ((10, 100), (10, 100)), ((2, 5), (2, 6)), ((50, 1), (1, 1))],
)  # fmt: skip
def test_reports_and_evaluations_meet_as_near_as_can_be_to_what_was_wanted(
    wanted: tuple[int, int], found: tuple[int, int]
) -> None:
    assert meeting_intervals(*wanted) == found


@pytest.mark.parametrize("there", [True, False], ids=["runs", "no-runs"])
def test_a_finetune_is_timed_with_its_own_weights_on_the_disk_it_will_lie_on(
    tiny_dataset: TokenDataset, tiny_profile: RunProfile, workspace: Path, there: bool
) -> None:
    if there:
        (workspace / "runs").mkdir()
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
    assert made[0].path.resolve().is_relative_to(workspace / "runs" if there else workspace)
    assert [path.name for path in workspace.rglob("*")] == ["runs"] * there, "thrown away"


def test_a_finetune_too_long_for_its_budget_is_told_what_can_be_smaller(
    tiny_dataset: TokenDataset, make_base: Callable[..., Base], finetune_profile: Callable[..., RunProfile]
) -> None:
    create = partial(create_finetune, base=make_base())
    with pytest.raises(ProfileError, match="is too short") as caught:
        fit_budget(finetune_profile(), tiny_dataset, 0.001, create=create)
    assert "--set batch_size=1, or a smaller --from" in caught.value.hint
    assert "n_embd" not in caught.value.hint


def test_a_budget_that_reads_the_text_all_too_often_is_told_so(
    tiny_dataset: TokenDataset, tiny_profile: RunProfile
) -> None:
    profile = build_profile(tiny_profile.model_dump(mode="json"), ["compile=false", "batch_size=1"])
    fitted, sentence = fit_budget(profile, tiny_dataset, 1e6)
    epochs = fitted.train.max_steps * fitted.tokens_per_step / len(tiny_dataset.train)
    assert epochs > 100
    assert f"They read the text {epochs:,.0f} times, and beyond 100 it is only learned by heart: " in sentence


def test_nothing_of_the_timed_run_stays_open(new_finetune: Callable[..., RunDir]) -> None:
    run = new_finetune("r", "lora_rank=2")
    weights = str(run.base_path / "model.safetensors")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    trainer = Trainer(run)
    assert weights in maps.read_text("utf-8"), "frozen weights are mapped"
    del trainer
    _probe(run, "cpu", 0.1)
    assert weights not in maps.read_text("utf-8")


def test_a_budget_too_short_for_a_step_says_what_it_takes(tiny_dataset: TokenDataset, tiny_profile: RunProfile) -> None:
    with pytest.raises(ProfileError, match=r"A budget of 0 s is too short: .* take \d+ s here"):
        fit_budget(tiny_profile, tiny_dataset, 0.001)
