"""A suggestion from real steps on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gptcli.config import DataConfig, RunProfile, TrainConfig
from gptcli.errors import CorpusError, DeviceError, ProfileError
from gptcli.fetch.fetching import fetch
from gptcli.prepare import prepare
from gptcli.profile_docs import explained
from gptcli.profiles import build_profile
from gptcli.runs import check_dataset_fits, create_run
from gptcli.shards import TokenDataset, open_dataset
from gptcli.sizing import TextFacts, block_weights, plain, shapes, times_text, why_this_size
from gptcli.strict_yaml import load_yaml
from gptcli.suggest import (
    PLANNED_SHARE,
    START_SECONDS,
    Room,
    Suggestion,
    largest_that_fits,
    parts_that_fit,
    suggest,
    time_text,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty working directory for the whole module."""
    return tmp_path_factory.mktemp("suggest")


@pytest.fixture(scope="module")
def found(tiny_dataset: TokenDataset, folder: Path) -> Suggestion:
    """What is suggested for twelve seconds on the tiny corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return suggest(tiny_dataset, 12, device="cpu", tokenizer_reason="it was asked for")


def test_what_is_suggested_fills_the_time_at_the_measured_pace(found: Suggestion) -> None:
    steps, measured = found.profile.train.max_steps, found.measured
    evaluations = -(-steps // found.profile.train.eval_interval)
    fixed = START_SECONDS + measured["opening_seconds"] + evaluations * measured["evaluation_seconds"]
    left = PLANNED_SHARE * 12 - fixed - steps * measured["step_seconds"]
    assert 0 <= left < 10 * (measured["step_seconds"] + measured["evaluation_seconds"])
    assert found.expected["tokens_seen"] == found.profile.tokens_per_step * found.profile.train.max_steps
    assert found.profile.expects.minutes == 0.2
    assert found.profile.expects.val_loss is None


def test_every_value_is_explained_and_reads_back_as_the_same_profile(found: Suggestion) -> None:
    text = explained(found.profile, found.reasons)
    assert build_profile(load_yaml(text)[0]) == found.profile
    silent = {path for path, why in found.reasons.items() if not why}
    assert silent <= {("description",), ("expects", "minutes"), ("expects", "machine"), ("data", "corpus"),
                      ("train", "sample_interval")}  # fmt: skip
    assert found.reasons["data", "tokenizer"] == "It was asked for."
    assert f"{1000 * found.measured['step_seconds']:.3g} ms" in found.reasons["train", "max_steps"]


def test_every_reason_tells_the_numbers_of_the_run_as_it_is(found: Suggestion) -> None:
    reasons = {".".join(map(str, path)): why for path, why in found.reasons.items()}
    read = {times for why in reasons.values() for times in re.findall(r"text is read (once|[\d.,]+ times)", why)}
    assert read == {times_text(found.expected["epochs"])}
    assert f"each of which sees {plain(found.expected['tokens_per_weight'])} tokens" in reasons["model.n_layer"]


def test_every_evaluation_of_a_suggested_run_is_one_of_its_reports(found: Suggestion) -> None:
    assert found.profile.train.eval_interval % found.profile.train.log_interval == 0


def test_the_suggestion_is_for_the_tokens_as_they_are(
    found: Suggestion, tiny_dataset: TokenDataset, tmp_path: Path
) -> None:
    assert (found.profile.data.corpus, found.profile.data.tokenizer) == ("tiny", "char")
    assert found.profile.data.split_at == tiny_dataset.manifest.split_at
    check_dataset_fits(found.profile, tiny_dataset)
    run = create_run(found.profile, profile_name="s", dataset=tiny_dataset, runs_dir=tmp_path)
    assert run.profile().train == found.profile.train


def test_nothing_is_left_of_the_timed_runs(found: Suggestion, folder: Path) -> None:
    assert found.profile
    assert not list(folder.iterdir())


def test_a_time_too_short_for_anything_is_told_with_one_that_would_do(
    tiny_dataset: TokenDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileError, match=r"0\.6 s are too short: .* take \d+\.\d s here") as caught:
        suggest(tiny_dataset, 0.6, device="cpu")
    assert float(caught.value.hint.rpartition(" ")[2]) > 0.01


def test_a_device_that_is_not_there_is_told_before_anything_is_timed(tiny_dataset: TokenDataset) -> None:
    with pytest.raises(DeviceError, match="cuda:99"):
        suggest(tiny_dataset, 60, device="cuda:99")


def night(size: int) -> TokenDataset:
    """Prepare so many bytes of a story in the working directory."""
    words = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals.\n\n"
    Path("night.txt").write_text((words * 30)[:size], "utf-8")
    fetch("night.txt", name="night")
    return open_dataset(prepare("night", DataConfig(tokenizer="char", split_at=0.9)).folder)


def test_a_tiny_text_gets_a_tiny_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = suggest(night(2000), 600, device="cpu")
    assert found.profile.model.block_size <= 32
    assert found.profile.model.dropout > 0
    assert found.expected["epochs"] <= 101
    assert "by heart" in found.reasons["train", "max_steps"]
    assert found.expected["seconds"] < 600


def test_a_text_too_small_for_any_profile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = night(60)
    with pytest.raises(CorpusError, match="tokens"):
        suggest(dataset, 20, device="cpu")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 second"), (6, "6 seconds"), (60, "1 minute"), (90, "1.5 minutes"), (600, "10 minutes")],
)
def test_times_are_told_in_seconds_or_minutes(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


BOOKS = TextFacts(vocab_size=4096, train_tokens=200_000_000, val_tokens=2_000_000, train_bytes=700_000_000)


def on_gpu(gigabytes: float | None) -> Room:
    return Room(None if gigabytes is None else round(gigabytes * 1e9), "cuda", "bfloat16")


def test_a_gpu_gets_the_largest_shape_whose_step_its_memory_holds() -> None:
    wanted = list(shapes(BOOKS))[-1]
    found = [largest_that_fits(BOOKS, wanted, on_gpu(size)) for size in (1, 2, 4, 80, None)]
    weights = [block_weights(model) for model in found]
    assert weights == sorted(weights)
    assert weights[0] < weights[2] < weights[3]
    assert found[-2:] == [wanted, wanted]


@pytest.mark.parametrize("gigabytes", [2, 8, 80, None])
def test_a_step_too_large_for_the_memory_is_taken_in_parts(gigabytes: float | None) -> None:
    model, room = list(shapes(BOOKS))[-3], on_gpu(gigabytes)
    rows, parts = parts_that_fit(model, 64, 1, room)
    assert rows * parts == 64
    assert (parts == 1) == (gigabytes is None or gigabytes == 80)
    step = TrainConfig(batch_size=rows, grad_accum_steps=parts)
    assert room.holds(RunProfile(model=model, train=step))


def test_memory_is_named_where_there_is_time_for_a_larger_shape() -> None:
    small = list(shapes(BOOKS))[3]
    assert why_this_size(BOOKS, 1e18, small, full=True).endswith("; there is time for a larger one, but no memory.")
