"""``gptcli export``: a run leaves, and what cannot be carried is refused with the way round."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import run_cli


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Path:
    """A folder with the run ``tiny`` and no corpus: a run is all that an export needs."""
    folder = tmp_path / "work"
    shutil.copytree(trained / "runs", folder / "runs")
    return folder


def test_newest_run_is_exported_for_transformers_and_writes_the_same_there(workspace: Path) -> None:
    import transformers

    done = run_cli(workspace, "export")
    assert done.stdout == f"{Path('exports/tiny-hf')}\n", done.stderr
    assert "logits" in done.stderr
    folder = workspace / "exports" / "tiny-hf"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer("The for statement", return_tensors="pt")
    theirs = model.generate(**prompt, do_sample=False, max_new_tokens=12)
    ours = run_cli(
        workspace, "sample", "tiny", "--prompt", "The for statement", "--temperature", "0", "--max-new-tokens", "12"
    )
    assert str(tokenizer.decode(theirs[0])).rstrip("\n") == ours.stdout.rstrip("\n")


@pytest.mark.parametrize("to", ["hf", "gguf", "safetensors"])
def test_every_format_says_what_it_wrote_and_checked(workspace: Path, to: str) -> None:
    result = run_cli(workspace, "export", "tiny", "--format", to, "--output", "out", "--json").json()
    assert sorted(result["files"]) == sorted(path.name for path in (workspace / "out").iterdir())
    assert result["checks"]


def test_own_export_is_a_model_to_sample_and_to_begin_from(workspace: Path) -> None:
    assert run_cli(workspace, "export", "tiny", "--format", "safetensors", "-o", "out").code == 0
    shutil.copytree(workspace / "out", workspace / "elsewhere" / "model")
    options = ("--prompt", "The", "--seed", "5", "--max-new-tokens", "10")
    there = run_cli(workspace / "elsewhere", "sample", "model", *options)
    assert (there.code, there.stdout) == (0, run_cli(workspace, "sample", "tiny", *options).stdout)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere",), "nowhere"),
        (("tiny", "--format", "nanogpt"), "gpt2"),
        (("tiny", "-o", "full"), "full"),
        (("tiny", "-o", "runs/tiny/export"), "runs/tiny"),
        (("tiny", "-o", "runs/new"), "runs/new lies in runs/"),
        (("nowhere", "-o", "full"), "full is not empty"),  # before any model is looked for, or downloaded
    ],
)
def test_refusal_is_a_sentence_and_touches_nothing(workspace: Path, args: tuple[str, ...], words: str) -> None:
    (workspace / "full").mkdir()
    (workspace / "full" / "mine.txt").write_text("precious", "utf-8")
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()}
    done = run_cli(workspace, "export", *args)
    assert (done.code, done.stdout) == (1, "")
    assert words in done.stderr
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()} == before


def test_characters_do_not_go_into_a_gguf(workspace: Path, folder: Path) -> None:
    args = ("--profile", "tiny.yaml", "--set", "data.tokenizer=char", "--run", "letters", "--quiet")
    assert run_cli(folder, "fetch", "docs.txt").code == 0
    assert run_cli(folder, "train", "docs", *args).code == 0
    done = run_cli(folder, "export", "letters", "--format", "gguf")
    assert done.code == 1
    assert "char" in done.stderr
    assert "data.tokenizer=bpe:" in done.stderr.replace("\n", " ")
    assert not (folder / "exports").exists() or not list((folder / "exports").iterdir())
    assert json.loads(run_cli(folder, "export", "letters", "--json").stdout)["checks"]
