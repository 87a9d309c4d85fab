"""Writing with a decoder: number formats, what is read and when, and what the model says of single tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from gptcli.chat_template import ChatTemplate, Message
from gptcli.config import ModelConfig, SampleConfig
from gptcli.decoder import Decoder, WeightFormat
from gptcli.errors import RunError
from gptcli.matrices import Floats
from gptcli.model import GPT
from gptcli.sample import Piece, chat_ids, context_window, generate, next_tokens, prompt_ids, trimmed
from gptcli.tokenizer import Tokenizer, char_tokenizer, train_bpe
from tests.random_models import Counting, counted, random_model

TEXT = "The truth value of an object is true unless its class defines a method that returns False.\n"
FAMILIES = pytest.mark.parametrize("family", ["gpt2", "modern"])
FORMATS = pytest.mark.parametrize("weight_format", ["float32", "float16", "bfloat16", "int8"])


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe([TEXT], 280)


def random_gpt(family: str = "modern", vocab_size: int = 280, block_size: int = 32) -> GPT:
    """A model with opinions: random weights large enough that the likeliest token stands out."""
    values: dict[str, Any] = {"family": family, "n_layer": 2, "n_head": 2, "n_embd": 16}
    return random_model(ModelConfig(**values, vocab_size=vocab_size, block_size=block_size), 0.4)


def decoder_of(model: GPT, weight_format: WeightFormat = "float32") -> Decoder:
    return Decoder(model.config, model.state_dict(), weight_format=weight_format)


def ids(pieces: list[Piece], sample: int = 0) -> list[int]:
    return [piece.token_id for piece in pieces if piece.sample == sample]


def greedy(model: GPT, text: torch.Tensor, n: int) -> list[int]:
    """Go on with the likeliest token, the whole window through ``GPT.forward`` each time."""
    for _ in range(n):
        start = context_window(len(text), model.config.block_size)
        with torch.no_grad():
            text = torch.cat((text, model(text[None, start:])[0, -1:].argmax(-1)))
    return text[-n:].tolist()


@FAMILIES
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_text_is_that_of_the_whole_model_within_a_block_and_past_it(
    family: str, use_cache: bool, bpe: Tokenizer
) -> None:
    model, prompt = random_gpt(family), prompt_ids(bpe, "The truth")
    settings = SampleConfig(temperature=0.0, max_new_tokens=70)
    pieces = list(generate(decoder_of(model), bpe, prompt, settings, use_cache=use_cache))
    assert ids(pieces) == greedy(model, prompt, 70)
    assert len(set(ids(pieces))) > 3, "the comparison needs a text that varies"


@FORMATS
@FAMILIES
def test_adding_samples_changes_none_in_any_format(family: str, weight_format: WeightFormat, bpe: Tokenizer) -> None:
    decoder = decoder_of(random_gpt(family), weight_format)
    settings = SampleConfig(temperature=1.5, max_new_tokens=40, seed=5)
    three = list(generate(decoder, bpe, "The", settings.model_copy(update={"num_samples": 3})))
    assert len({tuple(ids(three, sample)) for sample in range(3)}) == 3
    for sample in range(3):
        alone = settings.model_copy(update={"seed": 5 + sample})
        assert ids(list(generate(decoder, bpe, "The", alone))) == ids(three, sample)


@FORMATS
def test_narrow_formats_find_the_same_tokens_likely(weight_format: WeightFormat, bpe: Tokenizer) -> None:
    model = random_gpt()
    found = {token.token_id: token.probability for token in next_tokens(decoder_of(model, weight_format), bpe, TEXT)}
    for token in next_tokens(model, bpe, TEXT, 3):
        assert found[token.token_id] == pytest.approx(token.probability, rel=0.2)


def test_window_past_a_block_costs_one_long_read_a_stride(bpe: Tokenizer) -> None:
    decoder = decoder_of(random_gpt())
    counts = counted(decoder)
    list(generate(decoder, bpe, prompt_ids(bpe, "The"), SampleConfig(max_new_tokens=78, temperature=1.0)))
    n = len(prompt_ids(bpe, "The"))
    assert [count for count in counts if count > 1] == [*([n] if n > 1 else []), *[25] * 6]


def test_second_text_reads_only_what_is_new_and_is_the_same(bpe: Tokenizer) -> None:
    model = random_gpt(block_size=128)
    decoder = decoder_of(model)
    counts = counted(decoder)
    settings = SampleConfig(max_new_tokens=10, temperature=1.0)
    prompt = prompt_ids(bpe, "The truth")
    reply = torch.tensor(ids(list(generate(decoder, bpe, prompt, settings))))
    turn = torch.cat((prompt, reply, prompt_ids(bpe, " value")))
    counts.clear()
    pieces = list(generate(decoder, bpe, turn, settings))
    assert counts[0] == len(prompt_ids(bpe, " value")) + 1, "the last drawn token was not read yet"
    assert ids(pieces) == ids(list(generate(decoder_of(model), bpe, turn, settings)))


def test_reply_that_was_stopped_leaves_the_decoder_ready(bpe: Tokenizer) -> None:
    model = random_gpt()
    decoder = decoder_of(model)
    settings = SampleConfig(max_new_tokens=60, temperature=1.0, num_samples=2)
    whole = list(generate(decoder, bpe, "The", settings))
    for n in (0, 1, 5, 100):
        pieces = generate(decoder, bpe, "The", settings)
        begun = [next(pieces) for _ in range(n)]
        assert isinstance(pieces, Iterator)
        pieces.close()  # type: ignore[attr-defined]
        assert begun == whole[:n]
    assert list(generate(decoder, bpe, "The", settings)) == whole


class Interrupting(Counting):
    """A matrix that is interrupted once, the fourth time."""

    def step(self, x: Floats) -> Floats:
        y = super().step(x)
        if len(self.counts) == 4:
            raise KeyboardInterrupt
        return y


def test_reply_interrupted_inside_a_step_leaves_the_decoder_ready(bpe: Tokenizer) -> None:
    model = random_gpt()
    decoder, settings = decoder_of(model), SampleConfig(max_new_tokens=20, temperature=1.0)
    first, second = decoder.parts.layers
    layers = [first, replace(second, qkv=Interrupting(second.qkv, []))]
    decoder.parts, pieces = replace(decoder.parts, layers=layers), list[Piece]()
    with pytest.raises(KeyboardInterrupt):
        pieces.extend(generate(decoder, bpe, "The", settings))
    kept = torch.tensor([*prompt_ids(bpe, "The").tolist(), *ids(pieces), 7])
    expected = list(generate(decoder_of(model), bpe, kept, settings, logprobs=True))
    again = list(generate(decoder, bpe, kept, settings, logprobs=True))
    assert [piece.logprob for piece in again] == pytest.approx([piece.logprob for piece in expected], abs=1e-4)
    whole = list(generate(decoder, bpe, "The", settings))
    assert whole[: len(pieces)] == pieces
    assert 0 < len(pieces) < len(whole)


def test_logprobs_are_those_of_the_model_whatever_the_filters(bpe: Tokenizer) -> None:
    model, prompt = random_gpt(block_size=64), prompt_ids(bpe, "The")
    settings = SampleConfig(
        max_new_tokens=20, num_samples=2, temperature=3.0, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.3
    )
    pieces = list(generate(model, bpe, prompt, settings, logprobs=True))
    for sample in range(2):
        drawn = torch.tensor(ids(pieces, sample))
        with torch.no_grad():
            own = model(torch.cat((prompt, drawn))[None])[0, len(prompt) - 1 : -1].log_softmax(-1)
        found = [piece.logprob for piece in pieces if piece.sample == sample]
        assert found == pytest.approx(own.gather(1, drawn[:, None])[:, 0].tolist(), abs=1e-4)
    assert [replace(piece, logprob=None) for piece in pieces] == list(generate(model, bpe, prompt, settings))


def test_next_tokens_are_the_likeliest_with_their_probabilities(bpe: Tokenizer) -> None:
    model, prompt = random_gpt(vocab_size=bpe.vocab_size + 5), prompt_ids(bpe, "The truth")
    with torch.no_grad():
        own = model(prompt[None])[0, -1, : bpe.vocab_size].softmax(-1)
    found = next_tokens(model, bpe, "The truth", 4)
    assert [token.token_id for token in found] == own.topk(4).indices.tolist()
    assert [token.probability for token in found] == pytest.approx(own.topk(4).values.tolist(), rel=1e-4)
    every = next_tokens(model, bpe, prompt, 10_000)
    assert len(every) == bpe.vocab_size
    assert sum(token.probability for token in every) == pytest.approx(1.0)
    texts = {token.token_id: token.text for token in every}
    half = next(i for i in range(bpe.vocab_size) if bpe.token_bytes(i) == b"\xe6")
    letter = int(bpe.encode("T")[0])
    assert bpe.end_of_text is not None
    assert (texts[letter], texts[half], texts[bpe.end_of_text]) == ("T", "\ufffd", "")


def test_next_tokens_of_a_long_text_see_its_window(bpe: Tokenizer) -> None:
    model = random_gpt()
    prompt = prompt_ids(bpe, TEXT)
    assert trimmed(len(prompt), model.config) > 0
    expected = greedy(model, prompt, 1)
    assert [token.token_id for token in next_tokens(model, bpe, TEXT, 1)] == expected


def test_trimmed_counts_what_is_left_of_the_context() -> None:
    config = ModelConfig(block_size=8)
    assert [trimmed(n, config) for n in (0, 1, 8, 9, 12, 13, 100)] == [0, 0, 0, 2, 4, 6, 92]


def test_chat_puts_end_of_text_behind_every_answer(bpe: Tokenizer) -> None:
    messages = [Message("user", "The"), Message("assistant", "truth"), Message("user", "value")]
    found = chat_ids(bpe, messages, ChatTemplate()).tolist()
    first, last = bpe.encode("User: The\nAssistant: truth").tolist(), bpe.encode("User: value\nAssistant:").tolist()
    assert found == [*first, bpe.end_of_text, *last]
    assert chat_ids(bpe, messages[:1], ChatTemplate()).tolist() == bpe.encode("User: The\nAssistant:").tolist()


def test_chat_without_end_of_text_has_one_question_at_most() -> None:
    chars = char_tokenizer([TEXT, "User: Assistant:\n"], end_of_text=False)
    messages = [Message("user", "The"), Message("assistant", "truth"), Message("user", "value")]
    assert len(chat_ids(chars, messages[:1], ChatTemplate())) > 0
    with pytest.raises(RunError, match="end-of-text"):
        chat_ids(chars, messages, ChatTemplate())
