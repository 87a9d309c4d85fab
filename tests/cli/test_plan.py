"""``gptcli plan``: complete without any text, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from gptcli.cli.plan import parse_memory
from tests.cli.conftest import Cli, run_cli

TINY = ("--profile", "tiny.yaml")


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("7.5 GiB", 15 * 2**29), ("500mb", 5 * 10**8), ("8g", 8 * 10**9), (" 1TB ", 10**12)],
)
def test_memory_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "said"),
    [("8", "write 8GB or 8MB"), ("0.5", "write 0.5GB"), ("much", "write 8GB"), ("0GB", "write 8GB"), ("-8GB", "8GB"),
     ("8 bananas", "no amount of memory"), ("", "no amount"), ("9" * 30 + "GB", "no amount")],
)  # fmt: skip
def test_memory_without_a_unit_or_in_other_words_is_refused_with_the_right_form(text: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        parse_memory(text)


def test_a_number_without_unit_is_a_usage_error(cli: Cli) -> None:
    done = cli("plan", *TINY, "--memory", "8")
    assert done.code == 2
    assert "'8' has no unit; write 8GB or 8MB." in done.stderr


@pytest.mark.parametrize("profile", ["gpt2-124m", "rtx3070-openwebtext"])
def test_profiles_for_openwebtext_are_planned_in_an_empty_folder(profile: str, tmp_path: Path) -> None:
    done = run_cli(tmp_path, "plan", "--profile", profile, "--device", "RTX 3070")
    assert done.code == 0, done.stderr
    for label in ("parameters", "arithmetic", "tokens_per_step", "tokens a parameter", "memory", "peak", "step", "time",
                  "largest batch_size"):  # fmt: skip
        assert f"\n{label}  " in done.stdout
    for part in ("weights", "gradients", "optimizer", "activations", "logits", "other"):
        assert f"  {part}\n" in done.stdout
    assert f"gptcli prepare openwebtext --profile {profile}" in done.stdout
    assert "mfu" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_gigabytes_that_are_not_here_is_planned_without_them(tmp_path: Path) -> None:
    done = run_cli(tmp_path, "train", "--profile", "gpt2-124m", "--dry-run", "--device", "cpu", "--json")
    assert done.code == 0, done.stderr
    assert "gptcli plan" in done.stderr
    facts = done.json()
    assert (facts["n_params"], facts["train_tokens"]) == (124_337_664, None)
    assert list(tmp_path.iterdir()) == []


def test_tokens_that_are_there_are_used_and_a_plan_agrees_with_a_dry_run(trained: Path) -> None:
    plan = run_cli(trained, "plan", "docs", *TINY, "--json")
    assert plan.code == 0, plan.stderr
    dry = run_cli(trained, "train", "docs", *TINY, "--dry-run", "--json").json()
    facts = plan.json()
    assert {key: facts[key] for key in dry} == dry
    assert facts["train_tokens"] > 0
    assert facts["unknown"] == []
    assert facts["seconds"] > 0
    assert set(facts) - set(dry) == {
        *("largest_batch_size", "step_seconds", "tokens_per_second", "evaluation_seconds", "seconds", "time_source"),
        "warnings",
    }


def test_a_text_that_is_no_corpus_yet_is_not_fetched(folder: Path, cli: Cli) -> None:
    done = cli("plan", "docs.txt", *TINY)
    assert done.code == 0, done.stderr
    assert "docs.txt, not prepared; tokenizer bpe:300" in done.stdout
    assert "gptcli prepare docs.txt --profile tiny.yaml" in done.stdout
    assert not (folder / "corpora").exists()


def test_the_tokenizer_of_a_promise_is_that_of_its_corpus(cli: Cli) -> None:
    facts = cli("plan", "--profile", "quickstart", "--device", "t4", "--json").json()
    assert (facts["corpus"], facts["tokenizer"], facts["vocab_size"]) == ("python-docs", "bpe:512", 512)


def test_a_name_that_is_no_corpus_is_an_error(cli: Cli) -> None:
    done = cli("plan", "nowhere", *TINY)
    assert (done.code, "There is no corpus called 'nowhere'" in done.stderr) == (1, True)


def test_an_unknown_device_is_answered_with_the_known_ones(cli: Cli) -> None:
    done = cli("plan", *TINY, "--device", "RTX 9999")
    assert done.code == 1
    assert "There is no device called 'RTX 9999'." in done.stderr
    assert "RTX 3070" in done.stderr
    assert "A100" in done.stderr


def test_too_little_memory_for_any_batch_is_said(cli: Cli) -> None:
    done = cli("plan", "--profile", "gpt2-124m", "--device", "a100", "--memory", "1GB")
    assert done.code == 0
    assert "not even batch_size 1 fits 1.0 GB" in done.stdout
    assert "largest batch_size  not even 1 fits" in done.stdout


def test_memory_for_more_rows_than_anybody_asks_for_is_said_in_words(cli: Cli) -> None:
    done = cli("plan", *TINY, "--device", "cuda:99", "--memory", "1000TB")
    assert "largest batch_size  more than a million, with a tenth" in done.stdout


def test_a_profile_for_finetuning_is_shown_the_way(cli: Cli) -> None:
    for command in ("plan", "bench"):
        done = cli(command, "--profile", "finetune-gpt2")
        assert done.code == 1
        assert "--profile finetune-gpt2" in done.stderr
        assert "--dry-run" in done.stderr
