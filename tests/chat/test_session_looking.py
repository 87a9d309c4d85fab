"""What a session shows and sets without changing the text."""

from __future__ import annotations

from gptcli.chat.events import Columns, Leave, Ranked, Said, Wrong
from gptcli.writing import WritingModel
from tests.chat.desks import ALPHABET, Desk, only


def test_next_shows_the_likeliest_tokens(desk: Desk) -> None:
    rows = only(desk.send("abc", "/next"), Ranked).rows
    assert rows[0][0] == "l"
    assert len(rows) == 10
    assert [share for _, share in rows] == sorted((share for _, share in rows), reverse=True)
    assert 0.5 < rows[0][1] <= sum(share for _, share in rows) <= 1.0
    assert desk.text == "abcdefghijk"


def test_set_changes_how_text_is_drawn(desk: Desk) -> None:
    assert only(desk.send("/set max_new_tokens 2 stop h"), Said).text == 'max_new_tokens 2, stop "h"'
    desk.send("abc")
    assert desk.text == "abcde"
    assert desk.session.config.max_new_tokens == 2
    desk.send("/set max_new_tokens 50", "/more")
    assert desk.text == "abcdefg"


def test_set_changes_nothing_when_one_of_them_is_wrong(desk: Desk) -> None:
    before = desk.session.config
    wrong = only(desk.send("/set temperature 1 topk 0"), Wrong)
    assert "nearest is top_k" in wrong.text
    assert desk.session.config == before


def test_params_shows_settings_and_the_next_seed(desk: Desk) -> None:
    text = only(desk.send("abc", "/set top_k 3", "/params"), Said).text
    assert "top_k               3   (not the default, none)" in text
    assert "The next reply draws from seed 1338." in text


def test_compare_shows_the_last_reply_of_another_model(alphabet: WritingModel, backwards: WritingModel) -> None:
    desk = Desk(alphabet, backwards)
    desk.send("abc", "mno", "/set max_new_tokens 3")
    text = desk.text
    expected = Columns("parrot", "pqrstuvw", "backwards", "nmlkjihg")
    assert only(desk.send("/compare backwards"), Columns) == expected
    assert only(desk.send("/compare backwards"), Columns) == expected
    assert desk.opened == ["backwards"]
    assert desk.text == text


def test_compare_with_itself_is_equal(alphabet: WritingModel) -> None:
    desk = Desk(alphabet, temperature=3.0)
    desk.send("abc", "/more")
    columns = only(desk.send("/compare parrot"), Columns)
    assert columns.left == columns.right
    assert desk.opened == []


def test_compare_tells_why_a_model_cannot_be_opened_or_read(alphabet: WritingModel, talker: WritingModel) -> None:
    desk = Desk(alphabet, talker)
    desk.send("abc,")
    assert only(desk.send("/compare nowhere"), Wrong).text == "There is no run called 'nowhere'."
    assert only(desk.send("/compare talker"), Wrong).text.startswith("talker cannot read this text. The char tokenizer")
    assert only(desk.send("/compare"), Wrong).hint == "Such as: /compare RUN"


def test_help_and_quit(desk: Desk) -> None:
    assert "/best-of [N]" in only(desk.send("/help"), Said).text
    assert only(desk.send("/help set"), Said).text.startswith("/set NAME VALUE")
    assert "/set" in only(desk.send("/help sett"), Wrong).hint
    assert desk.send("/quit") == [Leave()]


def test_the_text_without_its_last_reply_can_be_asked(desk: Desk) -> None:
    assert desk.session.undrawn_text == ""
    desk.send("abc", "/more")
    assert desk.session.undrawn_text == "abcdefghijk"
    desk.send("/undo")
    assert desk.session.undrawn_text == "abc"


# The edges of the context.


def test_a_text_longer_than_the_context_is_told_once_when_it_begins(alphabet: WritingModel) -> None:
    desk = Desk(alphabet)
    assert not [event for event in desk.send("abcdefghijklmnop", "/more", "/more") if isinstance(event, Said)]
    said = [event for event in desk.send("/more") if isinstance(event, Said)]
    assert said == [Said("The text is longer than the 32 tokens the model reads; it sees the last 32.")]
    assert not [event for event in desk.send("/more") if isinstance(event, Said)]
    assert desk.text == (ALPHABET * 3)[: 16 + 5 * 8]
    desk.send("/new", "abc", "/undo", "/undo")
    assert [event for event in desk.send("/more") if isinstance(event, Said)]
