"""``gptcli profiles``: list, show, copy, check, schema and diff, as somebody types them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from gptcli.cli.profiles import COMMANDS
from gptcli.profiles import find_profile, load_profile
from gptcli.strict_yaml import load_yaml
from tests.cli.conftest import ROOT, Cli, run_cli

BAD = "model:\n  n_layr: 2\n  dropout: 3\ntrain: {max_iters: 3}\n"


def test_list_says_in_one_line_what_a_profile_is_for_and_what_it_promises(cli: Cli) -> None:
    lines = {line.split()[0]: line for line in cli("profiles", "list").stdout.splitlines()}
    assert lines["quickstart"].endswith("; 1m 00s on two CPU cores, val_loss 2.6 in bpe:512 tokens")
    assert "Any text of your own" in lines["macbook"]
    assert lines["macbook"].endswith("; time and loss depend on the text")
    assert lines["shakespeare-char"].endswith("; time and loss not measured yet")


def test_list_has_all_there_is_to_know_as_json(cli: Cli) -> None:
    rows = {row["name"]: row for row in cli("profiles", "list", "--json").json()["profiles"]}
    row = rows["laptop-2min"]
    assert (row["minutes"], row["val_loss"], row["tokenizer"], row["machine"]) == (2, 1.4697, "char", "two CPU cores")
    assert (row["builtin"], row["readable"], row["corpus"]) == (True, True, "shakespeare")
    assert rows["finetune-poirot"]["base"] == "gpt2-large"
    assert rows["macbook"]["minutes"] is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("noun", ["profiles", "corpora"])
@pytest.mark.parametrize("columns", [30, 40, 80, 200])
def test_list_fits_a_terminal_and_breaks_no_word(noun: str, columns: int, folder: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "gptcli", noun, "list"],
        cwd=str(folder),
        env={"PYTHONPATH": str(ROOT), "TERM": "xterm", "PATH": "/usr/bin:/bin"},
        dimensions=(24, columns),
        encoding="utf-8",
        timeout=60,
    )
    lines = child.read().splitlines()
    child.close()
    assert child.exitstatus == 0
    assert max(map(len, lines)) <= columns
    whole = " ".join(" ".join(lines).split())
    for row in run_cli(folder, noun, "list", "--json").json()[noun]:
        assert row["description"] in whole


def test_list_is_in_line_beside_a_name_of_wide_letters(folder: Path, cli: Cli) -> None:
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "日本語.yaml").write_text("description: Japanese\n", "utf-8")
    lines = {line.split()[0]: line for line in cli("profiles", "list").stdout.splitlines()}
    beside = {
        cell_len(line[: line.index(words)])
        for line, words in ((lines["日本語"], "Japanese"), (lines["macbook"], "Any text"))
    }
    assert len(beside) == 1


@pytest.mark.parametrize("name", ["quickstart", "macbook", "tiny.yaml"])
def test_shown_profile_is_a_profile_and_the_same_one(name: str, folder: Path, cli: Cli) -> None:
    shown = cli("profiles", "show", name)
    assert shown.code == 0
    (folder / "again.yaml").write_text(shown.stdout, "utf-8")
    assert cli("profiles", "diff", name, "again.yaml").stdout == ""
    assert cli("profiles", "check", "again.yaml").stdout == "again.yaml: ok\n"


def test_show_has_the_header_the_comments_and_a_star_where_the_file_sets_a_value(cli: Cli) -> None:
    shown = cli("profiles", "show", "quickstart").stdout
    assert shown.startswith("# A first result: train on the Python documentation")
    assert "yaml-language-server" not in shown
    assert "  # * Number of transformer blocks.\n  n_layer: 3\n" in shown
    assert "  # Base of the rotary position angles (modern only).\n  rope_theta: 10000.0\n" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_show_applies_set_and_marks_what_it_set(cli: Cli) -> None:
    shown = cli("profiles", "show", "macbook", "--set", "seed=3")
    assert shown.code == 1
    assert "train.seed or sample.seed" in shown.stderr
    shown = cli("profiles", "show", "macbook", "--set", "rope_theta=5", "--set", "n_layer=2")
    assert "  # * Base of the rotary position angles (modern only).\n  rope_theta: 5.0\n" in shown.stdout
    value = cli("profiles", "show", "macbook", "--set", "rope_theta=5", "--json").json()
    assert value["profile"]["model"]["rope_theta"] == 5
    assert "model.rope_theta" in value["given"]
    assert "model.family" not in value["given"]


def test_copy_is_found_by_its_new_name_and_says_what_to_do_with_it(folder: Path, cli: Cli) -> None:
    done = cli("profiles", "copy", "quickstart", "mine")
    assert (done.code, done.stdout) == (0, "configs/mine.yaml\n")
    assert done.stderr == "Change it, then: gptcli train --profile mine\n"
    assert "mine" in cli("profiles", "list").stdout
    assert json.loads((folder / "configs" / "profile.schema.json").read_text("utf-8"))["title"]
    assert load_profile(folder / "configs" / "mine.yaml") == load_profile(find_profile("quickstart").path)
    done = cli("profiles", "copy", "finetune-gpt2", "here/tune.yaml", "--json")
    assert done.json() == {"path": "here/tune.yaml"}
    assert "gptcli finetune --profile here/tune.yaml" in done.stderr
    assert cli("profiles", "copy", "macbook", "--quiet").stderr == ""


def test_copy_refuses_to_replace_what_differs(folder: Path, cli: Cli) -> None:
    done = cli("profiles", "copy", "quickstart", "tiny.yaml")
    assert (done.code, done.stdout) == (1, "")
    assert "tiny.yaml is there already, and differs." in done.stderr
    assert "One small layer" in (folder / "tiny.yaml").read_text("utf-8")
    assert not (folder / "configs").exists()
    assert cli("profiles", "copy", "quickstart", "tiny.yaml", "--force").code == 0


def test_copy_that_stands_in_place_of_a_built_in_profile_is_marked_and_compared_with_it(folder: Path, cli: Cli) -> None:
    first = cli("profiles", "copy", "macbook")
    assert "there already" not in first.stderr
    assert "configs/macbook.yaml is there already, and the same." in cli("profiles", "copy", "macbook").stderr
    path = folder / "configs" / "macbook.yaml"
    path.write_text(path.read_text("utf-8").replace("n_layer: 4", "n_layer: 5"), "utf-8")
    lines = {line.split()[0]: line for line in cli("profiles", "list").stdout.splitlines()}
    assert lines["macbook"].endswith("; yours, configs/macbook.yaml, in place of the built-in one")
    assert "yours" not in lines["quickstart"]
    for left, right, changed in (
        ("macbook", "configs/macbook.yaml", "4 -> 5"),
        ("configs/macbook.yaml", "macbook", "5 -> 4"),
        ("macbook", "macbook", "4 -> 5"),
    ):
        done = cli("profiles", "diff", left, right)
        assert done.stdout == f"model.n_layer  {changed}\n"
        assert "built-in macbook" in done.stderr
    again = cli("profiles", "copy", "macbook")
    assert (again.code, again.stdout) == (1, "")
    assert "configs/macbook.yaml is there already, and differs. It is left as it is." in again.stderr
    assert "n_layer: 5" in path.read_text("utf-8")
    assert cli("profiles", "copy", "macbook", "--force").code == 0
    assert "n_layer: 4" in path.read_text("utf-8")


def test_profile_of_ones_own_that_hides_none_is_marked_too(folder: Path, cli: Cli) -> None:
    cli("profiles", "copy", "macbook", "mine")
    (line,) = (line for line in cli("profiles", "list").stdout.splitlines() if line.startswith("mine "))
    assert line.endswith("; yours, configs/mine.yaml")


@pytest.mark.parametrize("place", ["mine.txt", "a/b", "..", "configs/"])
def test_copy_wants_a_yaml_file_or_a_plain_name(place: str, cli: Cli) -> None:
    done = cli("profiles", "copy", "quickstart", place)
    assert done.code == 2
    assert ".yaml file" in " ".join(done.stderr.split())


def test_check_tells_every_mistake_of_every_file_with_its_line(folder: Path, cli: Cli) -> None:
    (folder / "bad.yaml").write_text(BAD, "utf-8")
    (folder / "latin.yaml").write_bytes(b"description: caf\xe9\n")
    done = cli("profiles", "check", "tiny.yaml", "bad.yaml", "quickstart", "latin.yaml", "quickstrat", "gone.yaml")
    assert done.code == 1
    hint = "gptcli profiles list shows them all."
    assert done.stdout.splitlines() == [
        "tiny.yaml: ok",
        "bad.yaml:2: unknown key 'n_layr' in model; the nearest is 'n_layer'",
        "bad.yaml:3: model.dropout: expected less than 1, found 3",
        "bad.yaml:4: 'max_iters' is nanoGPT's name; here it is train.max_steps",
        f"{find_profile('quickstart').path}: ok",
        "latin.yaml: the profile is not UTF-8 text.",
        f"quickstrat: There is no profile called 'quickstrat'. Did you mean quickstart? {hint}",
        "gone.yaml: the profile cannot be read (No such file or directory).",
    ]
    assert done.stderr.startswith("6 mistakes in 4 of 6.")
    assert cli("profiles", "check", "bad.yaml", "-q").stderr == ""


def test_check_tells_it_as_json_and_says_nothing_where_all_is_well(folder: Path, cli: Cli) -> None:
    (folder / "bad.yaml").write_text("model: {n_layr: 2}\nmodel: {}\n", "utf-8")
    done = cli("profiles", "check", "bad.yaml", "--json", "--quiet")
    assert done.code == 1
    mistakes = [{"line": 2, "mistake": "the key 'model' is given twice."}]
    assert done.json() == {"ok": False, "files": [{"path": "bad.yaml", "ok": False, "mistakes": mistakes}]}
    done = cli("profiles", "check", "tiny.yaml")
    assert (done.code, done.stdout, done.stderr) == (0, "tiny.yaml: ok\n", "")


def test_check_reads_a_whole_folder(folder: Path, cli: Cli) -> None:
    (folder / "configs").mkdir()
    assert "no .yaml file, in this folder" in cli("profiles", "check", "configs").stdout
    cli("profiles", "copy", "quickstart")
    (folder / "configs" / "bad.yml").write_text("train: 3\n", "utf-8")
    done = cli("profiles", "check", "configs")
    assert done.code == 1
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [
        "configs/bad.yml:1",
        "configs/quickstart.yaml",
    ]


def test_schema_is_one_json_object_that_knows_the_keys(cli: Cli) -> None:
    schema = cli("profiles", "schema").json()
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["properties"]["model"]["properties"]["n_layer"]["type"] == "integer"
    assert cli("profiles", "schema", "--json").json() == schema


def test_diff_tells_only_what_differs(cli: Cli) -> None:
    done = cli("profiles", "diff", "quickstart", "macbook")
    rows = {line.split()[0]: line.partition("  ")[2].strip() for line in done.stdout.splitlines()}
    assert rows["model.n_layer"] == "3 -> 4"
    assert rows["data.corpus"] == "python-docs -> empty"
    assert rows["sample.prompt"] == '"The " -> ""'
    assert "train.batch_size" not in rows
    assert done.stderr == "quickstart -> macbook\n"
    same = cli("profiles", "diff", "macbook", "macbook")
    assert (same.code, same.stdout) == (0, "")
    assert "the same in every key" in same.stderr
    assert cli("profiles", "diff", "macbook", "quickstart", "-q").stderr == ""


def test_diff_knows_runs(trained: Path) -> None:
    value = run_cli(trained, "profiles", "diff", "tiny.yaml", "tiny", "--json").json()
    found: dict[str, Any] = {row["key"]: (row["a"], row["b"]) for row in value["differences"]}
    assert found["model.vocab_size"] == (None, 300)
    assert found["data.corpus"] == (None, "docs")
    assert "model.n_embd" not in found
    assert (value["a"], value["b"]) == ("tiny.yaml", "tiny")


def test_diff_of_something_that_is_neither_profile_nor_run_says_so(trained: Path) -> None:
    done = run_cli(trained, "profiles", "diff", "quickstart", "quickstrat")
    assert done.code == 1
    assert "no profile and no run called 'quickstrat'" in done.stderr
    assert "Did you mean quickstart" in done.stderr
    assert "gptcli runs list" in done.stderr


@pytest.mark.parametrize("command", ["show", "copy", "diff quickstart"])
@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("configs.yaml", None, "configs.yaml is a folder, not a profile."),
        ("notes.txt", b"model: {}", "notes.txt is not a profile: the name of a profile's file ends in .yaml."),
        ("big.yaml", b"# " + b"x" * 2_000_000, "larger than 1,048,576 bytes"),
        ("binary.yaml", bytes(range(256)), "binary.yaml"),
        ("twice.yaml", b"model: {}\nmodel: {}\n", "twice.yaml:2: the key 'model' is given twice"),
    ],
)
def test_file_that_is_no_profile_is_told(
    command: str, name: str, content: bytes | None, told: str, folder: Path, cli: Cli
) -> None:
    if content is None:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content)
    done = cli("profiles", *command.split(), name)
    assert (done.code, done.stdout) == (1, "")
    assert told in done.stderr or command.startswith("diff")
    assert "gptcli profiles" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example(name: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = cli("profiles", name, "--help").stdout
    assert re.search(rf"\n  Example: gptcli profiles {name}\b", shown)


def test_examples_of_the_help_run(folder: Path, cli: Cli) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "my.yaml").write_text("model: {n_layer: 2}\n", "utf-8")
    for name in ("list", "show", "check", "diff"):
        example = re.findall(r"Example: gptcli (.+)", COMMANDS[name].__doc__ or "")[-1]
        assert cli(*example.split()).code == 0, example
    assert load_yaml(cli("profiles", "show", "quickstart", "--set", "n_layer=6").stdout)[0]["model"]["n_layer"] == 6
