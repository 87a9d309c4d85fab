"""``gptcli chat`` without a terminal: lines of a pipe or a file, text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import ROOT, Done, run_cli

CHATS = [
    {"messages": [{"role": "user", "content": f"What is {a} plus {b}?"}, {"role": "assistant", "content": f"{a + b}."}]}
    for a in range(10)
    for b in range(10)
]


@pytest.fixture
def workplace(trained: Path, tmp_path: Path) -> Path:
    """A working folder that a test may write into, with the runs ``tiny`` and its copy ``twin``."""
    for name in ("tiny", "twin"):
        shutil.copytree(trained / "runs" / "tiny", tmp_path / "runs" / name)
    return tmp_path


@pytest.fixture(scope="module")
def answering(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the run ``sums``, which was tuned on conversations."""
    folder = tmp_path_factory.mktemp("answering") / "work"
    shutil.copytree(trained, folder)
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, CHATS)), "utf-8")
    speed = ("--set", "max_steps=2", "--set", "batch_size=2", "--set", "device=cpu")
    for args in (("fetch", "sums.jsonl"), ("finetune", "sums", "--from", "tiny", "--run", "sums", *speed)):
        done = run_cli(folder, *args)
        assert done.code == 0, done.stderr
    return folder


def chat(folder: Path, *args: str, lines: str | bytes = "") -> Done:
    return run_cli(folder, "chat", *args, stdin=lines)


def replies(folder: Path, run: str = "tiny") -> list[dict[str, Any]]:
    """The replies in the only log of a run."""
    (path,) = (folder / "runs" / run / "chats").glob("*.jsonl")
    events = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [event for event in events if event["event"] == "reply"]


def ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def test_stdout_is_the_text_as_it_grows(workplace: Path) -> None:
    done = chat(workplace, "tiny", lines="The for\n\nand so\r\n/more")
    assert done.code == 0, done.stderr
    first, second, third = replies(workplace)
    assert (first["given"], second["line"]) == ("The for", "and so")
    assert done.stdout == ended("".join(reply["given"] + reply["text"] for reply in (first, second, third)))


def test_one_line_is_what_sample_writes(workplace: Path) -> None:
    options = ("--temperature", "0.5", "--top-k", "9", "--seed", "3", "--max-new-tokens", "20", "--stop", "e")
    written = run_cli(workplace, "sample", "tiny", "-p", "The for", *options).stdout
    assert chat(workplace, "tiny", *options, lines="The for\n").stdout == written
    assert chat(workplace, "tiny", *options, "--dtype", "bfloat16", lines="The for\n").code == 0


def test_text_that_begins_anew_stands_below_three_dashes(workplace: Path) -> None:
    done = chat(workplace, "tiny", "--no-log", lines="/new\nThe for\n/retry 5\n/undo\n/retri\n/undo\n/new\nIf\n")
    assert done.code == 1
    first, again, undone, new = done.stdout.split("---\n")
    assert first[:7] == again[:7] == "The for"
    assert first == undone != again
    assert new.startswith("If")
    assert not (workplace / "runs/tiny/chats").exists()


def test_text_below_three_dashes_is_exact(workplace: Path) -> None:
    (workplace / "story.txt").write_text("\n one\n", "utf-8")
    done = chat(workplace, "tiny", "--max-new-tokens", "1", lines="The for\n/load story.txt\n")
    assert done.stdout.partition("---\n")[2] == "\n one\n"


def test_what_is_asked_about_the_text_goes_to_stderr(workplace: Path) -> None:
    lines = "The for\n/best-of 2\n2\n/next\n/compare twin\n/params\n/help\n"
    done = chat(workplace, "tiny", lines=lines)
    assert done.code == 0, done.stderr
    drawn, chosen = replies(workplace)
    assert done.stdout == ended(f"The for{drawn['text']}{chosen['text']}")
    for words in ("\n2  ", '%  "', "tiny\n", "\ntwin\n", "temperature ", "/best-of [N]"):
        assert words in done.stderr


def test_mistakes_are_named_and_the_exit_code_tells_of_them(workplace: Path) -> None:
    done = chat(
        workplace, "tiny", lines="/retri\nThe\n/edit\n/set temperature -1 top_q 3\n/compare nowhere\n/load no.txt\n"
    )
    assert done.code == 1
    assert done.stdout.startswith("The")
    for words in (
        "There is no command /retri.",
        "Did you mean /retry?",
        "A text cannot be changed in place here.\nGive the new one: /edit TEXT",
        "temperature: ",
        "top_q",
        "nowhere",
        "no.txt",
    ):
        assert words in done.stderr


def test_lines_come_from_a_file_in_its_encoding(workplace: Path) -> None:
    (workplace / "lines.txt").write_text("The\n/new\nIf\n", "utf-8")
    done = chat(workplace, "tiny", "--prompt-file", "lines.txt", lines="unread")
    assert done.stdout == chat(workplace, "tiny", lines="The\n/new\nIf\n").stdout
    (workplace / "wrong.txt").write_text("The\n\n/retri\n", "utf-8")
    done = chat(workplace, "tiny", "--prompt-file", "wrong.txt")
    assert (done.code, "Error: wrong.txt, line 3: There is no command /retri." in done.stderr) == (1, True)
    (workplace / "old.txt").write_bytes("Le café\n".encode("cp1252"))
    done = chat(workplace, "tiny", "--prompt-file", "old.txt", "--encoding", "cp1252", "--no-log")
    assert done.stdout.startswith("Le café")


def test_stdin_that_is_not_utf8_is_refused_where_it_is_not(workplace: Path) -> None:
    done = chat(workplace, "tiny", lines=b"\xef\xbb\xbfThe\ncaf\xe9\nunread\n")
    assert done.code == 1
    assert "Line 2 of stdin is not UTF-8 text (byte 3)" in done.stderr
    (reply,) = replies(workplace)
    assert done.stdout == ended(f"The{reply['text']}")


def test_answers_stand_below_three_dashes(answering: Path) -> None:
    lines = "What is 1 plus 2?\nWhat is 2 plus 2?\n"
    done = chat(answering, "sums", "--max-new-tokens", "6", lines=lines)
    assert done.code == 0, done.stderr
    first, second = replies(answering, "sums")
    assert done.stdout == f"{ended(first['text'])}---\n{ended(second['text'])}"
    options = ("--chat", "--max-new-tokens", "6", "-p", "What is 1 plus 2?")
    assert run_cli(answering, "sample", "sums", *options).stdout == ended(first["text"])


def test_all_impossible_values_are_named_at_once(workplace: Path) -> None:
    args = ("--temperature", "-1", "--top-p", "3", "--min-p", "nan", "--top-k", "0", "--max-new-tokens", "-5")
    done = chat(workplace, "tiny", *args, "--repetition-penalty", "0", "--stop", "")
    assert (done.code, done.stdout) == (1, "")
    for name in ("temperature", "top-p", "min-p", "top-k", "repetition-penalty", "max-new-tokens", "stop"):
        assert f"--{name}: " in done.stderr
    assert "gptcli chat --help" in done.stderr


def test_model_that_cannot_be_had_is_an_error_with_advice(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    unknown = chat(workplace, "tinny", lines="The\n")
    assert (unknown.code, unknown.stdout) == (1, "")
    assert "tiny" in unknown.stderr
    shutil.rmtree(workplace / "runs/twin/checkpoints")
    empty = chat(workplace, "twin", lines="The\n")
    assert (empty.code, empty.stdout) == (1, "")
    assert "twin" in empty.stderr
    none = chat(tmp_path_factory.mktemp("none"), lines="The\n")
    assert (none.code, "Train one first: gptcli train" in none.stderr) == (1, True)
    assert chat(workplace, "tiny", "--device", "tpu", lines="The\n").code == 1


def test_newest_run_is_taken_and_named(workplace: Path) -> None:
    done = chat(workplace, lines="The\n")
    assert (done.code, "The newest run is " in done.stderr) == (0, True)


@pytest.mark.parametrize(
    "args",
    [
        ("tiny", "more"),
        ("tiny", "--encoding", "cp1252"),
        ("tiny", "--temperature", "hot"),
        ("tiny", "--dtype", "bfloat16", "--quantize", "int8"),
    ],
)
def test_wrong_usage_is_code_2(workplace: Path, args: tuple[str, ...]) -> None:
    assert chat(workplace, *args, lines="x").code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs Ctrl-C as a signal")
@pytest.mark.parametrize("how", ["interrupted", "closed"])
def test_reply_that_nobody_waits_for_is_kept(workplace: Path, how: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gptcli", "chat", "tiny"],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"/set max_new_tokens 2000\nThe\n" + b"/more\n" * 1000)
        process.stdin.flush()
        assert process.stdout.read(5).startswith(b"The")
        if how == "interrupted":
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        else:
            process.stdout.close()
            assert process.stderr is not None
            said = process.stderr.read()
    assert process.returncode == (130 if how == "interrupted" else 141)
    assert b"Traceback" not in said
    assert len(replies(workplace)) >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="closes stdin as a POSIX shell does")
def test_closed_stdin_has_no_lines(workplace: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m gptcli chat tiny <&-', sys.executable],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
