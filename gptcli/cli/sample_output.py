"""Samples on their way out: as they come on stdout, into files, or as one JSON object.

Several samples are drawn together and shown one after the other; the one that is shown streams.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli.common import note, write_stdout

if TYPE_CHECKING:
    from gptcli.sample import Piece
    from gptcli.text_stream import TextStream
    from gptcli.tokenizer import Tokenizer


# A file's name has 255 bytes at most, and some are for the prompt, the seed and what makes it free.
NAME_CHARACTERS = 120


@dataclass(slots=True)
class Sample:
    """One sample as it comes."""

    prompt: str
    seed: int
    parts: list[str] = field(default_factory=list)
    tokens: list[tuple[int, float | None]] = field(default_factory=list)
    finish_reason: str | None = None
    begun: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    file: Path | None = None

    @property
    def text(self) -> str:
        """What was drawn so far."""
        return "".join(self.parts)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.parts.append(piece.text)
        self.tokens.append((piece.token_id, piece.logprob))
        self.finish_reason = piece.finish_reason
        self.seconds = time.perf_counter() - self.begun

    def to_json(self, tokenizer: Tokenizer, *, logprobs: bool) -> dict[str, Any]:
        """Return the sample as ``--json`` has it."""
        facts: dict[str, Any] = {
            "prompt": self.prompt,
            "text": self.text,
            "finish_reason": self.finish_reason or "interrupted",
            "seed": self.seed,
            "tokens": len(self.tokens),
            "tokens_per_second": len(self.tokens) / max(1e-9, self.seconds),
        }
        if logprobs:
            facts["logprobs"] = [
                {"token_id": token, "text": tokenizer.token_bytes(token).decode("utf-8", "replace"), "logprob": logprob}
                for token, logprob in self.tokens
            ]
        return facts


def collect(pieces: Iterable[Piece], samples: list[Sample]) -> Iterator[Sample]:
    """Draw all samples to their ends, showing nothing; yields each one as it is finished."""
    for piece in pieces:
        sample = samples[piece.sample]
        sample.add(piece)
        if sample.finish_reason is not None:
            yield sample


def show(pieces: Iterator[Piece], samples: list[Sample], stream: TextStream, *, with_prompt: bool) -> None:
    """Show samples one after the other, each as it comes from where it stands when its turn begins.

    The last line is ended also when a sample is cut short; Ctrl-C drops the samples that were not shown.
    """
    current = 0
    _begin(samples[0], stream, with_prompt=with_prompt)
    try:
        for piece in pieces:
            samples[piece.sample].add(piece)
            if piece.sample == current:
                stream.drawn(piece.text)
            while samples[current].finish_reason is not None and current + 1 < len(samples):
                current += 1
                separate(stream)
                _begin(samples[current], stream, with_prompt=with_prompt)
    except KeyboardInterrupt:
        del samples[current + 1 :]
        raise
    finally:
        stream.end()


def _begin(sample: Sample, stream: TextStream, *, with_prompt: bool) -> None:
    if with_prompt:
        stream.given(sample.prompt)
    stream.drawn(sample.text)


def separate(stream: TextStream) -> None:
    """Write the line between two samples: a dim rule in a terminal, three dashes anywhere else."""
    stream.end()
    if not sys.stdout.isatty():
        write_stdout("---\n")
        return
    from rich.console import Console

    Console().rule(style="dim")


def check_folder(folder: Path) -> None:
    """Make the folder of ``--output`` and see whether files can be written there; ``OSError`` that names it if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def write_file(folder: Path, model: str, number: int | None, sample: Sample, *, with_prompt: bool, names: bool) -> None:
    """Write a sample into a file of its own, named after model, prompt (of many) and seed.

    A file that is there already stays: the next free name is taken. ``names`` prints the path on stdout, and where
    nothing can be written the text, so that it is not lost; ``sample.file`` is None then.
    """
    from gptcli.files import atomic_write

    path = _free_path(folder, model, number, sample.seed)
    text = (sample.prompt if with_prompt else "") + sample.text
    text = text if text.endswith("\n") else text + "\n"
    try:
        with atomic_write(path) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        note(f"{path}: {error.strerror}; the text is on stdout instead.")
    else:
        sample.file, text = path, f"{path}\n"
    if names:
        write_stdout(text)


def _free_path(folder: Path, model: str, number: int | None, seed: int) -> Path:
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", model)[-NAME_CHARACTERS:].strip("-.") or "model"
    name = f"{word}{'' if number is None else f'-prompt_{number:03d}'}-seed_{seed}"
    path, again = folder / f"{name}.txt", 1
    while path.exists():
        again += 1
        path = folder / f"{name}-{again}.txt"
    return path
