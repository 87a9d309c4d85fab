from __future__ import annotations

import itertools

import pytest
import torch

from gptcli.config import ModelConfig, TrainConfig
from gptcli.model import GPT
from gptcli.optim import Optimizer, learning_rate, orthogonalize

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=40)


def test_wsd_rises_stays_and_falls_towards_min_lr() -> None:
    config = TrainConfig(learning_rate=1.0, min_lr=0.1, warmup_steps=4, max_steps=100, decay_fraction=0.5)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert set(rates[4:51]) == {1.0}
    assert all(a > b for a, b in itertools.pairwise(rates[50:]))
    assert rates[75] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1 + 0.9 / 50)


def test_cosine_is_half_way_in_the_middle_and_constant_stays() -> None:
    cosine = TrainConfig(learning_rate=1.0, schedule="cosine", warmup_steps=0, max_steps=100)
    assert learning_rate(50, cosine) == pytest.approx(0.5)
    assert 0 < learning_rate(99, cosine) < 0.001
    constant = TrainConfig(learning_rate=1.0, schedule="constant", warmup_steps=0, max_steps=10)
    assert {learning_rate(step, constant) for step in range(10)} == {1.0}


@pytest.mark.parametrize(
    "config", [TrainConfig(max_steps=1, warmup_steps=0), TrainConfig(max_steps=3, warmup_steps=20)]
)
def test_the_shortest_runs_have_a_learning_rate(config: TrainConfig) -> None:
    assert all(learning_rate(step, config) > 0 for step in range(config.max_steps))


def test_newton_schulz_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 64)
    values = torch.linalg.svdvals(orthogonalize(matrices, 5, torch.float32))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_matrices_of_one_shape_are_updated_as_if_each_were_alone() -> None:
    torch.manual_seed(0)
    model, config = GPT(MODEL), TrainConfig(muon_learning_rate=0.1, warmup_steps=0, max_steps=10)
    optimizer = Optimizer(model, MODEL, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step(0, torch.float32)
    for name, rows in (
        ("attn.qkv.weight", slice(32, 64)),
        ("mlp.gate_up.weight", slice(0, 96)),
        ("mlp.down.weight", slice(0, 32)),
    ):
        grad = grads[f"blocks.1.{name}"][rows]
        momentum = 0.05 * grad
        nesterov = grad + config.muon_momentum * (momentum - grad)
        wide = nesterov if nesterov.size(0) <= nesterov.size(1) else nesterov.T
        update = orthogonalize(wide[None], 5, torch.float32)[0]
        update = update if wide is nesterov else update.T
        scale = max(1.0, grad.size(0) / grad.size(1)) ** 0.5
        changed = dict(model.named_parameters())[f"blocks.1.{name}"][rows]
        torch.testing.assert_close(
            changed, before[f"blocks.1.{name}"][rows] - 0.1 * scale * update, atol=1e-5, rtol=1e-4
        )


def test_weight_decay_shrinks_matrices_and_leaves_norms_alone() -> None:
    model = GPT(MODEL)
    optimizer = Optimizer(
        model, MODEL, TrainConfig(weight_decay=0.5, warmup_steps=0, learning_rate=0.1, muon_learning_rate=0.1)
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(0, torch.float32)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if p.dim() == 2 else 1.0))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_an_optimizer_with_its_state_loaded_goes_on_bitwise(kind: str) -> None:
    config = TrainConfig.model_validate({"optimizer": kind, "warmup_steps": 0})

    def steps(model: GPT, optimizer: Optimizer, numbers: range) -> None:
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step(number, torch.float32)

    torch.manual_seed(0)
    whole = GPT(MODEL)
    first = GPT(MODEL)
    first.load_state_dict(whole.state_dict())
    steps(whole, Optimizer(whole, MODEL, config), range(6))
    optimizer = Optimizer(first, MODEL, config)
    steps(first, optimizer, range(3))
    second = GPT(MODEL)
    second.load_state_dict(first.state_dict())
    resumed = Optimizer(second, MODEL, config)
    resumed.load_state_tensors(resumed.checked({name: t.clone() for name, t in optimizer.state_tensors().items()}))
    steps(second, resumed, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_frozen_weights_have_no_state_and_never_move(name: str) -> None:
    torch.manual_seed(0)
    model = GPT(MODEL)
    for parameter, p in model.named_parameters():
        p.requires_grad = parameter == "blocks.1.mlp.down.weight"
    before = {parameter: p.detach().clone() for parameter, p in model.named_parameters()}
    config = TrainConfig.model_validate({"optimizer": name, "weight_decay": 0.5, "warmup_steps": 0, "max_steps": 10})
    optimizer = Optimizer(model, MODEL, config)
    tokens = torch.arange(32).view(2, 16)
    model(tokens, tokens).backward()
    optimizer.step(0, torch.float32)
    moved = {parameter for parameter, p in model.named_parameters() if not torch.equal(p, before[parameter])}
    assert moved == {"blocks.1.mlp.down.weight"}
    state = optimizer.state_tensors()
    assert len(state) == (1 if name == "muon" else 3)
    other = Optimizer(model, MODEL, config)
    other.load_state_tensors(other.checked(state))
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.state_tensors().items())
    assert all(tensor.data_ptr() != state[key].data_ptr() for key, tensor in other.state_tensors().items()), "copies"
