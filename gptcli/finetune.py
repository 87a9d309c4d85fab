"""A run that begins from weights that exist: its profile is settled against them, its folder begins at step 0.

Weights that are trained become an ordinary checkpoint, those that stay as they are lie once in ``base/``; the
ordinary ``train()`` does the rest. Where the weights come from is the business of ``bases``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import torch
from safetensors import SafetensorError
from torch import Tensor

from gptcli.bases.base import Base
from gptcli.checkpoints import TrainState, rng_tensors, save_checkpoint, save_frozen
from gptcli.config import ModelConfig, RunProfile
from gptcli.device import Setup
from gptcli.errors import CorpusError, ProfileError, RunError
from gptcli.files import atomic_folder, write_json
from gptcli.lora import add_adapters, initial_adapters, is_trained
from gptcli.model import GPT, empty_model
from gptcli.runs import RUN_VERSION, RunDir, check_dataset_fits, choose_name, write_run
from gptcli.shards import TokenDataset
from gptcli.trainer import make_setup

# A profile may choose these of the model; everything else is as the base's weights need it.
FREE = ("block_size", "dropout")
RESOLVED = {"n_kv_head": "kv_heads", "head_dim": "head_width", "n_inner": "inner_width"}


def settle_profile(profile: RunProfile, name: str, config: ModelConfig) -> RunProfile:
    """Return the profile of a run that begins from the weights called ``name`` of the shape ``config``.

    The model is theirs, with the profile's ``dropout`` and a shorter ``block_size`` where it sets them. Raises
    ``ProfileError`` with everything that does not fit at once: other shapes, a longer ``block_size``, adapters for
    layers that do not exist.
    """
    problems = list(_mismatches(profile.model, name, config))
    hints = ["Leave model.* out of a profile for finetuning, but for block_size and dropout."] if problems else []
    if profile.finetune.lora_rank:
        try:
            with torch.device("meta"):  # names and shapes alone, whatever sizes a file claims
                add_adapters(GPT(config.model_copy(update={"n_layer": 1})), profile.finetune)
        except ProfileError as error:
            problems.append(error.message)
            hints.append(error.hint)
    if problems:
        message = f"The profile does not fit the weights of {name}:"
        raise ProfileError(message, " ".join(hints), tuple(problems))
    chosen = {key: getattr(profile.model, key) for key in FREE if key in profile.model.model_fields_set}
    finetune = profile.finetune.model_copy(update={"base": name})
    return profile.model_copy(update={"model": config.model_copy(update=chosen), "finetune": finetune})


def _mismatches(model: ModelConfig, name: str, base: ModelConfig) -> list[str]:
    """List the keys that the profile sets to what the weights are not."""
    problems = []
    for key in sorted(model.model_fields_set - set(FREE)):
        asked, there = (getattr(config, RESOLVED.get(key, key)) for config in (model, base))
        if asked != there:
            problems.append(f"model.{key} is {getattr(model, key)}, {name} has {there}")
    if "block_size" in model.model_fields_set and model.block_size > base.block_size:
        why = "no embedding for later positions" if base.family == "gpt2" else "has never seen later positions"
        problems.append(
            f"model.block_size is {model.block_size}, {name} has {base.block_size} and {why}; the most is "
            f"--set block_size={base.block_size}"
        )
    return problems


def choose_frozen_dtype(profile: RunProfile, setup: Setup) -> str:
    """Return the number format of the matrices that are not trained: ``float32`` or ``bfloat16``.

    bfloat16 rounds them, so that step 0 is the model as it came but for that; its val_loss is of the rounded ones.
    Raises ``ProfileError`` when the profile insists on bfloat16 where the products are not.
    """
    wanted, products = profile.finetune.frozen_dtype, str(setup.dtype).removeprefix("torch.")
    if wanted == "bfloat16" and setup.dtype != torch.bfloat16:
        raise ProfileError(
            f"finetune.frozen_dtype is bfloat16, but the products are {products} here ({setup.reason}).",
            "Type --set frozen_dtype=auto, or --set train.dtype=bfloat16.",
        )
    if wanted == "auto":
        return "bfloat16" if setup.dtype == torch.bfloat16 else "float32"
    return wanted


def create_finetune(
    profile: RunProfile,
    base: Base,
    *,
    profile_name: str,
    dataset: TokenDataset,
    runs_dir: Path = Path("runs"),
    name: str | None = None,
    device: str | None = None,
) -> RunDir:
    """Create a run directory that begins with the weights of ``base``, as a checkpoint at step 0.

    ``dataset`` has to be in the base's own tokens; ``device`` is where the run will be trained, for the number format
    of frozen weights. The folder appears whole or not at all. Raises ``ProfileError``, ``CorpusError`` or
    ``RunError`` before anything large is written.
    """
    profile = settle_profile(profile, base.name, base.config)
    _check_tokens(base, dataset)
    check_dataset_fits(profile, dataset)
    frozen_dtype: torch.dtype = getattr(torch, choose_frozen_dtype(profile, make_setup(profile, device)))
    with torch.device("meta"):  # without rotary tables, which may be long; the run may have a shorter block_size
        assert set(base.weights) == set(GPT(base.config).state_dict()), "a base has all weights and no others"
    name = choose_name(name, profile_name, dataset, runs_dir)
    try:
        with atomic_folder(runs_dir / name, replace=False) as folder:
            run = RunDir(folder)
            write_run(run, profile, profile_name=profile_name, dataset=dataset)
            _write_base(run, base, _frozen_weights(profile, base, frozen_dtype))
            _write_start(run, profile, base)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{runs_dir / name}: the run cannot be created ({error}).", "Nothing was left behind. Make room, and retry."
        ) from error
    return RunDir(runs_dir / name)


def _check_tokens(base: Base, dataset: TokenDataset) -> None:
    manifest = dataset.manifest
    if manifest.fingerprint != base.tokenizer.fingerprint:
        raise CorpusError(
            f"{dataset.folder}: these tokens were made with {manifest.tokenizer} ({manifest.fingerprint}), "
            f"{base.name} has its own tokenizer ({base.tokenizer.fingerprint}).",
            "Name the corpus, and its tokens are made to match: "
            f"gptcli finetune {quote(manifest.corpus)} --from {quote(base.name)}",
        )


def _write_base(run: RunDir, base: Base, frozen: dict[str, Tensor]) -> None:
    run.base_path.mkdir()
    value = {
        "format_version": RUN_VERSION,
        "name": base.name,
        "kind": base.kind,
        "origin": dict(base.origin),
        "notes": list(base.notes),
        "files": save_frozen(run.base_path, frozen),
    }
    write_json(run.base_path / "base.json", value)


def _write_start(run: RunDir, profile: RunProfile, base: Base) -> None:
    """Write the checkpoint at step 0: the loop finds it not evaluated, so that the base's val_loss is the first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(profile.train.seed)
        weights = _trained_weights(profile, base)
        random = rng_tensors(torch.device("cpu"))
    save_checkpoint(run, weights, random, TrainState(evaluated_step=-1), best=True, keep=0)


def _trained_weights(profile: RunProfile, base: Base) -> dict[str, Tensor]:
    """Return the weights that are trained, in float32, as they are at step 0."""
    names = [name for name in base.weights if is_trained(name, profile.finetune)]
    weights = {name: tensor.float() for name, tensor in _read(base, names, profile.model)}
    if profile.finetune.lora_rank:
        model = empty_model(profile.model)
        add_adapters(model, profile.finetune)
        weights |= initial_adapters(model)
    return weights


def _frozen_weights(profile: RunProfile, base: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights that are not trained: matrices in ``dtype``, and float32 for norms and biases."""
    names = [name for name in base.weights if not is_trained(name, profile.finetune)]
    return {
        name: tensor.to(dtype if tensor.dim() >= 2 else torch.float32)
        for name, tensor in _read(base, names, profile.model)
    }


def _read(base: Base, names: list[str], model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Read weights one by one; positions beyond the model's ``block_size`` are left out."""
    for name in names:
        tensor = base.weights[name]
        yield name, tensor[: model.block_size] if name == "wpe.weight" else tensor
