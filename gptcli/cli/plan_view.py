"""How a plan and a bench look on stdout: a label and what there is to say about it, a line each.

Makes rows of facts; reads no files, and knows no options.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from gptcli.cli.common import emit, emit_columns
from gptcli.figures import bytes_text, count_text, duration_text, visible
from gptcli.sizing import times_text

CHINCHILLA = 20
MEMORY = ("weights", "gradients", "optimizer", "activations", "logits", "other")
Row = tuple[str, str]


def show_plan(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print the facts of a plan, those that ask for the clock where there are any."""
    _show(facts, plan_rows(facts), as_json=as_json)


def show_bench(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print what a bench has measured."""
    _show(facts, bench_rows(facts), as_json=as_json)


def _show(facts: dict[str, Any], rows: Iterator[Row], *, as_json: bool) -> None:
    if as_json:
        emit(facts, "", as_json=True)
        return
    styles = {"warning": "bold red", "unknown": "yellow"}
    emit_columns([(Text(label, "dim"), Text(visible(said), styles.get(label, ""))) for label, said in rows])


def plan_rows(facts: dict[str, Any]) -> Iterator[Row]:
    """Yield the lines of a plan: what the run is, the memory it takes, how long it lasts, and what is wrong with it."""
    model, train = facts["profile"]["model"], facts["profile"]["train"]
    shape = ", ".join(f"{key} {model[key]}" for key in ("n_layer", "n_head", "n_embd", "block_size"))
    yield "model", f"{model['family']}: {shape}, vocab_size {facts['vocab_size']:,}"
    yield "parameters", f"{facts['n_params']:,}"
    yield "arithmetic", f"{count_text(facts['flops_per_token'])} FLOPs a token, {facts['training_flops']:.3g} in all"
    yield "corpus", _corpus(facts)
    pieces = f"batch_size {train['batch_size']} x grad_accum_steps {train['grad_accum_steps']}"
    yield "tokens_per_step", f"{facts['tokens_per_step']:,}: {pieces} x block_size {model['block_size']}"
    seen = f"{facts['max_steps']:,} steps see {count_text(facts['tokens_seen'])} tokens"
    yield "max_steps", seen if facts["epochs"] is None else f"{seen}, the text {times_text(facts['epochs'])}"
    share = facts["tokens_per_parameter"]
    seen = f"{share:,.0f}" if share >= CHINCHILLA else f"{share:.2g}"
    yield "tokens a parameter", f"{seen}; {CHINCHILLA} are the best use of arithmetic (Chinchilla)"
    yield "device", f"{facts['device']} ({facts['device_reason']})"
    yield from (("memory" if part == MEMORY[0] else "", _part(facts, part)) for part in MEMORY)
    yield "peak", _peak(facts)
    yield from _forecast_rows(facts)
    yield from (("unknown", sentence) for sentence in facts["unknown"])
    yield from (("warning", sentence) for sentence in facts.get("warnings", ()))


def _corpus(facts: dict[str, Any]) -> str:
    if facts["train_tokens"] is None:
        return f"{facts['corpus']}, not prepared; tokenizer {facts['tokenizer']}"
    return f"{facts['corpus']}, {facts['train_tokens']:,} train tokens of {facts['tokenizer']}"


def _part(facts: dict[str, Any], part: str) -> str:
    return f"{bytes_text(facts[f'memory_{part}']):>9}  {part}"


def _peak(facts: dict[str, Any]) -> str:
    """The most at any one time; the parts are not all there at the same time."""
    have = facts["machine_memory"] or facts["device_memory"]
    return f"{bytes_text(facts['memory_peak']):>9}" + ("" if have is None else f"  of {bytes_text(have)}")


def _forecast_rows(facts: dict[str, Any]) -> Iterator[Row]:
    """Yield what ``train --dry-run`` does not ask for: the largest batch, and the time."""
    if "seconds" not in facts:
        return
    batch = facts["largest_batch_size"]
    unknown = "not known, for the device's memory is not: --memory 8GB"
    rows = "more than a million" if batch and batch > 1_000_000 else f"{batch:,}" if batch else "not even 1 fits"
    fits = f"{rows}, with a tenth of the memory left free" if batch else rows
    yield "largest batch_size", unknown if batch is None else fits
    if facts["seconds"] is None:
        yield "time", facts["time_source"]
        return
    step, pace = facts["step_seconds"], facts["tokens_per_second"]
    yield "step", f"{step_text(step)}, {count_text(pace)} tokens/s"
    yield "time", f"{duration_text(facts['seconds'])}: {facts['time_source']}"


def step_text(seconds: float) -> str:
    """Return the time of a step: 12.3 ms, 1.23 s."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:,.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def bench_rows(facts: dict[str, Any]) -> Iterator[Row]:
    """Yield the lines of a bench: the pace, where the time goes, and the memory."""
    yield "device", f"{facts['device']} ({facts['device_reason']})"
    yield "parameters", f"{facts['n_params']:,}"
    count = facts["n_steps"]
    timed = f"{count} step{'' if count == 1 else 's'} timed"
    yield "step", f"{step_text(facts['step_seconds'])}, {facts['steps_per_second']:.3g} a second ({timed})"
    yield "tokens/s", f"{facts['tokens_per_second']:,.0f}"
    yield "mfu", "-" if facts["mfu"] is None else f"{facts['mfu']:.1%}"
    whole = sum(facts["parts"].values())
    for part, seconds in facts["parts"].items():
        yield part, f"{step_text(seconds):>9}  {seconds / whole:6.1%}{_once(facts, part)}"
    measured = "not known here" if facts["memory_measured"] is None else bytes_text(facts["memory_measured"])
    yield "peak memory", f"{measured}; planned {bytes_text(facts['memory_planned'])}"


def _once(facts: dict[str, Any], part: str) -> str:
    """Say of what happens now and then how long it takes once."""
    train = facts["profile"]["train"]
    seconds, interval = {
        "eval": (facts["evaluation_seconds"], train["eval_interval"]),
        "save": (facts["save_seconds"], train["save_interval"]),
    }.get(part, (0.0, 0))
    return f"  {step_text(seconds)} every {interval:,} steps" if interval else ""
