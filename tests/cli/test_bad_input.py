"""Bad input: exit code 1, one sentence, one hint with a command, no traceback, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, run_cli


def make_empty(folder: Path) -> None:
    (folder / "empty.txt").write_text("", "utf-8")


def make_binary(folder: Path) -> None:
    (folder / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 20)


def make_latin(folder: Path) -> None:
    (folder / "latin.txt").write_bytes(
        "\u201cIt\u2019s a caf\u00e9,\u201d she said, \u201cand the coffee isn\u2019t bad.\u201d\n".encode("cp1252")
        * 50
    )


def make_short(folder: Path) -> None:
    (folder / "short.txt").write_text("A cat sat on the mat and looked at the hat.\n", "utf-8")


def make_profile(folder: Path) -> None:
    (folder / "wrong.yaml").write_text(
        "model:\n  n_layr: 3\n  n_head: 3\n  n_embd: 32\ntrain:\n  max_iters: 5\n", "utf-8"
    )


def make_typo(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "mine.yaml").write_text("model: {n_layer: 1}\n", "utf-8")


Make = Callable[[Path], None]
SOURCES: list[tuple[Make | None, str, tuple[str, ...], tuple[str, ...]]] = [
    (None, "fetch missing.txt", (), ("missing.txt",)),
    (None, "fetch nowhere/*.txt", (), ("nowhere",)),
    (make_empty, "fetch empty.txt", (), ("empty.txt",)),
    (make_binary, "fetch photo.txt", (), ("photo.txt", "binary")),
    (make_latin, "fetch latin.txt --encoding utf-8", (), ("latin.txt", "utf-8")),
    (None, "fetch docs.txt --name ../out", (), ("../out",)),
    (None, "fetch ftp://example.org/a.txt", (), ("ftp://",)),
]
NAMES: list[tuple[Make | None, str, tuple[str, ...], tuple[str, ...]]] = [
    (None, "prepare python-dox", (), ("python-dox", "python-docs")),
    (None, "train nothing --profile tiny.yaml", (), ("nothing",)),
    (None, "train --profile quikstart", (), ("quikstart", "quickstart")),
    (None, "train --profile gone.yaml", (), ("gone.yaml", "gptcli profiles list")),
    (make_typo, "profiles show mien", (), ("mien", "mine")),
    (None, "corpora show nothing", (), ("nothing", "gptcli corpora list", "gptcli fetch")),
    (None, "corpora show", (), ("no corpus", "gptcli fetch")),
    (None, "sample", (), ("no run", "gptcli train")),
    (None, "eval nothing", (), ("nothing", "gptcli runs list")),
    (None, "runs show", (), ("no run", "gptcli train")),
    (None, "train --resume", (), ("no run", "gptcli train")),
    (None, "sample gpt3", (), ("gpt3",)),
]
PROFILES: list[tuple[Make | None, str, tuple[str, ...], tuple[str, ...]]] = [
    (make_profile, "train --profile wrong.yaml", (), ("wrong.yaml:2", "'n_layer'", "wrong.yaml:6", "train.max_steps")),
    (None, "train --profile tiny.yaml --set n_head=3", (), ("n_embd 32 is not divisible by n_head 3", "try n_embd")),
    (
        None,
        "train --profile tiny.yaml --set lr=1 --set dropout=2 --set eval_iters=9 --set n_layer=many",
        (),
        ("4 mistakes", "'lr'", "dropout", "train.eval_tokens", "'many'"),
    ),
    (None, "train --profile tiny.yaml --set n_layer", (), ("--set key=value",)),
    (None, "prepare docs --tokenizer words --split-at 2", ("fetch docs.txt",), ("--tokenizer", "bpe:N", "--split-at")),
]
MACHINES: list[tuple[Make | None, str, tuple[str, ...], tuple[str, ...]]] = [
    (None, "train --device gpu", (), ("'gpu'", "cuda")),
    (None, "train docs --profile tiny.yaml --device cuda:99", ("fetch docs.txt",), ("cuda:99", "cpu")),
    (None, "train docs --profile tiny.yaml --set device=cuda:99", ("fetch docs.txt",), ("cuda:99", "cpu")),
    (None, "sample tiny --device tpu", (), ("'tpu'",)),
]
TEXTS: list[tuple[Make | None, str, tuple[str, ...], tuple[str, ...]]] = [
    (make_short, "train short --profile tiny.yaml --set tokenizer=char", ("fetch short.txt",), ("short", "block_size")),
    (
        None,
        "train docs --profile tiny.yaml --set split_at=0.9999 --set block_size=64",
        ("fetch docs.txt",),
        ("val", "block_size"),
    ),
    (
        None,
        "train docs --profile tiny.yaml --run taken",
        ("fetch docs.txt", "train docs --profile tiny.yaml --run taken --set max_steps=2"),
        ("taken", "gptcli train --resume --run taken"),
    ),
    (None, "train docs --profile tiny.yaml --run a/b", ("fetch docs.txt",), ("a/b",)),
    (
        None,
        "sample r -p \u65e5\u672c",
        ("fetch docs.txt", "train docs --profile tiny.yaml --run r --set tokenizer=char --set max_steps=2"),
        ("\u65e5", "\u672c", "bpe:512"),
    ),
]


@pytest.mark.parametrize(
    ("make", "command", "before", "fragments"),
    [*SOURCES, *NAMES, *PROFILES, *MACHINES, *TEXTS],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_clear_error(
    folder: Path, cli: Cli, make: Make | None, command: str, before: tuple[str, ...], fragments: tuple[str, ...]
) -> None:
    if make is not None:
        make(folder)
    for earlier in before:
        assert cli(*earlier.split()).code == 0
    there = sorted(path for path in folder.rglob("*") if path.is_file())
    done = cli(*command.split())
    assert done.code == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("Error: ") == 1
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("Error: ") :].splitlines()
    assert len(message) > 1, f"no hint: {message}"
    assert "gptcli " in message[-1] or "--" in message[-1], f"no command to type next: {message}"
    for fragment in fragments:
        assert fragment in done.stderr
    assert set(there) <= set(folder.rglob("*"))
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize(
    "command",
    ["fetch", "fetch docs.txt --as book", "fetch docs.txt --max-bytes much",
     "train --steps 5", "train --budget soon", "prepare --split random", "eval a b",
     "sample --checkpoint newest", "sample --top-k many", "profiles show", "nothing"],
)  # fmt: skip
def test_wrong_usage_is_code_2(cli: Cli, command: str) -> None:
    done = cli(*command.split())
    assert (done.code, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("command", "found"),
    [("sample --temperature hot", "hot"), ("sample --top-k 2.5", "2.5"), ("prepare --val-fraction much", "much")],
)
def test_option_that_is_no_number_is_told_with_what_was_found(cli: Cli, command: str, found: str) -> None:
    said = " ".join(cli(*command.split()).stderr.split())
    assert f"'{found}'" in said
    assert "Input should be" not in said
    assert "unable to parse" not in said


def test_text_that_is_not_utf8_is_decoded_and_said_so(folder: Path, cli: Cli) -> None:
    make_latin(folder)
    done = cli("fetch", "latin.txt")
    assert done.code == 0
    assert "cp1252" in done.stderr
    assert "--encoding" in done.stderr


def test_gpt2_vocabulary_without_network_says_what_is_needed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiktoken.registry

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "no-cache"))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})  # what earlier tests have loaded
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    cli("fetch", "docs.txt")
    done = cli("prepare", "docs", "--tokenizer", "gpt2")
    assert done.code == 1
    for fragment in ("TIKTOKEN_CACHE_DIR", "bpe:", "char"):
        assert fragment in done.stderr


def test_failed_fetch_leaves_the_old_corpus(folder: Path, cli: Cli) -> None:
    cli("fetch", "docs.txt")
    old = (folder / "corpora" / "docs" / "documents.jsonl").read_bytes()
    make_binary(folder)
    assert cli("fetch", "photo.txt", "--name", "docs").code == 1
    assert (folder / "corpora" / "docs" / "documents.jsonl").read_bytes() == old


def test_hostile_names_are_made_visible(cli: Cli) -> None:
    done = cli("fetch", "\x1b[31mred\x07.txt")
    assert done.code == 1
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


@pytest.mark.parametrize("command", ["sample tiny", "eval tiny"])
def test_damaged_checkpoints_are_named(trained: Path, tmp_path: Path, command: str) -> None:
    import shutil

    shutil.copytree(trained / "runs", tmp_path / "runs")
    for weights in tmp_path.glob("runs/tiny/checkpoints/step_*/model.safetensors"):
        damaged = bytearray(weights.read_bytes())
        damaged[-1] ^= 1
        weights.write_bytes(damaged)
    done = run_cli(tmp_path, *command.split())
    assert done.code == 1
    assert "model.safetensors" in done.stderr
