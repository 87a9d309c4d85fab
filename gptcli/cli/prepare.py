"""``gptcli prepare``: a corpus becomes tokens, with a report and a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptcli.cli.common import JsonOption, NewestCorpus, QuietOption, emit, note, progress, reports_errors, wrong_options
from gptcli.cli.completion import complete_profiles, complete_tokenizers
from gptcli.errors import FormatError, ProfileError

if TYPE_CHECKING:
    from gptcli.config import DataConfig, RunProfile
    from gptcli.diagnosis import Finding
    from gptcli.prepare import PrepareResult
    from gptcli.shards import DatasetManifest
    from gptcli.tokenizer import Tokenizer


@reports_errors
def prepare_command(
    corpus: NewestCorpus = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", autocompletion=complete_tokenizers, help="char, gpt2, bpe:N (such as bpe:512) or auto."
        ),
    ] = None,
    split: Annotated[
        Literal["auto", "document", "paragraph"] | None,
        typer.Option(help="Set whole documents apart for val, or the last tenth of each."),
    ] = None,
    split_at: Annotated[
        float | None, typer.Option(metavar="FRACTION", help="Cut the whole text here instead: 0.9 is nanoGPT's split.")
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option(metavar="FRACTION", help="Share of the text that goes to val, such as 0.2.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=complete_profiles,
            help="Prepare as this run profile says, and diagnose for it.",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Make the tokens of this run again: its tokenizer, its split.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make the tokens again even if they are there.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes that read and encode; one a core if not said."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn a corpus into tokens for training; prints their folder. Fetches a recipe or a text that is no corpus yet.

    Says on stderr what came out, and what the corpus and a profile will do to each other. One that was ended is gone
    on with by the same command, unless that has --force.

    Example: gptcli prepare book
    """
    if split_at is not None and val_fraction is not None:
        raise typer.BadParameter("--split-at and --val-fraction both size val; choose one.")
    if run is not None and (tokenizer is not None or profile is not None):
        raise typer.BadParameter("--run has a tokenizer and a profile of its own; leave --tokenizer and --profile out.")
    config, given = _load(profile) if run is None else _of_run(run)
    data = _data(config, {"tokenizer": tokenizer, "split": split, "split_at": split_at, "val_fraction": val_fraction})
    result = _prepare(corpus, data, given, force=force, workers=workers, quiet=quiet)
    profile_name, chosen = (profile, config) if config else _suggest(result.manifest.corpus)
    _finish(result, profile_name, chosen, run, is_named=config is not None, as_json=as_json, quiet=quiet)


def _load(profile: str | None) -> tuple[RunProfile | None, None]:
    if profile is None:
        return None, None
    from gptcli.profiles import find_profile, load_profile

    return load_profile(find_profile(profile).path), None


def _of_run(name: str) -> tuple[RunProfile, Tokenizer]:
    """Return the profile of a run, whose data section says how its tokens were split, and its tokenizer."""
    from gptcli.runs import find_run

    run = find_run(name)
    return run.profile(), run.tokenizer()


def _prepare(
    corpus: str | None, data: DataConfig, given: Tokenizer | None, *, force: bool, workers: int | None, quiet: bool
) -> PrepareResult:
    from gptcli.corpora import choose_corpus, is_fetched
    from gptcli.prepare import ensure_tokens, prepare

    name = choose_corpus(corpus, data.corpus)
    with progress(quiet=quiet) as going_on:
        if is_fetched(name):
            return prepare(name, data, tokenizer=given, force=force, workers=workers, on_progress=going_on.show)
        return ensure_tokens(
            name, data, tokenizer=given, workers=workers, on_notice=going_on.note, on_progress=going_on.show
        )


def _finish(
    result: PrepareResult,
    profile_name: str | None,
    profile: RunProfile | None,
    run: str | None,
    *,
    is_named: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Diagnose the tokens for the profile, or the run, and report; of a profile that nobody named only warnings."""
    from gptcli.config import DataConfig
    from gptcli.diagnosis import diagnose

    findings = diagnose(result.manifest, profile)
    if not quiet:
        _show(result)
        of_corpus = diagnose(result.manifest, None)
        shown = [found for found in findings if is_named or found.level == "warning" or found in of_corpus]
        if shown:
            names_profile = any(found not in of_corpus for found in shown)
            _show_findings(shown, f"the run {run}" if run else f"the profile {profile_name}" if names_profile else "")
        if not is_named and (profile is None or profile.data.corpus != result.manifest.corpus):
            tokens = _word(result, DataConfig())
            note(f"A profile for this text, your machine and your time: gptcli profiles suggest {tokens}")
        note(f"Next: {_next_command(result, profile_name, profile, run)}")
    report = {
        "folder": result.folder,
        **_report(result),
        "tokenizer_reason": result.tokenizer_reason,
        "reused": result.reused,
        "notes": result.notes,
        "run": run,
        "profile": profile_name,
        "findings": [{"level": finding.level, "text": finding.text} for finding in findings],
    }
    emit(report, str(result.folder), as_json=as_json)


def _word(made: PrepareResult, data: DataConfig) -> str:
    """Return what these very tokens are called in a command: the name of their corpus, else their folder."""
    from gptcli.corpora import corpus_word
    from gptcli.prepare import are_meant

    return quote(corpus_word(made.folder.parents[1]) if are_meant(made, data) else str(made.folder))


def _next_command(made: PrepareResult, profile_name: str | None, profile: RunProfile | None, run: str | None) -> str:
    """Return the command that uses these very tokens: by the name of their corpus, else by their folder."""
    from gptcli.config import DataConfig, FinetuneConfig
    from gptcli.corpora import corpus_word

    corpus = quote(corpus_word(made.folder.parents[1]))
    if run is not None:
        if profile is not None and profile.data.corpus == made.manifest.corpus:
            return f"gptcli train --resume --run {run}"
        return f"gptcli finetune {corpus} --from {quote(run)}"
    chosen = f" --profile {quote(profile_name)}" if profile_name else ""
    if profile is not None and profile.finetune != FinetuneConfig():
        base = "" if profile.finetune.base else " --from gpt2"
        return f"gptcli finetune {corpus}{base}{chosen}"
    return f"gptcli train {_word(made, profile.data if profile else DataConfig())}{chosen}"


def _data(config: RunProfile | None, given: dict[str, Any]) -> DataConfig:
    """Return the profile's data section with the options laid over it; every wrong option is named at once."""
    from pydantic import ValidationError

    from gptcli.config import DataConfig

    base = config.data.model_dump(exclude_unset=True) if config else {}
    if given["val_fraction"] is not None:
        base.pop("split_at", None)
    try:
        return DataConfig.model_validate({**base, **{key: value for key, value in given.items() if value is not None}})
    except ValidationError as error:
        raise wrong_options(error, "gptcli prepare --help explains them.") from error


def _suggest(corpus: str) -> tuple[str, RunProfile | None]:
    """Choose the profile to diagnose for and to train with, which is the one that ``gptcli`` alone names."""
    from gptcli.profiles import find_profile, load_profile, profile_for

    name = profile_for(corpus)
    try:
        return name, load_profile(find_profile(name).path)
    except ProfileError:  # training says what is wrong with it
        return name, None


def _report(result: PrepareResult) -> dict[str, Any]:
    """Return the figures of the report, as JSON has them."""
    manifest = result.manifest
    tokens = manifest.train.tokens + manifest.val.tokens
    size = manifest.train.bytes + manifest.val.bytes
    return {
        "corpus": manifest.corpus,
        "tokenizer": manifest.tokenizer,
        "vocab_size": manifest.vocab_size,
        "documents": _count_documents(result),
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": size / max(1, tokens),
        "duplicates_removed": manifest.duplicates_removed,
        "train_tokens": manifest.train.tokens,
        "val_tokens": manifest.val.tokens,
        "train_documents": manifest.train.documents,
        "val_documents": manifest.val.documents,
        "dtype": manifest.dtype,
        "split": manifest.split,
        "split_reason": manifest.split_reason,
        **_of_conversations(manifest),
    }


def _of_conversations(manifest: DatasetManifest) -> dict[str, int]:
    """Return the figures of a corpus that has conversations; none for another."""
    found = [split.conversations for split in (manifest.train, manifest.val) if split.conversations is not None]
    if not found:
        return {}
    names = ("conversations", "answers", "scored_tokens")
    return {name: sum(getattr(part, name) for part in found) for name in names}


def _count_documents(result: PrepareResult) -> int:
    """Count the documents that became tokens; one that is cut in two stands in both splits."""
    from gptcli.fetch.corpus import read_source

    train, val = result.manifest.train.documents, result.manifest.val.documents
    if result.manifest.split == "document":
        return train + val
    try:
        return int(read_source(result.folder.parents[1])["documents"]) - result.manifest.duplicates_removed
    except FormatError:  # a corpus made by hand
        return max(train, val)


def _shown_conversations(facts: dict[str, Any]) -> dict[str, str]:
    if "answers" not in facts:
        return {}
    answers = f"{facts['conversations']:,} with {facts['answers']:,} answers"
    return {"conversations": f"{answers}: {facts['scored_tokens']:,} of {facts['tokens']:,} tokens are scored"}


def _show(result: PrepareResult) -> None:
    """Print the report as a small table on stderr."""
    from gptcli.display import print_facts, stderr_console

    for text in result.notes:
        note(text)
    facts = _report(result)
    rows = {
        "corpus": facts["corpus"],
        "documents": f"{facts['documents']:,}, {facts['duplicates_removed']:,} duplicates removed",
        "text": f"{facts['bytes']:,} bytes",
        "tokenizer": f"{facts['tokenizer']}, {facts['vocab_size']:,} tokens: {result.tokenizer_reason}",
        "tokens": f"{facts['tokens']:,} ({facts['dtype']}), {facts['bytes_per_token']:.2f} bytes per token",
        "train": f"{facts['train_tokens']:,} tokens, documents: {facts['train_documents']:,}",
        "val": f"{facts['val_tokens']:,} tokens, documents: {facts['val_documents']:,}",
        "split": f"{facts['split']}: {facts['split_reason']}",
        **_shown_conversations(facts),
        "folder": f"{result.folder}{' (there already)' if result.reused else ''}",
    }
    print_facts(stderr_console(), list(rows.items()))


def _show_findings(findings: Sequence[Finding], what: str) -> None:
    from gptcli.display import print_facts, stderr_console

    note(f"\nWith {what}:" if what else "\nOf this corpus:")
    print_facts(stderr_console(), [(finding.level, finding.text) for finding in findings])
