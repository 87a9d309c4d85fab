"""How a run's model and optimizer come about: drawn from the seed, or from a checkpoint and the frozen base under it.

Nothing is drawn only to be overwritten, and weights that are not trained stay mapped from their file. What is done
with the model then is ``trainer``'s business.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from gptcli.checkpoints import FILES, Checkpoint, TrainState, load_frozen, load_weights, restore_rng
from gptcli.config import RunProfile
from gptcli.device import Setup
from gptcli.errors import FormatError, RunError
from gptcli.lora import add_adapters, freeze
from gptcli.model import GPT, empty_model
from gptcli.optim import Optimizer
from gptcli.parallel import collect, is_sharded, same_everywhere, shard
from gptcli.restore import Say, resumable_checkpoint
from gptcli.runs import RunDir, begin_command
from gptcli.world import ALONE, World


def build(
    run: RunDir,
    profile: RunProfile,
    setup: Setup,
    on_notice: Say,
    *,
    before: int | None = None,
    world: World = ALONE,
) -> tuple[GPT, Optimizer, TrainState | None]:
    """Return the model on its device in training mode, its optimizer, and the progress of its newest whole checkpoint.

    Torch's generators are where the run left them; without a checkpoint they and the weights come from the seed, and
    there is no progress. Checkpoints of the step ``before`` and later ones do not count. ``on_notice`` is told of a
    damaged one. Of several processes rank 0 alone reads the run, and hands out what it finds. Raises ``FormatError``
    when all checkpoints are damaged, ``RunError`` for an optimizer's state of another profile, and for a finetuned run
    that has lost its weights.
    """
    if setup.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(profile.train.seed)
    model = checkpoint = None
    if world.leads:
        checkpoint = resumable_checkpoint(run, on_notice, before=before)
        model = _draw(run, profile) if checkpoint is None else _assemble(run, profile, checkpoint, setup)
    model = same_everywhere(model, world, lambda: outline(profile))
    model.gradient_checkpointing = profile.train.gradient_checkpointing
    if profile.train.parallel == "fsdp" and not world.is_alone:
        shard(model, world, setup.device)
    model = model.to(setup.device).train()
    optimizer = Optimizer(model, profile.model, profile.train)
    state = world.told(asdict(checkpoint.state) if checkpoint is not None else None)
    if state is None:
        return model, optimizer, None
    tensors = _restored(optimizer, checkpoint, profile, setup) if checkpoint is not None else {}
    optimizer.load_state_tensors(tensors, world)
    return model, optimizer, TrainState(**state)


def outline(profile: RunProfile) -> GPT:
    """Return the run's model without memory for its weights."""
    model = empty_model(profile.model)
    if profile.finetune.base is not None:
        if profile.finetune.lora_rank:
            add_adapters(model, profile.finetune)
        freeze(model, profile.finetune)
    return model


def whole_model(model: GPT, profile: RunProfile, world: World) -> GPT | None:
    """Return the model for rank 0 to write with, None elsewhere; all processes have to ask.

    Where each process holds a part of it, it is put together on the processor, in float32.
    """
    if not is_sharded(model):
        return model if world.leads else None
    weights = collect(dict(model.named_parameters()), world)
    if not weights:
        return None
    whole = outline(profile)
    whole.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    return whole


def _draw(run: RunDir, profile: RunProfile) -> GPT:
    run.base()  # raises where a finetune has lost it
    return GPT(profile.model)


def _assemble(run: RunDir, profile: RunProfile, checkpoint: Checkpoint, setup: Setup) -> GPT:
    """Put the trained weights and the frozen ones together, without a copy of those that are not trained."""
    # Copies: a mapped file would be changed under a checkpoint that is pruned.
    tensors = {name: tensor.clone() for name, tensor in checkpoint.model.items()}
    model = outline(profile)
    if run.base() is not None:
        for name, tensor in load_frozen(run).items():
            tensors[name] = _computable(tensor, setup)
    load_weights(model, tensors, str(checkpoint.path))
    return model


def _computable(frozen: Tensor, setup: Setup) -> Tensor:
    """Widen what is stored in bfloat16 where the products are float32: a run that goes on on another machine."""
    return frozen.float() if setup.dtype == torch.float32 else frozen


def _restored(optimizer: Optimizer, checkpoint: Checkpoint, profile: RunProfile, setup: Setup) -> dict[str, Tensor]:
    """Set torch's generators where the run left them, and return the state of its optimizer, if it has one."""
    try:
        restore_rng(checkpoint.optimizer, setup.device)
    except ValueError as error:
        raise FormatError(f"{checkpoint.path / FILES[1]}: {error}.", "Restore the checkpoint from a copy.") from error
    if not checkpoint.state.step:
        return {}
    tensors = {name: tensor for name, tensor in checkpoint.optimizer.items() if not name.startswith("rng.")}
    try:
        return optimizer.checked(tensors)
    except ValueError as error:
        raise RunError(
            f"{checkpoint.path}: the optimizer's state is not of this profile ({error}).",
            f"Start a new run with this optimizer: {begin_command(profile)} --run NEW_NAME --set ...",
        ) from error
