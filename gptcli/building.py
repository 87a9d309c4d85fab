"""How a run's model and optimizer come about: drawn from the seed, or from a checkpoint and the frozen base under it.

Nothing is drawn only to be overwritten, and weights that are not trained stay mapped from their file. What is done
with the model then is ``trainer``'s business.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptcli.checkpoints import FILES, Checkpoint, TrainState, load_frozen, load_weights, restore_rng
from gptcli.config import RunProfile
from gptcli.device import Setup
from gptcli.errors import FormatError, RunError
from gptcli.lora import add_adapters, freeze
from gptcli.model import GPT, empty_model
from gptcli.optim import Optimizer
from gptcli.restore import Say, resumable_checkpoint
from gptcli.runs import RunDir, begin_command


def build(
    run: RunDir, profile: RunProfile, setup: Setup, on_notice: Say, *, before: int | None = None
) -> tuple[GPT, Optimizer, TrainState | None]:
    """Return the model on its device in training mode, its optimizer, and the progress of its newest whole checkpoint.

    Torch's generators are where the run left them; without a checkpoint they and the weights come from the seed, and
    there is no progress. Checkpoints of the step ``before`` and later ones do not count. ``on_notice`` is told of a
    damaged one. Raises ``FormatError`` when all are, ``RunError`` for an optimizer's state of another profile, and for
    a finetuned run that has lost its weights.
    """
    if setup.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(profile.train.seed)
    checkpoint = resumable_checkpoint(run, on_notice, before=before)
    model = _draw(run, profile) if checkpoint is None else _assemble(run, profile, checkpoint, setup)
    model.gradient_checkpointing = profile.train.gradient_checkpointing
    model = model.to(setup.device).train()
    optimizer = Optimizer(model, profile.model, profile.train)
    if checkpoint is None:
        return model, optimizer, None
    _restore(optimizer, checkpoint, profile)
    try:
        restore_rng(checkpoint.optimizer, setup.device)
    except ValueError as error:
        raise FormatError(f"{checkpoint.path / FILES[1]}: {error}.", "Restore the checkpoint from a copy.") from error
    return model, optimizer, checkpoint.state


def _draw(run: RunDir, profile: RunProfile) -> GPT:
    run.base()  # raises where a finetune has lost it
    return GPT(profile.model)


def _assemble(run: RunDir, profile: RunProfile, checkpoint: Checkpoint, setup: Setup) -> GPT:
    """Put the trained weights and the frozen ones together, without a copy of those that are not trained."""
    # Copies: a mapped file would be changed under a checkpoint that is pruned.
    tensors = {name: tensor.clone() for name, tensor in checkpoint.model.items()}
    model = empty_model(profile.model)
    if run.base() is not None:
        if profile.finetune.lora_rank:
            add_adapters(model, profile.finetune)
        freeze(model, profile.finetune)
        for name, tensor in load_frozen(run).items():
            tensors[name] = _computable(tensor, setup)
    load_weights(model, tensors, str(checkpoint.path))
    return model


def _computable(frozen: Tensor, setup: Setup) -> Tensor:
    """Widen what is stored in bfloat16 where the products are float32: a run that goes on on another machine."""
    return frozen.float() if setup.dtype == torch.float32 else frozen


def _restore(optimizer: Optimizer, checkpoint: Checkpoint, profile: RunProfile) -> None:
    tensors = {name: tensor for name, tensor in checkpoint.optimizer.items() if not name.startswith("rng.")}
    if not checkpoint.state.step:
        return
    try:
        optimizer.load_state_tensors(tensors)
    except ValueError as error:
        raise RunError(
            f"{checkpoint.path}: the optimizer's state is not of this profile ({error}).",
            f"Start a new run with this optimizer: {begin_command(profile)} --run NEW_NAME --set ...",
        ) from error
