"""Two trainings never write one run, a killed one blocks nobody, and readers are never kept out."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gptcli.errors import FormatError, RunError
from gptcli.events import StepLogged
from gptcli.restore import load_model
from gptcli.run_lock import is_trained, sole_writer
from gptcli.runs import RunDir
from gptcli.train import train
from tests.training import NewRun, checkpoint_bytes, finish

HOLD = """
import sys, time
from pathlib import Path
from gptcli.run_lock import is_trained, sole_writer
from gptcli.runs import RunDir
with sole_writer(RunDir(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def hold(run: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Begin a process that holds the run's lock; it is killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_run_that_is_being_trained_is_refused_with_the_process_that_does_and_can_be_read(new_run: NewRun) -> None:
    run = new_run("r")
    finish(run)
    before = checkpoint_bytes(run)
    with hold(run) as process:
        with pytest.raises(RunError, match=f"'r' is being trained by the process {process.pid};") as caught:
            finish(run)
        assert "gptcli sample r" in caught.value.hint
        assert load_model(run)[2] == 12
    assert checkpoint_bytes(run) == before


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_lock_of_a_killed_process_is_taken_over_without_a_word(new_run: NewRun) -> None:
    run = new_run("r")
    with hold(run) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (run.path / ".writer.json").exists()
    finish(run)
    assert not (run.path / ".writer.json").exists()


def test_a_run_is_free_again_when_its_training_is_left_in_the_middle(new_run: NewRun) -> None:
    run = new_run("r", "log_interval=1")
    with contextlib.closing(train(run)) as events:
        assert any(isinstance(event, StepLogged) for event in events)
    finish(run)


def test_two_processes_of_which_one_says_nothing_of_itself(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with hold(run):
        (tmp_path / ".writer.json").write_text("{")
        with pytest.raises(RunError, match="is being trained by another process"), sole_writer(run):
            pass


def steps_then(run: RunDir, act: Callable[[], object]) -> None:
    """Train, and act once in the middle of it."""
    acted = False
    with contextlib.closing(train(run)) as events:
        for event in events:
            if isinstance(event, StepLogged) and not acted:
                acted = True
                act()


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be deleted")
def test_a_run_that_is_deleted_while_it_is_trained_is_not_made_again(new_run: NewRun) -> None:
    run = new_run("r", "log_interval=1")
    with pytest.raises(RunError, match="was deleted, moved or replaced"):
        steps_then(run, lambda: shutil.rmtree(run.path))
    assert not run.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be moved")
def test_a_run_that_takes_the_place_of_the_one_in_training_is_left_alone(new_run: NewRun) -> None:
    run, saved = new_run("r", "log_interval=1"), list[str]()

    def replace() -> None:
        saved.extend(path.name for path in run.checkpoints_path.glob("step_*"))
        shutil.copytree(run.path, run.path.with_name("copy"))
        run.path.rename(run.path.with_name("moved"))
        run.path.with_name("copy").rename(run.path)

    with pytest.raises(RunError, match="was deleted, moved or replaced"):
        steps_then(run, replace)
    assert (run.path / ".writer.json").exists()
    assert [path.name for path in run.checkpoints_path.glob("step_*")] == saved


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be deleted")
def test_a_lock_that_is_deleted_ends_no_training_until_another_one_begins(new_run: NewRun) -> None:
    run = new_run("r", "log_interval=1")
    steps_then(run, (run.path / ".lock").unlink)
    assert load_model(run)[2] == 12
    other = new_run("other", "log_interval=1")
    with contextlib.ExitStack() as stack:

        def begin_another() -> None:
            (other.path / ".lock").unlink()
            stack.enter_context(hold(other))

        with pytest.raises(RunError, match="'other' is being trained by the process") as caught:
            steps_then(other, begin_another)
        assert (other.path / ".writer.json").exists()
    assert "two at once would spoil it" in caught.value.message


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", ".lock"])
def test_nothing_outside_of_a_run_is_written_or_deleted_through_a_link(
    new_run: NewRun, tmp_path: Path, name: str
) -> None:
    run, victim = new_run("r"), tmp_path / "victim"
    (victim / ".ssh").mkdir(parents=True)
    (victim / "file").write_text("mine")
    shutil.rmtree(run.path / name, ignore_errors=True)
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(victim if name == "checkpoints" else victim / "file")
    with pytest.raises(FormatError, match=f"{name}: this is a symbolic link that leads out of"):
        finish(run)
    assert sorted(path.name for path in victim.iterdir()) == [".ssh", "file"]
    assert (victim / "file").read_text() == "mine"


def test_whether_a_run_is_trained_is_said_while_a_process_lives_that_does_and_keeps_nobody_out(new_run: NewRun) -> None:
    run = new_run("r")
    assert not is_trained(run)
    with hold(run) as process:
        for _ in range(50):
            assert is_trained(run)
        process.kill()
        process.wait()
        assert (run.path / ".writer.json").exists()
        assert not is_trained(run)
    finish(run)
    assert not is_trained(run)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")
def test_asking_whether_a_run_is_trained_makes_nothing_where_a_link_leads(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run("r")
    (run.path / ".writer.json").write_text("{}", "utf-8")
    (run.path / ".lock").symlink_to(tmp_path / "elsewhere")
    assert not is_trained(run)
    assert not (tmp_path / "elsewhere").exists()


ASK = """
import sys
from pathlib import Path
from gptcli.run_lock import is_trained
from gptcli.runs import RunDir
print("ready", flush=True)
sys.stdin.readline()
print(sum(is_trained(RunDir(Path(sys.argv[1]))) for _ in range(3000)))
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no lock to share")
def test_any_number_that_ask_at_once_see_nobody_but_who_trains(new_run: NewRun) -> None:
    run = new_run("r")
    with hold(run) as process:
        process.kill()  # which leaves what it wrote of itself, so that the lock is what says no
        process.wait()
        command = [sys.executable, "-c", ASK, str(run.path)]
        askers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "12"]
        for asker in askers:
            assert asker.stdout is not None
            assert asker.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(4) as threads:
            told = [threads.submit(asker.communicate, "go\n") for asker in askers]
            here = list(threads.map(lambda _: is_trained(run), range(2000)))
        assert [answer.result()[0] for answer in told] == ["0\n", "0\n"]
        assert not any(here)


def test_asking_whether_a_run_is_trained_makes_nothing(new_run: NewRun) -> None:
    run = new_run("r")
    (run.path / ".writer.json").write_text("{}", "utf-8")
    assert not is_trained(run)
    assert not (run.path / ".lock").exists()
    shutil.rmtree(run.path)
    assert not is_trained(run)
    assert not run.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be deleted")
def test_asking_is_no_trouble_for_a_training_whose_lock_was_deleted(new_run: NewRun) -> None:
    run = new_run("r", "log_interval=1")

    def delete_and_ask() -> None:
        (run.path / ".lock").unlink()
        assert not is_trained(run)

    steps_then(run, delete_and_ask)
    assert load_model(run)[2] == 12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(new_run: NewRun) -> None:
    run = new_run("r")
    (run.path / ".writer.json").write_text("{}", "utf-8")
    os.mkfifo(run.path / ".lock")
    assert not is_trained(run)


def test_a_run_that_is_gone_is_not_made_again_by_whoever_wants_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the run is gone"), sole_writer(RunDir(tmp_path / "gone")):
        pass
    assert not (tmp_path / "gone").exists()
