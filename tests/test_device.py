from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gptcli.config import TrainConfig
from gptcli.device import Capabilities, Feature, choose_backend, choose_setup, detect, features
from gptcli.display import print_facts
from gptcli.errors import DeviceError

H100 = Capabilities(
    cuda=("NVIDIA H100 80GB HBM3",),
    cuda_bf16=True,
    cuda_capability=((9, 0),),
    flash=True,
    nccl=True,
    gloo=True,
    threads=8,
    compiler=True,
)
LAPTOP_CARD = replace(H100, cuda=("NVIDIA GeForce RTX 3070 Laptop GPU",), cuda_capability=((8, 6),))
OLD_CARD = replace(H100, cuda=("Tesla T4",), cuda_bf16=False, cuda_capability=((7, 5),), threads=4)
TWO_CARDS = replace(H100, cuda=(*H100.cuda, *OLD_CARD.cuda), cuda_capability=((9, 0), (7, 5)))
MAC = Capabilities(gloo=True, mps=True, threads=8, compiler=True)
SERVER = Capabilities(gloo=True, cpu_bf16=True, threads=2, compiler=True)
PLAIN = Capabilities(gloo=True, threads=2)
# The columns of the table in docs/devices.md.
MACHINES = {"H100": H100, "RTX 3070": LAPTOP_CARD, "T4": OLD_CARD, "Mac": MAC, "CPU, bfloat16": SERVER, "CPU": PLAIN}
DEVICES_PAGE = Path(__file__).resolve().parents[1] / "docs" / "devices.md"


@pytest.mark.parametrize(
    ("have", "device", "dtype", "compiled", "fragment"),
    [
        (H100, "cuda:0", torch.bfloat16, True, "H100"),
        (LAPTOP_CARD, "cuda:0", torch.bfloat16, True, "flash attention"),
        (OLD_CARD, "cuda:0", torch.float16, True, "no bfloat16"),
        (MAC, "mps", torch.float32, False, "Apple GPU"),
        (SERVER, "cpu", torch.bfloat16, False, "no GPU found, 2 threads"),
        (PLAIN, "cpu", torch.float32, False, "float32"),
    ],
)
def test_the_best_there_is_is_chosen_and_the_reason_said(
    have: Capabilities, device: str, dtype: torch.dtype, compiled: bool, fragment: str
) -> None:
    setup = choose_setup(TrainConfig(), have)
    assert (str(setup.device), setup.dtype, setup.compile) == (device, dtype, compiled)
    assert fragment in setup.reason


def test_one_thread_is_one_thread() -> None:
    have = Capabilities(threads=1)
    assert choose_setup(TrainConfig(), have).reason.startswith("no GPU found, 1 thread;")
    assert choose_setup(TrainConfig(device="cpu"), have).reason.startswith("asked for, 1 thread;")


def test_a_cpu_compiles_only_when_asked() -> None:
    assert not choose_setup(TrainConfig(), SERVER).compile
    assert choose_setup(TrainConfig(compile=True), SERVER).compile


def test_mfu_is_only_known_where_the_peak_is() -> None:
    assert choose_setup(TrainConfig(), H100).peak_flops == 989e12
    assert choose_setup(TrainConfig(), SERVER).peak_flops is None
    for name in ("Some Card", "NVIDIA L40", "NVIDIA T400"):
        assert choose_setup(TrainConfig(), Capabilities(cuda=(name,), cuda_bf16=True)).peak_flops is None


@pytest.mark.parametrize(("device", "have"), [("cuda", PLAIN), ("mps", SERVER), ("cuda:1", H100)])
def test_a_device_that_is_not_there_is_an_error_that_lists_what_is(device: str, have: Capabilities) -> None:
    with pytest.raises(DeviceError, match=f"The device '{device}' is not on this machine; found .*cpu"):
        choose_setup(TrainConfig(device=device), have)


def test_float16_training_needs_cuda() -> None:
    with pytest.raises(DeviceError, match="float16 training needs a CUDA device"):
        choose_setup(TrainConfig(dtype="float16"), SERVER)


def test_this_machine_can_be_asked() -> None:
    assert detect().threads == torch.get_num_threads()


def on(have: Capabilities, config: TrainConfig | None = None) -> dict[str, Feature]:
    setup = choose_setup(config or TrainConfig(), have)
    return {feature.name: feature for feature in features(setup, have)}


def what_is_on(have: Capabilities, config: TrainConfig | None = None) -> set[str]:
    return {name for name, feature in on(have, config).items() if feature.on}


NEW_CARDS = {"bfloat16", "TF32", "fused AdamW", "torch.compile", "flash attention", "pinned prefetch", "smaller parts"}


@pytest.mark.parametrize(
    ("have", "expected"),
    [
        (H100, {*NEW_CARDS, "several processes"}),
        (LAPTOP_CARD, {*NEW_CARDS, "several processes"}),
        (
            replace(LAPTOP_CARD, nccl=False, flash=False, compiler=False),
            NEW_CARDS - {"torch.compile", "flash attention"},
        ),
        (
            OLD_CARD,
            {"loss scaling", "fused AdamW", "torch.compile", "pinned prefetch", "smaller parts", "several processes"},
        ),
        (MAC, {"fused AdamW", "smaller parts"}),
        (SERVER, {"bfloat16", "fused AdamW", "kernels by hand", "several processes"}),
        (PLAIN, {"fused AdamW", "kernels by hand", "several processes"}),
    ],
)
def test_each_machine_has_what_it_can_and_no_more(have: Capabilities, expected: set[str]) -> None:
    assert what_is_on(have) == expected
    assert all(feature.reason for feature in on(have).values())


def test_features_are_the_same_names_everywhere() -> None:
    first, *others = (list(on(have)) for have in MACHINES.values())
    assert all(names == first for names in others)


def test_each_of_several_cards_is_set_up_for_itself() -> None:
    new, old = (TrainConfig(device=f"cuda:{index}") for index in range(2))
    assert choose_setup(new, TWO_CARDS).dtype == torch.bfloat16
    assert choose_setup(old, TWO_CARDS).dtype == torch.float16
    assert {"TF32", "flash attention"} <= what_is_on(TWO_CARDS, new)
    assert not {"TF32", "flash attention"} & what_is_on(TWO_CARDS, old)


def test_card_of_unknown_capability_is_known_by_its_bfloat16() -> None:
    assert "TF32" in what_is_on(replace(H100, cuda_capability=()))
    assert "TF32" not in what_is_on(replace(OLD_CARD, cuda_capability=()))


@pytest.mark.parametrize(
    ("have", "config", "name", "reason"),
    [
        (H100, TrainConfig(dtype="float32"), "bfloat16", "train.dtype asks for another"),
        (H100, TrainConfig(dtype="float32"), "flash attention", "for bfloat16 and float16"),
        (H100, TrainConfig(compile=False), "torch.compile", "train.compile is false"),
        (replace(H100, compiler=False), TrainConfig(), "torch.compile", "no C++ compiler"),
        (replace(H100, nccl=False), TrainConfig(), "several processes", "This torch has no NCCL"),
        (OLD_CARD, TrainConfig(dtype="bfloat16"), "bfloat16", "asked for, though not in hardware"),
        (MAC, TrainConfig(), "several processes", "cannot train on an Apple GPU"),
        (MAC, TrainConfig(dtype="bfloat16"), "bfloat16", "asked for"),
        (SERVER, TrainConfig(compile=True), "kernels by hand", "torch.compile makes them"),
    ],
)
def test_reason_says_what_decided(have: Capabilities, config: TrainConfig, name: str, reason: str) -> None:
    assert reason in on(have, config)[name].reason


def test_processes_talk_through_what_their_device_has() -> None:
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert (choose_backend(cuda, H100), choose_backend(cpu, H100)) == ("nccl", "gloo")


@pytest.mark.parametrize(
    ("device", "have", "message"),
    [
        ("cuda", replace(H100, nccl=False), "This torch has no NCCL"),
        ("mps", MAC, "Several processes cannot train on an Apple GPU"),
        ("cpu", replace(PLAIN, gloo=False), "This torch has no gloo"),
    ],
)
def test_torch_that_cannot_connect_processes_is_an_error_that_says_what_to_do(
    device: str, have: Capabilities, message: str
) -> None:
    with pytest.raises(DeviceError, match=message) as caught:
        choose_backend(torch.device(device), have)
    assert "in one process" in caught.value.hint


@pytest.mark.parametrize("have", [*MACHINES.values(), replace(OLD_CARD, compiler=False)])
def test_header_says_what_was_chosen_in_one_line_of_80_columns(have: Capabilities) -> None:
    setup = choose_setup(TrainConfig(), have)
    console = Console(file=StringIO(), width=80, force_terminal=True, force_interactive=True)
    print_facts(console, [("tokenizer", "char"), ("device", f"{setup.device} ({setup.reason})")])
    assert isinstance(console.file, StringIO)
    assert len(console.file.getvalue().splitlines()) == 2


def test_page_about_devices_has_the_matrix() -> None:
    """What stands in the page is what ``features`` says: a row a feature, a column a machine."""
    matrix = [on(have) for have in MACHINES.values()]
    rows = [["what", *MACHINES], ["---"] * (len(MACHINES) + 1)]
    rows += [[name, *("on" if found[name].on else "-" for found in matrix)] for name in matrix[0]]
    expected = [f"| {' | '.join(row)} |" for row in rows]
    table = [line for line in DEVICES_PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert table == expected
