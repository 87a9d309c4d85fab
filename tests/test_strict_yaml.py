from __future__ import annotations

import pytest

from gptcli.strict_yaml import StrictYamlError, load_value, load_yaml


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
        ("a: !!python/object/apply:os.system ['true']\n", 1, "could not determine a constructor"),
        ("a: [1, 2\n", 2, "expected ',' or ']'"),
        ("3: 4\n", 1, "plain word"),
        ("a: 2026-13-45\n", 1, "not valid YAML"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line(text: str, line: int, fragment: str) -> None:
    with pytest.raises(StrictYamlError) as caught:
        load_yaml(text)
    assert caught.value.line == line
    assert fragment in caught.value.message
