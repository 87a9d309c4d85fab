"""``gptcli sample --prompt-file prompts.jsonl``: many prompts, each with settings of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import run_cli


def test_prompts_of_a_file_of_lines_are_written_in_turn_with_settings_of_their_own(
    trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = ['"The "', "", '{"prompt": "A ", "seed": 3, "max_new_tokens": 5, "stop": "q"}']
    file.write_text("\n".join(lines), "utf-8")
    first = run_cli(trained, "sample", "tiny", "-p", "The ").stdout
    second = run_cli(
        trained, "sample", "tiny", "-p", "A ", "--seed", "3", "--max-new-tokens", "5", "--stop", "q"
    ).stdout
    assert run_cli(trained, "sample", "tiny", "--prompt-file", str(file)).stdout == f"{first}---\n{second}"
    samples = run_cli(trained, "sample", "tiny", "--prompt-file", str(file), "--json").json()["samples"]
    assert [(sample["prompt"], sample["seed"]) for sample in samples] == [("The ", 7), ("A ", 3)]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('"a"\n{"prompt": "b", "temperature": -1, "top_k": 0}\n{"prompt": "c", "tempo": 1}', "line 2: temperature"),
        ('"a"\n{"prompt": "b", "temperature": -1, "top_k": 0}\n{"prompt": "c", "tempo": 1}', "line 3: tempo"),
        ("{", "line 1: it is not JSON"),
        ('"a"\n3\n[]', "line 2: it is neither a string nor an object with a prompt; the same holds for line 3"),
        ('{"prompt": 3}', "line 1: it is neither"),
        ('"\\ud800"', "not UTF-8"),
        ("\n\n", "holds no prompt"),
    ],
)
def test_lines_that_are_no_prompts_are_named(trained: Path, tmp_path: Path, lines: str, told: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(lines, "utf-8")
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(file))
    assert (done.code, done.stdout) == (1, "")
    assert told in done.stderr
    assert '{"prompt":' in done.stderr


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\u2029"])
def test_line_ends_of_unicode_inside_a_string_end_no_line(trained: Path, tmp_path: Path, mark: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'"one{mark}two"\n"three"\n', "utf-8")
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(file), "--json")
    assert done.code == 0, done.stderr
    assert [sample["prompt"] for sample in done.json()["samples"]] == [f"one{mark}two", "three"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt": "a", "max_new_tokens": 0}', "line 1: max_new_tokens: "),
        (
            '{"prompt": "a", "max_token": 5}',
            "line 1: max_token: there is no such setting; the nearest is max_new_tokens",
        ),
        ('{"prompt": "a", "top-k": 5}', "line 1: top-k: there is no such setting; the nearest is top_k"),
        ('{"prompt": "a", "qqqq": 5}', "line 1: qqqq: there is no such setting\n"),
        ('{"prompt": "a", "stop": ["b", "\\udcff"]}', "line 1: stop: a stop string is not UTF-8 text"),
    ],
)
def test_setting_of_a_line_that_cannot_be_is_named_as_it_is_written_there(
    trained: Path, tmp_path: Path, line: str, told: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text(line, "utf-8")
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(tmp_path / "prompts.jsonl"))
    assert (done.code, done.stdout) == (1, "")
    assert told in done.stderr


def test_value_of_megabytes_is_not_printed_whole(trained: Path, tmp_path: Path) -> None:
    lines = [{"prompt": "a", "top_k": "x" * 3_000_000}, {"prompt": "a", "y" * 3_000_000: 1}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(tmp_path / "prompts.jsonl"))
    assert done.code == 1
    assert "top_k: " in done.stderr
    assert len(done.stderr) < 1000


def test_a_file_of_wrong_settings_is_told_in_a_screenful(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "top_k": 0}\n' * 500, "utf-8")
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(tmp_path / "prompts.jsonl"))
    assert done.code == 1
    assert "line 1: top_k" in done.stderr
    assert "and 480 more" in done.stderr
    assert len(done.stderr.splitlines()) < 30


@pytest.fixture(scope="module")
def of_chars(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A working folder with the run ``chars``, whose tokenizer knows the characters of its corpus only."""
    folder = tmp_path_factory.mktemp("chars")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    profile = (folder / "tiny.yaml").read_text("utf-8").replace("bpe:300", "char")
    (folder / "chars.yaml").write_text(profile, "utf-8")
    done = run_cli(folder, "train", "docs", "--profile", "chars.yaml", "--run", "chars")
    assert done.code == 0, done.stderr
    return folder


def test_prompts_that_the_model_cannot_read_are_all_named_before_anything_is_drawn(
    of_chars: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"The "\n"\u2603"\n"A "\n{"prompt": "\u2604"}\n', "utf-8")
    done = run_cli(of_chars, "sample", "chars", "--prompt-file", str(file))
    assert (done.code, done.stdout) == (1, "")
    assert str(file) in done.stderr
    assert "line 2: " in done.stderr
    assert "\u2603" in done.stderr
    assert "line 4: " in done.stderr
    assert "line 1: " not in done.stderr
    one = run_cli(of_chars, "sample", "chars", "-p", "\u2603")
    assert (one.code, "line" in one.stderr) == (1, False)


def test_stop_of_a_line_that_never_comes_is_said(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "The ", "stop": "\u2603"}\n', "utf-8")
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(tmp_path / "prompts.jsonl"))
    assert done.code == 0
    assert "The text did not come to '\u2603' in 12 tokens." in done.stderr
