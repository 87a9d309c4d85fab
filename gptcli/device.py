"""Where a run computes and in which number format, and what is on there, each choice with its reason.

``detect`` is the only place that asks the machine; all that is chosen is a pure function of what it found.
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
from typing import Literal

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
# The first CUDA cards with bfloat16, TF32 and what flash attention needs.
AMPERE = (8, 0)
MAKERS = re.compile(r"(NVIDIA|GeForce|AMD) +")
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
    """bfloat16 in the hardware of the first of them."""
    cuda_capability: tuple[tuple[int, int], ...] = ()
    """The compute capability of each, such as (8, 6)."""
    flash: bool = False
    """This torch has the kernels of flash attention for CUDA."""
    nccl: bool = False
    """This torch lets processes with CUDA devices talk to each other."""
    gloo: bool = False
    """This torch lets processes on CPUs talk to each other."""
    mps: bool = False
    cpu_bf16: bool = False
    """bfloat16 products in hardware (AMX, AVX512-BF16 or Arm's BF16)."""
    threads: int = 1
    compiler: bool = False
    """A C++ compiler, which torch.compile needs."""

    def is_ampere(self, index: int) -> bool:
        """Say whether the CUDA device ``index`` has bfloat16 and TF32 in hardware."""
        known = index < len(self.cuda_capability)
        return self.cuda_capability[index] >= AMPERE if known else self.cuda_bf16


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


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that some devices have and others not: whether it is on where a run computes, and why."""

    name: str
    on: bool
    reason: str


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
    indices = range(torch.cuda.device_count()) if has_cuda else ()
    distributed = torch.distributed.is_available()
    return Capabilities(
        cuda=tuple(torch.cuda.get_device_name(i) for i in indices),
        cuda_bf16=has_cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        cuda_capability=tuple(torch.cuda.get_device_capability(i) for i in indices),
        flash=has_cuda and torch.backends.cuda.is_flash_attention_available(),
        nccl=distributed and torch.distributed.is_nccl_available(),
        gloo=distributed and torch.distributed.is_gloo_available(),
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
    flash = "flash attention" if _flash(device, dtype, have).on else ""
    reason = "; ".join(part for part in (why, dtype_why, flash, compile_why) if part)
    return Setup(device, dtype, compiled, reason, peak)


def _choose_device(wanted: str, have: Capabilities) -> tuple[torch.device, str]:
    if wanted == "auto":
        if have.cuda:
            return torch.device("cuda", 0), MAKERS.sub("", have.cuda[0])
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
        return torch.device("cuda", device.index or 0), MAKERS.sub("", have.cuda[device.index or 0])
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
        ampere = have.is_ampere(device.index or 0)
        return (torch.bfloat16, "bfloat16") if ampere else (torch.float16, "float16: no bfloat16")
    if device.type == "cpu" and have.cpu_bf16:
        return torch.bfloat16, "bfloat16 in hardware"
    return torch.float32, "float32"


def _choose_compile(wanted: bool | str, device: torch.device, have: Capabilities) -> tuple[bool, str]:
    """Compile for CUDA alone: on a CPU ``fused`` is as quick, without the 30 s that it takes there."""
    if wanted != "auto":
        return bool(wanted), "compiled" if wanted else ""
    if device.type == "cuda":
        return (True, "compiled") if have.compiler else (False, "not compiled: no compiler")
    return False, ""


def choose_backend(device: torch.device, have: Capabilities) -> Literal["nccl", "gloo"]:
    """Choose how several processes that compute on ``device`` add up their gradients.

    Raises ``DeviceError`` where this torch, or the device, has no way.
    """
    if device.type == "mps":
        raise DeviceError(
            "Several processes cannot train on an Apple GPU: torch has no way between them there.",
            "Train in one process, or on the CPU: --set train.device=cpu",
        )
    if device.type == "cuda":
        if have.nccl:
            return "nccl"
        raise DeviceError(
            "This torch has no NCCL, through which several processes with CUDA devices talk to each other.",
            "Install a CUDA build of torch on Linux (https://pytorch.org), train in one process, or on the CPU: "
            "--set train.device=cpu",
        )
    if have.gloo:
        return "gloo"
    raise DeviceError(
        "This torch has no gloo, through which several processes on CPUs talk to each other.",
        "Install torch from PyPI, or train in one process.",
    )


def features(setup: Setup, have: Capabilities) -> tuple[Feature, ...]:
    """Return what is on where ``setup`` computes, and what is not, always the same names in the same order."""
    device, dtype = setup.device, setup.dtype
    cuda, cpu = device.type == "cuda", device.type == "cpu"
    half = dtype == torch.float16
    shared = "the memory of the CPU" if cpu else "memory shared with the CPU"
    return (
        Feature("bfloat16", dtype == torch.bfloat16, _bfloat16_reason(setup, have)),
        Feature("loss scaling", half, "small gradients are lost in float16" if half else "only float16 needs it"),
        _tf32(device, have),
        Feature("fused AdamW", True, "one kernel for all weights"),
        Feature("torch.compile", setup.compile, _compile_reason(setup, have)),
        _flash(device, dtype, have),
        Feature("kernels by hand", cpu and not setup.compile, _by_hand_reason(setup)),
        Feature("pinned prefetch", cuda, "copies run beside the computing" if cuda else shared),
        Feature(
            "smaller parts",
            not cpu,
            "the system ends a process that asks for too much" if cpu else "where a step needs too much memory",
        ),
        _processes(device, have),
    )


def _bfloat16_reason(setup: Setup, have: Capabilities) -> str:
    device, on = setup.device, setup.dtype == torch.bfloat16
    if device.type == "mps":
        return "asked for" if on else "only where train.dtype asks for it"
    if have.is_ampere(device.index or 0) if device.type == "cuda" else have.cpu_bf16:
        return "in hardware" if on else "train.dtype asks for another"
    why = "not in hardware before compute capability 8.0" if device.type == "cuda" else "not in hardware"
    return f"asked for, though {why}" if on else why


def _tf32(device: torch.device, have: Capabilities) -> Feature:
    if device.type != "cuda":
        return Feature("TF32", False, "a format of CUDA cards")
    on = have.is_ampere(device.index or 0)
    return Feature("TF32", on, "for products that stay in float32" if on else "not before compute capability 8.0")


def _compile_reason(setup: Setup, have: Capabilities) -> str:
    if setup.device.type == "cuda":
        why_not = "train.compile is false" if have.compiler else "no C++ compiler"
        return "kernels made for the model" if setup.compile else why_not
    if setup.compile:
        return "asked for"
    return "as quick by hand, without the 30 s it takes" if setup.device.type == "cpu" else "only where it is asked for"


def _flash(device: torch.device, dtype: torch.dtype, have: Capabilities) -> Feature:
    name = "flash attention"
    if device.type != "cuda":
        return Feature(name, False, "for CUDA cards; torch's own kernel here")
    if not have.is_ampere(device.index or 0):
        return Feature(name, False, "not before compute capability 8.0; torch's memory-efficient kernel")
    if not have.flash:
        return Feature(name, False, "this torch was built without it")
    on = dtype != torch.float32
    return Feature(name, on, "for heads of up to 256" if on else "for bfloat16 and float16")


def _by_hand_reason(setup: Setup) -> str:
    if setup.device.type != "cpu":
        return "for CPUs: torch's own are quick here"
    return "torch.compile makes them" if setup.compile else "quicker than torch's own on a CPU"


def _processes(device: torch.device, have: Capabilities) -> Feature:
    try:
        backend = choose_backend(device, have)
    except DeviceError as error:
        return Feature("several processes", False, error.message.rstrip("."))
    return Feature("several processes", True, f"through {backend}")
