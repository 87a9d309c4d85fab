"""``gptcli sample``: a model writes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.common import (
    CheckpointOption,
    DeviceOption,
    EncodingOption,
    JsonOption,
    check_device,
    emit,
    note,
    progress,
    read_text,
    reports_errors,
    write_stdout,
    wrong_options,
)
from gptcli.errors import RunError, SourceError

if TYPE_CHECKING:
    from gptcli.chat_template import ChatTemplate
    from gptcli.config import SampleConfig
    from gptcli.model import GPT
    from gptcli.runs import RunDir
    from gptcli.sample import Piece
    from gptcli.tokenizer import Tokenizer


@dataclass(slots=True)
class _Text:
    """One sample as it comes."""

    seed: int
    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the sample as ``--json`` has it."""
        return {
            "text": "".join(self.parts),
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "tokens": self.tokens,
        }


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model that is ready to write."""

    model: GPT
    tokenizer: Tokenizer
    step: int | None
    chat: ChatTemplate | None


RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="A run, gpt2 to gpt2-xl, a Hugging Face name, a folder, or nanogpt:FILE; else the newest run.",
    ),
]
StdinArgument = Annotated[str | None, typer.Argument(metavar="-", help="Read the prompt from stdin.")]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Text to go on from.")]
PromptFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Read the prompt from a file, without its last line end; - is stdin.")
]
MaxNewTokens = Annotated[int | None, typer.Option(metavar="N", help="Tokens to draw at most.")]
Temperature = Annotated[
    float | None, typer.Option(metavar="X", help="0 takes the likeliest token, 1 draws as trained.")
]
TopK = Annotated[int | None, typer.Option(metavar="K", help="Draw among the k likeliest tokens.")]
TopP = Annotated[
    float | None, typer.Option(metavar="P", help="Draw among the likeliest that together have this probability.")
]
MinP = Annotated[
    float | None, typer.Option(metavar="P", help="Leave out what is less likely than this share of the top.")
]
Penalty = Annotated[float | None, typer.Option(metavar="X", help="Above 1: repeat less.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before this text. May be repeated.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="The same seed gives the same text.")]
NumSamples = Annotated[int | None, typer.Option(metavar="N", help="Texts to draw.")]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="The prompt is a question; print the answer. For runs tuned on conversations."),
]


@reports_errors
def sample_command(
    run: RunArgument = None,
    stdin: StdinArgument = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    encoding: EncodingOption = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    stop: Stop = None,
    seed: Seed = None,
    num_samples: NumSamples = None,
    chat: Chat = False,
    checkpoint: CheckpointOption = "best",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a model write; prints the prompt and what follows it. Defaults stand in the run's profile under sample.

    Without a prompt a new text begins. Several samples are separated by a line of three dashes.
    """
    check_device(device)
    run, text = _read_prompt(run, stdin, prompt, prompt_file, encoding)
    found, name = _find(run)
    values = {
        "prompt": text,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop) if stop else None,
        "seed": seed,
        "num_samples": num_samples,
    }
    config = _sample_config(found, values)
    opened = _load(name, checkpoint, device)
    from gptcli.sample import generate

    begin = time.perf_counter()
    if chat:
        question = _question(config.prompt, opened, name)
        pieces, before = _answers(generate(opened.model, opened.tokenizer, question, config)), ""
    else:
        pieces, before = generate(opened.model, opened.tokenizer, config.prompt, config), config.prompt
    texts = _collect(pieces, config) if as_json else _write(pieces, config, before)
    if as_json:
        rate = sum(sample.tokens for sample in texts) / max(1e-9, time.perf_counter() - begin)
        samples = [{"prompt": config.prompt, **sample.to_json()} for sample in texts]
        facts = {"run": found.name if found else name, "step": opened.step, "samples": samples}
        emit({**facts, "tokens_per_second": rate}, "", as_json=True)


def _read_prompt(
    run: str | None, stdin: str | None, prompt: str | None, prompt_file: str | None, encoding: str | None
) -> tuple[str | None, str | None]:
    """Sort the two arguments out (``-`` may be the only one) and read the one prompt that was given."""
    if run == "-" and stdin is None:
        run, stdin = None, "-"
    if stdin not in (None, "-"):
        raise typer.BadParameter(f'{stdin!r} is one word too many; a prompt is written --prompt "..."')
    given = [
        name
        for name, value in (("-", stdin), ("--prompt", prompt), ("--prompt-file", prompt_file))
        if value is not None
    ]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} both give a prompt; choose one.")
    where = stdin or prompt_file
    if where is not None:
        return run, read_text(where, encoding, "the prompt").removesuffix("\n")
    if encoding is not None:
        raise typer.BadParameter("--encoding is for a prompt that is read; give one with --prompt-file or -.")
    if prompt is not None and not _is_utf8(prompt):
        raise SourceError("The prompt is not UTF-8 text.", "Put it into a file: gptcli sample --prompt-file FILE")
    return run, prompt


def _is_utf8(text: str) -> bool:
    """Bytes of the command line that are not UTF-8 arrive as halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _find(name: str | None) -> tuple[RunDir | None, str]:
    """Find the run that a name stands for, without a name the newest; None and the name for what is no run."""
    from gptcli.bases.opening import run_named
    from gptcli.runs import find_run

    if name is not None:
        return run_named(name), name
    found = find_run()
    note(f"The newest run is {found.name}.")
    return found, found.name


def _sample_config(run: RunDir | None, values: dict[str, Any]) -> SampleConfig:
    """Lay the options over the run's own sample section; every impossible value is named at once."""
    from pydantic import ValidationError

    from gptcli.config import SampleConfig

    # The profile's prompt is for the samples while training; here a text begins anew unless one is given.
    base = {**run.profile().sample.model_dump(), "prompt": ""} if run else {}
    try:
        return SampleConfig.model_validate(
            {**base, **{key: value for key, value in values.items() if value is not None}}
        )
    except ValidationError as error:
        raise wrong_options(error, "gptcli sample --help explains them.") from error


def _load(name: str, checkpoint: str, device: str | None) -> _Opened:
    """Load what a name stands for onto the best device, in float32; the step is a run's."""
    from gptcli.bases.base import build_model
    from gptcli.bases.opening import open_base
    from gptcli.config import TrainConfig
    from gptcli.device import choose_setup, detect

    setup = choose_setup(TrainConfig(device=device or "auto", dtype="float32", compile=False), detect())
    with progress() as going_on:
        base = open_base(
            name,
            which="latest" if checkpoint == "latest" else "best",
            on_notice=going_on.note,
            on_progress=going_on.show,
        )
    for line in base.notes:
        note(line)
    step = base.origin.get("step") if base.kind == "run" else None
    model = build_model(base).to(setup.device)
    return _Opened(model, base.tokenizer, int(step) if step is not None else None, base.chat)


def _question(prompt: str, opened: _Opened, name: str) -> str:
    """Return the text that the model's answer to ``prompt`` follows."""
    from gptcli.chat_template import Message, write_prompt

    if opened.chat is None:
        raise RunError(
            f"{name} was not tuned on conversations, so it has no answers.",
            "Leave --chat out and it goes on with the prompt. To tune one: gptcli fetch chats.jsonl, then "
            f"gptcli finetune chats --from {name}",
        )
    return "".join(write_prompt([Message("user", prompt)], opened.chat))


def _answers(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Take the space before the first word of each answer away; it belongs to the template."""
    begun: set[int] = set()
    for piece in pieces:
        if piece.text and piece.sample not in begun:
            begun.add(piece.sample)
            piece = replace(piece, text=piece.text.removeprefix(" "))
        yield piece


def _collect(pieces: Iterator[Piece], config: SampleConfig) -> list[_Text]:
    """Draw all samples to their ends."""
    texts = [_Text(config.seed + sample) for sample in range(config.num_samples)]
    for _ in _follow(pieces, texts):
        pass
    return texts


def _follow(pieces: Iterator[Piece], texts: list[_Text]) -> Iterator[Piece]:
    """Put every piece into its text on its way."""
    for piece in pieces:
        text = texts[piece.sample]
        text.parts.append(piece.text)
        text.tokens += 1
        text.finish_reason = piece.finish_reason or text.finish_reason
        yield piece


def _write(pieces: Iterator[Piece], config: SampleConfig, before: str) -> list[_Text]:
    """Write one sample as it comes, or several one after the other, each whole."""
    texts = [_Text(config.seed + sample) for sample in range(config.num_samples)]
    if config.num_samples == 1:
        _stream(_follow(pieces, texts), before)
        return texts
    written = 0
    for _ in _follow(pieces, texts):
        while written < len(texts) and texts[written].finish_reason is not None:
            if written:
                _separate()
            _stream(iter(()), before + "".join(texts[written].parts))
            written += 1
    return texts


def _stream(pieces: Iterator[Piece], begin: str) -> None:
    """Write a text as it comes and end its last line, also when it is cut short."""
    last = begin[-1:]
    try:
        write_stdout(begin)
        for piece in pieces:
            if piece.text:
                write_stdout(piece.text)
                last = piece.text[-1]
    finally:
        if last != "\n":
            write_stdout("\n")


def _separate() -> None:
    """Write the line between two samples: a dim rule in a terminal, three dashes anywhere else."""
    if not sys.stdout.isatty():
        write_stdout("---\n")
        return
    from rich.console import Console

    Console().rule(style="dim")
