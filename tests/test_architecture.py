"""Arrows run down only: the import edges of the package, read from its source, against the table of rooms."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gptcli"

# Every module of the package and its room; a name that ends in a dot stands for all modules below it.
ROOMS = {
    "gptcli": "ground",
    "gptcli.errors": "ground",
    "gptcli.files": "ground",
    "gptcli.events": "ground",
    "gptcli.progress": "ground",
    "gptcli.figures": "ground",
    "gptcli.curve": "ground",
    "gptcli.config": "ground",
    "gptcli.profiles": "ground",
    "gptcli.profile_docs": "ground",
    "gptcli.sizing": "ground",
    "gptcli.strict_yaml": "ground",
    "gptcli.plan": "ground",
    "gptcli.memory": "ground",
    "gptcli.memory_forms": "ground",
    "gptcli.nanogpt_config": "ground",
    "gptcli.documents": "data",
    "gptcli.split": "data",
    "gptcli.survey": "data",
    "gptcli.vocabulary": "data",
    "gptcli.bpe": "data",
    "gptcli.tokenizer": "data",
    "gptcli.pretrained_tokenizer": "data",
    "gptcli.chat_template": "data",
    "gptcli.shards": "data",
    "gptcli.run_tokens": "data",
    "gptcli.shard_writer": "data",
    "gptcli.batches": "data",
    "gptcli.corpora": "data",
    "gptcli.encode": "data",
    "gptcli.encode_job": "data",
    "gptcli.encode_messages": "data",
    "gptcli.encode_processes": "data",
    "gptcli.gpt2_words": "data",
    "gptcli.missing": "data",
    "gptcli.prepare": "data",
    "gptcli.prepare_errors": "data",
    "gptcli.making": "data",
    "gptcli.unfinished": "data",
    "gptcli.workers": "data",
    "gptcli.diagnosis": "data",
    "gptcli.copies.": "data",
    "gptcli.fetch.": "data",
    "gptcli.model": "model",
    "gptcli.fused": "model",
    "gptcli.head": "model",
    "gptcli.optim": "model",
    "gptcli.world": "model",
    "gptcli.meeting": "model",
    "gptcli.parallel": "model",
    "gptcli.launch": "procedures",
    "gptcli.lora": "model",
    "gptcli.device": "model",
    "gptcli.places": "model",
    "gptcli.decoder": "model",
    "gptcli.matrices": "model",
    "gptcli.stepping": "model",
    "gptcli.interchange": "model",
    "gptcli.bases.": "procedures",
    "gptcli.export.": "procedures",
    "gptcli.finetune": "procedures",
    "gptcli.dry_run": "procedures",
    "gptcli.forecast": "procedures",
    "gptcli.bench": "procedures",
    "gptcli.train": "procedures",
    "gptcli.trainer": "procedures",
    "gptcli.building": "procedures",
    "gptcli.restore": "procedures",
    "gptcli.updates": "procedures",
    "gptcli.pace": "procedures",
    "gptcli.metrics": "procedures",
    "gptcli.run_lock": "procedures",
    "gptcli.sinks": "procedures",
    "gptcli.budget": "procedures",
    "gptcli.suggest": "procedures",
    "gptcli.evaluate": "procedures",
    "gptcli.sample": "procedures",
    "gptcli.writing": "procedures",
    "gptcli.reading": "procedures",
    "gptcli.chat.": "procedures",
    "gptcli.checkpoints": "procedures",
    "gptcli.checkpoint_folders": "procedures",
    "gptcli.history": "procedures",
    "gptcli.run_facts": "procedures",
    "gptcli.standing": "procedures",
    "gptcli.doctor": "model",
    "gptcli.plot": "procedures",
    "gptcli.comparison": "procedures",
    "gptcli.data_facts": "procedures",
    "gptcli.report": "procedures",
    "gptcli.report_page": "procedures",
    "gptcli.removal": "procedures",
    "gptcli.runs": "procedures",
    "gptcli.display": "display",
    "gptcli.loss_table": "display",
    "gptcli.text_stream": "display",
    "gptcli.cli.": "cli",
    "gptcli.__main__": "cli",
}

# Which rooms, or single modules, a room may import besides itself.
MAY_IMPORT = {
    "ground": set[str](),
    "data": {"ground"},
    "model": {"ground"},
    "procedures": {"model", "data", "ground"},
    "display": {"gptcli.events", "gptcli.progress", "gptcli.figures"},
    "cli": {"display", "procedures", "model", "data", "ground"},
}

# Packages from outside that only some modules may import, wherever the import stands.
ONLY_IN = {
    "typer": ("gptcli.cli.",),
    "rich": ("gptcli.cli.", "gptcli.display", "gptcli.text_stream"),
    "prompt_toolkit": ("gptcli.cli.desk",),
    "httpx": ("gptcli.fetch.web.http",),
    "matplotlib": ("gptcli.plot",),
    "tensorboard": ("gptcli.sinks",),
    "torch.utils.tensorboard": ("gptcli.sinks",),
    "trackio": ("gptcli.sinks",),
    "wandb": ("gptcli.sinks",),
    "click": (),
    "pickle": (),
    "dill": (),
    "cloudpickle": (),
    "joblib": (),
    "shelve": (),
    "marshal": (),
}
TORCH = {"torch", "transformers"}
TORCH_ROOMS = {"model", "procedures"}
SLOW_TO_IMPORT = {
    *("torch", "transformers", "tiktoken", "tokenizers", "httpx", "charset_normalizer", "huggingface_hub"),
    *("trafilatura", "lxml", "feedparser", "protego", "pyarrow", "faster_whisper", "pypdf", "gguf"),
    *("prompt_toolkit", "matplotlib", "tensorboard", "trackio", "wandb"),
}

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60


class Import(NamedTuple):
    """One import statement: ``target`` is a module in full, ``lazy`` ones stand in functions or are for types."""

    module: str
    target: str
    line: int
    lazy: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, entry: str) -> bool:
    """Say whether ``module`` is ``entry``, or for an entry that ends in a dot, that package or below it."""
    return module == entry or (entry.endswith(".") and f"{module}.".startswith(entry))


def room(module: str) -> str:
    rooms = {ROOMS[entry] for entry in ROOMS if within(module, entry)}
    assert len(rooms) == 1, f"{module} has no room of its own: add it to ROOMS in tests/test_architecture.py"
    return rooms.pop()


def import_nodes(node: ast.AST, *, lazy: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, lazy
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        inside = for_types or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from import_nodes(child, lazy=lazy or inside)


def imports(path: Path, modules: set[str]) -> Iterator[Import]:
    """Yield the imports of one file; ``from gptcli import config`` counts as an import of ``gptcli.config``."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node, lazy in import_nodes(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [base])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            targets = sorted({name if name in modules else base for name in inner})
        for target in targets:
            yield Import(module, target, node.lineno, lazy)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path) for path in FILES}
IMPORTS = [found for path in FILES for found in imports(path, MODULES)]
INSIDE = [found for found in IMPORTS if found.target.split(".")[0] == "gptcli"]


def test_scan_sees_the_edges() -> None:
    assert {("gptcli.files", "gptcli.errors", False), ("gptcli.config", "pydantic", False)} <= {
        (found.module, found.target, found.lazy) for found in IMPORTS
    }


def test_every_module_has_a_room() -> None:
    assert {room(module) for module in MODULES} == set(MAY_IMPORT)


def test_every_imported_module_of_ours_exists() -> None:
    assert not [str(found) for found in INSIDE if found.target not in MODULES]


def test_arrows_run_down_only() -> None:
    def allowed(found: Import) -> bool:
        above, below = room(found.module), room(found.target)
        return found.target == "gptcli" or above == below or bool(MAY_IMPORT[above] & {below, found.target})

    assert not [
        f"{found}: {room(found.module)} may not know {room(found.target)}" for found in INSIDE if not allowed(found)
    ]


def test_no_module_imports_itself_through_others() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in INSIDE:
        graph[found.module].add(found.target)
    cycle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1]
    assert not cycle


@pytest.mark.parametrize("package", ONLY_IN)
def test_package_is_imported_only_where_it_belongs(package: str) -> None:
    found = [item for item in IMPORTS if f"{item.target}.".startswith(f"{package}.")]
    assert not [str(item) for item in found if not any(within(item.module, entry) for entry in ONLY_IN[package])]


def test_ground_and_data_never_import_torch() -> None:
    def may(module: str) -> bool:
        return room(module) in {*TORCH_ROOMS, "cli"}

    assert not [str(found) for found in IMPORTS if found.target.split(".")[0] in TORCH and not may(found.module)]


def test_slow_packages_are_imported_inside_functions() -> None:
    def may(found: Import) -> bool:
        torch_module = room(found.module) in TORCH_ROOMS
        return found.lazy or (torch_module and found.target.split(".")[0] == "torch")

    slow = [found for found in IMPORTS if found.target.split(".")[0] in SLOW_TO_IMPORT]
    assert not [str(found) for found in slow if not may(found)]


@pytest.mark.parametrize("folder", ["gptcli", "tests"])
def test_files_stay_readable_in_one_sitting(folder: str) -> None:
    sizes = {path: len(path.read_text("utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not [f"{path.relative_to(ROOT)}: {size}" for path, size in sizes.items() if size > MAX_FILE_LINES]


def test_functions_stay_short() -> None:
    assert not [
        f"{module_name(path)}:{node.lineno} {node.name} has {size} lines"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (size := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"util", "utils", "helper", "helpers", "misc"}
    assert not [module for module in MODULES if module.rpartition(".")[2] in drawers]


# Runs the command line as `gptcli` does, then tells its exit code and which slow packages it imported.
PROBE = """
import json, sys
from gptcli.cli.app import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code
print("\\n" + json.dumps([code, sorted({"torch", "transformers", "tiktoken", "tokenizers"} & set(sys.modules))]))
"""


def run_cli(folder: Path, *args: str) -> tuple[int, list[str], str]:
    """Run ``gptcli ARGS`` in ``folder``; returns its exit code, the slow packages it imported, and its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    code, slow = json.loads(done.stdout.splitlines()[-1])
    return code or 0, slow, done.stderr


@pytest.mark.parametrize(
    "args", ["--help", "train --help", "sample --help", "profiles list", "profiles show quickstart"]
)
def test_help_and_profiles_do_not_import_torch(args: str, tmp_path: Path) -> None:
    code, slow, stderr = run_cli(tmp_path, *args.split())
    assert (code, slow) == (0, []), stderr


@pytest.mark.parametrize(
    "args",
    ["--profile nowhere", "--profile typo", "--profile quickstart --set n_layr=3", "--profile quickstart --set seed=x"],
)
def test_error_about_a_profile_does_not_import_torch(args: str, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "typo.yaml").write_text("model:\n  n_layr: 3\n", "utf-8")
    code, slow, stderr = run_cli(tmp_path, "train", *args.split())
    assert (code, slow) == (1, []), stderr
    assert "Traceback" not in stderr
