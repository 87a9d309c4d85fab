"""``gptcli prepare``: tokens of a run again, conversations, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gptcli.runs import RunDir
from tests.cli.conftest import Cli, run_cli, working_in


def write_chats(folder: Path, count: int) -> None:
    records = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(count)]
    records += [{"prompt": "And then?", "completion": ""}] * 3
    (folder / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def test_the_tokens_of_a_run_are_made_again(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    before = RunDir(folder / "runs" / "tiny").manifest()
    shutil.rmtree(folder / "corpora" / "docs" / "tokens")
    done = run_cli(folder, "prepare", "--run", "tiny", "--json")
    assert done.code == 0, done.stderr
    made = done.json()
    assert Path(made["folder"]).name == f"bpe-300-{before.fingerprint[:8]}"
    assert (made["corpus"], made["train_tokens"], made["split"]) == ("docs", before.train.tokens, before.split)
    assert (made["run"], made["profile"]) == ("tiny", None)
    assert "With the run tiny:" in done.stderr
    assert "Next: gptcli train --resume --run tiny\n" in done.stderr
    with working_in(folder):
        assert RunDir(Path("runs/tiny")).dataset().folder == Path(made["folder"])
    resumed = run_cli(folder, "train", "--resume", "--run", "tiny", "--set", "max_steps=14")
    assert resumed.code == 0, resumed.stderr


def test_the_tokenizer_of_a_run_serves_another_corpus(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    (folder / "more.txt").write_text("Another text, of words that are tokens already.\n\n" * 30, "utf-8")
    run_cli(folder, "fetch", "more.txt")
    done = run_cli(folder, "prepare", "more", "--run", "tiny")
    assert done.code == 0, done.stderr
    assert Path(done.stdout.strip()).name.startswith("bpe-300-")
    assert "Next: gptcli finetune more --from tiny\n" in done.stderr


def test_a_run_has_a_tokenizer_and_a_profile_of_its_own(folder: Path, cli: Cli) -> None:
    for option in (("--tokenizer", "char"), ("--profile", "tiny.yaml")):
        done = cli("prepare", "--run", "r", *option)
        assert done.code == 2
        assert "--run has a tokenizer and a profile of its own" in " ".join(done.stderr.replace("│", " ").split())


def test_an_unknown_run_is_an_error_of_ours(folder: Path, cli: Cli) -> None:
    done = cli("prepare", "--run", "nobody")
    assert (done.code, done.stdout) == (1, "")
    assert "There is no run called" in done.stderr


def test_conversations_are_counted_from_fetch_to_prepare(folder: Path, cli: Cli) -> None:
    write_chats(folder, 60)
    fetched = cli("fetch", "chats.jsonl")
    assert "chats: 60 conversations, " in fetched.stderr
    assert "conversations without an answer: 3" in fetched.stderr
    assert "conversations: 60\n" in cli("corpora", "show", "chats").stdout
    assert "60 conversations, " in cli("corpora", "list").stdout
    prepared = cli("prepare", "chats")
    assert "60 with 60 answers: " in prepared.stderr
    again = cli("prepare", "chats", "--json").json()
    assert (again["conversations"], again["answers"], again["reused"]) == (60, 60, True)
    assert 0 < again["scored_tokens"] < again["tokens"]


def test_a_model_is_trained_on_answers_alone_and_evaluated_on_them(folder: Path, cli: Cli) -> None:
    write_chats(folder, 200)
    cli("fetch", "chats.jsonl")
    done = cli("train", "chats", "--profile", "tiny.yaml", "--run", "r", "--set", "data.tokenizer=char")
    assert done.code == 0, done.stderr
    evaluated = cli("eval", "r", "--json").json()
    with working_in(folder):
        found = RunDir(Path("runs/r")).manifest().val.conversations
    assert found is not None
    assert evaluated["n_tokens"] == found.scored_tokens
    resumed = cli("train", "--resume", "--run", "r", "--set", "max_steps=16")
    assert resumed.code == 0, resumed.stderr
