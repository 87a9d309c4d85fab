"""What this machine has for gptcli, and what is missing: versions, devices, memory, disk, caches, extras.

Looks and changes nothing, and asks no network.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptcli import __version__
from gptcli.config import TrainConfig
from gptcli.device import Capabilities, choose_setup, detect
from gptcli.memory import machine_memory, machine_swap

Level = Literal["ok", "note", "warning"]
PACKAGES = (
    *("torch", "numpy", "tiktoken", "tokenizers", "safetensors", "transformers", "huggingface_hub", "typer", "rich"),
    *("pydantic", "httpx", "pyarrow", "matplotlib"),
)
# What tiktoken names its two files by: the SHA-1 of the addresses it would fetch them from.
GPT2_FILES = ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
FEW_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``hint`` says how to get what is missing."""

    topic: str
    level: Level
    text: str
    hint: str = ""


def examine(folder: Path = Path()) -> Iterator[Finding]:
    """Yield what was found, topic by topic; ``folder`` is where somebody works."""
    yield from _versions()
    have = detect()
    yield from _devices(have)
    yield from _memory(folder)
    yield from _caches()
    yield from _extras()
    yield from _terminal()


def _versions() -> Iterator[Finding]:
    yield Finding("gptcli", "ok", f"{__version__}, Python {platform.python_version()} on {platform.platform()}")
    yield Finding("packages", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES))


def _devices(have: Capabilities) -> Iterator[Finding]:
    setup = choose_setup(TrainConfig(), have)
    yield Finding("device", "ok", f"{setup.device} ({setup.reason})")
    cores = os.cpu_count() or 1
    text = f"{have.threads} of {cores} core{'' if cores == 1 else 's'}"
    few = have.threads < cores // 2
    hint = "OMP_NUM_THREADS, or the scheduler, allows no more." if few else ""
    yield Finding("threads", "note" if few else "ok", text, hint)
    if have.compiler:
        yield Finding("compiler", "ok", "there is a C++ compiler, so torch.compile works where it pays: on CUDA")
    elif have.cuda:
        hint = "Install g++ or clang++ for faster training on this GPU; all works without."
        yield Finding("compiler", "note", "no C++ compiler, so nothing is compiled", hint)
    else:
        yield Finding("compiler", "ok", "no C++ compiler, and none is needed without a CUDA GPU")


def _memory(folder: Path) -> Iterator[Finding]:
    have, swap = machine_memory(), machine_swap()
    if have is not None:
        more = f", {swap / 1e9:.1f} GB of swap" if swap else ""
        yield Finding("memory", "ok", f"{have / 1e9:.1f} GB{more}")
    free = shutil.disk_usage(folder).free
    little = free < FEW_BYTES
    hint = "A run of a small model takes tens of megabytes, gpt2-large some gigabytes." if little else ""
    yield Finding("disk", "warning" if little else "ok", f"{free / 1e9:.1f} GB free in this folder", hint)
    if not os.access(folder, os.W_OK):
        yield Finding(
            "folder", "warning", "this folder cannot be written to", "Work in another one, or mend its rights."
        )


def _caches() -> Iterator[Finding]:
    place = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(place) if place else Path(tempfile.gettempdir()) / "data-gym-cache"
    if all((folder / name).is_file() for name in GPT2_FILES):
        yield Finding("gpt2 tokens", "ok", f"GPT-2's vocabulary is in {folder}")
    else:
        hint = "Without network, put tiktoken's two files there; char and bpe:N need none."
        yield Finding("gpt2 tokens", "note", f"not in {folder} yet: fetched when first wanted", hint)
    from huggingface_hub import constants

    hub = Path(constants.HF_HUB_CACHE)
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in hub.glob("models--*"))
    shown = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
    offline = ", and HF_HUB_OFFLINE forbids to ask for more" if constants.HF_HUB_OFFLINE else ""
    yield Finding("models", "ok", f"{shown or 'none'} in {hub}{offline}")


def _extras() -> Iterator[Finding]:
    """Look at every extra but the developers': which it is, what it is for, and whether its packages are there."""
    uses = {"audio": "recordings", "export": "GGUF files, for llama.cpp and Ollama", "pdf": "PDF files"}
    needed: dict[str, list[str]] = {name: [] for name in uses}
    for requirement in importlib.metadata.requires("gptcli") or []:
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if extra and extra[1] in needed:
            needed[extra[1]].append(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])
    for name, packages in needed.items():
        missing = [package for package in packages if not _is_installed(package)]
        if missing:
            hint = f"pip install 'gptcli[{name}]', or from a clone pip install -e '.[{name}]'"
            yield Finding(name, "note", f"not installed: {', '.join(missing)}, for {uses[name]}", hint)
        else:
            yield Finding(name, "ok", f"{', '.join(packages)}, for {uses[name]}")


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _terminal() -> Iterator[Finding]:
    encoding = (sys.stderr.encoding or "unknown").lower()
    size = shutil.get_terminal_size()
    where = f"{size.columns} x {size.lines}, {encoding}" if sys.stderr.isatty() else f"none, {encoding}"
    colours = ", colours off by NO_COLOR" if os.environ.get("NO_COLOR") else ""
    yield Finding("terminal", "ok", where + colours)
