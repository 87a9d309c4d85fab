"""Where a run is planned for: a device of this machine, or one that is elsewhere and known by its name.

``find_place`` refuses no device that there is anywhere; what a device is set up with is ``device``'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from gptcli.config import DEVICE, TrainConfig
from gptcli.device import PEAK_FLOPS, Capabilities, Setup, choose_setup, detect, device_memory
from gptcli.errors import DeviceError
from gptcli.memory import machine_memory

GIB = 2**30
# Bytes that CUDA reports of each card of PEAK_FLOPS, the smallest where there are several versions.
GPU_MEMORY = {
    "RTX PRO 6000": 94.9 * GIB,
    "RTX 4090": 23.5 * GIB,
    "RTX 3090": 23.5 * GIB,
    "RTX 3070": 7.7 * GIB,
    "GH200": 94.5 * GIB,
    "H200": 139.8 * GIB,
    "H100": 79.1 * GIB,
    "B200": 178.3 * GIB,
    "A100": 39.4 * GIB,
    "L40S": 44.4 * GIB,
    "V100": 15.7 * GIB,
    "A10G": 22.0 * GIB,
    "L4": 22.0 * GIB,
    "T4": 14.5 * GIB,
}
# From before Ampere.
WITHOUT_BFLOAT16 = ("V100", "T4")
# A driver's name says which version of a card it is by its memory: of 80GB, CUDA reports at least so much.
SIZE = re.compile(r"\b([1-9][0-9]{0,2}) ?GB\b", re.IGNORECASE)
REPORTED = 0.98 * GIB
# Behind a card's name, these make it another card.
VARIANT = r"(?:Laptop|Ti|Super|NVL|PCIe|Max-?Q|MIG|D)"


@dataclass(frozen=True, slots=True)
class Place:
    """A device, how a run is set up on it, and the bytes of memory that it has for a run; None where nobody knows."""

    name: str
    setup: Setup
    memory: int | None
    is_here: bool


def place_here(config: TrainConfig, device: str | None = None) -> Place:
    """Return the device of this machine that a run has; ``device`` overrules it. ``DeviceError`` for one not there."""
    setup = choose_setup(_asking(config, device), detect())
    memory = machine_memory() if setup.device.type == "cpu" else device_memory(setup.device)
    return Place(str(setup.device), setup, memory, is_here=True)


def find_place(config: TrainConfig, device: str | None = None) -> Place:
    """Return what ``place_here`` does, or a device that is not here: a card by its name, ``cuda`` or ``mps``.

    ``DeviceError`` that lists the names for a word that is none of these, and for a number format that it has not.
    """
    wanted, have = device or config.device, detect()
    found = DEVICE.fullmatch(wanted)
    if found is None:
        card = known_gpu(wanted)
        elsewhere = Capabilities(cuda=(card,), cuda_bf16=card not in WITHOUT_BFLOAT16, compiler=True)
        size = SIZE.search(wanted)
        memory = int(size[1]) * REPORTED if size else GPU_MEMORY[card]
        return _elsewhere(card, _asking(config, "cuda"), elsewhere, int(memory))
    if (wanted == "mps" and not have.mps) or (wanted.startswith("cuda") and int(found[1] or 0) >= len(have.cuda)):
        elsewhere = Capabilities(cuda=("a CUDA GPU",), cuda_bf16=True, mps=True, compiler=True)
        return _elsewhere(wanted, _asking(config, wanted.partition(":")[0]), elsewhere, None)
    return place_here(config, wanted)


def known_gpu(word: str) -> str:
    """Return the name in ``PEAK_FLOPS`` of a card called ``RTX 3070``, ``rtx3070``, ``3070`` or as its driver does.

    ``DeviceError`` for one that is not known, and for another version of one that is: ``RTX 4090 Laptop GPU``.
    """
    name = SIZE.sub("", word)
    plain = _plain(name)
    for card in PEAK_FLOPS:
        if plain in (_plain(card), _plain(card).removeprefix("rtx")):
            return card
        if found := re.search(rf"\b{card}\b", name, re.IGNORECASE):
            if re.search(rf"\b{VARIANT}\b", name[found.end() :], re.IGNORECASE):
                raise DeviceError(
                    f"{word!r} is not known; known is {card}.", "For another card: --device cuda --memory 16GB"
                )
            return card
    raise DeviceError(
        f"There is no device called {word!r}.",
        f"auto, cpu, cuda, cuda:N and mps are devices, and these cards are known: {', '.join(sorted(PEAK_FLOPS))}. "
        "For another one: --device cuda --memory 12GB",
    )


def _elsewhere(name: str, config: TrainConfig, have: Capabilities, memory: int | None) -> Place:
    setup = choose_setup(config, have)
    _, _, rest = setup.reason.partition("; ")
    return Place(name, replace(setup, reason=f"not on this machine; {rest}"), memory, is_here=False)


def _asking(config: TrainConfig, device: str | None) -> TrainConfig:
    return config if device is None else config.model_copy(update={"device": device})


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())
