"""What can be wrong with a corpus or its split when tokens are made of it, as errors that say what to type next."""

from __future__ import annotations

from shlex import quote

from gptcli.corpora import Corpus
from gptcli.errors import CorpusError, TokenizerError
from gptcli.shards import SplitName
from gptcli.split import SplitPlan
from gptcli.tokenizer import Tokenizer


def no_text(corpus: str) -> CorpusError:
    """Return the error for a corpus without any text."""
    return CorpusError(f"The corpus {corpus} has no text in it.", "gptcli fetch SOURCE fetches another one.")


def damaged_text(corpus: Corpus) -> CorpusError:
    """Return the error for documents that are not those that were fetched."""
    return CorpusError(
        f"{corpus.documents}: the text is damaged: its SHA-256 is not that of what was fetched.",
        "Fetch it again, or restore it from a copy. A file that was changed on purpose has a newer time than "
        f"source.json: touch {corpus.documents}",
    )


def changed_text(corpus: Corpus) -> CorpusError:
    """Return the error for documents that became others while they were read."""
    return CorpusError(
        f"{corpus.documents}: the text was changed while it was prepared, so there are no new tokens.",
        f"Once nothing writes to it any more, run it again: gptcli prepare {quote(corpus.name)}",
    )


def no_end_of_text(corpus: str, tokenizer: Tokenizer) -> TokenizerError:
    """Return the error for conversations and a tokenizer that cannot end their answers."""
    return TokenizerError(
        f"The corpus {corpus} holds conversations, whose answers end with end-of-text, and the tokenizer "
        f"{tokenizer.name} of these weights has none.",
        f"Weights whose tokenizer has one: gptcli finetune {quote(corpus)} --from gpt2   "
        f"Or without weights: gptcli prepare {quote(corpus)} --tokenizer auto",
    )


def no_answers(corpus: str, split: SplitName, plan: SplitPlan) -> CorpusError:
    """Return the error for a split none of whose tokens would be scored."""
    advice = f"gptcli prepare {quote(corpus)} --split-at 0.9 sets the last conversations apart."
    if plan.answers < 2 or plan.split_at == 0.5:  # however it is cut, one side has none
        advice = "Add conversations to the source, and fetch it again: train needs an answer, and val another one."
    elif plan.mode == "position":
        advice = f"Add conversations, or cut elsewhere: gptcli prepare {quote(corpus)} --split-at 0.5"
    found = f"The {split} split of {corpus} has no answer to be scored; the other one has all {plan.answers:,}"
    return CorpusError(f"{found} ({plan.reason}).", advice)


def too_short(corpus: str, split: SplitName, n_tokens: int, plan: SplitPlan) -> CorpusError:
    """Return the error for a split with less than two tokens."""
    count = "1 token" if n_tokens == 1 else f"{n_tokens} tokens"
    advice = "Add text to the corpus, or cut it elsewhere: --split-at 0.5"
    if plan.mode == "document":
        advice = f"gptcli prepare {quote(corpus)} --split paragraph cuts each document instead."
    return CorpusError(f"The {split} split of {corpus} has {count}; at least 2 are needed ({plan.reason}).", advice)
