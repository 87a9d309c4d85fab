"""Says what a run would be and what it would need, before it does anything.

Knows shapes, tokens and this machine; writes nothing, and touches no weights.
"""

from __future__ import annotations

from typing import Any

from gptcli.bases.opening import BaseFacts
from gptcli.config import RunProfile
from gptcli.device import Setup, device_memory
from gptcli.errors import RunError
from gptcli.finetune import choose_frozen_dtype
from gptcli.memory import FORMAT_BYTES, machine_memory, machine_swap, plan_memory, trained_parameters
from gptcli.plan import count_parameters, flops_per_token
from gptcli.runs import check_dataset_fits, resolve_profile
from gptcli.shards import TokenDataset
from gptcli.trainer import make_setup

# The latest and the best, and another while it is being written; weights and AdamW's two moments, all in float32.
CHECKPOINTS, CHECKPOINT_BYTES = 3, 12
# A plan is at most a fifth too high; what takes more than this many times the memory, and all swap, cannot be run.
IMPOSSIBLE = 1.5
HELD = ("weights", "gradients", "optimizer")


def plan_training(profile: RunProfile, dataset: TokenDataset, *, device: str | None = None) -> dict[str, Any]:
    """Return what training ``profile`` on ``dataset`` would be, as JSON-ready facts; nothing is written.

    ``training_flops`` is the whole run's; ``profile`` is the resolved profile. Raises what ``create_run`` and
    choosing a device would.
    """
    check_dataset_fits(profile, dataset)
    profile = resolve_profile(profile, dataset)
    tokens = profile.tokens_per_step * profile.train.max_steps
    n_params = count_parameters(profile.model)
    return {
        "corpus": dataset.manifest.corpus,
        "tokenizer": dataset.manifest.tokenizer,
        "train_tokens": len(dataset.train),
        "val_tokens": len(dataset.val),
        "n_params": n_params,
        "tokens_per_step": profile.tokens_per_step,
        "max_steps": profile.train.max_steps,
        "tokens_seen": tokens,
        "epochs": tokens / len(dataset.train),
        "tokens_per_parameter": len(dataset.train) / n_params,
        "training_flops": flops_per_token(profile.model) * tokens,
        **memory_facts(profile, device),
        "profile": profile.model_dump(mode="json"),
    }


def plan_finetune(profile: RunProfile, base: BaseFacts, corpus: str, *, device: str | None = None) -> dict[str, Any]:
    """Return what finetuning ``base`` by a settled profile would take, from its shape alone: no weights are needed.

    ``memory_peak`` is the most at any one time, ``run_folder_bytes`` the most that the run's folder holds. Raises what
    choosing a device would.
    """
    n_params, n_trained = count_parameters(profile.model), trained_parameters(profile)
    facts = memory_facts(profile, device)
    frozen = FORMAT_BYTES[facts["frozen_dtype"]] * (n_params - n_trained) if n_trained < n_params else 0
    return {
        "base": base.name,
        "weights": base.where,
        "download_bytes": base.download_bytes,
        "corpus": corpus,
        "n_params": n_params,
        "trained_params": n_trained,
        "block_size": profile.model.block_size,
        "tokens_per_step": profile.tokens_per_step,
        "max_steps": profile.train.max_steps,
        **facts,
        "frozen_dtype": facts["frozen_dtype"] if frozen else None,
        "run_folder_bytes": frozen + (CHECKPOINTS + profile.train.keep_checkpoints) * CHECKPOINT_BYTES * n_trained,
        "profile": profile.model_dump(mode="json"),
    }


def memory_facts(profile: RunProfile, device: str | None = None) -> dict[str, Any]:
    """Return where a resolved profile would be trained here, the memory that takes by part, and what there is."""
    setup = make_setup(profile, device)
    frozen = choose_frozen_dtype(profile, setup)
    dtype = str(setup.dtype).removeprefix("torch.")
    plan = plan_memory(profile, compute_dtype=dtype, frozen_dtype=frozen, device=setup.device.type)
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "other", "peak")
    return {
        "device": str(setup.device),
        "device_reason": setup.reason,
        "frozen_dtype": frozen,
        **{f"memory_{part}": getattr(plan, part) for part in parts},
        "machine_memory": available_memory(setup) if setup.device.type == "cpu" else None,
        "device_memory": device_memory(setup.device),
    }


def available_memory(setup: Setup) -> int | None:
    """Return the bytes of memory that training can use: the machine's on a CPU, else the device's own."""
    return machine_memory() if setup.device.type == "cpu" else device_memory(setup.device)


def memory_warning(profile: RunProfile, device: str | None = None) -> str | None:
    """Return the sentence for a run that will hardly fit into this machine's memory, and what would; else None."""
    return _warning(profile, memory_facts(profile, device))


def check_memory(profile: RunProfile, device: str | None = None) -> str | None:
    """Return what ``memory_warning`` does, before a run begins; ``RunError`` for one that cannot fit.

    Where the system does not say how much it can swap to a disk, nothing is refused; nor is it on a GPU, which says so
    at the first step.
    """
    facts, swap = memory_facts(profile, device), machine_swap()
    have, peak = facts["machine_memory"], facts["memory_peak"]
    if have is not None and swap is not None and peak > IMPOSSIBLE * have + swap:
        message = _needs(facts)
        raise RunError(
            f"{message[0].upper()}{message[1:]}",
            f"Less of it: {_ways_to_less(profile, facts)}. --dry-run shows the parts.",
        )
    return _warning(profile, facts)


def _warning(profile: RunProfile, facts: dict[str, Any]) -> str | None:
    have = _have(facts)
    if have is None or facts["memory_peak"] <= have:
        return None
    return f"{_needs(facts)} Less of it: {_ways_to_less(profile, facts)}"


def _have(facts: dict[str, Any]) -> int | None:
    """What there is of the memory that ``memory_facts`` counts."""
    have: int | None = facts["machine_memory"] or facts["device_memory"]
    return have


def _needs(facts: dict[str, Any]) -> str:
    where = "this machine" if facts["machine_memory"] else f"the device {facts['device']}"
    peak, have = facts["memory_peak"] / 1e9, (_have(facts) or 0) / 1e9
    return f"this needs about {peak:.1f} GB of memory, and {where} has {have:.1f}."


def _ways_to_less(profile: RunProfile, facts: dict[str, Any]) -> str:
    train, finetune = profile.train, profile.finetune
    if finetune.base is None and sum(facts[f"memory_{part}"] for part in HELD) > (_have(facts) or 0):
        return "a smaller model, such as --set n_layer=4 --set n_embd=256"
    ways = ["--set finetune.lora_rank=16"] if finetune.base is not None and not finetune.lora_rank else []
    ways += [] if train.gradient_checkpointing else ["--set gradient_checkpointing=true"]
    ways += ["--set batch_size=1"] if train.batch_size > 1 else []
    ways += ["--set block_size=256"] if profile.model.block_size > 256 else []
    return " ".join(ways) or "a smaller model"
