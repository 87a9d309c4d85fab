"""What training a profile takes of a device's memory, before anything is built: by part, and when it is most.

Puts the closed forms of ``memory_forms`` together; torch is not known here. ``benchmarks/memory.py`` holds the result
against the resident memory of real runs, and the tests hold the forms against autograd and the optimizer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gptcli.config import RunProfile
from gptcli.memory_forms import FLOAT32, Forms, trained_parameters

__all__ = ["MemoryPlan", "cgroup_quotas", "machine_memory", "machine_swap", "plan_memory", "trained_parameters"]

FORMAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Resident memory of a run of a model of next to no size: interpreter, torch, tokenizers, work buffers (2026-11-21).
PROCESS_BYTES = 345 * 1024 * 1024
# What a CUDA context and its libraries take of the device.
CONTEXT_BYTES = 500 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by part, and by phase, for the parts are not all there at the same time."""

    weights: int
    """Trained weights in float32, frozen ones in their own format."""
    gradients: int
    optimizer: int
    """AdamW's two moments, Muon's momentum and what it takes while it works."""
    activations: int
    """What autograd keeps of a micro-batch for the backward pass, copies of weights in lower precision included."""
    logits: int
    """Log-probabilities and their gradients as the backward pass begins; of a large vocabulary on a CPU, a chunk's."""
    other: int
    """The process and its libraries before any model, and on a CPU the gaps of the heap where they are widest."""
    phases: dict[str, int]
    """The most of each phase, all parts included: ``load`` (a finetune), ``backward``, ``update``, ``evaluate``."""

    @property
    def peak(self) -> int:
        """The most that is taken at any time."""
        return max(self.phases.values())


def plan_memory(profile: RunProfile, *, compute_dtype: str, frozen_dtype: str, device: str) -> MemoryPlan:
    """Return what training ``profile`` without ``torch.compile`` takes on ``device`` (``cpu``, ``cuda:0``, ``mps``).

    ``compute_dtype`` is the format of the matrix products, ``frozen_dtype`` that of weights that are not trained
    (``float32``, ``bfloat16``, ``float16``). ``vocab_size`` has to be set; ``finetune`` counts where its ``base`` is
    set. On a CPU the sum is resident memory of the process, else memory of the device.
    """
    forms = Forms(profile, FORMAT_BYTES[compute_dtype], FORMAT_BYTES[frozen_dtype], device.startswith("cpu"))
    process = PROCESS_BYTES if forms.on_cpu else CONTEXT_BYTES
    held = forms.weights + forms.moments
    live = {"backward": held + forms.backward, "update": held + forms.gradients + forms.muon_work}
    between = {
        "backward": forms.gaps(live["backward"]),
        "update": forms.gaps(live["update"] - forms.mapped_stacks(), updating=True),
    }
    phases = {name: process + size + between[name] for name, size in live.items()}
    phases["evaluate"] = process + held + forms.left_over(max(live.values()), held) + forms.evaluation
    if profile.finetune.base is not None and forms.on_cpu:
        # Weights are converted one by one; the embedding is the largest, as it is stored and as it will be.
        phases["load"] = process + forms.weights + 2 * forms.head * FLOAT32
    return MemoryPlan(
        weights=forms.weights,
        gradients=forms.gradients,
        optimizer=forms.moments + forms.muon_work,
        activations=forms.kept,
        logits=forms.logits,
        other=process + max(between.values()),
        phases=phases,
    )


def machine_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of RAM that this process may use: the machine's, or less where a container is limited.

    None where the system does not say. ``root`` is where ``proc`` and ``sys`` lie.
    """
    sizes = [*_physical_memory(), *_cgroup_limits(root)]
    return min(sizes, default=None)


def machine_swap(root: Path = Path("/")) -> int | None:
    """Return the bytes that this machine can put on a disk instead; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("SwapTotal:"):
                return 1024 * int(line.split()[1])
    return None


def _physical_memory() -> Iterator[int]:
    if sys.platform == "win32":
        yield from _windows_memory()
        return
    with suppress(OSError, ValueError):
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if size > 0:
            yield size


def _windows_memory() -> Iterator[int]:
    """Bytes of RAM as GlobalMemoryStatusEx tells: a structure of its size, a share, then seven counts of bytes."""
    import ctypes

    status = (ctypes.c_uint64 * 8)(64)
    windll = getattr(ctypes, "windll", None)
    if windll is not None and windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        yield int(status[1])


def _cgroup_limits(root: Path) -> Iterator[int]:
    for folder, is_first in _cgroups(root, "memory"):
        with suppress(OSError, ValueError):  # "max" is no limit
            yield int((folder / ("memory.limit_in_bytes" if is_first else "memory.max")).read_text("utf-8"))


def cgroup_quotas(root: Path = Path("/")) -> Iterator[float]:
    """Yield how many cores' time the control groups of this process may take, where they are limited."""
    for folder, is_first in _cgroups(root, "cpu"):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if is_first else ("cpu.max",)
        with suppress(OSError, ValueError):  # "max" is no limit, nor is -1
            quota, period = (int(word) for name in names for word in (folder / name).read_text("utf-8").split())
            if quota > 0 and period > 0:
                yield quota / period


def _cgroups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the control groups of this process and those above them, and whether of version 1; none outside Linux."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / (controller if controllers else "")
            here = Path(group.lstrip("/"))
            yield from ((mount / folder, bool(controllers)) for folder in (here, *here.parents))
