"""Writing with a model: filters over logits, and ``generate``, which yields text piece by piece.

It owns what is drawn, where the context begins and where a text ends. It does not know where models come from,
and it prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from gptcli.chat_template import ChatTemplate, Message, write_prompt
from gptcli.config import ModelConfig, SampleConfig
from gptcli.decoder import Decoder
from gptcli.errors import RunError, TokenizerError
from gptcli.model import GPT
from gptcli.tokenizer import StreamDecoder, Tokenizer

# Below the smallest float32 a temperature is none.
TINY = torch.finfo(torch.float32).tiny
# Random numbers that are taken from a sample's generator at once: each call costs as much as hundreds of numbers.
POINTS = 256
FinishReason = Literal["length", "stop", "end_of_text"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One drawn token of one sample, and the text that became certain with it.

    ``text`` may be empty: half a character, or what may yet become a stop string, is held back. ``finish_reason``
    is set on the last piece of a sample, which carries everything held back. ``logprob``, where it was asked for, is
    the natural logarithm of the model's own probability of the token, before temperature and filters.
    """

    sample: int
    text: str
    token_id: int
    finish_reason: FinishReason | None = None
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class NextToken:
    """A token that may follow, and how likely the model finds it.

    ``text`` is empty for end-of-text; bytes that are no whole character are shown as U+FFFD.
    """

    token_id: int
    text: str
    probability: float


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide ``logits`` (..., V) by ``temperature``, relative to the largest one; 0 leaves only the largest one.

    Among equals the first is left, as with argmax.
    """
    if temperature < TINY:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Exclude (set to -inf) all but the ``k`` largest of ``logits`` (..., V); of equals at the edge some are kept."""
    if k >= logits.size(-1):
        return logits
    values, ids = logits.topk(k)
    return torch.full_like(logits, -torch.inf).scatter(-1, ids, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Exclude all but the fewest tokens of ``logits`` (..., V) that together have probability ``p`` (above 0).

    Nucleus sampling (Holtzman et al. 2020). The likeliest token always stays.
    """
    if p >= 1:
        return logits
    ordered, ids = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1, dtype=torch.float64)
    before = probabilities.cumsum(-1) - probabilities
    return torch.empty_like(logits).scatter(-1, ids, ordered.masked_fill(before >= p, -torch.inf))


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Exclude tokens of ``logits`` (..., V) less likely than ``min_p`` times the likeliest (Nguyen et al. 2024)."""
    if min_p <= 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(min_p), -torch.inf)


def penalize_repetition(logits: Tensor, context_ids: Tensor, penalty: float) -> Tensor:
    """Make the tokens ``context_ids`` (..., n) less likely in ``logits`` (..., V), as CTRL does (Keskar et al. 2019).

    A positive logit is divided by ``penalty``, a negative one multiplied, once however often the token occurs.
    """
    if penalty == 1:
        return logits
    seen = logits.gather(-1, context_ids)
    return logits.scatter(-1, context_ids, torch.where(seen > 0, seen / penalty, seen * penalty))


def filter_logits(logits: Tensor, context_ids: Tensor, config: SampleConfig) -> Tensor:
    """Apply every filter that ``config`` asks for to ``logits`` (B, V), in the order transformers has.

    context_ids: (B, n). Excluded tokens become -inf; at least one stays in every row.
    """
    logits = penalize_repetition(logits, context_ids, config.repetition_penalty)
    logits = apply_temperature(logits, config.temperature)
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = keep_min_p(logits, config.min_p)
    return logits


def draw(logits: npt.NDArray[np.float32], point: float, temperature: float = 1.0) -> int:
    """Return the token id that ``point``, from 0 to below 1, falls on: each is as wide as it is likely.

    ``logits`` (V,) are divided by ``temperature`` before; 0 takes the likeliest, of equals the first. The cumulative
    distribution is inverted in float64. An excluded token (-inf) is never drawn.
    """
    if temperature < TINY:
        return int(logits.argmax())
    cumulative = logits.astype(np.float64)
    cumulative -= cumulative.max()
    cumulative /= temperature
    np.exp(cumulative, out=cumulative)
    np.cumsum(cumulative, out=cumulative)
    total = cumulative[-1]
    drawn = cumulative.searchsorted(point * total, "right")
    if drawn == len(cumulative):  # the point was rounded up to the total
        drawn = cumulative.searchsorted(total)
    return int(drawn)


def context_window(n_tokens: int, block_size: int) -> int:
    """Return where the context starts from which token number ``n_tokens`` is predicted.

    It is 0 up to ``block_size``; then it moves on in strides of a quarter, so that a cache is filled again once a
    stride and not for every token. The context is never longer than ``block_size``, nor shorter than three quarters.
    """
    stride = max(1, block_size // 4)
    return -(-max(0, n_tokens - block_size) // stride) * stride


class StopStrings:
    """A text passed on as it comes, but for what may be the beginning of a stop string.

    The first stop string to be complete ends the text, however the text was cut into pieces; of several that
    end at the same place the longest counts.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take the next ``text``; return what is certain now and whether a stop string, left out, ended it."""
        if not self.stops:
            return text, False
        self.held += text
        places = [(self.held.find(stop), len(stop)) for stop in self.stops]
        found = [(start + length, start) for start, length in places if start >= 0]
        if found:
            start = min(found)[1]
            certain, self.held = self.held[:start], ""
            return certain, True
        keep = max((self._partial(stop) for stop in self.stops), default=0)
        cut = len(self.held) - keep
        certain, self.held = self.held[:cut], self.held[cut:]
        return certain, False

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self.held = self.held, ""
        return held

    def _partial(self, stop: str) -> int:
        """Return how many characters at the end of the held text begin ``stop``."""
        longest = min(len(stop) - 1, len(self.held))
        return next((n for n in range(longest, 0, -1) if self.held.endswith(stop[:n])), 0)


class _Writer:
    """One sample on its way: its random numbers, its unfinished character, its stop strings."""

    def __init__(self, sample: int, tokenizer: Tokenizer, config: SampleConfig) -> None:
        self.sample = sample
        self.points = _points((config.seed + sample) % 2**63, config.max_new_tokens)
        self.end_of_text = tokenizer.end_of_text
        self.decoder = StreamDecoder(tokenizer)
        self.stops = StopStrings(config.stop)
        self.remaining = config.max_new_tokens
        self.finished = False

    def write(self, token_id: int, logprob: float | None) -> Piece:
        """Take the next token; return its piece."""
        self.remaining -= 1
        reason: FinishReason | None = None
        if token_id == self.end_of_text:
            reason = "end_of_text"
        elif not self.remaining:
            reason = "length"
        text = "" if reason == "end_of_text" else self.decoder.decode(token_id)
        if reason:
            text += self.decoder.flush()
        text, stopped = self.stops.feed(text)
        if stopped:
            reason = "stop"
        elif reason:
            text += self.stops.flush()
        self.finished = reason is not None
        return Piece(self.sample, text, token_id, reason, logprob)


def _points(seed: int, n: int) -> Iterator[float]:
    """Yield the ``n`` numbers that one sample is drawn with, one a token."""
    generator = torch.Generator().manual_seed(seed)
    for begin in range(0, n, POINTS):
        yield from torch.rand(min(POINTS, n - begin), dtype=torch.float64, generator=generator).tolist()


def _checked(logits: Tensor) -> Tensor:
    if not np.isfinite(logits.numpy()).all():
        raise RunError(
            "The model computes numbers that are not finite, so nothing can be drawn from it.",
            "Its training diverged: train again with a smaller learning rate, or sample an earlier checkpoint.",
        )
    return logits


def generate(
    model: GPT | Decoder,
    tokenizer: Tokenizer,
    prompt: str | Tensor,
    config: SampleConfig,
    *,
    use_cache: bool = True,
    logprobs: bool = False,
) -> Iterator[Piece]:
    """Yield ``config.num_samples`` continuations of ``prompt``, token by token in turn; the prompt is not repeated.

    Sample i draws from its own generator seeded ``seed + i``, so that adding samples changes none. A text longer
    than ``block_size`` goes on in the window of ``context_window``. Without the cache the text is the same, later.
    ``config.prompt`` is not read. ``TokenizerError``: the prompt has characters the tokenizer does not know.
    """
    first = prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else prompt
    return _pieces(_decoder(model), tokenizer, first, config, use_cache, logprobs)


def _decoder(model: GPT | Decoder) -> Decoder:
    return model if isinstance(model, Decoder) else Decoder.of(model)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> Tensor:
    """Return the ids (n,) to go on from: the prompt, or for an empty one what starts a text."""
    ids: list[int] = []
    if prompt:
        ids = tokenizer.encode(prompt).tolist()
    elif tokenizer.end_of_text is not None:
        ids = [tokenizer.end_of_text]
    else:
        try:
            ids = tokenizer.encode("\n").tolist()
        except TokenizerError:  # a char tokenizer of a text without line ends
            ids = [0]
    return torch.tensor(ids, dtype=torch.int64)


def chat_ids(tokenizer: Tokenizer, messages: Sequence[Message], template: ChatTemplate) -> Tensor:
    """Return the ids (n,) after which the model's next answer follows, with end-of-text behind each earlier answer.

    ``RunError``: there are earlier answers and the tokenizer has no end-of-text. ``TokenizerError``: as ``prompt_ids``.
    """
    end = tokenizer.end_of_text
    pieces = [tokenizer.encode(piece).tolist() for piece in write_prompt(messages, template)]
    if end is None and len(pieces) > 1:
        raise RunError(
            "The tokenizer has no end-of-text, so the end of an answer cannot be marked.",
            "Prepare the conversations again: gptcli prepare CORPUS --force",
        )
    ids = [token_id for piece in pieces[:-1] for token_id in (*piece, end)] + pieces[-1]
    return torch.tensor(ids, dtype=torch.int64)


def trimmed(n_prompt: int, config: ModelConfig) -> int:
    """Return how many of the ``n_prompt`` tokens of a prompt lie left of the context of the first drawn token."""
    return context_window(n_prompt, config.block_size)


def next_tokens(model: GPT | Decoder, tokenizer: Tokenizer, prompt: str | Tensor, n: int = 10) -> list[NextToken]:
    """Return the ``n`` tokens that the model finds likeliest to follow ``prompt``, without temperature and filters."""
    first = prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else prompt
    decoder = _decoder(model)
    reading = decoder.begin(len(first))
    raw = reading.read(first[None], context_window(len(first), decoder.config.block_size))
    decoder.keep(reading)
    logits = _checked(raw[0, : tokenizer.vocab_size])
    values, ids = logits.softmax(-1, dtype=torch.float64).topk(min(n, len(logits)))
    return [
        NextToken(token_id, tokenizer.token_bytes(token_id).decode("utf-8", "replace"), probability)
        for token_id, probability in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def _pieces(
    decoder: Decoder, tokenizer: Tokenizer, first: Tensor, config: SampleConfig, use_cache: bool, logprobs: bool
) -> Iterator[Piece]:
    end = len(first) + config.max_new_tokens
    reading = decoder.begin(end, use_cache=use_cache)
    writers = [_Writer(sample, tokenizer, config) for sample in range(config.num_samples)]
    texts = F.pad(first.expand(len(writers), -1), (0, min(config.max_new_tokens, POINTS)))
    try:
        for n in range(len(first), end):
            start = context_window(n, decoder.config.block_size)
            rows = texts[:1, :n] if n == len(first) else texts[:, :n]  # the prompt is read once for all samples
            raw = _checked(reading.read(rows, start)[:, : tokenizer.vocab_size])
            if n == texts.size(1):
                texts = F.pad(texts, (0, n))
            for writer, token_id in _drawn(raw, rows[:, start:], writers, config):
                texts[writer.sample, n] = token_id
                yield writer.write(token_id, _logprob(raw, writer.sample, token_id) if logprobs else None)
            if all(writer.finished for writer in writers):
                return
    finally:
        decoder.keep(reading)


def _drawn(
    raw: Tensor, contexts: Tensor, writers: list[_Writer], config: SampleConfig
) -> Iterator[tuple[_Writer, int]]:
    """Yield the next token of every sample that goes on; ``raw`` (B, V) may have one row for all."""
    filters = (config.top_k, config.top_p, config.min_p) != (None, None, None) or config.repetition_penalty != 1
    logits = filter_logits(raw, contexts, config).numpy() if filters else raw.numpy()
    temperature = 1.0 if filters else config.temperature
    for writer in writers:
        if not writer.finished:
            row = logits[writer.sample if len(logits) > 1 else 0]
            yield writer, draw(row, next(writer.points), temperature)


def _logprob(raw: Tensor, sample: int, token_id: int) -> float:
    row = raw[sample if len(raw) > 1 else 0].double()
    return float(row[token_id] - row.logsumexp(-1))
