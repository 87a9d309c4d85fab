"""What is written about the keys of a profile: complete, current, and true to what the reader of profiles accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.config import RunProfile
from gptcli.errors import ProfileError
from gptcli.profile_docs import (
    MODELINE,
    SCHEMA_NAME,
    commented,
    explained,
    key_docs,
    profile_reference,
    profile_schema,
    schema_text,
    value_text,
)
from gptcli.profiles import build_profile, builtin_folder, given_keys, load_profile
from gptcli.strict_yaml import dump_yaml, load_value, load_yaml

ROOT = Path(__file__).resolve().parents[1]
BUILTIN = sorted(builtin_folder("configs").glob("*.yaml"))
REMAKE = "make docs writes it anew"


@pytest.mark.parametrize(
    ("name", "made"), [("docs/profiles.md", profile_reference()), (f"configs/{SCHEMA_NAME}", schema_text())]
)
def test_the_files_that_are_kept_are_current(name: str, made: str) -> None:
    assert (ROOT / name).read_text("utf-8") == made, REMAKE


def test_the_reference_has_a_row_for_every_key_and_no_cell_is_empty() -> None:
    rows = [line for line in profile_reference().splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(key_docs())) > 60
    for row in rows:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4, row
        assert all(cells), row


def test_the_reference_says_what_a_value_may_be() -> None:
    kinds = {".".join(map(str, key.path)): key.kind for key in key_docs()}
    assert kinds["model.dropout"] == "number from 0, below 1"
    assert kinds["model.n_kv_head"] == "whole number above 0 or empty"
    assert kinds["train.compile"] == "`auto` or `true` or `false`"
    assert kinds["sample.stop"] == "text or a list of texts"
    assert kinds["train.optimizer"] == "`muon` or `adamw`"


@pytest.mark.parametrize("path", BUILTIN, ids=lambda path: path.stem)
def test_a_profile_with_comments_reads_back_equal(path: Path) -> None:
    profile = load_profile(path)
    text = commented(profile, given_keys(path), "# A header.")
    assert build_profile(load_yaml(text)[0]) == profile
    assert max(map(len, text.splitlines())) <= 120


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "description": st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
            "sample": st.fixed_dictionaries(
                {}, optional={"prompt": st.text(max_size=200), "stop": st.lists(st.text(min_size=1), max_size=3)}
            ),
        },
    )
)
def test_any_text_in_a_profile_with_comments_reads_back_equal(values: dict[str, Any]) -> None:
    profile = build_profile(values)
    paths = [key.path for key in key_docs()]
    for text in (commented(profile, paths[:3]), explained(profile, dict.fromkeys(paths, "Why: # so\nit is."))):
        assert build_profile(load_yaml(text)[0]) == profile


def test_every_key_has_its_docstring_above_it_and_a_star_where_it_was_set() -> None:
    lines = commented(RunProfile(), {("model", "n_layer")}).splitlines()
    assert lines[lines.index("  n_layer: 4") - 1] == "  # * Number of transformer blocks."
    assert lines[lines.index("  n_head: 4") - 1] == "  # Number of attention heads in a block."
    keys = [index for index, line in enumerate(lines) if re.match(r" *[a-z_0-9]+:", line)]
    assert all(lines[index - 1].lstrip().startswith("# ") for index in keys)
    assert sum("* " in line for line in lines) == 1


def test_only_keys_with_a_reason_are_explained() -> None:
    text = explained(RunProfile(), {("train", "max_steps"): "As many\nas fit.", ("data", "corpus"): ""}, "Two\nlines")
    assert text == "# Two\n# lines\ndata:\n  corpus: null\ntrain:\n  # As many as fit.\n  max_steps: 1000\n"


@pytest.mark.parametrize("value", [None, "", "a", "No", "1e3", "# x", "a\nb", ["x"], [], True, 3, 1e-06, 0.1])
def test_a_value_is_told_in_one_line_that_set_reads(value: object) -> None:
    text = value_text(value)
    assert "\n" not in text
    assert value is None or load_value(text) == value


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = profile_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", BUILTIN, ids=lambda path: path.stem)
def test_the_schema_accepts_every_built_in_profile(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    values = load_yaml(path.read_text("utf-8"))[0]
    assert not list(validator.iter_errors(values))
    whole = json.loads(json.dumps(load_profile(path).model_dump(mode="json")))
    assert not list(validator.iter_errors(whole))


@pytest.mark.parametrize(
    "text",
    [
        *("model: {n_layr: 1}", "modell: {}", "model: 3", "train: {max_iters: 3}", "format_version: 2"),
        *("model: {dropout: 1}", "model: {n_layer: 0}", "model: {n_layer: x}", "model: {family: gpt3}"),
        *("data: {tokenizer: bpe}", "data: {tokenizer: xbpe:12}", "train: {device: gpu}", "train: {compile: maybe}"),
        *("train: {compile: 1}", "finetune: {lora_targets: []}", "sample: {stop: ['']}", "sample: {top_p: 0}"),
        *("expects: {minutes: 0}", "model: {bias: null}", "sample: {prompt: null}", "sample: {stop: [1]}"),
    ],
)
def test_the_schema_refuses_what_reading_refuses(text: str, validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid(yaml.safe_load(text))
    with pytest.raises(ProfileError):
        build_profile(load_yaml(text)[0])


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "model:", "data: {tokenizer: bpe:512, split_at: null}", "train: {device: 'cuda:1', compile: auto}"),
        *("finetune: {lora_rank: 4, lora_targets: attn.qkv}", "sample: {stop: THE END}", "sample: {stop: [a, b]}"),
        *("train: {compile: true, learning_rate: 1}", "format_version: 1", "model: {n_kv_head: null}"),
    ],
)
def test_the_schema_accepts_what_reading_accepts(text: str, validator: jsonschema.Draft202012Validator) -> None:
    build_profile(load_yaml(text)[0])
    assert validator.is_valid(yaml.safe_load(text))


def test_the_schema_tells_an_editor_what_every_key_means() -> None:
    schema = profile_schema()
    for key in key_docs():
        found: Any = schema
        for part in key.path:
            found = found["properties"][part]
        assert found["description"] == key.text
        assert "default" in found


@pytest.mark.parametrize("path", BUILTIN, ids=lambda path: path.stem)
def test_the_first_line_of_a_built_in_profile_leads_an_editor_to_the_schema(path: Path) -> None:
    first = path.read_text("utf-8").splitlines()[0]
    assert first == f"{MODELINE}./{SCHEMA_NAME}", REMAKE
    assert (path.parent / SCHEMA_NAME).is_file()


def test_dumped_values_are_what_the_reference_shows() -> None:
    for key in key_docs():
        if key.default is not None:
            plain = list(key.default) if isinstance(key.default, tuple) else key.default
            assert load_value(value_text(plain)) == load_yaml(dump_yaml({"k": plain}))[0]["k"]
