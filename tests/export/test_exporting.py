from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcli.bases.base import Base, LazyWeights
from gptcli.errors import ExportError
from gptcli.export import exporting
from gptcli.export.exporting import export
from gptcli.runs import RunDir
from gptcli.tokenizer import Tokenizer
from tests.export.conftest import random_base


def changed(base: Base, value: float) -> Base:
    weights = {name: base.weights[name].clone() for name in base.weights}
    weights["norm.weight"][0] = value
    return dataclasses.replace(base, weights=weights)


def test_export_says_what_it_does_and_what_it_wrote(base: Base, tmp_path: Path) -> None:
    told: list[str] = []
    result = export(base, "safetensors", tmp_path / "a" / "out", on_progress=told.append)
    assert result.folder == tmp_path / "a" / "out"
    assert result.format == "safetensors"
    assert result.files == ("README.md", "model.json", "model.safetensors", "tokenizer.json")
    assert [line.split()[0] for line in told] == ["Writing", "Loading"]
    assert len(result.checks) == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_empty_folder_is_taken_and_a_full_one_left_alone(base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    export(base, "safetensors", folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ExportError, match=r"out is not empty \(it has '[\w.]+'\), and an export overwrites nothing"):
        export(base, "safetensors", folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_output_inside_of_the_run_is_refused(base: Base, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "r")
    run.path.mkdir(parents=True)
    run.profile_path.write_text("precious", "utf-8")
    for place in (run.path, run.path / "a" / "b", tmp_path / "runs" / "x" / ".." / "r" / "y"):
        with pytest.raises(ExportError, match="lies inside the model that is exported") as caught:
            export(base, "hf", place, run=run)
        assert "remove" not in caught.value.hint
    assert [path.name for path in run.path.iterdir()] == ["profile.yaml"]


def test_what_appears_in_the_folder_meanwhile_is_left_alone(base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def write_mine(told: str) -> None:
        if told.startswith("Loading"):
            (folder / "mine.txt").write_text("precious", "utf-8")

    with pytest.raises(ExportError, match="out cannot be written"):
        export(base, "safetensors", folder, on_progress=write_mine)
    assert (folder / "mine.txt").read_text("utf-8") == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kept", ["runs", "corpora"])
def test_folders_of_runs_and_corpora_are_refused(
    kept: str, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(kept, "other", "inner").mkdir(parents=True)
    for place in (Path(kept), Path(kept, "new"), Path(kept, "other"), tmp_path / kept / "a" / "b"):
        with pytest.raises(ExportError, match=f"lies in {kept}/, where gptcli keeps its own {kept}"):
            export(base, "hf", place)
    assert [path.name for path in tmp_path.rglob("*")] == [kept, "other", "inner"]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_links_in_a_circle_are_a_sentence(base: Base, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for place in (tmp_path / "a", tmp_path / "a" / "out"):
        with pytest.raises(ExportError, match=r"(cannot be used|cannot be written|is a file)"):
            export(base, "safetensors", place)


def test_what_cannot_be_read_is_not_told_as_a_full_disk(base: Base, tmp_path: Path) -> None:
    def fail(*_: object) -> Any:  # noqa: ANN401 - it returns nothing
        raise OSError(5, "Input/output error")

    broken = dataclasses.replace(base, weights=LazyWeights(dict.fromkeys(base.weights, fail)))
    for format in ("hf", "gguf", "safetensors"):
        with pytest.raises(ExportError, match=r"weight \S+ of tiny cannot be read \(Input/output error\)"):
            export(broken, format, tmp_path / "out")
    with pytest.raises(ExportError, match=r"What was written cannot be read back \(Input/output error\)"):
        exporting._read_back(fail, base, tmp_path, "float32")
    assert list(tmp_path.iterdir()) == []


def test_output_inside_of_a_folder_that_is_exported_is_refused(base: Base, tmp_path: Path) -> None:
    export(base, "safetensors", tmp_path / "source")
    again = dataclasses.replace(base, name=str(tmp_path / "source"), kind="gptcli")
    with pytest.raises(ExportError, match="lies inside the model"):
        export(again, "safetensors", tmp_path / "source" / "copy")


def test_places_that_are_no_free_folder_are_refused(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ExportError, match="file is a file; an export is a folder of its own"):
        export(base, "hf", tmp_path / "file")
    with pytest.raises(ExportError, match="is the working directory"):
        export(base, "hf", Path())
    with pytest.raises(ExportError, match=r"file/x cannot be written \((File exists|Not a directory)\)"):
        export(base, "hf", tmp_path / "file" / "x")
    for name in ("x" * 300, "zero\0byte"):
        with pytest.raises(ExportError, match="cannot be used"):
            export(base, "hf", tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here"]


def test_unknown_format_is_answered_with_those_there_are(base: Base, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no format called 'onnx'") as caught:
        export(base, "onnx", tmp_path / "out")
    assert caught.value.hint == "Choose one of hf, gguf, nanogpt, safetensors."


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize(
    ("format", "limit"),
    [
        *(("hf", 20_000), ("hf", 100), ("safetensors", 20_000)),
        *(("gguf", 20_000), ("gguf", 100), ("nanogpt", 20_000), ("nanogpt", 100)),
    ],
)
def test_full_disk_is_told_and_leaves_nothing(
    format: str, limit: int, base: Base, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    import resource

    base = random_base("gpt2 with exact gelu", tokenizers["char"]) if format == "nanogpt" else base
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(
            ExportError, match=r"out cannot be written \(.*(File too large|the disk took no more)"
        ) as caught:
            export(base, format, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Make room" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["hf", "safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_training_are_not_exported(format: str, value: float, base: Base, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"weight norm.weight is not finite: the training diverged"):
        export(changed(base, value), format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_float16_are_named(base: Base, tmp_path: Path) -> None:
    large = changed(base, 70_000.0)
    with pytest.raises(ExportError, match=r"norm.weight has numbers too large for float16") as caught:
        export(large, "safetensors", tmp_path / "out", dtype="float16")
    assert "bfloat16" in caught.value.hint
    assert export(large, "safetensors", tmp_path / "out", dtype="bfloat16").checks


def test_model_of_bfloat16_can_be_exported_as_float32(base: Base, tmp_path: Path) -> None:
    half = dataclasses.replace(base, weights={name: base.weights[name].to(torch.bfloat16) for name in base.weights})
    assert len(export(half, "hf", tmp_path / "out").checks) == 5
