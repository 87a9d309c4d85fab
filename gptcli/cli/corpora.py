"""``gptcli corpora``: which corpora have been fetched, which recipes there are, and what is in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.common import JsonOption, emit, emit_columns, emit_lines, padded, reports_errors, stdout_width
from gptcli.cli.completion import complete_corpora
from gptcli.errors import CorpusError, GptcliError

if TYPE_CHECKING:
    from pathlib import Path

    from gptcli.fetch.recipes import RecipeFile

corpora_app = typer.Typer(help="Corpora: list them and the recipes, show one.", no_args_is_help=True)


@corpora_app.command("list")
@reports_errors
def list_command(as_json: JsonOption = False) -> None:
    """List the fetched corpora, the newest first, and the recipes that gptcli fetch knows by name.

    Example: gptcli corpora list
    """
    from rich.cells import cell_len
    from rich.text import Text

    from gptcli.corpora import corpus_names, unfinished_fetches
    from gptcli.fetch.recipes import recipes
    from gptcli.figures import visible

    begun = [{"name": name, "fetched": False, "next": command} for name, command in unfinished_fetches().items()]
    fetched = [{"name": name, "fetched": True, **_facts_or_problem(name)} for name in corpus_names()]
    names = {row["name"] for row in (*fetched, *begun)}
    known = [
        {"name": file.name, "fetched": False, "builtin": file.builtin, **_recipe_facts(file)}
        for file in recipes()
        if file.name not in names
    ]
    pairs = [(str(row["name"]), _summary(row)) for row in fetched]
    pairs += [(str(row["name"]), f"not finished; this goes on: {row['next']}") for row in begun]
    pairs += [(str(row["name"]), f"recipe: {row['description']}") for row in known]
    if not as_json and stdout_width() is not None:
        emit_columns([(Text(visible(name)), Text(visible(said))) for name, said in pairs])
        return
    width = max((cell_len(name) for name, _ in pairs), default=0)
    lines = "\n".join(f"{padded(name, width)}  {said}" for name, said in pairs)
    emit({"corpora": [*fetched, *begun, *known]}, lines, as_json=as_json)


@corpora_app.command("show")
@reports_errors
def show_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="CORPUS",
            autocompletion=complete_corpora,
            help="Name or folder of a fetched corpus; the newest if none is given.",
        ),
    ] = None,
    documents: Annotated[
        bool, typer.Option("--documents", help="List its documents: title, author, date, address, when fetched.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where a corpus came from, what was left out, how large it is, and which tokens have been prepared.

    Example: gptcli corpora show book --documents
    """
    from gptcli.corpora import CORPORA, corpus_names, document_facts, is_fetched, locate_corpus, unknown_corpus

    wanted = name or next(iter(corpus_names()), None)
    if wanted is None:
        raise CorpusError(f"There is no corpus in {CORPORA} yet.", "Fetch one: gptcli fetch FILE, or a recipe's name.")
    if not is_fetched(wanted):
        raise unknown_corpus(wanted)
    name, parent = locate_corpus(wanted)
    folder = parent / name
    if documents:
        rows = list(document_facts(folder))
        _emit_wrapped({"name": name, "documents": rows}, list(map(_document_line, rows)), as_json=as_json)
        return
    facts = {"name": name, "folder": folder, **_facts(folder)}
    lines = [f"{key}: {_inline(value)}" for key, value in facts.items() if value not in ("", [], {}, None)]
    _emit_wrapped(facts, lines, as_json=as_json)


def _emit_wrapped(value: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Print lines on stdout, wrapped between words in a terminal; or ``value`` as JSON."""
    from rich.text import Text

    from gptcli.figures import visible

    if as_json or stdout_width() is None:
        emit(value, "\n".join(lines), as_json=as_json)
    else:
        emit_lines(Text(visible(line)) for line in lines)


def _facts(folder: Path) -> dict[str, Any]:
    """Return what source.json says, and the names of the folders of tokens; one made by hand has no source.json."""
    from gptcli.fetch.corpus import DOCUMENTS, NEXT_SOURCE, SOURCE, read_source

    by_hand = {"kind": "made by hand", "file_bytes": (folder / DOCUMENTS).stat().st_size}
    was_fetched = (folder / SOURCE).exists() or (folder / NEXT_SOURCE).exists()
    source = read_source(folder) if was_fetched else by_hand
    tokens = sorted(path.parent.name for path in folder.glob("tokens/*/manifest.json"))
    return {**source, "tokens": tokens}


def _document_line(row: dict[str, Any]) -> str:
    said = [row["date"][:10], row["title"] or "(no title)", row["author"], row["url"], f"{row['bytes']:,} bytes"]
    fetched = f"fetched {row['fetched_at'][:10]}" if row["fetched_at"] else ""
    return "  ".join(part for part in (*said, fetched) if part)


def _facts_or_problem(name: str) -> dict[str, Any]:
    """A list says which corpus is damaged and goes on with the others."""
    from gptcli.corpora import CORPORA

    try:
        return _facts(CORPORA / name)
    except GptcliError as error:
        return {"problem": error.message}


def _recipe_facts(file: RecipeFile) -> dict[str, Any]:
    from gptcli.fetch.recipes import load_recipe

    try:
        recipe = load_recipe(file.path)
    except GptcliError as error:
        return {"description": error.message, "licence": ""}
    return {"description": recipe.description, "licence": recipe.licence}


def _summary(row: dict[str, Any]) -> str:
    if "problem" in row:
        return str(row["problem"])
    from gptcli.fetch.corpus import counted

    tokens = ", ".join(row["tokens"]) or "none yet"
    if "documents" not in row:
        return f"{row['kind']}, {row['file_bytes']:,} bytes of documents, tokens: {tokens}"
    missing = f", {len(row['missing']):,} missing" if row.get("missing") else ""
    return f"{counted(row)}{missing}, {row['bytes']:,} bytes, tokens: {tokens}"


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {inner}" for key, inner in value.items())
    if isinstance(value, list):
        items = [item["why"] if isinstance(item, dict) else str(item) for item in value]
        return ("\n  " if any(item.endswith(".") for item in items) else ", ").join(items)
    return str(value)
