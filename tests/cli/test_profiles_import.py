"""``gptcli profiles import``: a configuration file of nanoGPT becomes a profile that trains."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from gptcli.profiles import load_profile
from tests.cli.conftest import Cli

CONFIG = """
import time
out_dir = 'out-docs'
dataset = 'docs_char'
wandb_run_name = 'mini' + str(time.time())
eval_interval = 2
eval_iters = 20
gradient_accumulation_steps = 1
batch_size = 2 * 2
block_size = 16
n_layer = 1
n_head = 2
n_embd = 16
dropout = 0.1
max_iters = 4
lr_decay_iters = 4
warmup_iters = 1
device = 'cpu'
compile = False
"""


@pytest.fixture
def config(folder: Path) -> Path:
    (folder / "config").mkdir()
    (folder / "config" / "train_docs_char.py").write_text(CONFIG, "utf-8")
    return folder / "config" / "train_docs_char.py"


def test_profile_lands_where_train_finds_it_by_name(folder: Path, cli: Cli, config: Path) -> None:
    done = cli("profiles", "import", "config/train_docs_char.py")
    assert (done.code, done.stdout) == (0, "configs/train_docs_char.yaml\n")
    for words in ("train_docs_char.py:2: `import time`", "whole val", "--run", "wandb_*"):
        assert words in done.stderr
    text = (folder / "configs" / "train_docs_char.yaml").read_text("utf-8")
    assert text.startswith("# From nanoGPT's train_docs_char.py, by gptcli profiles import.\n# ")
    assert all(f"# {line}" in text for line in done.stderr.splitlines())
    assert "train_docs_char" in cli("profiles", "list").stdout
    profile = load_profile(folder / "configs" / "train_docs_char.yaml")
    assert (profile.train.batch_size, profile.model.gelu, profile.data.tokenizer) == (4, "exact", "char")


def test_imported_profile_trains(cli: Cli, config: Path) -> None:
    assert cli("fetch", "docs.txt", "--name", "docs_char").code == 0
    cli("profiles", "import", "config/train_docs_char.py")
    done = cli("train", "--profile", "train_docs_char", "--set", "train.eval_tokens=500")
    assert done.code == 0, done.stderr
    assert "val_loss" in done.stderr


def test_notes_are_in_the_json_and_not_on_stderr_when_quiet(cli: Cli, config: Path) -> None:
    done = cli("profiles", "import", "config/train_docs_char.py", "--json", "--quiet", "-o", "here/mine.yaml")
    assert done.stderr == ""
    assert done.json()["path"] == "here/mine.yaml"
    assert any("whole val" in note for note in done.json()["notes"])
    assert cli("profiles", "show", "here/mine.yaml").stdout.startswith("# From nanoGPT's")


def test_profile_that_differs_is_replaced_only_by_force(folder: Path, cli: Cli, config: Path) -> None:
    for _ in range(2):
        assert cli("profiles", "import", "config/train_docs_char.py").code == 0
    place = folder / "configs" / "train_docs_char.yaml"
    imported = place.read_bytes()
    place.write_text("description: mine\n", "utf-8")
    done = cli("profiles", "import", "config/train_docs_char.py")
    assert (done.code, done.stdout) == (1, "")
    assert "there already" in done.stderr
    assert "--force" in done.stderr
    assert place.read_text("utf-8") == "description: mine\n"
    assert cli("profiles", "import", "config/train_docs_char.py", "--force").code == 0
    assert place.read_bytes() == imported


def test_name_of_a_file_cannot_break_the_yaml(folder: Path, cli: Cli) -> None:
    name = "a\nmodel: {n_layer: 9}\n\x1b[31m\u2028.py"
    (folder / name).write_text("n_layer = 2\nunknown = 'a\\nb'\n", "utf-8")
    assert cli("profiles", "import", name, "--output", "safe.yaml").code == 0
    assert load_profile(folder / "safe.yaml").model.n_layer == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gg.py"], "--profile gg"),
        (["gg.py", "-o", "./configs/other.yaml"], "--profile other"),
        (["gg.py", "-o", "configs/my own.yaml"], "--profile 'my own'"),
        (["gg.py", "-o", "else where/gg.yaml"], "--profile 'else where/gg.yaml'"),
        (["gg.py", "-o", "configs/gg.yml"], "--profile configs/gg.yml"),
    ],
)
def test_finetuning_is_told_by_the_profile_that_was_written(
    folder: Path, cli: Cli, arguments: list[str], told: str
) -> None:
    (folder / "gg.py").write_text("init_from = 'gpt2'\ngradient_accumulation_steps = 1\n", "utf-8")
    done = cli("profiles", "import", *arguments)
    assert done.stderr.splitlines()[-1] == f"It begins from gpt2: gptcli finetune {told}"
    assert f"# It begins from gpt2: gptcli finetune {told}\n" in (folder / done.stdout.strip()).read_text("utf-8")
    found = cli("profiles", "show", shlex.split(told)[1], "--json").json()
    assert found["path"] == done.stdout.strip()
    assert cli("profiles", "import", *arguments, "--json").json()["notes"][-1].endswith(told)


@pytest.mark.parametrize(
    ("content", "told"),
    [("n_layer = (", "train.py:1: this is not Python"), ("batch_size = -1\n", "train.py:1: train.batch_size")],
)
def test_file_that_is_no_config_leaves_nothing_behind(folder: Path, cli: Cli, content: str, told: str) -> None:
    (folder / "train.py").write_text(content, "utf-8")
    done = cli("profiles", "import", "train.py")
    assert (done.code, done.stdout) == (1, "")
    assert told in done.stderr
    assert not (folder / "configs").exists()


def test_missing_file_and_wrong_output_are_told(cli: Cli, config: Path) -> None:
    done = cli("profiles", "import", "config/none.py")
    assert done.code == 1
    assert "config/none.py cannot be read" in done.stderr
    assert cli("profiles", "import", "config/train_docs_char.py", "--output", "mine.py").code == 2
