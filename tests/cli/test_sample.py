"""``gptcli sample``: where the prompt comes from, what reaches stdout, and which values cannot be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.bases.saved import MODERN, qwen_tokenizer, save_model, save_tokenizer_of_qwen
from tests.cli.conftest import ROOT, run_cli


def test_prompt_comes_from_option_file_or_stdin(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("The for\n", "utf-8")
    wanted = run_cli(trained, "sample", "tiny", "-p", "The for").stdout
    assert wanted.startswith("The for")
    assert run_cli(trained, "sample", "tiny", "--prompt-file", str(file)).stdout == wanted
    assert run_cli(trained, "sample", "tiny", "--prompt-file", "-", stdin="The for\n").stdout == wanted
    assert run_cli(trained, "sample", "tiny", "-", stdin="The for").stdout == wanted
    assert run_cli(trained, "sample", "-", stdin="The for").stdout == wanted


def test_without_run_the_newest_is_taken_and_named_on_stderr(trained: Path) -> None:
    done = run_cli(trained, "sample", "-p", "The for")
    assert done.code == 0
    assert "tiny" in done.stderr
    assert done.stdout == run_cli(trained, "sample", "tiny", "-p", "The for").stdout


def test_defaults_come_from_the_profile_of_the_run(trained: Path) -> None:
    (sample,) = run_cli(trained, "sample", "tiny", "--json").json()["samples"]
    assert (sample["tokens"], sample["seed"], sample["prompt"]) == (12, 7, "")


def test_streamed_text_is_that_of_json(trained: Path) -> None:
    (sample,) = run_cli(trained, "sample", "tiny", "-p", "é", "--json").json()["samples"]
    text = sample["prompt"] + sample["text"]
    assert run_cli(trained, "sample", "tiny", "-p", "é").stdout == text + ("" if text.endswith("\n") else "\n")


def test_several_samples_are_whole_and_separated(trained: Path) -> None:
    args = ("sample", "tiny", "-p", "The ", "--num-samples", "3")
    texts = [sample["prompt"] + sample["text"] for sample in run_cli(trained, *args, "--json").json()["samples"]]
    lines = [text if text.endswith("\n") else text + "\n" for text in texts]
    assert run_cli(trained, *args).stdout == "---\n".join(lines)


def test_stop_string_ends_the_text_and_is_left_out(trained: Path) -> None:
    args = ("sample", "tiny", "-p", "The ", "--max-new-tokens", "60", "--json")
    (free,) = run_cli(trained, *args).json()["samples"]
    stop = free["text"][5:8]
    (stopped,) = run_cli(trained, *args, "--stop", stop, "--stop", "\u2603").json()["samples"]
    assert stopped["finish_reason"] == "stop"
    assert free["text"].startswith(stopped["text"])
    assert stop not in stopped["text"]


def test_same_seed_same_text_and_greedy_needs_none(trained: Path) -> None:
    def text(*args: str) -> str:
        return run_cli(trained, "sample", "tiny", "-p", "The ", *args).stdout

    assert text("--seed", "3") == text("--seed", "3") != text("--seed", "4")
    assert text("--temperature", "0", "--seed", "3") == text("--temperature", "0", "--seed", "4")


def test_all_impossible_values_are_named_at_once(trained: Path) -> None:
    done = run_cli(
        trained, "sample", "tiny", "--temperature", "-1", "--top-p", "3", "--min-p", "nan", "--num-samples", "0",
        "--top-k", "0", "--repetition-penalty", "0", "--max-new-tokens", "-5", "--stop", "",
    )  # fmt: skip
    assert done.code == 1
    for name in ("temperature", "top-p", "min-p", "num-samples", "top-k", "repetition-penalty", "max-new-tokens"):
        assert f"--{name}: " in done.stderr
    assert "a stop string must not be empty" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "args",
    [
        ("tiny", "Once upon a time"),
        ("tiny", "-", "-p", "x"),
        ("-p", "x", "--prompt-file", "y"),
        ("--temperature", "hot"),
        ("tiny", "--encoding", "cp1252"),
        ("tiny", "-p", "x", "--encoding", "cp1252"),
    ],
)
def test_wrong_usage_is_code_2(trained: Path, args: tuple[str, ...]) -> None:
    assert run_cli(trained, "sample", *args, stdin="x").code == 2


def test_prompt_that_is_not_utf8_is_refused(trained: Path, tmp_path: Path) -> None:
    assert "not UTF-8" in run_cli(trained, "sample", "tiny", "-", stdin=b"caf\xe9").stderr
    done = run_cli(trained, "sample", "tiny", "-p", "caf\udce9")
    assert (done.code, "not UTF-8" in done.stderr) == (1, True)


CAFE = "Le café est à côté de la forêt, où l\u2019été a été très doux.\n"


def test_guessed_encoding_is_said_and_can_be_insisted_on(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(CAFE.encode("cp1252"))
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(file))
    assert done.stdout.startswith(CAFE.rstrip("\n"))
    assert f"{file} is not UTF-8; read as cp1252. Pass --encoding to insist" in done.stderr
    told = run_cli(trained, "sample", "tiny", "--prompt-file", str(file), "--encoding", "cp1252")
    assert told.stdout == done.stdout
    assert "encoding" not in told.stderr
    assert run_cli(trained, "sample", "-", "--encoding", "cp1252", stdin=file.read_bytes()).stdout == done.stdout
    wrong = run_cli(trained, "sample", "tiny", "--prompt-file", str(file), "--encoding", "utf-8")
    assert (wrong.code, wrong.stdout) == (1, "")
    assert "--encoding" in wrong.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_prompt_comes_from_a_pipe(trained: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"The for\n",))
    writer.start()
    done = run_cli(trained, "sample", "tiny", "--prompt-file", str(pipe))
    writer.join()
    assert done.stdout == run_cli(trained, "sample", "tiny", "-p", "The for").stdout


def test_folder_of_a_published_model_writes_too(
    trained: Path, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=4, n_positions=32)).save_pretrained(tmp_path / "small")
    done = run_cli(trained, "sample", str(tmp_path / "small"), "-p", "What is", "--max-new-tokens", "40", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["samples"][0]["tokens"] == 40
    assert done.json()["step"] is None


def test_folder_with_a_tokenizer_of_its_own_writes_and_says_what_is_left_out(trained: Path, tmp_path: Path) -> None:
    tokenizer = qwen_tokenizer(["What is to be is what was."], 280)
    size = tokenizer.get_vocab_size()
    save_tokenizer_of_qwen(tokenizer, tmp_path)
    save_model(MODERN.model_copy(update={"vocab_size": size + 7}), tmp_path)
    done = run_cli(trained, "sample", str(tmp_path), "-p", "What is", "--max-new-tokens", "9", "--json")
    assert done.code == 0, done.stderr
    assert f"7 rows that only pad the vocabulary of {tmp_path} are left out: it has {size} tokens." in done.stderr
    value = done.json()
    assert (value["run"], value["step"], value["samples"][0]["prompt"]) == (str(tmp_path), None, "What is")


def test_run_is_sampled_by_its_path_and_named_by_its_name(trained: Path) -> None:
    value = run_cli(trained, "sample", "runs/tiny", "-p", "The for", "--json").json()
    expected = run_cli(trained, "sample", "tiny", "-p", "The for", "--json").json()
    assert [sample["text"] for sample in value["samples"]] == [sample["text"] for sample in expected["samples"]]
    assert (value["run"], value["step"]) == ("tiny", 12)


def test_folder_that_is_no_model_is_one_clear_error(trained: Path, tmp_path: Path) -> None:
    done = run_cli(trained, "sample", str(tmp_path))
    assert (done.code, done.stdout) == (1, "")
    assert "neither config.json" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_terminal_sees_controls_that_a_pipe_gets_exactly(trained: Path) -> None:
    command = [sys.executable, "-m", "gptcli", "sample", "tiny", "-p", "\x1b]52;c;eA==\x07[red]\u202e"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    piped = subprocess.run(command, cwd=trained, env=env, capture_output=True, check=True).stdout
    assert piped.decode().startswith("\x1b]52;c;eA==\x07[red]\u202e")
    ours, theirs = os.openpty()
    try:
        subprocess.run(command, cwd=trained, env=env, stdout=theirs, stderr=subprocess.DEVNULL, check=True)
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\u241b]52;c;eA==\u2407[red]<U+202E>" in shown
    assert "\x1b]" not in shown
    assert set(re.findall("\x1b[^m]*m", shown)) <= {"\x1b[2m", "\x1b[0m"}


def test_logprobs_are_those_of_the_tokens_and_need_json(trained: Path) -> None:
    args = ("sample", "tiny", "-p", "The ", "--temperature", "0", "--logprobs")
    (sample,) = run_cli(trained, *args, "--json").json()["samples"]
    rows = sample["logprobs"]
    assert len(rows) == sample["tokens"]
    assert "".join(row["text"] for row in rows) == sample["text"]
    assert all(row["logprob"] <= 0 for row in rows)
    assert run_cli(trained, *args).code == 2


def test_until_stop_goes_on_past_max_new_tokens_of_the_profile(trained: Path) -> None:
    (free,) = run_cli(trained, "sample", "tiny", "-p", "The ", "--max-new-tokens", "200", "--json").json()["samples"]
    stop = free["text"][60:64]
    (sample,) = run_cli(trained, "sample", "tiny", "-p", "The ", "--until-stop", "--stop", stop, "--json").json()[
        "samples"
    ]
    assert (sample["finish_reason"], sample["tokens"] > 12) == ("stop", True)


def test_stop_that_never_comes_is_said(trained: Path) -> None:
    done = run_cli(trained, "sample", "tiny", "-p", "The ", "--stop", "\u2603", "--stop", "\u2604")
    assert done.code == 0
    assert "The text did not come to '\u2603' or '\u2604' in 12 tokens." in done.stderr
    assert "did not come" not in run_cli(trained, "sample", "tiny", "-p", "The ").stderr


def test_text_that_ends_before_its_length_is_said_to_and_what_may_help(trained: Path) -> None:
    args = ("sample", "tiny", "-p", "The ", "--temperature", "9", "--max-new-tokens", "4000")
    done = run_cli(trained, *args)
    drawn = run_cli(trained, *args, "--json")
    (sample,) = drawn.json()["samples"]
    assert sample["finish_reason"] == "end_of_text"
    told = f"The model ended its text after {sample['tokens'] - 1:,} of 4,000 tokens; another --seed may give a longer"
    assert told in done.stderr
    assert "The model ended" not in done.stdout
    for quiet in (drawn, run_cli(trained, *args, "--quiet"), run_cli(trained, *args, "--until-stop")):
        assert "The model ended" not in quiet.stderr
    assert "The model ended" not in run_cli(trained, "sample", "tiny", "-p", "The ").stderr, "all 12 were drawn"


def test_prompt_longer_than_the_context_is_said_to_be_trimmed(trained: Path) -> None:
    done = run_cli(trained, "sample", "tiny", "-p", "The forest and the sea " * 10)
    assert done.code == 0
    assert "the model reads 32 at once: it goes on from the last" in done.stderr
    assert "at once" not in run_cli(trained, "sample", "tiny", "-p", "The").stderr


def test_run_that_has_not_ended_is_said(trained: Path, tmp_path: Path) -> None:
    assert "has not ended" not in run_cli(trained, "sample", "tiny").stderr
    shutil.copytree(trained / "runs" / "tiny", tmp_path / "runs" / "tiny")
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    lines = metrics.read_text("utf-8").splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if '"run_finished"' not in line), "utf-8")
    done = run_cli(tmp_path, "sample", "tiny")
    assert (done.code, "has not ended yet; this is its checkpoint of step 12." in done.stderr) == (0, True)


def test_newest_whole_checkpoint_writes_where_the_best_is_damaged(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    longer = run_cli(
        tmp_path, "train", "--resume", "--run", "tiny", "--set", "max_steps=16", "--set", "keep_checkpoints=2"
    )
    assert longer.code == 0, longer.stderr
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    best = (checkpoints / "best").read_text("utf-8").split()[0]
    other = max(path.name for path in checkpoints.glob("step_*") if path.name != best)
    (checkpoints / best / "state.json").unlink()
    done = run_cli(tmp_path, "sample", "tiny", "-p", "The ", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["step"] == int(other.removeprefix("step_"))
    assert best in done.stderr


@pytest.mark.parametrize("args", [("--dtype", "float16"), ("--dtype", "bfloat16"), ("--quantize", "int8")])
def test_other_number_formats_write_too(trained: Path, args: tuple[str, ...]) -> None:
    done = run_cli(trained, "sample", "tiny", "-p", "The ", "--temperature", "0", "--json", *args)
    assert done.code == 0, done.stderr
    assert done.json()["samples"][0]["tokens"] == 12


def test_two_number_formats_are_wrong_usage(trained: Path) -> None:
    assert run_cli(trained, "sample", "tiny", "--dtype", "float16", "--quantize", "int8").code == 2


@pytest.mark.parametrize("command", ["sample", "chat"])
def test_stop_that_is_not_utf8_is_refused_before_anything(trained: Path, command: str) -> None:
    before = sorted((trained / "runs").rglob("*"))
    done = run_cli(trained, command, "tiny", "--stop", "x", "--stop", "\udcff", stdin="The \n")
    assert (done.code, done.stdout) == (1, "")
    assert "--stop: a stop string is not UTF-8 text" in done.stderr
    assert sorted((trained / "runs").rglob("*")) == before


@pytest.mark.parametrize("option", [("--encoding", "\udcff", "--prompt-file", "-"), ("--device", "\udcff")])
def test_word_that_is_not_utf8_is_one_clear_error(trained: Path, option: tuple[str, ...]) -> None:
    done = run_cli(trained, "sample", "tiny", *option, stdin="The \n")
    assert done.code in (1, 2)
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["sample", "chat"])
def test_hint_names_the_command_that_was_typed(trained: Path, command: str) -> None:
    done = run_cli(trained, command, "tiny", "--temperature", "-1", stdin="")
    assert done.code == 1
    assert f"gptcli {command} --help explains them." in done.stderr


def test_until_stop_without_an_end_asks_for_a_stop_also_where_a_length_was_given(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(
        (trained / "tiny.yaml").read_text("utf-8").replace("bpe:300", "char"), "utf-8"
    )
    shutil.copytree(trained, tmp_path / "here")
    made = run_cli(tmp_path / "here", "train", "docs", "--profile", str(tmp_path / "profile.yaml"), "--run", "chars")
    assert made.code == 0, made.stderr
    for given, length in (((), 1000), (("--max-new-tokens", "5"), 5)):
        done = run_cli(tmp_path / "here", "sample", "chars", "--until-stop", *given)
        assert done.code == 1
        assert "has no token for the end of a text" in done.stderr
        assert "Give it something to stop at, such as --stop $'\\n\\n', or " in done.stderr
        assert f"in place of --until-stop a length: --max-new-tokens {length}" in done.stderr


@pytest.mark.parametrize("given", [(), ("-p", ""), ("-p", " \n"), ("-",), ("--prompt-file", "blank.jsonl")])
def test_chat_without_a_question_asks_for_one(trained: Path, tmp_path: Path, given: tuple[str, ...]) -> None:
    (tmp_path / "blank.jsonl").write_text('"Why?"\n""\n', "utf-8")
    done = run_cli(tmp_path, "sample", "runs/none", "--chat", *given, stdin="\n")
    assert (done.code, done.stdout) == (2, "")
    assert "--prompt" in done.stderr


def test_run_whose_name_was_begun_is_offered(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "small-quickstart").symlink_to(trained / "runs" / "tiny")
    assert "Did you mean small-quickstart?" in run_cli(tmp_path, "sample", "smal").stderr


@pytest.mark.parametrize("command", ["sample", "chat"])
def test_help_says_the_defaults_in_a_narrow_terminal(
    trained: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from gptcli.config import SampleConfig

    monkeypatch.setenv("COLUMNS", "80")
    lines = run_cli(trained, command, "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    shown = " ".join(" ".join(lines).replace("│", " ").split())
    default = SampleConfig()
    for value in (default.max_new_tokens, default.temperature, default.seed):
        assert f"{value} unless the run's profile says" in shown
    assert "another seed gives another text" in shown
    assert "FORMAT" in shown
    assert "bfloat16" in shown
    assert "<float32" not in shown


def test_paragraphs_of_the_help_are_not_broken_where_the_source_is() -> None:
    from gptcli.cli.commands import load

    paragraphs = (load("sample").help or "").split("\n\n")
    assert len(paragraphs) > 1
    assert all(paragraph.endswith(".") for paragraph in paragraphs[:-1])
    assert paragraphs[-1].startswith("Example: ")
    assert not any("\n" in paragraph for paragraph in paragraphs)
