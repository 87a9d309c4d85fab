"""Where the time of training goes on this machine, and what memory it takes: real steps, taken to pieces.

``bench`` does them in a run that is thrown away, ``probe`` on made-up tokens without any run. What a plan makes of the
seconds is ``forecast``'s business.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptcli.batches import Batch
from gptcli.building import build
from gptcli.checkpoints import TrainState, rng_tensors, save_checkpoint
from gptcli.config import RunProfile
from gptcli.device import Setup, keep_freed_memory
from gptcli.dry_run import memory_facts
from gptcli.evaluate import evaluate
from gptcli.files import scratch_folder
from gptcli.model import GPT
from gptcli.optim import Optimizer
from gptcli.places import place_here
from gptcli.plan import count_parameters, flops_per_token
from gptcli.runs import RunDir, create_run
from gptcli.shards import TokenDataset
from gptcli.tokenizer import byte_lengths
from gptcli.trainer import SMALL_PARAMETERS, open_batches
from gptcli.updates import LossFunction, loss_function

STEPS = 20
# A model that is large for its machine is timed for about so long; at least one step is.
MOST_SECONDS, PROBE_SECONDS = 60.0, 5.0
# On a CPU, what a probe's micro-batch may cost: some seconds.
PROBE_FLOPS = 5e11
# Tokens that are scored to time an evaluation.
SCORED = 100_000
PARTS = ("data", "forward", "backward", "optimizer")
RUNS = Path("runs")
Say = Callable[[str], None]


class Stopwatch:
    """Seconds by part of a step, each lap up to when the device is done with it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict.fromkeys(PARTS, 0.0)
        self.last = self._now()

    def lap(self, part: str) -> None:
        """Count what has passed since the last lap as a part of the step."""
        now = self._now()
        self.seconds[part] += now - self.last
        self.last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


class Steps:
    """Steps of a model on batches that come without an end, in the order that training does them."""

    def __init__(
        self,
        model: GPT,
        optimizer: Optimizer,
        profile: RunProfile,
        setup: Setup,
        batches: Iterator[Batch],
        say: Say = lambda _: None,
    ) -> None:
        self.model, self.optimizer, self.config, self.setup = model, optimizer, profile.train, setup
        self.batches, self.done = batches, 0
        self.first: dict[str, float] = {}
        """Seconds by part of the first step, which warms up; empty where it compiled."""
        self.loss = self._warmed_up(say)

    def timed(self, most: int, seconds: float) -> dict[str, float]:
        """Return the mean seconds of each part of up to ``most`` steps, fewer where they take longer than ``seconds``.

        At least one is timed.
        """
        before, watch, begin = self.done, Stopwatch(self.setup.device), time.perf_counter()
        while self.done - before < most and (self.done == before or time.perf_counter() - begin < seconds):
            self._step(self.loss, watch)
        return {part: total / (self.done - before) for part, total in watch.seconds.items()}

    def _warmed_up(self, say: Say) -> LossFunction:
        """Make the first step, compiled where that is wanted and works here; returns the loss."""
        eager, watch = loss_function(self.model, self.setup), Stopwatch(self.setup.device)
        if self.setup.compile:
            compiled = loss_function(self.model, self.setup, compiled=True)
            try:
                self._step(compiled, watch)
            except Exception as error:  # noqa: BLE001 - compilers fail in many ways, and training can do without
                say(f"torch.compile does not work here, so nothing is compiled ({type(error).__name__}).")
            else:
                return compiled
        self._step(eager, watch)
        self.first = watch.seconds
        return eager

    def _step(self, loss: LossFunction, watch: Stopwatch) -> None:
        rows = self.config.batch_size * self.config.grad_accum_steps
        for _ in range(self.config.grad_accum_steps):
            batch = next(self.batches)
            inputs, targets = (torch.from_numpy(part).to(self.setup.device, non_blocking=True) for part in batch)
            watch.lap("data")
            value: Tensor = loss(inputs, targets) / (rows * inputs.size(1))
            watch.lap("forward")
            value.backward()  # type: ignore[no-untyped-call]
            watch.lap("backward")
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.grad_clip, norm)
        self.optimizer.step(self.done, self.setup.dtype)
        self.optimizer.zero_grad()
        self.done += 1
        watch.lap("optimizer")


def bench(
    profile: RunProfile,
    dataset: TokenDataset,
    *,
    steps: int | None = None,
    device: str | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Return what steps, an evaluation and a save of a run of ``profile`` take here, as JSON-ready facts.

    ``steps`` are timed after a first one that warms up or compiles: by default 20, or fewer where they take more than a
    minute. All seconds of ``parts`` are a step's, those of ``eval`` and ``save`` its share of one; ``mfu`` is None
    where the peak of the device is not known, ``memory_measured`` where the system does not tell. Nothing stays on the
    disk. Raises what ``create_run`` and choosing a device would.
    """
    whole = profile.model_copy(update={"train": profile.train.model_copy(update={"short_fraction": 0.0})})
    # On the disk the run itself would lie on: the system's temporary folder may be memory.
    with scratch_folder((RUNS if RUNS.is_dir() else RUNS.parent) / "gptcli-bench") as folder:
        run = create_run(whole, profile_name="bench", dataset=dataset, runs_dir=folder)
        facts = _measured(run, dataset, steps, device, say)
        gc.collect()  # nothing is mapped any more, so that the folder can be deleted anywhere
    return facts


def _measured(run: RunDir, dataset: TokenDataset, wanted: int | None, device: str | None, say: Say) -> dict[str, Any]:
    profile = run.profile()
    place, train = place_here(profile.train, device), profile.train
    setup = place.setup
    before = _forget_peak()
    if setup.device.type == "cpu" and count_parameters(profile.model) <= SMALL_PARAMETERS:
        keep_freed_memory()
    elif setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setup.device)
    model, optimizer, _ = build(run, profile, setup, say)
    stream = open_batches(profile, dataset, TrainState())
    say("The first step, which warms up." if not setup.compile else "The first step, which compiles.")
    steps = Steps(model, optimizer, profile, setup, (stream.next_batch() for _ in iter(int, 1)), say)
    say("Timing steps.")
    parts = steps.timed(wanted or STEPS, MOST_SECONDS if wanted is None else float("inf"))
    step = sum(parts.values())
    say("Timing an evaluation and a save.")
    evaluation = _evaluation_seconds(run, model, dataset, setup)
    save = _save_seconds(run, model, optimizer, setup)
    shares = {**parts, "eval": evaluation / train.eval_interval, "save": save / train.save_interval}
    pace, peak = profile.tokens_per_step / step, setup.peak_flops
    return {
        "corpus": profile.data.corpus,
        "device": place.name,
        "device_reason": setup.reason,
        "n_params": count_parameters(profile.model),
        "tokens_per_step": profile.tokens_per_step,
        "n_steps": steps.done - 1,
        "steps_per_second": 1 / step,
        "tokens_per_second": pace,
        "mfu": pace * flops_per_token(profile.model) / peak if peak else None,
        "step_seconds": step,
        "evaluation_seconds": evaluation,
        "save_seconds": save,
        "parts": shares,
        "memory_measured": _peak_memory(setup.device, before),
        "memory_planned": memory_facts(profile, place)["memory_peak"],
        "profile": profile.model_dump(mode="json"),
    }


def _evaluation_seconds(run: RunDir, model: GPT, dataset: TokenDataset, setup: Setup) -> float:
    """Return the seconds of an evaluation as the profile has it, from one of 100,000 tokens where it has more."""
    whole = min(len(dataset.val) - 1, run.profile().train.eval_tokens or len(dataset.val))
    watch = Stopwatch(setup.device)
    found = evaluate(model, dataset.val, byte_lengths(run.tokenizer()), setup, limit=min(whole, SCORED))
    watch.lap("forward")
    return watch.seconds["forward"] * max(1.0, whole / max(found.n_tokens, SCORED))


def _save_seconds(run: RunDir, model: GPT, optimizer: Optimizer, setup: Setup) -> float:
    watch = Stopwatch(setup.device)
    tensors = {**optimizer.state_tensors(), **rng_tensors(setup.device)}
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    save_checkpoint(run, trained, tensors, TrainState(step=1), best=True, keep=1)
    watch.lap("data")
    return watch.seconds["data"]


def _forget_peak() -> int:
    """Make the process's peak of memory what it holds now, where the system can; returns the peak as it stands."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    return _resident_peak()


def _resident_peak() -> int:
    """Return the most resident memory of this process; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_memory(device: torch.device, before: int) -> int | None:
    """Return the most memory that was taken: resident memory of this process on a CPU, what torch held on CUDA.

    None where the system does not tell, or where the peak is still that of ``before``, of something else.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = _resident_peak() if device.type == "cpu" else 0
    return peak if peak > before else None


def probe(profile: RunProfile, setup: Setup, rows: int) -> tuple[float, float, str]:
    """Return the seconds of a step of a resolved profile and of its forward passes, and of what they were timed.

    That takes about five seconds. The tokens are made up, and their reading takes no time. ``rows`` of the
    ``batch_size`` sequences of a micro-batch are computed, and fewer where they would take a CPU long; the rest is
    reckoned.
    """
    train, model_config = profile.train, profile.model
    if setup.device.type == "cpu":
        affordable = int(PROBE_FLOPS / (flops_per_token(model_config) * model_config.block_size))
        rows = min(rows, max(1, affordable))
    timed = profile.model_copy(update={"train": train.model_copy(update={"batch_size": rows, "grad_accum_steps": 1})})
    torch.manual_seed(train.seed)
    model = GPT(model_config)
    model.gradient_checkpointing = train.gradient_checkpointing
    model = model.to(setup.device).train()
    steps = Steps(model, Optimizer(model, model_config, train), timed, setup, _made_up(timed))
    # Nobody waits for a second step that long: the first is hardly slower.
    parts = steps.first if sum(steps.first.values()) > PROBE_SECONDS else steps.timed(STEPS, PROBE_SECONDS)
    micro_batch = sum(seconds for part, seconds in parts.items() if part != "optimizer")
    times = train.grad_accum_steps * train.batch_size / rows
    count = max(1, steps.done - 1)
    of = "" if rows == train.batch_size and train.grad_accum_steps == 1 else f" of {rows} x {model_config.block_size}"
    return (
        micro_batch * times + parts["optimizer"],
        parts["forward"] * times,
        f"{count} step{'' if count == 1 else 's'}{of} timed",
    )


def _made_up(profile: RunProfile) -> Iterator[Batch]:
    assert profile.model.vocab_size is not None, "a resolved profile knows its vocabulary"
    draws = np.random.default_rng(profile.train.seed)
    while True:
        shape = (profile.train.batch_size, profile.model.block_size)
        yield Batch(*draws.integers(profile.model.vocab_size, size=(2, *shape), dtype=np.int64))
