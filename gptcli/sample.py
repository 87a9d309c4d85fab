"""Writing with a model: filters over logits, and ``generate``, which yields text piece by piece.

It owns what is drawn, where the context begins and where a text ends. It does not know where models come from,
and it prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gptcli.config import SampleConfig
from gptcli.decoder import Decoder
from gptcli.errors import RunError, TokenizerError
from gptcli.model import GPT, KVCache
from gptcli.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["length", "stop", "end_of_text"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One drawn token of one sample, and the text that became certain with it.

    ``text`` may be empty: half a character, or what may yet become a stop string, is held back. ``finish_reason``
    is set on the last piece of a sample, which carries everything held back.
    """

    sample: int
    text: str
    token_id: int
    finish_reason: FinishReason | None = None


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide ``logits`` (..., V) by ``temperature``, relative to the largest one; 0 leaves only the largest one.

    Among equals the first is left, as with argmax.
    """
    if temperature < torch.finfo(logits.dtype).tiny:
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


def draw(logits: Tensor, generator: torch.Generator) -> int:
    """Draw a token id from ``logits`` (V,) on the CPU, by inverting the cumulative distribution in float64.

    Exactly one number is taken from ``generator``, whatever the logits are. An excluded token is never drawn.
    """
    cumulative = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    total = cumulative[-1:]
    point = torch.rand(1, dtype=torch.float64, generator=generator) * total
    drawn = torch.searchsorted(cumulative, point, right=True)
    last = torch.searchsorted(cumulative, total)  # the point can round up to the total
    return int(torch.minimum(drawn, last))


def context_window(n_tokens: int, block_size: int) -> int:
    """Return where the context starts from which token number ``n_tokens`` is predicted.

    It is 0 up to ``block_size``; then it moves on in strides of half a block, so that a cache is filled again once
    a stride and not for every token. The context is never longer than ``block_size`` nor empty.
    """
    stride = max(1, block_size // 2)
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
        self.generator = torch.Generator().manual_seed((config.seed + sample) % 2**63)
        self.end_of_text = tokenizer.end_of_text
        self.decoder = StreamDecoder(tokenizer)
        self.stops = StopStrings(config.stop)
        self.remaining = config.max_new_tokens
        self.finished = False

    def write(self, token_id: int) -> Piece:
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
        return Piece(self.sample, text, token_id, reason)


class _Reader:
    """The model reading the texts so far, each token once where it can."""

    def __init__(self, model: GPT, capacity: int, *, vocab_size: int, use_cache: bool) -> None:
        self.model = model
        self.vocab_size = vocab_size
        self.start = 0
        self.device, dtype = model.wte.weight.device, model.wte.weight.dtype
        self.cache: KVCache | None = None
        if use_cache:
            positions = min(capacity, model.config.block_size)
            small = model.config.model_copy(update={"block_size": positions})
            self.cache = KVCache(small, 1, device=self.device, dtype=dtype)

    @torch.inference_mode()
    def read(self, texts: Tensor, start: int) -> Tensor:
        """Return the logits (B, V) that follow ``texts`` (B, n) from ``start`` on, as float32 on the CPU.

        With a cache one row may grow into several between two calls: they go on from the same text.
        """
        unread = start
        if self.cache is not None:
            if start != self.start:
                self.cache.reset()
            if len(texts) != len(self.cache.keys[0]):
                self.cache = self.cache.expand(len(texts))
            unread = start + self.cache.length
        self.start = start
        training = self.model.training
        if training:
            self.model.eval()
        try:
            logits = self.model(texts[:, unread:].to(self.device), cache=self.cache, last_only=True)
        finally:
            if training:
                self.model.train()
        return self._checked(logits[:, -1, : self.vocab_size].float().cpu())

    @staticmethod
    def _checked(logits: Tensor) -> Tensor:
        if not logits.isfinite().all():
            raise RunError(
                "The model computes numbers that are not finite, so nothing can be drawn from it.",
                "Its training diverged: train again with a smaller learning rate, or sample an earlier checkpoint.",
            )
        return logits


def generate(
    model: GPT | Decoder, tokenizer: Tokenizer, prompt: str | Tensor, config: SampleConfig, *, use_cache: bool = True
) -> Iterator[Piece]:
    """Yield ``config.num_samples`` continuations of ``prompt``, token by token in turn; the prompt is not repeated.

    Sample i draws from its own generator seeded ``seed + i``, so that adding samples changes none. A text longer
    than ``block_size`` goes on in the window of ``context_window``. Without the cache the text is the same, later.
    ``config.prompt`` is not read. ``TokenizerError``: the prompt has characters the tokenizer does not know.
    """
    first = prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else prompt
    return _pieces(model.model if isinstance(model, Decoder) else model, tokenizer, first, config, use_cache)


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


def _pieces(model: GPT, tokenizer: Tokenizer, first: Tensor, config: SampleConfig, use_cache: bool) -> Iterator[Piece]:
    end = len(first) + config.max_new_tokens
    reader = _Reader(model, end, vocab_size=tokenizer.vocab_size, use_cache=use_cache)
    writers = [_Writer(sample, tokenizer, config) for sample in range(config.num_samples)]
    texts = torch.zeros(len(writers), end, dtype=torch.int64)
    texts[:, : len(first)] = first
    for n in range(len(first), end):
        start = context_window(n, model.config.block_size)
        rows = texts[:1, :n] if n == len(first) else texts[:, :n]  # the prompt is read once for all samples
        logits = filter_logits(reader.read(rows, start), rows[:, start:], config).expand(len(writers), -1)
        for writer, row in zip(writers, logits, strict=True):
            if not writer.finished:
                token_id = draw(row, writer.generator)
                texts[writer.sample, n] = token_id
                yield writer.write(token_id)
        if all(writer.finished for writer in writers):
            return
