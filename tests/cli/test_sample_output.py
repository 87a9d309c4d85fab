"""What ``gptcli sample`` writes into files, and what it says on stderr about several texts."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from gptcli.cli.sample_output import Sample, collect
from gptcli.sample import Piece
from tests.cli.conftest import run_cli, start_cli


def test_output_folder_gets_a_file_a_text_and_loses_none(trained: Path, tmp_path: Path) -> None:
    args = ("sample", "tiny", "-p", "The ", "--num-samples", "2", "--output", str(tmp_path / "texts"))
    done = run_cli(trained, *args)
    files = [Path(line) for line in done.stdout.splitlines()]
    assert [file.name for file in files] == ["tiny-seed_7.txt", "tiny-seed_8.txt"]
    whole = run_cli(trained, "sample", "tiny", "-p", "The ", "--num-samples", "2").stdout
    assert "---\n".join(file.read_text("utf-8") for file in files) == whole
    again = run_cli(trained, *args, "--temperature", "0", "--json").json()["samples"]
    assert [Path(sample["file"]).name for sample in again] == ["tiny-seed_7-2.txt", "tiny-seed_8-2.txt"]
    assert "---\n".join(file.read_text("utf-8") for file in files) == whole


def test_output_names_the_prompt_of_many(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").write_text('"A"\n"B"\n', "utf-8")
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(tmp_path / "two.jsonl"), "--output", str(tmp_path))
    assert [Path(line).name for line in done.stdout.splitlines()] == [
        "tiny-prompt_001-seed_7.txt",
        "tiny-prompt_002-seed_7.txt",
    ]


def test_output_that_is_a_file_is_wrong_usage(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("mine", "utf-8")
    assert run_cli(trained, "sample", "tiny", "--output", str(tmp_path / "texts")).code == 2
    assert (tmp_path / "texts").read_text("utf-8") == "mine"


def test_folder_that_cannot_be_written_is_said_before_the_model_is_opened(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine", "utf-8")
    done = run_cli(trained, "sample", str(tmp_path / "no-model"), "--output", str(tmp_path / "mine" / "texts"))
    assert (done.code, done.stdout) == (1, "")
    assert f"{tmp_path / 'mine' / 'texts'}: Not a directory." in done.stderr


def test_probe_of_the_folder_leaves_nothing_behind(trained: Path, tmp_path: Path) -> None:
    done = run_cli(trained, "sample", "tiny", "--output", str(tmp_path / "a" / "texts"))
    assert [str(path) for path in (tmp_path / "a" / "texts").iterdir()] == done.stdout.splitlines()


def test_long_name_of_a_model_is_cut_in_the_name_of_the_file(trained: Path, tmp_path: Path) -> None:
    name = "r" * 250
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / name).symlink_to(trained / "runs" / "tiny")
    done = run_cli(tmp_path, "sample", f"runs/{name}", "--output", "texts")
    assert done.code == 0, done.stderr
    assert len((tmp_path / done.stdout.strip()).name) < 200


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_text_that_cannot_be_written_is_shown_and_the_others_are_drawn(trained: Path, tmp_path: Path) -> None:
    import resource

    folder = str(tmp_path / "texts")
    args = ("sample", "tiny", "-p", "The ", "--num-samples", "2")
    limit = (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    process = start_cli(
        trained, *args, "--output", folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    stdout, stderr = process.communicate()
    assert process.returncode == 1, stderr
    assert stdout == run_cli(trained, *args).stdout.replace("---\n", "")
    assert "tiny-seed_7.txt: File too large" in stderr
    assert "tiny-seed_8.txt: File too large" in stderr
    assert list((tmp_path / "texts").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_keeps_the_files_of_texts_that_were_finished(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").write_text(
        '"A "\n{"prompt": "B ", "max_new_tokens": 1000000, "temperature": 0}\n', "utf-8"
    )
    folder = tmp_path / "texts"
    process = start_cli(
        trained, "sample", "tiny", "--prompt-file", str(tmp_path / "two.jsonl"), "--output", str(folder)
    )
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    rest, stderr = process.communicate()
    assert (process.returncode, rest) == (130, ""), stderr
    assert [str(path) for path in folder.iterdir()] == [first]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_ends_the_text_and_what_was_drawn_is_still_told(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").write_text(
        '"A "\n{"prompt": "B ", "max_new_tokens": 1000000, "temperature": 0}\n"C "\n', "utf-8"
    )
    folder = tmp_path / "texts"
    process = start_cli(
        *(trained, "sample", "tiny", "--prompt-file", str(tmp_path / "two.jsonl"), "--json", "--output", str(folder))
    )
    deadline = time.monotonic() + 60
    while not (folder.is_dir() and list(folder.glob("*.txt"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    reasons = [(sample["prompt"], sample["finish_reason"]) for sample in json.loads(stdout)["samples"]]
    assert reasons == [("A ", "length"), ("B ", "interrupted")]


def test_sample_is_handed_on_as_soon_as_it_is_finished() -> None:
    pieces = iter([Piece(0, "a", 1), Piece(1, "b", 2, "stop"), Piece(0, "c", 3), Piece(0, "d", 4, "length")])
    samples = [Sample("", 0), Sample("", 1)]
    finished = collect(pieces, samples)
    assert (next(finished), samples[0].text) == (samples[1], "a")
    assert [sample.text for sample in finished] == ["acd"]


def test_seed_after_the_last_is_zero_in_json_and_in_the_name_of_the_file(trained: Path, tmp_path: Path) -> None:
    args = ("sample", "tiny", "-p", "The ", "--output", str(tmp_path / "texts"))
    done = run_cli(trained, *args, "--seed", str(2**63 - 1), "--num-samples", "2", "--json")
    last, first = done.json()["samples"]
    assert (last["seed"], first["seed"]) == (2**63 - 1, 0)
    assert Path(first["file"]).name == "tiny-seed_0.txt"
    (again,) = run_cli(trained, *args, "--seed", "0", "--json").json()["samples"]
    assert again["text"] == first["text"]


def test_what_is_said_of_several_texts_stands_under_their_seeds(trained: Path) -> None:
    args = ("sample", "tiny", "-p", "The ", "--stop", "\u2603", "--check-copies")
    said = run_cli(trained, *args, "--num-samples", "2").stderr.splitlines()
    assert said.count("Seed 7:") == said.count("Seed 8:") == 1
    assert said.count("The text did not come to '\u2603' in 12 tokens.") == 2
    assert said.index("Seed 7:") < said.index("The text did not come to '\u2603' in 12 tokens.") < said.index("Seed 8:")
    alone = run_cli(trained, *args).stderr
    assert "Seed" not in alone
    assert len(alone.splitlines()) > 1


def test_copies_in_json_are_not_said_on_stderr_too(trained: Path) -> None:
    done = run_cli(trained, "sample", "tiny", "-p", "The ", "--check-copies", "--num-samples", "2", "--json")
    assert done.code == 0
    assert all("novel" in sample["copies"] for sample in done.json()["samples"])
    assert done.stderr == ""


def test_texts_that_are_all_the_same_are_said(trained: Path) -> None:
    args = ("sample", "tiny", "-p", "The ", "--temperature", "0")
    told = "At temperature 0 every sample is the same text"
    assert run_cli(trained, *args, "--num-samples", "3").stderr.count(told) == 1
    assert told not in run_cli(trained, *args).stderr
    assert told not in run_cli(trained, "sample", "tiny", "--num-samples", "2").stderr
