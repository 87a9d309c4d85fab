"""Which weights a finetune trains: low-rank adapters beside frozen matrices (LoRA, Hu et al. 2021), or most weights.

Knows the model's layers by name and the ``finetune`` section of a profile. Knows no files, runs or optimizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from gptcli.config import FinetuneConfig
from gptcli.errors import ProfileError
from gptcli.model import GPT

EMBEDDINGS = ("wte.", "wpe.")
# What people who know transformers type, and what the layer is called here.
THEIR_LAYERS = {
    "c_attn": ("attn.qkv",),
    "q_proj": ("attn.qkv",),
    "k_proj": ("attn.qkv",),
    "v_proj": ("attn.qkv",),
    "o_proj": ("attn.proj",),
    "c_proj": ("attn.proj", "mlp.down"),
    "c_fc": ("mlp.up",),
    "gate_proj": ("mlp.gate_up",),
    "up_proj": ("mlp.gate_up",),
    "down_proj": ("mlp.down",),
    "all-linear": ("attn.*", "mlp.*"),
}


class LoraLinear(nn.Linear):
    """A linear layer with an adapter, to be frozen itself: ``y = W x + b + alpha / rank * B A dropout(x)``.

    ``lora_a`` is (rank, in), ``lora_b`` (out, rank); with ``lora_b`` zero the layer is the one it was made of.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool, rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.lora_a = nn.Parameter(torch.zeros(rank, in_features))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))
        self.strength, self.dropout = alpha / rank, dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        inner = F.linear(F.dropout(x, self.dropout, self.training), self.lora_a)
        return torch.add(super().forward(x), F.linear(inner, self.lora_b), alpha=self.strength)


def add_adapters(model: GPT, config: FinetuneConfig) -> list[str]:
    """Put adapters beside the linear layers that ``config.lora_targets`` names; returns the names of those layers.

    The weights stay the tensors they were; adapters of weights that have memory begin as ``initial_adapters``.
    Raises ``ProfileError`` for targets that match no layer, listing what there is.
    """
    linears = {
        name: module
        for name, module in model.named_modules()
        if name.startswith("blocks.") and isinstance(module, nn.Linear)
    }
    layers = list(dict.fromkeys(_inside_block(name) for name in linears))
    if unmatched := [target for target in config.lora_targets if not _matches(layers, target)]:
        found = ", ".join(f"{target}{_our_name(target, layers)}" for target in unmatched)
        raise ProfileError(
            f"finetune.lora_targets: no linear layer of a block matches {found}; there is {', '.join(layers)}.",
            f"Name those, or patterns of them: --set finetune.lora_targets={layers[0]}   or leave it out for all.",
        )
    chosen = [name for name in linears if any(fnmatchcase(_inside_block(name), t) for t in config.lora_targets)]
    narrowest = min(min(linears[name].weight.shape) for name in chosen)
    if config.lora_rank > narrowest:
        raise ProfileError(
            f"finetune.lora_rank is {config.lora_rank}, but the narrowest of the layers is {narrowest} wide.",
            f"Type --set finetune.lora_rank={min(16, narrowest)}, or 0 to train the weights themselves.",
        )
    for name in chosen:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _adapted(linears[name], config))
    if not model.wte.weight.is_meta:
        model.load_state_dict(initial_adapters(model), strict=False, assign=True)
        model.to(model.wte.weight.device)
    return chosen


def _inside_block(name: str) -> str:
    """``blocks.3.attn.qkv`` is ``attn.qkv``."""
    return name.split(".", 2)[2]


def _matches(layers: list[str], target: str) -> list[str]:
    return [layer for layer in layers if fnmatchcase(layer, target)]


def _our_name(target: str, layers: list[str]) -> str:
    """Say what transformers' name of a layer is called here, where it is one."""
    ours = [layer for layer in THEIR_LAYERS.get(target.rpartition(".")[2], ()) if _matches(layers, layer)]
    ours = ours or [layer for layer in layers if target in (f"blocks.*.{layer}", layer.rpartition(".")[2])]
    return f" ({' or '.join(ours)} here)" if ours else ""


def _adapted(linear: nn.Linear, config: FinetuneConfig) -> LoraLinear:
    with torch.device("meta"):
        layer = LoraLinear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            rank=config.lora_rank,
            alpha=config.alpha,
            dropout=config.lora_dropout,
        )
    layer.weight, layer.bias = linear.weight, linear.bias
    return layer


def initial_adapters(model: GPT) -> dict[str, Tensor]:
    """Return the adapters as training begins: ``lora_a`` uniform within 1/sqrt(in) from torch's generator, 0 else."""
    tensors = {}
    for name, p in model.named_parameters():
        if name.endswith(".lora_a"):
            bound = p.size(1) ** -0.5
            tensors[name] = torch.empty(p.shape, dtype=torch.float32, device="cpu").uniform_(-bound, bound)
        elif name.endswith(".lora_b"):
            tensors[name] = torch.zeros(p.shape, dtype=torch.float32, device="cpu")
    return tensors


def is_trained(name: str, config: FinetuneConfig) -> bool:
    """Say whether the weight ``name`` is trained: adapters where there are any, else all; embeddings as asked.

    A tied head is the embedding; an untied one is trained, but for beside adapters.
    """
    if name.startswith(EMBEDDINGS):
        return not config.embeddings_frozen
    return name.endswith((".lora_a", ".lora_b")) if config.lora_rank else True


def freeze(model: GPT, config: FinetuneConfig) -> None:
    """Let only the weights be trained that ``is_trained`` names."""
    for name, p in model.named_parameters():
        p.requires_grad_(is_trained(name, config))


def merged(weights: Mapping[str, Tensor], config: FinetuneConfig) -> Mapping[str, Tensor]:
    """Return the weights by the names of a model without adapters: those are added into their matrices.

    Each is float32 and made when it is asked for, so that one matrix at a time takes memory.
    """
    return _Merged(weights, config)


class _Merged(Mapping[str, Tensor]):
    def __init__(self, weights: Mapping[str, Tensor], config: FinetuneConfig) -> None:
        self._weights = weights
        self._names = [name for name in weights if not name.endswith((".lora_a", ".lora_b"))]
        self._strength = config.alpha / config.lora_rank if config.lora_rank else 0.0

    def __getitem__(self, name: str) -> Tensor:
        weight = self._weights[name].float()
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_a" not in self._weights:
            return weight
        a, b = (self._weights[f"{layer}.{part}"].float() for part in ("lora_a", "lora_b"))
        return torch.addmm(weight, b, a, alpha=self._strength)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
