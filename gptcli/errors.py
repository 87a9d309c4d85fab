"""The errors a user can cause, each with what was found, what was expected and what to type next.

GptcliError
├── SourceError       a source cannot be read or is not text
├── CorpusError       a corpus is missing, damaged, too small or does not match
│   └── UnfinishedError  a prepare ended through no fault of its text, and can be gone on with
├── TokenizerError    a tokenizer cannot be had, or cannot represent a text
├── ProfileError      a run profile, or a ``--set``, is wrong (carries every problem at once)
├── RunError          a run is missing, exists already, or cannot be resumed
├── FormatError       a file is damaged
│   └── VersionError  a file has a format version this gptcli does not know
├── ExportError       a model cannot be written for another program, or does not read back as it is
└── DeviceError       a device or number format is not to be had on this machine, or no longer
"""

from __future__ import annotations

# What CUDA calls the end of a device, behind torch's "CUDA error: "; the words of Metal for the same.
DEVICE_LOST = (
    *(
        "unspecified launch failure",
        "an illegal memory access was encountered",
        "an illegal instruction was encountered",
    ),
    *("the launch timed out and was terminated", "hardware stack error", "unknown error", "uncorrectable NVLink error"),
    *("uncorrectable ECC error encountered", "busy or unavailable", "no CUDA-capable device is detected"),
)
METAL_LOST = ("command buffer was aborted", "command buffer exited with error status")


class GptcliError(Exception):
    """An error for the user: one sentence, and a hint with the command to type next.

    ``message`` says what was found and what was expected; ``hint`` may be empty. The command line prints both
    and exits with 1. A bug is never a ``GptcliError``.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SourceError(GptcliError):
    """A source cannot be read, is empty, or is not text."""


class CorpusError(GptcliError):
    """A corpus or its tokens are missing, too small, or do not match what they are used with."""


class UnfinishedError(CorpusError):
    """A prepare ended through no fault of its text: the same command goes on with what it has left."""


class TokenizerError(GptcliError):
    """A tokenizer cannot be had here, or cannot represent a text."""


class ProfileError(GptcliError):
    """A run profile or a ``--set`` is wrong; ``problems`` holds one line for each mistake."""

    def __init__(self, message: str, hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join((message, *(f"  {problem}" for problem in problems))), hint)
        self.problems = problems


class RunError(GptcliError):
    """A run is missing, exists already, or cannot be resumed as asked."""


class FormatError(GptcliError):
    """A file is damaged, or is not of the kind expected."""


class VersionError(FormatError):
    """A file has a ``format_version`` this gptcli does not know: another one wrote it."""


class ExportError(GptcliError):
    """A model cannot be written for another program, or what was written does not read back as the same model."""


class DeviceError(GptcliError):
    """A device or a number format that was asked for is not on this machine, or no longer."""


def is_out_of_memory(error: Exception) -> bool:
    """Tell torch's errors about memory from bugs by name and words, since torch may not be imported for it."""
    words = ("out of memory", "not enough memory", "DefaultCPUAllocator")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(word in str(error) for word in words)
    )


def is_device_lost(error: Exception) -> bool:
    """Tell by torch's words that a GPU went away or broke, after which the process can compute nothing more on it.

    A device-side assert is none of these: that is a bug, which a second try meets again.
    """
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    said = str(error)
    return ("CUDA" in said and any(words in said for words in DEVICE_LOST)) or any(
        words in said for words in METAL_LOST
    )


def device_lost(run: str, error: Exception) -> DeviceError:
    """Make the error for a run whose device is lost, saying what is left and how to go on."""
    said = next(iter(str(error).splitlines()), "").strip().rstrip(".")
    return DeviceError(
        f"The device was lost in the middle of the run: {said}.",
        f"Its checkpoints are whole: gptcli train --resume --run {run} goes on from the last one, on another device "
        "with --device. If this one does not come back, its driver or the machine has to be started again.",
    )
