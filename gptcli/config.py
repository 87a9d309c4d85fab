"""The run profile: everything a run depends on, declared once.

A field here is the YAML key, the ``--set`` path, the line in the documentation and the value in the code.
Reading and writing profile files is the business of ``profiles``; nothing here touches a disk or torch.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# More than any model has: no file may claim a network that is hours in the making, or positions that fill the memory.
MAX_LAYERS = 1000
MAX_WIDTH = MAX_POSITIONS = 2**20
MAX_VOCABULARY = 2**24
# Of heads together, and of rotary tables: little enough for torch to count the bytes of any weight.
MAX_SIZE = 2**27
# Bytes of a name in the usual file systems, and the characters of it that a message shows.
MAX_NAME, MAX_SHOWN = 255, 80
# Texts drawn together; a slip of the finger should not fill the memory.
MAX_SAMPLES = 10_000
# No number of steps or tokens needs more, and every one of them is exact as a float.
MAX_COUNT = 2**53
Positive = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
Positions = Annotated[int, Field(gt=0, le=MAX_POSITIONS)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Rate = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Torch and numpy take seeds of 64 bits, torch signed ones.
Seed = Annotated[int, Field(ge=0, lt=2**63)]

# The sizes of GPT-2 as published; here, so that the command line knows them without torch.
GPT2_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
# `pretrained` is a tokenizer that came with weights; only a run or its tokens can say which.
TOKENIZER_NAME = re.compile(r"auto|char|gpt2|pretrained|bpe:[1-9][0-9]*")
# Torch counts no further than 127, and no digits but these.
DEVICE = re.compile(r"auto|cpu|mps|cuda(?::(0|[1-9][0-9]?))?")


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class ModelConfig(_Section):
    """The shape of the network."""

    family: Literal["modern", "gpt2"] = "modern"
    """Architecture: `modern` (RoPE, RMSNorm, SwiGLU; loads as Qwen3) or `gpt2` (loads as GPT-2)."""
    n_layer: Annotated[int, Field(gt=0, le=MAX_LAYERS)] = 4
    """Number of transformer blocks."""
    n_head: Width = 4
    """Number of attention heads in a block."""
    n_kv_head: Width | None = None
    """Number of key/value heads; fewer than `n_head` shares them (modern only). Empty: as many as `n_head`."""
    n_embd: Width = 128
    """Width of the residual stream."""
    head_dim: Width | None = None
    """Width of one attention head. Empty: `n_embd / n_head`."""
    n_inner: Width | None = None
    """Width of the hidden layer of the MLP. Empty: 4 x `n_embd` (gpt2), 8/3 x `n_embd` rounded up to 16 (modern)."""
    block_size: Positions = 256
    """Context length in tokens."""
    vocab_size: Annotated[int, Field(gt=0, le=MAX_VOCABULARY)] | None = None
    """Number of tokens the model knows. Empty: taken from the tokenizer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of activations set to zero while training; more of it against overfitting."""
    bias: bool = False
    """Biases in the linear and norm layers (gpt2 only)."""
    tie_embeddings: bool = True
    """One matrix for the token embedding and the output head; always so for gpt2."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary position angles (modern only)."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the variance inside RMSNorm (modern only; gpt2 has 1e-5)."""
    gelu: Literal["tanh", "exact"] = "tanh"
    """GELU of the MLP: `tanh` approximated as in GPT-2, or `exact` as in nanoGPT (gpt2 only)."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelConfig:
        if self.head_dim is None and self.n_embd % self.n_head:
            below = self.n_embd // self.n_head * self.n_head
            near = f"{below} or {below + self.n_head}" if below else f"{self.n_head}"
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}; try n_embd {near}")
        if self.n_head * self.head_width > MAX_SIZE:
            raise ValueError(f"n_head {self.n_head} x head_dim {self.head_width} is more than {MAX_SIZE}")
        if self.family == "modern":
            self._check_rotary()
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_head {self.n_head} is not divisible by n_kv_head {self.kv_heads}")
        if self.family == "gpt2":
            self._check_gpt2()
        elif self.bias:
            raise ValueError("bias is for family gpt2; the modern family has none")
        elif self.gelu != "tanh":
            raise ValueError("gelu is for family gpt2; the modern family has SwiGLU")
        return self

    def _check_rotary(self) -> None:
        if self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, found {self.head_width} (n_embd / n_head)")
        # No weight vouches for their tables, which are made as soon as there is a model.
        if self.block_size * self.head_width > MAX_SIZE:
            raise ValueError(f"block_size {self.block_size} x head_dim {self.head_width} is more than {MAX_SIZE}")

    def _check_gpt2(self) -> None:
        if self.kv_heads != self.n_head:
            raise ValueError("n_kv_head is for family modern; gpt2 has as many key/value heads as heads")
        if self.head_dim is not None and self.head_dim * self.n_head != self.n_embd:
            raise ValueError("head_dim is for family modern; gpt2 has n_embd / n_head")
        if not self.tie_embeddings:
            raise ValueError("tie_embeddings: false is for family modern; gpt2 always ties them")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, resolved."""
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        """Width of one attention head, resolved."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def inner_width(self) -> int:
        """Width of the MLP's hidden layer, resolved."""
        if self.n_inner:
            return self.n_inner
        if self.family == "gpt2":
            return 4 * self.n_embd
        return -(-8 * self.n_embd // 3 // 16) * 16


def check_folder_name(name: str) -> str:
    """Return a name that leads to no other folder than the one it is looked up in; raises ``ValueError`` else.

    A corpus made by hand may be called what a fetched one cannot, so this asks for less than ``gptcli fetch`` does.
    """
    plain = {name, PurePosixPath(name).name, PureWindowsPath(name).name} == {name}
    length = len(name.encode("utf-8", "replace"))
    if not plain or name in ("", "..") or length > MAX_NAME or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise ValueError(f"{name[:MAX_SHOWN]!r} is not the name of a folder")
    return name


class DataConfig(_Section):
    """What is read, and how it becomes tokens."""

    corpus: str | None = None
    """Corpus to train on when the command names none: a built-in recipe or a folder of `corpora/`, no path."""
    tokenizer: str = "auto"
    """`char`, `gpt2`, `bpe:N` (trained on the corpus, N tokens) or `auto` (chosen by the size of the corpus)."""
    split: Literal["auto", "document", "paragraph"] = "auto"
    """How val is set apart: whole documents by a hash of their text, or the last tenth of each from a paragraph."""
    split_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Cut the whole text at this fraction instead, as nanoGPT does with 0.9."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the text that goes to val (for `split`)."""

    @field_validator("corpus")
    @classmethod
    def _folder_name(cls, value: str | None) -> str | None:
        return value and check_folder_name(value)

    @field_validator("tokenizer")
    @classmethod
    def _known_tokenizer(cls, value: str) -> str:
        if not TOKENIZER_NAME.fullmatch(value):
            raise ValueError(f"tokenizer {value!r} is unknown; choose auto, char, gpt2 or bpe:N (such as bpe:512)")
        return value


class TrainConfig(_Section):
    """The optimisation, the machine and the reporting. All intervals are in steps; a step is one weight update."""

    batch_size: Positive = 32
    """Sequences in a micro-batch."""
    grad_accum_steps: Positive = 1
    """Micro-batches added up before one step."""
    max_steps: Positive = 1000
    """Number of steps of the whole run."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon` for the matrices inside the blocks with AdamW for the rest, or `adamw` for everything."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: Annotated[float, Field(gt=0)] = 0.02
    """Peak learning rate of Muon; follows the same schedule."""
    min_lr: Rate = 0.0
    """Learning rate the decay heads for and would reach one step after the last (Muon's falls by the same ratio)."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """After the warm-up: stable then linear decay (`wsd`), a half cosine, or `constant`, which ignores `min_lr`."""
    warmup_steps: Count = 20
    """Steps over which the learning rate rises from zero, at most half of `max_steps`."""
    short_block_size: Positions | None = None
    """Context of the first steps, from which short runs learn faster; as many tokens a step. Empty: `block_size`."""
    short_fraction: Fraction = 0.5
    """Share of `max_steps` at the beginning that has `short_block_size`."""
    decay_fraction: Fraction = 0.8
    """Share of `max_steps` at the end over which `wsd` decays."""
    weight_decay: Rate = 0.0
    """Decoupled weight decay of the matrices; norms, biases and gains have none."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """AdamW's decay of the gradient mean."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW's decay of the squared gradient's mean."""
    muon_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Muon's momentum."""
    muon_iterations: Positive = 5
    """Newton-Schulz iterations with which Muon makes an update orthogonal."""
    grad_clip: Rate = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    seed: Seed = 1337
    """Seed of the initial weights, the order of the data and dropout."""
    log_interval: Positive = 10
    """Steps between reports of the training loss; each evaluation comes with one too."""
    eval_interval: Positive = 250
    """Steps between evaluations on val; there is always one at the last step."""
    eval_tokens: Positive | None = None
    """Score only the first this many tokens of val while training. Empty: all of them."""
    save_interval: Positive = 500
    """Steps between checkpoints; the best and the last step are always saved."""
    patience: Count = 0
    """Evaluations in a row without a better val loss after which the run ends early; 0 never does."""
    keep_checkpoints: Count = 1
    """Checkpoints kept besides the latest and the best."""
    sample_interval: Count = 0
    """Steps between samples drawn while training; 0 draws none."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the matrix products; weights stay float32."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes hold the model: `ddp` a whole copy each, `fsdp` a part each, for what does not fit."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the model with torch: `auto` does on CUDA."""
    gradient_checkpointing: bool = False
    """Compute the inside of each block again in the backward pass instead of keeping it: less memory, more time."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not DEVICE.fullmatch(value):
            raise ValueError(f"device {value!r} is unknown; choose auto, cpu, cuda, cuda:N or mps")
        return value

    @field_validator("compile", mode="before")
    @classmethod
    def _known_compile(cls, value: object) -> object:
        if value != "auto" and not isinstance(value, bool):
            raise ValueError(f"expected auto, true or false, found {value!r}")
        return value

    @model_validator(mode="after")
    def _schedule_fits(self) -> TrainConfig:
        if self.min_lr > self.learning_rate:
            raise ValueError(f"min_lr {self.min_lr:g} is above learning_rate {self.learning_rate:g}")
        return self


class FinetuneConfig(_Section):
    """What `gptcli finetune` begins from, and which weights it trains. Training from scratch ignores it."""

    base: str | None = None
    """Model to begin from: `gpt2`, a Hugging Face name, a folder, a run or `nanogpt:FILE`; `--from` overrules it."""
    lora_rank: Count = 0
    """Rank of the low-rank adapters (LoRA) that are trained in place of the weights; 0 trains the weights."""
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """Strength of the adapters: their product counts `lora_alpha / lora_rank`. Empty: twice `lora_rank`."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs set to zero while training."""
    lora_targets: tuple[str, ...] = ("attn.*", "mlp.*")
    """Linear layers inside a block that get adapters: `attn.qkv`, `attn.proj`, `mlp.up` ..., with `*` for any."""
    freeze_embeddings: bool | None = None
    """Leave the embeddings and a tied head as they are. Empty: with adapters yes, else no."""
    frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of weights that are not trained: `auto` is bfloat16 where the products are bfloat16 too."""

    @field_validator("lora_targets", mode="before")
    @classmethod
    def _target_names(cls, value: object) -> object:
        names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
        if names == ():
            raise ValueError("name at least one layer, such as attn.qkv, or set lora_rank to 0")
        return names

    @model_validator(mode="after")
    def _adapters_have_a_rank(self) -> FinetuneConfig:
        if not self.lora_rank:
            for key in ("lora_alpha", "lora_dropout", "lora_targets"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} does nothing without lora_rank; set that too, such as lora_rank=16")
        return self

    @property
    def embeddings_frozen(self) -> bool:
        """Whether the embeddings stay as they are, resolved."""
        return self.lora_rank > 0 if self.freeze_embeddings is None else self.freeze_embeddings

    @property
    def alpha(self) -> float:
        """Strength of the adapters, resolved."""
        return self.lora_alpha if self.lora_alpha is not None else 2.0 * self.lora_rank


def is_utf8(text: str) -> bool:
    """Say whether a text is UTF-8: bytes of the command line that are not arrive as halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


class SampleConfig(_Section):
    """How text is drawn from the model."""

    prompt: str = ""
    """Text to go on from; empty starts a new text."""
    temperature: Rate = 0.8
    """Divides the logits: 0 always takes the likeliest token, 1 samples as trained."""
    top_k: Positive | None = None
    """Draw among the k likeliest tokens only."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw among the likeliest tokens that together have this probability."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Leave out tokens less likely than this share of the likeliest one's probability."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Above 1 makes tokens that already stand in the context less likely."""
    max_new_tokens: Positive = 256
    """Tokens to draw at most."""
    stop: tuple[str, ...] = ()
    """End before the first of these strings."""
    seed: Seed = 1337
    """Seed of the draws; sample number i draws from seed + i."""
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    """Texts to draw."""

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_strings(cls, value: object) -> object:
        strings = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
        if isinstance(strings, tuple) and "" in strings:
            raise ValueError("a stop string must not be empty")
        if isinstance(strings, tuple) and not all(is_utf8(text) for text in strings if isinstance(text, str)):
            raise ValueError("a stop string is not UTF-8 text")
        return strings


class ExpectConfig(_Section):
    """What the profile promises; the run says at its end whether it was reached."""

    val_loss: Annotated[float, Field(gt=0)] | None = None
    """Best val loss in nats a token."""
    tokenizer: str | None = None
    """Tokenizer that `val_loss` was measured with; nats a token mean nothing without it."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes the run takes on `machine`."""
    machine: str = ""
    """Machine on which `minutes` was measured."""


class RunProfile(_Section):
    """One training run, whole."""

    format_version: Literal[1] = 1
    """Version of this file format."""
    description: str = ""
    """What the profile is for, in a sentence."""
    expects: ExpectConfig = ExpectConfig()
    """What the profile promises."""
    model: ModelConfig = ModelConfig()
    """The network."""
    data: DataConfig = DataConfig()
    """The text."""
    train: TrainConfig = TrainConfig()
    """The training."""
    finetune: FinetuneConfig = FinetuneConfig()
    """The weights that `gptcli finetune` begins from."""
    sample: SampleConfig = SampleConfig()
    """The writing."""

    @model_validator(mode="after")
    def _short_windows_fill_a_batch(self) -> RunProfile:
        tokens, short = self.train.batch_size * self.model.block_size, self.train.short_block_size
        if short and tokens % short:
            raise ValueError(
                f"short_block_size {short} does not divide batch_size x block_size, {tokens}; "
                "leave it out: --set short_block_size=null"
            )
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step learns from."""
        return self.train.batch_size * self.train.grad_accum_steps * self.model.block_size

    @property
    def draws_while_training(self) -> bool:
        """Whether a step draws from torch's generator, as dropout does."""
        return self.model.dropout > 0 or self.finetune.lora_dropout > 0

    def windows(self, step: int) -> tuple[int, int]:
        """Return how many windows of how many tokens a micro-batch has at update number ``step``, from 0."""
        train, block_size = self.train, self.model.block_size
        short = train.short_block_size or block_size
        if short >= block_size or step >= round(train.short_fraction * train.max_steps):
            return train.batch_size, block_size
        return train.batch_size * block_size // short, short

    def without_promise(self) -> RunProfile:
        """Return the profile without the results it promises, which belong to its own text and its own values."""
        return self.model_copy(update={"expects": self.expects.model_copy(update={"val_loss": None, "minutes": None})})
