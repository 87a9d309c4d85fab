"""The processes that train one model together, and what they tell each other; alone, nothing is told to nobody.

``torchrun`` starts them and says in the environment which is which. Knows no model and no data. Numbers and texts go
through gloo, tensors through what fits their device; nothing that arrives is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gptcli import __version__
from gptcli.device import Capabilities, choose_backend, detect
from gptcli.errors import DeviceError, GptcliError, RunError
from gptcli.meeting import meet

T = TypeVar("T")
# One process may save, sample or prepare gigabytes while the others wait for it.
PATIENCE = timedelta(hours=12)
# torchrun has started all of them before the first looks for the others.
PATIENCE_TO_MEET = timedelta(minutes=10)
# In the environment of a process that --nproc has started: the id of the one that did.
LAUNCHER = "GPTCLI_LAUNCHER"
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# With which a process ends that has told the user what to mend, and one that has lost another.
EXIT_REFUSED, EXIT_LOST = 78, 75


class PeerError(GptcliError):
    """What another process of the job says to the user; this one only ends."""


@dataclass(frozen=True, slots=True)
class World:
    """This process's place among those that train together; ``rank`` 0 leads: it alone prints, logs and saves."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Processes on this machine."""

    @property
    def leads(self) -> bool:
        """Whether this process prints, logs and saves."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def add_up(self, tensor: Tensor) -> Tensor:
        """Make ``tensor`` the sum of all processes' ones, in place and the same bits everywhere; returns it."""
        if not self.is_alone:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, number: int) -> int:
        """Return the largest of all processes' numbers."""
        if self.is_alone:
            return number
        tensor = torch.tensor(number)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def total(self, number: int) -> int:
        """Return the sum of all processes' numbers."""
        return int(self.add_up(torch.tensor(number))) if not self.is_alone else number

    def spread(self, tensor: Tensor) -> None:
        """Make ``tensor`` that of rank 0, in place."""
        if not self.is_alone:
            dist.broadcast(tensor, 0)

    def told(self, value: T) -> T:
        """Return rank 0's ``value``, anything that JSON can hold; the others' is not looked at."""
        return value if self.is_alone else self.gathered(value if self.leads else None)[0]  # type: ignore[return-value]

    def gathered(self, value: T) -> list[T]:
        """Return the value of every process, by rank; anything that JSON can hold."""
        if self.is_alone:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor(data.numel()))
        longest = int(max(sizes))
        padded = torch.nn.functional.pad(data, (0, longest - data.numel()))
        parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        texts = (part[: int(size)].numpy().tobytes() for part, size in zip(parts, sizes, strict=True))
        return [json.loads(text) for text in texts]

    def together(self, work: Callable[[], T]) -> T:
        """Do ``work`` in every process; where it fails with a ``GptcliError`` in one, it fails in all.

        Rank 0 raises the first of the errors, with the rank and the machine that has it; the others ``PeerError``.
        """
        result, problem = None, None
        try:
            result = work()
        except GptcliError as error:
            if self.is_alone:
                raise
            problem = [error.message, error.hint, platform.node()]
        problems = {rank: found for rank, found in enumerate(self.gathered(problem)) if found}
        if problems:
            rank, (message, hint, node) = next(iter(problems.items()))
            kind = RunError if self.leads else PeerError
            raise kind(f"rank {rank} on {node}: {message}" if rank else message, hint)
        return result  # type: ignore[return-value]

    def said_once(self, error: GptcliError) -> GptcliError:
        """Return what to raise for an error that all processes have: rank 0 alone says it."""
        return error if self.leads else PeerError(error.message, error.hint)

    def alike(self, what: str, value: str, hint: str) -> None:
        """Raise ``RunError`` where a process has another ``value`` than rank 0."""
        first, node = self.told([value, platform.node()])

        def compare() -> None:
            if value != first:
                raise RunError(f"{what} is {value} here, and {first} on {node}, which has rank 0.", hint)

        self.together(compare)


ALONE = World()


def has_lost_another(error: Exception) -> bool:
    """Tell by its words an error of a connection to a process that has ended; torch has no class for all of them."""
    words = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "remote process exited")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Find the other processes, and leave them at the end; ``RunError`` where they are not of one version."""
    world = _own_place()
    if world.is_alone:
        yield world
        return
    backend = "cpu:gloo"
    if torch.cuda.is_available() and dist.is_nccl_available() and world.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(world.local_rank)
        backend += ",cuda:nccl"
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, rank, size = meet(PATIENCE_TO_MEET)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"rank {world.rank} cannot connect to the others by {where}: {str(error).splitlines()[0]}",
            "Is the port free, and can the machines reach each other? GLOO_SOCKET_IFNAME names the network to use.",
        ) from error
    try:
        world.alike("gptcli", __version__, "Install the same version on every machine.")
        world.alike("torch", torch.__version__, "Install the same version on every machine.")
        yield world
    finally:
        dist.destroy_process_group()


def check_devices(device: torch.device, have: Capabilities, nproc: int, *, asked: str = "auto") -> None:
    """Raise ``DeviceError`` where ``nproc`` processes of this machine cannot train on such a ``device`` together."""
    choose_backend(device, have)
    if device.type == "cuda" and nproc > len(have.cuda):
        raise DeviceError(
            f"{nproc} processes of this machine want a GPU each, found {len(have.cuda)}.",
            f"As many as there are: --nproc {len(have.cuda)}   Or on the processor: --device cpu",
        )
    if ":" in asked:
        raise DeviceError(
            f"Several processes cannot all train on {asked}.", "Each takes one of the GPUs by itself: --device cuda"
        )


def leave(code: int) -> NoReturn:
    """End this process here: on the usual way out gloo's threads now and then abort one that has done all it had to."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _own_place() -> World:
    """Read this process's place from its environment; ``RunError`` where only half of it is there."""
    found = {key: os.environ.get(key, "") for key in PLACE}
    for key, value in found.items():
        if not value.isdecimal():
            raise RunError(
                f"This looks like a process of torchrun, and {key} of its environment is {value!r}, not a number.",
                f"Start it with torchrun or --nproc; else: unset {' '.join(PLACE)} MASTER_ADDR MASTER_PORT",
            )
    return World(*map(int, found.values()))


def own_device(world: World, device: torch.device) -> torch.device:
    """Return the device of this process where all of them train on such a ``device``.

    Raises ``DeviceError`` where there are too few, or nothing connects them, ``RunError`` where a machine has none.
    """
    if world.is_alone:
        return device

    def choose() -> torch.device:
        check_devices(device, detect(), world.local_size)
        return torch.device("cuda", world.local_rank) if device.type == "cuda" else device

    own = world.together(choose)
    world.alike("the device", own.type, "Name one that all machines have: --device cpu")
    return own
