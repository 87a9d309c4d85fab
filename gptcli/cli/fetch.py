"""``gptcli fetch``: a source becomes a corpus."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from gptcli.cli import fetch_options as of
from gptcli.cli.common import EncodingOption, JsonOption, QuietOption, emit, note, progress, reports_errors
from gptcli.fetch.options import FetchOptions

if TYPE_CHECKING:
    from gptcli.fetch.fetching import Explanation, FetchResult


@reports_errors
def fetch_command(
    sources: of.SourcesArgument,
    name: of.NameOption = None,
    as_kind: of.AsOption = None,
    explain: of.ExplainOption = False,
    drop_lines: of.DropLinesOption = None,
    encoding: EncodingOption = None,
    offline: of.OfflineOption = False,
    limit_bytes: of.LimitBytesOption = None,
    mirror: of.MirrorOption = None,
    robots: of.RobotsOption = "polite",
    delay: of.DelayOption = None,
    contact: of.ContactOption = None,
    max_pages: of.MaxPagesOption = None,
    max_bytes: of.MaxBytesOption = None,
    items: of.ItemsOption = None,
    text_fields: of.TextFieldsOption = None,
    next_page: of.NextOption = None,
    whisper: of.WhisperOption = "small",
    language: of.LanguageOption = None,
    vad: of.VadOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch a text and keep it as a corpus in corpora/; prints its folder.

    Killed or broken off, the same command goes on where it was. gptcli corpora list shows the recipes.

    Example: gptcli fetch book.txt
    """
    options = FetchOptions(
        as_kind=as_kind,
        encoding=encoding,
        offline=offline,
        mirror=mirror,
        robots=robots,
        delay=delay,
        contact=contact,
        max_pages=max_pages,
        max_bytes=max_bytes,
        items=items,
        text_fields=of.parse_fields(text_fields or ""),
        next_page=next_page,
        drop_lines=tuple(drop_lines or ()),
        limit_bytes=limit_bytes,
        whisper=whisper,
        language=language,
        vad=vad,
    )
    if explain:
        _explain(sources, name, options, as_json=as_json, quiet=quiet)
    else:
        _fetch(sources, name, options, as_json=as_json, quiet=quiet)


def _fetch(sources: list[str], name: str | None, options: FetchOptions, *, as_json: bool, quiet: bool) -> None:
    from gptcli.corpora import CORPORA
    from gptcli.fetch.corpus import counted
    from gptcli.fetch.fetching import IncompleteError, fetch

    try:
        with progress(quiet=quiet) as going_on:
            result = fetch(sources, name=name, corpora_dir=CORPORA, options=options, on_progress=going_on.show)
    except IncompleteError as error:
        _report(error.result, quiet=quiet)
        raise
    except KeyboardInterrupt as stop:
        kept = "What came over the network is kept: the same command goes on from there."
        raise KeyboardInterrupt(f"Interrupted. {kept}") from stop
    _report(result, quiet=quiet)
    if not quiet:
        talks = result.source.get("conversations")
        step = f"gptcli finetune {quote(result.name)} --from gpt2" if talks else f"gptcli prepare {quote(result.name)}"
        note(f"{result.name}: {counted(result.source)}, {result.bytes:,} bytes. Next: {step}")
    emit(
        {
            "corpus": result.name,
            "folder": result.folder,
            "documents": result.documents,
            "bytes": result.bytes,
            "notes": result.notes,
            "source": result.source,
        },
        str(result.folder),
        as_json=as_json,
    )


def _report(result: FetchResult, *, quiet: bool) -> None:
    if quiet:
        return
    for text in result.notes:
        note(text)
    dropped = "; ".join(f"{what}: {count:,}" for what, count in result.source["dropped"].items())
    if dropped:
        note(f"Left out. {dropped}.")


def _explain(sources: list[str], name: str | None, options: FetchOptions, *, as_json: bool, quiet: bool) -> None:
    from gptcli.fetch.fetching import explain

    with progress(quiet=quiet) as going_on:
        found = explain(sources, name=name, options=options, on_progress=going_on.show)
    plan = found.plan
    value = {
        "kind": found.kind,
        "why": found.why,
        "source": found.where,
        "corpus": found.name,
        "licence": found.licence,
        "steps": plan.steps,
        "requests": plan.requests,
        "at_least": plan.at_least,
        "seconds": plan.seconds,
        "bytes": plan.bytes,
        "notes": found.notes,
    }
    emit(value, _explained(found, options), as_json=as_json)


def _explained(found: Explanation, options: FetchOptions) -> str:
    from gptcli.fetch.web.asker import MAX_PAGES
    from gptcli.figures import duration_text

    plan = found.plan
    least = "at least " if plan.at_least else ""
    many = "not known before" if plan.requests is None else f"{least}{plan.requests:,}"
    lines = [f"kind: {found.kind}, because {found.why}", f"corpus: {found.name}"]
    lines += [f"licence: {found.licence}"] if found.licence else []
    lines += [f"then: {step}" for step in plan.steps]
    if plan.requests != 0:
        time = "" if plan.seconds is None else f", about {duration_text(plan.seconds)} at the polite rate"
        lines.append(f"requests: {many}{time}")
        if plan.requests is not None and plan.requests > (options.max_pages or MAX_PAGES):
            lines.append(f"limit: {options.max_pages or MAX_PAGES:,} pages; --max-pages sets another")
    if plan.bytes is not None:
        lines.append(f"bytes: {plan.bytes:,}")
    return "\n".join([*lines, *(f"note: {text}" for text in found.notes)])
