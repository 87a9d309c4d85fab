"""``gptcli finetune``: from a run, whole or by adapters; what it needs; what it refuses."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bases.model_hub import serve
from tests.cli.conftest import ROOT, Done, run_cli

SPEED = ("--set", "max_steps=8", "--set", "eval_interval=4", "--set", "batch_size=4", "--device", "cpu")
STORY = "The dark stairs creaked. Poirot looked at the little grey cells of the night, and said nothing.\n\n"


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Path:
    """A working folder with the corpus ``docs``, the run ``tiny`` trained on it, and another text."""
    folder = tmp_path / "work"
    shutil.copytree(trained, folder)
    (folder / "story.txt").write_text("".join(f"{n}. {STORY}" for n in range(150)), "utf-8")
    assert run_cli(folder, "fetch", "story.txt").code == 0
    return folder


def metrics(folder: Path, run: str) -> list[dict[str, Any]]:
    lines = (folder / "runs" / run / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def evaluations(folder: Path, run: str) -> dict[int, float]:
    return {event["step"]: event["val_loss"] for event in metrics(folder, run) if event["event"] == "evaluated"}


def finetuned(folder: Path, *args: str) -> Done:
    done = run_cli(folder, "finetune", "story", "--from", "tiny", "--run", "tuned", *SPEED, *args)
    assert done.code == 0, done.stderr
    return done


def test_run_goes_on_with_another_text_in_its_own_tokens(workspace: Path) -> None:
    done = finetuned(workspace)
    assert done.stdout == f"{Path('runs/tuned')}\n"
    assert "Profile finetune-small" in done.stderr
    losses = evaluations(workspace, "tuned")
    assert sorted(losses) == [0, 4, 8]
    assert losses[8] < losses[4] < losses[0]
    base, tuned = (
        json.loads((workspace / "runs" / name / "tokenizer.json").read_bytes()) for name in ("tiny", "tuned")
    )
    assert base["fingerprint"] == tuned["fingerprint"]


def test_row_zero_is_what_eval_says_of_the_base(workspace: Path) -> None:
    finetuned(workspace, "--set", "dtype=float32")
    documents = (workspace / "corpora/story/documents.jsonl").read_text("utf-8").splitlines()
    story = "".join(json.loads(line)["text"] for line in documents)
    manifest = json.loads((workspace / "runs/tuned/dataset.json").read_bytes())["manifest"]
    tail = story.encode()[-manifest["val"]["bytes"] :].decode()
    (workspace / "val.txt").write_text(tail, "utf-8")
    # The run's own block_size scores the same windows.
    value = run_cli(workspace, "eval", "tiny", "--text", "val.txt", "--json").json()["val_loss"]
    assert math.isclose(evaluations(workspace, "tuned")[0], value, rel_tol=1e-5)


def test_adapters_alone_are_saved_and_sample_eval_and_resume_go_on(workspace: Path) -> None:
    from safetensors import safe_open

    finetuned(workspace, "--set", "finetune.lora_rank=4", "--set", "learning_rate=0.01", "--set", "optimizer=adamw")
    run = workspace / "runs" / "tuned"
    losses = evaluations(workspace, "tuned")
    assert losses[8] < losses[0]
    with safe_open(str(run / "checkpoints" / "step_000008" / "model.safetensors"), "pt") as file:
        assert all(".lora_" in name for name in file.keys())  # noqa: SIM118 - safe_open is no mapping
    shutil.rmtree(workspace / "corpora")
    written = run_cli(workspace, "sample", "tuned", "--prompt", "The dark", "--seed", "3")
    assert written.code == 0, written.stderr
    assert written.stdout.startswith("The dark")
    scored = run_cli(workspace, "eval", "tuned", "--text", "story.txt", "--json")
    base = run_cli(workspace, "eval", "tiny", "--text", "story.txt", "--json")
    assert scored.json()["val_loss"] < base.json()["val_loss"]


def test_tokens_that_are_gone_come_back_in_the_runs_own_tokenizer(workspace: Path) -> None:
    finetuned(workspace)
    shutil.rmtree(workspace / "corpora" / "story" / "tokens")
    gone = run_cli(workspace, "train", "--resume", "--run", "tuned", "--set", "max_steps=12")
    assert gone.code == 1
    assert "gptcli prepare story --run tuned" in gone.stderr
    assert run_cli(workspace, "prepare", "story", "--run", "tuned").code == 0
    assert run_cli(workspace, "train", "--resume", "--run", "tuned", "--set", "max_steps=12").code == 0
    assert evaluations(workspace, "tuned")[12] < evaluations(workspace, "tuned")[8]


def test_dry_run_says_what_it_needs_and_makes_nothing(workspace: Path) -> None:
    before = sorted(workspace.rglob("*"))
    done = run_cli(workspace, "finetune", "story", "--from", "gpt2-large", "--dry-run", "--json", "--device", "cpu")
    facts = done.json()
    assert facts["n_params"] == 774_030_080 - (1024 - 256) * 1280  # a shorter context has fewer positions
    assert 3.0e9 < facts["download_bytes"] < 3.4e9
    assert 0 < facts["trained_params"] < 0.03 * facts["n_params"]
    assert 1.5e9 < facts["memory_peak"] < 8e9
    assert "Profile finetune-lora" in done.stderr
    assert sorted(workspace.rglob("*")) == before
    text = run_cli(workspace, "finetune", "--from", "tiny", "--dry-run").stdout
    assert re.search(r"^memory_peak: \d+ MB$", text, re.MULTILINE)
    assert "download: 0 bytes\n" in text


def test_budget_fits_a_finetune_too(workspace: Path) -> None:
    args = ("--from", "tiny", "--run", "timed", "--budget", "6s", "--device", "cpu", "--set", "patience=0")
    done = run_cli(workspace, "finetune", "story", *args)
    assert done.code == 0, done.stderr
    assert "6 s allow" in done.stderr
    assert 0 in evaluations(workspace, "timed")


def test_it_ends_early_when_val_loss_goes_up(workspace: Path) -> None:
    args = ("--set", "max_steps=200", "--set", "learning_rate=1.0", "--set", "grad_clip=0", "--set", "patience=2")
    done = finetuned(workspace, *args, "--set", "optimizer=adamw", "--set", "warmup_steps=0")
    last = metrics(workspace, "tuned")[-1]
    assert (last["reason"], last["best_step"]) == ("stopped_early", 0)
    assert last["step"] == 8
    assert "step 0" in done.stderr


def test_model_of_a_profile_is_found_without_being_named(workspace: Path) -> None:
    (workspace / "mine.yaml").write_text(
        "finetune: {base: tiny}\ndata: {corpus: story}\ntrain: {max_steps: 2, batch_size: 2, device: cpu}\n", "utf-8"
    )
    done = run_cli(workspace, "finetune", "--profile", "mine.yaml")
    assert (done.code, done.stdout) == (0, f"{Path('runs/story-mine')}\n"), done.stderr


CHATS = [
    {"messages": [{"role": "user", "content": f"What is {a} plus {b}?"}, {"role": "assistant", "content": f"{a + b}."}]}
    for a in range(10)
    for b in range(10)
]


def test_conversations_are_learned_by_their_answers(workspace: Path) -> None:
    (workspace / "sums.jsonl").write_text("\n".join(map(json.dumps, CHATS)), "utf-8")
    fetched = run_cli(workspace, "fetch", "sums.jsonl")
    assert "100 conversations" in fetched.stderr
    assert "Next: gptcli finetune sums --from gpt2" in fetched.stderr
    args = ("--run", "sums", *SPEED, "--set", "max_steps=12", "--set", "learning_rate=0.01")
    done = run_cli(workspace, "finetune", "sums", "--from", "tiny", *args)
    assert done.code == 0, done.stderr
    losses = evaluations(workspace, "sums")
    assert losses[12] < losses[0]
    template = json.loads((workspace / "runs/sums/dataset.json").read_bytes())["manifest"]["chat"]
    assert (template["user_start"], template["answer_start"]) == ("User: ", "Assistant:")
    options = ("--temperature", "0", "--max-new-tokens", "8")
    asked = run_cli(workspace, "sample", "sums", "--chat", "--prompt", "What is 1 plus 2?", *options)
    written = run_cli(workspace, "sample", "sums", "--prompt", "User: What is 1 plus 2?\nAssistant:", *options)
    assert written.stdout == f"User: What is 1 plus 2?\nAssistant: {asked.stdout}"
    refused = run_cli(workspace, "sample", "tiny", "--chat", "--prompt", "Hello")
    assert (refused.code, "was not tuned on conversations" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("story",), 1, "There is no model to begin from"),
        (("story", "--profile", "finetune-small"), 1, "The profile finetune-small names no model"),
        (("story", "--from", "tinny"), 1, "Did you mean tiny?"),
        (("story", "--from", "nanogpt:nowhere.pt"), 1, "nowhere.pt"),
        (("nostory", "--from", "tiny"), 1, "'nostory'"),
        (("story", "--from", "tiny", "--set", "block_size=64"), 1, "model.block_size is 64, tiny has 32"),
        (("story", "--from", "tiny", "--set", "n_layer=3", "--set", "n_embd=64"), 1, "n_embd"),
        (("story", "--from", "tiny", "--set", "lora_rank=2", "--set", "lora_targets=c_attn"), 1, "attn.qkv"),
        (("story", "--from", "tiny", "--run", "tiny"), 1, "exists already"),
        (("story", "--from", "tiny", "--set", "finetune.lora_rank=-1"), 1, "finetune.lora_rank"),
        (("docs/tokens", "--from", "tiny"), 1, "There is no corpus called 'docs/tokens'"),
        (("nostory", "--from", "gpt2-xl", "--dry-run"), 1, "There is no corpus called 'nostory'"),
        (("story", "--from", "tiny", "--set", "lora_rank=33"), 1, "the narrowest of the layers is 32 wide"),
        (("story", "--from", "tiny", "--set", "lora_alpha=8"), 1, "lora_alpha does nothing without lora_rank"),
        (("story", "--from", "tiny", "--set", "tokenizer=char"), 1, "comes with its own, bpe:300"),
        (("story", "--from", "tiny", "--resume"), 2, "gptcli train --resume"),
        (("story", "--from", "tiny", "--dry-run", "--budget", "5s"), 2, "--budget times real steps"),
    ],
)
def test_mistake_ends_in_a_sentence_and_leaves_no_run(
    workspace: Path, args: tuple[str, ...], code: int, words: str
) -> None:
    before = sorted((workspace / "runs").iterdir())
    done = run_cli(workspace, "finetune", *args, "--device", "cpu")
    assert done.code == code
    assert words in done.stderr.replace("\n", " ")
    assert done.stdout == ""
    assert sorted((workspace / "runs").iterdir()) == before


def test_tokens_of_another_tokenizer_are_refused_by_name(workspace: Path) -> None:
    tokens = run_cli(workspace, "prepare", "story", "--tokenizer", "char").stdout.strip()
    done = run_cli(workspace, "finetune", tokens, "--from", "tiny")
    assert done.code == 1
    assert "made with char" in done.stderr
    assert "gptcli finetune story --from tiny" in done.stderr


def test_model_of_characters_says_that_it_can_learn_no_others(workspace: Path) -> None:
    args = ("--profile", "tiny.yaml", "--set", "data.tokenizer=char", "--run", "letters", "--quiet")
    assert run_cli(workspace, "train", "docs", *args).code == 0
    (workspace / "umlaut.txt").write_text("Grüße aus Köln. " * 300, "utf-8")
    assert run_cli(workspace, "fetch", "umlaut.txt").code == 0
    done = run_cli(workspace, "finetune", "umlaut", "--from", "letters")
    assert done.code == 1
    assert "'ü'" in done.stderr
    assert "letters can learn no others" in done.stderr


@pytest.mark.parametrize("args", [("--profile", "finetune-lora"), ("--profile", "tiny.yaml", "--set", "lora_rank=2")])
def test_train_has_no_use_for_a_finetune_profile_and_says_what_has(workspace: Path, args: tuple[str, ...]) -> None:
    done = run_cli(workspace, "train", "story", *args)
    assert done.code == 1
    assert "gptcli train begins from nothing" in done.stderr
    assert "gptcli finetune story --profile" in done.stderr


def test_promise_of_a_profile_is_for_its_own_model_and_corpus(workspace: Path) -> None:
    (workspace / "sure.yaml").write_text(
        "expects: {val_loss: 9.0, tokenizer: 'bpe:300'}\nfinetune: {base: tiny}\ndata: {corpus: story}\n"
        "train: {max_steps: 2, batch_size: 2, device: cpu}\n",
        "utf-8",
    )
    assert "promised" in run_cli(workspace, "finetune", "--profile", "sure.yaml").stderr
    assert "promised" not in run_cli(workspace, "finetune", "docs", "--profile", "sure.yaml").stderr


def test_mistake_is_found_before_any_weights_are_downloaded(workspace: Path, tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "served")
    with serve() as hub:
        hub.repositories["some/model"] = tmp_path / "served"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        for args in (("nostory",), ("story", "--set", "block_size=128"), ("story", "--set", "n_layer=2")):
            done = subprocess.run(
                [sys.executable, "-m", "gptcli", "finetune", "--from", "some/model", *args],
                cwd=workspace,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
            assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert set(hub.sent) == {"config.json"}
