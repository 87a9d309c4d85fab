"""What is not finite never reaches the weights, a run that diverges goes back once, and too little memory is halved."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gptcli.checkpoint_folders import checkpoint_folders, pointed, step_of
from gptcli.checkpoints import load_checkpoint
from gptcli.errors import RunError
from gptcli.events import Notice, RunFinished, WentBack
from gptcli.runs import RunDir, change_run
from gptcli.train import StopRequest, _events, train
from gptcli.trainer import DIVERGED_STEPS, Trainer
from gptcli.updates import LEVEL_STEPS
from tests.training import NewRun, checkpoint_bytes, finish, interrupt, metrics

# Its weights overflow within a few steps, from where no loss is finite.
WILD = ("optimizer=adamw", "warmup_steps=0", "schedule=constant", "max_steps=40", "log_interval=1")


def spoil(trainer: Trainer, steps: range) -> None:
    """Make the losses of some steps no numbers, as a fault of the device would."""
    loss = trainer.updates._loss

    def spoiled(inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(inputs, targets) * (math.nan if trainer.state.step in steps else 1.0)

    trainer.updates._loss = spoiled


def parameters(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_a_loss_that_is_no_number_changes_neither_weights_nor_optimizer(new_run: NewRun) -> None:
    trainer = Trainer(new_run("r"))
    trainer.update()
    spoil(trainer, range(1, 3))
    before = parameters(trainer), {name: t.clone() for name, t in trainer.updates.optimizer.state_tensors().items()}
    trainer.update()
    assert all(torch.equal(a, b) for a, b in zip(parameters(trainer), before[0], strict=True))
    assert all(torch.equal(t, before[1][name]) for name, t in trainer.updates.optimizer.state_tensors().items())
    trainer.update()
    assert (trainer.state.skipped_steps, trainer.state.skipped_in_row) == (2, 2)
    trainer.update()
    assert (trainer.state.skipped_steps, trainer.state.skipped_in_row) == (2, 0)


def test_a_run_that_diverges_goes_back_once_and_then_ends_saying_what_to_change(new_run: NewRun) -> None:
    run = new_run("r", *WILD, "learning_rate=1e37")
    went = list[WentBack]()
    with contextlib.closing(train(run)) as events, pytest.raises(RunError) as caught:
        went += [event for event in events if isinstance(event, WentBack)]
    assert "'r' has diverged again: up to step" in caught.value.message
    assert "--resume --run r --set learning_rate=0.003" in caught.value.hint
    lines = [line for line in metrics(run) if line["event"] == "went_back"]
    assert [line["learning_rate_factor"] for line in lines] == [0.5]
    saved = pointed(run, "latest")
    assert saved is not None
    assert all(bool(t.isfinite().all()) for t in load_checkpoint(saved).model.values())


def train_spoiled(run: RunDir, steps: range, stop_at: int | None = None) -> tuple[Trainer, list[WentBack]]:
    """Train with the losses of some steps spoiled until the run has gone back; they are good from then on.

    ``stop_at`` is the update during which Ctrl-C comes.
    """
    stop = StopRequest()
    trainer, went = Trainer(run, is_stopped=lambda: stop.reason is not None), list[WentBack]()
    spoil(trainer, steps)
    loss = trainer.updates._loss

    def stopping(inputs: Tensor, targets: Tensor) -> Tensor:
        stop.reason = "interrupted" if trainer.state.step + 1 == stop_at else stop.reason
        return loss(inputs, targets)

    trainer.updates._loss = stopping
    went += [event for event in _events(trainer, stop) if isinstance(event, WentBack)]
    return trainer, went


@pytest.mark.parametrize(
    ("first", "back_to"),
    [(12, 10), (10, 5), (2, 0)],
    ids=["newest", "its-weights-gave-the-first-one", "the-beginning"],
)
def test_going_back_is_to_the_last_checkpoint_that_was_good_with_half_the_rate(
    new_run: NewRun, first: int, back_to: int
) -> None:
    run = new_run(
        "r", "max_steps=40", "save_interval=5", "eval_interval=100", "keep_checkpoints=1", "schedule=constant"
    )
    trainer, went = train_spoiled(run, range(first, 40))
    assert went == [WentBack(back_to, first + DIVERGED_STEPS, 0.5)]
    assert (trainer.state.step, trainer.state.skipped_steps) == (40, DIVERGED_STEPS)
    again = Trainer(run)
    assert again.updates.rate_factor == 0.5
    assert again.report().learning_rate == pytest.approx(run.profile().train.learning_rate / 2)


def test_the_search_for_a_loss_scale_counts_for_where_to_go_back_to(new_run: NewRun) -> None:
    trainer = Trainer(new_run("r", "max_steps=60", "save_interval=5", "eval_interval=100"))
    trainer.updates.setup = replace(trainer.setup, dtype=torch.float16)
    trainer.state.loss_scale = 65536.0
    spoil(trainer, range(12, 60))
    went = [event for event in _events(trainer, StopRequest()) if isinstance(event, WentBack)]
    assert went == [WentBack(10, 12 + 16 + DIVERGED_STEPS, 0.5)]


def test_a_save_that_fell_on_a_step_without_an_update_is_made_up_for(new_run: NewRun) -> None:
    run = new_run("r", "max_steps=30", "save_interval=10", "keep_checkpoints=9", "eval_interval=100")
    train_spoiled(run, range(9, 10))
    assert [step_of(path) for path in checkpoint_folders(run)] == [30, 20, 11, 0]


def test_a_run_without_one_finite_loss_says_so_and_is_not_tried_again(new_run: NewRun) -> None:
    with pytest.raises(RunError, match="has not had one finite loss or gradient in 10 steps"):
        train_spoiled(new_run("r", "max_steps=30"), range(30))


@pytest.mark.parametrize("stop_at", [13, 15, 20, 22])
def test_a_run_interrupted_while_it_diverges_ends_as_one_that_was_not(new_run: NewRun, stop_at: int) -> None:
    overrides = ("max_steps=40", "save_interval=5", "keep_checkpoints=0", "eval_interval=100")
    whole, parts = new_run("whole", *overrides), new_run("parts", *overrides)
    expected = train_spoiled(whole, range(12, 40))[1]
    stopped, went = train_spoiled(parts, range(12, 40), stop_at)
    assert (stopped.state.step, stopped.state.skipped_in_row, went) == (stop_at, stop_at - 12, [])
    assert train_spoiled(parts, range(12, 40))[1] == expected
    assert checkpoint_bytes(parts) == checkpoint_bytes(whole)


def test_a_rate_that_is_chosen_after_going_back_is_taken_as_it_is_and_stays(new_run: NewRun) -> None:
    run = new_run("r", "max_steps=30", "save_interval=5")
    assert len(train_spoiled(run, range(7, 30))[1]) == 1
    for override in ("learning_rate=0.001", "muon_learning_rate=0.001"):
        changed = change_run(run, [override, "max_steps=50"])
        assert Trainer(run, None, changed).updates.rate_factor == 1.0
    # Killed before its first save, the run still knows.
    with contextlib.closing(train(run, profile=changed)) as events:
        next(events)
    assert Trainer(run).updates.rate_factor == 1.0


def test_of_the_way_that_diverged_the_metrics_keep_nothing_and_a_resumed_run_tells_the_same(new_run: NewRun) -> None:
    wild = (*WILD, "learning_rate=1e37", "eval_interval=100", "save_interval=1", "keep_checkpoints=40")
    whole, parts = new_run("whole", *wild), new_run("parts", *wild)
    interrupt(parts, 1)
    for run in (whole, parts):
        with pytest.raises(RunError, match="diverged again"):
            finish(run)
    assert metrics(parts) == metrics(whole)
    steps = [line["step"] for line in metrics(whole) if line["event"] == "step_logged"]
    assert steps == sorted(set(steps))


def test_a_spike_of_the_loss_is_said_once_and_a_level_loss_never(new_run: NewRun) -> None:
    trainer = Trainer(new_run("r", "max_steps=200"))
    loss, spikes = trainer.updates._loss, range(LEVEL_STEPS + 10, LEVEL_STEPS + 13)

    def jumping(inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(inputs, targets) * (3.0 if trainer.state.step in spikes else 1.0)

    trainer.updates._loss = jumping
    said = []
    for _ in range(LEVEL_STEPS + 40):
        trainer.update()
        said += [notice.text for notice in trainer.notices()]
    assert len(said) == 1
    assert said[0].startswith("The loss jumped to ")
    assert f"at step {spikes.start + 1}" in said[0]
    assert trainer.state.spikes == 1


def short_of_memory(trainer: Trainer, most_rows: int) -> list[int]:
    """Let the device have memory for so many sequences at a time; returns the rows of all passes that fitted."""
    loss, rows = trainer.updates._loss, list[int]()

    def limited(inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        rows.append(len(inputs))
        return loss(inputs, targets)

    trainer.updates._loss = limited
    return rows


def test_too_little_memory_halves_the_rows_at_a_time_and_keeps_what_a_step_learns_from(new_run: NewRun) -> None:
    overrides = ("dtype=float32", "batch_size=8", "grad_accum_steps=2")
    plain, halved = Trainer(new_run("plain", *overrides)), Trainer(new_run("halved", *overrides))
    halved.updates.can_halve = True  # as on a GPU
    rows = short_of_memory(halved, 3)
    for _ in range(3):
        plain.update()
        halved.update()
    assert rows == [2] * 8 * 3
    assert [notice.text.split(". ")[0] for notice in halved.notices()] == [
        "There was not enough memory for 8 sequences at a time",
        "There was not enough memory for 4 sequences at a time",
    ]
    assert halved.state.tokens_seen == plain.state.tokens_seen
    assert halved.state.loss_sum == pytest.approx(plain.state.loss_sum, rel=1e-5)
    for a, b in zip(halved.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("can_halve", "most_rows"), [(True, 0), (False, 3)], ids=["one-row-too-large", "on-a-cpu"])
def test_memory_that_no_halving_helps_is_an_error(new_run: NewRun, can_halve: bool, most_rows: int) -> None:
    trainer = Trainer(new_run("r"))
    trainer.updates.can_halve = can_halve
    rows = short_of_memory(trainer, most_rows)
    before = parameters(trainer)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.update()
    assert not rows
    assert all(torch.equal(a, b) for a, b in zip(parameters(trainer), before, strict=True))


def test_memory_that_is_short_while_compiling_halves_the_rows_too(new_run: NewRun) -> None:
    trainer = Trainer(new_run("r", "batch_size=8"))
    trainer.updates.can_halve = True
    rows = short_of_memory(trainer, 3)
    while not trainer.updates._warm_up(trainer.updates._loss):
        pass
    assert rows == [2]
    assert trainer.updates.parts == 4


@pytest.mark.parametrize("micro_batches", [4, 1], ids=["between-micro-batches", "before-the-optimizer"])
def test_a_long_step_is_left_where_a_stop_is_asked_for_and_made_again_bit_for_bit(
    new_run: NewRun, micro_batches: int
) -> None:
    overrides = (f"grad_accum_steps={micro_batches}", "dropout=0.1")
    plain, stopped = Trainer(new_run("plain", *overrides)), Trainer(new_run("stopped", *overrides))
    asked, draws = [True], list[Tensor]()
    stopped.updates.patience, stopped.updates._is_stopped = -1.0, lambda: asked[0]
    torch.manual_seed(5)
    assert [stopped.update(), stopped.state.step] == [False, 0]
    asked[0] = False
    for trainer in (stopped, plain):
        assert trainer.update()
        draws.append(torch.rand(3))
        torch.manual_seed(5)
    assert stopped.state == plain.state
    assert torch.equal(*draws)
    for a, b in zip(parameters(stopped), parameters(plain), strict=True):
        assert torch.equal(a, b)


def test_a_stop_ends_an_evaluation_and_a_sample_which_are_made_up_for(new_run: NewRun) -> None:
    trainer = Trainer(new_run("r"), is_stopped=lambda: True)
    trainer.update()
    before = trainer.state.evaluated_step, trainer.state.sampled_step
    assert (trainer.evaluate(), trainer.sample()) == (None, None)
    assert (trainer.state.evaluated_step, trainer.state.sampled_step) == before
    assert trainer.model.training


def test_a_run_that_cannot_fit_into_memory_is_refused_before_anything_is_built(new_run: NewRun) -> None:
    run = new_run("r")
    large = change_run(run, ["batch_size=100000000"])
    before = run.profile()
    with pytest.raises(RunError, match=r"This needs about .* GB of memory, and this machine has"):
        finish(run, large)
    assert run.profile() == before
    assert not run.metrics_path.exists()


def test_notices_of_a_run_are_in_its_metrics(new_run: NewRun) -> None:
    run = new_run("r", *WILD, "learning_rate=1e37", "max_steps=8")
    events = finish(run)
    assert isinstance(events[-1], RunFinished)
    texts = [event.text for event in events if isinstance(event, Notice)]
    lines = [json.loads(line) for line in run.metrics_path.read_text("utf-8").splitlines()]
    assert [line["text"] for line in lines if line["event"] == "notice"] == texts != []
