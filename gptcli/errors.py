"""The errors a user can cause, each with what was found, what was expected and what to type next.

GptcliError
├── SourceError       a source cannot be read or is not text
├── CorpusError       a corpus is missing, damaged, too small or does not match
├── TokenizerError    a tokenizer cannot be had, or cannot represent a text
├── ProfileError      a run profile, or a ``--set``, is wrong (carries every problem at once)
├── RunError          a run is missing, exists already, or cannot be resumed
├── FormatError       a file is damaged
│   └── VersionError  a file has a format version this gptcli does not know
├── ExportError       a model cannot be written for another program, or does not read back as it is
└── DeviceError       a device or number format is not to be had on this machine
"""

from __future__ import annotations


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
    """A device or a number format that was asked for is not on this machine."""


def is_out_of_memory(error: Exception) -> bool:
    """Tell torch's errors about memory from bugs by name and words, since torch may not be imported for it."""
    words = ("out of memory", "not enough memory", "DefaultCPUAllocator")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(word in str(error) for word in words)
    )
