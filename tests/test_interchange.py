from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.config import ModelConfig
from gptcli.errors import FormatError
from gptcli.interchange import (
    from_transformers,
    lazy_from_transformers,
    model_config_from_json,
    model_config_from_transformers,
    to_transformers,
    to_transformers_config,
)
from gptcli.model import GPT

GPT2 = ModelConfig(family="gpt2", n_layer=2, n_head=2, n_embd=8, block_size=8, vocab_size=11, bias=True)
MODERN = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=16, block_size=8, vocab_size=11)
FAMILIES = pytest.mark.parametrize("config", [GPT2, MODERN], ids=["gpt2", "modern"])


def random_state(config: ModelConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(t.shape, generator=generator) for name, t in GPT(config).state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


modern_configs = st.builds(
    lambda kv, shared, half, **values: ModelConfig(n_head=kv * shared, n_kv_head=kv, head_dim=2 * half, **values),
    kv=st.integers(1, 3),
    shared=st.integers(1, 3),
    half=st.integers(1, 3),
    n_layer=st.integers(1, 2),
    n_embd=st.sampled_from([2, 6, 16]),
    n_inner=st.none() | st.integers(1, 20),
    vocab_size=st.integers(1, 20),
    block_size=st.integers(1, 8),
    tie_embeddings=st.booleans(),
)
gpt2_configs = st.builds(
    lambda heads, width, **values: ModelConfig(family="gpt2", n_head=heads, n_embd=heads * width, **values),
    heads=st.integers(1, 3),
    width=st.integers(1, 4),
    n_layer=st.integers(1, 2),
    n_inner=st.none() | st.integers(1, 20),
    vocab_size=st.integers(1, 20),
    block_size=st.integers(1, 8),
    bias=st.booleans(),
)


@settings(deadline=None, max_examples=40)
@given(modern_configs | gpt2_configs)
def test_weights_of_any_shape_come_back_from_the_other_names_as_they_were(config: ModelConfig) -> None:
    state = random_state(config)
    theirs = to_transformers(state, config)
    assert all(tensor.is_contiguous() for tensor in theirs.values())
    assert_same(from_transformers(theirs, config), state)


@settings(deadline=None, max_examples=40)
@given(modern_configs | gpt2_configs)
def test_configurations_come_back_with_the_same_shapes(config: ModelConfig) -> None:
    back = model_config_from_transformers(to_transformers_config(config))
    assert back.family == config.family
    shapes = [{name: t.shape for name, t in GPT(c).state_dict().items()} for c in (back, config)]
    if config.family == "gpt2":
        shapes = [{name: shape for name, shape in s.items() if not name.endswith("bias")} for s in shapes]
    assert shapes[0] == shapes[1]
    assert (back.block_size, back.rope_theta, back.norm_eps) == (config.block_size, config.rope_theta, config.norm_eps)


@FAMILIES
def test_configuration_with_default_widths_comes_back_equal(config: ModelConfig) -> None:
    config = config.model_copy(update={"dropout": 0.25})
    assert model_config_from_transformers(to_transformers_config(config)) == config


@FAMILIES
def test_names_are_those_that_transformers_has(config: ModelConfig) -> None:
    theirs: Any = transformers.GPT2LMHeadModel if config.family == "gpt2" else transformers.Qwen3ForCausalLM
    state = theirs(to_transformers_config(config)).state_dict()
    ours = to_transformers(random_state(config), config)
    assert {name: tuple(t.shape) for name, t in ours.items()} == {
        name: tuple(t.shape) for name, t in state.items() if name != "lm_head.weight"
    }


def test_every_misfit_is_listed() -> None:
    theirs = to_transformers(random_state(MODERN), MODERN)
    del theirs["model.norm.weight"]
    theirs["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 16)
    theirs["model.layers.7.mlp.up_proj.weight"] = torch.zeros(3, 16)
    with pytest.raises(FormatError) as caught:
        from_transformers(theirs, MODERN)
    assert caught.value.message.splitlines()[1:] == [
        "  model.layers.0.mlp.up_proj.weight is (3, 16), expected (48, 16)",
        "  model.norm.weight is missing, expected (16,)",
        "  model.layers.7.mlp.up_proj.weight is not known",
    ]


def test_a_long_list_of_misfits_is_cut() -> None:
    with pytest.raises(FormatError, match=r"(?s)wte.weight is missing.*and 8 more$"):
        from_transformers({}, GPT2)


def test_head_that_differs_from_a_tied_embedding_is_refused() -> None:
    theirs = to_transformers(random_state(GPT2), GPT2)
    head = theirs["transformer.wte.weight"].clone()
    assert from_transformers({**theirs, "lm_head.weight": head}, GPT2).keys() == random_state(GPT2).keys()
    head[0, 0] += 1
    with pytest.raises(FormatError, match=r"lm_head.weight differs from the embedding"):
        from_transformers({**theirs, "lm_head.weight": head}, GPT2)


def test_biases_that_a_model_without_them_cannot_hold_are_refused() -> None:
    theirs = to_transformers(random_state(GPT2), GPT2)
    with pytest.raises(FormatError, match=r"transformer.h.1.attn.c_attn.bias is not zero, .* bias: false"):
        from_transformers(theirs, GPT2.model_copy(update={"bias": False}))


def test_masks_in_old_files_are_no_weights() -> None:
    theirs = to_transformers(random_state(GPT2), GPT2)
    theirs["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    theirs["transformer.h.1.attn.masked_bias"] = torch.tensor(-1e4)
    assert_same(from_transformers(theirs, GPT2), random_state(GPT2))


def test_half_precision_weights_become_float32() -> None:
    state = random_state(MODERN)
    theirs = {name: tensor.bfloat16() for name, tensor in to_transformers(state, MODERN).items()}
    assert {tensor.dtype for tensor in from_transformers(theirs, MODERN).values()} == {torch.float32}
    assert_same(from_transformers(theirs, MODERN), {name: t.bfloat16().float() for name, t in state.items()})


@FAMILIES
def test_tensors_are_read_when_they_are_asked_for_and_keep_their_number_format(config: ModelConfig) -> None:
    state = random_state(config)
    stored = {name: tensor.bfloat16() for name, tensor in to_transformers(state, config).items()}
    asked: list[str] = []

    class Recorded(dict[str, torch.Tensor]):
        def __getitem__(self, name: str) -> torch.Tensor:
            asked.append(name)
            return super().__getitem__(name)

    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    makers = lazy_from_transformers(Recorded(stored), shapes, config)
    assert asked == []
    for name, make in makers.items():
        assert torch.equal(make(), state[name].bfloat16())
    assert sorted(asked) == sorted(stored)


@FAMILIES
def test_names_without_the_prefix_of_the_inner_model_are_known(config: ModelConfig) -> None:
    theirs = to_transformers(random_state(config), config)
    bare = {name.removeprefix("transformer.").removeprefix("model."): tensor for name, tensor in theirs.items()}
    assert set(bare) != set(theirs)
    assert_same(from_transformers(bare, config), random_state(config))
    if config.family == "gpt2":
        bare["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
        assert_same(from_transformers(bare, config), random_state(config))


@pytest.mark.parametrize("name", ["GPT2Config", "Qwen3Config"])
def test_config_json_is_read_as_transformers_reads_it(name: str) -> None:
    theirs = getattr(transformers, name)
    kind = theirs.model_type
    assert model_config_from_json({"model_type": kind}) == model_config_from_transformers(theirs())
    for config in (GPT2, MODERN):
        written = to_transformers_config(config)
        assert model_config_from_json(written.to_dict()) == model_config_from_transformers(written)


def test_other_words_for_the_same_settings_are_read() -> None:
    values = {"num_hidden_layers": 3, "hidden_size": 6, "num_attention_heads": 2, "max_position_embeddings": 5}
    config = model_config_from_json({"model_type": "gpt2", **values})
    assert (config.n_layer, config.n_embd, config.n_head, config.block_size) == (3, 6, 2, 5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_layer": None}, "n_layer|valid integer"),
        ({"n_head": "two"}, "two|valid integer"),
        ({"resid_pdrop": []}, "config.json is damaged"),
        ({"model_type": ["gpt2"]}, "GPT2LMHeadModel and Qwen3ForCausalLM"),
        ({"model_type": None}, "GPT2LMHeadModel and Qwen3ForCausalLM"),
        ({"activation_function": []}, "activation_function"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "class LlamaForCausalLM"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized \(gptq\)"),
        ({"resid_pdrop": "0.1"}, "resid_pdrop is '0.1', but float was expected"),
        ({"resid_pdrop": 10**400}, "dropout: Input should be a valid number"),
        ({"scale_attn_weights": 1}, "scale_attn_weights is 1, but bool was expected"),
        ({"vocab_size": None}, "vocab_size is None, but int was expected"),
        ({"n_inner": "8"}, "n_inner is '8', but int was expected"),
        ({"n_embd": 10**12, "n_head": 1}, "n_embd: Input should be less than or equal to"),
        ({"n_inner": 10**18}, "n_inner: Input should be less than or equal to"),
        ({"n_layer": True}, "n_layer is True"),
        ({"n_layer": 10**9}, "n_layer: Input should be less than or equal to 1000"),
    ],
)
def test_config_json_with_impossible_values_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatError, match=named):
        model_config_from_json({**to_transformers_config(GPT2).to_dict(), **change})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"intermediate_size": "x"}, "intermediate_size is 'x'"),
        ({"intermediate_size": 10**30}, "n_inner: Input should be less than or equal to"),
        ({"head_dim": "ab", "num_attention_heads": 10**12}, "head_dim is 'ab'|num_attention_heads"),
        ({"head_dim": 2**27}, "head_dim: Input should be less than or equal to"),
        ({"head_dim": 2**20, "num_attention_heads": 2**10}, "n_head 1024 x head_dim 1048576 is more than 134217728"),
        ({"max_position_embeddings": 10**9}, "block_size: Input should be less than or equal to"),
        ({"max_position_embeddings": 2**20, "head_dim": 256}, "block_size 1048576 x head_dim 256 is more than"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta: Input should be a valid number"),
        ({"rope_parameters": {"rope_theta": "1e6"}}, "rope_theta: Input should be a valid number"),
        ({"rope_parameters": {"rope_theta": None}}, "rope_theta: Input should be a valid number"),
        ({"rope_parameters": {"rope_theta": 1.0, "rope_type": ["x" * 500]}}, "rope_type: .{1,50}$"),
        ({"rope_parameters": [["rope_theta", 1.0]]}, "rope_parameters is "),
        ({"rope_parameters": None, "rope_scaling": "abc"}, "rope_scaling is 'abc'"),
        ({"rope_parameters": None, "rope_theta": "x"}, "rope_theta is 'x'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
    ],
)
def test_config_json_of_qwen3_with_impossible_values_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatError, match=named):
        model_config_from_json({**to_transformers_config(MODERN).to_dict(), **change})


def test_numbers_of_config_json_may_be_written_as_integers() -> None:
    values = {**to_transformers_config(MODERN).to_dict(), "attention_dropout": 0}
    values["rope_parameters"] = {"rope_theta": 1_000_000, "rope_type": "default"}
    config = model_config_from_json({**values, "num_key_value_heads": None})
    assert (config.dropout, config.rope_theta, config.kv_heads) == (0.0, 1e6, config.n_head)


def test_weights_of_another_model_are_not_given_to_transformers() -> None:
    state = random_state(GPT2)
    state["extra.weight"] = state.pop("wpe.weight")
    with pytest.raises(FormatError, match=r"missing or not known: extra.weight, wpe.weight"):
        to_transformers(state, GPT2)


def test_another_class_is_named_and_refused() -> None:
    config = transformers.LlamaConfig(architectures=["LlamaForCausalLM"])
    with pytest.raises(FormatError, match=r"LlamaForCausalLM was found; .* GPT2LMHeadModel and Qwen3ForCausalLM"):
        model_config_from_transformers(config)


@pytest.mark.parametrize(
    ("config", "change", "named"),
    [
        (GPT2, {"activation_function": "relu"}, "activation_function: 'relu'"),
        (GPT2, {"tie_word_embeddings": False}, "tie_word_embeddings: False"),
        (GPT2, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon: 1e-06"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True"),
        (MODERN, {"attention_bias": True}, "attention_bias: True"),
        (MODERN, {"use_sliding_window": True}, "use_sliding_window: True"),
        (MODERN, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_type: 'linear'"),
    ],
)
def test_setting_that_we_do_not_compute_is_named_and_refused(
    config: ModelConfig, change: dict[str, Any], named: str
) -> None:
    theirs = to_transformers_config(config)
    for key, value in change.items():
        setattr(theirs, key, value)
    with pytest.raises(FormatError) as caught:
        model_config_from_transformers(theirs)
    assert named in caught.value.message


def test_shape_that_we_do_not_know_is_refused() -> None:
    theirs = to_transformers_config(MODERN)
    theirs.head_dim = 3
    with pytest.raises(FormatError, match="even head width"):
        model_config_from_transformers(theirs)


def test_rotary_settings_of_transformers_4_are_read() -> None:
    values = {**to_transformers_config(MODERN).to_dict(), "rope_theta": 5e5, "rope_scaling": None}
    values.pop("rope_parameters", None)
    theirs = SimpleNamespace(**values)
    assert model_config_from_transformers(theirs).rope_theta == 5e5
    theirs.rope_scaling = {"type": "yarn", "factor": 2.0}
    with pytest.raises(FormatError, match="rope_type: 'yarn'"):
        model_config_from_transformers(theirs)
