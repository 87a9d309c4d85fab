"""Several continuations at once, to choose from."""

from __future__ import annotations

import pytest

from gptcli.chat.events import Choices, Drawn, Said, Wrong
from gptcli.chat.several import MAX_CHOICES
from gptcli.sample import generate
from gptcli.writing import WritingModel
from tests.chat.desks import Desk, only


def test_best_of_draws_what_as_many_seeds_would(alphabet: WritingModel) -> None:
    desk = Desk(alphabet, temperature=3.0, seed=5)
    desk.send("abc")
    text = desk.text
    choices = only(desk.send("/best-of 3"), Choices).texts
    assert (desk.session.choosing, desk.text) == (True, text)
    tokens_per_second = desk.session.tokens_per_second
    config = desk.session.config.model_copy(update={"seed": 6, "num_samples": 3})
    expected = ["", "", ""]
    for piece in generate(alphabet.decoder, alphabet.tokenizer, text, config):
        expected[piece.sample] += piece.text
    assert choices == expected
    assert desk.send("2")[0] == Drawn(choices[1])
    assert (desk.session.choosing, desk.text) == (False, text + choices[1])
    assert desk.session.tokens_per_second == tokens_per_second
    assert only(desk.send("/params"), Said).text.endswith("The next reply draws from seed 9.")
    desk.send("/retry 7")
    assert desk.text == text + choices[1]


def test_best_of_alone_draws_four(desk: Desk) -> None:
    assert len(only(desk.send("abc", "/best-of"), Choices).texts) == 4


@pytest.mark.parametrize("n", ["0", "-1", "x", str(MAX_CHOICES + 1), "2.5"])
def test_best_of_refuses_an_impossible_number(desk: Desk, n: str) -> None:
    desk.send("abc")
    assert f"not {n}" in only(desk.send(f"/best-of {n}"), Wrong).text
    assert not desk.session.choosing


def test_an_empty_line_takes_no_choice(desk: Desk) -> None:
    desk.send("abc", "/best-of 2")
    assert only(desk.send(""), Said).text == "None was taken."
    assert not desk.session.choosing
    assert desk.text == "abcdefghijk"


def test_a_command_leaves_the_choices(desk: Desk) -> None:
    desk.send("abc", "/best-of 2", "/more")
    assert not desk.session.choosing
    assert desk.text == "abcdefghijklmnopqrs"


def test_undo_takes_back_the_choices_first(desk: Desk) -> None:
    desk.send("abc", "/best-of 2", "/undo")
    assert not desk.session.choosing
    assert desk.text == "abcdefghijk"


@pytest.mark.parametrize("answer", ["0", "3", "none of them", "//x", "\u0662"])
def test_an_answer_that_is_no_choice_is_asked_for_again(desk: Desk, answer: str) -> None:
    desk.send("abc", "/best-of 2")
    assert "a number from 1 to 2" in only(desk.send(answer), Wrong).hint
    assert desk.session.choosing
    assert desk.text == "abcdefghijk"


def test_an_unknown_command_leaves_the_choices_open(desk: Desk) -> None:
    desk.send("abc", "/best-of 2")
    assert "/retry" in only(desk.send("/retyr"), Wrong).hint
    assert desk.session.choosing


@pytest.mark.parametrize("line", ["/retry", "/retry 7", "/best-of 2"])
def test_at_temperature_0_it_is_told_once_that_every_seed_draws_the_same(desk: Desk, line: str) -> None:
    desk.send("abc")
    assert "every seed draws the same" in only(desk.send(line), Said).text
    assert not [event for event in desk.send("/retry") if isinstance(event, Said)]


def test_where_chance_has_a_part_or_nothing_is_drawn_anew_seeds_need_no_word(alphabet: WritingModel) -> None:
    for desk, lines in ((Desk(alphabet, temperature=0.5), ("/retry", "/best-of 2")), (Desk(alphabet), ("/best-of 1",))):
        desk.send("abc")
        for line in lines:
            assert not [event for event in desk.send(line) if isinstance(event, Said)]
