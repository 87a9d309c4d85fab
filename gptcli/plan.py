"""What a model costs before it exists: its parameters and the arithmetic of one training token.

Closed forms over ``ModelConfig`` alone; the network itself, devices and memory are not known here.
"""

from __future__ import annotations

from gptcli.config import ModelConfig


def count_parameters(model: ModelConfig) -> int:
    """Return the number of weights of ``GPT(model)``; a tied head counts once. ``vocab_size`` has to be set."""
    gpt2 = model.family == "gpt2"
    norm = model.n_embd * (2 if gpt2 and model.bias else 1)
    block = _block_matrices(model) + 2 * norm
    if gpt2 and model.bias:
        block += _qkv_width(model) + model.inner_width + 2 * model.n_embd
    if not gpt2:
        block += 2 * model.head_width  # q_norm and k_norm
    embeddings = _head_matrix(model) * (1 if model.tie_embeddings else 2)
    positions = model.block_size * model.n_embd if gpt2 else 0
    return embeddings + positions + model.n_layer * block + norm


def flops_per_token(model: ModelConfig) -> int:
    """Return the floating-point operations of one training token, forward and backward.

    6 for every weight that takes part in a matrix product, the head included and the embedding look-ups not, and
    12 n_layer n_head head_dim block_size for attention: PaLM, appendix B (Chowdhery et al. 2022).
    """
    matrices = model.n_layer * _block_matrices(model) + _head_matrix(model)
    attention = model.n_layer * model.n_head * model.head_width * model.block_size
    return 6 * matrices + 12 * attention


def _block_matrices(model: ModelConfig) -> int:
    """Weights of the matrices of one block."""
    attention = model.n_embd * (_qkv_width(model) + model.n_head * model.head_width)
    matrices_of_mlp = 2 if model.family == "gpt2" else 3
    return attention + matrices_of_mlp * model.n_embd * model.inner_width


def _qkv_width(model: ModelConfig) -> int:
    return (model.n_head + 2 * model.kv_heads) * model.head_width


def _head_matrix(model: ModelConfig) -> int:
    assert model.vocab_size is not None, "the tokenizer decides vocab_size before a model is counted"
    return model.vocab_size * model.n_embd
