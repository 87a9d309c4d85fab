"""Where everything of a run lives, and how runs are created and found.

A run directory is self-contained: profile, tokenizer, metrics and checkpoints are inside, so that sampling and
evaluating need nothing else. This module knows the layout; what the files mean is their owners' business.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from gptcli import __version__
from gptcli.chat_template import ChatTemplate
from gptcli.config import FinetuneConfig, RunProfile, SampleConfig
from gptcli.copies.index import NGRAMS_NAME, read_ngrams
from gptcli.errors import CorpusError, FormatError, ProfileError, RunError, VersionError
from gptcli.files import atomic_folder, atomic_write, read_json, write_json
from gptcli.metrics import parse_event
from gptcli.profiles import build_profile, load_profile, override_path, write_profile
from gptcli.run_tokens import RunTokens
from gptcli.shards import DatasetManifest, TokenDataset, remake_hint
from gptcli.tokenizer import DAMAGED_HINT, Tokenizer, load_tokenizer, save_tokenizer

RUN_VERSION = 1
RESTORE = "Restore the file from a copy of the run."
# The order of the data and the optimizer's state hang on these.
FIXED = {("train", key) for key in ("seed", "optimizer", "short_block_size", "short_fraction")}
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run on disk: ``runs/<run>/``."""

    path: Path

    @property
    def name(self) -> str:
        """The name a user types."""
        return self.path.name

    @property
    def profile_path(self) -> Path:
        """The resolved profile."""
        return self.path / "profile.yaml"

    @property
    def tokenizer_path(self) -> Path:
        """The whole tokenizer."""
        return self.path / "tokenizer.json"

    @property
    def dataset_path(self) -> Path:
        """Which tokens the run is trained on: their folder and manifest."""
        return self.path / "dataset.json"

    @property
    def environment_path(self) -> Path:
        """Versions and machine at the time the run was created."""
        return self.path / "environment.json"

    @property
    def metrics_path(self) -> Path:
        """One JSON line an event."""
        return self.path / "metrics.jsonl"

    @property
    def picture_path(self) -> Path:
        """The picture of its losses."""
        return self.path / "loss.png"

    @property
    def checkpoints_path(self) -> Path:
        """One folder a checkpoint, and the pointers ``latest`` and ``best``."""
        return self.path / "checkpoints"

    @property
    def base_path(self) -> Path:
        """The folder of what a finetuned run began from: ``base.json``, and the weights that stay as they are."""
        return self.path / "base"

    def base(self) -> dict[str, Any] | None:
        """Read what a finetuned run began from; None for a run from scratch.

        ``files`` holds bytes and SHA-256 of the frozen weights beside it, and is empty where none are frozen.
        Raises ``RunError`` when a finetuned run has lost it.
        """
        path = self.base_path / "base.json"
        if path.is_file():
            with _restorable():
                value = read_json(path, format_version=RUN_VERSION, what="the base of a run")
            if not isinstance(value.get("files"), dict) or not isinstance(value.get("name"), str):
                raise FormatError(f"{path}: the base of a run is damaged: name or files is missing.", RESTORE)
            return value
        if (base := self.profile().finetune.base) is not None:
            raise RunError(
                f"{path}: the run {self.name!r} was finetuned from {base}, and this file of it is missing.",
                f"Restore the folder base/ from a copy of the run, or start again: {begin_command(self.profile())}",
            )
        return None

    def profile(self) -> RunProfile:
        """Read the run's profile; ``FormatError`` or ``ProfileError`` for one that is only half there or damaged."""
        profile = load_profile(self.profile_path, checked=True)
        if profile.model.vocab_size is None:
            raise FormatError(
                f"{self.profile_path}: the profile of a run is damaged: model.vocab_size is missing.",
                RESTORE,
            )
        return profile

    def tokenizer(self) -> Tokenizer:
        """Read the run's tokenizer and check that it is the one the run was created with."""
        with _restorable():
            tokenizer = load_tokenizer(self.tokenizer_path)
        expected = self.manifest().fingerprint
        if tokenizer.fingerprint != expected:
            raise RunError(
                f"{self.tokenizer_path}: the tokenizer has the fingerprint {tokenizer.fingerprint}, "
                f"but the run was trained with {expected}.",
                f"It was changed or replaced. {RESTORE}",
            )
        return tokenizer

    def manifest(self) -> DatasetManifest:
        """Return the manifest of the tokens the run is trained on, as it was when the run was created."""
        return self._recorded()[1]

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How conversations are written for a run that was tuned on them; None for any other."""
        return self.manifest().chat

    @property
    def changed_at(self) -> float:
        """When the run was last written to, in seconds since 1970; 0 for one that is gone."""
        newest = 0.0
        for path in (self.profile_path, self.metrics_path):
            with contextlib.suppress(OSError):
                newest = max(newest, path.stat().st_mtime)
        return newest

    @property
    def has_ended(self) -> bool:
        """Whether training came to its end, by its last step or by its patience; a stopped run can go on."""
        if not self.metrics_path.is_file():
            return False
        with self.metrics_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            last = file.read().splitlines()[-1:]
        event = (parse_event(last[0]) if last else None) or {}
        return event.get("event") == "run_finished" and event.get("reason") in ("completed", "stopped_early")

    def dataset(self) -> TokenDataset:
        """Open the tokens the run is trained on; raises ``CorpusError`` when they are gone or are not the same."""
        return self.tokens().open()

    def tokens(self) -> RunTokens:
        """Return what is known of the tokens that the run is trained on."""
        folder, recorded = self._recorded()
        return RunTokens(self.name, folder, recorded, begin_command(self.profile()))

    def documents_path(self) -> Path | None:
        """Return the documents of the very text the run is trained on; None where they are gone or have changed."""
        from gptcli.corpora import find_corpus

        folder, recorded = self._recorded()
        for place in (Path("corpora") / recorded.corpus, folder.parent.parent):
            with contextlib.suppress(CorpusError, FormatError, OSError):
                corpus = find_corpus(str(place))
                if corpus.sha256 == recorded.corpus_sha256:
                    return corpus.documents
        return None

    def _recorded(self) -> tuple[Path, DatasetManifest]:
        with _restorable():
            value = read_json(self.dataset_path, format_version=RUN_VERSION, what="the dataset of a run")
            folder, manifest = value.get("folder"), value.get("manifest")
            if not isinstance(folder, str) or not isinstance(manifest, dict):
                raise FormatError(
                    f"{self.dataset_path}: the dataset of a run is damaged: folder or manifest is missing."
                )
            return Path(folder), DatasetManifest.from_json(manifest, str(self.dataset_path))


@contextlib.contextmanager
def _restorable() -> Iterator[None]:
    """Say of a file of a run that is missing or damaged where to have it: no command makes it again."""
    try:
        yield
    except VersionError:
        raise
    except FormatError as error:
        if error.hint not in ("", DAMAGED_HINT):
            raise
        raise FormatError(error.message, RESTORE) from error


def begin_command(profile: RunProfile) -> str:
    """Return the command that begins a run like that of a resolved ``profile``."""
    corpus = quote(profile.data.corpus or "CORPUS")
    if profile.finetune.base is None:
        return f"gptcli train {corpus}"
    return f"gptcli finetune {corpus} --from {quote(profile.finetune.base)}"


def create_run(
    profile: RunProfile,
    *,
    profile_name: str,
    dataset: TokenDataset,
    runs_dir: Path = Path("runs"),
    name: str | None = None,
) -> RunDir:
    """Create a run directory for ``profile`` on ``dataset``, complete but for metrics and checkpoints.

    Without ``name`` it is called after the corpus and the profile. The profile is resolved: ``vocab_size``, corpus
    and tokenizer are written out. Raises ``RunError`` for a name that exists or cannot be a folder, ``CorpusError``
    when the tokens are too few for the profile.
    """
    check_dataset_fits(profile, dataset)
    name = choose_name(name, profile_name, dataset, runs_dir)
    profile = profile.model_copy(update={"finetune": FinetuneConfig()})  # which training from scratch ignores
    with atomic_folder(runs_dir / name, replace=False) as folder:
        write_run(RunDir(folder), profile, profile_name=profile_name, dataset=dataset)
    return RunDir(runs_dir / name)


def choose_name(name: str | None, profile_name: str, dataset: TokenDataset, runs_dir: Path) -> str:
    """Return a new run's name: ``name`` if there is one and it can be, else one after corpus and profile."""
    if name is None:
        corpus = dataset.manifest.corpus
        says_both = f"{profile_name}-".startswith(f"{corpus}-")
        name = _free_name(profile_name if says_both else f"{corpus}-{profile_name}", runs_dir)
    check_run_name(name, runs_dir)
    return name


def write_run(run: RunDir, profile: RunProfile, *, profile_name: str, dataset: TokenDataset) -> None:
    """Write into an empty folder what every run has before its first step; the profile is resolved on the way."""
    write_profile(run.profile_path, resolve_profile(profile, dataset))
    save_tokenizer(dataset.tokenizer(), run.tokenizer_path)
    write_json(
        run.dataset_path,
        {
            "format_version": RUN_VERSION,
            "folder": str(dataset.folder.resolve()),
            "manifest": dataset.manifest.to_json(),
        },
    )
    _copy_ngrams(run, dataset)
    write_json(run.environment_path, _environment(profile_name))


def _copy_ngrams(run: RunDir, dataset: TokenDataset) -> None:
    """Give the run its own index of n-grams, so that copies can be found when the corpus is gone."""
    if dataset.manifest.ngrams is None:
        return
    try:
        content = read_ngrams(dataset.folder / NGRAMS_NAME, dataset.manifest.ngrams)
    except FormatError as error:
        raise FormatError(error.message, remake_hint(dataset.manifest)) from error
    with atomic_write(run.path / NGRAMS_NAME) as file:
        file.write(content)


def resolve_profile(profile: RunProfile, dataset: TokenDataset) -> RunProfile:
    """Return the profile with what the dataset decides filled in: ``vocab_size`` and the whole ``data`` section."""
    manifest = dataset.manifest
    if profile.model.vocab_size not in (None, manifest.vocab_size):
        raise ProfileError(
            f"model.vocab_size is {profile.model.vocab_size}, but the tokenizer {manifest.tokenizer} of the corpus "
            f"{manifest.corpus!r} has {manifest.vocab_size} tokens.",
            "Leave model.vocab_size out of the profile.",
        )
    data = profile.data.model_copy(
        update={
            "corpus": manifest.corpus,
            "tokenizer": manifest.tokenizer,
            "split": "auto" if manifest.split == "position" else manifest.split,
            "split_at": manifest.split_at,
            "val_fraction": manifest.val_fraction,
        }
    )
    model = profile.model.model_copy(update={"vocab_size": manifest.vocab_size})
    return profile.model_copy(update={"data": data, "model": model})


def check_dataset_fits(profile: RunProfile, dataset: TokenDataset) -> None:
    """Raise ``CorpusError`` when a split has not one whole window of ``block_size`` tokens."""
    block_size = profile.model.block_size
    sizes = {"train": len(dataset.train), "val": len(dataset.val)}
    for split, tokens in sizes.items():
        if tokens < block_size + 1:
            fewest = min(sizes.values())
            fitting = 1 << max(0, (fewest // 8).bit_length() - 1)  # at least 8 windows of 8, as the diagnosis says
            hint = f"Type --set block_size={fitting}, or add text" if fitting >= 8 else "Add text"
            if split == "val" and (dataset.manifest.split_at or 1) > 0.8:
                hint += ", or give val more of it: --set split_at=0.8"
            raise CorpusError(
                f"The {split} split of {dataset.manifest.corpus!r} has {tokens:,} tokens, "
                f"block_size {block_size} needs at least {block_size + 1:,}.",
                hint + ".",
            )


def check_run_name(name: str, runs_dir: Path = Path("runs")) -> None:
    """Raise ``RunError`` when ``name`` cannot be a run's name or is taken."""
    if not RUN_NAME.fullmatch(name):
        raise RunError(
            f"{name!r} cannot be a run's name: letters, digits, '.', '_' and '-' are allowed, up to 100 of them, "
            "and a letter or digit comes first.",
            "Choose another one, such as --run my-run.",
        )
    if (runs_dir / name).exists():
        if not RunDir(runs_dir / name).profile_path.exists():
            raise RunError(
                f"{runs_dir / name} exists already, and is no run: it has no profile.yaml.",
                "Choose another name with --run, or move away what lies there.",
            )
        raise RunError(
            f"The run {name!r} exists already in {runs_dir}.",
            f"Go on with it: gptcli train --resume --run {name}   Or choose another name with --run.",
        )


def change_run(run: RunDir, overrides: Sequence[str]) -> RunProfile:
    """Return the run's profile with ``--set`` overrides applied, for going on with it; nothing is written.

    Only ``train.*`` and ``sample.*`` may change, and of those not what the steps so far hang on. Raises
    ``ProfileError`` with all mistakes.
    """
    old = run.profile()
    new = build_profile(old.model_dump(mode="json"), overrides, where=str(run.profile_path))
    paths = [override_path(override.partition("=")[0].strip()) for override in overrides]
    fixed = [".".join(map(str, path)) for path in paths if path[0] not in ("train", "sample") or path in FIXED]
    if fixed:
        raise ProfileError(
            f"{', '.join(fixed)} cannot change while a run goes on.",
            f"Start a new run with it: {begin_command(old)} --run NEW_NAME --set ...",
        )
    return new if new.train == old.train else new.without_promise()


def run_names(runs_dir: Path = Path("runs")) -> list[str]:
    """Return the names of all runs, the newest first."""
    found = [path.parent for path in runs_dir.glob("*/profile.yaml") if not path.parent.name.startswith(".")]
    return [path.name for path in sorted(found, key=lambda path: (RunDir(path).changed_at, path.name), reverse=True)]


def find_run(name: str | None = None, runs_dir: Path = Path("runs")) -> RunDir:
    """Find a run by name, or by path; without a name the newest. Raises ``RunError`` with the nearest names."""
    names = run_names(runs_dir)
    if name is None:
        if not names:
            raise RunError(f"There is no run in {runs_dir} yet.", "Train one first: gptcli train")
        return RunDir(runs_dir / names[0])
    if name in names:
        return RunDir(runs_dir / name)
    if any(mark in name for mark in ("/", os.sep)) and (Path(name) / "profile.yaml").is_file():
        return RunDir(Path(name))
    if (runs_dir / name).is_dir() and name not in ("", ".", ".."):
        raise RunError(
            f"{runs_dir / name} has no profile.yaml, so it is not a run that can be used.",
            "Restore the file from a copy of the run, or give the folder another name.",
        )
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
    raise RunError(f"There is no run called {name!r} in {runs_dir}.", f"{hint}gptcli runs list shows them all.")


def default_settings(run: RunDir | None) -> SampleConfig:
    """Return what a run draws with unless told otherwise; its prompt is for the samples while training."""
    if run is None:
        return SampleConfig()
    return run.profile().sample.model_copy(update={"prompt": ""})


def _free_name(wanted: str, runs_dir: Path) -> str:
    wanted = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-.")[:90] or "run"
    names = [wanted, *(f"{wanted}-{number}" for number in range(2, 10_000))]
    return next(name for name in names if not (runs_dir / name).exists())


def _environment(profile_name: str) -> dict[str, object]:
    import numpy as np
    import torch

    return {
        "format_version": RUN_VERSION,
        "gptcli": __version__,
        "created_at": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "profile": profile_name,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }
