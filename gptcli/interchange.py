"""Our model and transformers' ``GPT2LMHeadModel`` and ``Qwen3ForCausalLM``: the same weights under other names.

It owns the correspondence of tensors and of configurations, in both directions. It does not know where weights come
from or go to, and it never loads or saves any.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from gptcli.config import GPT2_NAMES, ModelConfig
from gptcli.errors import FormatError
from gptcli.model import GPT, GPT2_NORM_EPS

# Our module, and theirs whose rows stand in ours from top to bottom.
GPT2_MODULES = {
    "wte": ("transformer.wte",),
    "wpe": ("transformer.wpe",),
    "blocks.{}.norm1": ("transformer.h.{}.ln_1",),
    "blocks.{}.attn.qkv": ("transformer.h.{}.attn.c_attn",),
    "blocks.{}.attn.proj": ("transformer.h.{}.attn.c_proj",),
    "blocks.{}.norm2": ("transformer.h.{}.ln_2",),
    "blocks.{}.mlp.up": ("transformer.h.{}.mlp.c_fc",),
    "blocks.{}.mlp.down": ("transformer.h.{}.mlp.c_proj",),
    "norm": ("transformer.ln_f",),
}
QWEN3_MODULES = {
    "wte": ("model.embed_tokens",),
    "blocks.{}.norm1": ("model.layers.{}.input_layernorm",),
    "blocks.{}.attn.qkv": tuple(f"model.layers.{{}}.self_attn.{letter}_proj" for letter in "qkv"),
    "blocks.{}.attn.q_norm": ("model.layers.{}.self_attn.q_norm",),
    "blocks.{}.attn.k_norm": ("model.layers.{}.self_attn.k_norm",),
    "blocks.{}.attn.proj": ("model.layers.{}.self_attn.o_proj",),
    "blocks.{}.norm2": ("model.layers.{}.post_attention_layernorm",),
    "blocks.{}.mlp.gate_up": ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
    "blocks.{}.mlp.down": ("model.layers.{}.mlp.down_proj",),
    "norm": ("model.norm",),
    "head": ("lm_head",),
}
OLD_BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(masked_)?bias")  # masks that old GPT-2 files carry along

HEAD = "lm_head.weight"
MAX_SHOWN = 20

# The settings that ModelConfig has no key for, with the values it stands for.
CLASSES = {"gpt2": "GPT2LMHeadModel", "qwen3": "Qwen3ForCausalLM"}
SUPPORTED: dict[str, dict[str, tuple[object, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu"),
        "layer_norm_epsilon": (GPT2_NORM_EPS,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    "qwen3": {"hidden_act": ("silu",), "attention_bias": (False,), "use_sliding_window": (False,)},
}

# What a config.json leaves out, as GPT2Config and Qwen3Config fill it in.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 50_257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
        "activation_function": "gelu_new", "resid_pdrop": 0.1, "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False, "tie_word_embeddings": True,
    },
    "qwen3": {
        "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22_016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10_000.0,
        "rope_scaling": None, "attention_bias": False, "use_sliding_window": False, "attention_dropout": 0.0,
    },
}  # fmt: skip
# What may be null or left out, and the type it has otherwise.
OPTIONAL: dict[str, dict[str, type]] = {
    "gpt2": {"n_inner": int},
    "qwen3": {"num_key_value_heads": int, "rope_scaling": dict, "rope_parameters": dict},
}
# Other words for the same in a GPT-2's config.json.
GPT2_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


class _Theirs(NamedTuple):
    """The tensors of transformers behind one of ours: their names, their shapes, and whether they lie transposed."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    transposed: bool

    @property
    def rows(self) -> list[int]:
        """How many rows of our tensor each of theirs fills."""
        return [shape[-1] if self.transposed else shape[0] for shape in self.shapes]


class Parts(NamedTuple):
    """One of our tensors elsewhere: the tensors whose rows, one below the other, it holds, and its shape here."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    shape: tuple[int, ...]


def name_parts(config: ModelConfig, modules: Mapping[str, tuple[str, ...]]) -> dict[str, Parts]:
    """Return the parts of each tensor of ``GPT(config)``; ``modules`` are theirs for each of ours, {} is the layer."""
    table = {}
    with torch.device("meta"):
        ours = GPT(config).state_dict()
    for name, tensor in ours.items():
        module, _, kind = name.rpartition(".")
        layer = "".join(re.findall(r"^blocks\.(\d+)", module))
        theirs = modules[re.sub(r"^blocks\.\d+", "blocks.{}", module)]
        rows = _rows(config, module, tensor.size(0))
        table[name] = Parts(
            tuple(f"{their.format(layer)}.{kind}" for their in theirs), tuple(rows), tuple(tensor.shape)
        )
    return table


def _correspondence(config: ModelConfig) -> dict[str, _Theirs]:
    """Return theirs for each of our tensors; for gpt2 with its biases, whether ``config`` has them or not."""
    gpt2 = config.family == "gpt2"
    parts = name_parts(config.model_copy(update={"bias": gpt2}), GPT2_MODULES if gpt2 else QWEN3_MODULES)
    table = {}
    for name, (names, rows, shape) in parts.items():
        transposed = gpt2 and name.startswith("blocks.") and len(shape) == 2  # Conv1D keeps (in, out)
        shapes = [(n, *shape[1:]) for n in rows]
        table[name] = _Theirs(names, tuple(each[::-1] if transposed else each for each in shapes), transposed)
    return table


def _rows(config: ModelConfig, module: str, total: int) -> list[int]:
    """Return how the rows of one of our modules are shared out among theirs."""
    if config.family == "modern" and module.endswith("attn.qkv"):
        return [n * config.head_width for n in (config.n_head, config.kv_heads, config.kv_heads)]
    if module.endswith("mlp.gate_up"):
        return [config.inner_width] * 2
    return [total]


def from_transformers(state_dict: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the state dict of ``GPT(config)`` for one of ``GPT2LMHeadModel`` or ``Qwen3ForCausalLM``, in float32.

    The tensors are copies. With ``bias: false`` the biases of a GPT-2 have to be zero;
    a tied ``lm_head.weight`` may be there and has to equal the embedding. Raises ``FormatError`` that lists every
    tensor missing, too many or of another shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    makers = lazy_from_transformers(state_dict, shapes, config)
    return {name: make().to(torch.float32, copy=True) for name, make in makers.items()}


def lazy_from_transformers(
    theirs: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], config: ModelConfig
) -> dict[str, Callable[[], Tensor]]:
    """Return a function for each tensor of ``GPT(config)`` that makes it of ``theirs``, in the number format there.

    ``shapes`` are those of ``theirs``, so that none has to be read to find what does not fit: as ``from_transformers``
    does, this raises ``FormatError`` at once. Names without the prefix of the inner model, as the published GPT-2 has
    them, are known too.
    """
    names = _whole_names(shapes, config)
    table = _correspondence(config)
    if problems := _mismatches(theirs, shapes, names, table, config):
        shown = "\n".join(f"  {problem}" for problem in problems[:MAX_SHOWN])
        more = f"\n  and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise FormatError(
            f"The weights do not fit the model:\n{shown}{more}", "Check that config.json belongs to them."
        )

    def make(source: _Theirs) -> Tensor:
        parts = [theirs[names[their]] for their in source.names]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined.t().contiguous() if source.transposed else joined

    return {name: partial(make, source) for name, source in table.items() if _kept(name, config)}


def _whole_names(stored: Iterable[str], config: ModelConfig) -> dict[str, str]:
    """Return the stored names by the names that the class with its head has."""
    prefix = "transformer." if config.family == "gpt2" else "model."
    whole = {name if name.startswith((prefix, "lm_head.")) else prefix + name: name for name in stored}
    bare = not any(name.startswith(prefix) for name in whole.values())
    return whole if bare else {name: name for name in whole.values()}


def _kept(name: str, config: ModelConfig) -> bool:
    return config.bias or not name.endswith(".bias")


def _mismatches(
    theirs: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
    table: Mapping[str, _Theirs],
    config: ModelConfig,
) -> list[str]:
    """Return a line for every tensor of ``theirs`` that is missing, too many, of another shape or value."""
    problems = []
    expected: set[str] = set()
    for name, source in table.items():
        expected.update(source.names)
        for their, shape in zip(source.names, source.shapes, strict=True):
            found = shapes[names[their]] if their in names else None
            if found is None:
                problems.append(f"{their} is missing, expected {shape}")
            elif found != shape:
                problems.append(f"{their} is {found}, expected {shape}")
            elif not _kept(name, config) and theirs[names[their]].any():
                problems.append(f"{their} is not zero, but the model has bias: false")
    if config.tie_embeddings:
        expected.add(HEAD)
        embedding = table["wte.weight"].names[0]
        if HEAD in names and embedding in names and not torch.equal(theirs[names[HEAD]], theirs[names[embedding]]):
            problems.append("lm_head.weight differs from the embedding, but the model has tie_embeddings: true")
    extra = names.keys() - expected
    return problems + [f"{name} is not known" for name in sorted(extra) if not OLD_BUFFERS.fullmatch(name)]


def to_transformers(state_dict: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights of ``GPT(config)`` under the names that ``save_pretrained`` writes, contiguous.

    A tied ``lm_head.weight`` is left out, as there; a GPT-2 without biases gets zeros. Raises ``FormatError`` when
    ``state_dict`` is not that of ``GPT(config)``.
    """
    table = _correspondence(config)
    ours = {name for name in table if _kept(name, config)}
    if ours != set(state_dict):
        differing = ", ".join(sorted(ours ^ set(state_dict)))
        raise FormatError(f"The weights do not fit the model; these are missing or not known: {differing}")
    theirs = {}
    for name, source in table.items():
        if name in ours:
            parts = torch.split(state_dict[name], source.rows)
        else:
            parts = tuple(torch.zeros(shape) for shape in source.shapes)
        for their, part in zip(source.names, parts, strict=True):
            theirs[their] = (part.t() if source.transposed else part).contiguous()
    return theirs


def model_config_from_json(settings: Mapping[str, Any]) -> ModelConfig:
    """Return the ``ModelConfig`` of a ``config.json``, read without transformers; nothing in it is executed.

    Raises ``FormatError`` as ``model_config_from_transformers`` does, for values of another type too.
    """
    kind = settings.get("model_type")
    known = DEFAULTS.get(kind, {}) if isinstance(kind, str) else {}
    renamed = {GPT2_ALIASES.get(key, key) if kind == "gpt2" else key: value for key, value in settings.items()}
    config = SimpleNamespace(**{"architectures": None, "model_type": kind, **known, **renamed})
    if quantized := settings.get("quantization_config"):
        method = quantized.get("quant_method", "") if isinstance(quantized, dict) else ""
        raise FormatError(
            f"The weights are quantized ({method or 'quantization_config'}); gptcli reads float32, float16, bfloat16.",
            "Take the model that was not quantized.",
        )
    if known:
        _check_types(config)
    return model_config_from_transformers(config)


def _check_types(config: SimpleNamespace) -> None:
    """Raise ``FormatError`` for a setting of another type than its default; a float may be written as an int."""
    optional = OPTIONAL[config.model_type]
    types = {key: type(value) for key, value in DEFAULTS[config.model_type].items()} | optional
    for key, wanted in types.items():
        value = getattr(config, key, None)
        if value is None and key in optional:
            continue
        if type(value) is not wanted and (wanted, type(value)) != (float, int):
            raise FormatError(
                f"config.json is damaged: {key} is {reprlib.repr(value)}, but {wanted.__name__} was expected."
            )


def model_config_from_transformers(config: Any) -> ModelConfig:  # noqa: ANN401 - transformers has no types
    """Return the ``ModelConfig`` of a ``GPT2Config`` or ``Qwen3Config``; values that are our defaults stay empty.

    Raises ``FormatError`` for another class, and for settings that change what the model computes.
    """
    kind = config.model_type
    if not isinstance(kind, str) or kind not in SUPPORTED:
        classes = config.architectures
        found = classes[0] if isinstance(classes, list) and classes else kind
        raise FormatError(
            f"A model of class {found} was found; gptcli reads {' and '.join(CLASSES.values())}.",
            f"Take one of these, such as {', '.join(GPT2_NAMES)} or Qwen/Qwen3-0.6B-Base.",
        )
    problems = [
        f"{key}: {reprlib.repr(getattr(config, key))}"
        for key, values in SUPPORTED[kind].items()
        if getattr(config, key) not in values
    ]
    rope = _rope(config) if kind == "qwen3" else {}
    if rope.get("rope_type", "default") != "default":
        problems.append(f"rope_type: {reprlib.repr(rope['rope_type'])}")
    if problems:
        raise FormatError(f"This {kind} model has settings that gptcli does not compute: {', '.join(problems)}.")
    try:
        return _gpt2_config(config) if kind == "gpt2" else _modern_config(config, rope["rope_theta"])
    except ValidationError as error:
        reasons = "; ".join(": ".join((*map(str, problem["loc"]), problem["msg"])) for problem in error.errors())
        raise FormatError(f"This {kind} model has a shape that gptcli does not know: {reasons}.") from error


def _rope(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the rotary settings, which transformers 4 and 5 keep in different places."""
    parameters = getattr(config, "rope_parameters", None)
    if parameters:
        return {"rope_theta": 10_000.0, **parameters}
    scaling = dict(config.rope_scaling or {})
    return {"rope_theta": config.rope_theta, "rope_type": scaling.get("rope_type", scaling.get("type", "default"))}


def _gpt2_config(config: Any) -> ModelConfig:  # noqa: ANN401
    return ModelConfig(
        family="gpt2",
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_inner=None if config.n_inner == 4 * config.n_embd else config.n_inner,
        block_size=config.n_positions,
        vocab_size=config.vocab_size,
        dropout=config.resid_pdrop,
        bias=True,
        gelu="exact" if config.activation_function == "gelu" else "tanh",
    )


def _modern_config(config: Any, rope_theta: float) -> ModelConfig:  # noqa: ANN401
    n_embd, n_head = config.hidden_size, config.num_attention_heads
    shaped = partial(
        ModelConfig,
        family="modern",
        n_layer=config.num_hidden_layers,
        n_head=n_head,
        n_kv_head=None if config.num_key_value_heads == n_head else config.num_key_value_heads,
        n_embd=n_embd,
        head_dim=None if config.head_dim * n_head == n_embd else config.head_dim,
        block_size=config.max_position_embeddings,
        vocab_size=config.vocab_size,
        dropout=config.attention_dropout,
        tie_embeddings=config.tie_word_embeddings,
        rope_theta=rope_theta,
        norm_eps=config.rms_norm_eps,
    )
    ours = shaped()
    return ours if ours.inner_width == config.intermediate_size else shaped(n_inner=config.intermediate_size)


def to_transformers_config(config: ModelConfig) -> Any:  # noqa: ANN401
    """Return the ``GPT2Config`` or ``Qwen3Config`` of a model; ``vocab_size`` has to be set. Imports transformers.

    No token is marked as the beginning or end of a text; the tokenizer knows those.
    """
    from transformers import GPT2Config, Qwen3Config

    settings: dict[str, Any] = {"vocab_size": config.vocab_size, "bos_token_id": None, "eos_token_id": None}
    if config.family == "gpt2":
        return GPT2Config(
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            n_inner=config.n_inner,
            n_positions=config.block_size,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            layer_norm_epsilon=GPT2_NORM_EPS,
            activation_function="gelu_new" if config.gelu == "tanh" else "gelu",
            **settings,
        )
    settings["rope_theta"] = config.rope_theta  # transformers 5 moves it into rope_parameters itself
    return Qwen3Config(
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        num_key_value_heads=config.kv_heads,
        hidden_size=config.n_embd,
        head_dim=config.head_width,
        intermediate_size=config.inner_width,
        max_position_embeddings=config.block_size,
        attention_dropout=config.dropout,
        tie_word_embeddings=config.tie_embeddings,
        rms_norm_eps=config.norm_eps,
        **settings,
    )
