from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.chat.commands import CommandError
from gptcli.chat.settings import NAMES, changed_settings, read_settings, settings_table, shown_value
from gptcli.config import SampleConfig

BASE = SampleConfig(temperature=0.9, top_k=40, stop=("\n\n",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature 0.7 top_k 50", {"temperature": 0.7, "top_k": 50}),
        ("temperature=0.7", {"temperature": 0.7}),
        ("temperature 0", {"temperature": 0}),
        ("temperature 1e-3", {"temperature": 0.001}),
        ("top-k 3", {"top_k": 3}),
        ("--top-k 3", {"top_k": 3}),
        ("TOP_K none", {"top_k": None}),
        ("top_p null min_p 0.1", {"top_p": None, "min_p": 0.1}),
        ("max_new_tokens 12 seed 7", {"max_new_tokens": 12, "seed": 7}),
        ("repetition_penalty 1.2", {"repetition_penalty": 1.2}),
        ("stop none", {"stop": ()}),
        (r'stop "\n"', {"stop": ("\n",)}),
        (r"stop \n\n", {"stop": ("\n\n",)}),
        (r'stop "The end" stop \tx', {"stop": ("The end", "\tx")}),
        (r"stop 'a \\n b'", {"stop": (r"a \n b",)}),
        ("stop 12", {"stop": ("12",)}),
        ("stop a=b", {"stop": ("a=b",)}),
        ('stop "#"', {"stop": ("#",)}),
    ],
)
def test_settings_are_read_as_they_are_typed(text: str, expected: dict[str, object]) -> None:
    config, names = read_settings(text, BASE)
    assert config == BASE.model_copy(update=expected)
    assert names == list(expected)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "/set needs a name and a value"),
        ("temperatur 1", "'temperatur'; the nearest is temperature"),
        ("banana 1", "there is no setting 'banana'"),
        ("temperature", "temperature has no value"),
        ("temperature 1 temperature 2", "temperature stands twice"),
        ("temperature hot", "temperature: expected a valid number, found hot"),
        ("temperature none", "found none"),
        ("temperature .nan", "temperature: expected a finite number"),
        ("temperature -1", "temperature: expected greater than or equal to 0, found -1"),
        ("top_k 0", "top_k: expected greater than 0, found 0"),
        ("top_k 2.5", "top_k: expected a valid integer"),
        ("top_k true", "top_k: expected a valid integer"),
        ("top_k [1, 2]", "top_k"),
        ("top_p 1.5", "top_p: expected less than or equal to 1"),
        ('stop ""', "stop: a stop string must not be empty"),
        ('stop "a', "A quotation mark is not closed"),
        ("prompt Hello", "prompt is the text itself"),
        ("num_samples 3", "the number behind /best-of"),
        ("stop . ,", "there is no setting ','; each stop string has a stop before it"),
        ("seed -1", "seed: expected greater than or equal to 0"),
    ],
)
def test_an_impossible_setting_is_refused(text: str, found: str) -> None:
    with pytest.raises(CommandError) as caught:
        read_settings(text, BASE)
    assert found in caught.value.message
    assert "/set temperature 0.7" in caught.value.hint or "/set stop" in caught.value.hint


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(CommandError) as caught:
        read_settings("temperature -1 tpo_k 3 top_p 0 max_new_tokens many seed", BASE)
    for part in ("temperature: ", "'tpo_k'; the nearest is top_k", "top_p: ", "max_new_tokens: ", "seed has no value"):
        assert part in caught.value.message


def test_the_table_shows_every_setting_and_what_is_not_the_default() -> None:
    config = BASE.model_copy(update={"temperature": 0.5, "stop": ("\n", "a b")})
    lines = settings_table(config, BASE, 1340).splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(NAMES)
    assert [line.split()[0] for line in lines if "not the default" in line] == ["temperature", "stop"]
    assert "0.9" in lines[0]
    assert r'"\n" "a b"' in next(line for line in lines if line.startswith("stop"))
    assert lines[-1] == "The next reply draws from seed 1340."


def test_what_was_changed_is_told_as_json_has_it() -> None:
    config = BASE.model_copy(update={"stop": ("x",), "prompt": "not a setting"})
    assert changed_settings(config, BASE) == {"stop": ["x"]}


@given(st.lists(st.text(st.sampled_from('ab \n\t\\n"#='), min_size=1), min_size=1, max_size=3))
def test_a_stop_string_that_is_shown_can_be_typed_again(stops: list[str]) -> None:
    stops = [stop.replace('"', "") or "x" for stop in stops]
    typed = " ".join(f"stop {shown_value((stop,))}" for stop in stops)
    assert read_settings(typed, BASE)[0].stop == tuple(stops)


def test_several_stop_strings_behind_one_name_are_told_how() -> None:
    with pytest.raises(CommandError) as caught:
        read_settings("stop . ,", BASE)
    assert caught.value.hint == "Such as: /set stop . stop ,"
    assert read_settings("stop . stop ,", BASE)[0].stop == (".", ",")
