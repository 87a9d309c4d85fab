"""A model made ready for writing: weights in one number format, a cache of keys and values, and two ways to read on.

Many tokens go through torch, on any device. One more token of each text goes, on a CPU, through ``stepping``. Both
compute ``GPT.forward``, which the tests hold them to. It knows tensors and ``ModelConfig``; what is drawn, and from
where on a text is seen, is ``sample``'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from gptcli.config import ModelConfig
from gptcli.fused import rotate
from gptcli.lora import LoraLinear
from gptcli.matrices import AdaptedMatrix, Matrix, WeightFormat, converted, stored
from gptcli.model import GPT, rotary_tables
from gptcli.stepping import Layer, Norm, Parts, Stepper

__all__ = ["Decoder", "Reading", "WeightFormat"]

# Where the results of a format are rounded the head has a finer one: its errors go straight into the probabilities.
HEAD_FORMATS: dict[WeightFormat, WeightFormat] = {"int8": "float16", "bfloat16": "float16"}
Vector = Callable[[str], Tensor | None]


class Decoder:
    """A model made ready for writing. ``begin`` gives what reads texts.

    ``weights`` have the names of ``GPT(config).state_dict()`` and are asked for once each; float32 ones are used as
    they lie on a CPU, mapped files too. ``DeviceError``: ``weight_format`` is not to be had on ``device``.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        *,
        weight_format: WeightFormat = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        device, names = torch.device(device), set(weights)

        def vector(name: str) -> Tensor | None:
            return weights[name].to(device, torch.float32) if name in names else None

        def matrix(name: str, weight_format: WeightFormat = weight_format) -> Matrix:
            return converted(weights[f"{name}.weight"], vector(f"{name}.bias"), weight_format, device)

        wte = weights["wte.weight"]
        head_format = HEAD_FORMATS.get(weight_format, weight_format)
        head = converted(wte, None, head_format, device) if config.tie_embeddings else matrix("head", head_format)
        self.parts = _assemble(config, vector, matrix, wte.to(device), head)
        self.config, self.device = config, device
        self._kept: Reading | None = None

    @classmethod
    def of(cls, model: GPT) -> Decoder:
        """Return a decoder around a model's own matrices, adapters too, that writes as the model is now.

        Nothing large is copied; when the weights have changed, make another.
        """

        def vector(name: str) -> Tensor | None:
            module, _, attribute = name.rpartition(".")
            value: Tensor | None = getattr(model.get_submodule(module), attribute, None)
            return None if value is None else value.detach().float()

        def matrix(name: str) -> Matrix:
            layer = cast("nn.Linear", model.get_submodule(name))
            found = stored(layer.weight.detach(), vector(f"{name}.bias"))
            if isinstance(layer, LoraLinear):
                return AdaptedMatrix(found, layer.lora_a.detach(), layer.lora_b.detach(), layer.strength)
            return found

        wte = model.wte.weight.detach()
        decoder = object.__new__(cls)
        head = matrix("head") if model.head is not None else stored(wte, None)
        decoder.parts = _assemble(model.config, vector, matrix, wte, head)
        decoder.config, decoder.device = model.config, wte.device
        decoder._kept = None
        return decoder

    def begin(self, capacity: int, *, use_cache: bool = True) -> Reading:
        """Return what reads a text that may become ``capacity`` tokens long; of one kept, what both share is read."""
        kept, self._kept = self._kept, None
        if kept is None or not use_cache:
            return Reading(self, capacity, use_cache=use_cache)
        return kept.again(capacity)

    def keep(self, reading: Reading) -> None:
        """Keep what has been read of one text, for another that begins alike."""
        if reading.use_cache and reading.n_rows == 1:
            self._kept = reading


def _assemble(config: ModelConfig, vector: Vector, matrix: Callable[[str], Matrix], wte: Tensor, head: Matrix) -> Parts:
    modern = config.family == "modern"

    def norm(name: str) -> Norm:
        weight = vector(f"{name}.weight")
        assert weight is not None
        return Norm(weight, vector(f"{name}.bias"), config)

    def layer(name: str) -> Layer:
        qk_norm = None
        if modern:
            q, k = norm(f"{name}.attn.q_norm").weight, norm(f"{name}.attn.k_norm").weight
            qk_norm = torch.cat((q.expand(config.n_head, -1), k.expand(config.kv_heads, -1)))
        return Layer(
            norm1=norm(f"{name}.norm1"),
            qkv=matrix(f"{name}.attn.qkv"),
            qk_norm=qk_norm,
            proj=matrix(f"{name}.attn.proj"),
            norm2=norm(f"{name}.norm2"),
            up=matrix(f"{name}.mlp.gate_up" if modern else f"{name}.mlp.up"),
            down=matrix(f"{name}.mlp.down"),
        )

    cos, sin = (table.to(wte.device) for table in rotary_tables(config)) if modern else (None, None)
    layers = [layer(f"blocks.{number}") for number in range(config.n_layer)]
    return Parts(config, wte, None if modern else vector("wpe.weight"), cos, sin, layers, norm("norm"), head)


class Reading:
    """One text, or several that begin alike, as far as a decoder has read them.

    Of the window from token ``start`` on, ``length`` tokens are read; their keys and values lie in ``cache``
    (layers, 2, B K, positions, D).
    """

    def __init__(self, decoder: Decoder, capacity: int, *, use_cache: bool = True) -> None:
        config = decoder.config
        self.decoder, self.config, self.use_cache = decoder, config, use_cache
        self.n_rows, self.start, self.length = 1, 0, 0
        self._latest = torch.empty(1, 0, dtype=torch.int64)
        self._known: Tensor | None = None  # tokens (n,) of another text that are read
        self._stepper: Stepper | None = None
        shape = (config.n_layer, 2, config.kv_heads, min(capacity, config.block_size), config.head_width)
        self.cache = torch.zeros(shape, device=decoder.device)

    @torch.inference_mode()
    def again(self, capacity: int) -> Reading:
        """Make ready for another text that may become ``capacity`` tokens long."""
        self._known = self._latest[0, : self.length].clone()
        old, capacity = self.cache, min(capacity, self.config.block_size)
        if capacity > old.size(3):
            self.cache, self._stepper = old.new_zeros((*old.shape[:3], capacity, old.size(4))), None
            self.cache[:, :, :, : self.length] = old[:, :, :, : self.length]
        return self

    @torch.inference_mode()
    def read(self, texts: Tensor, start: int) -> Tensor:
        """Return the logits (B, V), float32 on the CPU, of what follows ``texts`` (B, n) seen from ``start`` on.

        Only what is new since the last call is read; one row may become several that go on from it.
        """
        window = texts[:, start:]
        if start != self.start or not self.use_cache:
            self.length = 0
        if len(texts) != self.n_rows:
            self._fork(len(texts))
        if self._known is not None:
            self.length = min(self.length, _common_prefix(self._known, window[0]), window.size(1) - 1)
            self._known = None
        self.start, self._latest = start, window
        unread, device_type = window[:, self.length :], self.cache.device.type
        if torch.is_autocast_enabled(device_type):
            with torch.autocast(device_type, enabled=False):
                logits = self._read(unread, self.length)
        else:
            logits = self._read(unread, self.length)
        self.length = window.size(1)  # only now: an interrupt leaves what was read before
        return logits

    def _read(self, tokens: Tensor, past: int) -> Tensor:
        n_rows, n_tokens = tokens.shape
        if n_tokens == 1 and self.use_cache and self.cache.device.type == "cpu":
            if self._stepper is None:
                self._stepper = Stepper(self.decoder.parts, self.cache, n_rows)
            return torch.from_numpy(self._stepper.step(tokens[:, 0].numpy(), past))
        caches = self.cache.view(*self.cache.shape[:2], n_rows, -1, *self.cache.shape[3:])
        # Row by row: which kernel is the quickest depends on the number of positions, and rounding on the kernel.
        together = n_rows if n_tokens == 1 else 1
        logits = [
            self._many(tokens[n : n + together].to(self.cache.device), caches[:, :, n : n + together], past)
            for n in range(0, n_rows, together)
        ]
        return torch.cat(logits).cpu()

    def _fork(self, n_rows: int) -> None:
        """Let ``n_rows`` texts go on from the one that was read; what was read of that is kept."""
        assert self.n_rows == 1, "only one text can become several"
        single = object.__new__(Reading)
        single.__dict__.update(self.__dict__)
        self.decoder.keep(single)
        self.n_rows, self._stepper = n_rows, None
        self.cache = self.cache.repeat(1, 1, n_rows, 1, 1)

    def _many(self, tokens: Tensor, caches: Tensor, past: int) -> Tensor:
        """Return the logits (B, V) after ``tokens`` (B, T), read behind ``past`` others in ``caches``.

        Those are (layers, 2, B, K, positions, D).
        """
        parts, (B, T) = self.decoder.parts, tokens.shape  # noqa: N806 - the letters of the shape comments
        x = F.embedding(tokens, parts.wte).float()
        if parts.wpe is not None:
            x = x + parts.wpe[past : past + T]
        x = x.view(B * T, -1)
        for layer, cache in zip(parts.layers, caches, strict=True):
            heads = layer.qkv.rows(layer.norm1.rows(x)).view(B, T, -1, self.config.head_width)
            y = self._attend(parts, layer, heads, cache, past)
            x = x + layer.proj.rows(y.transpose(1, 2).reshape(B * T, -1))
            x = x + layer.down.rows(self._activate(layer.up.rows(layer.norm2.rows(x))))
        return parts.head.rows(parts.norm.rows(x.view(B, T, -1)[:, -1]))

    def _attend(self, parts: Parts, layer: Layer, heads: Tensor, cache: Tensor, past: int) -> Tensor:
        """Return the mixed values (B, H, T, D) of ``heads`` (B, T, H + 2 K, D); ``cache`` is (2, B, K, n, D)."""
        config, end = self.config, past + heads.size(1)
        H, K = config.n_head, config.kv_heads  # noqa: N806 - the letters of the shape comments
        q, k, v = heads[:, :, :H], heads[:, :, H : H + K], heads[:, :, H + K :]
        if parts.cos is not None and parts.sin is not None and layer.qk_norm is not None:
            qk = F.rms_norm(heads[:, :, : H + K], (config.head_width,), None, config.norm_eps)
            qk = rotate(qk * layer.qk_norm, parts.cos[past:end, None], parts.sin[past:end, None])
            q, k = qk[:, :, :H], qk[:, :, H:]
        cache[0, :, :, past:end] = k.transpose(1, 2)
        cache[1, :, :, past:end] = v.transpose(1, 2)
        k, v = cache[:, :, :, :end]
        mask = None
        if past and end - past > 1:
            mask = torch.ones(end - past, end, dtype=torch.bool, device=q.device).tril(diagonal=past)
        return F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k,
            v,
            attn_mask=mask,
            is_causal=past == 0 and end > 1,
            enable_gqa=H != K,
        )

    def _activate(self, up: Tensor) -> Tensor:
        if self.config.family == "gpt2":
            return F.gelu(up, approximate="tanh" if self.config.gelu == "tanh" else "none")
        gate, up = up.chunk(2, dim=-1)
        return F.silu(gate) * up


def _common_prefix(one: Tensor, other: Tensor) -> int:
    """Return how many tokens two texts (n,) begin with alike."""
    n = min(len(one), len(other))
    same = one[:n] == other[:n]
    return n if bool(same.all()) else int(same.to(torch.uint8).argmin())
