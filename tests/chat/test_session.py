from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli import reading
from gptcli.chat.events import Drawn, EditRequest, Ended, Given, Said, Wrong
from gptcli.config import SampleConfig
from gptcli.sample import Piece, generate
from gptcli.tokenizer import CharTokenizer
from gptcli.writing import WritingModel
from tests.chat.desks import Desk, only


def drawn(events: Iterable[object]) -> str:
    return "".join(event.text for event in events if isinstance(event, Drawn))


def test_the_model_goes_on_with_the_line_that_is_sent(desk: Desk) -> None:
    events = desk.send("abc")
    assert events[0] == Given("abc")
    assert [event for event in events[1:-1] if not isinstance(event, Drawn)] == []
    assert drawn(events) == "defghijk"
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert (ended.finish_reason, ended.tokens) == ("length", 8)
    assert ended.seconds > 0
    assert desk.session.tokens_per_second == pytest.approx(8 / ended.seconds)
    assert desk.text == "abcdefghijk"


@pytest.mark.parametrize("prompt", ["ab", "x:\ny"])
def test_the_first_reply_is_what_sample_draws(alphabet: WritingModel, prompt: str) -> None:
    config = SampleConfig(temperature=2.0, max_new_tokens=20, seed=5)
    pieces = generate(alphabet.decoder, alphabet.tokenizer, prompt, config)
    desk = Desk(alphabet, **config.model_dump())
    desk.send(prompt)
    assert desk.text == prompt + "".join(piece.text for piece in pieces)


def test_more_goes_on_without_adding_anything(desk: Desk) -> None:
    assert isinstance(desk.send("abc", "/more")[0], Drawn)
    assert desk.text == "abcdefghijklmnopqrs"


def test_more_begins_a_text_where_there_is_none(desk: Desk) -> None:
    events = desk.send("/more")
    assert len(drawn(events)) == 8
    assert desk.text == drawn(events)


def test_a_second_line_begins_on_a_line_of_its_own(desk: Desk) -> None:
    assert desk.send("abc", "A:")[0] == Given("\nA:")
    assert desk.text.startswith("abcdefghijk\nA:")


def test_several_lines_are_one_input(desk: Desk) -> None:
    desk.send("a\r\nb\rabc")
    assert desk.text == "a\nb\nabcdefghijk"


def test_a_text_may_begin_with_a_slash(desk: Desk) -> None:
    desk.send("//abc")
    assert desk.text == "/abcdefghijk"


def test_an_empty_line_says_how_to_go_on(desk: Desk) -> None:
    assert "/more" in only(desk.send("abc", ""), Said).text
    assert desk.text == "abcdefghijk"


def test_a_tokenizer_without_line_ends_gets_a_space_between(alphabet: WritingModel) -> None:
    characters = "".join(sorted("abcdefghijklmnopqrstuvwxyzABCDE ,.:/;"))
    flat = replace(alphabet, tokenizer=CharTokenizer(characters, end_of_text=False))
    desk = Desk(flat)
    assert isinstance(desk.send("a", "A")[0], Given)
    assert desk.text.count(" A") == 1


def test_a_character_that_the_tokenizer_does_not_have_changes_nothing(desk: Desk) -> None:
    desk.send("abc")
    events = desk.send("\u00e4\u00f6")
    assert "'\u00e4', '\u00f6'" in only(events, Wrong).text
    assert len(events) == 1
    desk.send("/more")
    assert desk.text == "abcdefghijklmnopqrs"


# Drawing again.


def test_retry_draws_with_the_next_seed(alphabet: WritingModel) -> None:
    config = SampleConfig(temperature=3.0, max_new_tokens=12, seed=5)
    desk = Desk(alphabet, **config.model_dump())
    desk.send("abc")
    texts = [desk.text]
    for seed in (6, 7):
        assert desk.send("/retry")[0] == Given("abc")
        pieces = generate(alphabet.decoder, alphabet.tokenizer, "abc", config.model_copy(update={"seed": seed}))
        assert desk.text == "abc" + "".join(piece.text for piece in pieces)
        texts.append(desk.text)
    assert len(set(texts)) == 3
    desk.send("/retry 5")
    assert desk.text == texts[0]


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", str(2**63), "9" * 5000])
def test_retry_refuses_what_is_no_seed(desk: Desk, seed: str) -> None:
    desk.send("abc")
    assert "is no seed" in only(desk.send(f"/retry {seed}"), Wrong).text
    assert desk.text == "abcdefghijk"


@pytest.mark.parametrize("line", ["/retry", "/edit", "/edit x", "/undo", "/compare other"])
def test_what_needs_a_reply_says_so_on_an_empty_desk(desk: Desk, line: str) -> None:
    wrong = only(desk.send(line), Wrong)
    assert "Send a line first" in wrong.hint
    assert desk.text == ""


def test_edit_replaces_the_last_line_and_draws_again(desk: Desk) -> None:
    desk.send("abc", "A:x", "/more")
    before = desk.text
    assert desk.send("/edit B:mn")[0] == Given("\nB:mn")
    assert desk.text == "abcdefghijk\nB:mnopqrstuv"
    desk.send("/undo")
    assert desk.text == before


def test_edit_alone_asks_for_a_new_line(desk: Desk) -> None:
    assert desk.send("abc", "A:x", "/edit  ") == [EditRequest("A:x")]
    desk.send("/edit  abc")
    assert desk.text == "abcdefghijk abcdefghijk"


def test_setting_a_seed_counts_from_it_again(alphabet: WritingModel) -> None:
    desk = Desk(alphabet, temperature=3.0)
    texts = []
    for _ in range(2):
        desk.send("/new", "/set seed 7", "abc", "/more")
        texts.append(desk.text)
    assert texts[0] == texts[1]
    desk.send("/new", "abc", "/more")
    assert desk.text != texts[0]


# Going back.


def test_undo_takes_back_everything_step_by_step(alphabet: WritingModel, tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    file.write_text("abc xyz", "utf-8")
    desk = Desk(alphabet, temperature=2.0)
    texts = []
    for line in ("abc", "/more", "/retry", "/edit xyz", f"/load {file}", "A:", "/new", "b", "/best-of 2"):
        texts.append(desk.text)
        desk.send(line)
    desk.send("2")
    for text in reversed(texts):
        events = desk.send("/undo")
        assert desk.text == text
        assert isinstance(events[0], Said)
        assert events[1:] == ([Given(text)] if text else [])
    assert "nothing to take back" in only(desk.send("/undo"), Wrong).text


def test_new_of_an_empty_text_is_no_step(desk: Desk) -> None:
    assert isinstance(only(desk.send("/new"), Said), Said)
    assert isinstance(only(desk.send("/undo"), Wrong), Wrong)


LINES = st.sampled_from(
    [
        *(
            "abc",
            "A:",
            " x",
            "\u00e4",
            "",
            "/more",
            "/retry",
            "/retry 3",
            "/undo",
            "/edit",
            "/edit abc",
            "/edit \u00e4",
        ),
        *("/best-of 2", "1", "7", "/next", "/set temperature 3", "/set top_k 0", "/params", "/compare backwards"),
        *("/compare nowhere", "/save nothing.doc", "/load nowhere.txt", "/copies", "/new", "/help", "/help set"),
        *("/nonsense", "//x", "/quit"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINES, max_size=8))
def test_any_lines_and_as_many_undos_leave_the_first_text(
    alphabet: WritingModel, backwards: WritingModel, lines: list[str]
) -> None:
    desk = Desk(alphabet, backwards, max_new_tokens=3)
    texts: list[str] = []
    for line in lines:
        before, n_steps = desk.text, len(desk.session._sheet.earlier)
        desk.send(line)
        moved = len(desk.session._sheet.earlier) - n_steps
        assert moved in (-1, 0, 1)
        if moved > 0:
            texts.append(before)
        else:
            assert desk.text == (texts.pop() if moved else before)
    if desk.session.choosing:
        desk.send("")
    for text in reversed(texts):
        desk.send("/undo")
        assert desk.text == text
    assert desk.text == ""
    assert only(desk.send("/undo"), Wrong).text == "There is nothing to take back."


@settings(max_examples=30, deadline=None)
@given(lines=st.lists(LINES, max_size=8))
def test_the_same_lines_give_the_same_text(alphabet: WritingModel, backwards: WritingModel, lines: list[str]) -> None:
    desks = [Desk(alphabet, backwards, max_new_tokens=4, temperature=3.0) for _ in range(2)]
    for desk in desks:
        desk.send(*lines)
    assert desks[0].text == desks[1].text


# Stopping.


def test_closing_keeps_what_was_drawn(desk: Desk) -> None:
    assert desk.stop_after(4, "abc") == [Given("abc"), Drawn("d"), Drawn("e"), Drawn("f")]
    assert desk.text == "abcdef"
    desk.send("/more")
    assert desk.text == "abcdefghijklmn"
    desk.send("/undo", "/undo")
    assert desk.text == ""


def test_a_reply_that_was_stopped_can_be_drawn_again(desk: Desk) -> None:
    desk.stop_after(3, "abc")
    desk.send("/retry")
    assert desk.text == "abcdefghijk"


def test_an_iterator_that_was_never_begun_changes_nothing(desk: Desk) -> None:
    desk.session.feed("abc")
    assert desk.text == ""


@pytest.mark.parametrize("line", ["/best-of 3", "/compare backwards"])
def test_what_draws_beside_the_text_can_be_stopped(alphabet: WritingModel, backwards: WritingModel, line: str) -> None:
    desk = Desk(alphabet, backwards)
    desk.send("abc")
    assert desk.stop_after(2, line) == [Drawn(""), Drawn("")]
    assert not desk.session.choosing
    desk.send("/more")
    assert desk.text == "abcdefghijklmnopqrs"


def test_ctrl_c_while_the_model_draws_keeps_the_text(alphabet: WritingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(alphabet)
    _raise_after(monkeypatch, 2, KeyboardInterrupt())
    assert only(desk.send("abc"), Ended).finish_reason == "interrupted"
    assert desk.text == "abcde"
    _raise_after(monkeypatch, 2, KeyboardInterrupt())
    assert "stays as it was" in only(desk.send("/best-of 2"), Said).text
    monkeypatch.undo()
    desk.send("/more")
    assert desk.text == "abcdefghijklm"


def _raise_after(monkeypatch: pytest.MonkeyPatch, n_tokens: int, error: BaseException) -> None:
    def broken(*args: object, **options: object) -> Iterator[Piece]:
        yield from islice(generate(*args, **options), n_tokens)  # type: ignore[arg-type]
        raise error

    monkeypatch.setattr(reading, "generate", broken)


def test_a_stop_string_at_once_is_told(desk: Desk) -> None:
    events = desk.send("/set stop d", "abc")
    assert only(events, Ended).finish_reason == "stop"
    assert "a stop string at once" in only(events, Said).text
    assert desk.text == "abc"
