"""Checkpoints: a folder a step, written whole or not at all, checked on every load.

``checkpoints/step_000500/{model.safetensors, optimizer.safetensors, state.json, manifest.json}``, and beside them the
pointers ``latest`` and ``best``. A checkpoint holds the weights that are trained; those that a finetune leaves as they
are lie once in ``base/``. Nothing here is a pickle, and nothing depends on the clock: equal states are equal bytes.
How a state comes about is ``train``'s business.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptcli.errors import FormatError, RunError
from gptcli.files import atomic_folder, atomic_write, read_json, sha256_file, write_json
from gptcli.lora import merged
from gptcli.model import GPT, empty_model
from gptcli.runs import RunDir, begin_command
from gptcli.tokenizer import Tokenizer

CHECKPOINT_VERSION = 1
Which = Literal["best", "latest"]
Say = Callable[[str], None]
DAMAGED = "Another checkpoint may be whole: gptcli sample RUN --checkpoint latest (or best)."
RESTORE = "Restore the folder base/ from a copy of the run; its checkpoints hold only what was trained."
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
# Keys of the state that files of before do not have; they begin at their defaults.
LATER_KEYS = {"evaluations_since_best", "block_size"}


@dataclass(slots=True)
class TrainState:
    """Everything of a run's progress that is not a tensor."""

    step: int = 0
    tokens_seen: int = 0
    epoch: int = 0
    index: int = 0
    """Next window of the epoch, of ``block_size`` tokens."""
    block_size: int = 0
    """0 before the first step."""
    loss_sum: float = 0.0
    """Sum of the token losses since the last report, and their number."""
    loss_tokens: int = 0
    skipped_steps: int = 0
    evaluated_step: int = 0
    sampled_step: int = 0
    best_val_loss: float | None = None
    best_val_loss_stderr: float | None = None
    best_bits_per_byte: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0
    last_val_loss: float | None = None
    last_train_loss: float | None = None
    loss_scale: float = 1.0
    """Factor on the loss against underflow in float16, and good steps since it last changed."""
    loss_scale_steps: int = 0

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
    run: RunDir, model: Mapping[str, Tensor], optimizer: dict[str, Tensor], state: TrainState, *, best: bool, keep: int
) -> Path:
    """Write a checkpoint of the trained weights, point ``latest`` (and ``best``) at it, then prune; returns its folder.

    Nothing older is deleted before the new one is complete on disk.
    """
    path = run.checkpoints_path / f"step_{state.step:06d}"
    try:
        _write(path, model, optimizer, state)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path}: the checkpoint cannot be saved ({error}).",
            f"Earlier checkpoints are as they were. Make room, then type: gptcli train --resume --run {run.name}",
        ) from error
    # Best first: killed in between, the resumed run goes on from the old latest and makes this checkpoint again.
    if best:
        _point(run, "best", path.name)
    _point(run, "latest", path.name)
    prune_checkpoints(run, keep)
    return path


def point_best_at_latest(run: RunDir, keep: int) -> Path:
    """Make the newest checkpoint the best too, as it lies there, then prune; returns its folder.

    For an evaluation that was made up for after the save: the weights are the same, and the state in the folder does
    not know of it. See ``owes_evaluation``.
    """
    path = checkpoint_path(run, "latest")
    _point(run, "best", path.name)
    prune_checkpoints(run, keep)
    return path


def owes_evaluation(run: RunDir, state: TrainState) -> bool:
    """Say whether ``best`` points at the newest checkpoint while its ``state`` does not know why.

    It was evaluated after it was saved, and has to be again, so that its val_loss is known to what comes after.
    """
    best, latest = _pointed(run, "best"), _pointed(run, "latest")
    return best is not None and best == latest and state.best_step != state.step


def _write(path: Path, model: Mapping[str, Tensor], optimizer: dict[str, Tensor], state: TrainState) -> None:
    with atomic_folder(path) as folder:
        save_file(_plain(model), folder / FILES[0])
        save_file(_plain(optimizer), folder / FILES[1])
        write_json(folder / FILES[2], {"format_version": CHECKPOINT_VERSION, **asdict(state)})
        files = {name: _facts(folder / name) for name in FILES}
        write_json(folder / "manifest.json", {"format_version": CHECKPOINT_VERSION, "files": files})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint back, verified against its manifest; raises ``FormatError`` when any byte differs."""
    verify_checkpoint(path)
    return Checkpoint(path, _load_tensors(path / FILES[0]), _load_tensors(path / FILES[1]), _load_state(path))


def _load_state(path: Path) -> TrainState:
    value = read_json(path / "state.json", format_version=CHECKPOINT_VERSION, what="the state of a checkpoint")
    known = {field.name for field in fields(TrainState)}
    keys = set(value) - {"format_version"}
    if keys | LATER_KEYS != known:
        raise FormatError(f"{path / 'state.json'}: the state of a checkpoint does not have the keys expected.")
    return TrainState(**{key: value[key] for key in keys})


def verify_checkpoint(path: Path, names: Sequence[str] = FILES) -> None:
    """Compare size and SHA-256 of files with the manifest; ``FormatError`` names the first that differs."""
    manifest = read_json(path / "manifest.json", format_version=CHECKPOINT_VERSION, what="a checkpoint's manifest")
    files = manifest.get("files")
    if not isinstance(files, dict) or sorted(files) != sorted(FILES):
        raise FormatError(f"{path / 'manifest.json'}: a checkpoint's manifest lists other files than expected.")
    for name in names:
        file = path / name
        if not file.is_file():
            raise FormatError(f"{file}: this file of the checkpoint is missing.", DAMAGED)
        if _facts(file) != files[name]:
            raise FormatError(f"{file}: the file is damaged (its size or SHA-256 is not the manifest's).", DAMAGED)


def _facts(file: Path) -> dict[str, int | str]:
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
    return _load_tensors(file)


def latest_checkpoint(run: RunDir) -> Path | None:
    """Return the folder of the newest checkpoint, or None when there is none yet."""
    return _pointed(run, "latest")


def checkpoint_path(run: RunDir, which: Which) -> Path:
    """Return the best or latest checkpoint; ``best`` falls back to the latest before the first evaluation."""
    path = _pointed(run, which) or _pointed(run, "latest")
    if path is None:
        refuse_lost_weights(run)
        raise RunError(
            f"The run {run.name!r} has no checkpoint yet.",
            f"Train it first: gptcli train --resume --run {run.name}",
        )
    return path


def refuse_lost_weights(run: RunDir) -> None:
    """Raise ``RunError`` for a finetune, which begins with a checkpoint; a run from scratch may have none yet."""
    if (run.base_path / "base.json").is_file() and (base := run.base()) is not None:
        raise RunError(
            f"The run {run.name!r} was finetuned from {base['name']}, and it has no checkpoint any more.",
            f"Begin again: {begin_command(run.profile())}",
        )


def readable_checkpoint(run: RunDir, which: Which = "best", on_notice: Say | None = None) -> Checkpoint:
    """Return the best or latest checkpoint for reading: verified, its weights mapped, its optimizer's state left out.

    A run may be training meanwhile: what it prunes while it is opened here is looked up again. Where the checkpoint
    asked for is damaged, the newest that is whole takes its place and ``on_notice`` is told; without ``on_notice``
    that is an error. Raises ``RunError`` when there is no checkpoint, ``FormatError`` when none is whole.
    """
    damaged: dict[Path, FormatError] = {}
    while True:
        asked = _asked_for(run, which, damaged)
        path = asked if asked not in damaged else _newest_other(run, damaged)
        try:
            found = _open_readable(path)
        except FormatError as error:
            if path.is_dir():  # else it was pruned just now, and what is asked for is another one
                damaged[path] = error
            continue
        if path == asked:
            return found
        if (again := _asked_for(run, which, damaged)) in damaged:  # else the pointer has moved on
            if on_notice is None:
                raise damaged[again]
            on_notice(f"{damaged[again].message} The checkpoint of step {found.state.step:,} takes its place.")
            return found


def _asked_for(run: RunDir, which: Which, damaged: dict[Path, FormatError]) -> Path:
    """Return the checkpoint that is asked for; where the pointer is damaged that, noted among the ``damaged``."""
    try:
        return checkpoint_path(run, which)
    except FormatError as error:
        pointer = run.checkpoints_path / which
        damaged[pointer] = error
        return pointer


def _newest_other(run: RunDir, damaged: Mapping[Path, FormatError]) -> Path:
    paths = [path for path in run.checkpoints_path.glob("step_*") if path.is_dir() and path not in damaged]
    if paths:
        return max(paths, key=_step)
    first = next(iter(damaged.values()))
    again = begin_command(run.profile())
    hint = f"No checkpoint of the run is whole: restore one from a copy, or begin again: {again}"
    raise FormatError(first.message, hint) from first


def _open_readable(path: Path) -> Checkpoint:
    # Mapped first: what is mapped can be read to its end, even when the file is deleted meanwhile.
    weights = _load_tensors(path / FILES[0])
    try:
        verify_checkpoint(path, (FILES[0], FILES[2]))  # the optimizer's state is twice as large and not needed
    except FileNotFoundError as error:
        raise FormatError(f"{error.filename}: this file of the checkpoint is missing.", DAMAGED) from error
    return Checkpoint(path, weights, {}, _load_state(path))


def run_weights(run: RunDir, which: Which = "best") -> tuple[Mapping[str, Tensor], int]:
    """Return the whole weights of a run's checkpoint and its step, as ``whole_weights`` and ``readable_checkpoint``.

    Raises ``RunError`` when there is no checkpoint, ``FormatError`` when a file of it is damaged.
    """
    found = readable_checkpoint(run, which)
    return whole_weights(run, found), found.state.step


def whole_weights(run: RunDir, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Return the weights of a run's checkpoint by the names of ``GPT(config).state_dict()``, float32.

    Those stored so are mapped from their file, never to be changed; others, and those that adapters are merged into,
    are made each time they are asked for. Raises ``FormatError`` when they are not the profile's or ``base/`` is
    damaged.
    """
    profile = run.profile()
    stored = {**load_frozen(run), **checkpoint.model}
    weights = merged(stored, profile.finetune)
    shapes = {name: stored[name].shape for name in weights}
    check_shapes(empty_model(profile.model), shapes, str(checkpoint.path / FILES[0]))
    return weights


def load_model(run: RunDir, which: Which = "best", device: torch.device | str = "cpu") -> tuple[GPT, Tokenizer, int]:
    """Return the run's model in evaluation mode, its tokenizer, and the step of the checkpoint."""
    weights, step = run_weights(run, which)
    model = empty_model(run.profile().model)
    # Copies: a checkpoint may be pruned, by the training that goes on, while it is open here.
    model.load_state_dict({name: weights[name].clone() for name in weights}, assign=True)
    return model.to(device).eval(), run.tokenizer(), step


def load_weights(model: GPT, tensors: dict[str, Tensor], where: str) -> None:
    """Make ``tensors`` the model's weights, as they are; raises ``FormatError`` when they are not all of its own."""
    check_shapes(model, {name: tensor.shape for name, tensor in tensors.items()}, where)
    model.load_state_dict(tensors, assign=True)


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
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise FormatError(f"{where}: the weights are not this model's: {'; '.join(problems[:8])}{more}.")


def prune_checkpoints(run: RunDir, keep: int) -> None:
    """Delete all but the latest, the best and the ``keep`` newest others; what a killed save moved aside goes back."""
    for old in run.checkpoints_path.glob(".step_*.old/step_*"):
        if not (run.checkpoints_path / old.name).exists():
            old.replace(run.checkpoints_path / old.name)
    kept = {path for which in ("latest", "best") if (path := _pointed(run, which)) is not None}
    others = sorted((path for path in run.checkpoints_path.glob("step_*") if path not in kept), key=_step, reverse=True)
    leftovers = run.checkpoints_path.glob(".*")  # of saves that were killed
    for path in (*others[keep:], *leftovers):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _step(path: Path) -> int:
    digits = path.name.removeprefix("step_")
    return int(digits) if digits.isdecimal() else -1


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's random generators that training on ``device`` draws from."""
    tensors = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        tensors["rng.mps"] = torch.mps.get_rng_state()
    return tensors


def restore_rng(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Set torch's random generators to saved states; a device that was not saved keeps its own."""
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    elif device.type == "mps" and "rng.mps" in tensors:
        torch.mps.set_rng_state(tensors["rng.mps"])


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detach, bring to the CPU and make contiguous: what safetensors can write."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path}: the tensors cannot be read ({error}).") from error


def _point(run: RunDir, which: Which, name: str) -> None:
    with atomic_write(run.checkpoints_path / which) as file:
        file.write(f"{name}\n".encode())


def _pointed(run: RunDir, which: str) -> Path | None:
    pointer = run.checkpoints_path / which
    if not pointer.is_file():
        return None
    name = pointer.read_text("utf-8").strip()
    if re.fullmatch(r"step_\d+", name):
        # A save that was killed while it replaced the folder has left the old one aside. It is only read there: the
        # run may be going on, and its own save puts it back.
        aside = run.checkpoints_path.glob(f".{name}.*.old/{name}")
        for path in (run.checkpoints_path / name, *aside):
            if path.is_dir():
                return path
    raise FormatError(
        f"{pointer}: it points at {name!r}, which is not a checkpoint of this run.",
        "Restore the folder checkpoints/ from a copy of the run, or write the name of a step_ folder there into it.",
    )
