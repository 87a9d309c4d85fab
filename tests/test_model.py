from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
import transformers

from gptcli.config import ModelConfig
from gptcli.interchange import from_transformers, to_transformers, to_transformers_config
from gptcli.model import GPT, empty_model
from tests.random_models import random_model

MODERN = ModelConfig(n_layer=3, n_head=4, n_kv_head=2, n_embd=32, block_size=24, vocab_size=61)
GPT2 = ModelConfig(family="gpt2", n_layer=3, n_head=4, n_embd=32, block_size=24, vocab_size=61, bias=True)
FAMILIES = pytest.mark.parametrize("config", [GPT2, MODERN], ids=["gpt2", "modern"])

SHAPES = {
    "modern": MODERN,
    "modern-all-heads": MODERN.model_copy(update={"n_kv_head": None}),
    "modern-one-kv-head": MODERN.model_copy(update={"n_kv_head": 1, "n_layer": 1}),
    "modern-wide-heads": MODERN.model_copy(update={"head_dim": 20}),
    "modern-narrow-heads": MODERN.model_copy(update={"n_head": 6, "n_kv_head": 3, "head_dim": 2}),
    "modern-untied": MODERN.model_copy(update={"tie_embeddings": False, "rope_theta": 1e6, "norm_eps": 1e-5}),
    "modern-inner": MODERN.model_copy(update={"n_inner": 50}),
    "gpt2": GPT2,
    "gpt2-no-bias": GPT2.model_copy(update={"bias": False}),
    "gpt2-one-head": GPT2.model_copy(update={"n_head": 1, "n_layer": 1}),
    "gpt2-inner": GPT2.model_copy(update={"n_inner": 50}),
}


def random_gpt(config: ModelConfig) -> GPT:
    """A model in which every weight matters: neither the zeros nor the ones of an initialisation."""
    return random_model(config, 0.25, seed=1)


def random_tokens(config: ModelConfig, *shape: int) -> torch.Tensor:
    assert config.vocab_size is not None
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(2))


def build_theirs(config: ModelConfig) -> Any:  # noqa: ANN401 - transformers' models have no types
    theirs: Any = transformers.GPT2LMHeadModel if config.family == "gpt2" else transformers.Qwen3ForCausalLM
    return theirs(to_transformers_config(config)).eval()


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_logits_are_those_of_transformers_with_the_same_weights(config: ModelConfig) -> None:
    ours, theirs = random_gpt(config), build_theirs(config)
    loaded = theirs.load_state_dict(to_transformers(ours.state_dict(), config), strict=False)
    assert (loaded.missing_keys, loaded.unexpected_keys) == (
        ["lm_head.weight"] if config.tie_embeddings else [],
        [],
    )
    tokens = random_tokens(config, 2, config.block_size)
    with torch.inference_mode():
        expected = theirs(tokens).logits
        torch.testing.assert_close(ours(tokens), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.5, "the comparison needs logits that differ"


@FAMILIES
def test_weights_drawn_by_transformers_give_its_logits_here(config: ModelConfig) -> None:
    theirs = build_theirs(config)
    ours = GPT(config).eval()
    ours.load_state_dict(from_transformers(theirs.state_dict(), config))
    tokens = random_tokens(config, 1, 7)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("vocab_size", "n_embd"), [(65, 128), (512, 128), (4096, 384)])
@pytest.mark.parametrize(("family", "tie_embeddings"), [("gpt2", True), ("modern", True), ("modern", False)])
def test_loss_at_initialisation_is_that_of_a_uniform_guess(
    family: Literal["gpt2", "modern"], tie_embeddings: bool, vocab_size: int, n_embd: int
) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        family=family, vocab_size=vocab_size, n_embd=n_embd, block_size=64, tie_embeddings=tie_embeddings
    )
    tokens = random_tokens(config, 32, 65)
    with torch.inference_mode():
        loss = GPT(config)(tokens[:, :-1], tokens[:, 1:])
    assert loss.item() == pytest.approx(math.log(vocab_size), rel=0.02)


@FAMILIES
def test_future_token_never_changes_an_earlier_logit(config: ModelConfig) -> None:
    model = random_gpt(config)
    tokens = random_tokens(config, 1, config.block_size)
    with torch.inference_mode():
        before = model(tokens)
        for place in range(1, config.block_size):
            changed = tokens.clone()
            changed[0, place:] = (changed[0, place:] + 1) % 61
            after = model(changed)
            assert torch.equal(after[:, :place], before[:, :place])
            assert not torch.equal(after[:, place], before[:, place])


@FAMILIES
def test_target_of_minus_one_is_not_scored(config: ModelConfig) -> None:
    model = random_gpt(config)
    tokens = random_tokens(config, 2, 13)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    with torch.inference_mode():
        short = model(inputs[:, :5], targets[:, :5])
        targets[:, 5:] = -1
        torch.testing.assert_close(model(inputs, targets), short)
        assert not model(inputs, targets, reduction="none")[:, 5:].any()


@FAMILIES
def test_reductions_agree(config: ModelConfig) -> None:
    model = random_gpt(config)
    tokens = random_tokens(config, 2, 13)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[0, :4] = -1
    with torch.inference_mode():
        each = model(inputs, targets, reduction="none")
        log_probabilities = model(inputs).log_softmax(-1)
        assert each.shape == targets.shape
        torch.testing.assert_close(model(inputs, targets, reduction="sum"), each.sum())
        torch.testing.assert_close(model(inputs, targets), each.sum() / (targets >= 0).sum())
        torch.testing.assert_close(-log_probabilities[1, 3, targets[1, 3]], each[1, 3])


@FAMILIES
def test_dropout_works_in_training_mode_only(config: ModelConfig) -> None:
    model = random_gpt(config.model_copy(update={"dropout": 0.5}))
    plain = random_gpt(config)
    tokens = random_tokens(config, 1, 10)
    with torch.inference_mode():
        assert torch.equal(model(tokens), plain(tokens))
        model.train()
        assert not torch.equal(model(tokens), model(tokens))


@FAMILIES
def test_every_weight_gets_a_gradient(config: ModelConfig) -> None:
    model = random_gpt(config).train()
    tokens = random_tokens(config, 4, config.block_size)
    model(tokens, tokens.roll(-1, dims=1)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@FAMILIES
def test_gradients_are_those_of_transformers(config: ModelConfig) -> None:
    ours, theirs = random_gpt(config), build_theirs(config)
    theirs.load_state_dict(to_transformers(ours.state_dict(), config), strict=False)
    tokens = random_tokens(config, 2, 12)
    ours(tokens[:, :-1], tokens[:, 1:]).backward()
    theirs(tokens, labels=tokens).loss.backward()
    expected = from_transformers({n: p.grad for n, p in theirs.named_parameters()}, config)
    for name, p in ours.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, expected[name], atol=1e-4, rtol=1e-3)


def test_n_params_counts_a_tied_head_once() -> None:
    tied, untied = GPT(MODERN), GPT(MODERN.model_copy(update={"tie_embeddings": False}))
    assert untied.n_params() - tied.n_params() == 61 * 32
    assert tied.n_params() == sum(t.numel() for t in tied.state_dict().values())


def test_tied_head_is_absent_from_the_state_dict() -> None:
    assert "head.weight" not in GPT(GPT2).state_dict()


def test_more_positions_than_block_size_are_refused() -> None:
    model = random_gpt(GPT2)
    with pytest.raises(AssertionError, match="25 positions do not fit into block_size 24"):
        model(random_tokens(GPT2, 1, 25))


@FAMILIES
def test_gradients_are_the_same_when_blocks_are_computed_again(config: ModelConfig) -> None:
    def gradients(*, again: bool) -> tuple[dict[str, torch.Tensor | None], torch.Tensor]:
        model = random_gpt(config.model_copy(update={"dropout": 0.3})).train()
        model.gradient_checkpointing = again
        torch.manual_seed(3)
        tokens = random_tokens(config, 2, 12)
        model(tokens, tokens).backward()
        return {name: p.grad for name, p in model.named_parameters()}, torch.get_rng_state()

    (kept, state), (again, state_again) = gradients(again=False), gradients(again=True)
    for name, gradient in kept.items():
        assert gradient is not None
        other = again[name]
        assert other is not None
        assert torch.equal(gradient, other)
    assert torch.equal(state, state_again)


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    def kept(*, again: bool) -> int:
        model = random_gpt(GPT2).train()
        model.gradient_checkpointing = again
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            seen[tensor.data_ptr()] = tensor.nbytes
            return tensor

        tokens = random_tokens(GPT2, 4, 24)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(tokens, tokens)
        own = {p.data_ptr() for p in model.parameters()}
        assert loss.isfinite()
        return sum(size for pointer, size in seen.items() if pointer not in own)

    assert kept(again=True) < kept(again=False) / 2


@FAMILIES
def test_an_empty_model_draws_nothing_and_is_whole_once_it_has_weights(config: ModelConfig) -> None:
    full, tokens = random_gpt(config), random_tokens(config, 2, 12)
    before = torch.get_rng_state()
    model = empty_model(config)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.is_meta for p in model.parameters())
    weights = full.state_dict()
    model.load_state_dict(weights, assign=True)
    assert torch.equal(model.eval()(tokens), full(tokens))
    assert model.wte.weight.data_ptr() == weights["wte.weight"].data_ptr(), "the very tensors"


@FAMILIES
def test_bfloat16_matrices_keep_a_float32_residual_stream(config: ModelConfig) -> None:
    model, tokens = random_gpt(config), random_tokens(config, 2, 12)
    wide = model(tokens)
    for p in model.parameters():
        if p.dim() >= 2:
            p.data = p.data.bfloat16()
    seen: list[torch.dtype] = []
    model.blocks[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model(tokens)
    assert seen == [torch.float32]
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().max() < 0.05 * wide.abs().max()
