"""Rules for a profile: which network, which batch and which rates make good use of so many tokens of a text.

Pure: numbers in, values with their reasons out. What a step takes on this machine is measured by ``suggest``. The
numbers are what won in the runs of docs/log.md, and hold near their size: up to 4M weights for up to ten minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gptcli.config import ModelConfig
from gptcli.plan import count_parameters, flops_per_token
from gptcli.strict_yaml import KeyPath

# Layers, width and heads, each step up to about twice the weights of the one before.
SHAPES = (
    *((1, 64, 2), (2, 64, 2), (2, 96, 2), (3, 96, 2), (3, 128, 4), (4, 128, 4), (4, 160, 4), (4, 192, 4)),
    *((4, 256, 4), (6, 256, 4), (6, 384, 6), (8, 512, 8), (12, 768, 12), (24, 1024, 16)),
)
# The runs of five seconds, one and two minutes that won here saw 1.3, 1.8 and 1.3 tokens for each weight of their
# blocks; the next larger shapes, which lost, would have seen fewer than one.
TOKENS_A_WEIGHT = 1.0
# Hoffmann et al. 2022: 20 for models of hundreds of millions; between, the rule grows with the root of the size.
MOST_TOKENS_A_WEIGHT = 20
SMALL_WEIGHTS = 2e6
# 4 x 192 on 1.1 MB was better than 4 x 256 at equal time.
WEIGHTS_A_BYTE = 3
# Contexts by weights: each the one of the profile of about this size.
CONTEXTS = ((0.3e6, 64), (1.2e6, 128), (20e6, 256), (200e6, 512))
LONGEST_CONTEXT = 1024
MOST_STEPS = 6000
FEWEST_STEPS = 20
# Up to here a run has few steps, and higher rates with less momentum win.
FEW_STEPS, SOME_STEPS = 300, 1500
FEW_EPOCHS, MANY_EPOCHS, TOO_MANY_EPOCHS = 4, 16, 40
# From here on more time teaches nothing but the text by heart.
MOST_EPOCHS = 100
Choices = dict[KeyPath, tuple[Any, str]]


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What of a prepared corpus decides."""

    vocab_size: int
    train_tokens: int
    val_tokens: int
    train_bytes: int


def block_weights(model: ModelConfig) -> int:
    """Return the weights of the blocks alone: those of the embeddings learn from their own tokens only."""
    heads = 1 if model.tie_embeddings else 2
    assert model.vocab_size is not None, "the tokenizer decides vocab_size"
    return count_parameters(model) - heads * model.vocab_size * model.n_embd


def wanted_tokens(weights: int) -> float:
    """Return how many tokens each weight of a model of this size should see at least."""
    return min(MOST_TOKENS_A_WEIGHT, TOKENS_A_WEIGHT * math.sqrt(max(1.0, weights / SMALL_WEIGHTS)))


def shapes(text: TextFacts) -> Iterator[ModelConfig]:
    """Yield every network that a text is enough for, from the smallest; at least one."""
    for index, (n_layer, n_embd, n_head) in enumerate(SHAPES):
        plain = ModelConfig(n_layer=n_layer, n_embd=n_embd, n_head=n_head, vocab_size=text.vocab_size)
        weights = block_weights(plain)
        if index and weights > WEIGHTS_A_BYTE * text.train_bytes:
            return
        context = next((size for limit, size in CONTEXTS if weights < limit), LONGEST_CONTEXT)
        fitting = 1 << max(3, (min(text.train_tokens, text.val_tokens) // 8).bit_length() - 1)
        # A head of its own is cheap where there are few tokens, and learns faster.
        tied = text.vocab_size * n_embd > 0.04 * weights
        yield plain.model_copy(update={"block_size": min(context, fitting), "tie_embeddings": tied})


def choose_shape(text: TextFacts, flops: float) -> ModelConfig:
    """Return the network for so many floating-point operations of training on a text."""
    possible = list(shapes(text))
    chosen = possible[0]
    for model in possible:
        if flops / flops_per_token(model) >= wanted_tokens(block_weights(model)) * block_weights(model):
            chosen = model
    return chosen


def why_this_size(text: TextFacts, flops: float, chosen: ModelConfig, *, full: bool = False) -> str:
    """Return why a network was chosen for a text, told in the operations of its run, beside the next larger one.

    ``full``: the time would do for a larger one, and the memory does not.
    """
    possible = list(shapes(text))
    weights = block_weights(chosen)
    seen = flops / flops_per_token(chosen) / weights
    said = f"{_count(weights)} weights in the blocks, each of which sees {plain(seen)} tokens in the time"
    if full:
        return f"{said}; there is time for a larger one, but no memory."
    if chosen != possible[-1]:
        larger = possible[possible.index(chosen) + 1]
        each = flops / flops_per_token(larger) / block_weights(larger)
        needed = wanted_tokens(block_weights(larger))
        shape = f"{larger.n_layer} x {larger.n_embd}"
        next_one = f"in the next larger, {shape}, they would see {plain(each)}"
        least = f"{'' if each < needed else 'about '}{plain(needed)}"
        return f"{said}; {next_one}, and below {least} larger ones lost."
    most = WEIGHTS_A_BYTE * text.train_bytes
    if weights > most:
        return f"{said}. Even this, the smallest shape, is large for {text.train_bytes:,} bytes of text."
    if len(possible) < len(SHAPES):
        return f"{said}. The text allows {_count(most)} at most, {WEIGHTS_A_BYTE} a byte: more learn it by heart."
    return f"{said}; larger ones are not suggested here."


def choose_batch(model: ModelConfig, text: TextFacts, tokens: float, *, on_cpu: bool) -> tuple[int, int, str]:
    """Return ``batch_size`` and ``grad_accum_steps`` for a run of so many tokens of a text, and why."""
    each = (2048 if model.block_size <= 128 else 3072) if on_cpu else 16_384
    while tokens / each > MOST_STEPS:
        each *= 2
    if each > text.train_tokens // 4:
        rows = max(1, text.train_tokens // 4 // model.block_size)
        return rows, 1, f"{rows * model.block_size:,} tokens a step, about a quarter of the text."
    rows = max(1, each // model.block_size)
    parts = 1
    while rows // parts > 64 and rows % (2 * parts) == 0:
        parts *= 2
    busy = f"{rows * model.block_size:,} tokens a step keep a {'CPU' if on_cpu else 'GPU'} busy"
    why = f"{busy} and leave enough steps, about {MOST_STEPS:,} at most."
    return rows // parts, parts, why


def choose_learning(model: ModelConfig, steps: int, epochs: float) -> Choices:
    """Return rates and regularisation for so many steps that read the text so many times."""
    wide = max(1.0, model.n_embd / 192)
    adam = min(0.025, 0.025 * (steps / 145) ** -0.35) / wide
    muon = min(0.07, 0.07 * (steps / 145) ** -0.25) / wide**0.5
    few, some = steps < FEW_STEPS, steps < SOME_STEPS
    count = f"{steps:,} steps"
    choices: Choices = {
        ("train", "learning_rate"): (
            rounded(adam),
            f"For {count}: 0.025 was best for 145, 0.012 for 760, 0.008 for 3800, and this lies on their curve.",
        ),
        ("train", "muon_learning_rate"): (rounded(muon), "So is this: 0.07, 0.05 and 0.03 for the same runs."),
        ("train", "muon_momentum"): (
            0.85 if few else 0.9 if some else 0.95,
            f"{'Less than 0.95' if some else 'The usual one'}: {count} are {'few' if some else 'many'}.",
        ),
        ("train", "warmup_steps"): (
            min(max(1, steps // 10), max(5, min(20, steps // 75))),
            "From 5 for the shortest runs to 20 for long ones.",
        ),
        ("train", "decay_fraction"): (
            0.8 if few else 0.85 if some else 0.9,
            "0.8 for 145 steps, 0.85 for 760, 0.9 for 3800.",
        ),
    }
    if few and model.block_size >= 64:
        why = f"The first half reads shorter windows, which learns faster where there are only {count}."
        choices["train", "short_block_size"] = (model.block_size // 2, why)
    return {**choices, **choose_regularisation(epochs)}


def choose_regularisation(epochs: float) -> Choices:
    """Return what keeps a model from learning a text by heart that it reads so many times."""
    if epochs < FEW_EPOCHS:
        return {
            ("model", "dropout"): (0.0, why_dropout(0.0, epochs)),
            ("train", "weight_decay"): (0.05 if epochs >= 1 else 0.0, "0.05 where all of it is seen, none below that."),
        }
    dropout = 0.1 if epochs < MANY_EPOCHS else 0.2 if epochs < TOO_MANY_EPOCHS else 0.3
    choices: Choices = {
        ("model", "dropout"): (dropout, why_dropout(dropout, epochs)),
        ("train", "weight_decay"): (0.1, "For the same reason."),
    }
    if epochs >= TOO_MANY_EPOCHS:
        times = f"The text is read {times_text(epochs)}"
        choices["train", "patience"] = (4, f"{times}, more than helps: the run ends when val_loss stops falling.")
    return choices


def why_dropout(dropout: float, epochs: float) -> str:
    """Return why a run that reads a text so many times has so much dropout."""
    why = "some of it against learning it by heart" if dropout else "too few to learn it by heart"
    return f"The text is read {times_text(epochs)}: {why}."


def plain(number: float) -> str:
    """Return a number as it is read: 0.015, 1.3, 42, 1,200."""
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def times_text(number: float) -> str:
    """Return how often something is done: 0.5 times, once, 42 times."""
    return "once" if plain(number) == "1" else f"{plain(number)} times"


def _count(number: int) -> str:
    return f"{plain(number / 1e6)}M" if number >= 1e5 else f"{number:,}"


def rounded(number: float, digits: int = 2) -> float:
    """Return a number with so many digits: 0.012, 0.0083."""
    return float(f"{number:.{digits}g}")
