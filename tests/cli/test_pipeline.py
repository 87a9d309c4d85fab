"""fetch, prepare, train, sample and eval one after the other: what each prints, and how one feeds the next."""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, run_cli


def test_each_command_prints_one_line_that_the_next_one_takes(folder: Path, cli: Cli) -> None:
    fetched = cli("fetch", "docs.txt", "--name", "docs")
    assert fetched.stdout == f"{Path('corpora/docs')}\n"
    prepared = cli("prepare", fetched.stdout.strip(), "--tokenizer", "char")
    assert prepared.stdout == f"{Path('corpora/docs/tokens/char')}\n"
    trained = cli("train", prepared.stdout.strip(), "--profile", "tiny.yaml")
    assert trained.stdout == f"{Path('runs/docs-tiny')}\n"
    evaluated = cli("eval", trained.stdout.strip())
    assert evaluated.stdout.count("\n") == 1
    values = dict(part.split("=") for part in evaluated.stdout.split())
    assert list(values) == ["val_loss", "val_loss_stderr", "perplexity", "bits_per_byte", "n_tokens"]
    sampled = cli("sample", trained.stdout.strip(), "-p", "The ")
    assert sampled.stdout.startswith("The ")
    assert all(done.code == 0 for done in (fetched, prepared, trained, evaluated, sampled))


def test_json_is_one_object_at_every_stage(folder: Path, cli: Cli) -> None:
    fetched = cli("fetch", "docs.txt", "--json").json()
    assert fetched["corpus"] == "docs"
    assert fetched["documents"] == 1
    prepared = cli("prepare", "docs", "--tokenizer", "char", "--split-at", "0.9", "--json").json()
    assert prepared["tokens"] == prepared["train_tokens"] + prepared["val_tokens"] == 60_000
    assert prepared["train_tokens"] == 54_000
    assert prepared["documents"] == 1
    assert prepared["dtype"] == "uint16"
    assert prepared["findings"]
    trained = cli("train", "docs", "--profile", "tiny.yaml", "--run", "r", "--json").json()
    assert trained["run"] == "r"
    assert Path(trained["folder"]) == Path("runs/r")
    assert trained["reason"] == "completed"
    assert trained["step"] == 12
    evaluated = cli("eval", "r", "--json").json()
    assert evaluated["perplexity"] == pytest.approx(math.exp(evaluated["val_loss"]))
    assert evaluated["n_tokens"] > 1000
    sampled = cli("sample", "r", "-p", "The", "--num-samples", "2", "--json").json()
    assert [sample["seed"] for sample in sampled["samples"]] == [7, 8]
    assert all(sample["prompt"] == "The" and sample["tokens"] == 12 for sample in sampled["samples"])
    assert sampled["tokens_per_second"] > 0


def test_train_in_an_empty_folder_does_the_earlier_stages_and_says_so(folder: Path, cli: Cli) -> None:
    done = cli("train", "--profile", "tiny.yaml", "--set", "max_steps=2")
    assert done.code == 0, done.stderr
    assert "fetching" in done.stderr
    assert "Preparing python-docs" in done.stderr
    assert done.stdout == f"{Path('runs/python-docs-tiny')}\n"


def test_train_does_not_prepare_again_what_is_prepared(trained: Path) -> None:
    done = run_cli(trained, "train", "docs", "--profile", "tiny.yaml", "--dry-run")
    assert done.code == 0
    assert "Preparing" not in done.stderr


def test_corpus_named_by_nobody_is_the_newest(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt", "--name", "mine")
    assert cli("prepare", "--json").json()["corpus"] == "mine"
    assert cli("train", "--profile", "tiny.yaml", "--dry-run", "--json").json()["corpus"] == "mine"


def test_corpus_of_the_profile_comes_before_the_newest(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt", "--name", "mine")
    args = ("train", "--profile", "tiny.yaml", "--set", "corpus=python-docs", "--dry-run", "--json")
    assert cli(*args).json()["corpus"] == "python-docs"


def test_text_from_stdin_becomes_a_corpus(cli: Cli, real_text: str) -> None:
    assert cli("fetch", "-", "--name", "piped", stdin=real_text).stdout == f"{Path('corpora/piped')}\n"


def test_prepare_reports_on_stderr(cli: Cli) -> None:
    cli("fetch", "docs.txt")
    report = cli("prepare", "docs", "--tokenizer", "char", "--profile", "tiny.yaml").stderr
    for fact in ("1, 0 duplicates removed", "60,", "bytes per token", "uint16", "it was asked for", "paragraph"):
        assert fact in report
    assert "With the profile tiny.yaml:" in report
    assert "block_size 32" in report


def test_prepare_sizes_val_and_train_takes_what_it_made(cli: Cli) -> None:
    cli("fetch", "docs.txt")
    sized = cli("prepare", "docs", "--tokenizer", "char", "--val-fraction", "0.3", "--json").json()
    assert 0.25 < sized["val_tokens"] / sized["tokens"] < 0.35
    dry = cli("train", "docs", "--profile", "tiny.yaml", "--set", "tokenizer=char", "--dry-run", "--json")
    assert dry.json()["val_tokens"] == sized["val_tokens"]
    assert "Preparing" not in dry.stderr
    assert cli("prepare", "docs", "--val-fraction", "0.3", "--split-at", "0.9").code == 2
    wrong = cli("prepare", "docs", "--val-fraction", "1.5")
    assert (wrong.code, "--val-fraction: " in wrong.stderr) == (1, True)


def test_prepare_says_that_tokens_are_there_and_makes_them_again_when_forced(cli: Cli) -> None:
    cli("fetch", "docs.txt")
    assert cli("prepare", "docs", "--tokenizer", "char", "--json").json()["reused"] is False
    assert cli("prepare", "docs", "--tokenizer", "char", "--json").json()["reused"] is True
    assert cli("prepare", "docs", "--tokenizer", "char", "--force", "--json").json()["reused"] is False


def test_without_corpora_sample_and_eval_of_a_text_still_work(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt")
    cli("train", "docs", "--profile", "tiny.yaml", "--run", "tiny", "--set", "max_steps=2")
    shutil.rmtree(folder / "corpora")
    assert cli("sample", "tiny", "-p", "The ").code == 0
    done = cli("eval", "tiny", "--text", "docs.txt", "--json")
    assert done.code == 0
    assert done.json()["n_tokens"] > 10_000
    gone = cli("eval", "tiny")
    assert gone.code == 1
    assert "gptcli prepare docs" in gone.stderr


def test_eval_takes_a_text_from_stdin(trained: Path, real_text: str) -> None:
    piped = run_cli(trained, "eval", "tiny", "--text", "-", "--json", stdin=real_text).json()
    read = run_cli(trained, "eval", "tiny", "--text", "docs.txt", "--json").json()
    assert piped["val_loss"] == read["val_loss"]


def test_eval_says_which_encoding_it_guessed(trained: Path, tmp_path: Path) -> None:
    text = "Le café est à côté de la forêt, où l\u2019été a été très doux.\n" * 20
    (tmp_path / "plain.txt").write_text(text, "utf-8")
    (tmp_path / "old.txt").write_bytes(text.encode("cp1252"))
    plain, old = (str(tmp_path / name) for name in ("plain.txt", "old.txt"))
    done = run_cli(trained, "eval", "tiny", "--text", old)
    assert f"{old} is not UTF-8; read as cp1252. Pass --encoding to insist on another." in done.stderr
    assert done.stdout == run_cli(trained, "eval", "tiny", "--text", plain).stdout
    told = run_cli(trained, "eval", "tiny", "--text", old, "--encoding", "cp1252")
    assert (told.stdout, told.stderr) == (done.stdout, "")
    assert run_cli(trained, "eval", "tiny", "--encoding", "cp1252").code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_eval_takes_a_text_from_a_pipe(trained: Path, tmp_path: Path, real_text: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(real_text, "utf-8"))
    writer.start()
    done = run_cli(trained, "eval", "tiny", "--text", str(pipe))
    writer.join()
    assert done.stdout == run_cli(trained, "eval", "tiny", "--text", "docs.txt").stdout


def test_book_in_gpt2_tokens_is_tiktokens_own(
    folder: Path, cli: Cli, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiktoken

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    book = shared_data / "gutenberg" / "863-0.txt"
    cli("fetch", str(book), "--as", "text", "--name", "book")  # as it is, with header and licence
    prepared = cli("prepare", "book", "--tokenizer", "gpt2", "--split-at", "0.9", "--json").json()
    text = book.read_text("utf-8-sig")
    cut = int(len(text) * 0.9)
    encoding = tiktoken.get_encoding("gpt2")
    assert prepared["train_tokens"] == len(encoding.encode_ordinary(text[:cut]))
    assert prepared["val_tokens"] == len(encoding.encode_ordinary(text[cut:]))


def test_shakespeare_in_characters_is_nanogpts_split(folder: Path, cli: Cli, shared_data: Path) -> None:
    cli("fetch", str(shared_data / "tinyshakespeare.txt"), "--name", "shakespeare")
    args = ("prepare", "shakespeare", "--tokenizer", "char", "--split-at", "0.9", "--json")
    prepared = cli(*args).json()
    assert (prepared["train_tokens"], prepared["val_tokens"], prepared["vocab_size"]) == (1_003_854, 111_540, 65)
