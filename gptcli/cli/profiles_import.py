"""``gptcli profiles import``: a configuration file of nanoGPT becomes a profile."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.cli.common import JsonOption, QuietOption, emit, note, reports_errors
from gptcli.errors import ProfileError

if TYPE_CHECKING:
    from gptcli.nanogpt_config import ImportedProfile


@reports_errors
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="A configuration file of nanoGPT.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.yaml", help="Where the profile goes; else configs/NAME.yaml."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile that is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn a configuration file of nanoGPT into a profile; prints its path. The file is read, never executed.

    Example: gptcli profiles import config/train_shakespeare_char.py
    """
    from gptcli.files import atomic_write
    from gptcli.nanogpt_config import import_config

    if output is not None and output.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter(f"--output {output}: a profile is a .yaml file.")
    place = output or Path("configs") / f"{file.stem}.yaml"
    imported = import_config(file)
    notes = (*imported.notes, *_finetuning(imported, place))
    text = _imported_text(file, imported, notes).encode()
    there = place.read_bytes() if place.exists() else text
    if there != text and not force:
        raise ProfileError(
            f"{place} is there already, and differs.", "--force replaces it; --output FILE.yaml writes another."
        )
    if there != text or not place.exists():
        with atomic_write(place) as written:
            written.write(text)
    if not quiet:
        for line in notes:
            note(line)
    emit({"path": place, "notes": notes}, str(place), as_json=as_json)


def _finetuning(imported: ImportedProfile, place: Path) -> tuple[str, ...]:
    """Return how a profile that begins from a published model is used, by its name where it is found by that."""
    base = imported.values.get("finetune", {}).get("base")
    if base is None:
        return ()
    return (f"It begins from {base}: gptcli finetune --profile {quote(profile_name(place))}",)


def profile_name(place: Path) -> str:
    """Return what is typed for the profile of a file: its name where it is found by that, else its path."""
    by_name = place.parent == Path("configs") and place.suffix == ".yaml"
    return place.stem if by_name else str(place)


def _imported_text(file: Path, imported: ImportedProfile, notes: tuple[str, ...]) -> str:
    """Return the profile as YAML, below comments that say where it is from and what became of the rest."""
    from gptcli.strict_yaml import dump_yaml

    header = [f"From nanoGPT's {file.name}, by gptcli profiles import.", *notes]
    printable = ("".join(c if c.isprintable() else " " for c in line) for line in header)
    return "".join(f"# {line}\n" for line in printable) + dump_yaml(imported.values)
