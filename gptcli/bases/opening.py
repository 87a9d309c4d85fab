"""What a name stands for: a run, a folder, a published model, one of the hub, or a checkpoint of nanoGPT.

It owns the order in which these are tried, and what is known of a model before anything is downloaded.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TypeVar

from gptcli.bases.base import Base
from gptcli.bases.exported import open_exported
from gptcli.bases.folder import open_folder, open_settings
from gptcli.bases.folder_tokenizer import DamagedFileError, read_object
from gptcli.bases.hub import (
    Say,
    UnknownModelError,
    UnreachableError,
    cached_snapshot,
    download,
    is_cached,
    remote_config,
)
from gptcli.bases.nanogpt import PREFIX, open_nanogpt
from gptcli.bases.run import open_run
from gptcli.checkpoint_folders import Which
from gptcli.config import GPT2_NAMES, ModelConfig
from gptcli.corpora import is_fetched, locate_corpus
from gptcli.errors import FormatError, GptcliError, RunError
from gptcli.fetch.source import shown
from gptcli.interchange import model_config_from_json
from gptcli.runs import RunDir, find_run, run_names

NANOGPT_FILE = "ckpt.pt"
PICKLES = (".pt", ".pth")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
QWEN = "Qwen/Qwen3-0.6B-Base"
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What is known of a base before its weights are read."""

    name: str
    config: ModelConfig
    download_bytes: int
    """Of the weights that are not on this machine yet."""
    stored_dtype: str
    """Number format of the weights where they are: float32, float16 or bfloat16."""
    where: str
    """Where they are, in words."""


def _gpt2(n_layer: int, n_head: int, n_embd: int) -> ModelConfig:
    return ModelConfig(
        family="gpt2", n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=1024, vocab_size=50_257,
        dropout=0.1, bias=True,
    )  # fmt: skip


def _known() -> dict[str, tuple[ModelConfig, int, str]]:
    """Return the models whose shape and size are known without asking anybody."""
    qwen = ModelConfig(
        n_layer=28, n_head=16, n_kv_head=8, n_embd=1024, head_dim=128, n_inner=3072, block_size=32_768,
        vocab_size=151_669, rope_theta=1e6,
    )  # fmt: skip
    return {
        "gpt2": (_gpt2(12, 12, 768), 548_105_171, "float32"),
        "gpt2-medium": (_gpt2(24, 16, 1024), 1_519_984_962, "float32"),
        "gpt2-large": (_gpt2(36, 20, 1280), 3_247_159_078, "float32"),
        "gpt2-xl": (_gpt2(48, 25, 1600), 6_431_829_964, "float32"),
        QWEN: (qwen, 1_192_135_096, "bfloat16"),
    }


def open_base(
    name: str,
    *,
    which: Which = "best",
    on_notice: Say = lambda _: None,
    on_progress: Say = lambda _: None,
) -> Base:
    """Open what a name stands for; of a run, its best or latest checkpoint.

    Tried in this order: ``nanogpt:FILE``, a run by name or path, a published GPT-2, a folder, a model of the hub.
    Only the hub is asked over the network, and only for what is not in its cache. Raises ``RunError`` for a name that
    stands for nothing and for weights that cannot be had, ``FormatError`` and ``TokenizerError`` for what is in them.
    """
    local = _open_local(name, which)
    if local is not None:
        if local.kind == "run" and name in GPT2_NAMES:
            on_notice(f"{name} is your run here; the published model is openai-community/{name}.")
        return local
    repositories = _repositories(name)
    with _explained(name):
        snapshot = _first_cached(repositories)
        if snapshot is None:
            fetch = partial(download, check=_check_settings, on_notice=on_notice, on_progress=on_progress)
            snapshot = _first_known(repositories, fetch)
        return _open_snapshot(snapshot, name)


def describe_base(name: str) -> BaseFacts:
    """Return what is known of a base, for a plan; of a model that is not here, no weights are downloaded.

    For a name that is not known by heart that is its ``config.json``. Raises as ``open_base``.
    """
    base, where = _open_local(name, "best"), "on this machine"
    if base is None:
        repositories = _repositories(name)
        with _explained(name):
            snapshot = _first_cached(repositories)
            if snapshot is None:
                return _describe_remote(name, repositories)
            base, where = _open_snapshot(snapshot, name), "in the local cache"
    dtype = str(base.weights["wte.weight"].dtype).removeprefix("torch.")
    return BaseFacts(base.name, base.config, 0, dtype, where)


def _open_local(name: str, which: Which) -> Base | None:
    """Open what is on this machine without any cache; None for a name that only the hub can know."""
    if name.startswith(PREFIX):
        return open_nanogpt(Path(name.removeprefix(PREFIX)).expanduser())
    if (run := run_named(name)) is not None:
        return open_run(run, name, which=which)
    if name in GPT2_NAMES:
        return None
    folder = Path(name).expanduser()
    if (folder / "model.json").is_file():
        return open_exported(folder, name)
    if (folder / "config.json").is_file():
        return open_folder(folder, name)
    if is_fetched(name):
        raise _a_corpus(name)
    if folder.exists():
        raise _not_a_model(folder)
    return None


def run_named(name: str) -> RunDir | None:
    """Return the run that a name or a path stands for, or None."""
    by_path = any(mark in name for mark in ("/", os.sep)) and (Path(name) / "profile.yaml").is_file()
    return find_run(name) if by_path or name in run_names() else None


def _a_corpus(name: str) -> RunError:
    """Return the error for a corpus in place of a model: the runs that learned it are what was meant."""
    corpus = locate_corpus(name)[0]
    trained = []
    for run in run_names():
        with contextlib.suppress(GptcliError, OSError):
            if find_run(run).profile().data.corpus == corpus:
                trained.append(run)
    hint = f"No run here is trained on it: gptcli train {quote(name)}"
    if trained:
        hint = f"Trained on it: {shown(trained)}. gptcli sample {quote(trained[0])} writes with it."
    return RunError(f"{name} is a corpus, not a model.", hint)


def _not_a_model(path: Path) -> RunError:
    if any(file.suffix == ".gguf" for file in (path, *(path.iterdir() if path.is_dir() else ()))):
        return RunError(
            f"{path}: this is GGUF, for llama.cpp and Ollama; gptcli does not read it.",
            "Name the run that it was exported from, or export that once more: gptcli export RUN --format hf",
        )
    if (path / NANOGPT_FILE).is_file():
        return RunError(
            f"{path} is a folder of nanoGPT, whose model is the file {NANOGPT_FILE}.",
            f"Name the file: {PREFIX}{path / NANOGPT_FILE}",
        )
    if path.is_dir():
        return RunError(
            f"{path} is no folder of a model: it has neither config.json (by save_pretrained) nor model.json "
            "(by gptcli export).",
            "Give the folder that holds one of these.",
        )
    if path.suffix in PICKLES:
        return RunError(f"{path} is a file.", f"If it is a checkpoint of nanoGPT, give {PREFIX}{path}")
    if path.suffix == ".safetensors":
        return RunError(f"{path} is a file; a folder with config.json was expected.", f"Try its folder: {path.parent}")
    return RunError(
        f"{path} is a file, not a model.",
        f"A text to go on with: gptcli sample RUN --prompt-file {quote(str(path))}   gptcli runs list shows the runs.",
    )


def _repositories(name: str) -> tuple[str, ...]:
    """Return where a name may lie on the hub and in its cache; raises ``RunError`` for one that cannot be there."""
    if name in GPT2_NAMES:
        # The new name, and that under which old caches have it.
        return tuple(sorted((f"openai-community/{name}", name), key=is_cached, reverse=True))
    if Path(name).suffix in PICKLES:
        raise RunError(f"There is no file {name}.", f"{_meant(name)}A checkpoint of nanoGPT is given as {PREFIX}FILE.")
    if HUB_NAME.fullmatch(name):
        return (name,)
    raise RunError(
        f"{name!r} is neither a run nor a folder of a model nor a published one ({', '.join(_known())}).",
        f"{_meant(name)}Any OWNER/NAME of the Hugging Face hub can be given, a folder by save_pretrained, or "
        f"{PREFIX}FILE; gptcli runs list shows the runs.",
    )


def _meant(name: str) -> str:
    """Return the question whether one of the names that are near was meant, if there are any."""
    folder = Path(name).expanduser().parent
    listed = folder.iterdir() if folder.is_dir() and name != Path(name).name else ()
    beside = [path for path in listed if not path.name.startswith(".")]
    names = {str(path): f"{PREFIX if path.suffix in PICKLES else ''}{path}" for path in beside}
    names |= {known: known for known in (*run_names(), *_known())}
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    begun = [known for known in names if name and known.lower().startswith(name.lower())]
    near = list(dict.fromkeys((*alike, *begun)))[:3]
    return f"Did you mean {' or '.join(names[each] for each in near)}? " if near else ""


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say more where the hub or its cache fails: that there is no such path, or how a damaged file is got rid of."""
    try:
        yield
    except DamagedFileError as error:
        copy = next((path for path in error.path.parents if path.name.startswith("models--")), error.path.parent)
        raise FormatError(
            error.message, f'The copy in the cache is damaged: rm -r "{copy}"   and type the same again.'
        ) from error
    except (UnknownModelError, UnreachableError) as error:
        if name in _known() or not Path(name).parent.is_dir():
            raise
        raise RunError(
            f"There is no folder or run {name} here. {error.message}", f"{_meant(name)}{error.hint}"
        ) from error


def _first_cached(repositories: tuple[str, ...]) -> Path | None:
    """Return the folder of the first repository that is whole in the cache."""
    return next((found for each in repositories if (found := cached_snapshot(each)) is not None), None)


def _check_settings(folder: Path) -> None:
    open_settings(folder)


def _first_known(repositories: tuple[str, ...], ask: Callable[[str], Answer]) -> Answer:
    """Return the answer for the first repository that the hub knows."""
    *others, last = repositories
    for other in others:
        with contextlib.suppress(UnknownModelError):
            return ask(other)
    return ask(last)


def _open_snapshot(snapshot: Path, name: str) -> Base:
    """Open a folder of the hub's cache: ``models--OWNER--NAME/snapshots/REVISION``."""
    repository = snapshot.parents[1].name.removeprefix("models--").replace("--", "/")
    origin: dict[str, str | int] = {"repository": repository, "revision": snapshot.name}
    return open_folder(snapshot, name, kind="published", origin=origin)


def _describe_remote(name: str, repositories: tuple[str, ...]) -> BaseFacts:
    where = f"to be downloaded from {repositories[0]}"
    if name in _known():
        config, size, dtype = _known()[name]
        return BaseFacts(name, config, size, dtype, where)
    path, size = _first_known(repositories, remote_config)
    settings = read_object(path)
    dtype = str(settings.get("dtype") or settings.get("torch_dtype"))
    stored = dtype if dtype in ("bfloat16", "float16") else "float32"
    return BaseFacts(name, model_config_from_json(settings), size, stored, where)
