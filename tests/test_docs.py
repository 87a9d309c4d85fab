"""Every command in the docs is typed for real, against a world on loopback; and what the pages say stands as it is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gptcli.cli.app import app
from tests.doc_commands import ROOT, DocCommand, commands_in, doc_commands, pages
from tests.workplace import Workplace

COMMANDS = doc_commands()
# A command that cannot be run in a test, and why; its words and options are checked all the same.
NOT_RUN: dict[str, str] = {}
# Words that stand for something of the reader's, or a host of the world; none may be left when a line is run.
OUTSIDE = re.compile(r"https?://(?!127\.0\.0\.1)|\b(?:RUN|CORPUS|SOURCE|MODEL|COMMAND|NAME|FILE|OTHER|YOUR-TEXT)\b")
# Scripts in figures: python benchmarks/NAME.py OPTIONS.
SCRIPT = re.compile(r"^python (benchmarks/\w+\.py)(.*)$", re.MULTILINE)


def scripts() -> dict[str, set[str]]:
    """Return the scripts that the pages name, with the options they are called with."""
    found: dict[str, set[str]] = {}
    for page in sorted((ROOT / "docs").glob("*.md")):
        for script, rest in SCRIPT.findall(page.read_text("utf-8")):
            found.setdefault(script, set()).update(re.findall(r"--[\w-]+", rest))
    return found


def test_there_are_commands_on_every_page_that_has_fences_of_them() -> None:
    names = {str(page.relative_to(ROOT)) for page in pages()}
    assert {
        "README.md",
        "CONTRIBUTING.md",
        "docs/fetch.md",
        "docs/finetune.md",
        "docs/writing.md",
        "docs/faq.md",
    } <= names
    assert {command.where.partition(":")[0] for command in COMMANDS} >= {"README.md", "docs/fetch.md", "docs/faq.md"}
    assert len(COMMANDS) > 60


def test_commands_are_found_in_fences_chains_and_prose() -> None:
    page = (
        "Text `gptcli runs list` and `gptcli\nruns show`, but not `gptcli train` nor `gptcli profiles show`.\n"
        "```sh\n# gptcli no\ngptcli train book \\\n  --quiet  # why\n"
        "x=$(gptcli fetch a.txt) && y=$(gptcli prepare $x)\n"
        'ls && gptcli eval "$y"\necho a | gptcli sample -\n│ gptcli no\n```\n'
    )
    found = list(commands_in(page, "p.md"))
    assert [(command.words, command.where) for command in found] == [
        ("gptcli train book --quiet", "p.md:5"),
        ("x=$(gptcli fetch a.txt) && y=$(gptcli prepare $x)", "p.md:6"),
        ('ls && gptcli eval "$y"', "p.md:7"),
        ("echo a | gptcli sample -", "p.md:8"),
        ("gptcli runs list", "p.md:1"),
        ("gptcli runs show", "p.md:1"),
    ]
    assert found[2].before == found[1].line


def test_what_is_not_run_stands_in_the_docs() -> None:
    assert set(NOT_RUN) <= {command.words for command in COMMANDS}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the lines are typed into bash")
@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.words not in NOT_RUN], ids=lambda c: f"{c.where} {c.words}"
)
def test_command_of_the_docs_runs(
    command: DocCommand, workplace: Workplace, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "--tokenizer gpt2" in command.line:
        request.getfixturevalue("shared_data")
    line = command.typed(site=workplace.site, whisper=workplace.whisper)
    assert not OUTSIDE.search(line), f"{command.where}: {line} asks for a replacement in tests/doc_commands.py"
    done = workplace.run(line, tmp_path)
    assert done.returncode == 0, f"{command.where}: {line}\n{done.stderr}"
    assert done.stdout.strip() or "=$(" in command.words or ">" in command.words


def test_commands_that_are_not_run_are_at_least_understood() -> None:
    for words in NOT_RUN:
        assert parse(shlex.split(words, comments=True)[1:]) in words


def test_times_that_runs_are_given_are_understood() -> None:
    found = [part for command in COMMANDS for part in command.words.split(" && ") if "--budget" in part]
    assert found
    for part in found:
        parse(shlex.split(part)[1:])


def test_parser_of_commands_that_are_not_run_refuses_an_unknown_option() -> None:
    parse(["train", "book", "--budget", "10m"])
    with pytest.raises(Exception, match="No such option: --bugdet"):
        parse(["train", "book", "--bugdet", "10m"])


def parse(words: list[str]) -> str:
    """Parse the words behind ``gptcli`` as typer does, run nothing, and return the name of the command."""
    command, name = typer.main.get_command(app), "gptcli"
    context = None
    while True:
        context = command.make_context(name, words, parent=context)
        if not isinstance(command, typer.core.TyperGroup) or context.resilient_parsing:
            return name
        name, *words = [*context._protected_args, *context.args]
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command = found


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        env={**os.environ, "COLUMNS": "40"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_page_that_differs_is_named_and_written_anew(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'docs'); import generate, pathlib; "
        f"generate.ROOT = pathlib.Path({str(tmp_path)!r}); sys.exit(generate.main(sys.argv[1:]))"
    )

    def generate(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=120,
        )
        return done.returncode, done.stderr

    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "cli.md"
    page.write_text("# Of old\n", "utf-8")
    code_of_check, said = generate("--check")
    assert (code_of_check, "docs/cli.md" in said, page.read_text("utf-8")) == (1, True, "# Of old\n")
    assert generate()[0] == 0
    assert page.read_text("utf-8") == (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert generate("--check") == (0, "")


# In one process, which imports torch once; each script ends with what it prints for --help.
HELPS = """
import contextlib, io, json, runpy, sys
told = {}
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    told[script] = shown.getvalue()
print(json.dumps(told))
"""


@pytest.mark.slow
def test_scripts_of_the_figures_know_the_options_they_are_called_with() -> None:
    wanted = scripts()
    assert "benchmarks/time_to_loss.py" in wanted
    done = subprocess.run(
        [sys.executable, "-c", HELPS, *wanted],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all("usage:" in text for text in told.values())
    assert not {
        script: missing for script in wanted if (missing := [o for o in wanted[script] if o not in told[script]])
    }


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]
