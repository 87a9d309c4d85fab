"""A run is removed with all that gptcli wrote into it, and with nothing that anybody else did."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptcli.errors import FormatError, GptcliError, RunError
from gptcli.removal import find_removable, remove_run, run_contents
from gptcli.run_facts import checkpoints
from gptcli.runs import RunDir, check_run_name
from tests.training import NewRun, finish, interrupt

PLACES = ("", "checkpoints", "checkpoints/{step}", "base", "chats", "mine", "mine/deeper", "checkpoints/mine")
NAMES = st.one_of(
    st.sampled_from(
        (
            *(
                "notes.txt",
                "model.safetensors.bak",
                "profile.yaml~",
                "metrics.jsonl.gz",
                "LOSS.PNG",
                "loss.svg",
                ".env",
            ),
            *(
                "step_12",
                "tokenizer.json.tmp",
                ".lock2",
                "history.txt",
                "story.md",
                "talk.jsonl",
                "best.txt",
                "latest ",
            ),
        )
    ),
    st.text("abcXYZ09-_. é", min_size=1, max_size=12).filter(lambda name: name.strip(". ") != ""),
)
needs_links = pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")


@pytest.fixture
def done(new_run: NewRun) -> RunDir:
    """A run that was trained to its end, with a chat."""
    run = new_run("r", "sample_interval=4")
    finish(run)
    (run.path / "chats").mkdir()
    (run.path / "chats" / "history").write_text("+hello\n", "utf-8")
    (run.path / "chats" / "20260504T120000Z.jsonl").write_text("{}\n", "utf-8")
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_that_training_writes_is_known_and_goes(done: RunDir) -> None:
    contents = run_contents(done)
    assert contents.foreign == ()
    assert contents.n_bytes == sum(len(content) for content in files(done.path).values()) > 10_000
    assert remove_run(done).n_bytes == pytest.approx(contents.n_bytes, abs=500)  # the lock
    assert not done.path.exists()


def test_all_that_a_finetune_with_adapters_writes_is_known_and_goes(new_finetune: NewRun) -> None:
    run = new_finetune("f", "finetune.lora_rank=2")
    finish(run)
    assert (run.path / "base" / "model.safetensors").exists()
    assert remove_run(run).foreign == ()
    assert not run.path.exists()


def test_what_a_killed_save_left_goes_too(done: RunDir) -> None:
    left = done.checkpoints_path / ".step_000012.abcd1234.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (done.path / ".profile.yaml.abcd1234.tmp").write_bytes(b"half")
    assert remove_run(done).foreign == ()
    assert not done.path.exists()


@pytest.fixture
def copied(new_run: NewRun) -> RunDir:
    """A run that was stopped in the middle, for copies of it."""
    run = new_run("source")
    interrupt(run, 3)
    return run


def copy_of(source: RunDir, name: str) -> RunDir:
    run = RunDir(source.path.with_name(name))
    shutil.rmtree(run.path, ignore_errors=True)
    shutil.copytree(source.path, run.path)
    return run


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.dictionaries(st.tuples(st.sampled_from(PLACES), NAMES), st.binary(max_size=20), min_size=1, max_size=5))
def test_whatever_somebody_put_into_a_run_is_left_as_it_was(
    copied: RunDir, found: dict[tuple[str, str], bytes]
) -> None:
    run = copy_of(copied, "r")
    step = next(path.name for path in run.checkpoints_path.glob("step_*"))
    foreign = dict[str, bytes]()
    for (place, name), content in found.items():
        path = run.path / place.format(step=step) / name
        with contextlib.suppress(OSError):  # a file where a folder would have to be
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(content)
                foreign[path.relative_to(run.path).as_posix()] = content
    remove_run(run)
    assert (files(run.path) if run.path.exists() else {}) == foreign


def test_empty_folder_that_somebody_made_stays(copied: RunDir) -> None:
    (copied.path / "plans" / "later").mkdir(parents=True)
    assert remove_run(copied).foreign == (copied.path / "plans" / "later",)
    assert [path.name for path in copied.path.iterdir()] == ["plans"]
    assert (copied.path / "plans" / "later").is_dir()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the runs whose files have names that a run's have."""
    folder = tmp_path / "outside"
    for name in ("profile.yaml", "metrics.jsonl", "step_000003/model.safetensors", "latest", "base.json", "history"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, "utf-8")
    return folder


@needs_links
@pytest.mark.parametrize("place", ["checkpoints", "base", "chats", "checkpoints/step_000009", "more"])
def test_folder_that_a_link_in_a_run_leads_to_is_untouched(copied: RunDir, outside: Path, place: str) -> None:
    path, before = copied.path / place, files(outside)
    if path.is_dir():
        shutil.rmtree(path)
    path.symlink_to(outside, target_is_directory=True)
    with contextlib.suppress(FormatError):  # one whose checkpoints lie elsewhere is not written to at all
        assert path in remove_run(copied).foreign
    assert files(outside) == before
    assert path.is_symlink()


@needs_links
@pytest.mark.parametrize("name", ["profile.yaml", "metrics.jsonl", "loss.png", ".writer.json", "checkpoints/latest"])
def test_file_that_a_link_in_a_run_leads_to_is_untouched(copied: RunDir, outside: Path, name: str) -> None:
    path, before = copied.path / name, files(outside)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / "latest")
    with contextlib.suppress(GptcliError):
        remove_run(copied)
    assert files(outside) == before


@needs_links
def test_link_to_a_run_is_refused(copied: RunDir, tmp_path: Path) -> None:
    before = files(copied.path)
    elsewhere = tmp_path / "elsewhere"
    copied.path.rename(elsewhere)
    copied.path.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(RunError, match="is a link"):
        find_removable(copied.name, tmp_path / "runs")
    assert files(elsewhere) == before


@pytest.mark.parametrize("name", ["", ".", "..", "./", "../", "runs/..", "runs/.", "nobody", "runs", "/", "~"])
def test_what_is_no_run_is_refused(copied: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shutil.copy(copied.profile_path, tmp_path / "profile.yaml")  # as a report tells people to save it
    shutil.copy(copied.profile_path, tmp_path / "runs" / "profile.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError):
        find_removable(name)


@pytest.mark.parametrize("absolute", [True, False])
def test_run_of_another_folder_is_refused(
    copied: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    (tmp_path / "here" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RunError, match="is not a run in runs, and nothing elsewhere is removed"):
        find_removable(str(copied.path) if absolute else "../runs/source")


def test_folder_that_only_looks_a_little_like_a_run_is_refused(copied: RunDir) -> None:
    model = copied.path.with_name("my-model")
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text("{}", "utf-8")
    with pytest.raises(RunError, match=r"has no profile\.yaml"):
        find_removable("my-model", copied.path.parent)


@pytest.mark.parametrize("lost", ["profile.yaml", "metrics.jsonl", "dataset.json"])
def test_run_that_has_lost_a_file_can_be_removed(copied: RunDir, lost: str) -> None:
    (copied.path / lost).unlink()
    remove_run(find_removable(copied.name, copied.path.parent))
    assert not copied.path.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from gptcli import removal
from gptcli.runs import RunDir
left = int(sys.argv[2])
def counted(before):
    def wrapper(*args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*args, **options)
    return wrapper
os.unlink, os.rmdir = counted(os.unlink), counted(os.rmdir)
removal.remove_run(RunDir(Path(sys.argv[1])))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("calls", [0, 1, 4, 9, 14, 15, 16, 17])
def test_what_a_killed_removal_leaves_is_no_run_any_more_and_can_be_removed(copied: RunDir, calls: int) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(copied.path), str(calls)], check=False)
    runs_dir = copied.path.parent
    assert ended.returncode in (0, -signal.SIGKILL)
    assert copied.profile_path.exists() == (calls == 0)
    if copied.path.exists():
        remove_run(find_removable(copied.name, runs_dir))
    assert not any(runs_dir.iterdir())


def test_what_is_in_a_run_can_be_counted_while_its_training_deletes_checkpoints(copied: RunDir) -> None:
    step = next(copied.checkpoints_path.glob("step_*"))
    mine = {path for path in run_contents(copied).own if path.parent.parent == copied.path}
    with pruning(copied):
        for _ in range(300):
            assert mine <= set(run_contents(copied).own)
            assert step.name in {row["folder"].name for row in checkpoints(copied)}


@contextlib.contextmanager
def pruning(run: RunDir) -> Iterator[None]:
    """Save and delete checkpoints as fast as it goes, in another thread."""
    ended, source = threading.Event(), next(run.checkpoints_path.glob("step_*"))

    def save_and_delete() -> None:
        place = run.checkpoints_path / "step_000099"
        while not ended.is_set():
            shutil.copytree(source, place)
            shutil.rmtree(place)

    with ThreadPoolExecutor(1) as threads:
        saving = threads.submit(save_and_delete)
        try:
            yield
        finally:
            ended.set()
        saving.result()


def test_folder_of_which_only_notes_are_left_is_refused_with_what_to_do(copied: RunDir) -> None:
    (copied.path / "notes.txt").write_text("mine", "utf-8")
    remove_run(copied)
    with pytest.raises(RunError, match=r"has no profile\.yaml and nothing else that only a run has") as caught:
        find_removable(copied.name, copied.path.parent)
    assert "with your shell" in caught.value.hint
    with pytest.raises(RunError, match=r"is no run: it has no profile\.yaml") as caught:
        check_run_name(copied.name, copied.path.parent)
    assert "--resume" not in caught.value.hint


def test_run_that_somebody_else_removes_is_not_made_again(copied: RunDir) -> None:
    shutil.rmtree(copied.path)
    with pytest.raises(RunError, match="the run is gone"):
        remove_run(copied)
    assert not copied.path.exists()
