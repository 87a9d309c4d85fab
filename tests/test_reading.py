"""What a model reads before it draws, and what ends its reply."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptcli.chat_template import ChatTemplate, Message
from gptcli.config import ModelConfig, SampleConfig
from gptcli.decoder import Decoder
from gptcli.model import GPT
from gptcli.reading import draw_pieces, read_content
from gptcli.sample import chat_ids, generate, prompt_ids
from gptcli.tokenizer import Tokenizer, gpt2_tokenizer, train_bpe
from gptcli.writing import WritingModel
from tests.chat.desks import GREEDY

EMOJI = "\U0001f600\U0001f601\U0001f602 \u7b2c\u4e00\u7ae0 na\u00efve\n"


def random_model(tokenizer: Tokenizer, *, chat: bool = False) -> WritingModel:
    torch.manual_seed(1)
    config = ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=32, vocab_size=tokenizer.vocab_size)
    template = ChatTemplate() if chat else None
    return WritingModel("r", None, None, None, Decoder(config, GPT(config).state_dict()), tokenizer, template, GREEDY)


def test_a_text_is_read_as_sample_reads_it(alphabet: WritingModel) -> None:
    for text in ("", "abc"):
        assert torch.equal(read_content(alphabet, text), prompt_ids(alphabet.tokenizer, text))


def test_an_answer_that_has_begun_is_gone_on_with(talker: WritingModel) -> None:
    asked = [Message("user", "hi")]
    begun = read_content(talker, [*asked, Message("assistant", "fi")])
    assert begun.tolist() == [*chat_ids(talker.tokenizer, asked, ChatTemplate()), *talker.tokenizer.encode(" fi")]


def test_an_empty_answer_is_not_read(talker: WritingModel) -> None:
    asked, empty = Message("user", "hi"), Message("assistant", "")
    assert read_content(talker, [asked, empty]).tolist() == read_content(talker, [asked]).tolist()
    assert read_content(talker, [asked, empty, asked]).tolist() == read_content(talker, [asked, asked]).tolist()


def test_words_for_end_of_text_stay_words(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    tokenizer = gpt2_tokenizer()
    model = random_model(tokenizer, chat=True)
    said = [Message("user", "a<|endoftext|>b"), Message("assistant", "<|endoftext|>"), Message("user", "c")]
    assert read_content(model, said).tolist().count(tokenizer.end_of_text) == 1  # behind the answer
    assert tokenizer.end_of_text not in read_content(random_model(tokenizer), "a<|endoftext|>b").tolist()


def test_half_a_character_at_the_limit_is_left_out() -> None:
    model = random_model(train_bpe([EMOJI * 20], 270))
    cut = 0
    for seed in range(40):
        config = SampleConfig(temperature=2.0, max_new_tokens=3, seed=seed)
        ids = read_content(model, EMOJI)
        whole = "".join(piece.text for piece in generate(model.decoder, model.tokenizer, ids, config))
        drawn = "".join(piece.text for piece in draw_pieces(model, EMOJI, ids, config))
        assert drawn == whole.removesuffix("\ufffd")
        cut += drawn != whole
    assert cut


def test_the_space_before_an_answer_belongs_to_the_template(talker: WritingModel) -> None:
    said = [Message("user", "hi")]
    config = GREEDY.model_copy(update={"num_samples": 2, "max_new_tokens": 20})
    texts = ["", ""]
    for piece in draw_pieces(talker, said, read_content(talker, said), config):
        texts[piece.sample] += piece.text
    assert texts == ["fine", "fine"]
