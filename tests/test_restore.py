"""Of damaged checkpoints the newest whole one is taken, for reading and for going on, and it is said."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch

from gptcli.checkpoint_folders import checkpoint_folders, point
from gptcli.checkpoints import FILES, TrainState, checkpoint_path, load_checkpoint, save_checkpoint
from gptcli.config import ModelConfig
from gptcli.errors import FormatError, RunError, VersionError
from gptcli.events import CheckpointSaved, Notice, RunFinished
from gptcli.files import write_json
from gptcli.model import GPT
from gptcli.restore import readable_checkpoint, resumable_checkpoint, run_weights
from gptcli.runs import RunDir
from gptcli.train import train
from tests.training import NewRun, checkpoint_bytes, finish, interrupt, metrics

MODEL = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=30)


@pytest.fixture
def trained(new_run: NewRun) -> RunDir:
    run = new_run("r")
    finish(run)
    return run


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x04
    file.write_bytes(content)


def save_filled(run: RunDir, step: int, *, best: bool = True, keep: int = 9) -> Path:
    """Save a checkpoint whose every weight is the step's number."""
    tensors = {name: torch.full_like(tensor, step) for name, tensor in GPT(MODEL).state_dict().items()}
    return save_checkpoint(run, tensors, {}, TrainState(step=step), best=best, keep=keep)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "missing"])
def test_in_place_of_a_damaged_checkpoint_the_newest_whole_one_is_read_and_said(
    tmp_path: Path, name: str, gone: bool
) -> None:
    run, notices = RunDir(tmp_path / "run"), list[str]()
    for step in (1, 2, 3, 4, 5):
        path = save_filled(run, step, best=step == 3)
        if step in (3, 5):
            (path / name).unlink() if gone else flip(path / name)
    found = readable_checkpoint(run, "best", notices.append)
    assert (found.state.step, float(found.model["wte.weight"][0, 0])) == (4, 4)
    assert len(notices) == 1
    assert str(Path("step_000003") / name) in notices[0]
    assert "The checkpoint of step 4 takes its place." in notices[0]
    with pytest.raises(FormatError, match="step_000003"):
        readable_checkpoint(run, "best")
    with pytest.raises(FormatError, match="step_000003"):
        run_weights(run, "best")


def test_a_whole_checkpoint_is_read_without_a_word_whatever_lies_beside_it(tmp_path: Path) -> None:
    run, notices = RunDir(tmp_path / "run"), list[str]()
    for step in (1, 2, 3):
        flip(save_filled(run, step, best=step == 1) / "optimizer.safetensors")
    flip(run.checkpoints_path / "step_000003" / "model.safetensors")
    assert readable_checkpoint(run, "best", notices.append).state.step == 1
    assert not notices


def test_a_pointer_to_nothing_is_named_and_the_newest_whole_checkpoint_read(tmp_path: Path) -> None:
    run, notices = RunDir(tmp_path / "run"), list[str]()
    for step in (1, 2):
        save_filled(run, step)
    (run.checkpoints_path / "best").write_text("step_000007\n")
    assert readable_checkpoint(run, "best", notices.append).state.step == 2
    assert "it points at 'step_000007'" in notices[0]
    with pytest.raises(FormatError, match="it points at 'step_000007'"):
        readable_checkpoint(run, "best")


def test_without_any_whole_checkpoint_the_first_problem_is_told_with_what_is_left_to_do(trained: RunDir) -> None:
    for path in trained.checkpoints_path.glob("step_*"):
        flip(path / "model.safetensors")
    best = checkpoint_path(trained, "best").name
    with pytest.raises(FormatError, match=f"{best}.*damaged") as caught:
        readable_checkpoint(trained, "best", lambda _: None)
    assert caught.value.hint.endswith("gptcli train tiny")
    with pytest.raises(RunError, match="has no checkpoint yet"):
        readable_checkpoint(RunDir(trained.path.parent / "none"), "best", lambda _: None)


def test_checkpoints_are_read_while_training_writes_and_prunes_them(tmp_path: Path) -> None:
    run, notices = RunDir(tmp_path / "run"), list[str]()
    save_filled(run, 1)
    writer = threading.Thread(target=lambda: [save_filled(run, step, keep=0) for step in range(2, 60)])
    writer.start()
    seen = []
    while writer.is_alive():
        found = readable_checkpoint(run, "best", notices.append)
        assert all((tensor == found.state.step).all() for tensor in found.model.values())
        seen.append(found.state.step)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert not notices


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "missing"])
def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_is_the_undamaged_one_bit_for_bit(
    new_run: NewRun, name: str, gone: bool
) -> None:
    overrides = ("log_interval=1", "save_interval=3", "keep_checkpoints=9")
    whole, damaged = new_run("whole", *overrides), new_run("damaged", *overrides)
    finish(whole)
    interrupt(damaged, 10)
    path = damaged.checkpoints_path / "step_000010" / name
    path.unlink() if gone else flip(path)
    notices = [event.text for event in finish(damaged) if isinstance(event, Notice)]
    assert len(notices) == 1
    assert str(Path("step_000010") / name) in notices[0]
    assert "The checkpoint of step 9 takes its place." in notices[0]
    assert checkpoint_bytes(damaged) == checkpoint_bytes(whole)
    assert [line for line in metrics(damaged) if line["event"] != "notice"] == metrics(whole)
    assert checkpoint_path(damaged, "best").name == checkpoint_path(whole, "best").name


@pytest.mark.parametrize("pointer", ["", "step_000099\n", "../../elsewhere\n", None])
def test_a_run_without_its_pointer_goes_on_from_its_newest_checkpoint(new_run: NewRun, pointer: str | None) -> None:
    whole, lost = new_run("whole", "keep_checkpoints=9"), new_run("lost", "keep_checkpoints=9")
    finish(whole)
    interrupt(lost, 9)
    latest = lost.checkpoints_path / "latest"
    latest.unlink() if pointer is None else latest.write_text(pointer)
    found = resumable_checkpoint(lost, lambda _: None)
    assert found is not None
    assert found.state.step == 9
    assert latest.read_text().split()[0] == "step_000009"
    finish(lost)
    assert checkpoint_bytes(lost) == checkpoint_bytes(whole)


def test_a_run_all_of_whose_checkpoints_are_damaged_is_not_begun_anew(trained: RunDir) -> None:
    for path in trained.checkpoints_path.glob("step_*"):
        flip(path / "optimizer.safetensors")
    before = sorted(path.name for path in trained.checkpoints_path.iterdir())
    with pytest.raises(FormatError, match=r"optimizer.*damaged") as caught:
        finish(trained)
    assert caught.value.hint.endswith("begin again: gptcli train tiny")
    assert sorted(path.name for path in trained.checkpoints_path.iterdir()) == before


@pytest.mark.parametrize("damage", ["nonsense", "gone", "ahead"])
def test_a_run_goes_on_whatever_its_best_pointer_says(new_run: NewRun, damage: str) -> None:
    run = new_run("r", "keep_checkpoints=9", "patience=0")
    interrupt(run, 9)
    best = run.checkpoints_path / "best"
    named = run.checkpoints_path / best.read_text().split()[0]
    if damage == "nonsense":
        best.write_text("step_000004 00000000\n")
    elif damage == "gone":
        shutil.rmtree(named)
    else:  # a save was killed between the two pointers
        point(run, "best", "step_000009")
        point(run, "latest", "step_000004")
    events = finish(run)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].best_step is not None
    assert checkpoint_path(run, "best").name == f"step_{events[-1].best_step:06d}"
    gone = [event.text for event in events if isinstance(event, Notice)]
    assert len(gone) == (damage == "gone")
    assert all("the best checkpoint is gone" in text for text in gone)


def test_a_best_checkpoint_found_after_its_save_is_not_taken_for_a_lost_one(new_run: NewRun) -> None:
    run = new_run("r", "eval_interval=6", "save_interval=100", "keep_checkpoints=0")
    interrupt(run, 6)  # before the evaluation that is due there
    with contextlib.closing(train(run)) as events:
        assert any(isinstance(event, CheckpointSaved) and event.best for event in events)
    assert [path.name for path in checkpoint_folders(run)] == ["step_000006"]
    seen = finish(run)
    assert not [event for event in seen if isinstance(event, Notice)]
    assert isinstance(seen[-1], RunFinished)
    assert checkpoint_path(run, "best").name == f"step_{seen[-1].best_step:06d}"


def test_of_earlier_checkpoints_none_of_which_is_whole_a_run_goes_back_to_its_beginning(new_run: NewRun) -> None:
    run, notices = new_run("r", "keep_checkpoints=9"), list[str]()
    finish(run)
    for path in checkpoint_folders(run)[1:]:
        flip(path / "model.safetensors")
    assert resumable_checkpoint(run, notices.append, before=12) is None
    assert not notices


def test_a_damaged_best_checkpoint_is_said_when_a_run_goes_on_and_set_aside(new_run: NewRun) -> None:
    run = new_run("r", "keep_checkpoints=1", "log_interval=1")
    interrupt(run, 6)
    best = checkpoint_path(run, "best")
    assert best.name == "step_000004"
    flip(best / "model.safetensors")
    notices = [event.text for event in finish(run) if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "step_000004" in notices[0]
    assert "the best checkpoint is damaged" in notices[0]
    assert (run.checkpoints_path / "damaged_step_000004").is_dir()
    assert readable_checkpoint(run, "best").state.step in (8, 12)


@pytest.mark.parametrize("gone", ["checkpoints", "what is in it"])
def test_a_run_that_has_lost_its_checkpoints_is_not_begun_anew_in_silence(new_run: NewRun, gone: str) -> None:
    run = new_run("r")
    finish(run)
    shutil.rmtree(run.checkpoints_path)
    if gone != "checkpoints":
        run.checkpoints_path.mkdir()
    before = run.metrics_path.read_bytes()
    for go_on in (lambda: finish(run), lambda: readable_checkpoint(run)):
        with pytest.raises(RunError, match="has no checkpoint any more; its metrics go to step 12") as caught:
            go_on()
        assert "Restore the folder checkpoints/ from a copy" in caught.value.hint
    assert run.metrics_path.read_bytes() == before


def test_a_save_that_was_killed_before_its_pointer_is_no_damage(new_run: NewRun) -> None:
    run = new_run("r")
    interrupt(run, 5)
    for name in ("latest", "best"):
        (run.checkpoints_path / name).unlink()
    assert not [event for event in finish(run) if isinstance(event, Notice)]


def test_a_checkpoint_of_another_version_or_one_that_may_not_be_read_is_not_left_out(new_run: NewRun) -> None:
    run = new_run("r", "keep_checkpoints=9")
    interrupt(run, 9)
    path = checkpoint_path(run, "latest") / "manifest.json"
    write_json(path, {**json.loads(path.read_text("utf-8")), "format_version": 2})
    with pytest.raises(VersionError, match="has format_version 2"):
        resumable_checkpoint(run, lambda _: None)
    with pytest.raises(VersionError, match="has format_version 2"):
        readable_checkpoint(run, "latest", lambda _: None)
    assert checkpoint_path(run, "latest").name == "step_000009"


def test_weights_that_are_no_numbers_and_generators_without_a_state_are_named(new_run: NewRun) -> None:
    run = new_run("r")
    finish(run)
    found = load_checkpoint(checkpoint_path(run, "latest"))
    model = {name: tensor.to(torch.int64) for name, tensor in found.model.items()}
    save_checkpoint(run, model, found.optimizer, found.state, best=True, keep=0)
    with pytest.raises(FormatError, match="is int64, not a weight"):
        run_weights(run)
    optimizer = {name: tensor for name, tensor in found.optimizer.items() if name != "rng.cpu"}
    save_checkpoint(run, found.model, optimizer, found.state, best=True, keep=0)
    with pytest.raises(FormatError, match="the states of the random generators are missing"):
        finish(run)
