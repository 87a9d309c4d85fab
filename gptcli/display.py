"""What a person sees of a training run: a header, a live loss table, samples, and one panel at the end.

Reads events and knows nothing else: no files, no model, no options. In a terminal the table is live; anywhere else the
same rows are plain lines, printed as they come. Text from outside is made inert by ``visible`` before it is printed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from dataclasses import replace
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gptcli.events import (
    Evaluated,
    Notice,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleDrawn,
    StepLogged,
    TrainEvent,
    WentBack,
)
from gptcli.figures import count_text, duration_text, loss_error_text, loss_text, promise_text, visible
from gptcli.loss_table import COLUMNS, LossTable, Row, fitting_columns, heading_lines, line_width, row_line
from gptcli.progress import Portion

NO_GAIN = "the best checkpoint is the model as it came; finetuning did not lower val_loss. The last one: "
# Share of the best val_loss above which a rise is one, however few windows there are.
CLEARLY = 0.02
# Before so many evaluations val_loss has no course yet.
ENOUGH_EVALUATIONS = 3
PLAIN_PROMPT = re.compile(r"[A-Za-z0-9 .,:;?'-]{1,40}")
Facts = list[tuple[str, str]]


class _Console(Console):
    """rich's, but that a pipe nobody reads any more is an error as any other, and not the end of the program."""

    def on_broken_pipe(self) -> None:
        """Let the error be what it is."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def stderr_console() -> Console:
    """Return a console on stderr that never reads markup; colours and width are the terminal's own."""
    return _Console(stderr=True, markup=False, highlight=False, emoji=False)


def stdout_console() -> Console:
    """Return a console on stdout that never reads markup."""
    return _Console(markup=False, highlight=False, emoji=False)


def print_facts(console: Console, facts: Facts) -> None:
    """Print pairs of label and text: wrapped beside their labels in a terminal, one whole line each elsewhere."""
    if console.is_interactive:
        console.print(facts_grid(facts))
        return
    width = max((len(label) for label, _ in facts), default=0)
    for label, text in facts:
        console.print(Text(f"{label:>{width}}  {visible(text)}"), soft_wrap=True)


def facts_grid(facts: Facts) -> Table:
    """Lay pairs of label and text out; warnings and the next command stand out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    styles = {"next": "bold", "warning": "yellow"}
    for label, text in facts:
        grid.add_row(Text(label), Text(visible(text), style=styles.get(label, "")))
    return grid


def header_facts(event: RunStarted) -> Facts:
    """Say what is about to be trained on what, as pairs of label and text."""
    shape = f"n_layer {event.n_layer}, n_head {event.n_head}, n_embd {event.n_embd}, block_size {event.block_size}"
    trained = "" if event.trained_params is None else f", {count_text(event.trained_params)} trained"
    facts = [
        ("corpus", f"{event.corpus}, {event.train_tokens:,} train and {event.val_tokens:,} val tokens"),
        ("tokenizer", f"{event.tokenizer}, {event.vocab_size:,} tokens"),
        (
            "model",
            f"{event.family}, {count_text(event.n_params)} parameters{trained}: {shape}",
        ),
        ("steps", f"{event.max_steps:,} of {event.tokens_per_step:,} tokens each"),
        ("device", f"{event.device} ({event.device_reason})"),
        ("run", event.folder),
    ]
    if event.step:
        best = "" if event.best_val_loss is None else f", best val_loss so far {loss_text(event.best_val_loss)}"
        facts.insert(4, ("resumes", f"after step {event.step:,}{best}"))
    if event.base is not None:
        facts.insert(2, ("from", event.base))
    if event.expected_val_loss is not None:
        minutes = event.expected_minutes
        time_text = f" in {duration_text(60 * minutes)} on the profile's machine" if minutes else ""
        facts.append(("promises", f"val_loss {event.expected_val_loss:g}{time_text}"))
    if event.owes_evaluation:
        facts.append(("", "All steps are done, and the evaluation of the last one is made up for now."))
    elif event.step >= event.max_steps:
        facts.append(("", "This run is complete. --resume --set max_steps=N makes it longer."))
    elif event.stopped_early:
        facts.append(("", "This run ended early, by train.patience. --resume --set train.patience=0 goes on."))
    return facts


def summary_facts(
    event: RunFinished, train_loss_at_best: float | None, prompt: str = "", eval_interval: int = 0
) -> Facts:
    """Say what came of the run: best loss, promise, overfitting, and the command to type next."""
    facts: Facts = []
    if not has_ended(event):
        facts.append(("saved", f"at step {event.step:,} of {event.max_steps:,}"))
    if event.best_val_loss is None:
        facts.append(("val_loss", "not evaluated yet"))
    else:
        bits = "" if event.best_bits_per_byte is None else f", {event.best_bits_per_byte:.3f} bits/byte"
        loss = loss_error_text(event.best_val_loss, event.best_val_loss_stderr)
        facts.append(("best", f"val_loss {loss} at step {event.best_step:,}{bits}"))
    if event.base_val_loss is not None:
        facts.append(("base", base_text(event, event.base_val_loss)))
        if has_ended(event) and event.best_step == 0 < event.step:
            facts.append(("warning", NO_GAIN + sample_command(event, " --checkpoint latest")))
    if event.reason == "stopped_early":
        go_on = f"gptcli train --resume --run {event.run} --set train.patience=0"
        facts.append(("early", f"no better val_loss since step {event.best_step:,}. To go on all the same: {go_on}"))
    if event.expected_val_loss is not None:
        promise = promise_text(event.expected_val_loss, event.best_val_loss, ended=has_ended(event))
        facts.append(("promised", promise))
    if event.best_val_loss is not None:
        facts.append(("overfits", overfit_text(event, train_loss_at_best, eval_interval)))
    facts.append(("next", next_command(event, prompt)))
    return facts


def base_text(event: RunFinished, before: float) -> str:
    """Say what finetuning bought: the val_loss before it, and how far the best is below."""
    gained = 0.0 if event.best_val_loss is None else before - event.best_val_loss
    return f"val_loss {loss_text(before)} before any training" + (f": {gained:.4f} lower now" if gained > 0 else "")


def overfit_text(event: RunFinished, train_loss_at_best: float | None, eval_interval: int = 0) -> str:
    """Say whether the last val_loss is clearly above the best while train_loss fell.

    That is by two standard errors or a fiftieth, whichever is less: the same windows are scored every time, so that
    most of a large standard error is common to both.
    """
    best, last, train = event.best_val_loss, event.final_val_loss, event.final_train_loss
    assert best is not None
    rose = last is not None and last > best + min(2 * (event.best_val_loss_stderr or 0.0), CLEARLY * best)
    fell = train is None or train_loss_at_best is None or train < train_loss_at_best
    if rose and event.best_step == 0:
        return (
            f"perhaps, val_loss rose to {loss_text(last)} and was never below the base's; a lower learning rate, "
            "more text or LoRA (--set finetune.lora_rank=16) may help"
        )
    if rose and fell:
        return (
            f"yes, val_loss rose to {loss_text(last)} after step {event.best_step:,} while train_loss fell; the "
            f"checkpoint of step {event.best_step:,} is the best, and gptcli sample takes it. More text, more dropout "
            "or fewer steps help"
        )
    if rose:
        return "no, val_loss and train_loss both rose; a lower learning rate may help"
    if eval_interval and (count := _evaluations(event, eval_interval)) < ENOUGH_EVALUATIONS:
        return f"too early to say after {count} evaluation{'' if count == 1 else 's'}"
    if last == best:
        return "not yet, val_loss was still falling at the end"
    return f"no, val_loss stayed near its best of step {event.best_step:,}"


def _evaluations(event: RunFinished, eval_interval: int) -> int:
    """Count the evaluations of all parts of a run: one an interval, at the last step, and of a finetune's base.

    There was one, whatever the intervals of earlier parts.
    """
    at_end = event.step == event.max_steps and event.step % eval_interval > 0
    return max(1, event.step // eval_interval + at_end + (event.base_val_loss is not None))


def has_ended(event: RunFinished) -> bool:
    """Say whether the run came to its own end, and was not stopped from outside."""
    return event.reason in ("completed", "stopped_early")


def next_command(event: RunFinished, prompt: str = "") -> str:
    """Return the command to type next; ``prompt`` is put into it when a shell takes it as it is."""
    if not has_ended(event):
        return f"gptcli train --resume --run {event.run}"
    quoted = f' --prompt "{prompt}"' if PLAIN_PROMPT.fullmatch(prompt) and not event.chat else ""
    return sample_command(event, quoted)


def sample_command(event: RunFinished, options: str = "") -> str:
    """Return the command that lets the run write; a run that was tuned on conversations is asked something."""
    return f"gptcli sample {event.run}{options}" + (' --chat --prompt "..."' if event.chat else "")


class ProgressLine:
    """One line that says what is going on, with a bar and the time left where it is a ``Portion``; rich draws it."""

    def __init__(self) -> None:
        self._text = ""
        self._share: float | None = None
        self._begun_at, self._begun_share = time.monotonic(), 0.0

    def show(self, text: str) -> None:
        """Show another line; a share below the one before is the beginning of other work."""
        share = text.share if isinstance(text, Portion) else None
        if share is not None and (self._share is None or share < self._share):
            self._begun_at, self._begun_share = time.monotonic(), share
        self._text, self._share = visible(text), share

    def time_left(self, now: float) -> float | None:
        """Return the seconds left at the pace so far; None where nothing can be said yet."""
        done = 0.0 if self._share is None else self._share - self._begun_share
        if self._share is None or done <= 0 or now - self._begun_at < 1:
            return None
        return (1 - self._share) * (now - self._begun_at) / done

    def __rich__(self) -> RenderableType:
        """Draw the line for the width there is."""
        text = Text(self._text, overflow="ellipsis", no_wrap=True)
        if self._share is None:
            return text
        left = self.time_left(time.monotonic())
        grid = Table.grid(padding=(0, 1))
        grid.add_column()  # the only one that gives way
        grid.add_column(width=20)
        grid.add_column(no_wrap=True)
        told = "" if left is None or self._text.endswith(" left") else f"{duration_text(left)} left"
        bar = ProgressBar(total=1.0, completed=self._share, width=20)
        grid.add_row(text, bar, f"{self._share:4.0%} {told}".rstrip())
        return grid


class TrainView:
    """Shows the events of one run on a console: ``with TrainView(console) as view: view.show(event)``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._interactive = console.is_interactive
        self._table = LossTable()
        self._live: Live | None = None
        self._max_steps, self._eval_interval, self._prompt, self._stopping = 0, 0, "", ""
        self._held: Row | None = None
        self._has_heading = self._ended = False
        self._latest, self._latest_at, self._before = Row(0, 0.0, None), time.monotonic(), 0.0

    def __enter__(self) -> TrainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            self._release()
        self._end_live()

    def show(self, event: TrainEvent) -> None:
        """Show one event, with the time of all parts of the run; saved checkpoints are not worth a line."""
        if isinstance(event, StepLogged | Evaluated | RunFinished):
            event = replace(event, elapsed=self._before + event.elapsed)
        if isinstance(event, Evaluated):
            self._held = None  # the row of the evaluation has its figures
            self._add(self._table.add_evaluation(event))
            return
        self._release()
        if isinstance(event, RunStarted):
            self._begin(event)
        elif isinstance(event, StepLogged):
            self._report(self._table.add_report(event))
        elif isinstance(event, SampleDrawn):
            self._sample(event)
        elif isinstance(event, Notice):
            self._print(Text.assemble(("note: ", "yellow"), visible(event.text)))
        elif isinstance(event, WentBack):
            self._latest = Row(event.step, 0.0, None)
            text = (
                f"the loss was no number any more up to step {event.diverged_at:,}, so the run goes on from step "
                f"{event.step:,} with {event.learning_rate_factor:g} times the learning rate."
            )
            self._print(Text.assemble(("note: ", "yellow"), text))
        elif isinstance(event, RunFailed):
            self._end_live()
            self._print(Text.assemble(("failed: ", "bold red"), visible(event.text)))
        elif isinstance(event, RunFinished):
            self._finish(event)

    def stopping(self, text: str) -> None:
        """Say that the run is about to stop; safe inside a signal handler."""
        self._stopping = text
        if self._live is None:
            # Not through the console: the signal may have come in the middle of its own write.
            with contextlib.suppress(OSError):
                os.write(2, f"{text}\n".encode())

    def _report(self, row: Row) -> None:
        if self._is_evaluated_next(row):
            self._held = row
        else:
            self._add(row)

    def _is_evaluated_next(self, row: Row) -> bool:
        """Say whether a report off a terminal waits for the evaluation of its step, to be one line with it."""
        if self._interactive or not self._eval_interval:
            return False
        return row.step % self._eval_interval == 0 or row.step == self._max_steps

    def _release(self) -> None:
        """Print a report that waited for an evaluation in vain: the run was stopped before it."""
        if self._held is not None:
            row, self._held = self._held, None
            self._add(row)

    def _begin(self, event: RunStarted) -> None:
        self._max_steps, self._eval_interval = event.max_steps, event.eval_interval
        self._before = event.seconds_before
        self._latest = Row(event.step, 0.0, None)
        self._panel("gptcli train" if event.base is None else "gptcli finetune", header_facts(event))
        if self._interactive and event.step < event.max_steps and not event.stopped_early:
            self._live = Live(
                get_renderable=self._frame, console=self._console, refresh_per_second=4, vertical_overflow="crop"
            )
            self._live.start()

    def _finish(self, event: RunFinished) -> None:
        self._end_live()
        train_loss = self._table.best.train_loss if self._table.best else None
        word = {
            "completed": "done",
            "stopped_early": "stopped early",
            "interrupted": "interrupted",
            "terminated": "terminated",
            "hung_up": "hung up",
        }[event.reason]
        title = f"{event.run}: {word} after {duration_text(event.elapsed)}"
        self._panel(title, summary_facts(event, train_loss, self._prompt, self._eval_interval))

    def _end_live(self) -> None:
        """Leave the last rows on the screen without the progress bar."""
        if self._live is not None:
            self._ended = True
            with contextlib.suppress(OSError):  # of a terminal that is gone
                self._live.stop()
            self._live = None

    def _add(self, row: Row) -> None:
        self._latest, self._latest_at = row, time.monotonic()
        if self._live is not None:
            self._live.refresh()
            return
        if not self._has_heading:
            self._has_heading = True
            for line in heading_lines(COLUMNS):
                self._print(Text(line))
        self._print(Text(row_line(row, COLUMNS)))

    def _sample(self, event: SampleDrawn) -> None:
        self._prompt = event.prompt
        self._print(Text(f"-- sample at step {event.step} --", style="dim"))
        self._print(Text.assemble((visible(event.prompt), "bold"), (visible(event.text), "dim")))
        self._print(Text("--", style="dim"))

    def _print(self, text: Text) -> None:
        """Print above the live table, or as plain lines that nobody wraps."""
        self._console.print(text, soft_wrap=not self._interactive)

    def _panel(self, title: str, facts: Facts) -> None:
        if not self._interactive:
            self._print(Text(visible(title)))
            print_facts(self._console, facts)
            return
        heading = Text(visible(title), style="bold")
        grid = facts_grid(facts)
        self._console.print(Panel(grid, title=heading, title_align="left", box=box.ROUNDED, border_style="dim"))

    def _frame(self) -> RenderableType:
        """Draw the table and its progress bar, never taller than the terminal."""
        width, height = self._console.size
        columns = fitting_columns(width)
        lines = [Text(line, style="dim", no_wrap=True, overflow="crop") for line in heading_lines(columns)]
        for row in self._table.tail(height - len(lines) - 3):
            style = "bold green" if row.best else "" if row.val_loss is not None else "dim"
            lines.append(Text(row_line(row, columns), style=style, no_wrap=True, overflow="crop"))
        if self._ended:
            return Group(*lines)
        if self._stopping:
            lines.append(Text(self._stopping, style="yellow", no_wrap=True, overflow="ellipsis"))
        return Group(*lines, self._progress(min(width, line_width(COLUMNS))))

    def _progress(self, width: int) -> RenderableType:
        """Draw how far the run is; the time left counts down between events."""
        row, since = self._latest, time.monotonic() - self._latest_at
        left = "warming up" if row.remaining is None else f"{duration_text(max(0.0, row.remaining - since))} left"
        share = row.step / max(1, self._max_steps)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            Text(f"{share:4.0%}"),
            ProgressBar(total=max(1, self._max_steps), completed=row.step, width=max(5, width - 42)),
            Text(f"step {row.step:,}/{self._max_steps:,}, {left}", no_wrap=True),
        )
        return grid
