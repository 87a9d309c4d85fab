"""docs/formats.md against files that were really written: what is on the page is in them, and the other way round."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from gptcli.events import _NAMES, TrainEvent
from gptcli.fetch.recipes import Recipe
from gptcli.shards import open_dataset
from tests.doc_commands import FENCE, ROOT
from tests.workplace import Workplace

PAGE = (ROOT / "docs" / "formats.md").read_text("utf-8")
WORDS = {word for span in re.findall(r"`([^`\n]+)`", PAGE) for word in re.findall(r"[\w.]+", span)}
# The tree at the top, and the lines of tables: all names of files.
NAMES = WORDS | set(re.findall(r"[\w.-]+", FENCE.findall(PAGE)[0]))


def section(title: str) -> str:
    """Return the page from a heading to the next one of its kind."""
    depth = title.partition(" ")[0]
    return PAGE.partition(f"\n{title}\n")[2].partition(f"\n{depth} ")[0]


def keys(value: object) -> set[str]:
    """Return every key of a JSON value, however deep."""
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in keys(inner)}
    return {key for inner in value for key in keys(inner)} if isinstance(value, list) else set()


def test_table_of_events_is_that_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section("### metrics.jsonl"), re.MULTILINE))
    found = {name: re.findall(r"`(\w+)`", row) for name, row in rows.items() if name != "event"}
    assert found == {_NAMES[kind]: [field.name for field in fields(kind)] for kind in get_args(TrainEvent)}


@pytest.mark.slow
def test_columns_of_the_table_are_those_on_the_page(workplace: Workplace, tmp_path: Path) -> None:
    told = section("### metrics.jsonl").partition("`gptcli runs export-metrics`")[2]
    head = workplace.run("gptcli runs export-metrics", tmp_path).stdout.partition("\n")[0]
    assert head.split(",") == re.findall(r"`(\w+)`", told)


def test_keys_of_a_recipe_are_those_of_the_code() -> None:
    told = set(re.findall(r"`(\w+)`", section("## Profiles and recipes")))
    assert set(Recipe.model_fields) <= told


@pytest.mark.slow
def test_reader_on_the_page_reads_the_tokens(workplace: Workplace) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    room: dict[str, Any] = {}
    exec(code, room)  # noqa: S102 - it stands on our own page
    for folder in (workplace.folder / "corpora").glob("*/tokens/*"):
        dataset = open_dataset(folder)
        for split, reader in (("train", dataset.train), ("val", dataset.val)):
            np.testing.assert_array_equal(room["read_split"](folder, split), reader.read(0, len(reader)))
    assert len(list((workplace.folder / "corpora").glob("*/tokens/*"))) >= 3


@pytest.mark.slow
def test_end_of_text_stands_between_documents_and_nowhere_else(workplace: Workplace, tmp_path: Path) -> None:
    assert workplace.run("gptcli prepare notes --tokenizer bpe:300", tmp_path).returncode == 0
    dataset = open_dataset(tmp_path / "corpora" / "notes" / "tokens" / "bpe-300")
    ids, end = dataset.train.read(0, len(dataset.train)), dataset.tokenizer().end_of_text
    places = np.flatnonzero(ids == end)
    assert len(places) == dataset.manifest.train.documents - 1 >= 1
    assert places[0] > 0
    assert places[-1] < len(ids) - 1


@pytest.mark.slow
def test_every_file_of_a_corpus_and_of_a_run_is_on_the_page(workplace: Workplace) -> None:
    written = [
        path for kind in ("corpora", "runs") for path in (workplace.folder / kind).glob("*/**/*") if path.is_file()
    ]
    plain = {re.sub(r"-\d{5}\.", "-00000.", re.sub(r"^val", "train", path.name)) for path in written}
    assert plain <= NAMES
    assert {"manifest.json", "train-00000.mask", "base.json", ".lock", "latest"} <= {path.name for path in written}


@pytest.mark.slow
def test_every_key_of_those_files_is_on_the_page(workplace: Workplace) -> None:
    files = [path for kind in ("corpora", "runs") for path in (workplace.folder / kind).glob("*/**/*.json*")]
    assert len(files) > 20
    for path in files:
        lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
        # What is below these is of the reader's, or another program's.
        free = {"encodings", "dropped", "origin", "tokenizer_json", "tokens", "files"}
        values = [{k: v for k, v in json.loads(line).items() if k not in free} for line in lines]
        assert not {key for value in values for key in keys(value)} - WORDS, path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hf", "gguf", "nanogpt", "safetensors"])
def test_files_of_an_export_are_those_on_the_page(kind: str, workplace: Workplace, tmp_path: Path) -> None:
    run = "letters" if kind == "nanogpt" else "my-run"
    assert workplace.run(f"gptcli export {run} --format {kind} --output out-there", tmp_path).returncode == 0
    (row,) = re.findall(rf"^\| `{kind}` \| (.+) \|$", section("## exports/"), re.MULTILINE)
    told = {name.replace("<run>", run) for name in re.findall(r"`([^`]+)`", row)} | {"README.md"}
    assert {path.name for path in (tmp_path / "out-there").iterdir()} == told


@pytest.mark.slow
def test_checksum_on_the_page_is_that_of_the_files(workplace: Workplace) -> None:
    import hashlib

    for path in (workplace.folder / "runs" / "my-run").rglob("*.json"):
        value = json.loads(path.read_bytes())
        assert list(value)[-1] == "checksum"
        expected = value.pop("checksum")
        assert hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()[:16] == expected


@pytest.mark.slow
def test_another_version_is_an_error_that_names_both(workplace: Workplace, tmp_path: Path) -> None:
    broken = 'sed -i \'s/"format_version": 1/"format_version": 2/\' runs/my-run/dataset.json && gptcli sample my-run'
    done = workplace.run(broken, tmp_path)
    assert done.returncode == 1
    assert "format_version 2, this gptcli reads 1" in " ".join(done.stderr.split())
