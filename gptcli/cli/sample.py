"""``gptcli sample``: a model writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.chat_template import Message
from gptcli.cli.common import (
    CheckpointOption,
    DeviceOption,
    EncodingOption,
    JsonOption,
    check_device,
    emit,
    note,
    reports_errors,
    write_stdout,
)
from gptcli.cli.prompts import lay_over, read_prompts
from gptcli.cli.sample_output import Drawing, collect, separate, show, write_file
from gptcli.cli.writing_options import (
    Dtype,
    MaxNewTokens,
    MinP,
    ModelArgument,
    Penalty,
    Quantize,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    named_model,
    open_model,
    settings,
    weight_format,
)
from gptcli.errors import RunError

if TYPE_CHECKING:
    from gptcli.config import SampleConfig
    from gptcli.copies.check import CopyIndex
    from gptcli.sample import Piece
    from gptcli.writing import WritingModel

# What --until-stop draws at most, so that a text that never ends does.
UNTIL_STOP_TOKENS = 10_000

StdinArgument = Annotated[str | None, typer.Argument(metavar="-", help="Read the prompt from stdin.")]
PromptOption = Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="Text to go on from.")]
PromptFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Read the prompt from a file, without its last line end; - is stdin. A .jsonl file holds many prompts, "
        'each a line: a string, or {"prompt": ..., "temperature": ...}.',
    ),
]
UntilStop = Annotated[
    bool,
    typer.Option(
        "--until-stop", help="Draw until the text ends by itself or at a --stop, however long (10,000 tokens at most)."
    ),
]
NumSamples = Annotated[int | None, typer.Option(metavar="N", help="Texts to draw, together.")]
ChatOption = Annotated[
    bool,
    typer.Option("--chat", help="The prompt is a question; print the answer. For runs tuned on conversations."),
]
CheckCopies = Annotated[
    bool,
    typer.Option("--check-copies", help="Say how much of the text stands word for word in the training text."),
]
Output = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write each text into a file here, with the seed in its name.")
]
Logprobs = Annotated[bool, typer.Option("--logprobs", help="With --json: the log-probability of every token.")]


@dataclass(frozen=True, slots=True)
class _Order:
    """How the texts of one command are drawn and where they go."""

    model: WritingModel
    chat: bool
    logprobs: bool
    copies: CopyIndex | None
    output: Path | None
    as_json: bool
    stops: bool
    """The user asked for an end, so a text that did not come to one is worth a word."""


@reports_errors
def sample_command(
    run: ModelArgument = None,
    stdin: StdinArgument = None,
    prompt: PromptOption = None,
    prompt_file: PromptFile = None,
    encoding: EncodingOption = None,
    max_new_tokens: MaxNewTokens = None,
    until_stop: UntilStop = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    stop: Stop = None,
    seed: Seed = None,
    num_samples: NumSamples = None,
    chat: ChatOption = False,
    check_copies: CheckCopies = False,
    output: Output = None,
    checkpoint: CheckpointOption = "best",
    dtype: Dtype = "float32",
    quantize: Quantize = None,
    device: DeviceOption = None,
    logprobs: Logprobs = False,
    as_json: JsonOption = False,
) -> None:
    """Let a model write; prints the prompt and what follows it. Defaults stand in the run's profile under sample.

    Without a prompt a new text begins. Several texts are separated by a line of three dashes.
    """
    check_device(device)
    weights = weight_format(dtype, quantize)
    _check_usage(output, logprobs=logprobs, as_json=as_json)
    run, stdin = _sort_arguments(run, stdin)
    prompts, where = read_prompts(stdin, prompt, prompt_file, encoding)
    name, found = named_model(run)
    if until_stop and max_new_tokens is None:
        max_new_tokens = UNTIL_STOP_TOKENS
    values = {
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
    configs = lay_over(settings(found, values), prompts, where)
    model = open_model(name, which=checkpoint, device=device, weights=weights)
    if chat:
        _refuse_chat(model)
    if until_stop:
        _refuse_endless(model, configs)
    copies = _open_copies(model) if check_copies else None
    stops = until_stop or bool(stop)
    _draw_all(_Order(model, chat, logprobs, copies, output, as_json, stops), configs, many=where is not None)


def _check_usage(output: Path | None, *, logprobs: bool, as_json: bool) -> None:
    if logprobs and not as_json:
        raise typer.BadParameter("--logprobs needs --json.")
    if output is not None and output.exists() and not output.is_dir():
        raise typer.BadParameter(f"--output {output} is a file; a folder was expected.")


def _sort_arguments(run: str | None, stdin: str | None) -> tuple[str | None, str | None]:
    """Sort the two arguments out: ``-`` may be the only one."""
    if run == "-" and stdin is None:
        return None, "-"
    if stdin not in (None, "-"):
        raise typer.BadParameter(f'{stdin!r} is one word too many; a prompt is written --prompt "..."')
    return run, stdin


def _refuse_endless(model: WritingModel, configs: list[SampleConfig]) -> None:
    if model.tokenizer.end_of_text is None and any(not config.stop for config in configs):
        raise RunError(
            f"{model.name} has no token for the end of a text, so nothing would stop it.",
            "Give it something to stop at, such as --stop $'\\n\\n', or a length: --max-new-tokens 1000",
        )


def _refuse_chat(model: WritingModel) -> None:
    if model.chat is None:
        raise RunError(
            f"{model.name} was not tuned on conversations, so it has no answers.",
            "Leave --chat out and it goes on with the prompt. To tune one: gptcli fetch chats.jsonl, then "
            f"gptcli finetune chats --from {model.name}",
        )


def _open_copies(model: WritingModel) -> CopyIndex:
    from gptcli.copies.check import open_copy_index

    if model.run is None:
        raise RunError(
            f"{model.name} is not a run, so what it was trained on is not known here.",
            "Leave --check-copies out, or name a run: gptcli runs list",
        )
    return open_copy_index(model.run)


def _draw_all(order: _Order, configs: list[SampleConfig], *, many: bool) -> None:
    """Draw the samples of every prompt, and put them where they were asked for."""
    from gptcli.text_stream import open_text_stream

    stream = open_text_stream()
    quiet = order.as_json or order.output is not None
    facts: list[dict[str, Any]] = []
    begin = time.perf_counter()
    for number, config in enumerate(configs, start=1):
        drawings = [Drawing(config.prompt, config.seed + sample) for sample in range(config.num_samples)]
        pieces = _pieces(order, config)
        if quiet:
            collect(pieces, drawings)
        else:
            if number > 1:
                separate(stream)
            show(pieces, drawings, stream, with_prompt=not order.chat)
        shown = number if many else None
        facts += [_finish(order, each, config, shown, alone=len(drawings) == 1) for each in drawings]
    if order.as_json:
        rate = sum(fact["tokens"] for fact in facts) / max(1e-9, time.perf_counter() - begin)
        run = {"run": order.model.name, "step": order.model.step}
        emit({**run, "samples": facts, "tokens_per_second": rate}, "", as_json=True)


def _pieces(order: _Order, config: SampleConfig) -> Iterator[Piece]:
    from gptcli.reading import draw_pieces, read_content
    from gptcli.sample import trimmed

    model = order.model
    content = [Message("user", config.prompt)] if order.chat else config.prompt
    ids = read_content(model, content)
    if left_out := trimmed(len(ids), model.decoder.config):
        note(
            f"The prompt has {len(ids):,} tokens and the model reads {model.decoder.config.block_size:,} at once: "
            f"it goes on from the last {len(ids) - left_out:,}."
        )
    return draw_pieces(model, content, ids, config, logprobs=order.logprobs)


def _finish(
    order: _Order, drawing: Drawing, config: SampleConfig, number: int | None, *, alone: bool
) -> dict[str, Any]:
    """Write a finished sample's file, say what there is to say about it, and return its facts."""
    facts = drawing.to_json(order.model.tokenizer, logprobs=order.logprobs)
    about = "" if alone else f"Seed {drawing.seed}: "
    if order.stops and drawing.finish_reason == "length":
        shown = " or ".join(repr(stop) for stop in config.stop) or "an end"
        note(f"{about}The text did not come to {shown} in {config.max_new_tokens:,} tokens.")
    if order.copies is not None:
        report = order.copies.check(drawing.text)
        facts["copies"] = report.to_json()
        for line in report.lines():
            note(about + line)
    if order.output is not None:
        path = write_file(order.output, order.model.name, number, drawing, with_prompt=not order.chat)
        facts["file"] = str(path)
        if not order.as_json:
            write_stdout(f"{path}\n")
    return facts
