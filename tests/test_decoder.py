from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from gptcli.config import FinetuneConfig, ModelConfig
from gptcli.decoder import Decoder, Reading, WeightFormat
from gptcli.lora import add_adapters
from gptcli.matrices import Float32Matrix
from gptcli.model import GPT
from gptcli.stepping import MANY_KEYS
from tests.random_models import counted, random_model

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2"},
    "gpt2 with biases, exact gelu": {"family": "gpt2", "bias": True, "gelu": "exact"},
    "modern": {"family": "modern"},
    "modern with shared heads, untied": {"n_kv_head": 2, "head_dim": 6, "tie_embeddings": False, "n_inner": 24},
    "modern with one shared head": {"n_kv_head": 1, "rope_theta": 500.0, "norm_eps": 1e-3},
}
SHAPE = pytest.mark.parametrize("shape", list(SHAPES))
TOLERANCES: dict[WeightFormat, float] = {"float32": 2e-5, "float16": 3e-3, "bfloat16": 6e-2, "int8": 1e-1}


def random_gpt(shape: str = "modern", **changes: Any) -> GPT:  # noqa: ANN401
    """A model of random weights, norms and biases included."""
    values = {"n_layer": 3, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 51, **SHAPES[shape], **changes}
    return random_model(ModelConfig.model_validate(values), 0.2)


def tokens(rows: int, n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 51, (rows, n), generator=torch.Generator().manual_seed(seed))


def expected(model: GPT, texts: Tensor, start: int = 0) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(texts[:, start:])
    return logits[:, -1]


def close(found: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> bool:
    assert found.shape == wanted.shape
    assert found.dtype == torch.float32
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def read_on(reading: Reading, texts: Tensor, begin: int) -> Iterator[tuple[int, Tensor]]:
    for n in range(begin, texts.size(1) + 1):
        yield n, reading.read(texts[:, :n], 0)


@SHAPE
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("make", [Decoder.of, lambda model: Decoder(model.config, model.state_dict())])
def test_steps_and_long_reads_give_the_logits_of_the_model(
    shape: str, rows: int, make: Callable[[GPT], Decoder]
) -> None:
    model = random_gpt(shape)
    reading = make(model).begin(24)
    texts = tokens(1, 24).repeat(rows, 1)
    texts[:, 9:] = tokens(rows, 15, seed=1)
    assert close(reading.read(texts[:1, :9], 0), expected(model, texts[:1, :9])), "the text that all begin with"
    for n, logits in read_on(reading, texts[:, :14], 10):
        assert close(logits, expected(model, texts[:, :n]))
    assert close(reading.read(texts[:, :20], 0), expected(model, texts[:, :20])), "several tokens behind others"
    for n, logits in read_on(reading, texts, 21):
        assert close(logits, expected(model, texts[:, :n]))


@SHAPE
def test_reading_without_the_cache_gives_the_same(shape: str) -> None:
    model, texts = random_gpt(shape), tokens(2, 12)
    reading = Decoder.of(model).begin(12, use_cache=False)
    assert close(reading.read(texts[:1, :1], 0), expected(model, texts[:1, :1]))
    for n, logits in read_on(reading, texts, 2):
        assert close(logits, expected(model, texts[:, :n]))


@pytest.mark.parametrize("shape", ["gpt2", "modern"])
def test_window_that_moved_is_read_anew(shape: str) -> None:
    model, texts = random_gpt(shape, block_size=8), tokens(2, 14)
    reading = Decoder.of(model).begin(14)
    for n, start in ((6, 0), (7, 0), (9, 4), (10, 4), (13, 8), (14, 8)):
        assert close(reading.read(texts[:, :n], start), expected(model, texts[:, :n], start))


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_long_texts_are_attended_to_in_threads(family: str) -> None:
    model = random_gpt(family, n_layer=1, n_embd=256, block_size=MANY_KEYS // 256 + 8)
    n = MANY_KEYS // 256 + 2
    texts, reading = tokens(1, n), Decoder.of(model).begin(n)
    reading.read(texts[:, : n - 4], 0)
    for length, logits in read_on(reading, texts, n - 3):
        assert close(logits, expected(model, texts[:, :length]), 5e-5)


def test_text_that_begins_like_the_last_is_read_from_where_they_differ() -> None:
    model = random_gpt()
    decoder = Decoder.of(model)
    counts = counted(decoder)
    first, other = tokens(1, 10), tokens(1, 20, seed=1)
    for text, new in (
        (first, 10),
        (torch.cat((first, other[:, :5]), dim=1), 5),
        (torch.cat((first[:, :7], other), dim=1)[:, :24], 17),
        (first, 3),
        (first, 1),
        (first[:, :4], 1),
        (other, 20),
    ):
        counts.clear()
        reading = decoder.begin(text.size(1) + 2)
        assert close(reading.read(text, 0), expected(model, text))
        assert counts == [new]
        decoder.keep(reading)


def test_prompt_of_several_texts_is_kept_for_the_next() -> None:
    decoder = Decoder.of(random_gpt())
    counts = counted(decoder)
    text = tokens(3, 12)
    text[:, :8] = text[0, :8]
    reading = decoder.begin(12)
    reading.read(text[:1, :8], 0)
    reading.read(text[:, :9], 0)
    decoder.keep(reading)
    counts.clear()
    assert close(decoder.begin(12).read(text[1:2], 0), expected(random_gpt(), text[1:2]))
    assert counts == [4]


def test_two_texts_on_their_way_do_not_disturb_each_other() -> None:
    model = random_gpt()
    decoder = Decoder.of(model)
    one, two = decoder.begin(12), decoder.begin(12)
    texts, others = tokens(1, 12), tokens(1, 12, seed=1)
    for n in (5, 6, 7):
        assert close(one.read(texts[:, :n], 0), expected(model, texts[:, :n]))
        assert close(two.read(others[:, :n], 0), expected(model, others[:, :n]))
    decoder.keep(one)
    decoder.keep(two)
    assert close(decoder.begin(12).read(texts, 0), expected(model, texts))


class Asked(Mapping[str, Tensor]):
    """Weights that note how often each is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.names = tensors, list[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.names.append(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@SHAPE
def test_every_weight_is_asked_for_once(shape: str) -> None:
    weights = Asked(random_gpt(shape).state_dict())
    Decoder(random_gpt(shape).config, weights)
    assert sorted(weights.names) == sorted(weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@SHAPE
def test_weights_of_any_format_are_computed_with_in_float32(shape: str, dtype: torch.dtype) -> None:
    model = random_gpt(shape)
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    texts, reading = tokens(1, 6), Decoder(model.config, weights).begin(6)
    for n, logits in read_on(reading, texts, 4):
        assert close(logits, expected(model, texts[:, :n]))


@SHAPE
@pytest.mark.parametrize("weight_format", list(TOLERANCES))
def test_narrow_formats_stay_near_the_model(shape: str, weight_format: WeightFormat) -> None:
    model, texts = random_gpt(shape), tokens(3, 24)
    reading = Decoder(model.config, model.state_dict(), weight_format=weight_format).begin(24)
    for n, logits in read_on(reading, texts, 6):
        assert close(logits, expected(model, texts[:, :n]), TOLERANCES[weight_format])


def test_decoder_of_a_model_copies_no_matrix() -> None:
    model = random_gpt()
    parts = Decoder.of(model).parts
    assert isinstance(parts.head, Float32Matrix)
    assert parts.wte.data_ptr() == parts.head.weight.data_ptr() == model.wte.weight.data_ptr()
    for layer, block in zip(parts.layers, model.blocks, strict=True):
        for ours, theirs in (("qkv", "attn.qkv"), ("proj", "attn.proj"), ("up", "mlp.gate_up"), ("down", "mlp.down")):
            assert (
                getattr(layer, ours).weight.data_ptr() == block.get_submodule(theirs).get_parameter("weight").data_ptr()
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoder_of_an_adapted_model_knows_its_adapters(dtype: torch.dtype) -> None:
    model = random_gpt()
    for block in model.blocks:
        for name, p in block.named_parameters():
            if p.dim() > 1 and "attn" in name:
                p.data = p.data.to(dtype)
    torch.manual_seed(3)
    add_adapters(model, FinetuneConfig(lora_rank=2, lora_targets=("attn.qkv", "mlp.*")))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lora_b"):
                p.normal_(generator=torch.Generator().manual_seed(4))
    texts = tokens(2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        wanted, reading = expected(model, texts).float(), Decoder.of(model).begin(8)
        found = list(read_on(reading, texts, 7))[-1][1]
    assert close(found, wanted, 2e-5 if dtype == torch.float32 else 5e-2)
