"""Checkpoints of nanoGPT (``ckpt.pt``) as a base: checked whole, and read tensor by tensor.

It is the only place where a pickle is opened, by ``torch.load(weights_only=True)``, which builds tensors and plain
values and refuses everything else. Where a character vocabulary comes from is the business of ``nanogpt_meta``.
"""

from __future__ import annotations

import re
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from pydantic import ValidationError
from torch import Tensor

from gptcli.bases.base import Base, LazyWeights
from gptcli.bases.nanogpt_meta import MAX_PADDING, find_alphabet
from gptcli.config import ModelConfig
from gptcli.errors import FormatError, RunError, TokenizerError
from gptcli.files import sha256_file
from gptcli.interchange import GPT2_MODULES, name_parts
from gptcli.tokenizer import CharTokenizer, Tokenizer, gpt2_tokenizer

PREFIX = "nanogpt:"
GPT2_VOCAB_SIZE = 50_257
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"
MASKS = re.compile(r"transformer\.h\.\d+\.attn\.bias")  # buffers of torch before 2.0
DATASET = re.compile(r"[\w./-]{1,100}")
WEIGHT_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
MAX_SHOWN, MAX_PROBLEM = 20, 200
MAX_BITS = 63
MAX_PICKLE = 8 * 1024 * 1024  # of names and sizes: 0.2 MB for GPT-2 XL and its optimizer
EXPECTED = "Expected the ckpt.pt that nanoGPT's train.py writes, such as nanogpt:out/ckpt.pt."
# Which of nanoGPT's model_args is the size of which tensor.
SIZES = {"vocab_size": (EMBEDDING, 0), "n_embd": (EMBEDDING, 1), "block_size": ("transformer.wpe.weight", 0)}
MODEL_ARGS = (*SIZES, "n_layer", "n_head", "bias", "dropout")


class _Vocabulary(NamedTuple):
    """The tokenizer, which row of the embedding each of its ids has, and what a user should know about them."""

    tokenizer: Tokenizer
    rows: Tensor
    notes: tuple[str, ...]


def open_nanogpt(
    path: Path, *, texts: Callable[[], Iterator[str]] | None = None, tokenizer: Tokenizer | None = None
) -> Base:
    """Open a checkpoint of nanoGPT; the weights stay in the file until they are asked for.

    ``texts`` are those of the corpus it was trained on, for the characters of a checkpoint without ``meta.pkl``;
    ``tokenizer`` is GPT-2's where it is at hand, and is not looked for elsewhere then.
    Raises ``RunError`` for a missing file, ``FormatError`` for a file that is no such checkpoint or asks for more than
    tensors and plain values, ``TokenizerError`` where its vocabulary cannot be had.
    """
    checkpoint = _load(path)
    theirs = _tensors(checkpoint, path)
    padded = _model_config(checkpoint, theirs, path)
    _check_tensors(theirs, padded, path)
    assert padded.vocab_size is not None, "it was compared with the embedding"
    dataset = _dataset(checkpoint)
    vocabulary = _vocabulary(path, dataset, padded.vocab_size, texts, tokenizer)
    return Base(
        name=f"{PREFIX}{path}",
        kind="nanogpt",
        config=padded.model_copy(update={"vocab_size": vocabulary.tokenizer.vocab_size}),
        tokenizer=vocabulary.tokenizer,
        weights=_weights(theirs, padded, vocabulary.rows),
        origin=_origin(checkpoint, dataset, path),
        notes=vocabulary.notes,
    )


def _load(path: Path) -> dict[str, Any]:
    """Return the checkpoint, its tensors mapped from the file where its format allows that."""
    if path.is_dir():
        raise RunError(f"{path} is a folder; a checkpoint of nanoGPT is a file.", f"Try {PREFIX}{path / 'ckpt.pt'}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError as error:
        raise RunError(f"There is no file {path}.", EXPECTED) from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}).", EXPECTED) from error
    if head[8:] == b"{":
        raise FormatError(f"{path} is a safetensors file, not a checkpoint of nanoGPT.", EXPECTED)
    zipped = head.startswith(b"PK\x03\x04")
    if not zipped and head[:1] != b"\x80":
        raise FormatError(f"{path} is not a checkpoint of nanoGPT: torch.save did not write it.", EXPECTED)
    if zipped:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that it refuses in the same breath
            checkpoint = torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)
    except Exception as error:  # a damaged file can raise anything inside torch
        raise _unreadable(path, error) from error
    if not isinstance(checkpoint, dict):
        raise FormatError(f"{path} is not a checkpoint of nanoGPT: it holds a {type(checkpoint).__name__}.", EXPECTED)
    return checkpoint


def _check_archive(path: Path) -> None:
    """Raise ``FormatError`` for an archive that is more in memory than on disk; torch.save compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:  # a damaged file can raise anything inside zipfile
        raise _damaged(path, str(error)) from error
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    pickled = max((member.file_size for member in members if member.filename.endswith(".pkl")), default=0)
    if packed:
        problem = f"{packed[0][:80]!r} in it is compressed"
    elif pickled > MAX_PICKLE:
        problem = f"data.pkl in it has {pickled:,} bytes, more than {MAX_PICKLE:,}"
    # Where there are two tables of contents torch may read the other one: the first entry of this lies further on.
    elif sum(member.file_size for member in members) > path.stat().st_size or members[0].header_offset:
        problem = "its table of contents is not that of the file"
    else:
        return
    raise FormatError(f"{path} is not a checkpoint of nanoGPT: torch.save did not write it ({problem}).", EXPECTED)


def _damaged(path: Path, reason: str) -> FormatError:
    return FormatError(f"{path} is damaged ({reason.rstrip('.')}).", f"Copy it again. {EXPECTED}")


def _unreadable(path: Path, error: Exception) -> FormatError:
    """Tell a pickle that wants more than it may from a damaged file."""
    text = str(error)
    if wanted := re.search(r"GLOBAL (\S+)", text):
        return FormatError(
            f"{path} was refused, and nothing in it was run: it asks for {wanted[1]}, and a checkpoint of nanoGPT "
            "holds nothing but tensors and plain values.",
            "Do not open it with other programs either, unless you know who wrote it.",
        )
    reason = text.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0].partition(". ")[0]
    reason = textwrap.shorten(reason or type(error).__name__, 160, placeholder=" ...")
    return _damaged(path, reason)


def _tensors(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the weights by nanoGPT's names, without the prefix of torch.compile and old masks."""
    model = checkpoint.get("model")
    if not isinstance(model, dict) or not isinstance(checkpoint.get("model_args"), dict):
        keys = sorted(_name(key)[:80] for key in checkpoint)
        found = ", ".join(keys[:6]) + (" ..." if len(keys) > 6 else "") or "nothing"
        raise FormatError(
            f"{path} is not a checkpoint of nanoGPT: it should hold model and model_args, found {found}.", EXPECTED
        )
    theirs = {_name(name).removeprefix("_orig_mod."): tensor for name, tensor in model.items()}
    problems = [f"{name} is no tensor of weights" for name, tensor in theirs.items() if not _is_weights(tensor)]
    if problems:
        raise _misfit(path, problems)
    return {name: tensor.detach() for name, tensor in theirs.items() if not MASKS.fullmatch(name)}


def _name(key: object) -> str:
    """Return a key of a dictionary that should be a name; what else there is may be endless when written out."""
    return key if isinstance(key, str) else type(key).__name__


def _is_weights(tensor: object) -> TypeGuard[Tensor]:
    """Say whether it is a tensor of numbers that are all there; strides can pretend to more than the file holds."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in WEIGHT_DTYPES
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _is_plain(value: object) -> TypeGuard[int | float | bool]:
    """Say whether it is a number of a size that a setting can have, or a switch."""
    return type(value) in (bool, float) or (type(value) is int and value.bit_length() <= MAX_BITS)


def _shown(value: object) -> str:
    """Return the beginning of a value; a number or a container may be endless when written out."""
    if isinstance(value, str):
        return repr(value[:80])[:80]
    return repr(value) if value is None or _is_plain(value) else f"of type {type(value).__name__}"


def _model_config(checkpoint: dict[str, Any], theirs: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """Return the shape that model_args tells, padding included, after comparing it with the tensors."""
    told = checkpoint["model_args"]
    problems = [f"{name} is missing" for name in sorted(set(dict(SIZES.values())) - set(theirs))]
    problems += [f"{name} is no matrix" for name in dict(SIZES.values()) if name in theirs and theirs[name].dim() != 2]
    if problems:
        raise _misfit(path, problems)
    found: dict[str, object] = {key: theirs[name].size(axis) for key, (name, axis) in SIZES.items()}
    layers = (re.match(r"transformer\.h\.(\d+)\.", name) for name in theirs)
    found["n_layer"] = len({match[1] for match in layers if match})
    found["bias"] = "transformer.ln_f.bias" in theirs
    told = {"bias": found["bias"], "dropout": 0.0, **told}  # checkpoints of January 2023 lack these
    told = {key: told.get(key) for key in MODEL_ARGS}
    problems = [
        f"model_args has {key} {_shown(told[key])}, the tensors have {value}"
        for key, value in found.items()
        if type(told[key]) is not type(value) or told[key] != value
    ]
    problems += [
        f"model_args has {key} {_shown(told[key])}, expected a number"
        for key in MODEL_ARGS
        if key not in found and not _is_plain(told[key])
    ]
    if problems:
        raise _misfit(path, problems)
    dropout = float(told["dropout"])
    try:
        return ModelConfig.model_validate({"family": "gpt2", "gelu": "exact", **told, "dropout": dropout})
    except ValidationError as error:
        problems = [
            f"model_args: {'.'.join(map(str, item['loc']))} {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise _misfit(path, problems) from error


def _misfit(path: Path, problems: list[str]) -> FormatError:
    listed = "\n".join(f"  {problem[:MAX_PROBLEM]}" for problem in problems[:MAX_SHOWN])
    more = f"\n  and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    return FormatError(
        f"{path}: this is not a model that nanoGPT's model.py defines:\n{listed}{more}",
        "A changed model.py cannot be brought in.",
    )


def nanogpt_names(config: ModelConfig) -> dict[str, str]:
    """Return nanoGPT's name for each tensor of ``GPT(config)``; its layers are nn.Linear like ours."""
    return {name: part.names[0] for name, part in name_parts(config, GPT2_MODULES).items()}


def _check_tensors(theirs: Mapping[str, Tensor], config: ModelConfig, path: Path) -> None:
    """Raise ``FormatError`` that lists every tensor missing, too many, of another shape or not tied."""
    expected = {part.names[0]: part.shape for part in name_parts(config, GPT2_MODULES).values()}
    problems = []
    for name, shape in expected.items():
        if name not in theirs:
            problems.append(f"{name} is missing, expected {shape}")
        elif tuple(theirs[name].shape) != shape:
            problems.append(f"{name} is {tuple(theirs[name].shape)}, expected {shape}")
    problems += [f"{name} is not known" for name in sorted(set(theirs) - set(expected) - {HEAD})]
    head, embedding = theirs.get(HEAD), theirs[EMBEDDING]
    if head is not None and head.data_ptr() != embedding.data_ptr() and not torch.equal(head, embedding):
        problems.append(f"{HEAD} differs from {EMBEDDING}, with which nanoGPT ties it")
    if problems:
        raise _misfit(path, problems)


def _weights(theirs: Mapping[str, Tensor], config: ModelConfig, rows: Tensor) -> LazyWeights:
    makers = {name: partial(theirs.__getitem__, their) for name, their in nanogpt_names(config).items()}
    whole = torch.equal(rows, torch.arange(config.vocab_size or 0))
    return LazyWeights(makers if whole else {**makers, "wte.weight": partial(theirs[EMBEDDING].__getitem__, rows)})


def _dataset(checkpoint: dict[str, Any]) -> str | None:
    """Return the folder below nanoGPT's ``data/`` that it was trained on, where it has a usable name."""
    settings = checkpoint.get("config")
    dataset = settings.get("dataset") if isinstance(settings, dict) else None
    usable = isinstance(dataset, str) and DATASET.fullmatch(dataset) and len(dataset.encode()) <= MAX_PROBLEM
    return dataset if usable else None


def _vocabulary(
    path: Path,
    dataset: str | None,
    vocab_size: int,
    texts: Callable[[], Iterator[str]] | None,
    gpt2: Tokenizer | None,
) -> _Vocabulary:
    """Return GPT-2's tokenizer for its vocabulary, padded or not, else one of characters."""
    if 0 <= vocab_size - GPT2_VOCAB_SIZE <= MAX_PADDING:
        return _Vocabulary(
            gpt2 or gpt2_tokenizer(),
            torch.arange(GPT2_VOCAB_SIZE),
            _cropped(vocab_size, GPT2_VOCAB_SIZE, "GPT-2's tokens"),
        )
    characters, notes = find_alphabet(path, dataset, vocab_size, texts)
    alphabet = sorted(filter(None, characters))
    ends = [""] if "" in characters else []
    try:
        tokenizer = CharTokenizer("".join(alphabet), end_of_text=bool(ends))
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{path}: its characters cannot be written as UTF-8 text.", EXPECTED) from error
    theirs = {character: token_id for token_id, character in enumerate(characters)}
    rows = torch.tensor([theirs[character] for character in [*alphabet, *ends]])
    if not torch.equal(rows, torch.arange(len(rows))):
        notes = (*notes, "Its characters are in an order of their own: the rows of the embedding were sorted.")
    return _Vocabulary(tokenizer, rows, (*notes, *_cropped(vocab_size, len(rows), "characters")))


def _cropped(rows: int, tokens: int, what: str) -> tuple[str, ...]:
    if rows == tokens:
        return ()
    return (f"The embedding has {rows:,} rows for {tokens:,} {what}: the last {rows - tokens:,} only pad and go.",)


def _origin(checkpoint: dict[str, Any], dataset: str | None, path: Path) -> dict[str, str | int]:
    origin: dict[str, str | int] = {"file": str(path), "sha256": sha256_file(path)}
    if dataset is not None:
        origin["dataset"] = dataset
    step, loss = checkpoint.get("iter_num"), checkpoint.get("best_val_loss")
    if _is_plain(step) and isinstance(step, int) and not isinstance(step, bool):
        origin["iter_num"] = step
    if _is_weights(loss) and loss.numel() == 1:
        loss = loss.item()
    if _is_plain(loss) and not isinstance(loss, bool):
        origin["best_val_loss"] = f"{loss:.4f}"
    return origin
