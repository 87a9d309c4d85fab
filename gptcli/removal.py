"""Removes a run: the files that gptcli writes into one, and nothing that somebody else put beside them.

Knows every name a run has; nothing is followed through a link, and no run is removed while it is trained.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptcli.errors import RunError
from gptcli.files import RANDOM
from gptcli.run_lock import LOCK, WRITER, sole_writer
from gptcli.runs import RunDir, find_run

TENSORS = r"(model|optimizer)\.safetensors|(state|manifest)\.json"
TEMPORARY = rf"\.[^/]+\.{RANDOM}\.(tmp|old)"
WANDB_RUN = r"(offline-)?run-\d{8}_\d{6}-\w+"
OWN = re.compile(
    "|".join(
        (
            r"profile\.yaml|(environment|tokenizer|dataset)\.json|metrics\.jsonl|ngrams\.bin|loss\.png",
            rf"{re.escape(LOCK)}|{re.escape(WRITER)}|{TEMPORARY}",
            rf"checkpoints/(latest|best|{TEMPORARY})",
            rf"checkpoints/(damaged_)?step_[0-9]+[^/]*/({TENSORS}|{TEMPORARY})",
            rf"checkpoints/{TEMPORARY}/(.+/)?({TENSORS})",
            r"base/(base\.json|model\.safetensors)",
            r"chats/(history|\d{8}T\d{6}Z(-\d+)?\.jsonl)",
            r"tensorboard/events\.out\.tfevents\.\d+",
            r"trackio/(gptcli\.(lock|db(-wal|-shm)?)|media/.+)",
            rf"wandb/{WANDB_RUN}/.+",
        )
    )
)
# Those that wandb makes, to its newest run and to its log of itself.
OWN_LINKS = re.compile(rf"wandb/(latest-run|debug(-internal)?\.log|{WANDB_RUN}/logs/debug-core\.log)")
FOLDERS = re.compile(
    rf"checkpoints(/((damaged_)?step_[0-9]+[^/]*|{TEMPORARY}(/.+)?))?|base|chats|"
    rf"tensorboard|trackio(/media(/.+)?)?|wandb(/{WANDB_RUN}(/.+)?)?"
)
# What only a run has: other programs too call a file tokenizer.json.
MARKS = {"environment.json", "dataset.json", "metrics.jsonl", LOCK, WRITER, "checkpoints"}


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a run's folder: what gptcli wrote there, its bytes, and what it did not write."""

    own: tuple[Path, ...]
    foreign: tuple[Path, ...]
    n_bytes: int


def find_removable(name: str, runs_dir: Path = Path("runs")) -> RunDir:
    """Find a run in ``runs_dir`` by name or path, a damaged one too; the same run is the same, however it is spelt.

    Raises ``RunError`` for what is none, for a link to one, and for one that lies elsewhere.
    """
    run = RunDir(runs_dir / name)
    plain = name not in ("", ".", "..") and Path(name).name == name and run.path.is_dir()
    if plain and not run.profile_path.exists() and not _is_left_of_run(run):
        raise RunError(
            f"{run.path} has no profile.yaml and nothing else that only a run has, so nothing in it was removed.",
            "Look at what it is, and remove it with your shell.",
        )
    if not plain:
        run = find_run(name, runs_dir)
    if run.path.is_symlink():
        raise RunError(
            f"{run.path} is a link, and what it leads to is not removed.", "Remove the link itself with your shell."
        )
    if run.path.resolve().parent != runs_dir.resolve():
        raise RunError(
            f"{run.path} is not a run in {runs_dir}, and nothing elsewhere is removed.",
            "gptcli runs list shows what is here. For another project's runs, go to its folder first.",
        )
    return RunDir(runs_dir / run.path.resolve().name)


def _is_left_of_run(run: RunDir) -> bool:
    """Say whether a folder that has lost its profile was a run: by a file that only runs have, or by having none."""
    contents = run_contents(run)
    first = {path.relative_to(run.path).parts[0] for path in contents.own}
    return bool(first & MARKS) or not (contents.own or contents.foreign)


def run_contents(run: RunDir) -> Contents:
    """Return what lies in a run's folder; links are somebody else's, but for those of wandb."""
    own, foreign, n_bytes = list[Path](), list[Path](), 0
    for path in _leaves(run.path):
        within = path.relative_to(run.path).as_posix()
        with contextlib.suppress(FileNotFoundError):  # training has deleted it meanwhile
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and FOLDERS.fullmatch(within):
                continue
            names = OWN if stat.S_ISREG(found.st_mode) else OWN_LINKS if stat.S_ISLNK(found.st_mode) else None
            if names is not None and names.fullmatch(within):
                own.append(path)
                n_bytes += found.st_size
            else:
                foreign.append(path)
    return Contents(tuple(own), tuple(foreign), n_bytes)


def remove_run(run: RunDir) -> Contents:
    """Delete what gptcli wrote into a run, and its folder where nothing else is left in it; returns what there was.

    Raises ``RunError`` while the run is trained.
    """
    with sole_writer(run):
        contents = run_contents(run)
        # The profile goes first: from then on the folder is no run any more, whatever stops what follows.
        for path in sorted(contents.own, key=lambda path: path != run.profile_path):
            if path.name not in (LOCK, WRITER):
                path.unlink(missing_ok=True)
    (run.path / LOCK).unlink(missing_ok=True)
    for place, _, _ in os.walk(run.path, topdown=False, followlinks=False):
        folder = Path(place)
        if folder == run.path or FOLDERS.fullmatch(folder.relative_to(run.path).as_posix()):
            with contextlib.suppress(OSError):  # what holds something else stays
                folder.rmdir()
    return contents


def _leaves(folder: Path) -> Iterator[Path]:
    """Yield all files, links and empty folders below a folder, following no link."""
    for place, folders, files in os.walk(folder, followlinks=False):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]  # noqa: PTH114, PTH118
        yield from (Path(place, name) for name in sorted((*files, *links)))
        if not (folders or files) and Path(place) != folder:
            yield Path(place)
