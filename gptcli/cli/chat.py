"""``gptcli chat``: a writing desk with a model, at a terminal or through a pipe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.cli.common import (
    EXIT_ERROR,
    CheckpointOption,
    DeviceOption,
    EncodingOption,
    check_device,
    note,
    read_text,
    reports_errors,
)
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
from gptcli.figures import count_text, loss_text, visible

if TYPE_CHECKING:
    from gptcli.chat.log import ChatLog
    from gptcli.chat.session import Session
    from gptcli.checkpoint_folders import Which
    from gptcli.cli.desk import Lines, Suggest
    from gptcli.config import SampleConfig
    from gptcli.copies.check import CopyIndex
    from gptcli.decoder import WeightFormat
    from gptcli.runs import RunDir
    from gptcli.writing import WritingModel

LinesFile = Annotated[
    str | None,
    typer.Option("--prompt-file", metavar="FILE", help="Read the lines from a file instead of typing them."),
]
NoLog = Annotated[bool, typer.Option("--no-log", help="Keep nothing of this session.")]


@reports_errors
def chat_command(
    run: ModelArgument = None,
    prompt_file: LinesFile = None,
    encoding: EncodingOption = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    stop: Stop = None,
    seed: Seed = None,
    checkpoint: CheckpointOption = "best",
    dtype: Dtype = "float32",
    quantize: Quantize = None,
    device: DeviceOption = None,
    no_log: NoLog = False,
) -> None:
    """Write with a model, line by line: it goes on with what you type, or answers if it was tuned on conversations.

    /help lists what else a line can be. From a pipe or a file of lines, stdout is the text alone, with three dashes
    where it begins anew and between answers. Each session of a run is kept in its folder chats.

    Example: gptcli chat
    """
    check_device(device)
    weights = weight_format(dtype, quantize)
    given = _given_lines(prompt_file, encoding)
    name, found = named_model(run)
    options = drawing_options(max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, seed)
    config = settings(found, options, "chat").model_copy(update={"num_samples": 1})
    model = open_model(name, which=checkpoint, device=device, weights=weights)
    how = _Opening(checkpoint, device, weights)
    if not _converse(model, config, given, how, keeps=not no_log):
        raise typer.Exit(EXIT_ERROR)


@dataclass(frozen=True, slots=True)
class _Opening:
    """How this command opens models, the first one as well as those of /compare."""

    which: Which
    device: str | None
    weights: WeightFormat

    def open(self, name: str) -> WritingModel:
        """Open a model, and show what is going on meanwhile."""
        return open_model(name, which=self.which, device=self.device, weights=self.weights)


def _open_copies(run: RunDir) -> CopyIndex:
    from gptcli.copies.check import open_copy_index

    return open_copy_index(run)


def _given_lines(prompt_file: str | None, encoding: str | None) -> Lines | None:
    """Read the lines of ``--prompt-file``; None when they come from stdin."""
    from gptcli.cli.desk import PipedLines

    if prompt_file is None:
        if encoding is not None:
            raise typer.BadParameter("--encoding is for lines that are read; give them with --prompt-file.")
        return None
    lines = read_text(prompt_file, encoding, "the prompt").removesuffix("\n").split("\n")
    return PipedLines(lines, None if prompt_file == "-" else prompt_file)


def _converse(model: WritingModel, config: SampleConfig, given: Lines | None, how: _Opening, *, keeps: bool) -> bool:
    """Hold the conversation; says whether all of it was as it should be."""
    from gptcli.chat.session import Session
    from gptcli.cli.chat_loop import Conversation, Signals
    from gptcli.cli.chat_view import ChatView
    from gptcli.cli.desk import has_keyboard

    has_person = given is None and has_keyboard()
    with (
        Signals() as signals,
        contextlib.closing(ChatView(has_person=has_person)) as view,
        _kept(model, keeps=keeps) as log,
    ):
        session = Session(model, open_model=how.open, open_copies=_open_copies, log=log, config=config)
        if has_person:
            _greet(model, log)
        with _lines(model, session, given, keeps=keeps) as lines:
            conversation = Conversation(
                session, lines, view, signals, has_person=has_person, has_turns=model.chat is not None
            )
            conversation.hold()
    return has_person or not conversation.went_wrong


@contextlib.contextmanager
def _kept(model: WritingModel, *, keeps: bool) -> Iterator[ChatLog | None]:
    """Give the log of the session, in the folder of its run; None for what is no run, and when nothing is kept."""
    from gptcli.chat.log import open_chat_log

    if model.run is None or not keeps:
        yield None
        return
    with contextlib.closing(open_chat_log(model.run)) as log:
        yield log


@contextlib.contextmanager
def _lines(model: WritingModel, session: Session, given: Lines | None, *, keeps: bool) -> Iterator[Lines]:
    """Give the lines of the file or the pipe, or what a person types into the terminal that is there."""
    from gptcli.cli.desk import BareLines, EditedLines, PipedLines, can_edit, has_keyboard, quiet_keys, stdin_lines

    if given is not None or not has_keyboard():
        yield given or PipedLines(stdin_lines())
    elif not can_edit():
        yield BareLines()
    else:
        history = model.run.path / "chats" / "history" if model.run is not None and keeps else None
        with quiet_keys():
            yield EditedLines(history, _suggest(), lambda width: _status_line(model, session, width))


def _suggest() -> Suggest:
    from gptcli.chat.commands import COMMANDS
    from gptcli.chat.settings import NAMES
    from gptcli.cli.chat_completion import suggestions
    from gptcli.config import SampleConfig
    from gptcli.runs import run_names

    commands = {command.name: command.summary for command in COMMANDS}
    settable = {name: SampleConfig.model_fields[name].description or "" for name in NAMES}
    return lambda before: suggestions(before, commands, settable, run_names)


def _greet(model: WritingModel, log: ChatLog | None) -> None:
    """Say on three lines what the model is, what can be typed, and where the session is kept."""
    does = "goes on with what you type" if model.chat is None else "answers what you type"
    note(f"{', '.join(_facts(model))}: it {does}.")
    note("/help lists the commands, Ctrl-C stops a reply, Ctrl-D leaves.")
    note("This session is not kept." if log is None else f"This session is kept in {log.path}")


def _status_line(model: WritingModel, session: Session, width: int) -> str:
    """Say what writes, how it draws, and how fast the last reply came."""
    from gptcli.cli.chat_view import status_text

    name, *facts = _facts(model)
    now = [f"temperature {session.config.temperature:g}"]
    if session.tokens_per_second is not None:
        now.append(f"{count_text(session.tokens_per_second)} tokens/s")
    return status_text(name, facts, now, width)


def _facts(model: WritingModel) -> list[str]:
    facts = [visible(model.name)]
    if model.step is not None:
        facts.append(f"step {model.step:,}")
    if model.val_loss is not None:
        facts.append(f"val_loss {loss_text(model.val_loss)}")
    return facts
