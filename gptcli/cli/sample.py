"""``gptcli sample``: a model writes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.chat_template import Message
from gptcli.cli.common import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    CheckpointOption,
    DeviceOption,
    EncodingOption,
    JsonOption,
    QuietOption,
    Say,
    check_device,
    emit,
    note,
    progress,
    reports_errors,
    silent,
)
from gptcli.cli.prompts import GivenPrompt, encode_all, lay_over, read_prompts
from gptcli.cli.sample_output import Sample, check_folder, collect, separate, show, write_file
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
    drawing_options,
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
    from gptcli.text_stream import TextStream
    from gptcli.writing import WritingModel

    Draw = Callable[[SampleConfig], Iterator[Piece]]

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
    typer.Option(
        "--check-copies",
        help="Say how much of the text stands in the training text: the same words in order, whatever stands between "
        "them.",
    ),
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
    until_stop: bool
    say: Say


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
    quiet: QuietOption = False,
) -> None:
    """Let a model write; prints the prompt and what follows it. Defaults stand in the run's profile under sample.

    The same command gives the same text again; another --seed gives another text.

    Without a prompt a new text begins. Several texts are separated by a line of three dashes.

    Example: gptcli sample --prompt "It was a"
    """
    check_device(device)
    weights = weight_format(dtype, quantize)
    _check_usage(output, logprobs=logprobs, as_json=as_json)
    run, stdin = _sort_arguments(run, stdin)
    prompts, where = read_prompts(stdin, prompt, prompt_file, encoding)
    if chat:
        _check_questions(prompts, where)
    say = silent if quiet else note
    name, found = named_model(run, say)
    length = UNTIL_STOP_TOKENS if until_stop and max_new_tokens is None else max_new_tokens
    values = drawing_options(length, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
    configs = lay_over(settings(found, {**values, "num_samples": num_samples}), prompts, where)
    if output is not None:
        check_folder(output)
    model = open_model(name, which=checkpoint, device=device, weights=weights, quiet=quiet)
    if chat:
        _refuse_chat(model)
    if until_stop:
        _refuse_endless(model, configs, max_new_tokens)
    copies = _open_copies(model) if check_copies else None
    order = _Order(model, chat, logprobs, copies, output, as_json, until_stop, say)
    draws = encode_all(prompts, where, lambda text: _read(order, text))
    _draw_all(order, list(zip(configs, draws, strict=True)), many=where is not None)


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


def _check_questions(prompts: list[GivenPrompt], where: str | None) -> None:
    silent = next((prompt for prompt in prompts if not prompt.text.strip()), None)
    if silent is not None:
        place = "" if silent.line is None else f", and line {silent.line} of {where} asks nothing"
        raise typer.BadParameter(f'--chat answers a question{place}; ask something with --prompt "..."')


def _refuse_endless(model: WritingModel, configs: list[SampleConfig], max_new_tokens: int | None) -> None:
    if model.tokenizer.end_of_text is None and any(not config.stop for config in configs):
        raise RunError(
            f"{model.name} has no token for the end of a text, so nothing would stop it.",
            "Give it something to stop at, such as --stop $'\\n\\n', or in place of --until-stop a length: "
            f"--max-new-tokens {max_new_tokens or 1000}",
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


def _draw_all(order: _Order, prompts: list[tuple[SampleConfig, Draw]], *, many: bool) -> None:
    """Draw the samples of every prompt, and put them where they were asked for.

    Ctrl-C ends the text that is being written and those that would follow; what there is to say of it is still said.
    """
    from gptcli.chat.replies import N_SEEDS
    from gptcli.text_stream import open_text_stream

    stream = open_text_stream()
    facts: list[dict[str, Any]] = []
    begin, stopped = time.perf_counter(), False
    if any(config.temperature == 0 and config.num_samples > 1 for config, _ in prompts):
        order.say("At temperature 0 every sample is the same text; above 0 they differ: --temperature 0.8")
    for number, (config, draw) in enumerate(prompts, start=1):
        samples = [Sample(config.prompt, (config.seed + i) % N_SEEDS) for i in range(config.num_samples)]
        if number > 1 and not order.as_json and order.output is None:
            separate(stream)
        try:
            _hand_on(order, draw(config), samples, stream, number if many else None, config.max_new_tokens)
        except KeyboardInterrupt:
            stopped, samples = True, [sample for sample in samples if sample.tokens]
        facts += [_finish(order, each, config, alone=len(samples) == 1) for each in samples]
        if stopped:
            break
    if not many and not order.as_json and not order.until_stop and not order.chat:
        _say_ended(order, facts, config.max_new_tokens)
    if order.as_json:
        rate = sum(fact["tokens"] for fact in facts) / max(1e-9, time.perf_counter() - begin)
        run = {"run": order.model.name, "step": order.model.step}
        emit({**run, "samples": facts, "tokens_per_second": rate}, "", as_json=True)
    if stopped:
        raise typer.Exit(EXIT_INTERRUPTED)
    if any(fact.get("file", "") is None for fact in facts):
        raise typer.Exit(EXIT_ERROR)


def _say_ended(order: _Order, facts: list[dict[str, Any]], limit: int) -> None:
    """Say of a text that is shorter than was asked for that the model itself ended it."""
    if len(facts) == 1 and facts[0]["finish_reason"] == "end_of_text":
        drawn = facts[0]["tokens"] - 1  # without the one that ends it
        order.say(
            f"The model ended its text after {drawn:,} of {limit:,} tokens; another --seed may give a longer one."
        )


def _hand_on(
    order: _Order, pieces: Iterator[Piece], samples: list[Sample], stream: TextStream, number: int | None, limit: int
) -> None:
    """Draw samples to their ends: each into its file, or for ``--json``, or shown as it comes."""
    if order.as_json and order.output is None:
        with progress(quiet=not sys.stderr.isatty()) as going_on:
            for _ in collect(_counted(pieces, len(samples), limit, going_on.show), samples):
                pass
    elif order.output is not None:
        for sample in collect(pieces, samples):
            _keep(order, sample, number)
    else:
        show(pieces, samples, stream, with_prompt=not order.chat)


def _counted(pieces: Iterator[Piece], n_samples: int, limit: int, show: Callable[[str], None]) -> Iterator[Piece]:
    """Say how far texts are that nobody sees before all are done; many end before their limit."""
    from gptcli.progress import Portion

    for number, piece in enumerate(pieces, start=1):
        show(Portion(f"Writing: {number:,} of at most {n_samples * limit:,} tokens", number, n_samples * limit))
        yield piece


def _read(order: _Order, prompt: str) -> Draw:
    """Encode a prompt, which may fail; returns what draws after it."""
    from gptcli.reading import draw_pieces, read_content
    from gptcli.sample import trimmed

    model = order.model
    content = [Message("user", prompt)] if order.chat else prompt
    ids = read_content(model, content)

    def draw(config: SampleConfig) -> Iterator[Piece]:
        if left_out := trimmed(len(ids), model.decoder.config):
            order.say(
                f"The prompt has {len(ids):,} tokens and the model reads {model.decoder.config.block_size:,} at once: "
                f"it goes on from the last {len(ids) - left_out:,}."
            )
        return draw_pieces(model, content, ids, config, logprobs=order.logprobs)

    return draw


def _keep(order: _Order, sample: Sample, number: int | None) -> None:
    """Write the file of a finished sample, if files were asked for."""
    if order.output is not None:
        write_file(order.output, order.model.name, number, sample, with_prompt=not order.chat, names=not order.as_json)


def _finish(order: _Order, sample: Sample, config: SampleConfig, *, alone: bool) -> dict[str, Any]:
    """Say what there is to say about a finished sample, and return its facts."""
    facts = sample.to_json(order.model.tokenizer, logprobs=order.logprobs)
    said: list[str] = []
    if (order.until_stop or config.stop) and sample.finish_reason == "length":
        shown = " or ".join(repr(stop) for stop in config.stop) or "an end"
        said.append(f"The text did not come to {shown} in {config.max_new_tokens:,} tokens.")
    if order.copies is not None:
        report = order.copies.check(sample.text)
        facts["copies"] = report.to_json()
        said += () if order.as_json else report.lines()
    for line in said if alone or not said else (f"Seed {sample.seed}:", *said):
        order.say(line)
    if order.output is not None:
        facts["file"] = sample.file and str(sample.file)
    return facts
