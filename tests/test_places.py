from __future__ import annotations

import re

import pytest
import torch

from gptcli.config import TrainConfig
from gptcli.device import PEAK_FLOPS
from gptcli.errors import DeviceError
from gptcli.memory import machine_memory
from gptcli.places import GPU_MEMORY, WITHOUT_BFLOAT16, find_place, known_gpu, place_here

CONFIG = TrainConfig()


def test_memory_and_peak_are_known_of_the_same_cards() -> None:
    assert set(GPU_MEMORY) == set(PEAK_FLOPS)
    assert set(WITHOUT_BFLOAT16) < set(PEAK_FLOPS)


@pytest.mark.parametrize(
    ("word", "card"),
    [("RTX 3070", "RTX 3070"), ("rtx3070", "RTX 3070"), ("3070", "RTX 3070"), ("h100", "H100"), ("gh200", "GH200"),
     ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("l4", "L4"), ("l40s", "L40S")],
)  # fmt: skip
def test_a_card_is_known_by_the_names_that_people_and_drivers_have_for_it(word: str, card: str) -> None:
    assert known_gpu(word) == card


@pytest.mark.parametrize(
    ("word", "card", "gigabytes"),
    [("NVIDIA A100-SXM4-80GB", "A100", 80), ("NVIDIA A100-SXM4-40GB", "A100", 40), ("a100 80 gb", "A100", 80),
     ("Tesla V100-SXM2-32GB", "V100", 32), ("Tesla V100-SXM2-16GB", "V100", 16), ("NVIDIA H100 80GB HBM3", "H100", 80),
     ("3070 8GB", "RTX 3070", 8)],
)  # fmt: skip
def test_the_memory_in_the_name_of_a_card_is_what_is_planned_for(word: str, card: str, gigabytes: int) -> None:
    place = find_place(CONFIG, word)
    assert place.name == card
    assert 0.97 * gigabytes < (place.memory or 0) / 2**30 < gigabytes


@pytest.mark.parametrize(
    ("word", "card"),
    [("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090"), ("RTX 3070 Ti", "RTX 3070"), ("rtx 3070 super", "RTX 3070"),
     ("NVIDIA H200 NVL", "H200"), ("NVIDIA H100 PCIe", "H100"), ("NVIDIA GeForce RTX 4090 D", "RTX 4090"),
     ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000"),
     ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "A100")],
)  # fmt: skip
def test_another_version_of_a_card_is_not_taken_for_the_one_that_is_known(word: str, card: str) -> None:
    with pytest.raises(DeviceError, match=f"is not known; known is {card}") as caught:
        find_place(CONFIG, word)
    assert "--device cuda --memory 16GB" in caught.value.hint


def test_every_card_that_is_known_can_be_planned_for() -> None:
    for card, peak in PEAK_FLOPS.items():
        place = find_place(CONFIG, card)
        assert (place.name, place.setup.peak_flops, place.is_here) == (card, peak, False)
        assert place.memory == int(GPU_MEMORY[card])
        assert place.setup.device.type == "cuda"
        assert place.setup.dtype == (torch.float16 if card in WITHOUT_BFLOAT16 else torch.bfloat16)
        assert place.setup.reason.startswith("not on this machine; ")


@pytest.mark.parametrize(
    "word", ["RTX 9999", "", "gpu", "80GB", "H1000", "cuda:128", "cuda:\u0663", "cuda:99999999999", "cuda:05"]
)
def test_an_unknown_card_is_answered_with_those_that_are_known(word: str) -> None:
    # An empty word is no device, and does not mean the profile's own.
    with pytest.raises(DeviceError, match=f"There is no device called {re.escape(repr(word))}") as caught:
        find_place(CONFIG, word) if word else known_gpu(word)
    assert all(card in caught.value.hint for card in PEAK_FLOPS)


def test_a_device_of_this_machine_has_its_memory() -> None:
    here = place_here(CONFIG, "cpu")
    assert here == find_place(TrainConfig(device="cpu"))
    assert (here.name, here.memory, here.is_here) == ("cpu", machine_memory(), True)


def test_a_cuda_device_that_is_not_here_is_refused_for_a_run_and_planned_for_with_its_memory_unknown() -> None:
    with pytest.raises(DeviceError, match="not on this machine"):
        place_here(CONFIG, "cuda:99")
    place = find_place(CONFIG, "cuda:99")
    assert (place.name, place.memory, place.is_here) == ("cuda:99", None, False)
    assert (place.setup.device.type, place.setup.peak_flops) == ("cuda", None)


def test_a_number_format_that_a_device_has_not_is_refused_wherever_it_is() -> None:
    with pytest.raises(DeviceError, match="float16 training needs a CUDA device"):
        find_place(TrainConfig(dtype="float16"), "cpu")
