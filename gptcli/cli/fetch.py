"""``gptcli fetch``: a source becomes a corpus."""

from __future__ import annotations

from typing import Annotated

import typer

from gptcli.cli.common import JsonOption, emit, note, progress, reports_errors


@reports_errors
def fetch_command(
    source: Annotated[
        str, typer.Argument(help="A file, a folder, a glob in quotes, - for stdin, a URL, or a recipe's name.")
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the corpus, whose text is replaced. By default made from the source, replacing no other.",
            show_default=False,
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Insist on an encoding such as cp1252 instead of finding out.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a text and keep it as a corpus in corpora/; prints its folder.

    gptcli corpora list shows the recipes that need no source of your own.
    """
    from gptcli.corpora import CORPORA
    from gptcli.fetch import fetch

    with progress() as going_on:
        result = fetch(source, name=name, corpora_dir=CORPORA, encoding=encoding, on_progress=going_on.show)
    for text in result.notes:
        note(text)
    documents = f"{result.documents:,} document{'' if result.documents == 1 else 's'}"
    note(f"{result.name}: {documents}, {result.bytes:,} bytes. Next: gptcli prepare {result.name}")
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
