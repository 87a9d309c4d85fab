"""No text from outside commands a terminal, wherever it is printed; a pipe gets it as it is."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gptcli.chat.events import Choices, Columns, Drawn, Ended, Given, Ranked, Said, Wrong
from gptcli.cli.app import _show_standing
from gptcli.cli.chat_view import ChatView
from gptcli.cli.common import emit, emit_lines, note, progress, show_error, write_stdout
from gptcli.cli.doctor import doctor_command
from gptcli.cli.runs import list_command
from gptcli.cli.runs_compare import _lines as comparison_lines
from gptcli.cli.runs_compare import _text_lines as comparison_text_lines
from gptcli.cli.runs_view import Problem, list_lines, page_facts, sample_lines
from gptcli.comparison import Comparison
from gptcli.display import TrainView, print_facts, stderr_console, stdout_console
from gptcli.events import Notice, RunFinished, RunStarted, SampleDrawn
from gptcli.run_facts import RunFacts
from gptcli.text_stream import open_text_stream, write_exactly

STRINGS = 100_000
# Anything that a terminal could take for a command, or that would turn the order of what is shown.
RAW = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# What rich itself writes: colours, and moving about in its own table. Nothing in POOL makes such a sequence.
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*A|2K|\?25[lh])|\r(?=\x1b\[(?:2K|1A))")
POOL = [
    *map(chr, [*range(9), 11, 12, 13, *range(14, 33), *range(0x7F, 0xA0)]),
    *map(chr, [0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xDFFF, 0xFEFF]),
    *(
        "\x1b]0;title\x07",
        "\x1bc",
        "\x1b(0",
        "\x1bP",
        "\x1b[6n",
        "\x1b[3;1H",
        "\x1b[38:5:1m",
        "\r",
        "\x9b",
        "a",
        "b c",
        "é",
        "中",
        "😀",
        "e\u0301",
        "\n",
        "[red]",
        "{}",
    ),
]
STARTED = RunStarted(
    run="r", folder="runs/r", corpus="c", tokenizer="char", train_tokens=1, val_tokens=1, family="modern", n_params=1,
    n_layer=1, n_head=1, n_embd=1, block_size=1, vocab_size=1, tokens_per_step=1, max_steps=0, step=0, device="cpu",
    device_reason="", expected_val_loss=None, expected_minutes=None, best_val_loss=None,
)  # fmt: skip
FINISHED = RunFinished(
    reason="completed", run="r", step=1, max_steps=1, tokens_seen=1, epoch=1.0, best_val_loss=1.0,
    best_val_loss_stderr=0.1, best_bits_per_byte=1.0, best_step=1, final_val_loss=1.0, final_train_loss=1.0,
    tokens_per_second=1.0, expected_val_loss=None, elapsed=1.0,
)  # fmt: skip


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        """Say so."""
        return True


def hostile(rng: random.Random) -> str:
    return "".join(rng.choices(POOL, k=rng.randint(1, 8)))


def show_chat(text: str) -> None:
    view = ChatView()
    for event in (Given(text), Drawn(text), Ended("length", 1, 0.1), Said(text), Wrong(text, text)):
        view.show(event)
    view.typed("> ", text)


def show_asides(text: str) -> None:
    view = ChatView()
    for event in (Columns(text, text, text, text), Ranked([(text, 0.5)]), Choices([text, text])):
        view.show(event)


def show_training(text: str) -> None:
    with TrainView(stderr_console()) as view:
        view.show(replace(STARTED, run=text, folder=text, corpus=text, tokenizer=text, device_reason=text, base=text))
        view.show(Notice(1, text))
        view.show(SampleDrawn(1, text, text))
        view.show(replace(FINISHED, run=text))


def show_progress(text: str) -> None:
    with progress() as going_on:
        going_on.show(text)
        going_on.note(text)


def show_stream(text: str) -> None:
    stream = open_text_stream()
    stream.given(text)
    stream.drawn(text)
    stream.end()


def facts_of(text: str) -> RunFacts:
    return RunFacts(
        run=text, folder=Path("runs", "r"), state="failed", corpus=text, tokenizer=text, profile_name=text, base=text,
        n_params=1, step=1, max_steps=2, tokens_seen=3, seconds=1.0, best_step=1, best_val_loss=1.0,
        best_val_loss_stderr=0.1, bits_per_byte=1.0, tokens_per_second=1.0, changed_at=text, failure=text,
        damaged_lines=(1,),
    )  # fmt: skip


def show_list(text: str) -> None:
    for width in (60, 200):
        emit_lines(list_lines([facts_of(text), Problem(text, text, text)], width))


def show_run(text: str) -> None:
    page = {
        "model": {"vocab_size": 1, "family": text, "n_layer": 1, "n_head": 1, "n_embd": 1, "block_size": 1},
        "train_tokens": 1, "val_tokens": 1, "parent": text, "parent_step": 1, "lora_rank": 1, "children": [text],
        "expected_val_loss": None, "checkpoints": [], "next": text,
    }  # fmt: skip
    print_facts(stdout_console(), page_facts(facts_of(text), page))
    emit_lines(sample_lines(text, text, 1))


def show_comparison(text: str) -> None:
    facts = (facts_of(text), facts_of("b"))
    differences = ((text, (text, "b")), ("data.corpus", (text, None)))
    comparison = Comparison(
        facts, differences, losses=(), at_tokens=(), at_seconds=(), same_tokens=True, scored_apart="different texts"
    )
    emit_lines(comparison_lines(comparison, 80))
    emit_lines(comparison_text_lines(text, [text, None]))


PLACES: tuple[Callable[[str], None], ...] = (
    lambda text: show_error(text, text),
    note,
    show_progress,
    lambda text: emit({"text": text}, text, as_json=False),
    lambda text: emit({text: text}, text, as_json=True),
    write_stdout,
    lambda text: print_facts(stderr_console(), [("label", text)]),
    show_stream,
    show_chat,
    show_asides,
    show_training,
    show_list,
    show_run,
    show_comparison,
)


@pytest.mark.slow
def test_of_a_hundred_thousand_strings_nothing_raw_reaches_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    rng, shown = random.Random(1), 0
    while shown < STRINGS:
        out, err = Terminal(), Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        texts = [hostile(rng) for _ in PLACES]
        for place, text in zip(PLACES, texts, strict=True):
            place(text)
        shown += len(texts)
        for stream in (out, err):
            said = OWN.sub("", stream.getvalue())
            assert not RAW.search(said), texts
            assert "\x1b" not in said, texts


@pytest.mark.skipif(sys.platform == "win32", reason="such names are none on Windows")
def test_names_of_folders_command_no_terminal(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_text: str
) -> None:
    name = "\x1b]0;title\x07\x1b[2J\r\u202e\x9bx"
    (tmp_path / "corpora" / name).mkdir(parents=True)
    (tmp_path / "corpora" / name / "documents.jsonl").write_text(json.dumps({"text": real_text[:99]}) + "\n", "utf-8")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("HF_HUB_CACHE", name)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", name)
    monkeypatch.chdir(tmp_path)
    for command in (_show_standing, doctor_command, _show_standing, list_command):
        out = Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        command()
        said = OWN.sub("", out.getvalue())
        assert "title" in said
        assert not RAW.search(said)
        assert "\x1b" not in said
        if not (tmp_path / "runs").exists():
            shutil.copytree(trained / "runs", tmp_path / "runs")
            (tmp_path / "runs" / "tiny").rename(tmp_path / "runs" / name)


def test_a_pipe_gets_every_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    for _ in range(2000):
        text = hostile(rng).replace("\ud800", "").replace("\udfff", "")
        pipe = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
        monkeypatch.setattr(sys, "stdout", pipe)
        write_exactly(text)
        write_stdout(text)
        emit({"text": text}, text, as_json=True)
        pipe.flush()
        raw = pipe.buffer.getvalue()
        twice = (text * 2).encode()
        assert raw.startswith(twice)
        assert json.loads(raw[len(twice) :]) == {"text": text}
