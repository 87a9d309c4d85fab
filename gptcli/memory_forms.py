"""The closed forms behind ``memory``: weights, moments, what autograd keeps, what each phase takes, in bytes.

Derived from ``model``, ``fused``, ``head``, ``lora``, ``optim`` and ``evaluate`` operation by operation over
``RunProfile`` alone; torch is not known here. On a CPU the heap's gaps are part of it, and those are measured, not
derived.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from gptcli.config import RunProfile
from gptcli.plan import count_parameters

FLOAT32 = 4
INT64 = 8
# A CPU's tensors come from the C library's heap, which has gaps: glibc's, as shares of the live bytes (2026-11-21).
# Pieces of 32 MiB and more are mapped on their own and given back at once.
HEAP_GAPS = {"adamw": 0.22, "muon": 0.5}
GAPS_OF_ACCUMULATION = 0.18
# They do not grow with the model: all of gpt2-medium, 6.5 GB live, had a peak of 6.9 GB (2026-11-21).
MOST_GAPS = 400_000_000
MAPPED_BYTES = 32 * 1024 * 1024
DYNAMO_BYTES = 85_000_000  # what torch imports for gradient checkpointing (2026-11-22)
# Of what training took from the heap, the share that stays, and that an evaluation finds room in, with its own gaps.
STAYS, REUSED, GAPS_OF_EVALUATION = 0.85, 0.25, 0.65
# As in evaluate.py, which needs torch.
EVALUATION_TOKENS = 16_384
EVALUATION_LOGITS = 64 * 1024 * 1024
# As in fused.py, model.py and head.py, for a CPU.
MATRIX_ATTENTION = 512
LARGE_VOCABULARY = 4096
SCRATCH_BYTES, HEAD_BLOCK = 30 * 1024 * 1024, 2048


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer of a block; ``rank`` is its adapter's, 0 where it has none."""

    name: str
    inputs: int
    outputs: int
    bias: bool
    trained: bool
    rank: int

    @property
    def size(self) -> int:
        """Weights of the matrix."""
        return self.inputs * self.outputs

    @property
    def adapter(self) -> int:
        """Weights of the adapter."""
        return self.rank * (self.inputs + self.outputs)


def block_layers(profile: RunProfile) -> list[Layer]:
    """Return the linear layers of one block in the network's order."""
    model, finetune = profile.model, profile.finetune
    rank = finetune.lora_rank if finetune.base is not None else 0
    width, kv = model.n_head * model.head_width, model.kv_heads * model.head_width
    first, stacked = ("mlp.up", 1) if model.family == "gpt2" else ("mlp.gate_up", 2)
    shapes = [
        ("attn.qkv", model.n_embd, width + 2 * kv),
        ("attn.proj", width, model.n_embd),
        (first, model.n_embd, stacked * model.inner_width),
        ("mlp.down", model.inner_width, model.n_embd),
    ]
    targets = [name for name, _, _ in shapes if any(fnmatchcase(name, glob) for glob in finetune.lora_targets)]
    return [
        Layer(name, inputs, outputs, model.bias, trained=not rank, rank=rank if name in targets else 0)
        for name, inputs, outputs in shapes
    ]


def trained_parameters(profile: RunProfile) -> int:
    """Return the number of weights that get gradients: adapters where there are any, else all; embeddings as asked.

    ``vocab_size`` has to be set. A profile whose ``finetune.base`` is empty trains everything.
    """
    model, layers = profile.model, block_layers(profile)
    assert model.vocab_size is not None, "the tokenizer decides vocab_size before memory is planned"
    embeddings = (model.vocab_size + (model.block_size if model.family == "gpt2" else 0)) * model.n_embd
    if any(not layer.trained for layer in layers):
        adapters = model.n_layer * sum(layer.adapter for layer in layers)
        return adapters + (0 if profile.finetune.embeddings_frozen else embeddings)
    frozen = profile.finetune.base is not None and profile.finetune.embeddings_frozen
    return count_parameters(model) - (embeddings if frozen else 0)


class Forms:
    """The closed forms, in bytes. Letters: N tokens of a micro-batch, C ``n_embd``, V ``vocab_size``."""

    def __init__(self, profile: RunProfile, product: int, frozen: int, on_cpu: bool) -> None:
        model = profile.model
        assert model.vocab_size is not None, "the tokenizer decides vocab_size before memory is planned"
        self.profile, self.model, self.train = profile, model, profile.train
        self.product, self.frozen, self.on_cpu = product, frozen, on_cpu
        self.layers = block_layers(profile)
        self.modern = model.family == "modern"
        self.lora = any(not layer.trained for layer in self.layers)
        self.embeddings_trained = profile.finetune.base is None or not profile.finetune.embeddings_frozen
        self.head_trained = self.embeddings_trained if model.tie_embeddings else not self.lora
        self.width, self.kv = model.n_head * model.head_width, model.kv_heads * model.head_width
        self.heads = model.n_head + model.kv_heads
        self.drops_inside = model.dropout > 0 and not self.modern
        self.n = profile.train.batch_size * model.block_size
        self.head = model.vocab_size * model.n_embd
        self.by_chunks = on_cpu and model.vocab_size >= LARGE_VOCABULARY
        self.vocab_size = model.vocab_size
        self.trained = trained_parameters(profile)

    @property
    def weights(self) -> int:
        """Trained ones in float32, frozen ones in their own format."""
        return self.trained * FLOAT32 + self._frozen_count * self.frozen

    @property
    def _frozen_count(self) -> int:
        adapters = self.model.n_layer * sum(layer.adapter for layer in self.layers)
        return count_parameters(self.model) - (self.trained - adapters)

    @property
    def gradients(self) -> int:
        """Float32, of what is trained."""
        return self.trained * FLOAT32

    @property
    def _muon_count(self) -> int:
        """Weights that Muon takes: the trained matrices of the blocks."""
        if self.train.optimizer != "muon":
            return 0
        return self.model.n_layer * sum(layer.size if layer.trained else layer.adapter for layer in self.layers)

    @property
    def moments(self) -> int:
        """Two of AdamW for each weight, one of Muon, float32."""
        return (2 * self.trained - self._muon_count) * FLOAT32

    def _muon_groups(self) -> list[tuple[int, int, int]]:
        """Number, rows and columns of Muon's batches of matrices, rows <= columns, in its order."""
        if self.train.optimizer != "muon":
            return []
        counts: dict[tuple[int, int], int] = {}
        for layer in self.layers:
            for rows, columns in self._matrices(layer):
                shape = (min(rows, columns), max(rows, columns))
                counts[shape] = counts.get(shape, 0) + self.model.n_layer
        return [(count, *shape) for shape, count in counts.items()]

    def _matrices(self, layer: Layer) -> Iterator[tuple[int, int]]:
        if not layer.trained:
            if layer.rank:
                yield layer.rank, layer.inputs
                yield layer.outputs, layer.rank
        elif layer.name == "attn.qkv":
            yield from ((self.width, layer.inputs), (self.kv, layer.inputs), (self.kv, layer.inputs))
        elif layer.name == "mlp.gate_up":
            yield from ((layer.outputs // 2, layer.inputs),) * 2
        else:
            yield layer.outputs, layer.inputs

    @cached_property
    def muon_work(self) -> int:
        """Gradients of one shape stacked, their Newton-Schulz iterates, and the update of the shape before."""
        most = before = 0
        for count, rows, columns in self._muon_groups():
            stack, gram = count * rows * columns, count * rows * rows
            iterates = max(2 * stack + 2 * gram, stack + 3 * gram) * self.product
            cast = stack * (FLOAT32 + self.product) if self.product != FLOAT32 else stack * FLOAT32
            most = max(most, stack * FLOAT32 + before + max(iterates, cast), stack * FLOAT32 + 2 * before)
            before = stack * FLOAT32
        return most

    @property
    def copies(self) -> int:
        """Autocast's copies of the weights of matrix products; frozen ones are as the graph keeps them."""
        head = 0 if self.by_chunks else self._copied(self.head, trained=self.head_trained)
        return self.model.n_layer * self._block_copies + head

    @property
    def _block_copies(self) -> int:
        own = sum(self._copied(layer.size, trained=layer.trained) for layer in self.layers)
        return own + self._copied(sum(layer.adapter for layer in self.layers), trained=True)

    def _copied(self, count: int, *, trained: bool) -> int:
        stored = FLOAT32 if trained else self.frozen
        return count * self.product if stored != self.product else 0

    @cached_property
    def block(self) -> int:
        """What autograd keeps of one block, copies of weights apart."""
        dropout = self.model.dropout > 0
        noise = 2 * self.model.n_embd * (self.product if self.on_cpu else 1) if dropout else 0
        adapters = sum(layer.rank for layer in self.layers) * self.product
        if self.profile.finetune.lora_dropout and self.lora:
            adapters += sum(layer.inputs * self._noise(layer) for layer in self.layers if layer.rank)
        gains = self.heads * self.model.head_width * FLOAT32 if self.modern else 0
        return self.n * (2 * self._norm + self._attention + self._mlp + noise + adapters) + gains

    def _noise(self, layer: Layer) -> int:
        """Bytes of an element of dropout's noise before an adapter: what comes out of a norm may be float32."""
        after_norm = layer.name not in ("attn.proj", "mlp.down")
        return 1 if not self.on_cpu else self._norm_output if after_norm else self.product

    @property
    def _norm_output(self) -> int:
        """RMSNorm by hand writes what the product after it takes."""
        return self.product if self.modern and self.on_cpu else FLOAT32

    def _input(self, name: str, width: int) -> int:
        """A linear layer keeps its input where its weight or its adapter is trained."""
        layer = next(layer for layer in self.layers if layer.name == name)
        return width * self.product if layer.trained or layer.rank else 0

    @property
    def _norm(self) -> int:
        """A token's input of a norm, and its statistics."""
        return (self.model.n_embd + (1 if self.modern else 2)) * FLOAT32

    @property
    def _attention(self) -> int:
        """A token's norm output, what positions and the attention itself keep, and the projection's input."""
        kept = self._input("attn.qkv", self.model.n_embd) + self._input("attn.proj", self.width)
        qk = self.width + self.kv
        if self.modern:
            # The heads before their norm with v behind them, and one inverse root a head.
            kept += (qk + self.kv) * self.product + self.heads * FLOAT32
            if not self.on_cpu:
                kept += qk * FLOAT32 * ((self.product != FLOAT32) + (not self.lora))
        if self._by_matrices(self.drops_inside):
            # A single head or sequence needs no copy of v: it stays a part of what the heads' norm keeps.
            alone = self.modern and 1 in (self.model.kv_heads, self.train.batch_size)
            return kept + (qk + (0 if alone else self.kv) + self.model.n_head * self.model.block_size) * self.product
        size = FLOAT32 if self.on_cpu else self.product
        kept += (qk + (0 if self.modern and size == self.product else self.kv)) * size
        if self.drops_inside and self.on_cpu:
            return kept + 3 * self.model.block_size * self.model.n_head * FLOAT32
        return kept + self._output(size) + self.model.n_head * FLOAT32

    def _by_matrices(self, drops: bool) -> bool:
        """Whether attention keeps the T x T matrix of each head in the products' format: bfloat16 on a CPU."""
        short = self.model.block_size <= MATRIX_ATTENTION
        return self.on_cpu and self.product != FLOAT32 and short and not drops

    def _output(self, size: int) -> int:
        """The attention's output, where it is not the very tensor that the projection keeps."""
        same = size == self.product and self._input("attn.proj", self.width)
        return 0 if same else self.width * size

    @property
    def _mlp(self) -> int:
        inner, modern = self.model.inner_width, self.modern
        inputs = self._input("mlp.gate_up" if modern else "mlp.up", self.model.n_embd) + self._input("mlp.down", inner)
        # SwiGLU by hand keeps gate and up alone.
        return inputs + (1 if not modern else 2 if self.on_cpu else 3) * inner * self.product

    @cached_property
    def kept(self) -> int:
        """What autograd keeps between the passes, log-probabilities apart."""
        model = self.model
        ends = self._norm + (0 if self.by_chunks or not self.head_trained else model.n_embd * self.product)
        if self.drops_inside and self.embeddings_trained:
            ends += model.n_embd * (FLOAT32 if self.on_cpu else 1)
        tokens = 2 * INT64 * self.n * self.train.grad_accum_steps
        fixed = self.n * ends + tokens + self.copies + self._head_gradients
        if self.train.gradient_checkpointing:
            return model.n_layer * self.n * model.n_embd * FLOAT32 + fixed
        # Without a gradient behind it and a weight of its own the first norm keeps nothing.
        first = self.n * self._norm if not self.embeddings_trained and self.lora else 0
        return model.n_layer * self.block - first + fixed

    @property
    def _head_gradients(self) -> int:
        """What the loss by chunks keeps: the gradients of its input and, where it is trained, of the head."""
        if not self.by_chunks:
            return 0
        return (self.n * self.model.n_embd + (self.head if self.head_trained else 0)) * FLOAT32

    @property
    def _rows(self) -> int:
        """Positions of one chunk: as many as the scratch memory holds, in chunks of one size."""
        most = max(1, SCRATCH_BYTES // self.product // self.vocab_size)
        return -(-self.n // -(-self.n // most))

    @property
    def scratch(self) -> int:
        """The logits of one chunk, in the format of the products."""
        return self._rows * self.vocab_size * self.product if self.by_chunks else 0

    @property
    def _widened(self) -> int:
        """The head's weight with two columns of ones."""
        return (self.head + 2 * self.vocab_size) * self.product

    @property
    def logits(self) -> int:
        """Log-probabilities, their gradient and that of the logits, N x V each; by chunks, what a chunk works with."""
        if not self.by_chunks:
            return 3 * self.n * self.vocab_size * FLOAT32
        lower = self.product if self.product != FLOAT32 else 0
        # The inputs where they are not float32, and the weights of the targets; then the products of the two.
        held = FLOAT32 + (FLOAT32 if self._norm_output != FLOAT32 else 0)
        work = self._rows * (held + 2 * FLOAT32 + lower)
        if self.head_trained:
            # Adding a product of another format to a gradient makes a copy of it first.
            block = min(HEAD_BLOCK, self.vocab_size) * (FLOAT32 + lower)
            work = max(work, self._rows * (held + self.product) + block)
        return self.scratch + self._widened + self.model.n_embd * work

    @property
    def _block_work(self) -> int:
        """Gradients that the backward pass of a block holds besides what autograd kept."""
        model = self.model
        mlp = (4 if self.modern and self.on_cpu else 3 if self.modern else 2 if self.lora else 1) * model.inner_width
        scores = model.block_size * model.n_head
        attention = FLOAT32 * scores if self.drops_inside else 0
        if self._by_matrices(self.drops_inside):
            attention = 2 * self.product * scores
        # The attention comes after the MLP, which has let go of what it kept.
        return self.n * (2 * model.n_embd * FLOAT32 + max(mlp * self.product, attention - self._mlp - self._norm))

    @property
    def backward(self) -> int:
        """The most of the backward pass: at the logits, in the last block, or at the embeddings at its end."""
        embedding = self.head * FLOAT32 if self.head_trained else 0
        before = self.gradients if self.train.grad_accum_steps > 1 else 0
        again = self.block + self._block_copies if self.train.gradient_checkpointing else 0
        return max(
            before + self.kept + self._head_work(embedding),
            before + self.kept - self._head_gradients + embedding + self._block_work + again,
            self.gradients + self._embedding_sums,
        )

    @property
    def _embedding_sums(self) -> int:
        """The embedding's own gradient beside that of a tied head, and beside their sum over micro-batches before."""
        own = self.model.tie_embeddings + (self.train.grad_accum_steps > 1)
        return own * self.head * FLOAT32 if self.embeddings_trained else 0

    def _head_work(self, embedding: int) -> int:
        """What the head takes besides what is kept: in its products, or for their gradients."""
        if self.by_chunks:
            inputs = self.n * self.model.n_embd * self._norm_output
            scaled = self.n * self.model.n_embd * (FLOAT32 + (self._norm_output if self._norm_output != FLOAT32 else 0))
            return max(inputs + self.logits, embedding + scaled)
        half = self.head * self.product if self.product != FLOAT32 and self.head_trained else 0
        product = self.n * self.vocab_size * (FLOAT32 + (self.product if self.product != FLOAT32 else 0))
        return max(self.logits, product + embedding + half)

    def _mapped_transients(self) -> int:
        """Too large for the heap while training: logits, T x T matrices, the gradients of embeddings and head."""
        model, train = self.model, self.train
        scores = model.block_size**2 * train.batch_size * model.n_head
        by_matrices = _if_mapped(scores * self.product) if self._by_matrices(self.drops_inside) else 0
        matrices = 3 * _if_mapped(scores * FLOAT32) if self.drops_inside else by_matrices
        embeddings = _if_mapped(self.head * FLOAT32) if self.embeddings_trained else 0
        logits = 3 * _if_mapped(self.logits // 3)
        if self.by_chunks:
            logits = _if_mapped(self.scratch) + _if_mapped(self.head * FLOAT32 if self.head_trained else self._widened)
        return matrices * (1 if train.gradient_checkpointing else model.n_layer) + logits + embeddings

    def _mapped(self) -> int:
        """All that is too large for the heap: embeddings with their state, and Muon's momentum, besides."""
        embeddings = 3 * _if_mapped(self.head * FLOAT32) if self.embeddings_trained else 0
        if self.embeddings_trained and not self.model.tie_embeddings:
            embeddings += 4 * _if_mapped(self.head * FLOAT32)
        return self._mapped_transients() + embeddings + self._mapped_momentum() + self._frozen_count * self.frozen

    def mapped_stacks(self) -> int:
        """What Muon takes while it works, where it is too large for the heap."""
        return self.muon_work if self._mapped_momentum() else 0

    def _mapped_momentum(self) -> int:
        return sum(_if_mapped(count * rows * columns * FLOAT32) for count, rows, columns in self._muon_groups())

    def gaps(self, live: int, *, updating: bool = False) -> int:
        """Bytes of the heap between ``live`` ones, in the backward pass or while the weights are updated."""
        if not self.on_cpu:
            return 0
        if self.train.gradient_checkpointing and not self.lora:
            # Gradients stay where a block was that is computed again: the next one finds no room there.
            holes = 0 if updating else (self.model.n_layer - 1) * self.block - self.gradients
            return max(0, holes) + DYNAMO_BYTES
        share = HEAP_GAPS[self.train.optimizer] + (GAPS_OF_ACCUMULATION if self.train.grad_accum_steps > 1 else 0)
        return min(MOST_GAPS, round(share * max(0, live - self._mapped())))

    def left_over(self, live: int, held: int) -> int:
        """What an evaluation finds taken of the heap beyond ``held``, less the room that it can use again."""
        if not self.on_cpu:
            return 0
        stays = STAYS * (self.gaps(live) + max(0, live - held - self._mapped_transients()))
        return round(stays if self._maps_evaluation else (1 - REUSED) * stays)

    @property
    def _maps_evaluation(self) -> bool:
        """Whether the pieces of an evaluation are too large for the heap, and leave it as it is."""
        return self._evaluated_tokens * self.model.n_embd * FLOAT32 >= MAPPED_BYTES

    @property
    def _evaluated_tokens(self) -> int:
        size, limit = self.model.block_size, self.train.eval_tokens
        fits = max(1, min(EVALUATION_TOKENS, EVALUATION_LOGITS // self.vocab_size) // size)
        return size * (fits if limit is None else min(fits, -(-limit // size)))

    @property
    def evaluation(self) -> int:
        """One batch of ``evaluate``: its widest layer, or its logits and their log-probabilities."""
        model, n = self.model, self._evaluated_tokens
        stream = model.n_embd * (FLOAT32 + self._norm_output)
        mask = model.block_size**2 * model.n_head // model.kv_heads * self.product if self._by_matrices(False) else 0
        block = n * (stream + max(self._evaluated_attention, self._evaluated_mlp)) + mask
        logits = 2 * n * self.vocab_size * FLOAT32
        head = self._copied(self.head, trained=self.head_trained)
        copies = 0 if self.lora else self.model.n_layer * self._block_copies + head
        gaps = GAPS_OF_EVALUATION if self.on_cpu and not self._maps_evaluation else 0
        return copies + max(round(block * (1 + gaps)), logits)

    @property
    def _evaluated_attention(self) -> int:
        """A token of attention where nothing is kept: while its heads are turned, or mixed."""
        product, qk = self.product, self.width + self.kv
        turning = (3 if self.on_cpu else 4) * qk * FLOAT32 if self.modern else 0
        heads = (qk if self.modern else 0) * product
        if self._by_matrices(False):
            heads += (qk + 2 * self.model.n_head * self.model.block_size) * product
        else:
            heads += (qk + self.kv) * FLOAT32 + self.width * product if self.on_cpu and product != FLOAT32 else 0
            heads += self.width * FLOAT32
        return (qk + self.kv) * product + max(turning, heads, 2 * self._adapted("attn.qkv"))

    @property
    def _evaluated_mlp(self) -> int:
        """A token of the MLP where nothing is kept, and of the stream before the block, which is still held."""
        name, widths = ("mlp.gate_up", 3 if self.on_cpu else 4) if self.modern else ("mlp.up", 2)
        inner = widths * self.model.inner_width * self.product
        return self.model.n_embd * FLOAT32 + max(inner, 3 * self._adapted(name))

    def _adapted(self, name: str) -> int:
        """A layer's output, its adapter's and their sum are as large as each other; 0 where there is no adapter."""
        return sum(layer.outputs * self.product for layer in self.layers if layer.name == name and layer.rank)


def _if_mapped(size: int) -> int:
    return size if size >= MAPPED_BYTES else 0
