"""Samples on their way out: as they come on stdout, into files, or as one JSON object.

Several samples are drawn together and shown one after the other; the one that is shown streams.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli.common import write_stdout

if TYPE_CHECKING:
    from gptcli.sample import Piece
    from gptcli.text_stream import TextStream
    from gptcli.tokenizer import Tokenizer


@dataclass(slots=True)
class Drawing:
    """One sample as it comes."""

    prompt: str
    seed: int
    parts: list[str] = field(default_factory=list)
    tokens: list[tuple[int, float | None]] = field(default_factory=list)
    finish_reason: str | None = None
    begun: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

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
            "finish_reason": self.finish_reason,
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


def collect(pieces: Iterable[Piece], drawings: list[Drawing]) -> None:
    """Draw all samples to their ends, showing nothing."""
    for piece in pieces:
        drawings[piece.sample].add(piece)


def show(pieces: Iterator[Piece], drawings: list[Drawing], stream: TextStream, *, with_prompt: bool) -> None:
    """Show samples one after the other, each as it comes from where it stands when its turn begins.

    The last line is ended also when a sample is cut short.
    """
    current = 0
    _begin(drawings[0], stream, with_prompt=with_prompt)
    try:
        for piece in pieces:
            drawing = drawings[piece.sample]
            drawing.add(piece)
            if piece.sample == current:
                stream.drawn(piece.text)
            while drawings[current].finish_reason is not None and current + 1 < len(drawings):
                current += 1
                separate(stream)
                _begin(drawings[current], stream, with_prompt=with_prompt)
    finally:
        stream.end()


def _begin(drawing: Drawing, stream: TextStream, *, with_prompt: bool) -> None:
    if with_prompt:
        stream.given(drawing.prompt)
    stream.drawn(drawing.text)


def separate(stream: TextStream) -> None:
    """Write the line between two samples: a dim rule in a terminal, three dashes anywhere else."""
    stream.end()
    if not sys.stdout.isatty():
        write_stdout("---\n")
        return
    from rich.console import Console

    Console().rule(style="dim")


def write_file(folder: Path, model: str, number: int | None, drawing: Drawing, *, with_prompt: bool) -> Path:
    """Write a sample into a file of its own, named after model, prompt (of many) and seed; returns its path.

    A file that is there already stays: the next free name is taken.
    """
    from gptcli.files import atomic_write

    prompt = "" if number is None else f"-prompt_{number:03d}"
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model).strip('-.') or 'model'}{prompt}-seed_{drawing.seed}"
    path, again = folder / f"{name}.txt", 1
    while path.exists():
        again += 1
        path = folder / f"{name}-{again}.txt"
    text = (drawing.prompt if with_prompt else "") + drawing.text
    with atomic_write(path) as file:
        file.write((text if text.endswith("\n") else text + "\n").encode("utf-8", "surrogateescape"))
    return path
