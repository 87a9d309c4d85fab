from __future__ import annotations

import pytest
import torch

from gptcli.config import TrainConfig
from gptcli.device import Capabilities, choose_setup, detect
from gptcli.errors import DeviceError

H100 = Capabilities(cuda=("NVIDIA H100 80GB HBM3",), cuda_bf16=True, threads=8, compiler=True)
OLD_CARD = Capabilities(cuda=("Tesla T4",), cuda_bf16=False, threads=4, compiler=True)
MAC = Capabilities(mps=True, threads=8, compiler=True)
SERVER = Capabilities(cpu_bf16=True, threads=2, compiler=True)
PLAIN = Capabilities(threads=2)


@pytest.mark.parametrize(
    ("have", "device", "dtype", "compiled", "fragment"),
    [
        (H100, "cuda:0", torch.bfloat16, True, "H100"),
        (OLD_CARD, "cuda:0", torch.float16, True, "it has no bfloat16"),
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
