"""One update of the weights from its micro-batches: gradients, clipped, applied.

What is not finite changes nothing, float16 is scaled, and a device without enough memory takes the rows in parts. Which
batches come, and what happens around an update, is ``trainer``'s business.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gptcli.batches import Batch
from gptcli.checkpoints import TrainState, restore_rng, rng_tensors
from gptcli.config import RunProfile
from gptcli.device import Setup
from gptcli.errors import GptcliError, RunError, is_out_of_memory
from gptcli.model import GPT
from gptcli.optim import Optimizer
from gptcli.parallel import Forward, whole
from gptcli.world import ALONE, World

# float16 gradients are scaled so that small ones survive: halved on overflow, doubled after this many good steps.
LOSS_SCALE_START = 65_536.0
LOSS_SCALE_STEPS = 2000
# A loss is a spike this many mean deviations, and this share of its level, above its level of the last 50 steps.
SPIKE_DEVIATIONS, SPIKE_SHARE = 8.0, 0.2
LEVEL_STEPS = 50
# After a divergence the run goes on with this share of its learning rates.
LOWERED = 0.5
# A step that would take longer than this from where a stop is asked for is left for the next time.
PATIENCE_SECONDS = 2.0
Say = Callable[[str], None]
LossFunction = Callable[[Tensor, Tensor], Tensor]
NO_MEMORY_FOR_ALL = (
    "One of the processes has too little memory for its share of a step.",
    "Take fewer sequences at a time and more of them, or --set gradient_checkpointing=true, or --set parallel=fsdp.",
)


class Updates:
    """Makes the updates of a model and counts in ``state`` what came of them; what a person should know is said.

    In a ``world`` of several processes each has its own micro-batches of the update, and all end with the same weights.
    """

    def __init__(
        self,
        model: GPT,
        optimizer: Optimizer,
        profile: RunProfile,
        setup: Setup,
        state: TrainState,
        say: Say,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        parts: int = 1,
        world: World = ALONE,
    ) -> None:
        self.world = world
        self.model, self.optimizer, self.profile, self.setup, self.state = model, optimizer, profile, setup, state
        self.grad_norm = 0.0
        # The system ends a process that asks a CPU for too much; other devices say no.
        self.can_halve = setup.device.type != "cpu"
        self.parts = parts
        """In how many parts a micro-batch is computed, where a device has too little memory for all of it."""
        self.patience = PATIENCE_SECONDS
        self._applying_seconds = 0.0
        self._is_stopped, self._say = is_stopped, say
        self._forward = Forward(model, world, setup.device)
        self._loss = self._loss_function()
        self._fit_loss_scale()

    @property
    def rate_factor(self) -> float:
        """What the learning rates are multiplied with: less than 1 for those that the run has diverged with."""
        config = self.profile.train
        return LOWERED if self.state.lowered_rates == [config.learning_rate, config.muon_learning_rate] else 1.0

    def _fit_loss_scale(self) -> None:
        """Begin or drop the scale where the run begins, or goes on in another number format."""
        if self.setup.dtype != torch.float16:
            self.state.loss_scale, self.state.loss_scale_steps = 1.0, 0
        elif self.state.loss_scale == 1.0:
            self.state.loss_scale = LOSS_SCALE_START

    def _loss_function(self) -> LossFunction:
        """Return the loss, compiled if that is wanted and works here."""
        eager = loss_function(self._forward.module, self.setup)
        if not self.setup.compile:
            return eager
        try:
            compiled = loss_function(self._forward.module, self.setup, compiled=True)
            while not self._warm_up(compiled):
                pass
        except GptcliError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers fail in many ways, and training can do without
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self._say(f"torch.compile does not work here, so the run goes on without it ({reason}).")
            compiled = eager
        self.optimizer.zero_grad()
        return eager if self.world.largest(int(compiled is eager)) else compiled

    def _warm_up(self, compiled: LossFunction) -> bool:
        """Compile for the windows of this step and of the last one; False where they were halved for want of memory."""
        last = self.profile.train.max_steps - 1
        try:
            own = [self.setup.device] if self.setup.device.type == "cuda" else []
            with (
                torch.random.fork_rng(own, enabled=self.profile.draws_while_training),
                self._forward.adding(last=False),
            ):
                for rows, block_size in {self.profile.windows(self.state.step), self.profile.windows(last)}:
                    tokens = np.zeros((-(-rows // self.parts), block_size), np.int64)
                    compiled(*self._to_device(Batch(tokens, tokens))).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if not self._may_halve(error, rows):
                raise
        else:
            return True
        self._halve(rows)
        return False

    def update(self, micro_batches: Sequence[Batch], n_tokens: int) -> float | None:
        """Make update number ``state.step`` of ``n_tokens`` scored tokens; returns their mean loss.

        A loss or gradient that is not finite leaves weights and optimizer as they are and is counted in the state. None
        where a stop was asked for and the rest would take long: nothing has changed then, the random state included.
        """
        drawn = rng_tensors(self.setup.device)
        mean = self._backward_in_parts(micro_batches, n_tokens)
        if mean is None or self._is_left(0.0):
            restore_rng(drawn, self.setup.device)
            self.optimizer.zero_grad()
            return None
        begin = time.perf_counter()
        applied = self._apply_gradients(mean)
        self._applying_seconds = time.perf_counter() - begin
        self.optimizer.zero_grad()
        if applied:
            self.state.skipped_in_row, self.state.stuck_since = 0, None
            self._watch(mean)
        else:
            self._skip()
        return mean

    def _backward_in_parts(self, micro_batches: Sequence[Batch], n_tokens: int) -> float | None:
        """Do what ``_backward`` does, with half the rows at a time from then on where a GPU has too little memory."""
        rows = max(len(batch.inputs) for batch in micro_batches)
        while True:
            try:
                return self._backward(micro_batches, n_tokens)
            except RuntimeError as error:
                if not self._may_halve(error, rows):
                    raise
            self._halve(rows)

    def _may_halve(self, error: RuntimeError, rows: int) -> bool:
        if not self.world.is_alone and is_out_of_memory(error):
            raise RunError(*NO_MEMORY_FOR_ALL) from error  # the others have begun to exchange their gradients
        return self.can_halve and is_out_of_memory(error) and self.parts < rows

    def _halve(self, rows: int) -> None:
        """Compute half as many rows at a time; called behind the handler, whose error holds on to all tensors."""
        self.optimizer.zero_grad()
        too_many = -(-rows // self.parts)
        self.parts = min(2 * self.parts, rows)
        free_memory(self.setup.device)
        self._say(
            f"There was not enough memory for {too_many} sequences at a time. Each micro-batch is now computed in "
            f"{self.parts} parts; a step learns from as many tokens as before."
        )

    def _backward(self, micro_batches: Sequence[Batch], n_tokens: int) -> float | None:
        """Leave the gradients of the mean loss in the parameters; returns that loss, None where the step is left."""
        total, begin = torch.zeros((), device=self.setup.device), time.perf_counter()
        scale = self.state.loss_scale * self._forward.factor
        for number, batch in enumerate(micro_batches):
            if number and self._is_stopped():
                if self.setup.device.type == "cuda":
                    torch.cuda.synchronize()  # else it is the queueing that was timed
                if self._is_left((time.perf_counter() - begin) / number * (len(micro_batches) - number)):
                    return None
            parts = min(self.parts, len(batch.inputs))
            pieces = list(zip(*(np.array_split(tokens, parts) for tokens in batch), strict=True))
            for left, (inputs, targets) in zip(reversed(range(len(pieces))), pieces, strict=True):
                with self._forward.adding(last=not left and number == len(micro_batches) - 1):
                    loss = self._loss(*self._to_device(Batch(inputs, targets))) / n_tokens
                    (loss * scale).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return float(self.world.add_up(total))

    def _is_left(self, rest: float) -> bool:
        """Say whether a stop was asked for, and the step would take long: ``rest`` seconds, and the optimizer's."""
        return self._is_stopped() and rest + self._applying_seconds > self.patience

    def _apply_gradients(self, mean: float) -> bool:
        """Clip and apply the gradients as the next update; where they or the loss are not finite, give False."""
        state, gradients = self.state, [p.grad for p in self.model.parameters() if p.grad is not None]
        if state.loss_scale != 1.0:
            for gradient in gradients:
                gradient.div_(state.loss_scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        self.grad_norm = float(whole(norm))
        if not math.isfinite(self.grad_norm) or not math.isfinite(mean):
            return False
        if self.profile.train.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.profile.train.grad_clip, norm)
        self.optimizer.step(state.step, self.setup.dtype, self.rate_factor)
        if self.setup.dtype == torch.float16:
            state.loss_scale_steps += 1
            if state.loss_scale_steps == LOSS_SCALE_STEPS:
                state.loss_scale, state.loss_scale_steps = state.loss_scale * 2, 0
        return True

    def _skip(self) -> None:
        """Count a step whose loss or gradient was not finite; for float16 that is how the scale finds its place."""
        state = self.state
        state.stuck_since = state.step if state.stuck_since is None else state.stuck_since
        if self.setup.dtype == torch.float16 and state.loss_scale > 1.0:
            state.loss_scale, state.loss_scale_steps = state.loss_scale / 2, 0
            return
        state.skipped_steps += 1
        state.skipped_in_row += 1
        if state.skipped_steps & (state.skipped_steps - 1):
            return  # said at 1, 2, 4, 8 ...
        self._say(
            f"Step {state.step + 1} was left out: its loss or gradient was not finite "
            f"({state.skipped_steps} so far). If this goes on, lower train.learning_rate."
        )

    def _watch(self, mean: float) -> None:
        """Follow the level of the loss, and say where it jumps far above."""
        state = self.state
        if state.level_steps >= LEVEL_STEPS:
            limit = state.loss_level + max(SPIKE_DEVIATIONS * state.loss_deviation, SPIKE_SHARE * state.loss_level)
            if mean > limit and not state.in_spike:
                state.spikes += 1
                if not state.spikes & (state.spikes - 1):  # said at 1, 2, 4, 8 ...
                    self._say(
                        f"The loss jumped to {mean:.2f} at step {state.step + 1}, from about {state.loss_level:.2f} "
                        f"({state.spikes} so far)."
                    )
            state.in_spike = mean > limit
        state.level_steps += 1
        share = max(1 / LEVEL_STEPS, 1 / state.level_steps)
        state.loss_deviation += share * (abs(mean - state.loss_level) - state.loss_deviation)
        state.loss_level += share * (mean - state.loss_level)

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        tensors = [torch.from_numpy(part) for part in batch]
        if self.setup.device.type == "cuda":  # only from pinned memory does a copy not wait
            tensors = [tensor.pin_memory() for tensor in tensors]
        inputs, targets = (tensor.to(self.setup.device, non_blocking=True) for tensor in tensors)
        return inputs, targets


def free_memory(device: torch.device) -> None:
    """Give back what nothing holds on to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def loss_function(model: nn.Module, setup: Setup, *, compiled: bool = False) -> LossFunction:
    """Return the summed loss of a batch as a function of its inputs and targets."""
    forward = torch.compile(model) if compiled else model

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        with setup.autocast():
            value: Tensor = forward(inputs, targets, reduction="sum")
        return value

    return loss
