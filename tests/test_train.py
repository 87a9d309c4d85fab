from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcli.checkpoint_folders import pointed
from gptcli.checkpoints import checkpoint_path
from gptcli.device import Setup, detect
from gptcli.errors import RunError
from gptcli.events import (
    CheckpointSaved,
    Evaluated,
    Notice,
    RunFinished,
    RunStarted,
    SampleDrawn,
    StepLogged,
    TrainEvent,
)
from gptcli.history import read_history
from gptcli.profiles import build_profile
from gptcli.runs import RunDir, change_run
from gptcli.train import StopRequest, train
from gptcli.trainer import Trainer
from gptcli.updates import loss_function
from tests.training import checkpoint_bytes, finish, interrupt, metrics


@pytest.mark.parametrize(
    "overrides",
    [
        ["dropout=0.2", "grad_accum_steps=2"],
        ["family=gpt2", "optimizer=adamw", "dropout=0.1", "bias=true"],
        ["dtype=float32", "tie_embeddings=false", "weight_decay=0.1"],
        ["short_block_size=4", "short_fraction=0.3", "max_steps=10"],
        ["short_block_size=4", "short_fraction=0.7", "max_steps=10"],
        ["short_block_size=4", "short_fraction=0.9", "max_steps=10"],
    ],
    ids=["modern-dropout-accumulation", "gpt2-adamw", "float32-untied", "long-again", "just-long", "still-short"],
)
def test_an_interrupted_and_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    new_run: Callable[..., RunDir], overrides: list[str]
) -> None:
    whole, parts = new_run("whole", "log_interval=1", *overrides), new_run("parts", "log_interval=1", *overrides)
    finish(whole)
    first = interrupt(parts, 7)
    assert isinstance(first[-1], RunFinished)
    assert first[-1].reason == "interrupted"
    assert first[-1].step == 7
    finish(parts)
    assert checkpoint_bytes(parts) == checkpoint_bytes(whole)
    assert metrics(parts) == metrics(whole)


def test_a_run_of_before_there_was_finetuning_goes_on_bit_for_bit(new_run: Callable[..., RunDir]) -> None:
    whole, parts = new_run("whole", "dropout=0.2"), new_run("parts", "dropout=0.2")
    finish(whole)
    interrupt(parts, 6)
    text = parts.profile_path.read_text("utf-8")
    start = text.index("finetune:")
    old = text[:start] + text[text.index("sample:", start) :]
    kept = [
        line
        for line in old.splitlines()
        if not line.strip().startswith(("patience", "gradient_checkpointing", "# checksum"))
    ]
    parts.profile_path.write_text("\n".join(kept) + "\n", "utf-8")
    assert "lora" not in parts.profile_path.read_text("utf-8")
    finish(parts)
    assert checkpoint_bytes(parts) == checkpoint_bytes(whole)


def test_training_from_scratch_knows_no_finetuning(new_run: Callable[..., RunDir]) -> None:
    plain, tuned = new_run("plain"), new_run("tuned", "lora_rank=4", "finetune.base=gpt2", "freeze_embeddings=true")
    assert tuned.profile() == plain.profile()
    assert tuned.base() is None


def test_patience_ends_a_run_from_scratch_too(new_run: Callable[..., RunDir]) -> None:
    rates = ("muon_learning_rate=9", "learning_rate=9", "warmup_steps=0", "max_steps=60", "schedule=constant")
    last = finish(new_run("r", *rates, "patience=3"))[-1]
    assert isinstance(last, RunFinished)
    assert last.best_step is not None
    assert last.reason == "stopped_early"
    assert last.step == last.best_step + 3 * 4 < 60


def test_a_stop_puts_off_the_evaluation_and_the_resumed_run_makes_up_for_it(new_run: Callable[..., RunDir]) -> None:
    overrides = ("log_interval=1", "sample_interval=8")
    whole, parts = new_run("whole", *overrides), new_run("parts", *overrides)
    finish(whole)
    first = interrupt(parts, 8)  # step 8 has an evaluation and a sample
    assert [event.step for event in first if isinstance(event, Evaluated | SampleDrawn)] == [4]
    finish(parts)
    assert checkpoint_bytes(parts) == checkpoint_bytes(whole)
    assert metrics(parts) == metrics(whole)


@pytest.mark.parametrize("stopped_at", [5, 8, 10])
def test_reports_with_evaluations_are_the_same_in_a_resumed_run(
    new_run: Callable[..., RunDir], stopped_at: int
) -> None:
    overrides = ("log_interval=5", "eval_interval=4")
    whole, parts = new_run("whole", *overrides), new_run("parts", *overrides)
    finish(whole)
    interrupt(parts, stopped_at)
    finish(parts)
    assert checkpoint_bytes(parts) == checkpoint_bytes(whole)
    assert metrics(parts) == metrics(whole)
    assert [line["step"] for line in metrics(whole) if line["event"] == "step_logged"] == [4, 5, 8, 10, 12]


def test_an_evaluation_made_up_for_twice_stands_in_the_metrics_once(new_run: Callable[..., RunDir]) -> None:
    overrides = ("log_interval=1", "sample_interval=8", "muon_learning_rate=9", "learning_rate=9")
    whole, parts = new_run("whole", *overrides), new_run("parts", *overrides)
    finish(whole)
    interrupt(parts, 8)
    events = train(parts)  # killed after the evaluation, which is no best and so not saved
    assert any(isinstance(event, SampleDrawn) for event in iter(lambda: next(events), None))
    events.close()
    finish(parts)
    assert metrics(parts) == metrics(whole)


def test_a_run_is_complete_when_its_last_step_is_evaluated(new_run: Callable[..., RunDir]) -> None:
    before, after = new_run("before", "log_interval=1"), new_run("after", "log_interval=1")
    stopped = interrupt(before, 12)[-1]
    assert isinstance(stopped, RunFinished)
    assert stopped.reason == "interrupted"
    assert [event.step for event in finish(before) if isinstance(event, Evaluated)] == [12], "made up for"
    stop = StopRequest()
    with contextlib.closing(train(after, stop=stop)) as events:
        for event in events:
            if isinstance(event, Evaluated) and event.step == 12:
                stop.reason = "interrupted"
    assert isinstance(event, RunFinished)
    assert event.reason == "completed", "there is nothing left to go on with"


def test_a_run_whose_last_evaluation_was_put_off_is_not_said_to_be_complete(new_run: Callable[..., RunDir]) -> None:
    stopped, done = new_run("stopped", "log_interval=1"), new_run("done")
    for events in (interrupt(stopped, 12), finish(done), finish(done)):
        assert not started(events).owes_evaluation
    assert started(finish(stopped)).owes_evaluation


def test_the_time_left_is_told_once_there_is_a_pace(new_run: Callable[..., RunDir]) -> None:
    run = new_run("r", "log_interval=1")
    parts = [interrupt(run, 6), finish(run)]
    for part in parts:
        logged = [event for event in part if isinstance(event, StepLogged)]
        assert logged[0].remaining is None, "the first step of a process is no measure"
        assert all(event.remaining is not None for event in logged[1:])


def test_the_seconds_of_a_run_go_on_from_what_its_parts_took(new_run: Callable[..., RunDir]) -> None:
    run = new_run("r", "log_interval=1", "save_interval=100", "eval_interval=100")
    stopped = interrupt(run, 6)[-1]
    assert isinstance(stopped, RunFinished)
    second = train(run)  # killed after four steps that no checkpoint has
    seen = [next(event for event in second if isinstance(event, StepLogged) and event.step == 10)]
    second.close()
    before = stopped.elapsed + seen[0].elapsed
    third = finish(run)
    assert started(third).seconds_before == pytest.approx(before)
    history = read_history(run)
    after_resume = [report.seconds for report in history.reports if report.step > 6]
    assert min(after_resume) > before
    assert isinstance(third[-1], RunFinished)
    assert history.seconds == pytest.approx(before + third[-1].elapsed)


@pytest.mark.parametrize(("error", "told"), [(MemoryError(), "MemoryError"), (ValueError("too far"), "too far")])
def test_a_failure_is_told_by_its_kind_where_it_says_nothing(
    new_run: Callable[..., RunDir], error: Exception, told: str
) -> None:
    run = new_run("r")
    with contextlib.closing(train(run)) as events:
        next(events)
        with pytest.raises(type(error)):
            events.throw(error)
    assert read_history(run).last["text"] == told


def started(events: list[TrainEvent]) -> RunStarted:
    assert isinstance(events[0], RunStarted)
    return events[0]


def test_a_sample_that_cannot_be_drawn_ends_no_run(new_run: Callable[..., RunDir]) -> None:
    events = finish(new_run("r", "sample_interval=4", "sample.prompt=Ω"))
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 3
    assert "No sample could be drawn: The char tokenizer knows" in notices[0]
    assert isinstance(events[-1], RunFinished)


def test_a_run_that_diverges_is_saved_and_its_metrics_are_json(new_run: Callable[..., RunDir]) -> None:
    run = new_run("r", "family=gpt2", "optimizer=adamw", "learning_rate=1e37", "warmup_steps=0", "max_steps=8")
    events = finish(run)
    assert isinstance(events[-1], RunFinished)
    assert any(isinstance(event, Notice) and "was left out" in event.text for event in events)
    assert pointed(run, "latest") is not None
    assert "NaN" not in run.metrics_path.read_text("utf-8")


@pytest.mark.parametrize(("first", "second"), [("muon", "adamw"), ("adamw", "muon")])
def test_another_optimizer_cannot_take_over(new_run: Callable[..., RunDir], first: str, second: str) -> None:
    run = new_run("r", f"optimizer={first}")
    interrupt(run, 3)
    other = build_profile(run.profile().model_dump(mode="json"), [f"optimizer={second}"])
    before = run.profile_path.read_bytes()
    with pytest.raises(RunError, match="the optimizer's state is not of this profile") as caught:
        list(train(run, profile=other))
    assert "gptcli train tiny --run NEW_NAME --set ..." in caught.value.hint
    assert run.profile_path.read_bytes() == before


def test_a_longer_run_is_written_into_the_profile(new_run: Callable[..., RunDir]) -> None:
    run = new_run("r")
    finish(run)
    longer = change_run(run, ["max_steps=16"])
    with contextlib.closing(train(run, profile=longer)) as events:
        last = list(events)[-1]
    assert isinstance(last, RunFinished)
    assert last.step == 16
    assert run.profile().train.max_steps == 16


@pytest.mark.parametrize(("stopped", "max_steps"), [(4, 6), (4, 20), (8, 9), (8, 40), (12, 40)])
def test_a_run_with_a_short_context_goes_on_for_other_numbers_of_steps(
    new_run: Callable[..., RunDir], stopped: int, max_steps: int
) -> None:
    run = new_run("r", "short_block_size=4", "max_steps=12", "log_interval=1")
    before = interrupt(run, stopped) if stopped < 12 else finish(run)
    with contextlib.closing(train(run, profile=change_run(run, [f"max_steps={max_steps}"]))) as events:
        after = [event for event in events if isinstance(event, StepLogged)]
    epochs = [event.epoch for event in (*before, *after) if isinstance(event, StepLogged)]
    assert epochs == sorted(epochs), "no text is read again before its turn"
    assert after[-1].step == max_steps


def test_a_run_that_dies_between_checkpoints_goes_on_from_the_last_one(new_run: Callable[..., RunDir]) -> None:
    whole, killed = new_run("whole", "log_interval=2"), new_run("killed", "log_interval=2")
    finish(whole)
    events = train(killed)
    for event in events:
        if isinstance(event, StepLogged) and event.step == 10:
            break
    events.close()
    with killed.metrics_path.open("ab") as file:
        file.write(b'{"event": "step_logged", "st')  # the line a crash cut off
    finish(killed)
    assert checkpoint_bytes(killed) == checkpoint_bytes(whole)
    assert metrics(killed) == metrics(whole)


def test_events_come_in_order_and_are_all_in_the_metrics_file(new_run: Callable[..., RunDir]) -> None:
    run = new_run("r")
    events = finish(run)
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    assert [e.step for e in events if isinstance(e, StepLogged)] == [3, 4, 6, 8, 9, 12], "with each evaluation too"
    assert [e.step for e in events if isinstance(e, Evaluated)] == [4, 8, 12]
    assert {e.step for e in events if isinstance(e, CheckpointSaved)} >= {5, 10, 12}
    lines = [json.loads(line) for line in run.metrics_path.read_text("utf-8").splitlines()]
    assert len(lines) == len(events)
    assert [line["event"] for line in lines[:1] + lines[-1:]] == ["run_started", "run_finished"]


def test_training_learns_and_best_points_at_the_lowest_val_loss(new_run: Callable[..., RunDir]) -> None:
    run = new_run("r", "max_steps=60", "eval_interval=10", "learning_rate=0.05")
    events = finish(run)
    losses = {e.step: e.val_loss for e in events if isinstance(e, Evaluated)}
    assert losses[60] < losses[10] - 0.1
    best = min(losses, key=losses.__getitem__)
    assert checkpoint_path(run, "best").name == f"step_{best:06d}"
    assert checkpoint_path(run, "latest").name == "step_000060"


def test_accumulated_micro_batches_are_one_large_batch(new_run: Callable[..., RunDir]) -> None:
    large, small = (
        new_run("large", "batch_size=8", "dtype=float32"),
        new_run("small", "grad_accum_steps=2", "dtype=float32"),
    )
    a, b = finish(large), finish(small)
    for x, y in zip(a, b, strict=True):
        if isinstance(x, StepLogged) and isinstance(y, StepLogged):
            assert x.train_loss == pytest.approx(y.train_loss, rel=1e-4)
            assert x.tokens_seen == y.tokens_seen == x.step * 128


def test_the_reported_loss_is_the_mean_since_the_last_report(new_run: Callable[..., RunDir]) -> None:
    rare = ("log_interval=3", "eval_interval=12")
    every, third = finish(new_run("every", "log_interval=1")), finish(new_run("third", *rare))
    single = [e.train_loss for e in every if isinstance(e, StepLogged)]
    means = [e.train_loss for e in third if isinstance(e, StepLogged)]
    assert means == pytest.approx([sum(single[i : i + 3]) / 3 for i in range(0, 12, 3)], rel=1e-6)


def test_drawing_samples_changes_nothing_that_is_trained(new_run: Callable[..., RunDir]) -> None:
    quiet, writing = new_run("quiet", "dropout=0.2"), new_run("writing", "dropout=0.2", "sample_interval=2")
    finish(quiet)
    samples = [e for e in finish(writing) if isinstance(e, SampleDrawn)]
    assert [sample.step for sample in samples] == [2, 4, 6, 8, 10, 12]
    assert all(sample.prompt == "The " and sample.text for sample in samples)
    assert checkpoint_bytes(quiet)["model.safetensors"] == checkpoint_bytes(writing)["model.safetensors"]


def test_non_finite_gradients_never_reach_the_weights(new_run: Callable[..., RunDir]) -> None:
    trainer = Trainer(new_run("r"), None)
    trainer.update()
    with torch.no_grad():
        trainer.model.norm.weight[0] = math.inf  # type: ignore[operator]
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.update()
    assert trainer.state.skipped_steps == 1
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    notices = list(trainer.notices())
    assert [isinstance(notice, Notice) for notice in notices] == [True]
    assert "Step 2 was left out" in notices[0].text
    assert trainer.report().train_loss < 10, "the loss of a skipped step is not in the mean"


def test_float16_halves_its_scale_on_overflow_and_goes_on(new_run: Callable[..., RunDir]) -> None:
    trainer = Trainer(new_run("r"), None)
    trainer.updates.setup = Setup(
        torch.device("cpu"), torch.float16, compile=False, reason="float16 on a CPU, for this test"
    )
    trainer.updates._loss = loss_function(trainer.model, trainer.updates.setup)
    trainer.state.loss_scale = 2.0**100
    for _ in range(101):
        trainer.update()
        if trainer.state.loss_scale_steps:
            break
    assert trainer.state.loss_scale < 2.0**100
    assert trainer.state.loss_scale_steps == 1
    assert trainer.state.skipped_steps == 0
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())


def test_the_seed_decides_everything(new_run: Callable[..., RunDir]) -> None:
    a, b, c = new_run("a"), new_run("b"), new_run("c", "train.seed=2")
    for run in (a, b, c):
        finish(run)
    assert checkpoint_bytes(a) == checkpoint_bytes(b)
    assert checkpoint_bytes(a)["model.safetensors"] != checkpoint_bytes(c)["model.safetensors"]


def test_training_a_finished_run_again_does_nothing(new_run: Callable[..., RunDir]) -> None:
    run = new_run("r")
    finish(run)
    before = checkpoint_bytes(run)
    events = finish(run)
    assert [type(event) for event in events] == [RunStarted, RunFinished]
    assert checkpoint_bytes(run) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from inside its compiler
@pytest.mark.skipif(not detect().compiler, reason="needs a C++ compiler")
def test_a_compiled_run_has_the_losses_of_an_eager_one(new_run: Callable[..., RunDir]) -> None:
    torch.compiler.reset()  # what other tests compiled in this process is looked at again, with warnings of its own
    eager = finish(new_run("eager", "compile=false", "dtype=float32"))
    compiled = finish(new_run("compiled", "compile=true", "dtype=float32"))
    assert [event.text for event in compiled if isinstance(event, Notice)] == []
    for a, b in zip(eager, compiled, strict=True):
        if isinstance(a, StepLogged) and isinstance(b, StepLogged):
            assert a.train_loss == pytest.approx(b.train_loss, rel=1e-3)


def test_a_compiler_that_fails_is_done_without_and_said(
    new_run: Callable[..., RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    torch.compiler.reset()
    events = finish(new_run("r", "compile=true"))
    torch.compiler.reset()
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "goes on without it" in notices[0]
    assert isinstance(events[-1], RunFinished)
    assert events[-1].reason == "completed"
