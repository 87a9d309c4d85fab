"""One model in several processes: each holds a whole copy (DDP) or a part of every weight (FSDP2), by torch's engines.

Whichever it is, a step's gradients are the sum over all processes' rows. Knows the model's blocks by name, and no data;
which process does what is ``world``'s business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gptcli.config import RunProfile
from gptcli.errors import ProfileError
from gptcli.model import GPT
from gptcli.world import World


def check_world_size(profile: RunProfile, size: int) -> None:
    """Raise ``ProfileError`` that names the nearest numbers of processes which can share a step's windows evenly."""
    windows = profile.train.batch_size * profile.train.grad_accum_steps
    if windows % size == 0:
        if _own_rows(profile, windows // size) is None:
            raise ProfileError(
                f"A share of {windows // size} windows of {profile.model.block_size} tokens cannot be cut into "
                f"windows of short_block_size {profile.train.short_block_size}.",
                "Leave it out: --set short_block_size=null",
            )
        return
    fewer = next(n for n in range(min(size, windows), 0, -1) if windows % n == 0)
    more = next((n for n in range(size, windows + 1) if windows % n == 0), None)
    nearest = fewer if more is None or size - fewer <= more - size else more
    others = "" if more in (None, nearest) else f", or {more}"
    others = f", or {fewer}" if nearest != fewer else others
    raise ProfileError(
        f"A step has {windows:,} windows (batch_size {profile.train.batch_size} x grad_accum_steps "
        f"{profile.train.grad_accum_steps}), which {size} processes cannot share evenly.",
        f"The nearest number that can is --nproc {nearest}{others}. Or change the step: --set batch_size="
        f"{max(1, round(profile.train.batch_size / size)) * size}",
    )


def own_share(profile: RunProfile, size: int) -> RunProfile:
    """Return the profile as one of ``size`` processes computes it: so many windows of each step fewer.

    Where it can, a micro-batch stays as large as it is, so that it fits a device, and there are fewer of them.
    """
    check_world_size(profile, size)
    each = profile.train.batch_size * profile.train.grad_accum_steps // size
    rows = _own_rows(profile, each)
    assert rows is not None, "the world's size was checked"
    train = profile.train.model_copy(update={"batch_size": rows, "grad_accum_steps": each // rows})
    return profile.model_copy(update={"train": train})


def _own_rows(profile: RunProfile, each: int) -> int | None:
    """Return how many of its windows of a step a process takes at once; None where short windows do not fill any."""
    block_size, short = profile.model.block_size, profile.train.short_block_size or profile.model.block_size
    possible = range(min(profile.train.batch_size, each), 0, -1)
    return next((n for n in possible if each % n == 0 and n * block_size % min(short, block_size) == 0), None)


def shard(model: GPT, world: World, device: torch.device) -> None:
    """Leave each process its part of every weight of ``model``, on ``device``: FSDP2, one unit a block and the rest.

    The model is the same in every process before; its gradients are sums afterwards, not means.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (world.size,))
    for unit in (*model.blocks, model):
        # The root's too: an evaluation has no backward pass after which it would be given up.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)
        if device.type == "cpu":
            unit.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    model.to(device)


class Forward:
    """Calls a model so that the backward pass leaves the sum of all processes' gradients."""

    def __init__(self, model: GPT, world: World, device: torch.device) -> None:
        self.factor = 1.0
        """What a loss is multiplied with, as DDP takes the mean over the processes."""
        self.module: nn.Module = model
        self._replicated: nn.parallel.DistributedDataParallel | None = None
        if world.is_alone or is_sharded(model):
            return
        self.factor = float(world.size)
        self._replicated = self.module = nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        self._replicated.broadcast_buffers = False  # tables that each process computes

    @contextlib.contextmanager
    def adding(self, *, last: bool) -> Iterator[None]:
        """Add gradients up; replicas exchange theirs with the ``last`` backward pass of a step only."""
        with contextlib.nullcontext() if last or self._replicated is None else self._replicated.no_sync():
            yield


def is_sharded(model: nn.Module) -> bool:
    """Say whether each process holds a part of the weights only."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: a view of its part, or all of it."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; where each process holds a part of it, all of them have to ask."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """Return what this process holds of a tensor that every process has whole, cut as ``like`` is."""
    if not hasattr(like, "to_local"):
        return full
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return own_part(distribute_tensor(full, mesh, placements, src_data_rank=None))


def collect(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Return the whole tensors on the processor of rank 0, one after the other; nothing elsewhere."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if world.leads:
            found[name] = full.cpu()
    return found


def hand_out(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor], world: World) -> None:
    """Copy rank 0's ``tensors`` into those of the same names in every process, of each its part where it has one."""
    for name, own in into.items():
        if world.leads:
            full = tensors[name].to(device=own.device, dtype=own.dtype).contiguous()
        else:
            full = torch.empty(own.shape, dtype=own.dtype, device=own.device)
        world.spread(full)
        own_part(own).copy_(part_of(full, own))


def same_everywhere(model: GPT | None, world: World, make: Callable[[], GPT]) -> GPT:
    """Return rank 0's ``model`` in every process; the others ``make`` one without memory for it."""
    facts: dict[str, Any] = {}
    if model is not None:
        facts = {name: [list(p.shape), str(p.dtype).removeprefix("torch.")] for name, p in model.named_parameters()}
    facts = world.told(facts)
    if model is None:
        model = make()
        empty = {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in facts.items()}
        model.load_state_dict(empty, assign=True)
    for p in model.parameters():
        world.spread(p.detach())
    return model
