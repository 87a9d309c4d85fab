"""Folders as ``save_pretrained`` writes them: ``config.json``, safetensors in one file or several, a tokenizer.

Tensors are read one at a time when they are asked for. Nothing in such a folder is executed, and nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptcli.bases.base import Base, BaseKind, LazyWeights
from gptcli.bases.folder_tokenizer import DamagedFileError, in_a_line, inside_quotes, open_folder_tokenizer, read_object
from gptcli.config import ModelConfig
from gptcli.errors import FormatError, TokenizerError
from gptcli.interchange import lazy_from_transformers, model_config_from_json
from gptcli.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "model.pt", "tf_model.h5")
SAVE_AGAIN = (
    'Write them again: python -c "from transformers import AutoModelForCausalLM as A; '
    "A.from_pretrained('{}').save_pretrained('FOLDER')\"   and give the FOLDER."
)
DTYPES = ("F32", "F16", "BF16")
# A vocabulary is padded to a round number for speed; more rows than that are another tokenizer's.
MAX_PADDING = 1023
_MASK = re.compile(r"attn\.(masked_)?bias$")  # no weight; see interchange


def open_folder(
    folder: Path, name: str, *, kind: BaseKind = "folder", origin: Mapping[str, str | int] | None = None
) -> Base:
    """Open a folder with ``config.json``; the weights stay on disk until they are asked for.

    Raises ``FormatError`` for another class of model, for settings and tensors that do not fit, and for damaged or
    missing files; ``TokenizerError`` for a tokenizer that cannot be used or does not fit the weights.
    """
    config, tokenizer = open_settings(folder)
    shapes, stored = read_stored(weight_files(folder))
    try:
        makers = lazy_from_transformers(stored, shapes, config)
    except FormatError as error:
        raise _at(folder, error) from error
    rows, size = config.vocab_size or 0, tokenizer.vocab_size
    notes: tuple[str, ...] = ()
    if rows > size:
        notes = (f"{rows - size} rows that only pad the vocabulary of {name} are left out: it has {size:,} tokens.",)
        for key in {"wte.weight", "head.weight"} & makers.keys():
            makers[key] = partial(_first_rows, makers[key], size)
    return Base(
        name,
        kind,
        config.model_copy(update={"vocab_size": size}),
        tokenizer,
        LazyWeights(makers),
        origin if origin is not None else {"folder": str(folder)},
        notes,
    )


def open_settings(folder: Path) -> tuple[ModelConfig, Tokenizer]:
    """Return the configuration of a folder's model, with the rows its weights have, and its tokenizer.

    Needs no weights, and raises whatever ``open_folder`` does about the rest.
    """
    settings = read_object(folder / "config.json")
    try:
        config = model_config_from_json(settings)
    except FormatError as error:
        raise _at(folder, error) from error
    rows = config.vocab_size or 0
    tokenizer = open_folder_tokenizer(folder, settings, rows)
    size = tokenizer.vocab_size
    if not size <= rows <= size + MAX_PADDING:
        raise TokenizerError(
            f"{folder}: the tokenizer does not match the weights: it has {size:,} tokens, they have rows for {rows:,}.",
            "Put the tokenizer.json that belongs to the weights beside them.",
        )
    return config, tokenizer


def _at(folder: Path, error: FormatError) -> FormatError:
    """Return the error with the folder named."""
    where = "" if str(folder) in error.message else f"{folder}: "
    return FormatError(f"{where}{error.message}", error.hint)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder; raises ``FormatError`` when one is missing or there are none."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        found = [name for name in PICKLES if (folder / name).is_file()]
        if found:
            raise FormatError(
                f"{folder}: the weights are in {found[0]} only, which can run code when it is opened. "
                f"gptcli reads {WEIGHTS}.",
                SAVE_AGAIN.format(inside_quotes(folder)),
            )
        raise FormatError(f"{folder}: there are no weights: neither {WEIGHTS} nor {INDEX}.", SAVE_AGAIN.format("MODEL"))
    names = index_files(folder / INDEX)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FormatError(
            f"{folder}: the weights are not whole: {', '.join(missing)} of {len(names)} files is missing.",
            "Copy the missing files beside the others.",
        )
    return [folder / name for name in names]


def index_files(index: Path) -> list[str]:
    """Return the names of the files that an index lists; names that lead out of the folder are an error."""
    weight_map = read_object(index).get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not names or not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors", name) for name in names):
        raise DamagedFileError(f"{index} is damaged: it should list files of safetensors.", index)
    return names


def read_stored(files: list[Path]) -> tuple[dict[str, tuple[int, ...]], Mapping[str, Tensor]]:
    """Return the shapes of all tensors in safetensors files, and the tensors themselves, each read when asked for."""
    shapes: dict[str, tuple[int, ...]] = {}
    makers = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                other = {
                    n: s.get_dtype() for n, s in found.items() if not _MASK.search(n) and s.get_dtype() not in DTYPES
                }
                shapes.update({name: tuple(part.get_shape()) for name, part in found.items()})
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedFileError(f"{path}: the weights cannot be read ({in_a_line(error)}).", path) from error
        if other:
            name, dtype = next(iter(other.items()))
            raise FormatError(
                f"{path}: {len(other)} tensors have a number format that gptcli does not read, such as {dtype} in "
                f"{name}; it reads float32, float16 and bfloat16."
            )
        makers.update({name: partial(_read_tensor, path, name) for name in found})
    return shapes, LazyWeights(makers)


def _read_tensor(path: Path, name: str) -> Tensor:
    """Map one tensor; the file is opened anew, so that nothing stays mapped but what is in use."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _first_rows(make: Callable[[], Tensor], n: int) -> Tensor:
    return make()[:n]
