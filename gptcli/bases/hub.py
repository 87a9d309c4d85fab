"""Models of the Hugging Face hub, or of a mirror (``HF_ENDPOINT``): their files in the cache, or brought there.

It owns which files are needed, in which order, and what is said when they cannot be had. What is in them is the
business of ``folder``. Only files are downloaded that hold data: weights in safetensors, settings, vocabularies.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptcli.bases.folder import INDEX, SAVE_AGAIN, WEIGHTS, index_files
from gptcli.bases.folder_tokenizer import in_a_line
from gptcli.errors import FormatError, GptcliError, RunError, TokenizerError
from gptcli.progress import Portion

CONFIG = "config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
Say = Callable[[str], None]


class UnknownModelError(RunError):
    """The hub has no such model, or does not show it."""


class UnreachableError(RunError):
    """The hub cannot be asked now."""


def cached_snapshot(repository: str) -> Path | None:
    """Return the folder of a model in the cache when it is whole there; nothing is asked for."""
    folder = _cached_folder(repository)
    if folder is None or not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    return folder if _has_weights(folder) else None


def is_cached(repository: str) -> bool:
    """Say whether anything of a model is in the cache."""
    return _cached_folder(repository) is not None


def download(repository: str, *, check: Callable[[Path], None], on_notice: Say, on_progress: Say) -> Path:
    """Return the folder of a model in the cache, after what is missing there was downloaded.

    ``check`` is called with the folder before the weights are there, so that none are downloaded in vain. Raises
    ``UnknownModelError`` for a name the hub does not know or show, ``FormatError`` for a model without safetensors,
    ``UnreachableError`` for one that is not whole in the cache while the hub does not answer, ``RunError`` for one that
    is gated or does not fit on the disk.
    """
    hub = _Hub(repository, on_progress)
    with _quiet():
        # A second time where half of an older revision was here: its newer one is the one to be had now.
        folders = _fetch(hub, check, on_notice)
        if len(folders) > 1:
            folders = _fetch(hub, check, on_notice)
    if len(folders) > 1:
        raise RunError(f"{repository} was changed on the hub while it was downloaded.", "Type the same command again.")
    return folders.pop()


def _fetch(hub: _Hub, check: Callable[[Path], None], on_notice: Say) -> set[Path]:
    """Fetch the files of a model that are missing; returns the folders of the cache in which they are."""
    config = hub.file(CONFIG)
    trouble = hub.tokenizer_files()
    names = hub.weight_names()
    missing = [name for name in names if _cached(hub.repository, name) is None]
    size = sum(hub.size(name) for name in missing)
    try:
        check(config.parent)
    except TokenizerError:
        if trouble is not None:
            raise trouble from None
        raise
    if missing:
        _check_disk(hub.repository, size, config.parent)
        on_notice(f"Downloading {hub.repository}: {size / 1e9:.2f} GB.")
    return {hub.file(name).parent for name in (CONFIG, *names)}


def remote_config(repository: str) -> tuple[Path, int]:
    """Return the ``config.json`` of a model, and the bytes of its weights that are not here; downloads no weights."""
    hub = _Hub(repository, lambda _: None)
    with _quiet():
        config = hub.file(CONFIG)
        names = [name for name in hub.weight_names() if not (config.parent / name).is_file()]
        return config, sum(hub.size(name) for name in names)


class _NoFileError(Exception):
    """The repository is there, the file is not."""


class _Hub:
    """One repository: its files by name, errors in our words."""

    def __init__(self, repository: str, on_progress: Say) -> None:
        self.repository = repository
        self.on_progress = on_progress

    def file(self, name: str) -> Path:
        """Return a file in the cache, downloaded if need be; raises ``_NoFileError`` where the model has none."""
        from huggingface_hub import constants, hf_hub_download

        if (found := _cached(self.repository, name)) is not None:
            return found
        if not constants.HF_HUB_OFFLINE:
            self.size(name)  # fails at once where the hub cannot be reached; the download would try for half a minute
        with self._errors(name):
            return Path(hf_hub_download(self.repository, name, **_progress_bar(name, self.on_progress)))

    def size(self, name: str) -> int:
        """Return the bytes of a file on the hub."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        with self._errors(name):
            return get_hf_file_metadata(hf_hub_url(self.repository, name)).size or 0

    def tokenizer_files(self) -> RunError | None:
        """Fetch what there is of a tokenizer; returns the error where that cannot be had now."""
        try:
            for name in TOKENIZERS:
                with contextlib.suppress(_NoFileError):
                    self.file(name)
        except RunError as error:
            return error
        return None

    def weight_names(self) -> list[str]:
        """Return the names of the files with the weights: one, or those of an index."""
        if _cached(self.repository, WEIGHTS) is not None:
            return [WEIGHTS]
        if (index := _cached(self.repository, INDEX)) is not None:
            return index_files(index)
        with contextlib.suppress(_NoFileError):
            self.size(WEIGHTS)
            return [WEIGHTS]
        with contextlib.suppress(_NoFileError):
            return index_files(self.file(INDEX))
        raise FormatError(
            f"{self.repository} has no {WEIGHTS}. Weights in other files are not read: they can run code.",
            SAVE_AGAIN.format(self.repository),
        )

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        from huggingface_hub import errors

        try:
            yield
        except GptcliError:
            raise
        except errors.LocalEntryNotFoundError as error:
            raise self._unreachable(error, name) from error
        except errors.EntryNotFoundError as error:
            raise _NoFileError(name) from error
        except Exception as error:  # the errors of its HTTP client of the day come through
            raise self._said(error, name) from error

    def _said(self, error: Exception, name: str) -> RunError:
        from huggingface_hub import constants, errors

        page = f"{constants.ENDPOINT}/{self.repository}"
        login = "type: hf auth login   (or set HF_TOKEN)"
        if isinstance(error, errors.GatedRepoError):
            return RunError(
                f"{self.repository} is gated: its owners want to be asked before it is downloaded.",
                f"Ask at {page}, then {login}",
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return UnknownModelError(
                f"{constants.ENDPOINT} has no model {self.repository}, or it is private.",
                f"Check the name at {page}; for a private model, {login}",
            )
        if isinstance(error, errors.HFValidationError):
            return UnknownModelError(f"{self.repository!r} cannot be a model's name on the hub ({in_a_line(error)}).")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return _no_room(self.repository, name, constants.HF_HUB_CACHE)
        return self._unreachable(error, name)

    def _unreachable(self, error: Exception, name: str) -> UnreachableError:
        """Say that the hub cannot be asked, and what of the model is here."""
        from huggingface_hub import constants

        folder = _cached_folder(self.repository)
        cause = error.__cause__ or error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        hint = (
            f"Connect once, or copy the cache of a machine that has {self.repository} and set HF_HOME to it, "
            "or give the path of a local folder written by save_pretrained."
        )
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set, so nothing is downloaded"
        elif status is not None:
            why = f"{constants.ENDPOINT} answers with an error ({in_a_line(cause)})"
            mine = status < 500 and status != 429
            hint = "If you have a token, it may be wrong: hf auth login" if mine else "Type the same again later."
        else:
            why = f"{constants.ENDPOINT} cannot be reached ({in_a_line(cause)})"
        if folder is None:
            found = f"{self.repository} is not in the local cache"
        else:
            found = f"The copy of {self.repository} in the local cache is not whole: {name} is missing"
        return UnreachableError(f"{found}, and {why}.", hint)


def _cached_folder(repository: str) -> Path | None:
    """Return the folder of a model in the cache, whole or not."""
    config = _cached(repository, CONFIG)
    return None if config is None else config.parent


def _cached(repository: str, name: str) -> Path | None:
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, name)
    except errors.HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _has_weights(folder: Path) -> bool:
    if (folder / WEIGHTS).is_file():
        return True
    return (folder / INDEX).is_file() and all((folder / name).is_file() for name in index_files(folder / INDEX))


def _check_disk(repository: str, size: int, folder: Path) -> None:
    if shutil.disk_usage(folder).free < size:
        raise _no_room(repository, f"{size / 1e9:.2f} GB", str(folder.parents[2]))


def _no_room(repository: str, what: str, cache: str) -> RunError:
    return RunError(
        f"There is not enough room on the disk for {what} of {repository} in {cache}.",
        "Make room (hf cache ls shows what is there), or set HF_HOME to a folder on another disk.",
    )


def _progress_bar(name: str, on_progress: Say) -> dict[str, Any]:
    """Return the option that has the library's progress told to ``on_progress`` instead of drawn."""
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    if "tqdm_class" not in inspect.signature(hf_hub_download).parameters:
        return {}
    drawn: Any = tqdm

    def begin(bar: Any, *args: object, **options: object) -> None:  # noqa: ANN401 - tqdm has no types
        drawn.__init__(bar, *args, **{**options, "file": io.StringIO()})

    def show(bar: Any, *_: object, **__: object) -> None:  # noqa: ANN401
        total = f" of {bar.total / 1e6:,.0f}" if bar.total else ""
        line = f"Downloading {name}: {bar.n / 1e6:,.0f}{total} MB."
        on_progress(Portion(line, bar.n, bar.total) if bar.total else line)

    return {"tqdm_class": type("Told", (drawn,), {"__init__": begin, "display": show})}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub from writing to the terminal, and put its settings back afterwards."""
    from huggingface_hub import utils as their_utils

    utils: Any = their_utils
    verbosity, had_bars = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    utils.logging.set_verbosity_error()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(verbosity)
        if had_bars:
            utils.enable_progress_bars()
