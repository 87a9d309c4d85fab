"""Which checkpoint of a run is taken, for reading and for going on, also when some are damaged; its weights whole.

What a checkpoint holds and how it is checked is ``checkpoints``' business.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from gptcli.checkpoint_folders import Which, checkpoint_folders, point, pointed, pointed_name, put_back, step_of
from gptcli.checkpoints import (
    FILES,
    Checkpoint,
    check_numbers,
    check_shapes,
    checkpoint_path,
    load_checkpoint,
    load_frozen,
    load_state,
    load_tensors,
    refuse_lost_weights,
    verify_checkpoint,
)
from gptcli.errors import FormatError, VersionError
from gptcli.lora import merged
from gptcli.model import GPT, empty_model
from gptcli.runs import RunDir, begin_command
from gptcli.tokenizer import Tokenizer

Say = Callable[[str], None]
# What lies there is whole for all one knows, and would be left out for nothing.
NOT_DAMAGED = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)


def readable_checkpoint(run: RunDir, which: Which = "best", on_notice: Say | None = None) -> Checkpoint:
    """Return the best or latest checkpoint for reading: verified, its weights mapped, its optimizer's state left out.

    A run may be training meanwhile: what it prunes while it is opened here is looked up again. Where the checkpoint
    asked for is damaged, the newest that is whole takes its place and ``on_notice`` is told; without ``on_notice``
    that is an error. Raises ``RunError`` when there is no checkpoint, ``FormatError`` when none is whole.
    """
    damaged: dict[Path, FormatError] = {}
    while True:
        problem: FormatError | None = None
        try:
            path = checkpoint_path(run, which)
            problem = damaged.get(path)
        except FormatError as error:
            path, problem = run.checkpoints_path / which, error
        if problem is not None:
            if on_notice is None:
                raise problem
            others = (path for path in checkpoint_folders(run) if path not in damaged)
            if (found := next(others, None)) is None:
                raise _none_is_whole(run, problem)
            path = found
        try:
            checkpoint = _open_readable(path)
        except FormatError as error:
            if not _is_damage(error):
                raise
            if path.is_dir():  # else it was pruned just now, and what is asked for is another one
                damaged[path] = error
            continue
        if problem is not None and on_notice is not None:
            on_notice(_takes_its_place(problem, checkpoint))
        return checkpoint


def resumable_checkpoint(run: RunDir, on_notice: Say, *, before: int | None = None) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, with the optimizer's state; None for a run that has none yet.

    It is the one that ``latest`` names, or one of a step ``before`` another, and the pointers are made to agree with
    it: nobody else may write the run. ``on_notice`` is told of what is damaged. Raises ``FormatError`` when none is
    whole (but None with ``before``), ``RunError`` for a finetune that has lost all of them.
    """
    put_back(run)
    problems = list[FormatError]()
    paths = [path for path in checkpoint_folders(run) if before is None or step_of(path) < before]
    try:
        if before is None and (latest := pointed(run, "latest")) is not None:
            paths.insert(0, latest)
    except FormatError as error:
        problems.append(error)
    for path in dict.fromkeys(paths):
        try:
            found = load_checkpoint(path)
        except FormatError as error:
            if not _is_damage(error):
                raise
            problems.append(error)
            continue
        if problems:
            on_notice(_takes_its_place(problems[0], found))
        _settle_pointers(run, found, on_notice)
        return found
    if before is not None and run.base() is None:
        return None
    if problems:
        raise _none_is_whole(run, problems[0])
    refuse_lost_weights(run)
    return None


def _settle_pointers(run: RunDir, found: Checkpoint, on_notice: Say) -> None:
    """Let the pointers say what the progress in ``found`` says, from which the run goes on.

    They are ahead of it when a save was killed between them, and lead nowhere when their checkpoint is lost.
    """
    state, name, said = found.state, found.path.name, pointed_name(run, "best")
    if pointed_name(run, "latest") != name:
        point(run, "latest", name)
    if said == name:
        return  # evaluated after it was saved, perhaps: see ``owes_evaluation``
    best = None if state.best_step is None else found.path.with_name(f"step_{state.best_step:06d}")
    if best is not None and (lost := _what_was_lost(best)):
        on_notice(f"{lost}, so the next evaluation gives the best one.")
        state.best_step = state.best_val_loss = state.best_val_loss_stderr = state.best_bits_per_byte = best = None
    if best is None:
        (run.checkpoints_path / "best").unlink(missing_ok=True)
    elif said != best.name:
        point(run, "best", best.name)


def _what_was_lost(best: Path) -> str:
    """Say what is wrong with the best checkpoint, if anything; a damaged one is set aside, where no save deletes it."""
    if not best.is_dir():
        return f"{best}: the best checkpoint is gone"
    try:
        verify_checkpoint(best, (FILES[0], FILES[2]))
    except FormatError as error:
        if not _is_damage(error):
            raise
        with contextlib.suppress(OSError):
            best.rename(best.with_name(f"damaged_{best.name}"))
        return f"{error.message.rstrip('.')}: the best checkpoint is damaged"
    return ""


def _is_damage(error: FormatError) -> bool:
    """Say whether a checkpoint is damaged, and not of another version or one that may not be read."""
    cause = error.__cause__
    return not isinstance(error, VersionError) and not (isinstance(cause, OSError) and cause.errno in NOT_DAMAGED)


def _takes_its_place(problem: FormatError, found: Checkpoint) -> str:
    return f"{problem.message} The checkpoint of step {found.state.step:,} takes its place."


def _none_is_whole(run: RunDir, problem: FormatError) -> FormatError:
    again = begin_command(run.profile())
    hint = f"No checkpoint of the run is whole: restore one from a copy, or begin again: {again}"
    return FormatError(problem.message, hint)


def _open_readable(path: Path) -> Checkpoint:
    # Mapped first: what is mapped can be read to its end, even when the file is deleted meanwhile.
    weights = load_tensors(path / FILES[0])
    verify_checkpoint(path, (FILES[0], FILES[2]))  # the optimizer's state is twice as large and not needed
    return Checkpoint(path, weights, {}, load_state(path))


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
    check_numbers(stored, str(checkpoint.path / FILES[0]))
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
