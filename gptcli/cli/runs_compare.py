"""``gptcli runs compare``: runs side by side, and what each of them makes of one prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.common import (
    DeviceOption,
    JsonOption,
    QuietOption,
    emit,
    emit_lines,
    importing,
    note,
    reports_errors,
    silent,
    stdout_width,
)
from gptcli.cli.completion import complete_runs

if TYPE_CHECKING:
    from rich.text import Text

    from gptcli.comparison import Comparison, Loss
    from gptcli.history import Evaluation
    from gptcli.run_facts import RunFacts

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Rows of losses at equal steps, and at equal tokens or seconds; more of them are thinned out, the last one stays.
SHOWN_STEPS, SHOWN_COSTS = 12, 5
MAX_CELL = 24


@reports_errors
def compare_command(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", autocompletion=complete_runs, help="Two runs or more.")
    ],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What each goes on with; else the first one's own prompt.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=0, metavar="N", help="Tokens each writes; 0 for none.")] = 60,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put runs side by side: what differs in their profiles, losses at equal steps, tokens, time, and a text of each.

    Runs in different tokens are compared in bits per byte; of runs that were scored on different texts none is best.

    Example: gptcli runs compare first second
    """
    from gptcli.comparison import compare_runs
    from gptcli.runs import find_run

    if not 2 <= len(runs) <= len(LETTERS):
        raise typer.BadParameter(f"Name two runs or more, up to {len(LETTERS)}; gptcli runs list shows them.")
    found = [find_run(name) for name in runs]
    comparison = compare_runs(found)
    if not as_json:
        emit_lines(_lines(comparison, stdout_width()))
    begin = found[0].profile().sample.prompt if prompt is None else prompt
    say = silent if quiet else note
    texts = list(_texts([str(run.path) for run in found], begin, max_new_tokens, device, say)) if max_new_tokens else []
    if as_json:
        emit(_as_json(comparison, begin, texts), "", as_json=True)
    elif texts:
        emit_lines(_text_lines(begin, texts))


def _texts(
    names: Sequence[str], prompt: str, length: int, device: str | None, say: Callable[[str], None]
) -> Iterator[str | None]:
    """Yield what each run makes of the prompt with its own settings; None where it cannot, and say why."""
    with importing():
        from gptcli.errors import GptcliError
        from gptcli.reading import draw_pieces, read_content
        from gptcli.writing import open_writing_model

    def write(name: str) -> str | None:
        try:
            model = open_writing_model(name, device=device, on_notice=say)
            config = model.defaults.model_copy(update={"max_new_tokens": length, "num_samples": 1})
            pieces = draw_pieces(model, prompt, read_content(model, prompt), config)
            return "".join(piece.text for piece in pieces)
        except GptcliError as error:
            say(f"{name} writes nothing: {error.message}")
            return None

    yield from map(write, names)


def _lines(comparison: Comparison, width: int | None) -> list[Text]:
    from rich.text import Text

    from gptcli.figures import count_text, visible

    facts = comparison.facts
    lines = [
        Text.assemble((letter, "bold"), f"  {visible(f.run)}, {f.state}, {count_text(f.n_params)} parameters")
        for letter, f in zip(LETTERS, facts, strict=False)
    ]
    tables = [(title, rows) for title, rows in _tables(comparison) if rows]
    label = max(len(name) for title, rows in tables for name in (title, *(row[0] for row in rows)))
    for title, rows in tables:
        lines += [Text(""), *_table(title, rows, label, len(facts), width)]
    for warning in _warnings(comparison):
        lines += [Text(""), Text(warning, "yellow")]
    return lines


def _warnings(comparison: Comparison) -> list[str]:
    if comparison.scored_apart:
        return [f"They were scored on {comparison.scored_apart}, so their losses tell little about each other."]
    return [] if comparison.same_tokens else ["Their tokens differ: val_loss does not compare, bits per byte do."]


LossRows = Sequence[tuple[float, Sequence["Evaluation | Loss | None"]]]
Row = tuple[str, tuple[str, ...], int | None]
"""A label, a cell for each run, and which cell is the best."""


def _tables(comparison: Comparison) -> Iterator[tuple[str, list[Row]]]:
    from gptcli.figures import count_text, duration_text, loss_text

    def row(label: str, of: Callable[[RunFacts], float | None], text: Callable[[float], str], better: int = 0) -> Row:
        values = [of(facts) for facts in comparison.facts]
        cells = tuple("-" if value is None else text(value) for value in values)
        return label, cells, _best(values, better)

    lower = 0 if comparison.scored_apart else -1
    yield "what differs", [(key, tuple(map(_value, values)), None) for key, values in comparison.differences]
    yield (
        "how far",
        [
            row("best val_loss", lambda f: f.best_val_loss, loss_text, lower if comparison.same_tokens else 0),
            row("at step", lambda f: f.best_step, lambda step: f"{step:,.0f}"),
            row("bits/byte", lambda f: f.bits_per_byte, lambda bits: f"{bits:.3f}", lower),
            row("tokens seen", lambda f: f.tokens_seen, count_text),
            row("time", lambda f: f.seconds, duration_text),
            row("tokens/s", lambda f: f.tokens_per_second, count_text, 1),
        ],
    )
    unit = "val_loss" if comparison.same_tokens else "bits/byte"

    def losses(places: LossRows, most: int, text: Callable[[float], str]) -> Iterator[Row]:
        for place, found in _thinned(places, most):
            values = [e and (e.val_loss if comparison.same_tokens else e.bits_per_byte) for e in found]
            yield text(place), tuple(loss_text(value) or "-" for value in values), _best(values, lower)

    yield f"{unit} at step", list(losses(comparison.losses, SHOWN_STEPS, lambda step: f"{step:,.0f}"))
    yield f"{unit} after tokens", list(losses(comparison.at_tokens, SHOWN_COSTS, count_text))
    yield f"{unit} after", list(losses(comparison.at_seconds, SHOWN_COSTS, _time_text))


def _time_text(seconds: float) -> str:
    from gptcli.figures import duration_text

    return f"{seconds:.1f}s" if seconds < 10 else duration_text(seconds)


def _thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many rows, evenly, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _best(values: Sequence[float | None], sign: int) -> int | None:
    """Return the place of the single best value: the lowest where ``sign`` is -1, the highest where it is 1.

    None where there is none, or where ``sign`` is 0.
    """
    known = [sign * value for value in values if value is not None]
    if len(known) < 2 or known.count(max(known)) > 1:
        return None
    return next(i for i, value in enumerate(values) if value is not None and sign * value == max(known))


def _value(value: object) -> str:
    text = "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"


def _table(title: str, rows: Sequence[Row], label: int, n_runs: int, width: int | None) -> list[Text]:
    """Lay a table out below the letters of the runs; a narrow window gets as many runs a block as fit."""
    from rich.text import Text

    from gptcli.figures import visible

    cell = max(10, *(len(text) for row in rows for text in row[1]))
    fit = n_runs if width is None else min(n_runs, (width - label) // (cell + 2))
    if fit < 1:
        return [Text(title, "dim"), *(line for row in rows for line in _heap(*row))]
    lines = list[Text]()
    for first in range(0, n_runs, fit):
        places = range(first, min(n_runs, first + fit))
        lines.append(Text(f"{title:<{label}}" + "".join(f"  {LETTERS[i]:>{cell}}" for i in places), "dim"))
        for name, cells, best in rows:
            line = Text(f"{visible(name):<{label}}")
            for i in places:
                line.append("  ").append(f"{visible(cells[i]):>{cell}}", "bold green" if i == best else "")
            lines.append(line)
    return lines


def _heap(name: str, cells: Sequence[str], best: int | None) -> Iterator[Text]:
    """Yield a row where no column has room: its label, and a line for each run below it."""
    from rich.text import Text

    from gptcli.figures import visible

    yield Text(visible(name))
    for i, cell in enumerate(cells):
        yield Text.assemble(f"  {LETTERS[i]}  ", (visible(cell), "bold green" if i == best else ""))


def _text_lines(prompt: str, texts: Sequence[str | None]) -> list[Text]:
    from rich.text import Text

    from gptcli.figures import visible

    lines = list[Text]()
    for letter, text in zip(LETTERS, texts, strict=False):
        if text is not None:
            lines += [Text(""), Text(f"-- {letter} writes --", "dim")]
            lines.append(Text.assemble((visible(prompt), "bold"), visible(text)))
    return lines


def _as_json(comparison: Comparison, prompt: str, texts: Sequence[str | None]) -> dict[str, Any]:
    return {
        "runs": [facts.to_json() for facts in comparison.facts],
        "same_tokens": comparison.same_tokens,
        "same_val": not comparison.scored_apart,
        "differences": [{"key": key, "values": values} for key, values in comparison.differences],
        "losses": _json_losses("step", comparison.losses),
        "losses_at_tokens": _json_losses("tokens_seen", comparison.at_tokens),
        "losses_at_seconds": _json_losses("seconds", comparison.at_seconds),
        "prompt": prompt,
        "samples": texts,
    }


def _json_losses(place: str, rows: LossRows) -> list[dict[str, Any]]:
    return [
        {
            place: at,
            "val_loss": [e.val_loss if e else None for e in found],
            "bits_per_byte": [e.bits_per_byte if e else None for e in found],
        }
        for at, found in rows
    ]
