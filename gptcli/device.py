"""Where a run computes and in which number format, each choice with its reason.

``detect`` is the only place that asks the machine; ``choose_setup`` is a pure function of what it found.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from gptcli.config import TrainConfig
from gptcli.errors import DeviceError

# Dense bfloat16 (float16 where there is none) peak in FLOP/s, from the makers' data sheets, by a word of the name.
PEAK_FLOPS = {
    "RTX PRO 6000": 503e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "RTX 3070": 41e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "V100": 125e12,
    "A10G": 70e12,
    "L4": 121e12,
    "T4": 65e12,
}
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# The most that glibc allows: what is larger is given back, so that the peak of memory stays.
MAPPED_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this machine has."""

    cuda: tuple[str, ...] = ()
    """Names of the CUDA devices."""
    cuda_bf16: bool = False
    mps: bool = False
    cpu_bf16: bool = False
    """bfloat16 products in hardware (AMX, AVX512-BF16 or Arm's BF16)."""
    threads: int = 1
    compiler: bool = False
    """A C++ compiler, which torch.compile needs."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Where and how a model is computed; ``reason`` is one line for the reader."""

    device: torch.device
    dtype: torch.dtype
    compile: bool
    reason: str
    peak_flops: float | None = None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which forward passes run: mixed precision, or nothing for float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def keep_freed_memory() -> None:
    """Let the C library keep what this process frees for its next step, for good, where it is glibc.

    Otherwise each step gets its large tensors as fresh pages from the system: a step of 2 x 96 took 26 ms, not 20.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def detect() -> Capabilities:
    """Ask torch and the system what there is."""
    has_cuda = torch.cuda.is_available()
    names = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) if has_cuda else ()
    return Capabilities(
        cuda=names,
        cuda_bf16=has_cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        mps=torch.backends.mps.is_available(),
        cpu_bf16=not _cpu_flags().isdisjoint({"amx_bf16", "avx512_bf16", "bf16", "arm_bf16"}),
        threads=torch.get_num_threads(),
        compiler=platform.system() != "Windows" and any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    )


def device_memory(device: torch.device) -> int | None:
    """Return the bytes of memory that a GPU has for us; None for a CPU, which has the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(torch.mps.recommended_max_memory()) if device.type == "mps" else None


def _cpu_flags() -> set[str]:
    """Return what the processor can do, as torch says, or Linux where this torch does not."""
    find = getattr(torch.cpu, "get_capabilities", None)
    if find is not None:
        return {name for name, there in find().items() if there is True}
    try:
        return set(Path("/proc/cpuinfo").read_text("utf-8").split())
    except OSError:
        return set()


def choose_setup(config: TrainConfig, have: Capabilities) -> Setup:
    """Choose device, number format and compilation for ``config`` on a machine that has ``have``.

    Raises ``DeviceError`` when the profile insists on something that is not there.
    """
    device, why = _choose_device(config.device, have)
    dtype, dtype_why = _choose_dtype(config.dtype, device, have)
    compiled, compile_why = _choose_compile(config.compile, device, have)
    peak = None
    if device.type == "cuda" and dtype != torch.float32:
        name = have.cuda[device.index or 0]
        peak = next((flops for key, flops in PEAK_FLOPS.items() if re.search(rf"\b{key}\b", name)), None)
    reason = "; ".join(part for part in (why, dtype_why, compile_why) if part)
    return Setup(device, dtype, compiled, reason, peak)


def _choose_device(wanted: str, have: Capabilities) -> tuple[torch.device, str]:
    if wanted == "auto":
        if have.cuda:
            return torch.device("cuda", 0), have.cuda[0]
        if have.mps:
            return torch.device("mps"), "Apple GPU"
        return torch.device("cpu"), f"no GPU found, {_threads(have)}"
    device = torch.device(wanted)
    there = {"cpu": True, "mps": have.mps, "cuda": (device.index or 0) < len(have.cuda)}[device.type]
    if not there:
        found = [*(f"cuda:{i}" for i in range(len(have.cuda))), *(["mps"] if have.mps else []), "cpu"]
        raise DeviceError(
            f"The device {wanted!r} is not on this machine; found {', '.join(found)}.",
            "Leave it out, or type --device auto, to take the best there is.",
        )
    if device.type == "cuda":
        return torch.device("cuda", device.index or 0), have.cuda[device.index or 0]
    return device, f"asked for, {_threads(have)}" if device.type == "cpu" else "asked for"


def _threads(have: Capabilities) -> str:
    return f"{have.threads} thread{'' if have.threads == 1 else 's'}"


def _choose_dtype(wanted: str, device: torch.device, have: Capabilities) -> tuple[torch.dtype, str]:
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        if dtype == torch.float16 and device.type != "cuda":
            raise DeviceError(
                f"float16 training needs a CUDA device, found {device.type}.",
                "Type --set train.dtype=auto, or bfloat16.",
            )
        return dtype, f"{wanted} asked for"
    if device.type == "cuda":
        return (torch.bfloat16, "bfloat16") if have.cuda_bf16 else (torch.float16, "float16, it has no bfloat16")
    if device.type == "cpu" and have.cpu_bf16:
        return torch.bfloat16, "bfloat16 in hardware"
    return torch.float32, "float32"


def _choose_compile(wanted: bool | str, device: torch.device, have: Capabilities) -> tuple[bool, str]:
    """Compile for CUDA alone: on a CPU ``fused`` is as quick, without the 30 s that it takes there."""
    if wanted != "auto":
        return bool(wanted), "compiled" if wanted else ""
    if device.type == "cuda":
        return (True, "compiled") if have.compiler else (False, "not compiled: no C++ compiler")
    return False, ""
