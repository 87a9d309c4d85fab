"""Says what a run would be and what it would need, before it does anything.

Knows shapes, tokens and this machine; writes nothing, and touches no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gptcli.bases.folder_tokenizer import GPT2_VOCAB_SIZE
from gptcli.bases.opening import BaseFacts
from gptcli.config import RunProfile
from gptcli.errors import RunError
from gptcli.finetune import choose_frozen_dtype
from gptcli.memory import FORMAT_BYTES, MemoryPlan, machine_swap, plan_memory, trained_parameters
from gptcli.places import Place, place_here
from gptcli.plan import count_parameters, flops_per_token
from gptcli.runs import check_dataset_fits, resolve_profile
from gptcli.shards import TokenDataset
from gptcli.tokenizer import parse_name

# The latest and the best, and another while it is being written; weights and AdamW's two moments, all in float32.
CHECKPOINTS, CHECKPOINT_BYTES = 3, 12
# A plan is at most a fifth too high; what takes more than this many times the memory, and all swap, cannot be run.
IMPOSSIBLE = 1.5
# What tokenizers have whose name does not say how many tokens they know: the largest that ``auto`` chooses, a guess.
VOCABULARIES = {"gpt2": GPT2_VOCAB_SIZE, "auto": 8192, "pretrained": GPT2_VOCAB_SIZE, "char": 256}
HELD = ("weights", "gradients", "optimizer")


@dataclass(frozen=True, slots=True)
class Missing:
    """A corpus whose tokens are not here: the tokenizer that they would have, and the command that makes them."""

    corpus: str
    tokenizer: str
    command: str


def plan_training(profile: RunProfile, tokens: TokenDataset | Missing, place: Place) -> dict[str, Any]:
    """Return what training ``profile`` on ``tokens`` would be, as JSON-ready facts; nothing is written.

    ``training_flops`` is the whole run's; ``profile`` is the resolved one; ``unknown`` holds a sentence for each thing
    that only the tokens decide, where they are missing, or the processes. Raises what ``create_run`` would.
    """
    profile, unknown = settle(profile, tokens)
    if profile.train.parallel == "fsdp":
        unknown.append("the memory of each of several processes: here it is that of one alone; --nproc shares it")
    model, seen = profile.model, profile.tokens_per_step * profile.train.max_steps
    n_params, per_token = count_parameters(model), flops_per_token(model)
    train_tokens, val_tokens = (None, None) if isinstance(tokens, Missing) else (len(tokens.train), len(tokens.val))
    return {
        "corpus": profile.data.corpus,
        "tokenizer": profile.data.tokenizer,
        "vocab_size": model.vocab_size,
        "train_tokens": train_tokens,
        "val_tokens": val_tokens,
        "n_params": n_params,
        "flops_per_token": per_token,
        "tokens_per_step": profile.tokens_per_step,
        "max_steps": profile.train.max_steps,
        "tokens_seen": seen,
        "epochs": seen / train_tokens if train_tokens else None,
        "tokens_per_parameter": seen / n_params,
        "training_flops": per_token * seen,
        **memory_facts(profile, place),
        "unknown": unknown,
        "profile": profile.model_dump(mode="json"),
    }


def settle(profile: RunProfile, tokens: TokenDataset | Missing) -> tuple[RunProfile, list[str]]:
    """Return the profile as a run on ``tokens`` would have it, and what of it is not known before there are any."""
    if not isinstance(tokens, Missing):
        check_dataset_fits(profile, tokens)
        return resolve_profile(profile, tokens), []
    unknown = [f"train_tokens and epochs, before {tokens.corpus} is prepared: {tokens.command}"]
    kind, size = parse_name(tokens.tokenizer)
    vocab_size = profile.model.vocab_size or size or VOCABULARIES[kind]
    if kind not in ("gpt2", "bpe"):
        unknown.append(f"vocab_size, before there are tokens by {kind}; {vocab_size:,} is taken, and most have fewer")
    data = profile.data.model_copy(update={"corpus": tokens.corpus, "tokenizer": tokens.tokenizer})
    model = profile.model.model_copy(update={"vocab_size": vocab_size})
    return profile.model_copy(update={"data": data, "model": model}), unknown


def plan_finetune(profile: RunProfile, base: BaseFacts, corpus: str, *, device: str | None = None) -> dict[str, Any]:
    """Return what finetuning ``base`` by a settled profile would take, from its shape alone: no weights are needed.

    ``memory_peak`` is the most at any one time, ``run_folder_bytes`` the most that the run's folder holds. Raises what
    choosing a device would.
    """
    n_params, n_trained = count_parameters(profile.model), trained_parameters(profile)
    facts = memory_facts(profile, place_here(profile.train, device))
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


def memory_facts(profile: RunProfile, place: Place) -> dict[str, Any]:
    """Return where a resolved profile is trained, the memory that takes by part, and what there is."""
    plan, on_cpu = memory_at(profile, place), place.setup.device.type == "cpu"
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "other", "peak")
    return {
        "device": place.name,
        "device_reason": place.setup.reason,
        "frozen_dtype": choose_frozen_dtype(profile, place.setup),
        **{f"memory_{part}": getattr(plan, part) for part in parts},
        "machine_memory": place.memory if on_cpu else None,
        "device_memory": None if on_cpu else place.memory,
    }


def memory_at(profile: RunProfile, place: Place) -> MemoryPlan:
    """Return the memory that a resolved profile takes where it is trained."""
    setup = place.setup
    return plan_memory(
        profile,
        compute_dtype=str(setup.dtype).removeprefix("torch."),
        frozen_dtype=choose_frozen_dtype(profile, setup),
        device=setup.device.type,
    )


def memory_warning(profile: RunProfile, device: str | None = None) -> str | None:
    """Return the sentence for a run that will hardly fit into this machine's memory, and what would; else None."""
    return shortage(profile, memory_facts(profile, place_here(profile.train, device)))


def check_memory(profile: RunProfile, device: str | None = None, copies: int = 1) -> str | None:
    """Return what ``memory_warning`` does, before a run begins; ``RunError`` for one that cannot fit.

    ``copies`` processes with such a share each are trained on this machine; with ``fsdp`` on GPUs none has all weights,
    and nothing is reckoned.
    Where the system does not say how much it can swap to a disk, nothing is refused; nor is it on a GPU, which says so
    at the first step.
    """
    facts, swap = memory_facts(profile, place_here(profile.train, device)), machine_swap()
    if facts["machine_memory"] is not None:
        facts["memory_peak"] *= copies
    elif copies > 1 and profile.train.parallel == "fsdp":
        return None
    have, peak = facts["machine_memory"], facts["memory_peak"]
    if have is not None and swap is not None and peak > IMPOSSIBLE * have + swap:
        message = _needs(facts)
        raise RunError(
            f"{message[0].upper()}{message[1:]}",
            f"Less of it: {_ways_to_less(profile, facts)}. gptcli plan shows the parts.",
        )
    return shortage(profile, facts)


def shortage(profile: RunProfile, facts: dict[str, Any], where: str | None = None) -> str | None:
    """Return the sentence for a run whose ``memory_facts`` want more than ``where`` has, and what fits; else None."""
    have = _have(facts)
    if have is None or facts["memory_peak"] <= have:
        return None
    return f"{_needs(facts, where)} Less of it: {_ways_to_less(profile, facts)}"


def _have(facts: dict[str, Any]) -> int | None:
    """What there is of the memory that ``memory_facts`` counts."""
    have: int | None = facts["machine_memory"] or facts["device_memory"]
    return have


def _needs(facts: dict[str, Any], where: str | None = None) -> str:
    where = where or ("this machine" if facts["machine_memory"] else f"the device {facts['device']}")
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
