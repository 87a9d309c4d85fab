"""How runs look on stdout: one or two lines each in a list, and the page of one run.

Makes lines of facts; reads no files, and knows no options.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text

from gptcli.cli.common import padded, wrapped
from gptcli.curve import draw_curve
from gptcli.figures import count_text, duration_text, loss_error_text, loss_text, promise_text, visible

if TYPE_CHECKING:
    from gptcli.history import History
    from gptcli.run_facts import RunFacts

STATE_STYLES = {"running": "bold green", "done": "", "stopped": "yellow", "failed": "bold red"}
HEADINGS = ("run", "state", "step", "val_loss", "bits/byte", "tokens/s", "parameters", "corpus", "profile", "changed")
RIGHT = {"step", "val_loss", "bits/byte", "tokens/s", "parameters", "changed"}
# What a narrow window shows in a second line, without headings.
SECOND = {"tokens/s", "parameters", "corpus", "profile"}
CURVE_WIDTH, CURVE_HEIGHT = 76, 13
SAMPLE_LINES = 12


@dataclass(frozen=True, slots=True)
class Problem:
    """A run that cannot be read, and why."""

    run: str
    folder: str
    text: str


def list_lines(rows: Sequence[RunFacts | Problem], width: int | None) -> list[Text]:
    """Lay a list of runs out for a window of ``width`` cells: a line each, two or a heap; no heading for ``None``."""
    if not rows:
        return []
    cells = [_cells(row) for row in rows if not isinstance(row, Problem)]
    headings = HEADINGS if width is None or _line_width(cells, HEADINGS) <= width else _first_line()
    if width is not None and _line_width(cells, headings) > width:
        return [line for row in rows for line in _heap(row, width)]
    widths = _widths(cells, headings)
    lines = (
        [] if width is None or not cells else [Text(_line(dict(zip(HEADINGS, HEADINGS, strict=True)), widths), "dim")]
    )
    for row in rows:
        if isinstance(row, Problem):
            lines.append(_problem_line(row))
            continue
        cell = _cells(row)
        line = Text(_line(cell, widths))
        line.stylize("bold", 0, len(cell["run"]))
        line.highlight_words([f" {row.state}"], STATE_STYLES[row.state])
        lines.append(line)
        if headings is not HEADINGS:
            lines.append(Text(f"  {_second_line(row, cell)}", "dim"))
    return lines


def _heap(row: RunFacts | Problem, width: int) -> Iterator[Text]:
    """Yield the lines of a run where no column has room: its name, and below it all that the columns would say."""
    if isinstance(row, Problem):
        yield _problem_line(row)
        return
    cell = _cells(row)
    yield Text(cell["run"], "bold")
    named = (f"{heading} {cell[heading]}" for heading in ("step", "val_loss", "bits/byte"))
    changed = [f"changed {cell['changed']} ago"] if cell["changed"] else []
    for text, style in ((", ".join((cell["state"], *named, *changed)), ""), (_second_line(row, cell), "dim")):
        yield from (Text(f"  {line}", style) for line in wrapped(text, width - 2))


def _problem_line(row: Problem) -> Text:
    return Text.assemble(visible(row.run), "  ", (" ".join(visible(row.text).split()), "red"))


def _first_line() -> tuple[str, ...]:
    return tuple(heading for heading in HEADINGS if heading not in SECOND)


def _second_line(row: RunFacts, cell: dict[str, str]) -> str:
    pace = f", {cell['tokens/s']} tokens/s" if cell["tokens/s"] else ""
    named = f", profile {cell['profile']}" if row.profile_name else ""
    return f"corpus {cell['corpus']}{named}, {cell['parameters']} parameters{pace}"


def _cells(row: RunFacts) -> dict[str, str]:
    values = (
        row.run,
        row.state,
        f"{row.step}/{row.max_steps}",
        loss_text(row.best_val_loss) or "-",
        "-" if row.bits_per_byte is None else f"{row.bits_per_byte:.3f}",
        count_text(row.tokens_per_second) if row.tokens_per_second else "",
        count_text(row.n_params),
        row.corpus or "",
        row.profile_name or "",
        age_text(row.changed_at),
    )
    return {heading: visible(value) for heading, value in zip(HEADINGS, values, strict=True)}


def _widths(cells: Iterable[dict[str, str]], headings: Iterable[str]) -> dict[str, int]:
    return {heading: max(len(heading), *(cell_len(cell[heading]) for cell in cells), 0) for heading in headings}


def _line_width(cells: Iterable[dict[str, str]], headings: Sequence[str]) -> int:
    return sum(_widths(cells, headings).values()) + 2 * (len(headings) - 1)


def _line(cell: dict[str, str], widths: dict[str, int]) -> str:
    parts = (
        cell[heading].rjust(width) if heading in RIGHT else padded(cell[heading], width)
        for heading, width in widths.items()
    )
    return "  ".join(parts).rstrip()


def age_text(changed_at: str, now: dt.datetime | None = None) -> str:
    """Say how long ago a moment in UTC was, in one unit: 5s, 12m, 3h, 9d; nothing for what is no time."""
    try:
        seconds = ((now or dt.datetime.now(dt.timezone.utc)) - dt.datetime.fromisoformat(changed_at)).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def page_facts(facts: RunFacts, page: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of one run as pairs of label and text, the next command last."""
    shape = page["model"]
    lines = [
        ("run", f"{facts.folder}, {_state_text(facts)}"),
        ("corpus", f"{facts.corpus}, {page['train_tokens']:,} train and {page['val_tokens']:,} val tokens"),
        ("tokenizer", f"{facts.tokenizer}, {shape['vocab_size']:,} tokens"),
        *([("from", _from_text(facts, page))] if facts.base else []),
        (
            "model",
            f"{shape['family']}, {count_text(facts.n_params)} parameters{_adapters(page)}: {_shape_text(shape)}",
        ),
        ("steps", _steps_text(facts, page)),
        ("best", _best_text(facts)),
    ]
    if page["expected_val_loss"] is not None:
        promise = promise_text(page["expected_val_loss"], facts.best_val_loss, ended=facts.state == "done")
        lines.append(("promised", promise))
    if page["children"]:
        lines.append(("went into", ", ".join(page["children"])))
    if page["checkpoints"]:
        lines.append(("checkpoints", ", ".join(map(_checkpoint_text, page["checkpoints"]))))
    if facts.failure:
        lines.append(("failed", facts.failure))
    if facts.damaged_lines:
        lines.append(("damaged", _damage_text(facts.damaged_lines)))
    return [*lines, ("next", page["next"])]


def _shape_text(shape: dict[str, Any]) -> str:
    return ", ".join(f"{key} {shape[key]}" for key in ("n_layer", "n_head", "n_embd", "block_size"))


def _state_text(facts: RunFacts) -> str:
    age = age_text(facts.changed_at)
    return facts.state if facts.state == "running" else f"{facts.state} {age} ago"


def _from_text(facts: RunFacts, page: dict[str, Any]) -> str:
    step = page["parent_step"]
    return f"{facts.base}" + (f", the run {page['parent']}" + (f" at step {step:,}" if step else "")
                              if page["parent"] and page["parent"] != facts.base else
                              f", its step {step:,}" if step else "")  # fmt: skip


def _adapters(page: dict[str, Any]) -> str:
    return f", adapters of rank {page['lora_rank']} trained" if page["lora_rank"] else ""


def _steps_text(facts: RunFacts, page: dict[str, Any]) -> str:
    pace = f", {count_text(facts.tokens_per_second)} tokens/s" if facts.tokens_per_second else ""
    seen = f", {count_text(facts.tokens_seen)} tokens in {duration_text(facts.seconds)}" if facts.tokens_seen else ""
    latest = [checkpoint["step"] for checkpoint in page["checkpoints"] if checkpoint["latest"]]
    goes_on = f", goes on after step {latest[0]:,}" if latest and facts.state in ("stopped", "failed") else ""
    return f"{facts.step:,} of {facts.max_steps:,}{seen}{pace}{goes_on}"


def _best_text(facts: RunFacts) -> str:
    if facts.best_val_loss is None:
        return "not evaluated yet"
    bits = "" if facts.bits_per_byte is None else f", {facts.bits_per_byte:.3f} bits/byte"
    loss = loss_error_text(facts.best_val_loss, facts.best_val_loss_stderr)
    return f"val_loss {loss} at step {facts.best_step:,}{bits}"


def _checkpoint_text(checkpoint: dict[str, Any]) -> str:
    marks = " and ".join(which for which in ("best", "latest") if checkpoint[which])
    return f"step {checkpoint['step']:,}" + (f" ({marks})" if marks else "")


def _damage_text(lines: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, lines[:5]))
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{more} of metrics.jsonl cannot be read"


def curve_lines(history: History, width: int, height: int = CURVE_HEIGHT) -> list[Text]:
    """Draw the losses of a run, with a line that says which mark is which; nothing before the first loss."""
    train = [(report.step, report.train_loss) for report in history.reports if report.train_loss is not None]
    val = [(evaluation.step, evaluation.val_loss) for evaluation in history.evaluations]
    dumb = os.environ.get("TERM") == "dumb"
    rows = draw_curve(train, val, width=width, height=height, ascii_only=dumb)
    if len(train) + len(val) < 2 or not rows:
        return []
    key = f"{'.' if dumb else '⠤'} train_loss   o val_loss   * best val_loss"
    lines = [Text(row) for row in rows]
    for line in lines[:-1]:
        line.highlight_regex(r"(?<=[│|]).*", "cyan")
        line.highlight_regex("o", "yellow")
        line.highlight_regex(r"\*", "bold green")
    return [Text(key, "dim"), *lines]


def sample_lines(prompt: str, text: str, step: int) -> list[Text]:
    """Return the last sample of a run, its first lines where it is long."""
    shown = visible(f"{prompt}{text}").rstrip().splitlines()
    more = [Text("…", "dim")] if len(shown) > SAMPLE_LINES else []
    return [Text(f"-- sample at step {step:,} --", "dim"), *map(Text, shown[:SAMPLE_LINES]), *more]
