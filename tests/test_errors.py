"""What torch says when memory is short or a device is gone, told from bugs."""

from __future__ import annotations

import pytest

from gptcli.errors import device_lost, is_device_lost, is_out_of_memory

ASYNC = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1.\nCompile with `TORCH_USE_CUDA_DSA` to enable "
    "device-side assertions.\n"
)
SEARCH = (
    "\nSearch for `cudaErrorECCUncorrectable' in "
    "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information." + ASYNC
)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: unspecified launch failure" + ASYNC,
        "CUDA error: an illegal memory access was encountered" + ASYNC,
        "CUDA error: the launch timed out and was terminated" + ASYNC,
        "CUDA error: uncorrectable ECC error encountered" + SEARCH,
        "CUDA error: unknown error" + ASYNC,
        (
            "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
            "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
        ),
        "CUDA error: all CUDA-capable devices are busy or unavailable" + ASYNC,
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable" + ASYNC,
        "CUDA error: no CUDA-capable device is detected" + ASYNC,
        (
            "Execution of the command buffer was aborted due to an error during execution. Internal Error "
            "(0000000e:Internal Error)"
        ),
        (
            "command buffer exited with error status.\n\tThe Metal Performance Shaders operations encoded on it may "
            "not have completed."
        ),
    ],
)
def test_device_that_is_gone_is_known_by_the_words_of_torch(said: str) -> None:
    assert is_device_lost(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError(said))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.66 GiB"),
        RuntimeError("CUDA error: out of memory" + ASYNC),
        RuntimeError("CUDA error: device-side assert triggered" + ASYNC),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("an unknown error of something else"),
        ValueError("CUDA error: unspecified launch failure"),
    ],
)
def test_memory_and_bugs_are_no_lost_device(error: Exception) -> None:
    assert not is_device_lost(error)


def test_error_of_a_lost_device_says_what_is_left_and_how_to_go_on() -> None:
    error = device_lost("letters", RuntimeError("CUDA error: unspecified launch failure" + ASYNC))
    assert error.message == "The device was lost in the middle of the run: CUDA error: unspecified launch failure."
    assert "Its checkpoints are whole: gptcli train --resume --run letters" in error.hint
