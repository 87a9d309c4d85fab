"""The diagnosis of a corpus: what it and a profile will do to each other in training, and what to change.

Pure: a manifest and a profile in, sentences out. It measures nothing, prints nothing and knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gptcli.config import RunProfile
from gptcli.plan import count_parameters
from gptcli.shards import Conversations, DatasetManifest, SplitSummary
from gptcli.tokenizer import parse_name, suggest_tokenizer

# Hoffmann et al. 2022: about 20 tokens a parameter make the best use of a training budget.
TOKENS_PER_PARAMETER = 20
# Muennighoff et al. 2023: up to 4 epochs are nearly as good as new text, beyond 16 little is gained.
GOOD_EPOCHS = 4
MANY_EPOCHS = 16
# Below this many windows the standard error of val_loss hides most differences between runs.
FEW_VAL_WINDOWS = 30
# A token that train shows less often than this on average is hardly learned.
RARE_TOKEN = 20
# Windows of fewer tokens teach nothing that is worth their name.
SHORT_BLOCK = 8
# Windows that begin anywhere always cut some conversations.
FEW_CUT = 0.25


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about a corpus: ``ok`` needs nothing, ``note`` is worth knowing, ``warning`` should be changed."""

    level: Literal["ok", "note", "warning"]
    text: str


def diagnose(manifest: DatasetManifest, profile: RunProfile | None) -> tuple[Finding, ...]:
    """Return what is to be known about training on these tokens, warnings first.

    Without a profile only the findings about the corpus itself are made.
    """
    findings = [*_about_corpus(manifest), *(() if profile is None else _about_profile(manifest, profile))]
    order = ("warning", "note", "ok")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.level)))


def _about_corpus(manifest: DatasetManifest) -> Iterator[Finding]:
    yield from _duplicates(manifest)
    yield from _val_share(manifest)
    yield from _vocabulary(manifest)
    if manifest.train.conversations is not None:
        yield _answers(manifest.train, manifest.train.conversations)


def _about_profile(manifest: DatasetManifest, profile: RunProfile) -> Iterator[Finding]:
    block_size = profile.model.block_size
    if manifest.train.tokens <= block_size:
        yield _too_short("Train", manifest.train.tokens, block_size)
        return
    if manifest.val.tokens <= block_size:
        yield _too_short("Val", manifest.val.tokens, block_size)
    else:
        yield _val_windows(manifest, block_size)
    if manifest.train.conversations is not None:
        yield _conversations_cut(manifest.train, manifest.train.conversations, block_size)
    yield _tokens_per_parameter(manifest, profile)
    yield _epochs(manifest, profile)


def _too_short(split: str, n_tokens: int, block_size: int) -> Finding:
    shorter = 1 << max(0, (n_tokens // 8).bit_length() - 1)
    advice = f"add text, or set model.block_size to {shorter}." if shorter >= SHORT_BLOCK else "add text."
    return Finding(
        "warning",
        f"{split} has {n_tokens:,} tokens, not one window of model.block_size {block_size} and the token after it: "
        f"{advice}",
    )


def _duplicates(manifest: DatasetManifest) -> Iterator[Finding]:
    removed = manifest.duplicates_removed
    if removed:
        were = (
            "document was an exact copy of another and was" if removed == 1 else "documents were exact copies and were"
        )
        yield Finding("note", f"{removed:,} {were} left out, so that no text stands in both train and val.")
    elif manifest.train.documents > 1:
        yield Finding("ok", "No document stands in the corpus twice.")


def _val_share(manifest: DatasetManifest) -> Iterator[Finding]:
    expected = manifest.val_fraction if manifest.split_at is None else 1 - manifest.split_at
    share = manifest.val.tokens / max(1, manifest.train.tokens + manifest.val.tokens)
    if expected / 2 <= share <= expected * 2:
        return
    advice = {
        "document": "documents differ much in length; set data.split to paragraph to cut each of them instead.",
        "paragraph": "the paragraphs are long; set data.split_at to "
        f"{1 - manifest.val_fraction:g} to cut at the character instead.",
        "position": "set data.split_at to another fraction if that is not meant.",
    }
    yield Finding(
        "note", f"Val holds {share:.1%} of the tokens where {expected:.0%} was asked for: {advice[manifest.split]}"
    )


def _vocabulary(manifest: DatasetManifest) -> Iterator[Finding]:
    if manifest.given_tokenizer:  # the weights know its tokens already
        return
    occurrences = manifest.train.tokens / manifest.vocab_size
    better, _ = suggest_tokenizer(manifest.train.bytes + manifest.val.bytes)
    size = parse_name(better)[1] or 0
    if occurrences < RARE_TOKEN and manifest.tokenizer != "char" and size < manifest.vocab_size:
        yield Finding(
            "warning",
            f"Train shows each of the {manifest.vocab_size:,} tokens of {manifest.tokenizer} only {_few(occurrences)} "
            f"times on average, too rarely to learn them: set data.tokenizer to {better}.",
        )


def _answers(split: SplitSummary, found: Conversations) -> Finding:
    conversations = f"{found.conversations:,} conversation{'' if found.conversations == 1 else 's'}"
    answers = f"{found.answers:,} answer{'' if found.answers == 1 else 's'}"
    share = found.scored_tokens / max(1, split.tokens)
    scored = f"{found.scored_tokens:,} of its {split.tokens:,} tokens ({share:.0%}) are scored"
    return Finding("ok", f"Train has {conversations} with {answers}: {scored}, the others are only read.")


def _conversations_cut(split: SplitSummary, found: Conversations, block_size: int) -> Finding:
    """Say how many conversations are cut: windows begin anywhere, so the chance is length by window.

    An answer that is cut from its question teaches little.
    """
    # Other texts among them have lengths of their own.
    typical = found.median_tokens if split.documents > found.conversations else split.tokens / found.conversations
    share = min(1.0, typical / block_size)
    fitting = 1 << round(math.log2(4 * found.most_tokens))
    advice = f": set model.block_size to {fitting} to see most of them whole."
    if found.median_tokens > block_size:
        return Finding(
            "warning",
            f"Half of the conversations have more than {found.median_tokens:,} tokens, and model.block_size "
            f"{block_size} cuts their answers from their questions{advice}",
        )
    few = share <= FEW_CUT or block_size >= fitting
    return Finding(
        "ok" if few else "note",
        f"Nine conversations in ten have at most {found.most_tokens:,} tokens (the longest {found.longest_tokens:,}), "
        f"and windows of model.block_size {block_size}, which begin anywhere, cut about {share:.0%} of them"
        f"{'.' if few else advice}",
    )


def _val_windows(manifest: DatasetManifest, block_size: int) -> Finding:
    tokens = manifest.val.tokens
    windows = -(-max(0, tokens - 1) // block_size)
    if windows >= FEW_VAL_WINDOWS:
        return Finding("ok", f"Val has {tokens:,} tokens, {windows:,} windows of model.block_size {block_size}.")
    few = f"{windows} windows" if windows > 1 else "a single window"
    larger = min(0.3, 2 * manifest.val_fraction)
    change = "add text" if manifest.split == "position" else f"set data.val_fraction to {larger:g} or add text"
    return Finding(
        "warning",
        f"Val has {tokens:,} tokens, {few} of model.block_size {block_size}, so val_loss will have a large standard "
        f"error: {change}.",
    )


def _tokens_per_parameter(manifest: DatasetManifest, profile: RunProfile) -> Finding:
    n_tokens = manifest.train.tokens
    parameters = count_parameters(profile.model.model_copy(update={"vocab_size": manifest.vocab_size}))
    ratio = n_tokens / parameters
    fact = f"Train has {n_tokens:,} tokens, {_few(ratio)} for each of the model's {parameters:,} parameters"
    if ratio >= TOKENS_PER_PARAMETER:
        return Finding("ok", f"{fact}: enough that it cannot learn them by heart (about {TOKENS_PER_PARAMETER} are).")
    fact += f" where {TOKENS_PER_PARAMETER} would do"
    epochs = _epochs_of(manifest, profile)
    if epochs <= GOOD_EPOCHS:
        return Finding("ok", f"{fact}; it reads them {_few(epochs)} times, too seldom to learn them by heart.")
    fact += ", so it can learn them by heart"
    if ratio < 1 and not profile.model.dropout:
        return Finding("warning", f"{fact}: set model.dropout to 0.1, or model.n_embd below {profile.model.n_embd}.")
    advice = "if val_loss rises while train_loss falls, raise model.dropout or lower model.n_embd."
    return Finding("note", f"{fact}: {advice}")


def _epochs(manifest: DatasetManifest, profile: RunProfile) -> Finding:
    epochs = _epochs_of(manifest, profile)
    fact = f"With train.max_steps {profile.train.max_steps:,} the train text is read {_few(epochs)} times"
    steps_per_epoch = manifest.train.tokens / profile.tokens_per_step
    if epochs < 1:
        whole = max(1, round(steps_per_epoch))
        return Finding("note", f"{fact}, less than once: set train.max_steps to {whole:,} to read all of it.")
    if epochs <= GOOD_EPOCHS:
        if profile.model.dropout and epochs < 2:
            return Finding("note", f"{fact}, too few for dropout to help: set model.dropout to 0.")
        return Finding("ok", f"{fact}; up to {GOOD_EPOCHS} are nearly as good as new text.")
    if epochs <= MANY_EPOCHS or profile.model.dropout:
        return Finding("note", f"{fact}; watch val_loss, which stops falling when the text is learned by heart.")
    fewer = max(1, round(MANY_EPOCHS * steps_per_epoch))
    return Finding(
        "warning",
        f"{fact} without dropout; beyond {MANY_EPOCHS} little is gained: set train.max_steps to {fewer:,}, or "
        "model.dropout to 0.1.",
    )


def _epochs_of(manifest: DatasetManifest, profile: RunProfile) -> float:
    return profile.train.max_steps * profile.tokens_per_step / manifest.train.tokens


def _few(number: float) -> str:
    """A count for a sentence: 0.14, 1.5, 82, 1,300."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
