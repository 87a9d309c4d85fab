"""Models trained elsewhere: the published GPT-2 sizes by name, and local folders written by ``save_pretrained``.

It owns what can be loaded, from where, and with which tokenizer. How their tensors are named is the business of
``interchange``. Only safetensors are read: nothing is ever unpickled here.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gptcli.config import GPT2_NAMES, ModelConfig
from gptcli.errors import FormatError, RunError, TokenizerError
from gptcli.interchange import model_config_from_transformers, take_from_transformers
from gptcli.model import GPT, rotary_tables
from gptcli.tokenizer import Tokenizer, gpt2_tokenizer

GPT2_VOCAB_SIZE = 50_257
GPT2_GIGABYTES = {"gpt2": 0.5, "gpt2-medium": 1.5, "gpt2-large": 3.2, "gpt2-xl": 6.4}
CLASSES = {"gpt2": "GPT2LMHeadModel", "qwen3": "Qwen3ForCausalLM"}  # by the model_type of config.json
MAX_SHOWN = 10
Notice = Callable[[str], None]


def load_pretrained(
    name: str, *, device: torch.device | str = "cpu", on_notice: Notice = lambda _: None
) -> tuple[GPT, Tokenizer]:
    """Load a published GPT-2 (``GPT2_NAMES``) or a local folder written by ``save_pretrained``, in float32.

    A published model is taken from the local cache of transformers, else downloaded, which ``on_notice`` is told.
    Raises ``RunError`` for an unknown name and for weights that cannot be had, ``TokenizerError`` where gptcli has
    no tokenizer for the model, ``FormatError`` for a model of another class and for damaged files.
    """
    tokenizer: Tokenizer
    if name in GPT2_NAMES:
        tokenizer = gpt2_tokenizer()  # small, so it is missed before gigabytes are fetched
        model = _load_published(name, on_notice)
    else:
        folder = _model_folder(name)
        tokenizer = _folder_tokenizer(folder, _read_config(folder))
        model = load_folder(folder)
    return model.to(device), tokenizer


def load_folder(folder: Path) -> GPT:
    """Load only the weights of a local folder; for models whose vocabulary gptcli has no tokenizer for."""
    settings = _read_config(folder)
    try:
        with _quiet():
            theirs = _from_pretrained(str(folder), settings["model_type"], local=True)
    except Exception as error:  # a damaged file can raise anything inside transformers
        raise FormatError(
            f"{folder}: the model cannot be read ({_in_a_line(error)}).",
            "Expected config.json and model.safetensors, as save_pretrained writes them.",
        ) from error
    return _ours(theirs, str(folder))


def _load_published(name: str, on_notice: Notice) -> GPT:
    """Load a published GPT-2 from the cache, where it may lie under its old name too, else from the network."""
    repository = f"openai-community/{name}"
    for cached in (repository, name):
        found = None
        if not Path(cached).exists():  # transformers would prefer a folder of this name
            with contextlib.suppress(Exception), _quiet():
                found = _from_pretrained(cached, "gpt2", local=True)
        if found is not None:
            return _ours(found, cached)
    on_notice(f"Downloading {name} (about {GPT2_GIGABYTES[name]} GB).")
    try:
        with _quiet(bars=sys.stderr.isatty()):
            theirs = _from_pretrained(repository, "gpt2", local=False)
    except Exception as error:  # transformers lets the errors of its HTTP client of the day through
        raise RunError(
            f"The weights of {name} are neither in the local cache nor to be had from the network "
            f"({_in_a_line(error)}).",
            f"Connect once, or copy the cache of a machine that has {repository} and set HF_HOME to it, "
            "or give the path of a local folder written by save_pretrained.",
        ) from error
    return _ours(theirs, repository)


def _from_pretrained(where: str, kind: str, *, local: bool) -> tuple[Any, dict[str, Any]]:
    """Return transformers' model and what it says about the tensors it found."""
    import transformers

    model, info = getattr(transformers, CLASSES[kind]).from_pretrained(
        where,
        local_files_only=local,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the info, by name
    )
    return model, info


def _ours(theirs: tuple[Any, dict[str, Any]], where: str) -> GPT:
    """Turn transformers' model into ours, refusing missing tensors: it has drawn those at random."""
    model, info = theirs
    bad = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    bad += [f"{name} is not known" for name in sorted(info["unexpected_keys"])]
    mismatched = (item if isinstance(item, str) else item[0] for item in info["mismatched_keys"])  # differs by version
    bad += [f"{name} is of another shape" for name in sorted(mismatched)]
    if bad:
        more = f", and {len(bad) - MAX_SHOWN} more" if len(bad) > MAX_SHOWN else ""
        raise FormatError(f"{where}: the weights do not fit config.json: {', '.join(bad[:MAX_SHOWN])}{more}.")
    config = model_config_from_transformers(model.config)
    state = dict(model.state_dict())
    model.to_empty(device="meta")  # so that each of its tensors goes when it has been taken out of the state
    return _build(config, state)


def _build(config: ModelConfig, theirs: dict[str, torch.Tensor]) -> GPT:
    """Build the model around its weights, without drawing random ones first."""
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict(take_from_transformers(theirs, config), assign=True)
    if config.family == "modern":
        cos, sin = rotary_tables(config)
        model.register_buffer("cos", cos[:, None], persistent=False)
        model.register_buffer("sin", sin[:, None], persistent=False)
    return model.eval()


def _model_folder(name: str) -> Path:
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder
    near = difflib.get_close_matches(name, GPT2_NAMES, n=1)
    raise RunError(
        f"{name!r} is neither a published model ({', '.join(GPT2_NAMES)}) nor a folder with a config.json.",
        f"Did you mean {near[0]}?" if near else "Give a name of these, or the path of a folder by save_pretrained.",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json that save_pretrained wrote, and check that it names a class we know."""
    settings = _read_object(folder / "config.json")
    kind, vocab_size = settings.get("model_type"), settings.get("vocab_size", GPT2_VOCAB_SIZE)
    if not isinstance(kind, str) or kind not in CLASSES:
        found = settings.get("architectures") or kind
        raise FormatError(
            f"{folder}: a model of class {found[0] if isinstance(found, list) else found} was found; "
            f"gptcli reads {' and '.join(CLASSES.values())}.",
            f"Give the folder of one of these, or one of {', '.join(GPT2_NAMES)}.",
        )
    if not isinstance(vocab_size, int):
        raise FormatError(f"{folder / 'config.json'} is damaged: vocab_size should be a number, found {vocab_size!r}.")
    return settings


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that is not ours, so it has no format_version."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read ({_in_a_line(error)})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} is damaged: a JSON object was expected, found {type(value).__name__}.")
    return value


def _folder_tokenizer(folder: Path, settings: dict[str, Any]) -> Tokenizer:
    """Return GPT-2's tokenizer where the folder has its vocabulary; without a vocabulary file its size decides.

    Tokens of visible ASCII stand for themselves in such files; when all of those agree, so do the rest.
    """
    vocabulary = _vocabulary(folder)
    size: int = settings.get("vocab_size", GPT2_VOCAB_SIZE) if vocabulary is None else len(vocabulary)
    if size == GPT2_VOCAB_SIZE:
        tokenizer = gpt2_tokenizer()
        ours = {tokenizer.token_bytes(token_id).decode("latin-1"): token_id for token_id in range(size - 1)}
        if vocabulary is None or all(vocabulary.get(token) == ours[token] for token in ours if _visible(token)):
            return tokenizer
    raise TokenizerError(
        f"{folder}: gptcli has no tokenizer for this model's vocabulary of {size:,} tokens, which is not GPT-2's.",
        f"Give a model with GPT-2's vocabulary of {GPT2_VOCAB_SIZE:,} tokens, such as {GPT2_NAMES[0]}.",
    )


def _visible(token: str) -> bool:
    return token.isascii() and token.isprintable() and " " not in token


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Return the tokens of a folder's tokenizer.json or vocab.json, or None where it has neither."""
    if (folder / "tokenizer.json").is_file():
        model = _read_object(folder / "tokenizer.json").get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
    elif (folder / "vocab.json").is_file():
        vocabulary = _read_object(folder / "vocab.json")
    else:
        return None
    if not isinstance(vocabulary, dict):
        raise FormatError(f"{folder / 'tokenizer.json'} is damaged: it has no vocabulary of tokens and their ids.")
    return vocabulary


@contextlib.contextmanager
def _quiet(*, bars: bool = False) -> Iterator[None]:
    """Keep transformers from writing warnings and, unless ``bars``, progress; put its settings back afterwards."""
    from transformers.utils import logging as their_logging

    logging: Any = their_logging  # it has no types
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def _in_a_line(error: Exception) -> str:
    """Return what an error says, short and without line ends, for the middle of a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text, 160, placeholder=" ...").rstrip(".")
