"""Checkpoints: a folder a step, written whole or not at all, checked on every load.

``checkpoints/step_000500/{model.safetensors, optimizer.safetensors, state.json, manifest.json}``, and beside them the
pointers ``latest`` and ``best``. A checkpoint holds the weights that are trained; those that a finetune leaves as they
are lie once in ``base/``. Nothing here is a pickle, and nothing depends on the clock: equal states are equal bytes.
How a state comes about is ``train``'s business.
"""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptcli.checkpoint_folders import Which, checkpoint_folders, point, pointed, prune_checkpoints, step_of
from gptcli.errors import FormatError, RunError
from gptcli.files import atomic_folder, read_json, sha256_file, write_json
from gptcli.metrics import read_events
from gptcli.model import GPT
from gptcli.runs import RunDir, begin_command

CHECKPOINT_VERSION = 1
DAMAGED = "Another checkpoint may be whole: --checkpoint latest (or best) reads that one."
OTHER_MODEL = "Where model.* of profile.yaml, or config.json, was changed by hand, put back what was trained."
RESTORE = "Restore the folder base/ from a copy of the run; its checkpoints hold only what was trained."
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
# Keys of the state that files of before do not have; they begin at their defaults.
LATER_KEYS = {
    *("evaluations_since_best", "block_size", "skipped_in_row", "stuck_since", "lowered_rates"),
    *("loss_level", "loss_deviation", "level_steps", "in_spike", "spikes"),
}


Count = Annotated[int, Field(ge=0)]


@dataclass(slots=True)
class TrainState:
    """Everything of a run's progress that is not a tensor."""

    step: Count = 0
    tokens_seen: Count = 0
    epoch: Count = 0
    index: Count = 0
    """Next window of the epoch, of ``block_size`` tokens."""
    block_size: Count = 0
    """0 before the first step."""
    loss_sum: float = 0.0
    """Sum of the token losses since the last report, and their number."""
    loss_tokens: Count = 0
    skipped_steps: Count = 0
    skipped_in_row: Count = 0
    stuck_since: Count | None = None
    """The step whose weights have given no update since, where the last one was not applied."""
    lowered_rates: list[float] = field(default_factory=list)
    """The profile's ``learning_rate`` and ``muon_learning_rate`` that the run diverged with; it takes less of them."""
    loss_level: float = 0.0
    """What the loss of a step has been lately, how far it lay from that on average, over how many steps."""
    loss_deviation: float = 0.0
    level_steps: Count = 0
    in_spike: bool = False
    """Whether the last loss lay far above its level, and how often that began."""
    spikes: Count = 0
    evaluated_step: int = 0
    sampled_step: Count = 0
    best_val_loss: float | None = None
    best_val_loss_stderr: float | None = None
    best_bits_per_byte: float | None = None
    best_step: Count | None = None
    evaluations_since_best: Count = 0
    last_val_loss: float | None = None
    last_train_loss: float | None = None
    loss_scale: float = 1.0
    """Factor on the loss against underflow in float16, and good steps since it last changed."""
    loss_scale_steps: Count = 0

    @property
    def val_loss(self) -> float | None:
        """The val_loss at this very step, where it was evaluated."""
        if self.best_step == self.step:
            return self.best_val_loss
        return self.last_val_loss if self.evaluated_step == self.step else None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint read back; its tensors are mapped from its files, so copy what has to outlive them."""

    path: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    """Optimizer state and, under ``rng.<device>``, the states of the random generators."""
    state: TrainState


def save_checkpoint(
    run: RunDir,
    model: Mapping[str, Tensor],
    optimizer: dict[str, Tensor],
    state: TrainState,
    *,
    best: bool,
    keep: int | None,
    follows: int | None = None,
) -> Path:
    """Write a checkpoint of the trained weights, point ``latest`` (and ``best``) at it, then prune; returns its folder.

    Nothing older is deleted before the new one is complete on disk and reads back as it was written. For ``keep`` and
    ``follows`` see ``prune_checkpoints``.
    """
    path = run.checkpoints_path / f"step_{state.step:06d}"
    try:
        _write(path, model, optimizer, state)
    except (OSError, SafetensorError, FormatError) as error:
        raise RunError(
            f"{path}: the checkpoint cannot be saved ({error}).",
            f"Earlier checkpoints are as they were. Make room, then type: gptcli train --resume --run {run.name}",
        ) from error
    # Best first: killed in between, the resumed run goes on from the old latest and makes this checkpoint again.
    if best:
        point(run, "best", path.name)
    point(run, "latest", path.name)
    prune_checkpoints(run, keep, follows)
    return path


def point_best_at(run: RunDir, step: int, keep: int | None) -> Path:
    """Make the checkpoint of ``step``, as it lies there, the best one, then prune; returns its folder.

    For an evaluation that was made up for after the save: the weights are the same, and the state in the folder does
    not know of it. See ``owes_evaluation``.
    """
    path = run.checkpoints_path / f"step_{step:06d}"
    point(run, "best", path.name)
    prune_checkpoints(run, keep)
    return path


def owes_evaluation(run: RunDir, state: TrainState) -> bool:
    """Say whether ``best`` points at the checkpoint of this ``state``, which does not know why.

    It was evaluated after it was saved, and has to be again, so that its val_loss is known to what comes after.
    """
    best = pointed(run, "best")
    return best is not None and step_of(best) == state.step != state.best_step


def _write(path: Path, model: Mapping[str, Tensor], optimizer: dict[str, Tensor], state: TrainState) -> None:
    with atomic_folder(path) as folder:
        for name, tensors in ((FILES[0], model), (FILES[1], optimizer)):
            _save_tensors(tensors, folder / name)
        write_json(folder / FILES[2], {"format_version": CHECKPOINT_VERSION, **asdict(state)})
        files = {name: _facts(folder / name) for name in FILES}
        write_json(folder / "manifest.json", {"format_version": CHECKPOINT_VERSION, "files": files})


def _save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a file; ``OSError`` where it does not read back as it was written, for older ones may be deleted then."""
    plain = _plain(tensors)
    save_file(plain, file)
    read = load_tensors(file)
    for name, tensor in plain.items():
        if not torch.equal(read[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)):
            raise OSError(errno.EIO, f"{name} does not read back as it was written", str(file))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint back, verified against its manifest; raises ``FormatError`` when any byte differs."""
    verify_checkpoint(path)
    return Checkpoint(path, load_tensors(path / FILES[0]), load_tensors(path / FILES[1]), load_state(path))


def load_state(path: Path) -> TrainState:
    """Read the progress in a checkpoint's folder; ``FormatError`` where it is damaged."""
    file, what = path / "state.json", "the state of a checkpoint"
    value = read_json(file, format_version=CHECKPOINT_VERSION, what=what)
    keys = set(value) - {"format_version"}
    if keys | LATER_KEYS != {field.name for field in fields(TrainState)}:
        raise FormatError(f"{file}: {what} does not have the keys expected.")
    try:
        state = TypeAdapter(TrainState).validate_json(json.dumps({key: value[key] for key in keys}), strict=True)
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise FormatError(f"{file}: {what} is damaged: its {key!r} is not what it has to be.") from error
    if state.step != step_of(path):
        raise FormatError(f"{file}: {what} is of step {state.step}.")
    return state


def verify_checkpoint(path: Path, names: Sequence[str] = FILES) -> None:
    """Compare size and SHA-256 of files with the manifest; ``FormatError`` names the first that differs.

    A file that the disk cannot give back, or that is pruned meanwhile, is one that differs.
    """
    manifest = read_json(path / "manifest.json", format_version=CHECKPOINT_VERSION, what="a checkpoint's manifest")
    files = manifest.get("files")
    if not isinstance(files, dict) or sorted(files) != sorted(FILES):
        raise FormatError(f"{path / 'manifest.json'}: a checkpoint's manifest lists other files than expected.")
    for name in names:
        file = path / name
        try:
            found = _facts(file)
        except FileNotFoundError as error:
            raise FormatError(f"{file}: this file of the checkpoint is missing.", DAMAGED) from error
        except OSError as error:
            raise FormatError(f"{file}: this file cannot be read ({error.strerror}).", DAMAGED) from error
        if found != files[name]:
            raise FormatError(f"{file}: the file is damaged (its size or SHA-256 is not the manifest's).", DAMAGED)


def _facts(file: Path) -> dict[str, int | str]:
    if not stat.S_ISREG(file.stat().st_mode):
        raise FormatError(f"{file}: this is not a regular file.")
    return {"bytes": file.stat().st_size, "sha256": sha256_file(file)}


def save_frozen(path: Path, weights: dict[str, Tensor]) -> dict[str, dict[str, int | str]]:
    """Write the weights that a finetune leaves as they are into the folder ``path``; returns its files for base.json.

    Without weights there is no file.
    """
    if not weights:
        return {}
    save_file(_plain(weights), path / FILES[0])
    return {FILES[0]: _facts(path / FILES[0])}


def load_frozen(run: RunDir) -> dict[str, Tensor]:
    """Return the weights in ``base/``, mapped from their file and verified; none for a run that trains them all."""
    files = (run.base() or {}).get("files", {})
    if not files:
        return {}
    file = run.base_path / FILES[0]
    if not file.is_file():
        raise FormatError(f"{file}: the frozen weights of the run are missing.", RESTORE)
    if files != {FILES[0]: _facts(file)}:
        raise FormatError(f"{file}: the frozen weights are damaged (size or SHA-256 is not base.json's).", RESTORE)
    return load_tensors(file)


def checkpoint_path(run: RunDir, which: Which) -> Path:
    """Return the best or latest checkpoint: without an evaluation the latest, without a pointer the newest there is."""
    path = pointed(run, which) or pointed(run, "latest") or next(iter(checkpoint_folders(run)), None)
    if path is None:
        refuse_lost_weights(run)
        raise RunError(
            f"The run {run.name!r} has no checkpoint yet.",
            f"Train it first: gptcli train --resume --run {run.name}",
        )
    return path


def refuse_lost_weights(run: RunDir) -> None:
    """Raise ``RunError`` for a run that has had a checkpoint: a finetune begins with one, another may have none yet."""
    steps = [event["step"] for event in read_events(run.metrics_path) if event["event"] == "checkpoint_saved"]
    if steps:
        raise RunError(
            f"The run {run.name!r} has no checkpoint any more; its metrics go to step {max(steps)}.",
            f"Restore the folder checkpoints/ from a copy, or begin again: {begin_command(run.profile())}",
        )
    if (run.base_path / "base.json").is_file() and (base := run.base()) is not None:
        raise RunError(
            f"The run {run.name!r} was finetuned from {base['name']}, and it has no checkpoint any more.",
            f"Begin again: {begin_command(run.profile())}",
        )


def load_weights(model: GPT, tensors: dict[str, Tensor], where: str) -> None:
    """Make ``tensors`` the model's weights, as they are; raises ``FormatError`` when they are not all of its own."""
    check_shapes(model, {name: tensor.shape for name, tensor in tensors.items()}, where)
    check_numbers(tensors, where)
    model.load_state_dict(tensors, assign=True)


def check_numbers(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ``FormatError`` for weights that are not floating-point numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise FormatError(f"{where}: {name} is {str(tensor.dtype).removeprefix('torch.')}, not a weight.")


def check_shapes(model: GPT, shapes: Mapping[str, torch.Size], where: str) -> None:
    """Raise ``FormatError`` that lists what is missing, extra or of another shape than the model's."""
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in shapes]
    problems += [f"unexpected {name}" for name in shapes if name not in own]
    problems += [
        f"{name} is {tuple(shapes[name])}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in shapes and shapes[name] != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise FormatError(f"{where}: the weights are not this model's: {'; '.join(problems[:3])}{more}.", OTHER_MODEL)


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's random generators that training on ``device`` draws from."""
    tensors = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        tensors["rng.mps"] = torch.mps.get_rng_state()
    return tensors


def restore_rng(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Set torch's random generators to saved states; a device that was not saved keeps its own.

    Raises ``ValueError`` for what is no state of a generator.
    """
    try:
        torch.set_rng_state(tensors["rng.cpu"])
        if device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], device)
        elif device.type == "mps" and "rng.mps" in tensors:
            torch.mps.set_rng_state(tensors["rng.mps"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError("the states of the random generators are missing or damaged") from error


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detach, bring to the CPU and make contiguous: what safetensors can write."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, mapped; ``FormatError`` where it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path}: the tensors cannot be read ({error}).") from error
