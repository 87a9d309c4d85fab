"""How a gradient becomes a change of the weights: Muon for the matrices inside the blocks, AdamW for the rest.

Knows parameters by name and shape, and the schedule as a pure function of the step. Knows no data and no files;
``state_tensors`` is what a checkpoint needs to go on exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from gptcli.config import ModelConfig, TrainConfig
from gptcli.parallel import collect, hand_out, is_sharded, own_part, part_of, whole
from gptcli.world import ALONE, World

ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")
MOMENTUM = "muon.momentum."
# Quintic whose repeated application pushes all singular values towards 1 (Jordan et al. 2024, "Muon").
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return AdamW's learning rate for the update number ``step``, counted from 0.

    Rises linearly over ``warmup_steps`` (over half of a run shorter than twice that), then stays and falls linearly
    over the last ``decay_fraction`` (wsd), follows half a cosine, or stays constant. A decay would reach ``min_lr``
    one update after the last, so that with ``min_lr`` 0 no update is wasted.
    """
    warmup = min(config.warmup_steps, config.max_steps // 2)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    start = warmup
    if config.schedule == "wsd":
        start = max(start, round(config.max_steps * (1 - config.decay_fraction)))
    progress = min(1.0, max(0.0, (step - start) / max(1, config.max_steps - start)))
    share = 1 - progress if config.schedule == "wsd" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr + share * (config.learning_rate - config.min_lr)


def orthogonalize(matrices: Tensor, iterations: int, dtype: torch.dtype) -> Tensor:
    """Return the nearest semi-orthogonal matrices, roughly, to a batch (N, R, C) with R <= C, by Newton-Schulz.

    Singular values end between about 0.7 and 1.2 after five iterations, which is all that Muon needs. ``dtype`` is
    the number format of the products.
    """
    a, b, c = NEWTON_SCHULZ
    # Normalised before the cast: gradients of late training underflow in float16.
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(iterations):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    result: Tensor = x.to(matrices.dtype)
    return result


def matrix_rows(name: str, rows: int, config: ModelConfig) -> list[tuple[int, int]]:
    """Return the row ranges of a weight that are matrices of their own: q, k, v and gate, up are stored stacked."""
    if name.endswith("qkv.weight"):
        q, kv = config.n_head * config.head_width, config.kv_heads * config.head_width
        return [(0, q), (q, q + kv), (q + kv, q + 2 * kv)]
    if name.endswith("gate_up.weight"):
        return [(0, rows // 2), (rows // 2, rows)]
    return [(0, rows)]


@dataclass(slots=True)
class _Piece:
    """Rows of one weight that Muon treats as a matrix; ``tall`` ones are worked on transposed."""

    parameter: nn.Parameter
    start: int
    stop: int
    tall: bool


class Muon:
    """Momentum whose update is made orthogonal, all matrices of one shape in one batched product.

    Each update has the root mean square of a matrix with unit singular values times sqrt(max(1, rows / columns)).
    """

    def __init__(self, parameters: dict[str, nn.Parameter], model: ModelConfig, config: TrainConfig) -> None:
        self.config = config
        self.groups = _pieces(parameters, model)
        self.momentum = {
            shape: torch.zeros(len(pieces), *shape, device=pieces[0].parameter.device)
            for shape, pieces in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float, dtype: torch.dtype) -> None:
        """Update the weights from their ``.grad``; ``dtype`` is the format of the Newton-Schulz products."""
        for shape, pieces in self.groups.items():
            grads = torch.stack([_oriented(piece, piece.parameter.grad) for piece in pieces])
            momentum = self.momentum[shape].lerp_(grads, 1 - self.config.muon_momentum)
            nesterov = grads.lerp_(momentum, self.config.muon_momentum)
            update = orthogonalize(nesterov, self.config.muon_iterations, dtype)
            for piece, change in zip(pieces, update.unbind(), strict=True):
                weight = _oriented(piece, piece.parameter)
                scale = math.sqrt(max(1.0, shape[1] / shape[0])) if piece.tall else 1.0
                if self.config.weight_decay:
                    weight.mul_(1 - lr * self.config.weight_decay)
                weight.add_(change, alpha=-lr * scale)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the momentum of all matrices of a shape as one tensor (N, R, C) with R <= C."""
        return {_momentum_name(shape): momentum for shape, momentum in self.momentum.items()}


class ShardedMuon:
    """What ``Muon`` does where each process holds a part of every weight, and of its momentum.

    A matrix is put together when its turn comes, in every process, and all compute its update.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], model: ModelConfig, config: TrainConfig) -> None:
        self.config, self.parameters = config, parameters
        self.rows = {name: matrix_rows(name, p.size(0), model) for name, p in parameters.items()}
        self.momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._groups = _pieces(parameters, model)

    @torch.no_grad()
    def step(self, lr: float, dtype: torch.dtype) -> None:
        """Update the weights from their ``.grad``; ``dtype`` is the format of the Newton-Schulz products."""
        for name, p in self.parameters.items():
            grad = _gradient(p)
            momentum = own_part(self.momentum[name]).lerp_(own_part(grad), 1 - self.config.muon_momentum)
            own_part(grad).lerp_(momentum, self.config.muon_momentum)
            change = torch.cat([self._change(rows, dtype) for rows in self._matrices(name, whole(grad))])
            weight = own_part(p)
            if self.config.weight_decay:
                weight.mul_(1 - lr * self.config.weight_decay)
            weight.add_(part_of(change, p), alpha=-lr)

    def _matrices(self, name: str, full: Tensor) -> list[Tensor]:
        return [full[start:stop] for start, stop in self.rows[name]]

    def _change(self, matrix: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the orthogonal matrix that a weight's rows (R, C) are moved along."""
        tall = matrix.size(0) > matrix.size(1)
        wide = matrix.mT if tall else matrix
        change = orthogonalize(wide[None], self.config.muon_iterations, dtype)[0]
        return change.mT * math.sqrt(wide.size(1) / wide.size(0)) if tall else change

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the momentum of each weight, by name; ``stacked`` makes of them what ``Muon`` saves."""
        return {MOMENTUM + name: momentum for name, momentum in self.momentum.items()}

    def stacked(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace the whole momentum of each weight by that of all matrices of a shape."""
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(MOMENTUM)}
        names = {id(p): name for name, p in self.parameters.items()}
        for shape, pieces in self._groups.items():
            rows = [_oriented(piece, tensors[MOMENTUM + names[id(piece.parameter)]]) for piece in pieces]
            kept[_momentum_name(shape)] = torch.stack(rows)
        return kept

    def unstacked(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo ``stacked``."""
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(MOMENTUM)}
        names = {id(p): name for name, p in self.parameters.items()}
        kept |= {MOMENTUM + name: torch.empty(p.shape) for name, p in self.parameters.items()}
        for shape, pieces in self._groups.items():
            stack = tensors.get(_momentum_name(shape))
            if stack is None or stack.shape != (len(pieces), *shape):
                raise ValueError(f"{_momentum_name(shape)} is missing, or not of {len(pieces)} matrices")
            for piece, momentum in zip(pieces, stack.unbind(), strict=True):
                _oriented(piece, kept[MOMENTUM + names[id(piece.parameter)]]).copy_(momentum)
        return kept


def _pieces(parameters: dict[str, nn.Parameter], model: ModelConfig) -> dict[tuple[int, int], list[_Piece]]:
    """Return the matrices of the weights by shape, the shorter side first."""
    groups: dict[tuple[int, int], list[_Piece]] = {}
    for name, p in parameters.items():
        for start, stop in matrix_rows(name, p.size(0), model):
            rows, columns = stop - start, p.size(1)
            shape = (min(rows, columns), max(rows, columns))
            groups.setdefault(shape, []).append(_Piece(p, start, stop, tall=rows > columns))
    return groups


def _momentum_name(shape: tuple[int, int]) -> str:
    return f"{MOMENTUM}{shape[0]}x{shape[1]}"


def _oriented(piece: _Piece, tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "every matrix of the model takes part in the loss"
    rows = tensor[piece.start : piece.stop]
    return rows.mT if piece.tall else rows


class AdamW:
    """torch's fused AdamW (Loshchilov and Hutter 2019) with weight decay on the matrices alone.

    As a function: the class ``torch.optim.AdamW`` imports torch._dynamo, more than a second before the first step.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], config: TrainConfig) -> None:
        self.config = config
        self.parameters = parameters
        # In the order of ADAMW_STATE.
        self.state = {
            name: (torch.zeros((), device=p.device), torch.zeros_like(p), torch.zeros_like(p))
            for name, p in parameters.items()
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the weights from their ``.grad``."""
        for decays in (True, False):
            names = [name for name, p in self.parameters.items() if p.grad is not None and (p.dim() >= 2) == decays]
            if not names:
                continue
            steps, means, squares = zip(*(self.state[name] for name in names), strict=True)
            adamw(
                [own_part(self.parameters[name]) for name in names],
                [own_part(_gradient(self.parameters[name])) for name in names],
                [own_part(mean) for mean in means],
                [own_part(square) for square in squares],
                [],
                list(steps),
                fused=True,
                amsgrad=False,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                lr=lr,
                weight_decay=self.config.weight_decay if decays else 0.0,
                eps=1e-10 if self.config.optimizer == "muon" else 1e-8,
                maximize=False,
            )


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class Optimizer:
    """Muon and AdamW as one: ``step(n)`` applies the gradients with the learning rates of update number n.

    Only parameters that require a gradient take part.
    """

    def __init__(self, model: nn.Module, model_config: ModelConfig, config: TrainConfig) -> None:
        self.config = config
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = {
            name: p
            for name, p in self.parameters.items()
            if config.optimizer == "muon" and name.startswith("blocks.") and p.dim() == 2
        }
        muon = ShardedMuon if is_sharded(model) else Muon
        self.muon: Muon | ShardedMuon | None = muon(matrices, model_config, config) if matrices else None
        rest = {name: p for name, p in self.parameters.items() if name not in matrices}
        self.adamw = AdamW(rest, config) if rest else None

    def step(self, step: int, dtype: torch.dtype, factor: float = 1.0) -> None:
        """Apply the gradients as update number ``step`` (from 0), with ``factor`` times its learning rates.

        ``dtype`` is the format of Muon's products.
        """
        lr = learning_rate(step, self.config) * factor
        if self.adamw is not None:
            self.adamw.step(lr)
        if self.muon is not None:
            self.muon.step(self.config.muon_learning_rate * lr / self.config.learning_rate, dtype)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self.parameters.values():
            p.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """Return everything the next update depends on, by name."""
        states = self.adamw.state if self.adamw is not None else {}
        tensors = {
            f"adamw.{key}.{name}": value
            for name, state in states.items()
            for key, value in zip(ADAMW_STATE, state, strict=True)
        }
        return tensors | (self.muon.state_tensors() if self.muon is not None else {})

    def collected(self, world: World) -> dict[str, Tensor]:
        """Return what a checkpoint holds of ``state_tensors``, on rank 0; all processes have to ask."""
        tensors = collect(self.state_tensors(), world)
        return self.muon.stacked(tensors) if isinstance(self.muon, ShardedMuon) and world.leads else tensors

    def checked(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what ``collected`` gave by the names of ``state_tensors``.

        Raises ``ValueError`` when it is not of this model and optimizer.
        """
        if isinstance(self.muon, ShardedMuon):
            tensors = self.muon.unstacked(tensors)
        expected = self.state_tensors()
        if not any(name.startswith("adamw.") for name in tensors):
            # As an earlier version saved it before the first update.
            expected = {name: tensor for name, tensor in expected.items() if not name.startswith("adamw.")}
        if odd := sorted(set(expected) ^ set(tensors)):
            raise ValueError(f"{odd[0]} is {'missing' if odd[0] in expected else 'not expected'}")
        for name, tensor in expected.items():
            if tensors[name].shape != tensor.shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}")
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor], world: World = ALONE) -> None:
        """Take back what ``checked`` gave on rank 0, in every process; the others' ``tensors`` are not looked at."""
        own = self.state_tensors()
        hand_out(tensors, {name: own[name] for name in world.told(list(tensors))}, world)
