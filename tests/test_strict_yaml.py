from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptcli.errors import ProfileError, SourceError
from gptcli.fetch.recipes import load_recipe
from gptcli.profiles import load_profile
from gptcli.strict_yaml import MAX_BYTES, StrictYamlError, dump_yaml, load_value, load_yaml, read_yaml_file


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("3e4", 3e4), ("-2.5E-2", -0.025), ("5", 5), ("0.5", 0.5), ("1_000", 1000), ("v1e3", "v1e3")],
)
def test_numbers_with_exponents_are_numbers(text: str, value: object) -> None:
    assert load_value(text) == value
    assert type(load_value(text)) is type(value)


def test_every_value_knows_its_line() -> None:
    _, lines = load_yaml("model:\n  n_layer: 4\n\n  stop:\n    - a\n    - b\n")
    assert lines["model", "n_layer"] == 2
    assert lines["model", "stop", 1] == 6


def test_an_empty_text_is_an_empty_mapping() -> None:
    assert load_yaml("# nothing but a comment\n")[0] == {}


@pytest.mark.parametrize(
    ("text", "line", "fragment"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice"),
        ("a: 1\n 2: 3\n", 2, "mapping values are not allowed"),
        ("- 1\n- 2\n", 1, "found list"),
        ("just words\n", 1, "found str"),
        ("a: 1\nb: &x 1\nc: *x\n", 2, "aliases"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tags such as '!!python/object/apply:os.system'"),
        ("a: [1, 2\n", 2, "expected ',' or ']'"),
        ("3: 4\n", 1, "plain word"),
        ("a: 2026-13-45\n", 1, "not valid YAML"),
        ("a:\n  b: !!int ''\n", 2, "tags such as '!!int' are not used in these files"),
        ("a: !!float ''\n", 1, "tags such as '!!float'"),
        ("a: 1\nb: !!bool x\n", 2, "tags such as '!!bool'"),
        ("a: !!timestamp x\n", 1, "tags such as '!!timestamp'"),
        ("a: !!binary aGk=\n", 1, "tags such as '!!binary'"),
        ("!!omap [a: 1]\n", 1, "tags such as '!!omap'"),
        ("a:\n- !!str 5\n", 2, "tags such as '!!str'"),
        ("? !!str a\n: 5\n", 1, "tags such as '!!str'"),
        ("a: ! 5\n", 1, "tags such as '!' are"),
        ("a: !<tag:a.org,2026:" + "x" * 1000 + "> 5\n", 1, "tags such as 'tag:a.org,2026:" + "x" * 25 + "' are"),
        ("a: =\n", 1, "could not determine a constructor"),
        ("a: 1" + ":1" * 200 + ".0\n", 1, "int too large to convert to float"),
        ("\na: 1" + ":1" * 500_000 + "\n", 2, "a number of more than 1,000 digits"),
        ("a: 1" + "0" * 1000 + "\n", 1, "a number of more than 1,000 digits"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line(text: str, line: int, fragment: str) -> None:
    with pytest.raises(StrictYamlError) as caught:
        load_yaml(text)
    assert caught.value.line == line
    assert fragment in caught.value.message


@pytest.mark.parametrize("text", ["!!int ''", "!!bool x", "[!!timestamp x]", "1" + ":1" * 200 + ".0", "=", "[", "0x_"])
def test_a_value_that_is_not_plain_data_is_refused(text: str) -> None:
    with pytest.raises(StrictYamlError):
        load_value(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
@example({"a": ["!!int ''", "! 5", "1:30", "=", "<<", "!", "&a", "*a", "1e5", "", "null", "0x_"]})
def test_what_is_written_loads_as_the_same_value(value: dict[str, object]) -> None:
    assert load_yaml(dump_yaml(value))[0] == value


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ProfileError, match=r"pipe\.yaml: this is not a regular file"):
        load_profile(tmp_path / "pipe.yaml")


def test_a_file_of_more_than_a_mebibyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"a: 1\r\n" + b"#" * (MAX_BYTES - 6))
    assert load_yaml(read_yaml_file(path))[0] == {"a": 1}
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(StrictYamlError, match="larger than 1,048,576 bytes"):
        read_yaml_file(path)
    with pytest.raises(ProfileError, match=r"large\.yaml: the file is larger"):
        load_profile(path)
    with pytest.raises(SourceError, match=r"large\.yaml:1: the file is larger"):
        load_recipe(path)
