"""A run as one page that can be sent: what was trained on what, its losses, its texts over time, how to do it again.

Collects what the page says; how it looks is ``report_page``'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING

from gptcli import __version__
from gptcli.config import RunProfile
from gptcli.data_facts import DataFacts, data_facts, without_folders
from gptcli.errors import GptcliError
from gptcli.figures import bytes_text, count_text, duration_text, loss_error_text, loss_text, promise_text
from gptcli.history import DrawnSample, History, read_history
from gptcli.profiles import dump_profile
from gptcli.report_page import Page, Section, write_page
from gptcli.run_facts import RunFacts, environment, parent, run_facts
from gptcli.runs import RunDir

if TYPE_CHECKING:
    from gptcli.model import GPT

# Samples on the page: the first ones, the last ones, and evenly between.
SHOWN_SAMPLES = 6
SAMPLE_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Told:
    """A text of the run, and what made it."""

    title: str
    sample: DrawnSample


def make_report(
    run: RunDir, on_notice: Callable[[str], None] = lambda _: None, *, draws: bool = True, titles: bool = False
) -> str:
    """Return the page of a run as HTML; with ``draws`` the best checkpoint, and the first weights, write on it too.

    The page asks for nothing: its style and its picture are inside, and no script is. Titles of documents from files of
    this machine stand on it only with ``titles``. Raises ``RunError`` for a run that has no loss yet, and what reading
    it does.
    """
    history = read_history(run)
    picture = _picture(run, history)  # without a loss there is none, and the model need not write
    facts, profile, data = run_facts(run, history), run.profile(), data_facts(run)
    if data.documents and data.is_private and not titles:
        on_notice("Titles of documents are left out, since they are from files of yours; --titles shows them.")
        data = replace(data, documents=(), n_documents=0)
    drawn = list(_drawn(run, profile, facts, on_notice)) if draws else []
    told = [each for each in _told(history) if each.sample.step not in {other.sample.step for other in drawn}]
    told = sorted([*told, *drawn], key=lambda each: each.sample.step)
    return write_page(
        Page(
            title=facts.run,
            lead=_lead(facts, data),
            picture=picture,
            figures=tuple(_figures(facts, profile)),
            samples=tuple((each.title, each.sample.prompt, each.sample.text) for each in told),
            sections=(
                Section("The text", tuple(_text_facts(data))),
                Section("The model", tuple(_model_facts(run, facts, profile))),
                Section("The machine", tuple(_machine_facts(run, facts, history))),
            ),
            profile=dump_profile(_without_folders(profile)),
            commands=tuple(_commands(run, profile, data)),
            notes=tuple(dict.fromkeys(text for _, text in history.notices)),
            made_with=f"gptcli {__version__}",
        )
    )


def _without_folders(profile: RunProfile) -> RunProfile:
    base = profile.finetune.base
    if base is None:
        return profile
    return profile.model_copy(update={"finetune": profile.finetune.model_copy(update={"base": without_folders(base)})})


def _picture(run: RunDir, history: History) -> str:
    from gptcli.plot import curve_of, draw_svg

    return draw_svg(curve_of(run, history))


def _lead(facts: RunFacts, data: DataFacts) -> str:
    """Say in two sentences what this is."""
    tokens = data.manifest.train.tokens
    begun = "trained from scratch" if facts.base is None else f"finetuned from {without_folders(facts.base)}"
    text = data.source.get("recipe") or data.where or facts.corpus
    what = f"A GPT of {count_text(facts.n_params)} parameters, {begun} on {count_text(tokens)} tokens of {text}."
    if facts.best_val_loss is None:
        return f"{what} It has not been evaluated yet."
    end = {"done": "", "running": " It is still being trained.", "stopped": " It was stopped and can go on.",
           "failed": " It ended in an error."}[facts.state]  # fmt: skip
    return f"{what} Its best val_loss is {loss_text(facts.best_val_loss)}.{end}"


def _figures(facts: RunFacts, profile: RunProfile) -> Iterator[tuple[str, str]]:
    """The numbers that stand large on the page."""
    if facts.best_val_loss is not None:
        yield "best val_loss", loss_error_text(facts.best_val_loss, facts.best_val_loss_stderr)
    if facts.bits_per_byte is not None:
        yield "bits per byte", f"{facts.bits_per_byte:.3f}"
    yield "steps", f"{facts.step:,} of {profile.train.max_steps:,}"
    yield "training time", duration_text(facts.seconds)
    if facts.tokens_per_second:
        yield "tokens a second", count_text(facts.tokens_per_second)


def _told(history: History) -> Iterator[Told]:
    """The samples that were drawn while training, thinned out where there are many."""
    samples = history.samples
    if len(samples) > SHOWN_SAMPLES:
        places = [round(i * (len(samples) - 1) / (SHOWN_SAMPLES - 1)) for i in range(SHOWN_SAMPLES)]
        samples = [samples[place] for place in places]
    yield from (Told(f"step {sample.step:,}", sample) for sample in samples)


def _drawn(run: RunDir, profile: RunProfile, facts: RunFacts, on_notice: Callable[[str], None]) -> Iterator[Told]:
    """What the first weights and the best ones write now, from the prompt of the profile."""
    from gptcli.sample import generate

    prompt = profile.sample.prompt
    config = profile.sample.model_copy(
        update={"num_samples": 1, "max_new_tokens": min(SAMPLE_TOKENS, profile.sample.max_new_tokens)}
    )
    try:
        for title, step, model in _models(run, profile, facts):
            pieces = list(generate(model, run.tokenizer(), prompt, config))
            cut = "…" if pieces and pieces[-1].finish_reason == "length" else ""
            yield Told(title, DrawnSample(step, prompt, "".join(piece.text for piece in pieces) + cut))
    except GptcliError as error:
        on_notice(f"The page goes without a text: {error.message}")


def _models(run: RunDir, profile: RunProfile, facts: RunFacts) -> Iterator[tuple[str, int, GPT]]:
    """Yield the weights that the run began with, which its seed makes again, and the best ones, each with its step."""
    import torch

    from gptcli.model import GPT
    from gptcli.restore import load_model

    if facts.base is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(profile.train.seed)
            first = GPT(profile.model).eval()
        yield "step 0: random weights", 0, first
    if facts.best_step is not None:
        best, _, step = load_model(run)  # which may be a later one by now, of a run that goes on
        yield f"best, step {step:,}", step, best


def _text_facts(data: DataFacts) -> Iterator[tuple[str, str]]:
    manifest = data.manifest
    yield "corpus", manifest.corpus
    if data.where:
        yield "source", f"{data.where}, fetched on {data.fetched_on}"
    for split, of in (("to train on", manifest.train), ("to evaluate", manifest.val)):
        documents = f"{of.documents:,} document{'' if of.documents == 1 else 's'}"
        yield split, f"{of.tokens:,} tokens, {bytes_text(of.bytes)} of text, {documents}"
    yield "val is set apart", manifest.split_reason
    yield "tokenizer", f"{manifest.tokenizer}, {manifest.vocab_size:,} tokens"
    if manifest.duplicates_removed:
        yield "duplicates removed", f"{manifest.duplicates_removed:,}"
    dropped = (data.source.get("dropped") or {}).items()
    if left_out := [f"{count:,} {what}" if isinstance(count, int) else str(what) for what, count in dropped]:
        yield "left out", "; ".join(left_out)
    yield "licence", "; ".join(licence for licence, _ in data.licences.most_common(5)) or "not known"
    listed = [", ".join(filter(None, (each.title, each.author, each.url))) for each in data.documents]
    if data.n_documents > len(listed):
        listed.append(f"and {data.n_documents - len(listed):,} more")
    yield from (("" if place else "documents", text) for place, text in enumerate(listed))
    yield "sha256", manifest.corpus_sha256


def _model_facts(run: RunDir, facts: RunFacts, profile: RunProfile) -> Iterator[tuple[str, str]]:
    model, train = profile.model, profile.train
    yield "family", model.family
    yield "shape", ", ".join(f"{key} {getattr(model, key)}" for key in ("n_layer", "n_head", "n_embd", "block_size"))
    yield "parameters", f"{facts.n_params:,}"
    if facts.base is not None:
        born = parent(run)
        step = "" if born is None or born[1] is None else f", its step {born[1]:,}"
        yield "begun from", f"{without_folders(facts.base)}{step}"
    if facts.base is not None and profile.finetune.lora_rank:
        yield "adapters", f"LoRA of rank {profile.finetune.lora_rank}"
    yield "tokens seen", f"{facts.tokens_seen:,}, {profile.tokens_per_step:,} a step"
    if (promised := profile.expects.val_loss) is not None:
        yield "promised", promise_text(promised, facts.best_val_loss, ended=facts.state == "done")
    yield "dropout", f"{model.dropout:g}"
    rate = f"learning_rate {train.learning_rate:g}"
    muon = f", muon_learning_rate {train.muon_learning_rate:g}" if train.optimizer == "muon" else ""
    yield "optimizer", f"{train.optimizer}, {rate}{muon}, schedule {train.schedule}"


def _machine_facts(run: RunDir, facts: RunFacts, history: History) -> Iterator[tuple[str, str]]:
    found = environment(run)
    device = history.started.get("device")
    if isinstance(device, str):
        yield "device", f"{device} ({history.started.get('device_reason')})"
    for key in ("gptcli", "torch", "numpy", "python", "platform", "threads"):
        if key in found:
            yield key, str(found[key])
    yield "begun", str(found.get("created_at") or "not known")
    yield "last written to", facts.changed_at


def _commands(run: RunDir, profile: RunProfile, data: DataFacts) -> Iterator[str]:
    """The commands that make the run again, the profile below being in a file."""
    corpus = quote(data.manifest.corpus)
    yield data.fetch_command
    if profile.finetune.base is None:
        yield f"gptcli train {corpus} --profile profile.yaml --run {quote(run.name)}"
    else:
        base = quote(without_folders(profile.finetune.base))
        yield f"gptcli finetune {corpus} --from {base} --profile profile.yaml --run {quote(run.name)}"
    yield f"gptcli sample {quote(run.name)}"
