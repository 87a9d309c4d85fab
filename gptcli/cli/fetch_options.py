"""The options of ``gptcli fetch``, one name each, so that the command itself fits on a screen."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from gptcli.cli.completion import complete_sources
from gptcli.fetch.options import AsKind, Robots

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_WEB, _JSON, _RECORDINGS = "Web", "JSON and tables", "Recordings"


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``500MB``, ``1.5 GiB`` or ``20000``; other words are a usage error."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?|)b?", text.strip().lower())
    if match is None or (size := int(float(match[1]) * _UNITS[match[2]])) < 1:
        raise typer.BadParameter(f"{text!r} is not a size; write 500MB, 1.5GB or 200000.")
    return size


def parse_fields(text: str) -> tuple[str, ...]:
    """Return the names in ``title,body``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        autocompletion=complete_sources,
        help="Files, a folder, a glob, - for stdin, a web address (a page, a whole blog, a JSON API, a file), "
        "gutenberg:1513, gutenberg:TITLE, hf:OWNER/DATASET, or a recipe's name.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the corpus, whose text is replaced. By default made from the source, replacing no other.",
    ),
]
AsOption = Annotated[AsKind | None, typer.Option("--as", help="What the source is, instead of finding out.")]
ExplainOption = Annotated[
    bool, typer.Option("--explain", help="Say what the source is and what fetching it would take; fetch nothing.")
]
DropLinesOption = Annotated[
    list[str] | None,
    typer.Option(metavar="REGEX", help="Leave out lines in which this is found; may be repeated."),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Ask nobody: make the documents anew from what was fetched.")
]
LimitBytesOption = Annotated[
    int | None,
    typer.Option(parser=parse_size, metavar="SIZE", help="End a hub data set after so much text, such as 200MB."),
]
MirrorOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A mirror of Gutenberg, of the hub or of the site.", rich_help_panel=_WEB),
]
RobotsOption = Annotated[
    Robots,
    typer.Option(
        help="polite: robots.txt rules the links found on the way; strict: the typed address too; ignore.",
        rich_help_panel=_WEB,
    ),
]
DelayOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=3600,
        metavar="SECONDS",
        help="Pause between two requests to a host. By default it adapts, from 1 s.",
        rich_help_panel=_WEB,
    ),
]
ContactOption = Annotated[
    str | None,
    typer.Option(
        envvar="GPTCLI_CONTACT",
        metavar="ADDRESS",
        help="Your mail or web address, told to servers so that they can reach you.",
        rich_help_panel=_WEB,
    ),
]
MaxPagesOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Take at most so many pages; 10,000 by default.", rich_help_panel=_WEB),
]
MaxBytesOption = Annotated[
    int | None,
    typer.Option(parser=parse_size, metavar="SIZE", help="Take at most so much, such as 500MB.", rich_help_panel=_WEB),
]
ItemsOption = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Where the list is in the answer: data.posts.", rich_help_panel=_JSON),
]
TextFieldsOption = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="The fields that are the text: title,body.", rich_help_panel=_JSON),
]
NextOption = Annotated[
    str | None,
    typer.Option("--next", metavar="PATH", help="Where the next page's address is.", rich_help_panel=_JSON),
]
WhisperOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="Whisper's size (tiny, base, small, medium, large-v3, turbo) or a folder with a model.",
        rich_help_panel=_RECORDINGS,
    ),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(metavar="CODE", help="What is spoken: en, de; by default heard.", rich_help_panel=_RECORDINGS),
]
VadOption = Annotated[bool, typer.Option("--vad/--no-vad", help="Pass over silence.", rich_help_panel=_RECORDINGS)]
