"""What a person sees: figures, rows that are whole at 80 columns, the live table, and hostile text made inert."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

import pytest
from rich.console import Console

from gptcli.display import (
    TrainView,
    header_facts,
    next_command,
    overfit_text,
    print_facts,
    summary_facts,
)
from gptcli.events import (
    CheckpointSaved,
    Evaluated,
    Notice,
    RunFinished,
    RunStarted,
    SampleDrawn,
    StepLogged,
    TrainEvent,
)

HOSTILE = "\x1b]52;c;eA==\x07\x1b[2J[bold red]\u202e\u2028\x9b\x7f:smile:"


def started(**changes: object) -> RunStarted:
    event = RunStarted(
        run="r", folder="runs/r", corpus="python-docs", tokenizer="bpe:1024", train_tokens=1_003_854,
        val_tokens=111_540, family="modern", n_params=895_248, n_layer=3, n_head=3, n_embd=144, block_size=128,
        vocab_size=1024, tokens_per_step=2048, max_steps=1000, step=0, device="cpu",
        device_reason="no GPU found, 2 threads; bfloat16 in hardware", expected_val_loss=3.1,
        expected_minutes=1.0, best_val_loss=None,
    )  # fmt: skip
    return dataclasses.replace(event, **changes)  # type: ignore[arg-type]


def logged(step: int, train_loss: float = 2.5) -> StepLogged:
    return StepLogged(
        step=step, tokens_seen=2048 * step, epoch=0.1, train_loss=train_loss, learning_rate=3e-3, grad_norm=1.0,
        tokens_per_second=33_333.0, mfu=None, skipped_steps=0, elapsed=step / 10, remaining=100 - step / 10,
    )  # fmt: skip


def evaluated(step: int, val_loss: float, *, best: bool = True) -> Evaluated:
    return Evaluated(
        step=step, tokens_seen=2048 * step, val_loss=val_loss, val_loss_stderr=0.0123, perplexity=12.0,
        bits_per_byte=2.345, n_tokens=1000, best=best, elapsed=step / 10, remaining=100 - step / 10,
    )  # fmt: skip


def finished(**changes: object) -> RunFinished:
    event = RunFinished(
        reason="completed", run="r", step=1000, max_steps=1000, tokens_seen=2_048_000, epoch=2.0, best_val_loss=3.0,
        best_val_loss_stderr=0.02, best_bits_per_byte=2.3, best_step=900, final_val_loss=3.01, final_train_loss=2.0,
        tokens_per_second=33_333.0, expected_val_loss=3.1, elapsed=65.0,
    )  # fmt: skip
    return dataclasses.replace(event, **changes)  # type: ignore[arg-type]


def run_of(steps: int, every: int = 10, eval_every: int = 100) -> list[TrainEvent]:
    events: list[TrainEvent] = [started(max_steps=steps)]
    for step in range(every, steps + 1, every):
        events.append(logged(step, 5.0 - step / steps))
        if step % eval_every == 0:
            events.append(evaluated(step, 5.0 - step / steps, best=True))
            events.append(CheckpointSaved(step, f"runs/r/checkpoints/step_{step}", best=True))
    return [*events, finished(step=steps, max_steps=steps)]


def shown(events: list[TrainEvent], *, terminal: bool = False, width: int = 80, height: int = 24) -> str:
    """Return what a console of this size gets; a terminal gets no colours, only what Live needs."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=height, markup=False, highlight=False, emoji=False, no_color=True,
        force_terminal=terminal, _environ={"TERM": "xterm"},
    )  # fmt: skip
    with TrainView(console) as view:
        for event in events:
            view.show(event)
    return file.getvalue()


def screen(output: str) -> str:
    """Return the lines a terminal is left with after cursor movements up and erased lines, without styles."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", output):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            pass
        elif part.startswith("\x1b["):
            if part.endswith("A"):
                row -= int(part[2:-1] or 1)
            elif part == "\x1b[2K":
                lines[row] = ""
        else:
            lines[row] += part
    return "\n".join(line.rstrip() for line in lines)


def test_off_a_terminal_rows_come_as_they_happen_and_plain() -> None:
    file = io.StringIO()
    view = TrainView(Console(file=file, width=80))
    for event, words in (
        (started(), "corpus  python-docs, 1,003,854 train and 111,540 val tokens"),
        (logged(10), "     10     2.5000"),
        (evaluated(10, 2.4), "2.4000 \u00b1 0.0123*  2.345"),
        (Notice(10, "torch.compile does not work here"), "note: torch.compile does not work here"),
        (SampleDrawn(10, "The ", "for loop"), "The for loop"),
        (finished(), "next  gptcli sample r --prompt "),
    ):
        view.show(event)
        assert words in file.getvalue()
    assert "\x1b" not in file.getvalue()
    rows = [line for line in file.getvalue().splitlines() if re.match(r" +10 ", line)]
    assert [len(line) for line in rows] == [79, 79]


def test_off_a_terminal_the_report_of_an_evaluated_step_is_one_row_with_its_evaluation() -> None:
    events: list[TrainEvent] = [started(eval_interval=20, max_steps=50), logged(10, 2.6), logged(20, 2.5)]
    events += [evaluated(20, 2.4), logged(40, 2.3), Notice(40, "stopped before its evaluation"), logged(50, 2.2)]
    lines = shown(events).splitlines()
    rows = [line.split()[:3] for line in lines if re.match(r" +\d0 ", line)]
    assert rows == [["10", "2.6000", "3.00e-03"], ["20", "2.5000", "2.4000"], ["40", "2.3000", "3.00e-03"],
                    ["50", "2.2000", "3.00e-03"]]  # fmt: skip
    assert [line[:2] for line in lines[-3:]] == ["  ", "no", "  "], "in their order, the last one at the end"


def test_off_a_terminal_no_line_is_wrapped() -> None:
    output = shown([started(folder="runs/" + "long-" * 30), logged(10), finished()], width=40)
    assert f"runs/{'long-' * 30}\n" in output
    assert len(max(output.splitlines(), key=len)) > 150


def test_header_says_what_is_trained_on_what_and_why_there() -> None:
    facts = dict(header_facts(started()))
    assert facts["model"].startswith("modern, 895k parameters: n_layer 3")
    assert facts["steps"] == "1,000 of 2,048 tokens each"
    assert facts["device"].startswith("cpu (no GPU found")
    assert facts["run"] == "runs/r"
    assert facts["promises"].startswith("val_loss 3.1 in 1m 00s")
    resumed = dict(header_facts(started(step=500, best_val_loss=3.2)))
    assert resumed["resumes"] == "after step 500, best val_loss so far 3.2000"
    assert "complete" in dict(header_facts(started(step=1000)))[""]
    assert "evaluation of the last one" in dict(header_facts(started(step=1000, owes_evaluation=True)))[""]


def test_header_of_a_finetune_names_its_base_and_what_is_trained() -> None:
    facts = dict(header_facts(started(base="gpt2-large", trained_params=8_847_360)))
    assert facts["from"] == "gpt2-large"
    assert facts["model"].startswith("modern, 895k parameters, 8.85M trained: n_layer 3")
    assert list(facts)[:4] == ["corpus", "tokenizer", "from", "model"]
    assert "gptcli finetune" in shown([started(base="gpt2-large")])
    assert "from" not in dict(header_facts(started()))


@pytest.mark.parametrize("terminal", [False, True])
def test_the_base_is_the_first_row_without_a_loss_of_training(terminal: bool) -> None:
    events: list[TrainEvent] = [
        started(base="gpt2"),
        dataclasses.replace(evaluated(0, 3.5), remaining=None),
        logged(10),
        evaluated(10, 3.4),
        finished(base_val_loss=3.5),
    ]
    output = shown(events, terminal=terminal)
    rows = [line for line in screen(output).splitlines() if re.match(r" +0 +3\.5", line)]
    assert [row.split() for row in rows] == [
        ["0", "3.5000", "\u00b1", "0.0123*" if not terminal else "0.0123", "2.345", "0s"]
    ]
    assert "val_loss 3.5000 before any training: 0.5000 lower now" in output


def test_the_time_left_is_not_told_before_there_is_a_pace() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, no_color=True, _environ={"TERM": "xterm"})
    with TrainView(console) as view:
        view.show(started(base="gpt2"))
        view.show(dataclasses.replace(evaluated(0, 3.5), remaining=None))
        assert re.search(r"0% .*step 0/1,000, warming up", screen(file.getvalue()))
        view.show(evaluated(100, 3.4))
        assert re.search(r"10% .*step 100/1,000, 1m \d\ds left", screen(file.getvalue()))


def test_a_run_that_stopped_early_names_its_best_step_and_how_to_go_on() -> None:
    output = shown([started(), finished(reason="stopped_early", step=950, best_val_loss=3.15)])
    assert "r: stopped early after 1m 05s" in output
    assert "best  val_loss 3.1500 \u00b1 0.0200 at step 900" in output
    assert "no better val_loss since step 900" in output
    assert "gptcli train --resume --run r --set train.patience=0" in output
    assert "promised  val_loss 3.1: not reached, missed by 0.0500" in output
    assert output.rstrip().endswith("next  gptcli sample r")
    again = dict(header_facts(started(step=950, stopped_early=True)))
    assert again[""] == "This run ended early, by train.patience. --resume --set train.patience=0 goes on."
    assert "step 950/1,000" not in shown([started(step=950, stopped_early=True), finished()], terminal=True)


def test_a_finetune_that_was_never_better_than_its_base_is_told_so() -> None:
    worse = finished(best_step=0, best_val_loss=3.5, final_val_loss=4.0, base_val_loss=3.5)
    assert overfit_text(worse, None).startswith("perhaps, val_loss rose to 4.0000 and was never below the base's")
    facts = dict(summary_facts(worse, None))
    assert facts["base"] == "val_loss 3.5000 before any training"
    assert facts["warning"] == (
        "the best checkpoint is the model as it came; finetuning did not lower val_loss. The last one: "
        "gptcli sample r --checkpoint latest"
    )
    assert "warning" not in dict(summary_facts(finished(best_step=0, step=0, base_val_loss=3.5), None))
    assert "warning" not in dict(summary_facts(finished(base_val_loss=3.5), None))
    early = dataclasses.replace(worse, reason="interrupted", final_val_loss=3.5)
    assert "warning" not in dict(summary_facts(early, None)), "nothing was evaluated since"


def test_a_run_tuned_on_conversations_is_talked_to_next() -> None:
    assert next_command(finished(chat=True), "The ") == 'gptcli sample r --chat --prompt "..."'
    assert next_command(finished(chat=True, reason="interrupted")) == "gptcli train --resume --run r"
    worse = dict(summary_facts(finished(chat=True, best_step=0, base_val_loss=3.0), None))
    assert worse["warning"].endswith('gptcli sample r --checkpoint latest --chat --prompt "..."')


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (40, 10), (200, 60), (20, 6)])
def test_live_table_is_never_taller_or_wider_than_the_terminal(width: int, height: int) -> None:
    output = shown(run_of(2000), terminal=True, width=width, height=height)
    moves = [int(n) for n in re.findall(r"\x1b\[(\d+)A", output)]
    frames = re.findall(r"(?:\x1b\[1A\x1b\[2K)+", output)
    tallest = max([*moves, *(frame.count("\x1b[1A") + 1 for frame in frames)])
    assert 2 < tallest <= height
    assert max(len(line) for line in screen(output).splitlines()) <= width


def test_live_table_leaves_its_last_rows_once_and_no_progress_bar() -> None:
    left = screen(shown(run_of(1000), terminal=True))
    assert left.count("train_loss") == 1
    assert len(re.findall(r"^ +\d+ .*\d\.\d{4} \u00b1 0\.0123", left, re.MULTILINE)) == 10
    assert "left" not in left.split("train_loss")[1].replace("kept", "")
    assert left.index("   1000 ") < left.index("r: done after 1m 05s")


def test_live_frame_has_a_progress_bar_with_the_time_left() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, no_color=True, _environ={"TERM": "xterm"})
    with TrainView(console) as view:
        view.show(started())
        view.show(logged(250))
        before = screen(file.getvalue())
        view.stopping("Finishing the step, then saving.")
        view.show(logged(260))
        now = screen(file.getvalue())
    assert re.search(r"25% .*step 250/1,000, 1m 1[45]s left", before)
    assert "Finishing the step" not in before
    assert "step 250/1,000" not in now
    assert re.search(r"26% .*step 260/1,000, 1m 1[34]s left", now)
    assert "Finishing the step, then saving." in now


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> list[str]:
        file = io.StringIO()
        console = Console(file=file, width=80, force_terminal=True, markup=False, color_system="standard")
        with TrainView(console) as view:
            for event in run_of(200):
                view.show(event)
        return re.findall(r"\x1b\[[0-9;]*3[0-7]m", file.getvalue())

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_is_inert(terminal: bool) -> None:
    events: list[TrainEvent] = [
        started(corpus=HOSTILE, folder=HOSTILE, device_reason=HOSTILE, tokenizer=HOSTILE),
        Notice(1, HOSTILE),
        SampleDrawn(1, HOSTILE, HOSTILE),
        finished(run=HOSTILE),
    ]
    output = shown(events, terminal=terminal, width=200)
    for mark in ("\x07", "\u202e", "\u2028", "\x9b", "\x7f", "\x1b]", "\x1b[2J"):
        assert mark not in output
    assert output.count("[bold red]") == 9
    assert output.count(":smile:") == 9
    assert ("\x1b" in output) == terminal


def test_promise_is_reached_or_missed_and_left_out_where_there_is_none() -> None:
    def promised(**changes: object) -> str:
        return dict(summary_facts(finished(expected_val_loss=3.1, **changes), None))["promised"]

    assert promised() == "val_loss 3.1: reached"
    assert promised(best_val_loss=3.15) == "val_loss 3.1: not reached, missed by 0.0500"
    assert promised(best_val_loss=3.15, reason="interrupted") == "val_loss 3.1: not yet, the run is not complete"
    assert "promised" not in dict(summary_facts(finished(expected_val_loss=None), None))


def test_overfitting_is_two_standard_errors_or_a_fiftieth_above_the_best_while_train_loss_fell() -> None:
    assert overfit_text(finished(), 2.2) == "no, val_loss stayed near its best of step 900"
    assert overfit_text(finished(final_val_loss=3.05), 2.2).startswith("yes, val_loss rose to 3.0500 after step 900")
    assert "the checkpoint of step 900 is the best" in overfit_text(finished(final_val_loss=3.05), 2.2)
    assert overfit_text(finished(final_val_loss=3.05), None).startswith("yes")
    few_windows = finished(best_val_loss=4.0153, best_val_loss_stderr=0.4, final_val_loss=4.5983)
    assert overfit_text(few_windows, 2.2).startswith("yes, val_loss rose to 4.5983")
    assert overfit_text(dataclasses.replace(few_windows, final_val_loss=4.05), 2.2).startswith("no, ")
    assert overfit_text(finished(final_val_loss=3.05), 1.9).startswith("no, val_loss and train_loss both rose")


def test_a_val_loss_that_still_fell_is_no_sign_that_more_steps_would_not_overfit() -> None:
    falling = finished(best_step=1000, final_val_loss=3.0)
    assert overfit_text(falling, 2.2) == "not yet, val_loss was still falling at the end"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"step": 400, "reason": "interrupted"}, "too early to say after 1 evaluation"),
        ({"step": 799, "reason": "interrupted"}, "too early to say after 1 evaluation"),
        ({"step": 1000, "max_steps": 1001, "reason": "interrupted"}, "too early to say after 2 evaluations"),
        ({"step": 400, "max_steps": 400, "base_val_loss": 3.5}, "too early to say after 2 evaluations"),
        ({"step": 1000}, "not yet, "),
        ({"step": 400, "final_val_loss": 3.05}, "yes, val_loss rose"),
    ],
)
def test_overfitting_is_too_early_to_tell_before_the_third_evaluation(changes: dict[str, Any], text: str) -> None:
    event = finished(**{"best_step": 400, "final_val_loss": 3.0, **changes})
    assert overfit_text(event, 2.2, 400).startswith(text)
    assert text in shown([started(eval_interval=400), event])


@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_of_a_resumed_run_is_that_of_all_its_parts(terminal: bool) -> None:
    events: list[TrainEvent] = [started(step=500, seconds_before=100.0), logged(510), evaluated(520, 2.4), finished()]
    left = screen(shown(events, terminal=terminal))
    assert re.search(r"^ +520 .* 2m 32s", left, re.MULTILINE)
    assert terminal or re.search(r"^ +510 .* 2m 31s", left, re.MULTILINE)
    assert "r: done after 2m 45s" in left


def test_interrupted_run_says_what_was_saved_and_how_to_go_on() -> None:
    output = shown([started(), finished(reason="interrupted", step=500)])
    assert "r: interrupted after 1m 05s" in output
    assert "saved  at step 500 of 1,000\n" in output
    assert "saved  " not in shown([started(), finished()])
    assert output.rstrip().endswith("next  gptcli train --resume --run r")
    assert "not evaluated yet" in shown([finished(best_val_loss=None, best_step=None)])


def test_next_command_repeats_only_a_prompt_that_a_shell_takes_as_it_is() -> None:
    assert '--prompt "The for"' in shown([SampleDrawn(1, "The for", ""), finished()])
    assert "--prompt" not in shown([SampleDrawn(1, "$(rm -r ~)\n", ""), finished()])


def test_facts_are_wrapped_beside_their_label_in_a_terminal_only() -> None:
    def printed(*, terminal: bool) -> str:
        file = io.StringIO()
        print_facts(Console(file=file, width=40, force_terminal=terminal, no_color=True), [("warning", "word " * 20)])
        return file.getvalue()

    assert printed(terminal=False) == f"warning  {'word ' * 20}\n"
    assert printed(terminal=True).count("\n") > 2
