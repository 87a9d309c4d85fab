"""How well a model predicts a text: one deterministic pass, every token scored once.

The text is cut into windows of ``block_size`` that do not overlap, as nanoGPT's neutral evaluation would; no random
batches. Knows nothing of training or terminals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from gptcli.batches import Tokens, eval_batches
from gptcli.checkpoint_folders import Which
from gptcli.config import TrainConfig
from gptcli.device import Setup, choose_setup, detect
from gptcli.errors import CorpusError
from gptcli.model import GPT
from gptcli.progress import Portion
from gptcli.restore import load_model
from gptcli.runs import RunDir
from gptcli.shards import ArrayTokens
from gptcli.tokenizer import byte_lengths, encode_pieces
from gptcli.world import ALONE, World

# Tokens a forward pass may hold, and their logits: 64 Mi float32 are 256 MB.
BATCH_TOKENS = 16_384
BATCH_LOGITS = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one pass over a text found; losses in nats a token."""

    val_loss: float
    val_loss_stderr: float
    """Standard error of the mean with windows as clusters, since losses inside a window depend on each other.

    A text of one window has no second cluster; its tokens are taken as independent then.
    """
    perplexity: float
    bits_per_byte: float
    """Bits spent on the text divided by the UTF-8 bytes behind the scored tokens; end-of-text counts 0 bytes."""
    n_tokens: int


@torch.no_grad()
def evaluate(
    model: GPT,
    tokens: Tokens,
    lengths: npt.NDArray[np.int64],
    setup: Setup,
    *,
    limit: int | None = None,
    before_batch: Callable[[], None] = lambda: None,
    world: World = ALONE,
) -> Evaluation:
    """Score every token of ``tokens`` but the first (or the first ``limit`` of them) exactly once.

    Of conversations, those are the tokens of the answers; the others are read and count in no figure. ``lengths`` holds
    the bytes behind each token id. The model is put into evaluation mode and back; what ``before_batch`` raises ends it
    early. Several processes score a part of the batches each, and all return the figures of one that scores them all.
    """
    training = model.training
    model.eval()
    try:
        return _score(model, tokens, lengths, setup, limit, before_batch, world)
    finally:
        model.train(training)


def _score(
    model: GPT,
    tokens: Tokens,
    lengths: npt.NDArray[np.int64],
    setup: Setup,
    limit: int | None,
    before_batch: Callable[[], None],
    world: World,
) -> Evaluation:
    block_size, batch_size = model.config.block_size, _batch_size(model)
    windows: list[torch.Tensor] = []
    batches = eval_batches(tokens, block_size=block_size, batch_size=batch_size, limit=limit)
    while together := list(itertools.islice(batches, world.size)):
        before_batch()
        # Who has none left scores one for nothing: where each has a part of the weights, all have to take part.
        inputs, targets = together[min(world.rank, len(together) - 1)]
        with setup.autocast():
            losses = model(
                torch.from_numpy(inputs).to(setup.device), torch.from_numpy(targets).to(setup.device), reduction="none"
            )
        own = _window_figures(losses.float().cpu().double(), targets, lengths)
        for rank, batch in enumerate(together):
            figures = own if rank == world.rank else torch.zeros(len(batch.inputs), own.size(1), dtype=own.dtype)
            windows.append(world.add_up(figures))
    return _summarise(torch.cat(windows))


def _window_figures(
    losses: torch.Tensor, targets: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> torch.Tensor:
    """Return loss sum, sum of squares, scored tokens and bytes of each window: (B, 4) float64."""
    scored = targets >= 0
    counts = torch.from_numpy(scored.sum(axis=1))
    n_bytes = torch.from_numpy(np.where(scored, lengths[np.where(scored, targets, 0)], 0).sum(axis=1))
    return torch.stack((losses.sum(dim=1), losses.square().sum(dim=1), counts.double(), n_bytes.double()), dim=1)


def _batch_size(model: GPT) -> int:
    """Return how many windows are scored at once."""
    tokens = min(BATCH_TOKENS, BATCH_LOGITS // (model.config.vocab_size or 1))
    return max(1, tokens // model.config.block_size)


def _summarise(windows: torch.Tensor) -> Evaluation:
    """Turn the figures of each window, (N, 4), into those of the text; cluster-robust standard error."""
    sums, squares, counts, n_bytes = windows.unbind(dim=1)
    n_tokens, n_windows = counts.sum(), len(sums)
    mean = sums.sum() / n_tokens
    if n_windows > 1:
        variance = ((sums - counts * mean) ** 2).sum() * n_windows / (n_windows - 1)
    else:
        variance = (squares.sum() - n_tokens * mean**2).clamp_min(0.0) * n_tokens / (n_tokens - 1).clamp_min(1.0)
    stderr = variance.sqrt() / n_tokens
    loss = float(mean)
    return Evaluation(
        val_loss=loss,
        val_loss_stderr=float(stderr),
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=float(sums.sum()) / math.log(2) / max(1, int(n_bytes.sum())),
        n_tokens=int(n_tokens),
    )


def evaluate_run(
    run: RunDir,
    *,
    text: str | None = None,
    which: Which = "best",
    device: str | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Evaluate a run's checkpoint in float32 on ``text``, or on the val split the run was trained beside.

    Raises ``CorpusError`` when the val tokens are gone or the text has fewer than two tokens.
    """
    setup = choose_setup(TrainConfig(device=device or "auto", dtype="float32", compile=False), detect())
    model, tokenizer, _ = load_model(run, which, setup.device)
    if text is None:
        tokens: Tokens = run.dataset().val
    else:
        pieces = [tokenizer.encode(piece) for piece in encode_pieces(text)]
        tokens = ArrayTokens(np.concatenate(pieces) if pieces else tokenizer.encode(""))
        if len(tokens) < 2:
            raise CorpusError(f"The text has {len(tokens)} tokens; at least 2 are needed to score one.")
    begin_batch = _counted(len(tokens), _batch_size(model) * model.config.block_size, on_progress)
    return evaluate(model, tokens, byte_lengths(tokenizer), setup, before_batch=begin_batch)


def _counted(n_tokens: int, batch_tokens: int, on_progress: Callable[[str], None]) -> Callable[[], None]:
    """Return a function that is called before each batch, and tells how many tokens are behind it."""
    begun = itertools.count()

    def begin() -> None:
        done = min(n_tokens, next(begun) * batch_tokens)
        on_progress(Portion(f"Scoring: {done:,} of {n_tokens:,} tokens", done, n_tokens))

    return begin
