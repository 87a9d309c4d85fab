"""The wheel: what it holds, and that it works installed, far from the checkout it was built from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILTIN = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/*.json"), *ROOT.glob("corpora/*.yaml")]


def run(command: list[str | Path], folder: Path) -> str:
    """Run ``command`` in ``folder`` with nothing of this checkout on its path; returns its stdout."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**env, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources in which somebody has fetched a corpus."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "gptcli", copy / "gptcli", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for path in BUILTIN:
        (copy / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, copy / path.parent.name)
    fetched = copy / "corpora" / "private-diary"
    (fetched / "tokens").mkdir(parents=True)
    for path in (fetched / "documents.jsonl", fetched / "tokens" / "train-00000.bin"):
        path.write_text("a text that must never leave this machine", "utf-8")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", copy / "dist"], copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an empty environment with the wheel installed.

    What gptcli depends on is seen through a ``.pth`` line that names our own site-packages, after the new one.
    ``.pth`` files are not read from there, so an editable gptcli of this checkout stays out of sight.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    run([scripts / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel], folder)
    (own,) = folder.rglob("site-packages")
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (own / "zz_dependencies.pth").write_text("\n".join(others), "utf-8")
    return scripts


def test_wheel_holds_code_profiles_recipes_types_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        "gptcli/__init__.py",
        "gptcli/cli/app.py",
        "gptcli/fetch/__init__.py",
        "gptcli/py.typed",
        "gptcli/builtin/configs/quickstart.yaml",
        "gptcli/builtin/corpora/python-docs.yaml",
    }
    assert expected <= names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_wheel_holds_every_profile_and_recipe_and_no_fetched_text(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("gptcli/builtin/")}
    assert packed == {f"gptcli/builtin/{path.parent.name}/{path.name}" for path in BUILTIN}


def test_installed_package_is_the_one_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    where = run([environment / "python", "-c", "import gptcli; print(gptcli.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)


def test_installed_command_lists_profiles_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    assert "quickstart" in run([environment / "gptcli", "profiles", "list"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_installed_command_finds_profile_and_recipe(environment: Path, tmp_path: Path) -> None:
    assert "  python-docs, " in run([environment / "gptcli", "train", "--profile", "quickstart", "--dry-run"], tmp_path)
