"""``gptcli chat`` at a real pseudo-terminal: every command once, editing, Ctrl-C at every moment, and resizing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest

from gptcli.cli.chat_view import tail_of
from gptcli.figures import visible
from tests.cli.conftest import ROOT, run_cli

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)
pexpect = pytest.importorskip("pexpect")

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)[;m]")
# What prompt_toolkit sends when it begins and when it has ended to read a line.
BEGINS, ENDS = "\x1b[?2004h", "\x1b[?2004l"
CTRL_C, CTRL_D, ALT_ENTER, CTRL_J = "\x03", "\x04", "\x1b\r", "\n"


def surroundings() -> dict[str, str]:
    """The environment of a process in a terminal that nobody has told anything."""
    hidden = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    # Where the cursor is, a terminal would answer; here nobody does.
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    return {**inherited, **ours}


class Desk:
    """``gptcli chat`` in a terminal of 80 columns, and what it showed."""

    def __init__(self, folder: Path, *args: str, **variables: str) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "gptcli", "chat", *args],
            cwd=str(folder),
            env={**surroundings(), **variables},
            dimensions=(24, 80),
            encoding="utf-8",
            codec_errors="replace",
            timeout=60,
        )
        self.child.logfile_read = StringIO()

    def ready(self) -> str:
        """Wait until a line can be typed, and return what was shown before."""
        self.child.expect_exact(BEGINS)
        return plain(self.child.before)

    def say(self, keys: str) -> str:
        """Type, send with Enter, and return what came of it."""
        self.child.send(keys + "\r")
        self.child.expect_exact(ENDS)
        return self.ready()

    def completed(self, begin: str, menu: str) -> str:
        """Type the beginning of a line, take the only completion of the menu, and send it."""
        self.child.send(begin)
        self.child.expect_exact(menu)
        return self.say("\t")

    def press(self, keys: str) -> str:
        """Press keys that end the reading of a line, and return what is shown until the next one can be typed."""
        self.child.send(keys)
        self.child.expect_exact(ENDS)
        return self.ready()

    def code(self) -> int | None:
        """Wait for the end and return the exit code."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        code = self.child.exitstatus
        assert code is None or isinstance(code, int)
        return code

    @property
    def raw(self) -> str:
        """All that was ever sent to the terminal."""
        value = self.child.logfile_read.getvalue()
        assert isinstance(value, str)
        return value


Start = Callable[..., Desk]


def plain(text: str) -> str:
    """What is left of terminal output without its commands."""
    return ESCAPES.sub("", text)


def words(text: str) -> str:
    """A text as one line, since a window wraps it anywhere between words."""
    return " ".join(text.split())


def letters(text: str) -> str:
    """A drawn text as a terminal shows it, without any white space: a window wraps it anywhere."""
    return "".join(visible(text).split())


@pytest.fixture(scope="module")
def endless(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose texts never end by themselves: its characters know no end of text."""
    folder = tmp_path_factory.mktemp("endless")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    done = run_cli(folder, "train", "docs", "--profile", "tiny.yaml", "--run", "tiny-2", "--set", "data.tokenizer=char")
    assert done.code == 0, done.stderr
    return folder / "runs" / "tiny-2"


@pytest.fixture
def workplace(endless: Path, tmp_path: Path) -> Path:
    """A folder with two runs of the same model that a test may write into."""
    for name in ("tiny", "twin"):
        shutil.copytree(endless, tmp_path / "runs" / name)
    return tmp_path


@pytest.fixture
def start(workplace: Path) -> Iterator[Start]:
    """Start a chat in ``workplace``; it is ended after the test at the latest."""
    desks: list[Desk] = []

    def begin(*args: str, **variables: str) -> Desk:
        desks.append(Desk(workplace, *args, **variables))
        return desks[-1]

    yield begin
    for desk in desks:
        desk.child.close(force=True)


def logged(workplace: Path, event: str) -> list[dict[str, object]]:
    """The events of one kind in the only log of the run."""
    (path,) = (workplace / "runs/tiny/chats").glob("*.jsonl")
    events = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [found for found in events if found["event"] == event]


def test_whole_chat_with_every_command(start: Start, workplace: Path) -> None:
    desk = start("tiny")
    banner = words(desk.ready())
    assert "tiny, step 12, val_loss " in banner
    assert "it goes on with what you type. /help lists the commands" in banner
    assert "kept in runs/tiny/chats/" in banner

    reply = desk.say("The for")
    (first,) = logged(workplace, "reply")
    assert letters(reply) == letters(f"The for{first['text']}")

    more = desk.say("/more")
    assert more.startswith("> /more\n")
    second = logged(workplace, "reply")[1]
    assert letters(more) == letters(f"> /more{tail_of(str(first['given']) + str(first['text']))}{second['text']}")
    assert "Took back the last step." in desk.say("/undo")
    again = desk.say("/retry 99")
    assert words(again).startswith("> /retry 99 The for")
    assert logged(workplace, "reply")[-1]["seed"] == 99

    edited = desk.say("/edit")
    assert edited.startswith("> /edit\n")
    reply = words(desk.say("\x01\x0bThe while"))
    assert reply.startswith("The while")
    assert logged(workplace, "reply")[-1]["given"] == "The while"

    choices = desk.say("/best-of 3")
    assert re.search(r"^1  .*^2  .*^3  ", choices, re.MULTILINE | re.DOTALL)
    texts = logged(workplace, "choices")[-1]["texts"]
    assert isinstance(texts, list)
    tail = tail_of(f"The while{logged(workplace, 'reply')[-1]['text']}")
    assert letters(f"{tail}1{texts[0]}") in letters(choices)
    assert letters(desk.say("2")) == letters(f"number, or Enter for none> 2{tail}{texts[1]}")

    table = desk.say("/next").splitlines()[1:]
    assert len([line for line in table if re.match(r'".*"  +(\d+\.\d%|<0\.1%)', line)]) == 10
    assert "temperature 0.5, top_k 3" in desk.say("/set temperature 0.5 top_k 3")
    assert re.search(r"temperature +0\.5 ", desk.say("/params"))
    assert "temperature 0.5" in plain(desk.raw.rpartition(ENDS)[0])  # in the line of status

    columns = desk.say("/compare twin")
    assert re.search(r"^tiny +twin", columns, re.MULTILINE)

    while_reply, choice = logged(workplace, "reply")[-2:]
    assert "story.txt" in desk.say("/save story.txt")
    saved = (workplace / "story.txt").read_bytes().decode()
    assert saved == f"The while{while_reply['text']}{choice['text']}"
    assert "A new text begins." in desk.say("/new")
    assert letters(desk.say("/load story.txt")) == letters("> /load story.txt" + saved)
    (workplace / "book.txt").write_text("A line\n" * 999 + "The end", "utf-8")
    loaded = desk.say("/load book.txt")
    assert "The end of a text of 7,000 characters:" in loaded
    assert "The end\n" in loaded
    assert 10 < loaded.count("A line") < 24
    assert re.search("Longest|Nothing was drawn", desk.say("/copies"))
    assert "/best-of [N]" in desk.say("/help")
    assert "draw N continuations" in desk.say("/help best-of")
    assert "Did you mean /retry?" in words(desk.say("/retri"))

    desk.child.send("/quit\r")
    assert desk.code() == 0
    assert [event["line"] for event in logged(workplace, "input")][:2] == ["The for", "/more"]
    assert COLOURS.search(desk.raw)


def test_lines_are_edited_completed_and_remembered(start: Start, workplace: Path) -> None:
    desk = start("tiny", "--max-new-tokens", "2")
    desk.ready()
    desk.say(f"one{CTRL_J}two{ALT_ENTER}three")
    desk.say("\x1b[200~pasted\rin one\x1b[201~")
    desk.completed("/par", "show the settings")
    desk.completed("/compare tw", "twin")
    desk.say("//slash")
    desk.press("not sent" + CTRL_C + CTRL_C)
    assert "Ctrl-C again or Ctrl-D leaves." in plain(desk.raw)
    desk.press("typed" + CTRL_C + CTRL_C)
    desk.child.send(CTRL_D)
    assert desk.code() == 0
    assert [event["line"] for event in logged(workplace, "input")] == [
        "one\ntwo\nthree", "pasted\nin one", "/params", "/compare twin", "//slash"
    ]  # fmt: skip
    history = workplace / "runs/tiny/chats/history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600

    desk = start("tiny")
    desk.ready()
    assert "twin" in desk.say("\x1b[A\x1b[A")
    desk.press(CTRL_C)
    desk.child.send(CTRL_C)
    assert desk.code() == 0


def test_reply_is_stopped_resized_and_left(start: Start, workplace: Path) -> None:
    desk = start("tiny", "--no-log", NO_COLOR="1")
    desk.ready()
    desk.say("/set max_new_tokens 100000")
    desk.child.send("The\r")
    desk.child.expect(r"\n[^\n]{60,80}\r\r?\n")
    desk.child.setwinsize(24, 40)
    desk.child.expect(r"(?:\n[^\n]{0,40}\r){30}")  # so many short lines are no chance
    desk.child.send(CTRL_C)
    assert "Stopped. What is there is kept: /more goes on, /undo takes it back." in words(desk.ready())
    desk.say("/set max_new_tokens 5")
    assert letters(desk.say("/more")) != letters("> /more")
    # A line that was typed while a reply was drawn is the next one.
    desk.child.send("/more\r/params\r")
    desk.child.expect_exact("max_new_tokens")
    desk.ready()
    assert "The" in plain(desk.say("/undo"))
    desk.press("left" + CTRL_C + CTRL_C)
    desk.child.send(CTRL_C)
    assert desk.code() == 0
    assert not COLOURS.search(desk.raw)
    assert not (workplace / "runs/tiny/chats").exists()


def claim_much(file: Path) -> None:
    """Make a file of one tensor of 16 GB, all of it a hole: whoever verifies it reads for many seconds."""
    size = 16 << 30
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with file.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        opened.truncate(8 + len(header) + size)


def test_opening_of_another_model_is_stopped_at_once(start: Start, workplace: Path) -> None:
    for path in workplace.glob("runs/twin/checkpoints/step_*"):
        claim_much(path / "model.safetensors")
    desk = start("tiny", "--max-new-tokens", "3")
    desk.ready()
    desk.say("The")
    desk.child.send("/compare twin\r")
    desk.child.expect(pexpect.TIMEOUT, timeout=1)
    desk.child.send(CTRL_C)
    assert "Stopped." in desk.ready()
    desk.child.send(CTRL_D)
    assert desk.code() == 0


def test_dumb_terminal_gets_plain_text(start: Start, workplace: Path) -> None:
    desk = start("tiny", "--max-new-tokens", "3", TERM="dumb")
    desk.child.expect_exact("> ")
    desk.child.send("The\n")
    desk.child.expect_exact("\n> ")
    desk.child.send("/next\n")
    desk.child.expect_exact("%")
    desk.child.expect_exact("\n> ")
    desk.child.send("/edit\n")
    desk.child.expect_exact("/edit TEXT")
    desk.child.expect_exact("> ")
    desk.child.send("/set max_new_tokens 100000\n/more\n")
    desk.child.expect_exact("> ")
    desk.child.expect("[a-z]{3}")
    desk.child.expect("(?s).{500}")
    desk.child.send(CTRL_C)
    desk.child.expect_exact("Stopped.")
    desk.child.expect_exact("> ")
    desk.child.send(CTRL_C)
    desk.child.expect_exact("Ctrl-C again or Ctrl-D leaves.")
    desk.child.expect_exact("> ")
    desk.child.send(CTRL_D)
    assert desk.code() == 0
    assert "\x1b" not in desk.raw
    assert logged(workplace, "reply")[-1]["finish_reason"] == "interrupted"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_reply_is_kept_when_the_process_is_ended(
    start: Start, workplace: Path, number: signal.Signals, code: int
) -> None:
    (workplace / "runs/tiny/chats/history").mkdir(parents=True)  # where no history can be kept
    desk = start("tiny", "--max-new-tokens", "100000")
    desk.ready()
    desk.child.send("The\r")
    desk.child.expect("(?s)The.{500}")
    desk.child.kill(number)
    assert desk.code() == code
    (reply,) = logged(workplace, "reply")
    assert reply["finish_reason"] == "interrupted"
    assert letters(str(reply["text"]))[:200] in letters(plain(desk.raw))


def test_reply_without_a_line_of_its_own_begins_with_the_tail_of_the_text(start: Start, workplace: Path) -> None:
    desk = start("tiny", "--max-new-tokens", "4")
    desk.ready()
    desk.say("The for")
    desk.say("/more")
    again = desk.say("/retry 5")
    first, _, third = (str(reply["text"]) for reply in logged(workplace, "reply"))
    assert letters(again) == letters(f"> /retry 5{tail_of('The for' + first)}{third}")


def test_ctrl_c_at_a_choice_takes_none_and_stays(start: Start) -> None:
    desk = start("tiny", "--max-new-tokens", "4")
    desk.ready()
    desk.say("/best-of 2")
    said = desk.press(CTRL_C)
    assert "None was taken." in said
    assert "leaves" not in said
    desk.child.send(CTRL_D)
    assert desk.code() == 0


def test_line_that_the_model_cannot_read_stays_on_the_screen(start: Start) -> None:
    desk = start("tiny")
    desk.ready()
    assert words(desk.say("\u65e5\u672c")).startswith("> \u65e5\u672c Error: ")
    desk.child.send(CTRL_D)
    assert desk.code() == 0


def test_file_that_nobody_writes_into_is_no_reason_to_wait_for_ever(start: Start, workplace: Path) -> None:
    os.mkfifo(workplace / "pipe.txt")
    desk = start("tiny")
    desk.ready()
    desk.child.send("/load pipe.txt\r")
    desk.child.expect_exact("/load pipe.txt")
    desk.child.kill(signal.SIGTERM)
    assert desk.code() == 143


def test_chat_that_was_told_to_ignore_the_end_of_its_terminal_does_so(start: Start, workplace: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        desk = start("tiny", "--max-new-tokens", "3")
    finally:
        signal.signal(signal.SIGHUP, before)
    desk.ready()
    desk.child.kill(signal.SIGHUP)
    desk.say("The for")
    desk.child.send(CTRL_D)
    assert desk.code() == 0


def test_process_that_waits_for_a_line_can_be_ended(start: Start) -> None:
    desk = start("tiny")
    desk.ready()
    desk.child.kill(signal.SIGTERM)
    assert desk.code() == 143
    assert "Traceback" not in desk.raw


def test_text_goes_into_a_pipe_while_a_person_types(workplace: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gptcli", "chat", "tiny", "--max-new-tokens", "3"],
        cwd=workplace,
        env=surroundings(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    with process, os.fdopen(ours, "r+b", buffering=0) as keyboard:
        shown = b""
        while BEGINS.encode() not in shown:
            shown += keyboard.read(4096)
        keyboard.write(b"The\r/params\r")
        while b"max_new_tokens" not in shown:
            shown += keyboard.read(4096)
        keyboard.write(CTRL_D.encode())
        assert process.stdout is not None
        text = process.stdout.read().decode()
    assert process.returncode == 0
    (reply,) = logged(workplace, "reply")
    assert text.removesuffix("\n") == f"The{reply['text']}".removesuffix("\n")
    assert b"val_loss" in shown


def test_unfinished_line_that_a_pipe_shows_here_is_not_written_over(workplace: Path) -> None:
    command = f"{sys.executable} -m gptcli chat tiny --max-new-tokens 3 --stop . | tee out.txt"
    child = pexpect.spawn(
        "/bin/sh", ["-c", command], cwd=str(workplace), env=surroundings(), encoding="utf-8", timeout=60
    )
    child.expect_exact(BEGINS)
    child.send("The for\r")
    child.expect_exact(ENDS)
    child.expect_exact(BEGINS)
    (reply,) = logged(workplace, "reply")
    assert plain(child.before).endswith("\n")
    assert letters(f"The for{reply['text']}") in letters(plain(child.before))
    child.send(CTRL_D)
    child.expect(pexpect.EOF)
    child.close()
