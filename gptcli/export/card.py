"""The README of an export: what the model is, what text it saw, how it was trained, how good it is, how to load it.

What the text was and whose it is comes from the run and from the corpus, as far as they are still there. Text from
outside is made inert: no HTML, no markup, nothing that ends the front matter. Knows no format.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from gptcli import __version__
from gptcli.bases.base import Base
from gptcli.config import RunProfile, SampleConfig
from gptcli.data_facts import MAX_LISTED, DataFacts, NamedDocument, data_facts, without_folders
from gptcli.documents import well_formed
from gptcli.metrics import read_events
from gptcli.model import empty_model
from gptcli.runs import RunDir
from gptcli.shards import SplitSummary

MAX_CHARS = 300
# What people call a licence, and how the hub spells it in a card.
LICENCES = {
    **{name: name for name in ("mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")},
    **{name: name for name in ("cc-by-3.0", "cc-by-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0")},
    **{name: name for name in ("cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "odbl", "pddl")},
    **{name: name for name in ("bsd-2-clause", "bsd-3-clause", "gfdl", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense")},
}
EXPECT = (
    "This is a small language model. It goes on in the manner of the text it was trained on; it does not know what is "
    "true, it makes up names and facts, it repeats itself, and it can give back passages of its text word for word. "
    "Nothing was done to make it safe or helpful. Do not rely on what it writes."
)


@dataclass(frozen=True, slots=True)
class Card:
    """What a reader of an export should know."""

    name: str
    """Letters, digits, '.', '_' and '-' only: good for a file name."""
    front: Mapping[str, object]
    """Front matter that holds for every format."""
    summary: str
    sections: tuple[tuple[str, tuple[str, ...]], ...]
    """Headings, and below each its lines, in Markdown."""
    sample: SampleConfig
    """How the run's profile writes."""

    def markdown(self, loading: str, *, library: str = "", tags: Sequence[str] = ()) -> str:
        """Return the README; ``loading`` is Markdown of ours that says how this format is loaded."""
        front = {**self.front, "tags": ["gptcli", "text-generation", *tags]}
        if library:
            front["library_name"] = library
        # JSON in one line is YAML too, whatever the strings hold.
        lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
        lines += [f"# {inert(self.name)}", "", self.summary, "", "## How to load it", "", loading.strip(), ""]
        for heading, content in self.sections:
            lines += [f"## {heading}", "", *content, ""]
        return "\n".join([*lines, f"Made with gptcli {__version__}.", ""])


def make_card(base: Base, run: RunDir | None, dtype: str) -> Card:
    """Collect what is known of ``base``; ``run`` is the run it was opened from, if it is one.

    Raises ``FormatError`` for a damaged run. What is gone (the corpus, the metrics) is left out.
    """
    size = empty_model(base.config).n_params()
    kind = "Qwen3" if base.config.family == "modern" else "GPT-2"
    summary = f"A GPT of {_short(size)} weights ({kind} architecture, stored in {dtype}) for writing text."
    name = run.name if run is not None else re.sub(r"\.(pt|pth)$", "", PurePath(base.name.rpartition(":")[2]).name)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    sections: list[tuple[str, tuple[str, ...]]] = []
    licences: Counter[str] = Counter()
    languages: Set[str] = frozenset()
    parent = run.base() if run is not None else None
    if run is not None:
        data = data_facts(run)
        licences, languages = data.licences, data.languages
        sections += [("What it was trained on", _data_lines(data, parent)), ("How it was trained", _how(run, base))]
        if results := _results(run, base):
            sections.append(("Results", results))
    else:
        sections.append(("Where it comes from", _origin(base.name, base.origin)))
    sections.append(("What to expect", (EXPECT,)))
    front = _front(licences, languages, base, parent)
    sample = run.profile().sample if run is not None else SampleConfig()
    return Card(name, front, summary, tuple(sections), sample)


def inert(text: str, limit: int = MAX_CHARS) -> str:
    """Return ``text`` on one line so that Markdown shows it as it is: no markup, HTML, controls or bidi marks."""
    shown = "".join(" " if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} else c for c in text)
    shown = " ".join(well_formed(shown).split())
    if len(shown) > limit:
        shown = f"{shown[: limit - 1]}…"
    shown = re.sub(r"([\\`*_\[\]#|~$!])", r"\\\1", shown)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def inert_address(address: str) -> str:
    """Return an address as a link where it is one of the web; a file is named without the folders above it."""
    if re.fullmatch(r"https?://[!#-;=?-\[\]^_a-z~]+", address, re.IGNORECASE) and len(address) < 2 * MAX_CHARS:
        return f"<{address}>"
    return inert(address)


def _data_lines(data: DataFacts, parent: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the list of what the model saw, the finetuned one's base included."""
    train, val = data.manifest.train, data.manifest.val
    corpus, tokenizer = inert(data.manifest.corpus), inert(data.manifest.tokenizer)
    lines = [
        f"* Corpus: {corpus}",
        f"* To train on: {_amount(train)}",
        f"* To evaluate: {_amount(val)}",
        f"* Tokenizer: {tokenizer}",
    ]
    if (chats := train.conversations) is not None:
        lines.append(
            f"* Conversations: {chats.conversations:,}, of which it learned the {_many(chats.answers, 'answer')}"
        )
    if data.where:
        lines.append(f"* Source: {inert_address(data.where)}, fetched on {inert(data.fetched_on)}")
    licences = "; ".join(inert(licence) for licence, _ in data.licences.most_common(MAX_LISTED))
    lines.append(f"* Licence of the text: {licences or 'not known'}")
    lines += [f"  * {_document_line(document)}" for document in data.documents]
    if data.n_documents > len(data.documents):
        lines.append(f"  * and {_many(data.n_documents - len(data.documents), 'more document')}")
    if parent is not None:
        what = ", ".join(_origin_facts(parent.get("origin") or {}))
        name = inert(without_folders(str(parent.get("name")))) + (f" ({what})" if what else "")
        lines.append(f"* Finetuned from: {name}, whose own text and licence count too")
    return tuple(lines)


def _document_line(document: NamedDocument) -> str:
    named = f"“{inert(document.title)}”" if document.title else ""
    named += f" by {inert(document.author)}" if document.author else ""
    return ", ".join(part for part in (named.strip(), inert_address(document.url) if document.url else "") if part)


def _how(run: RunDir, base: Base) -> tuple[str, ...]:
    profile = run.profile()
    model, train = base.config, profile.train
    at = f"{base.origin['step']:,} of " if isinstance(base.origin.get("step"), int) else ""
    rates = [f"adamw with learning rate {train.learning_rate:g}"]
    if train.optimizer == "muon":
        rates.insert(0, f"muon with learning rate {train.muon_learning_rate:g}")
    shape = f"{_many(model.n_layer, 'layer')}, {_many(model.n_head, 'head')}, width {model.n_embd}"
    lines = [
        f"* Network: {shape}, context {_many(model.block_size, 'token')}, vocabulary {model.vocab_size:,}",
        f"* Steps: {at}{train.max_steps:,}, of {profile.tokens_per_step:,} tokens each",
        f"* Optimizer: {', '.join(rates)}, schedule {train.schedule}",
        f"* Dropout: {profile.model.dropout:g}",
    ]
    if (event := _evaluation(run, base)) is not None:
        lines.append(f"* Tokens seen: {event['tokens_seen']:,}")
    if profile.finetune.base is not None:
        lines.append(f"* Finetuning: {_finetuning(profile)}")
    return tuple(lines)


def _finetuning(profile: RunProfile) -> str:
    tuned = profile.finetune
    if tuned.lora_rank:
        beside = "" if tuned.embeddings_frozen else ", and the embeddings"
        return f"LoRA of rank {tuned.lora_rank} and alpha {tuned.alpha:g}, merged into the weights{beside}"
    return "all weights but the embeddings" if tuned.embeddings_frozen else "all weights"


def _results(run: RunDir, base: Base) -> tuple[str, ...]:
    event = _evaluation(run, base)
    if event is None:
        return ()
    loss = f"{event['val_loss']:.4f} ± {event['val_loss_stderr']:.4f} (standard error)"
    lines = [
        "On the part of the corpus that was kept from training:",
        "",
        f"* val_loss {loss} nats a token of the tokenizer {inert(run.manifest().tokenizer)}",
        f"* bits_per_byte {event['bits_per_byte']:.4f}, which compares between tokenizers",
        f"* perplexity {event['perplexity']:.2f} a token, over {event['n_tokens']:,} tokens",
    ]
    before = next((row for row in _evaluations(run) if row["step"] == 0), None)
    if before is not None and before is not event and run.base() is not None:
        lines.append(f"* before finetuning: val_loss {before['val_loss']:.4f}")
    return tuple(lines)


def _evaluation(run: RunDir, base: Base) -> dict[str, Any] | None:
    """Return the evaluation of the weights that are exported, or None where there was none at their step."""
    rows = [row for row in _evaluations(run) if row["step"] == base.origin.get("step")]
    return rows[-1] if rows else None


def _evaluations(run: RunDir) -> list[dict[str, Any]]:
    """Return the evaluations in ``metrics.jsonl`` that are whole; a damaged line tells nothing."""
    figures = ("step", "tokens_seen", "val_loss", "val_loss_stderr", "bits_per_byte", "perplexity", "n_tokens")
    return [
        event
        for event in read_events(run.metrics_path)
        if event["event"] == "evaluated" and all(isinstance(event.get(key), int | float) for key in figures)
    ]


def _origin(name: str, origin: Mapping[str, Any]) -> tuple[str, ...]:
    facts = "; ".join(_origin_facts(origin))
    return (f"The weights are those of {inert(PurePath(name).name)}{f' ({facts})' if facts else ''}.",)


def _origin_facts(origin: Mapping[str, Any]) -> list[str]:
    return [f"{inert(str(key))} {inert(without_folders(str(value)))}" for key, value in origin.items()]


def _front(
    licences: Counter[str], languages: Set[str], base: Base, parent: Mapping[str, Any] | None
) -> dict[str, object]:
    front: dict[str, object] = {"pipeline_tag": "text-generation"}
    named = [LICENCES.get(licence.strip().lower()) for licence in licences]
    if len(named) == 1 and named[0] is not None and parent is None:
        front["license"] = named[0]
    elif licences:
        front["license"] = "other"
    if len(languages) == 1 and re.fullmatch(r"[a-z]{2,3}", language := next(iter(languages)).split("-")[0].lower()):
        front["language"] = language
    kind, origin = (base.kind, base.origin) if parent is None else (parent.get("kind"), parent.get("origin") or {})
    repository = origin.get("repository")
    if kind == "published" and isinstance(repository, str):
        front["base_model"] = repository
    return front


def _amount(split: SplitSummary) -> str:
    amount = f"{_many(split.tokens, 'token')}, {_many(split.bytes, 'byte')} of text"
    return f"{amount} from {_many(split.documents, 'document')}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _short(count: int) -> str:
    """Return a number of weights in words: 124.4 million."""
    for limit, word in ((1_000_000_000, "billion"), (1_000_000, "million")):
        if count >= limit:
            return f"{count / limit:.1f} {word}"
    return f"{count:,}"
