"""``gptcli prepare``: tokens of a run again, conversations, and what it refuses."""

from __future__ import annotations

import json
import shlex
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


def test_a_profile_that_nobody_chose_is_only_warned_of(folder: Path, cli: Cli) -> None:
    # Too little for each parameter of macbook, as any text of its size is.
    story = "".join(
        f"On day {number} it was a dark and stormy night, number {number % 77}.\n\n" for number in range(3000)
    )
    (folder / "notes.txt").write_text(story, "utf-8")
    cli("fetch", "notes.txt")
    free = cli("prepare", "notes")
    assert "parameters" not in free.stderr
    assert "With the profile" not in free.stderr
    fitting, then = free.stderr.splitlines()[-2:]
    assert fitting == "A profile for this text, your machine and your time: gptcli profiles suggest notes"
    assert then == "Next: gptcli train notes --profile macbook"
    named = cli("prepare", "notes", "--profile", "quickstart")
    assert "With the profile quickstart:" in named.stderr
    assert "model's" in named.stderr
    assert "profiles suggest" not in named.stderr


def test_a_text_too_short_for_the_profile_it_would_be_trained_with_is_still_warned_of(folder: Path, cli: Cli) -> None:
    (folder / "short.txt").write_text("It was a dark and stormy night.\n\n" * 20, "utf-8")
    cli("fetch", "short.txt")
    done = cli("prepare", "short", "--tokenizer", "char")
    assert "With the profile macbook:" in done.stderr
    assert "not one window of model.block_size 128" in done.stderr


def next_command(folder: Path, *arguments: str) -> list[str]:
    """The words of the command that prepare ends by suggesting."""
    done = run_cli(folder, "prepare", *arguments)
    assert done.code == 0, done.stderr
    return shlex.split(done.stderr.splitlines()[-1].removeprefix("Next: gptcli "))


def tokenizer_of(folder: Path, command: list[str]) -> str:
    done = run_cli(folder, *command, "--dry-run", "--json")
    assert done.code == 0, done.stderr
    return str(done.json()["tokenizer"])


def test_the_command_that_is_suggested_uses_the_tokens_that_were_made(folder: Path) -> None:
    (folder / "long.txt").write_text("It was a dark and stormy night.\n\n" * 400, "utf-8")
    run_cli(folder, "fetch", "long.txt")
    assert next_command(folder, "long", "--tokenizer", "char") == ["train", "long", "--profile", "macbook"]
    assert next_command(folder, "long", "--tokenizer", "bpe:300") == ["train", "long", "--profile", "macbook"]
    # Those of characters are older, so that the name alone would mean the others.
    again = next_command(folder, "long", "--tokenizer", "char")
    assert again == ["train", str(Path("corpora/long/tokens/char")), "--profile", "macbook"]
    assert tokenizer_of(folder, again) == "char"


def test_the_command_that_is_suggested_keeps_tokens_that_the_profile_would_not_make(folder: Path) -> None:
    (folder / "long.txt").write_text("It was a dark and stormy night.\n\n" * 400, "utf-8")
    run_cli(folder, "fetch", "long.txt")
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "own.yaml").write_text(
        "model: {n_layer: 1, n_embd: 32, n_head: 2, block_size: 16}\ndata: {corpus: long, tokenizer: char}\n", "utf-8"
    )
    suggested = next_command(folder, "long", "--tokenizer", "bpe:300")
    assert suggested == ["train", str(Path("corpora/long/tokens/bpe-300")), "--profile", "own"]
    assert tokenizer_of(folder, suggested) == "bpe:300"


def test_a_profile_for_finetuning_suggests_to_finetune(folder: Path) -> None:
    (folder / "long.txt").write_text("It was a dark and stormy night.\n\n" * 400, "utf-8")
    run_cli(folder, "fetch", "long.txt")
    (folder / "tuned.yaml").write_text("finetune: {lora_rank: 4}\ndata: {tokenizer: char}\n", "utf-8")
    assert next_command(folder, "long", "--profile", "tuned.yaml") == [
        *("finetune", "long", "--from", "gpt2", "--profile", "tuned.yaml")
    ]


def test_a_corpus_elsewhere_is_suggested_by_its_path(folder: Path) -> None:
    (folder / "long.txt").write_text("It was a dark and stormy night.\n\n" * 400, "utf-8")
    run_cli(folder, "fetch", "long.txt")
    (folder / "corpora" / "long").rename(folder / "my book")
    assert next_command(folder, "./my book", "--tokenizer", "char")[:2] == ["train", "./my book"]


def test_any_number_of_workers_is_taken_and_too_many_are_said_to_be(folder: Path, cli: Cli) -> None:
    one = cli("prepare", "docs.txt", "--tokenizer", "char", "--workers", "1")
    assert (one.code, "workers" in one.stderr) == (0, False)
    tokens = folder / one.stdout.strip() / "train-00000.bin"
    content = tokens.read_bytes()
    many = cli("prepare", "docs", "--tokenizer", "char", "--workers", "1000", "--force")
    assert "for 1,000 workers, so " in many.stderr
    assert tokens.read_bytes() == content
    none = cli("prepare", "docs", "--workers", "0")
    assert none.code == 2
