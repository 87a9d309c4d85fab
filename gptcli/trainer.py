"""A run in the making: model, optimizer, data and progress, and what can be done with them.

Each method is one thing that ``train``'s loop does: a step, a report, an evaluation, a sample, a checkpoint. When they
happen is the loop's business.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from gptcli.batches import BatchStream
from gptcli.building import build, whole_model
from gptcli.checkpoint_folders import checkpoint_folders, step_of
from gptcli.checkpoints import TrainState, owes_evaluation, point_best_at, rng_tensors, save_checkpoint
from gptcli.config import RunProfile, TrainConfig
from gptcli.device import Setup, choose_setup, detect, keep_freed_memory
from gptcli.errors import GptcliError, RunError
from gptcli.evaluate import evaluate
from gptcli.events import (
    CheckpointSaved,
    Evaluated,
    Notice,
    Reason,
    RunFinished,
    RunStarted,
    SampleDrawn,
    StepLogged,
    WentBack,
)
from gptcli.history import read_history
from gptcli.metrics import base_val_loss
from gptcli.optim import learning_rate
from gptcli.pace import Clock
from gptcli.parallel import collect, own_share
from gptcli.plan import count_parameters, flops_per_token
from gptcli.runs import RunDir
from gptcli.sample import generate
from gptcli.shards import TokenDataset
from gptcli.tokenizer import byte_lengths
from gptcli.updates import Updates, free_memory
from gptcli.world import ALONE, World

# So many steps in a row without a finite loss and gradient end the way that a run has taken.
DIVERGED_STEPS = 10
# Larger models may be short of memory on a CPU, and give back what they free.
SMALL_PARAMETERS = 50_000_000


class _StoppedError(Exception):
    """A stop was asked for in the middle of what can be made up for."""


class Trainer:
    """A run in the making: model, optimizer, data and state, and what can be done with them."""

    def __init__(
        self,
        run: RunDir,
        device: str | None = None,
        profile: RunProfile | None = None,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        before_save: Callable[[], None] = lambda: None,
        world: World = ALONE,
        dataset: TokenDataset | None = None,
    ) -> None:
        self.run, self.profile, self.world = run, profile or run.profile(), world
        self._is_stopped, self._before_save = is_stopped, before_save
        self.dataset = dataset or run.dataset()
        self.tokenizer = run.tokenizer() if world.leads else self.dataset.tokenizer()
        self._own = own_share(self.profile, world.size)
        self.setup = self._alike(make_setup(self.profile, device))
        if self.setup.device.type == "cpu" and count_parameters(self.profile.model) <= SMALL_PARAMETERS:
            keep_freed_memory()
        self.started_at = time.perf_counter()
        self._pending: list[str] = []
        self._open()
        self.resumed_at_end = not self.has_steps_left
        self.base: str | None
        nothing = (None, None, 0.0)
        self.base, self.base_val_loss, self._seconds_before = world.told(self._past() if world.leads else nothing)
        self._clock = Clock()
        self._lengths = byte_lengths(self.tokenizer)

    def _alike(self, setup: Setup) -> Setup:
        """Return a setup that all processes have; ``RunError`` where their number formats differ."""
        world, sharded = self.world, self.profile.train.parallel == "fsdp"
        if world.is_alone:
            return setup
        dtype = str(setup.dtype).removeprefix("torch.")
        world.alike("the number format", dtype, "Name one that all machines have: --set dtype=float32")
        return replace(setup, compile=not world.largest(int(sharded or not setup.compile)))

    def _past(self) -> tuple[str | None, float | None, float]:
        """Return what the run began from, the val_loss that had, and the seconds it was trained before."""
        base = self.run.base()
        loss = base_val_loss(self.run.metrics_path) if base and self.state.evaluated_step >= 0 else None
        return base["name"] if base else None, loss, read_history(self.run, brief=True).seconds

    def _open(self, *, before: int | None = None, parts: int = 1) -> None:
        """Build what a run goes on with from its newest whole checkpoint, or from the beginning."""
        world = self.world
        self.model, optimizer, saved = build(self.run, self.profile, self.setup, self.say, before=before, world=world)
        self.state, self.saved_step = saved or TrainState(), saved.step if saved else -1
        self._follows = self.saved_step
        self.owes_evaluation = saved is not None and world.told(world.leads and owes_evaluation(self.run, saved))
        self.updates = Updates(
            *(self.model, optimizer, self._own, self.setup, self.state, self.say),
            # Several processes can stop between steps only, where all of them hear of it.
            is_stopped=self._is_stopped if world.is_alone else lambda: False,
            parts=parts,
            world=world,
        )
        self.batches = self._open_batches()

    def _open_batches(self) -> BatchStream:
        return open_batches(self._own, self.dataset, self.state, self.world.size)

    def update(self) -> bool:
        """Make one step: micro-batches without a single scored target leave weights and optimizer as they are.

        False where a stop was asked for and the step, which would take long, is left for the next time.
        """
        state, world = self.state, self.world
        if not world.is_alone and self._is_stopped():
            return False
        begin = time.perf_counter()
        if self.batches.block_size < self.profile.windows(state.step)[1]:
            self.batches = self._open_batches()
        parts = range(self._own.train.grad_accum_steps)
        micro_batches = [self.batches.next_batch(world.rank, world.size) for _ in parts]
        n_tokens = world.total(sum(int((batch.targets >= 0).sum()) for batch in micro_batches))
        if not world.leads and self.profile.draws_while_training:
            seeds = np.random.SeedSequence([self.profile.train.seed, state.step, world.rank])
            torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        mean = self.updates.update(micro_batches, n_tokens) if n_tokens else math.nan
        if mean is None:
            self.batches = self._open_batches()
            return False
        state.step += 1
        state.tokens_seen += n_tokens
        (state.epoch, state.index), state.block_size = self.batches.position, self.batches.block_size
        if math.isfinite(mean):
            state.loss_sum += mean * n_tokens
            state.loss_tokens += n_tokens
        self._clock.trained(n_tokens, time.perf_counter() - begin)
        return True

    @property
    def has_steps_left(self) -> bool:
        """Whether the last step is still to come."""
        return self.state.step < self.profile.train.max_steps

    @property
    def done(self) -> dict[str, int]:
        """Up to which step events in the metrics are made already, where that is not the step itself."""
        state = self.state
        # A line that says where the run went back to stays only once a later step was reached from there.
        return {"evaluated": state.evaluated_step, "sample_drawn": state.sampled_step, "went_back": state.step - 1}

    @property
    def has_diverged(self) -> bool:
        """Whether so many steps in a row were left out that going on is of no use."""
        return self.state.skipped_in_row >= DIVERGED_STEPS

    def go_back(self) -> WentBack:
        """Return to the newest checkpoint whose weights gave finite losses, or to the beginning, with half the rates.

        ``RunError`` that says what to change where that was done before, or there is nothing to go back to.
        """
        state, config, parts = self.state, self.profile.train, self.updates.parts
        assert state.stuck_since is not None, "a run that has diverged is stuck"
        if not state.stuck_since:
            raise self.world.said_once(_never_finite(self.run, self.setup))
        kept = self.world.told(any(step_of(path) < state.stuck_since for path in checkpoint_folders(self.run)))
        if self.updates.rate_factor < 1 or (self.base is not None and not kept):
            raise self.world.said_once(_diverged(self.run, self.profile, state.step))
        del self.model, self.updates  # no device has to hold two of them
        free_memory(self.setup.device)
        self._open(before=state.stuck_since, parts=parts)
        self.state.lowered_rates = [config.learning_rate, config.muon_learning_rate]
        self.state.skipped_steps, self.state.skipped_in_row = state.skipped_steps, 0
        return WentBack(self.state.step, state.step, self.updates.rate_factor)

    def say(self, text: str) -> None:
        """Put a notice among the events."""
        self._pending.append(text)

    def notices(self) -> Iterator[Notice]:
        """Give out what came up during the last update."""
        pending = list(self._pending)
        self._pending.clear()
        yield from (Notice(self.state.step, text) for text in pending)

    def report(self) -> StepLogged:
        """Report the mean loss since the last report, and the pace."""
        state, config = self.state, self.profile.train
        loss = state.loss_sum / state.loss_tokens if state.loss_tokens else math.nan
        state.last_train_loss = loss if math.isfinite(loss) else None
        state.loss_sum, state.loss_tokens = 0.0, 0
        rate = self._clock.tokens_per_second()
        peak = self.setup.peak_flops
        return StepLogged(
            step=state.step,
            tokens_seen=state.tokens_seen,
            epoch=self.batches.epochs,
            train_loss=loss,
            learning_rate=learning_rate(state.step - 1, config) * self.updates.rate_factor,
            grad_norm=self.updates.grad_norm,
            tokens_per_second=rate,
            mfu=rate * flops_per_token(self.profile.model) / (peak * self.world.size) if peak else None,
            skipped_steps=state.skipped_steps,
            elapsed=self._elapsed(),
            remaining=self._remaining(),
        )

    def evaluate(self) -> Evaluated | None:
        """Score the val split and remember the best; None where a stop was asked for meanwhile.

        A base without a finite val_loss is a ``RunError``.
        """
        state, limit = self.state, self.profile.train.eval_tokens
        try:
            with self._clock.evaluating():
                result = evaluate(
                    *(self.model, self.dataset.val, self._lengths, self.setup),
                    limit=limit,
                    before_batch=self._give_up,
                    world=self.world,
                )
        except _StoppedError:
            return None
        if self.base is not None and state.step == 0 and not math.isfinite(result.val_loss):
            raise self.world.said_once(_broken_base(self.run, self.base, result.val_loss, self.setup))
        best = math.isfinite(result.val_loss) and (state.best_val_loss is None or result.val_loss < state.best_val_loss)
        best = self.world.told(best)  # other processors may round in another way
        state.evaluated_step, self.owes_evaluation = state.step, False
        state.last_val_loss = result.val_loss if math.isfinite(result.val_loss) else None
        if self.base is not None and state.step == 0:
            self.base_val_loss = state.last_val_loss
        if best:
            state.best_val_loss, state.best_val_loss_stderr = result.val_loss, result.val_loss_stderr
            state.best_bits_per_byte, state.best_step = result.bits_per_byte, state.step
        state.evaluations_since_best = 0 if best else state.evaluations_since_best + 1
        return Evaluated(
            step=state.step,
            tokens_seen=state.tokens_seen,
            val_loss=result.val_loss,
            val_loss_stderr=result.val_loss_stderr,
            perplexity=result.perplexity,
            bits_per_byte=result.bits_per_byte,
            n_tokens=result.n_tokens,
            best=best,
            elapsed=self._elapsed(),
            remaining=self._remaining(),
        )

    def _give_up(self) -> None:
        if self._is_stopped():
            raise _StoppedError

    def sample(self) -> SampleDrawn | Notice | None:
        """Let the model write as it is now; None where a stop was asked for meanwhile.

        Its draws do not touch the random state, and a failure ends no run.
        """
        config, text = self.profile.sample.model_copy(update={"num_samples": 1}), ""
        model = whole_model(self.model, self.profile, self.world)
        if model is None:
            self.state.sampled_step = self.state.step
            return None
        # Matrices in bfloat16 meet a float32 residual stream: only autocast lets them multiply.
        wide = all(p.dtype == torch.float32 for p in model.parameters())
        try:
            with contextlib.nullcontext() if wide else self.setup.autocast():
                for piece in generate(model, self.tokenizer, config.prompt, config):
                    if self.world.is_alone:
                        self._give_up()
                    text += piece.text
        except _StoppedError:
            return None
        except GptcliError as error:
            self.state.sampled_step = self.state.step
            return Notice(self.state.step, f"No sample could be drawn: {error.message}")
        self.state.sampled_step = self.state.step
        return SampleDrawn(self.state.step, config.prompt, text)

    def save(self, *, best: bool) -> CheckpointSaved:
        """Write a checkpoint of this moment; where there is one it is never written anew, only found to be the best."""
        self._before_save()
        # While no update is applied, the weights may be broken, and any older checkpoint the one to go back to.
        keep = self.profile.train.keep_checkpoints if self.state.stuck_since is None else None
        step, path = self.state.step, self.run.path
        if self.saved_step == step:
            if self.world.leads:
                path = point_best_at(self.run, step, keep)
            return CheckpointSaved(step, str(path), best)
        tensors = {**self.updates.optimizer.collected(self.world), **rng_tensors(self.setup.device)}
        trained = collect({name: p for name, p in self.model.named_parameters() if p.requires_grad}, self.world)
        if self.world.leads:
            path = save_checkpoint(self.run, trained, tensors, self.state, best=best, keep=keep, follows=self._follows)
        self.saved_step = self._follows = step
        return CheckpointSaved(step, str(path), best)

    def is_worn_out(self) -> bool:
        """Say whether the last ``patience`` evaluations brought no better val_loss."""
        patience = self.profile.train.patience
        return 0 < patience <= self.state.evaluations_since_best and self.state.best_step is not None

    def started(self) -> RunStarted:
        """Describe the run."""
        model, manifest, expects = self.profile.model, self.dataset.manifest, self.profile.expects
        n_params = count_parameters(model)
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return RunStarted(
            run=self.run.name,
            folder=str(self.run.path),
            corpus=manifest.corpus,
            tokenizer=manifest.tokenizer,
            train_tokens=manifest.train.tokens,
            val_tokens=manifest.val.tokens,
            family=model.family,
            n_params=n_params,
            n_layer=model.n_layer,
            n_head=model.n_head,
            n_embd=model.n_embd,
            block_size=model.block_size,
            vocab_size=manifest.vocab_size,
            tokens_per_step=self.profile.tokens_per_step,
            max_steps=self.profile.train.max_steps,
            step=self.state.step,
            device=str(self.setup.device),
            device_reason="; ".join(part for part in (self.setup.reason, self._company()) if part),
            expected_val_loss=expects.val_loss,
            expected_minutes=expects.minutes,
            best_val_loss=self.state.best_val_loss,
            base=self.base,
            trained_params=None if trained == n_params else trained,
            stopped_early=self.is_worn_out() and self.state.step < self.profile.train.max_steps,
            eval_interval=self.profile.train.eval_interval,
            seconds_before=self._seconds_before,
            owes_evaluation=not self.has_steps_left and self.state.evaluated_step < self.state.step,
        )

    def _company(self) -> str:
        return "" if self.world.is_alone else f"{self.world.size} processes, {self.profile.train.parallel}"

    def finished(self, reason: Reason) -> RunFinished:
        """Sum the run up."""
        state = self.state
        return RunFinished(
            reason=reason,
            run=self.run.name,
            step=state.step,
            max_steps=self.profile.train.max_steps,
            tokens_seen=state.tokens_seen,
            epoch=self.batches.epochs,
            best_val_loss=state.best_val_loss,
            best_val_loss_stderr=state.best_val_loss_stderr,
            best_bits_per_byte=state.best_bits_per_byte,
            best_step=state.best_step,
            final_val_loss=state.last_val_loss,
            final_train_loss=state.last_train_loss,
            tokens_per_second=self._clock.tokens_per_second(),
            expected_val_loss=self.profile.expects.val_loss,
            elapsed=self._elapsed(),
            base_val_loss=self.base_val_loss,
            chat=self.dataset.manifest.chat is not None,
        )

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started_at

    def _remaining(self) -> float | None:
        config, step = self.profile.train, self.state.step
        if step == config.max_steps:
            return 0.0
        evaluations = math.ceil(config.max_steps / config.eval_interval) - step // config.eval_interval
        return self._clock.remaining(config.max_steps - step, evaluations)


def make_setup(profile: RunProfile, device: str | None = None) -> Setup:
    """Choose where the profile is trained here; ``device`` overrules it."""
    config = profile.train if device is None else profile.train.model_copy(update={"device": device})
    return choose_setup(config, detect())


def _diverged(run: RunDir, profile: RunProfile, step: int) -> RunError:
    config = profile.train
    # Whoever was far off is helped by what is usual, and not by a quarter.
    lower = f"--set learning_rate={min(config.learning_rate / 4, TrainConfig().learning_rate):g}"
    if config.optimizer == "muon":
        lower += f" --set muon_learning_rate={config.muon_learning_rate / 4:g}"
    return RunError(
        f"The run {run.name!r} has diverged again: up to step {step}, {DIVERGED_STEPS} losses or gradients in a row "
        "were not finite, although it went back once and went on with half the learning rate.",
        f"Its checkpoints are as good as they were. Go on more slowly: gptcli train --resume --run {run.name} {lower}",
    )


def _never_finite(run: RunDir, setup: Setup) -> RunError:
    wider = "" if setup.dtype == torch.float32 else "Its numbers may be too large for the format: --set dtype=float32. "
    return RunError(
        f"The run {run.name!r} has not had one finite loss or gradient in {DIVERGED_STEPS} steps.",
        f"{wider}No rate has any part in that: look at the text, or make the model smaller.",
    )


def _broken_base(run: RunDir, base: str, val_loss: float, setup: Setup) -> RunError:
    dtype = str(setup.dtype).removeprefix("torch.")
    ways = "" if setup.dtype == torch.float32 else " Or its numbers are too large for this format: --set dtype=float32."
    return RunError(
        f"{base}: its val_loss before any training is {val_loss} in {dtype}, so there is nothing to go on from.",
        f"Its weights are damaged: begin from others.{ways} The run {run.name!r} is of no use; delete {run.path}.",
    )


def open_batches(profile: RunProfile, dataset: TokenDataset, state: TrainState, world_size: int = 1) -> BatchStream:
    """Open the stream of training batches for the next step, at the position that the last one left.

    ``profile`` is one process's share; a batch has the windows of all. Windows that are long stay long, however many
    steps the run is now to have.
    """
    rows, block_size = profile.windows(state.step)
    before = state.block_size or block_size
    stream = BatchStream(
        dataset.train,
        block_size=before,
        batch_size=world_size * profile.train.batch_size * profile.model.block_size // before,
        seed=profile.train.seed,
        epoch=state.epoch,
        index=state.index,
    )
    return stream.recut(block_size, world_size * rows) if before < block_size else stream
