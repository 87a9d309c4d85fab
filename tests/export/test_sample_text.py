from __future__ import annotations

import pytest

from gptcli.bpe import train_bpe
from gptcli.chat_template import ChatTemplate, write_conversation
from gptcli.export.sample_text import HARD_TEXT, compared_text, conversation, new_tokens, real_text, shown_prompt
from gptcli.tokenizer import char_tokenizer

BPE = train_bpe(["abc"], 257)
RUSSIAN = char_tokenizer(["скажи-ка, дядя\n"], end_of_text=False)


def test_alphabet_without_a_letter_of_english_still_gives_text() -> None:
    text = real_text(RUSSIAN)
    assert len(RUSSIAN.encode(text)) > 500
    assert set("скажид") < set(text)


def test_compared_text_is_as_hard_as_the_tokenizer_allows() -> None:
    assert compared_text(BPE) == real_text(BPE) + HARD_TEXT
    signs = char_tokenizer(["漢👍a"], end_of_text=False)
    assert compared_text(signs).endswith("a漢👍")
    assert len(signs.encode(compared_text(signs))) > 500


def test_conversation_has_all_sides_and_the_characters_of_the_alphabet() -> None:
    assert [role for role, _ in conversation(BPE, ChatTemplate())] == ["system", "user", "assistant", "user"]
    letters = char_tokenizer(["User: hi\nAssistant: A model\n"], end_of_text=True)
    spoken = conversation(letters, ChatTemplate())
    assert [message.role for message in spoken] == ["system", "user", "assistant", "user"]
    assert spoken[1].content == " ho are o "
    assert len(letters.encode(write_conversation(spoken).text)) > 30


def test_side_whose_words_the_alphabet_lacks_does_not_speak() -> None:
    template = ChatTemplate(system_start="#")
    letters = char_tokenizer(["User: hi\nAssistant: A model\n"], end_of_text=True)
    assert [role for role, _ in conversation(letters, template)] == ["user", "assistant", "user"]


@pytest.mark.parametrize("asked", ["Once upon", "The ", "«Ça»"])
def test_prompt_of_the_profile_is_shown(asked: str) -> None:
    assert shown_prompt(asked, BPE) == asked


def test_whole_words_are_shown_where_an_alphabet_has_any() -> None:
    small = char_tokenizer(["a definition of the class, upon\n"], end_of_text=False)
    assert shown_prompt("Once upon", small) == "upon"
    assert shown_prompt("", small) in real_text(BPE).split()


@pytest.mark.parametrize("asked", ["", "\n", "a`b", "\x1b[2J"])
def test_prompt_that_a_line_of_code_cannot_hold_gives_way_to_a_word(asked: str) -> None:
    assert shown_prompt(asked, BPE) in real_text(BPE).split()


def test_prompt_of_characters_that_the_model_lacks_gives_way_to_its_own() -> None:
    assert shown_prompt("дядя", RUSSIAN) == "дядя"
    assert set(shown_prompt("Once", RUSSIAN)) <= set("скажи-ка,дядя")
    assert shown_prompt("Once", RUSSIAN)
    assert shown_prompt("Once", char_tokenizer(["\n\t "], end_of_text=False)) == ""


@pytest.mark.parametrize(("asked", "block_size", "tokens"), [(500, 48, 24), (3, 48, 3), (9, 1, 1)])
def test_half_of_the_context_is_the_prompts(asked: int, block_size: int, tokens: int) -> None:
    assert new_tokens(asked, block_size) == tokens
