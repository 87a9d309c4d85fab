"""A run in the making: model, optimizer, data and progress, and what can be done with them.

Each method is one thing that ``train``'s loop does: a step, a report, an evaluation, a sample, a checkpoint. When they
happen is the loop's business.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from gptcli.batches import Batch, BatchStream
from gptcli.building import build
from gptcli.checkpoints import TrainState, owes_evaluation, point_best_at_latest, rng_tensors, save_checkpoint
from gptcli.config import RunProfile
from gptcli.device import Setup, choose_setup, detect, keep_freed_memory
from gptcli.errors import GptcliError, RunError
from gptcli.evaluate import evaluate
from gptcli.events import CheckpointSaved, Evaluated, Notice, Reason, RunFinished, RunStarted, SampleDrawn, StepLogged
from gptcli.model import GPT
from gptcli.optim import learning_rate
from gptcli.plan import count_parameters, flops_per_token
from gptcli.runs import RunDir, base_val_loss
from gptcli.sample import generate
from gptcli.shards import TokenDataset
from gptcli.tokenizer import byte_lengths

# float16 gradients are scaled so that small ones survive: halved on overflow, doubled after this many good steps.
LOSS_SCALE_START = 65_536.0
LOSS_SCALE_STEPS = 2000
# Larger models may be short of memory on a CPU, and give back what they free.
SMALL_PARAMETERS = 50_000_000
LossFunction = Callable[[Tensor, Tensor], Tensor]


class Trainer:
    """A run in the making: model, optimizer, data and state, and what can be done with them."""

    def __init__(self, run: RunDir, device: str | None = None, profile: RunProfile | None = None) -> None:
        self.run, self.profile = run, profile or run.profile()
        self.dataset, self.tokenizer = run.dataset(), run.tokenizer()
        self.setup = make_setup(self.profile, device)
        if self.setup.device.type == "cpu" and count_parameters(self.profile.model) <= SMALL_PARAMETERS:
            keep_freed_memory()
        self.started_at = time.perf_counter()
        self.model, self.optimizer, saved = build(run, self.profile, self.setup)
        self.state, self.saved_step = saved or TrainState(), saved.step if saved else -1
        self.owes_evaluation = saved is not None and owes_evaluation(run, saved)
        base = run.base()
        self.base: str | None = base["name"] if base else None
        self.base_val_loss = base_val_loss(run) if base and self.state.evaluated_step >= 0 else None
        self._fit_loss_scale()
        self.batches = open_batches(self.profile, self.dataset, self.state)
        self._pending: list[str] = []
        self._loss = self._loss_function()
        self._clock = _Clock()
        self._lengths = byte_lengths(self.tokenizer)
        self._grad_norm = 0.0

    def _fit_loss_scale(self) -> None:
        """Begin or drop the scale where the run begins, or goes on in another number format."""
        if self.setup.dtype != torch.float16:
            self.state.loss_scale, self.state.loss_scale_steps = 1.0, 0
        elif self.state.loss_scale == 1.0:
            self.state.loss_scale = LOSS_SCALE_START

    def _loss_function(self) -> LossFunction:
        """Return the loss, compiled if that is wanted and works here."""
        eager = loss_function(self.model, self.setup)
        if not self.setup.compile:
            return eager
        try:
            compiled = loss_function(self.model, self.setup, compiled=True)
            drops = self.profile.model.dropout > 0 or self.profile.finetune.lora_dropout > 0
            last = self.profile.train.max_steps - 1
            with torch.random.fork_rng(enabled=drops):
                for windows in {self.profile.windows(self.state.step), self.profile.windows(last)}:
                    tokens = np.zeros(windows, np.int64)
                    compiled(*self._to_device(Batch(tokens, tokens))).backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 - compilers fail in many ways, and training can do without
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self._pending.append(f"torch.compile does not work here, so the run goes on without it ({reason}).")
            compiled = eager
        self.optimizer.zero_grad()
        return compiled

    def update(self) -> None:
        """Make one step: the gradients of all its micro-batches, clipped, then the optimizer.

        Micro-batches without a single scored target leave the weights and the optimizer as they are.
        """
        config, state = self.profile.train, self.state
        begin = time.perf_counter()
        if self.batches.block_size < self.profile.windows(state.step)[1]:
            self.batches = open_batches(self.profile, self.dataset, state)
        micro_batches = [self.batches.next_batch() for _ in range(config.grad_accum_steps)]
        n_tokens = sum(int((batch.targets >= 0).sum()) for batch in micro_batches)
        mean = self._backward(micro_batches, n_tokens) if n_tokens else math.nan
        applied = self._apply_gradients() if n_tokens else True
        self.optimizer.zero_grad()
        state.step += 1
        state.tokens_seen += n_tokens
        (state.epoch, state.index), state.block_size = self.batches.position, self.batches.block_size
        if math.isfinite(mean):
            state.loss_sum += mean * n_tokens
            state.loss_tokens += n_tokens
        if not applied:
            self._skip()
        self._clock.trained(n_tokens, time.perf_counter() - begin)

    def _backward(self, micro_batches: list[Batch], n_tokens: int) -> float:
        """Leave the gradients of the mean loss in the parameters; returns that loss."""
        total = torch.zeros((), device=self.setup.device)
        for batch in micro_batches:
            loss = self._loss(*self._to_device(batch)) / n_tokens
            (loss * self.state.loss_scale).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total)

    def _apply_gradients(self) -> bool:
        """Clip and apply the gradients as the next update; non-finite ones change nothing and give False."""
        state, gradients = self.state, [p.grad for p in self.model.parameters() if p.grad is not None]
        if state.loss_scale != 1.0:
            for gradient in gradients:
                gradient.div_(state.loss_scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        self._grad_norm = float(norm)
        if not math.isfinite(self._grad_norm):
            return False
        if self.profile.train.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.profile.train.grad_clip, norm)
        self.optimizer.step(state.step, self.setup.dtype)
        if self.setup.dtype == torch.float16:
            state.loss_scale_steps += 1
            if state.loss_scale_steps == LOSS_SCALE_STEPS:
                state.loss_scale, state.loss_scale_steps = state.loss_scale * 2, 0
        return True

    def _skip(self) -> None:
        """Count a step whose loss or gradient was not finite; for float16 that is how the scale finds its place."""
        state = self.state
        if self.setup.dtype == torch.float16 and state.loss_scale > 1.0:
            state.loss_scale, state.loss_scale_steps = state.loss_scale / 2, 0
            return
        state.skipped_steps += 1
        if state.skipped_steps & (state.skipped_steps - 1):
            return  # said at 1, 2, 4, 8 ...
        self._pending.append(
            f"Step {state.step} was left out: its loss or gradient was not finite ({state.skipped_steps} so far). "
            "If this goes on, lower train.learning_rate."
        )

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, targets = (torch.from_numpy(part).to(self.setup.device, non_blocking=True) for part in batch)
        return inputs, targets

    def notices(self) -> Iterator[Notice]:
        """Give out what came up during the last update."""
        pending, self._pending = self._pending, []
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
            learning_rate=learning_rate(state.step - 1, config),
            grad_norm=self._grad_norm,
            tokens_per_second=rate,
            mfu=rate * flops_per_token(self.profile.model) / peak if peak else None,
            skipped_steps=state.skipped_steps,
            elapsed=self._elapsed(),
            remaining=self._remaining(),
        )

    def evaluate(self) -> Evaluated:
        """Score the val split and remember the best; a base without a finite val_loss is a ``RunError``."""
        state, config = self.state, self.profile.train
        with self._clock.evaluating():
            result = evaluate(self.model, self.dataset.val, self._lengths, self.setup, limit=config.eval_tokens)
        if self.base is not None and state.step == 0 and not math.isfinite(result.val_loss):
            raise _broken_base(self.run, self.base, result.val_loss, self.setup)
        best = math.isfinite(result.val_loss) and (state.best_val_loss is None or result.val_loss < state.best_val_loss)
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

    def sample(self) -> SampleDrawn | Notice:
        """Let the model write as it is now; its draws do not touch the random state, and a failure ends no run."""
        config = self.profile.sample.model_copy(update={"num_samples": 1})
        self.state.sampled_step = self.state.step
        # Matrices in bfloat16 meet a float32 residual stream: only autocast lets them multiply.
        wide = all(p.dtype == torch.float32 for p in self.model.parameters())
        try:
            with contextlib.nullcontext() if wide else self.setup.autocast():
                pieces = generate(self.model, self.tokenizer, config.prompt, config)
                text = "".join(piece.text for piece in pieces)
        except GptcliError as error:
            return Notice(self.state.step, f"No sample could be drawn: {error.message}")
        return SampleDrawn(self.state.step, config.prompt, text)

    def save(self, *, best: bool) -> CheckpointSaved:
        """Write a checkpoint of this moment; where there is one it is never written anew, only found to be the best."""
        keep = self.profile.train.keep_checkpoints
        if self.saved_step == self.state.step:
            return CheckpointSaved(self.state.step, str(point_best_at_latest(self.run, keep)), best)
        tensors = {**self.optimizer.state_tensors(), **rng_tensors(self.setup.device)}
        trained = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        path = save_checkpoint(self.run, trained, tensors, self.state, best=best, keep=keep)
        self.saved_step = self.state.step
        return CheckpointSaved(self.state.step, str(path), best)

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
            device_reason=self.setup.reason,
            expected_val_loss=expects.val_loss,
            expected_minutes=expects.minutes,
            best_val_loss=self.state.best_val_loss,
            base=self.base,
            trained_params=None if trained == n_params else trained,
            stopped_early=self.is_worn_out() and self.state.step < self.profile.train.max_steps,
            eval_interval=self.profile.train.eval_interval,
        )

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

    def _remaining(self) -> float:
        config, step = self.profile.train, self.state.step
        if step == config.max_steps:
            return 0.0
        evaluations = math.ceil(config.max_steps / config.eval_interval) - step // config.eval_interval
        return self._clock.remaining(config.max_steps - step, evaluations)


class _Clock:
    """Seconds spent training and evaluating; the pace is that of training alone."""

    def __init__(self) -> None:
        self._steps = self._tokens = 0
        self._seconds = self._evaluation = 0.0
        self._recent: list[tuple[int, float]] = []

    def trained(self, n_tokens: int, seconds: float) -> None:
        """Count one step; the first one warms caches up (or compiles) and is left out of the pace."""
        self._steps += 1
        if self._steps > 1:
            self._recent = [*self._recent[-63:], (n_tokens, seconds)]

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Time one evaluation."""
        begin = time.perf_counter()
        yield
        self._evaluation = time.perf_counter() - begin

    def tokens_per_second(self) -> float:
        """The pace of the last 64 steps."""
        seconds = sum(seconds for _, seconds in self._recent)
        return sum(n for n, _ in self._recent) / seconds if seconds else 0.0

    def remaining(self, steps: int, evaluations: int) -> float:
        """Seconds that ``steps`` and ``evaluations`` more will take at this pace."""
        per_step = sum(seconds for _, seconds in self._recent) / len(self._recent) if self._recent else 0.0
        return steps * per_step + evaluations * self._evaluation


def make_setup(profile: RunProfile, device: str | None = None) -> Setup:
    """Choose where the profile is trained here; ``device`` overrules it."""
    config = profile.train if device is None else profile.train.model_copy(update={"device": device})
    return choose_setup(config, detect())


def _broken_base(run: RunDir, base: str, val_loss: float, setup: Setup) -> RunError:
    dtype = str(setup.dtype).removeprefix("torch.")
    ways = "" if setup.dtype == torch.float32 else " Or its numbers are too large for this format: --set dtype=float32."
    return RunError(
        f"{base}: its val_loss before any training is {val_loss} in {dtype}, so there is nothing to go on from.",
        f"Its weights are damaged: begin from others.{ways} The run {run.name!r} is of no use; delete {run.path}.",
    )


def open_batches(profile: RunProfile, dataset: TokenDataset, state: TrainState) -> BatchStream:
    """Open the stream of training batches for the next step, at the position that the last one left.

    Windows that are long stay long, however many steps the run is now to have.
    """
    rows, block_size = profile.windows(state.step)
    before = state.block_size or block_size
    stream = BatchStream(
        dataset.train,
        block_size=before,
        batch_size=profile.train.batch_size * profile.model.block_size // before,
        seed=profile.train.seed,
        epoch=state.epoch,
        index=state.index,
    )
    return stream.recut(block_size, rows) if before < block_size else stream


def loss_function(model: GPT, setup: Setup, *, compiled: bool = False) -> LossFunction:
    """Return the summed loss of a batch as a function of its inputs and targets."""
    forward = torch.compile(model) if compiled else model

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        with setup.autocast():
            value: Tensor = forward(inputs, targets, reduction="sum")
        return value

    return loss
