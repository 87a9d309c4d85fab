from __future__ import annotations

import itertools
import json
import math
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptcli.config import ModelConfig, SampleConfig
from gptcli.decoder import Decoder
from gptcli.errors import RunError, TokenizerError
from gptcli.interchange import to_transformers, to_transformers_config
from gptcli.model import GPT
from gptcli.pretrained_tokenizer import PretrainedTokenizer
from gptcli.sample import (
    Piece,
    StopStrings,
    context_window,
    generate,
)
from gptcli.tokenizer import Tokenizer, char_tokenizer, gpt2_tokenizer, train_bpe
from tests.bases.saved import QWEN_SPECIAL, qwen_tokenizer
from tests.random_models import Counting, random_model

TEXT = (
    "The truth value of an object is true unless its class defines a __bool__() method that returns False.\n"
    "Naïve café: 日本語のテキスト, 한국어, emoji 👩‍👩‍👧 🏳️‍🌈, Ελληνικά, e\u0301.\n"
)
FAMILIES = pytest.mark.parametrize("family", ["gpt2", "modern"])


@pytest.fixture(scope="module")
def chars() -> Tokenizer:
    return char_tokenizer([TEXT], end_of_text=False)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe([TEXT], 280)


def random_gpt(family: str, vocab_size: int, block_size: int = 16, **shape: Any) -> GPT:  # noqa: ANN401
    """A model with opinions: random weights large enough that the likeliest token stands out."""
    values = {"family": family, "n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": vocab_size, **shape}
    return random_model(ModelConfig.model_validate({**values, "block_size": block_size}), 0.4)


def biased_gpt(logits: dict[int, float], vocab_size: int, block_size: int = 16) -> GPT:
    """A model that gives these logits whatever it reads, and -30 to every other token."""
    model = GPT(
        ModelConfig(n_layer=1, n_head=1, n_embd=2, vocab_size=vocab_size, block_size=block_size, tie_embeddings=False)
    )
    assert model.head is not None
    with torch.no_grad():
        model.wte.weight.fill_(1.0)
        for p in model.blocks.parameters():
            p.zero_()
        model.head.weight.fill_(-15.0)
        for token_id, value in logits.items():
            model.head.weight[token_id] = value / 2
    return model.eval()


def write(
    model: GPT | Decoder,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    use_cache: bool = True,
    **values: Any,  # noqa: ANN401
) -> list[Piece]:
    return list(generate(model, tokenizer, prompt, SampleConfig(**values), use_cache=use_cache))


def joined(pieces: list[Piece], sample: int = 0) -> str:
    return "".join(piece.text for piece in pieces if piece.sample == sample)


def ids(pieces: list[Piece], sample: int = 0) -> list[int]:
    return [piece.token_id for piece in pieces if piece.sample == sample]


@given(block_size=st.integers(1, 40), n_tokens=st.integers(1, 200))
def test_context_is_never_empty_nor_longer_than_a_block(block_size: int, n_tokens: int) -> None:
    start = context_window(n_tokens, block_size)
    assert 1 <= n_tokens - start <= block_size
    assert start == 0 or n_tokens - start > block_size - max(1, block_size // 4)


def test_context_moves_once_a_stride_of_a_quarter_of_a_block() -> None:
    starts = [context_window(n, 8) for n in range(1, 16)]
    assert starts == [0] * 8 + [2] * 2 + [4] * 2 + [6] * 2 + [8]


@given(
    text=st.text("ab|", max_size=30),
    stops=st.lists(st.text("ab|", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
@example(text="ab|bb", stops=["b|b", "|"], cuts=[])
def test_stop_strings_end_the_text_at_the_same_place_however_it_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    cut = min(
        (start for stop in stops if (start := text.find(stop)) >= 0 and start + len(stop) == min(ends)),
        default=len(text),
    )
    places = [0, *sorted(min(place, len(text)) for place in cuts), len(text)]
    watch = StopStrings(tuple(stops))
    passed, stopped = "", False
    for begin, end in itertools.pairwise(places):
        if not stopped:
            more, stopped = watch.feed(text[begin:end])
            passed += more
            assert text[:cut].startswith(passed)
    assert stopped == bool(ends)
    assert passed + watch.flush() == text[:cut]


def test_stop_strings_pass_on_what_cannot_be_the_beginning_of_one() -> None:
    watch = StopStrings(("\n\nUser:",))
    assert watch.feed("Hello\n") == ("Hello", False)
    assert watch.feed("there\n\nUs") == ("\nthere", False)
    assert watch.feed("ually") == ("\n\nUsually", False)
    assert watch.feed(" \n\nUser: hi") == (" ", True)


@FAMILIES
@pytest.mark.parametrize("prompt", ["T", "The truth", "The truth value of an object is true"])
def test_greedy_text_is_the_same_with_and_without_the_cache(family: str, prompt: str, chars: Tokenizer) -> None:
    model = random_gpt(family, chars.vocab_size)
    cached = write(model, chars, prompt, temperature=0.0, max_new_tokens=60)
    plain = write(model, chars, prompt, temperature=0.0, max_new_tokens=60, use_cache=False)
    assert cached == plain
    assert len(set(ids(cached))) > 3, "the comparison needs a text that varies"


@FAMILIES
def test_drawn_text_is_the_same_with_and_without_the_cache(family: str, bpe: Tokenizer) -> None:
    model = random_gpt(family, bpe.vocab_size)
    values: dict[str, Any] = {
        "temperature": 1.0,
        "num_samples": 3,
        "max_new_tokens": 50,
        "top_k": 20,
        "repetition_penalty": 1.2,
    }
    assert write(model, bpe, "The", **values) == write(model, bpe, "The", use_cache=False, **values)


@FAMILIES
def test_greedy_tokens_are_those_of_transformers(family: str, chars: Tokenizer) -> None:
    import transformers

    model = random_gpt(family, chars.vocab_size, block_size=32, bias=family == "gpt2")
    theirs_class: Any = transformers.GPT2LMHeadModel if family == "gpt2" else transformers.Qwen3ForCausalLM
    theirs = theirs_class(to_transformers_config(model.config)).eval()
    theirs.load_state_dict(to_transformers(model.state_dict(), model.config), strict=False)
    prompt = torch.from_numpy(chars.encode("The tru").astype("int64"))[None]
    mask = torch.ones_like(prompt)
    expected = theirs.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=25, pad_token_id=0)
    ours = write(model, chars, "The tru", temperature=0.0, max_new_tokens=25)
    assert ids(ours) == expected[0, 7:].tolist()


def test_same_seed_writes_the_same_and_another_seed_another_text(chars: Tokenizer) -> None:
    model = random_gpt("modern", chars.vocab_size)
    texts = [joined(write(model, chars, "The", seed=seed, temperature=2.0, max_new_tokens=30)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_adding_samples_changes_none(chars: Tokenizer) -> None:
    model = random_gpt("modern", chars.vocab_size)
    values: dict[str, Any] = {"temperature": 2.0, "max_new_tokens": 40, "seed": 5}
    three = write(model, chars, "The", num_samples=3, **values)
    for sample in range(3):
        alone = write(model, chars, "The", **{**values, "seed": 5 + sample})
        assert ids(alone) == ids(three, sample)
    assert len({joined(three, sample) for sample in range(3)}) == 3


def test_text_never_touches_the_random_numbers_of_training_nor_its_mode(chars: Tokenizer) -> None:
    model = random_gpt("modern", chars.vocab_size, dropout=0.5).train()
    before = torch.get_rng_state()
    texts = [joined(write(model, chars, "The", max_new_tokens=20)) for _ in range(2)]
    assert texts[0] == texts[1]
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_stay_on_between_pieces(chars: Tokenizer) -> None:
    model = random_gpt("gpt2", chars.vocab_size)
    for _ in generate(model, chars, "The", SampleConfig(max_new_tokens=3)):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        loss = model(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))
        loss.backward()


@pytest.mark.parametrize("block_size", [1, 2, 3, 5])
def test_tiny_blocks_write_as_long_as_any(block_size: int, chars: Tokenizer) -> None:
    model = random_gpt("modern", chars.vocab_size, block_size=block_size)
    cached = write(model, chars, "The truth", temperature=0.0, max_new_tokens=20)
    assert cached == write(model, chars, "The truth", temperature=0.0, max_new_tokens=20, use_cache=False)
    assert [piece.finish_reason for piece in cached] == [None] * 19 + ["length"]


def test_every_token_is_a_piece_and_only_the_last_has_a_finish_reason(chars: Tokenizer) -> None:
    pieces = write(random_gpt("gpt2", chars.vocab_size), chars, "The", max_new_tokens=12, num_samples=2)
    assert [piece.sample for piece in pieces] == [0, 1] * 12
    assert [piece.finish_reason for piece in pieces] == [None] * 22 + ["length"] * 2
    assert joined(pieces, 1) == chars.decode(ids(pieces, 1))


def test_stop_string_that_spans_tokens_ends_the_text_before_it(chars: Tokenizer) -> None:
    model = random_gpt("modern", chars.vocab_size)
    whole = joined(write(model, chars, "The", temperature=1.5, max_new_tokens=50))
    stop = whole[20:24]
    pieces = write(model, chars, "The", temperature=1.5, max_new_tokens=50, stop=(stop, "never here"))
    assert joined(pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    assert len(pieces) == whole.index(stop) + 4


def test_beginning_of_a_stop_string_is_written_when_the_text_ends_first(chars: Tokenizer) -> None:
    model = random_gpt("modern", chars.vocab_size)
    whole = joined(write(model, chars, "The", temperature=1.5, max_new_tokens=50))
    pieces = write(model, chars, "The", temperature=1.5, max_new_tokens=22, stop=(whole[20:23],))
    assert pieces[-1] == Piece(0, whole[20:22], chars.encode(whole[21])[0], "length")
    assert pieces[-2].text == ""
    assert joined(pieces) == whole[:22]


def test_finished_sample_is_silent_while_others_go_on(chars: Tokenizer) -> None:
    model = random_gpt("modern", chars.vocab_size)
    values: dict[str, Any] = {"temperature": 1.5, "max_new_tokens": 30, "num_samples": 2}
    whole = write(model, chars, "The", **values)
    first, second = joined(whole, 0), joined(whole, 1)
    stop = next(first[n : n + 2] for n in range(28) if first[n : n + 2] not in second)
    pieces = write(model, chars, "The", stop=(stop,), **values)
    assert joined(pieces, 0) == first[: first.index(stop)]
    assert joined(pieces, 1) == second
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["stop", "length"]


def test_end_of_text_ends_a_sample_and_is_not_written(bpe: Tokenizer) -> None:
    end, letter = bpe.end_of_text, int(bpe.encode("T")[0])
    assert end is not None
    pieces = write(biased_gpt({end: 1.0, letter: 1.0}, bpe.vocab_size), bpe, "x", temperature=1.0, num_samples=6)
    for sample in range(6):
        assert set(ids(pieces, sample)[:-1]) <= {letter}
        assert ids(pieces, sample)[-1] == end
        assert joined(pieces, sample) == "T" * (len(ids(pieces, sample)) - 1)
    assert {piece.finish_reason for piece in pieces} == {None, "end_of_text"}


def test_nothing_is_read_after_the_last_sample_has_ended(bpe: Tokenizer) -> None:
    end, letter = bpe.end_of_text, int(bpe.encode("T")[0])
    assert end is not None
    decoder, read = Decoder.of(biased_gpt({end: 1.0, letter: 1.0}, bpe.vocab_size)), list[int]()
    decoder.parts = replace(decoder.parts, head=Counting(decoder.parts.head, read))
    pieces = write(decoder, bpe, "x", temperature=1.0, num_samples=2)
    assert len(read) == max(len(ids(pieces, 0)), len(ids(pieces, 1))) < 256


def test_half_a_character_at_the_end_is_shown_as_replaced(bpe: Tokenizer) -> None:
    first_byte = next(i for i in range(bpe.vocab_size) if bpe.token_bytes(i) == "日".encode()[:1])
    pieces = write(biased_gpt({first_byte: 30.0}, bpe.vocab_size), bpe, "x", max_new_tokens=1)
    assert pieces == [Piece(0, "\ufffd", first_byte, "length")]


HARD = "日本語 👩‍👩‍👧 é 한국어 🏳️‍🌈 नमस्ते שלום end"


@pytest.fixture(scope="module", params=["char", "bpe:257", "bpe:280", "gpt2", "pretrained"])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "char":
        return char_tokenizer(["x" + HARD], end_of_text=True)
    if request.param == "gpt2":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIKTOKEN_CACHE_DIR", str(request.getfixturevalue("shared_data") / "tiktoken"))
            return gpt2_tokenizer()
    if request.param == "pretrained":
        theirs = qwen_tokenizer([TEXT, HARD], 320)
        return PretrainedTokenizer(json.loads(theirs.to_str()), theirs.token_to_id(QWEN_SPECIAL[0]))
    return train_bpe([TEXT], int(request.param.removeprefix("bpe:")))


def test_characters_of_many_tokens_stream_unbroken(any_tokenizer: Tokenizer) -> None:
    sequence = any_tokenizer.encode("x" + HARD).tolist()
    model = memorised(sequence, any_tokenizer.vocab_size)
    settings = SampleConfig(temperature=0.0, max_new_tokens=len(sequence) - 1, num_samples=2)
    pieces = list(generate(model, any_tokenizer, "x", settings))
    text = unicodedata.normalize("NFC", HARD) if any_tokenizer.name == "pretrained" else HARD
    for sample in range(2):
        assert ids(pieces, sample) == sequence[1:]
        assert joined(pieces, sample) == text
    assert all(piece.text in text for piece in pieces)
    if any_tokenizer.name != "char":
        assert sum(not piece.text for piece in pieces) >= 10


def memorised(sequence: list[int], vocab_size: int) -> GPT:
    """A model that goes on with ``sequence`` by position: token n is the likeliest after n tokens."""
    width = 128  # so many numbers tell random codes of many tokens apart
    config = ModelConfig(
        family="gpt2", n_layer=1, n_head=1, n_embd=width, block_size=len(sequence), vocab_size=vocab_size
    )
    model = GPT(config)
    assert model.wpe is not None
    codes = torch.randn(vocab_size, width, generator=torch.Generator().manual_seed(0)) * width**-0.5
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.norm.get_parameter("weight").fill_(1.0)
        model.wte.weight.copy_(codes)
        for place, token_id in enumerate(sequence[1:]):
            model.wpe.weight[place] = 10.0 * codes[token_id]
    return model.eval()


@pytest.mark.parametrize(("with_end", "text", "start"), [(True, "ab\n", 3), (False, "ab\n", 0), (False, "ba", 0)])
def test_empty_prompt_starts_a_text(with_end: bool, text: str, start: int) -> None:
    tokenizer = char_tokenizer([text], end_of_text=with_end)
    model = random_gpt("gpt2", tokenizer.vocab_size)
    expected = int(model(torch.tensor([[start]]))[0, -1].argmax())
    pieces = write(model, tokenizer, "", temperature=0.0, max_new_tokens=1)
    assert ids(pieces) == [expected]
    assert joined(pieces) == tokenizer.decode([expected])


def test_repetition_penalty_knows_what_was_drawn(chars: Tokenizer) -> None:
    model = biased_gpt({2: 1.0, 3: 0.9}, chars.vocab_size)
    assert ids(write(model, chars, "The", temperature=0.0, max_new_tokens=3)) == [2, 2, 2]
    pieces = write(model, chars, "The", temperature=0.0, max_new_tokens=3, repetition_penalty=1.5)
    assert ids(pieces) == [2, 3, 2]


def test_unknown_character_in_the_prompt_is_refused_before_anything_is_drawn(chars: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="ß"):
        generate(random_gpt("gpt2", chars.vocab_size), chars, "Straße", SampleConfig())


def test_ids_beyond_the_tokenizer_are_never_drawn(chars: Tokenizer) -> None:
    model = biased_gpt({chars.vocab_size + 3: 40.0, 2: 0.0}, chars.vocab_size + 8)
    assert set(ids(write(model, chars, "The", max_new_tokens=5))) == {2}


def test_model_of_numbers_that_are_not_finite_says_so(chars: Tokenizer) -> None:
    model = random_gpt("gpt2", chars.vocab_size)
    with torch.no_grad():
        model.wte.weight[1, 0] = math.nan
    with pytest.raises(RunError, match="not finite"):
        write(model, chars, "The")


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_settings_write_the_text_of_their_tokens(data: st.DataObject) -> None:
    tokenizer = char_tokenizer([TEXT], end_of_text=True)
    model = random_gpt("modern", tokenizer.vocab_size, block_size=8)
    pieces = write(
        model,
        tokenizer,
        data.draw(st.text(sorted(set(TEXT)), max_size=12)),
        num_samples=data.draw(st.integers(1, 3)),
        max_new_tokens=data.draw(st.integers(1, 20)),
        temperature=data.draw(st.floats(0, 3)),
        top_p=data.draw(st.none() | st.floats(0.1, 1)),
    )
    for sample in {piece.sample for piece in pieces}:
        assert joined(pieces, sample) == tokenizer.decode(ids(pieces, sample))


def test_text_is_the_same_however_long_it_may_become(chars: Tokenizer) -> None:
    model = random_gpt("modern", chars.vocab_size)
    short = ids(list(generate(model, chars, TEXT[:4], SampleConfig(max_new_tokens=300))))
    stream = generate(model, chars, TEXT[:4], SampleConfig(max_new_tokens=10**12))
    assert [next(stream).token_id for _ in range(300)] == short
