"""What this machine has for gptcli, and what is missing: versions, devices, memory, disk, caches, extras.

Looks and changes nothing, and asks no network.
"""

from __future__ import annotations

import importlib
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
from shlex import quote
from typing import Literal

from gptcli import __version__

Level = Literal["ok", "note", "warning", "error"]
# Those whose versions are told; all that gptcli requires are looked at.
PACKAGES = (
    *("torch", "numpy", "tiktoken", "tokenizers", "safetensors", "transformers", "huggingface-hub", "typer", "rich"),
    *("pydantic", "httpx", "pyarrow", "matplotlib"),
)
MODULES = {"pyyaml": "yaml"}
EXTRAS = {
    "audio": "recordings",
    "export": "llama.cpp and Ollama",
    "pdf": "PDF files",
    "tensorboard": "--log tensorboard",
    "trackio": "--log trackio",
    "wandb": "--log wandb",
}
# What tiktoken names its two files by: the SHA-1 of the addresses it would fetch them from.
GPT2_FILES = ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
FEW_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; without an ``error`` all works, and ``hint`` says how to get what is missing."""

    topic: str
    level: Level
    text: str
    hint: str = ""


def examine(folder: Path = Path()) -> Iterator[Finding]:
    """Yield what was found, topic by topic; ``folder`` is where somebody works.

    What needs a package that is missing or broken is left out: the package itself is an ``error``.
    """
    required = _requirements()
    yield Finding("gptcli", "ok", f"{__version__}, Python {platform.python_version()} on {platform.platform()}")
    unusable = list(_unusable(required[""]))
    names = {finding.topic for finding in unusable}
    versions = (f"{name} {_version(name)}" for name in PACKAGES if name not in names)
    yield Finding("packages", "ok", ", ".join(versions))
    yield from unusable
    if "torch" not in names:
        yield from _devices()
    yield from _memory()
    yield from _disk(folder)
    yield from _gpt2_tokens()
    if "huggingface-hub" not in names:
        yield _models()
    yield from _extras(required)
    yield _terminal()


def _requirements() -> dict[str, dict[str, str]]:
    """Return by extra, "" for none, each package with the version that gptcli wants of it: what ``pip`` takes.

    Only the packages without versions where gptcli was not installed, as in a clone that is run where it lies.
    """
    found: dict[str, dict[str, str]] = {"": {name: name for name in PACKAGES}, **{name: {} for name in EXTRAS}}
    try:
        lines = importlib.metadata.requires("gptcli") or []
    except importlib.metadata.PackageNotFoundError:
        return found
    for line in lines:
        wanted, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        name = re.split(r"[^A-Za-z0-9._-]", wanted, maxsplit=1)[0]
        # The developers' extra is of no use to others.
        found.get(extra[1] if extra else "", {})[name] = wanted.strip()
    return found


def _unusable(required: dict[str, str]) -> Iterator[Finding]:
    """Import every package that gptcli requires, which is the only way to know that it can be used."""
    modules = {MODULES.get(name, name.replace("-", "_")): wanted for name, wanted in required.items()}
    for name, module in zip(required, modules, strict=True):
        if (error := _import_error(module)) is None:
            continue
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        text = "not installed" if absent == module else f"cannot be imported: {said}"
        again = "" if absent in modules else "--force-reinstall "
        yield Finding(name, "error", text, f"pip install {again}{quote(modules.get(absent or module, module))}")


def _import_error(module: str) -> Exception | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken package may raise anything
        return error
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    from gptcli.config import TrainConfig
    from gptcli.device import choose_setup, detect, features

    have = detect()
    setup = choose_setup(TrainConfig(), have)
    several = f", the first of {len(have.cuda)} CUDA devices" if len(have.cuda) > 1 else ""
    yield Finding("device", "ok", f"{setup.device} ({setup.reason}){several}")
    for feature in features(setup, have):
        yield Finding(feature.name, "ok", f"{'on' if feature.on else 'off'}: {feature.reason}")
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


def _memory() -> Iterator[Finding]:
    from gptcli.memory import machine_memory, machine_swap

    have, swap = machine_memory(), machine_swap()
    if have is not None:
        more = f", {swap / 1e9:.1f} GB of swap" if swap else ""
        yield Finding("memory", "ok", f"{have / 1e9:.1f} GB{more}")


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    little = free < FEW_BYTES
    hint = "A run of a small model takes tens of megabytes, gpt2-large some gigabytes." if little else ""
    yield Finding("disk", "warning" if little else "ok", f"{free / 1e9:.1f} GB free in this folder", hint)
    if not os.access(folder, os.W_OK):
        yield Finding(
            "folder", "warning", "this folder cannot be written to", "Work in another one, or mend its rights."
        )


def _gpt2_tokens() -> Iterator[Finding]:
    place = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(place) if place else Path(tempfile.gettempdir()) / "data-gym-cache"
    if all((folder / name).is_file() for name in GPT2_FILES):
        yield Finding("gpt2 tokens", "ok", f"GPT-2's vocabulary is in {folder}")
    else:
        hint = "Without network, put tiktoken's two files there; char and bpe:N need none."
        yield Finding("gpt2 tokens", "note", f"not in {folder} yet: fetched when first wanted", hint)


def _models() -> Finding:
    from huggingface_hub import constants

    hub = Path(constants.HF_HUB_CACHE)
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in hub.glob("models--*"))
    shown = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
    offline = ", and HF_HUB_OFFLINE forbids to ask for more" if constants.HF_HUB_OFFLINE else ""
    return Finding("models", "ok", f"{shown or 'none'} in {hub}{offline}")


def _extras(required: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Look at every extra but the developers': which it is, what it is for, and whether its packages are there."""
    for name, use in EXTRAS.items():
        missing = [package for package in required[name] if _version(package) is None]
        if missing:
            hint = f"pip install 'gptcli[{name}]', or from a clone pip install -e '.[{name}]'"
            yield Finding(name, "note", f"not installed: {', '.join(missing)}, for {use}", hint)
        elif required[name]:
            yield Finding(name, "ok", f"{', '.join(required[name])}, for {use}")


def _terminal() -> Finding:
    encoding = (sys.stderr.encoding or "unknown").lower()
    size = shutil.get_terminal_size()
    where = f"{size.columns} x {size.lines}, {encoding}" if sys.stderr.isatty() else f"none, {encoding}"
    colours = ", colours off by NO_COLOR" if os.environ.get("NO_COLOR") else ""
    return Finding("terminal", "ok", where + colours)
