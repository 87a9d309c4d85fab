"""``gptcli profiles``: which run profiles there are, and what is in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.cli.common import JsonOption, emit, reports_errors, write_stdout
from gptcli.errors import GptcliError

if TYPE_CHECKING:
    from gptcli.config import RunProfile
    from gptcli.profiles import ProfileFile

profiles_app = typer.Typer(help="Run profiles: list them, show one.", no_args_is_help=True)


def all_profiles() -> Iterator[tuple[ProfileFile, RunProfile | None, str]]:
    """Yield every profile there is; one that cannot be read comes as None and what is wrong with it."""
    from gptcli.profiles import profiles

    yield from ((file, *_read(file)) for file in profiles())


def _read(file: ProfileFile) -> tuple[RunProfile | None, str]:
    from gptcli.profiles import load_profile

    try:
        return load_profile(file.path), ""
    except GptcliError as error:
        return None, error.message


@profiles_app.command("list")
@reports_errors
def list_command(as_json: JsonOption = False) -> None:
    """List all profiles, those of ./configs before built-in ones of the same name."""
    rows = [
        {
            "name": file.name,
            "description": profile.description if profile else problem,
            "path": file.path,
            "builtin": file.builtin,
        }
        for file, profile, problem in all_profiles()
    ]
    width = max((len(str(row["name"])) for row in rows), default=0)
    lines = [f"{row['name']!s:<{width}}  {row['description']}".rstrip() for row in rows]
    emit({"profiles": rows}, "\n".join(lines), as_json=as_json)


@profiles_app.command("show")
@reports_errors
def show_command(
    name: Annotated[str, typer.Argument(help="Name of a profile, or the path of a YAML file.")],
    as_json: JsonOption = False,
) -> None:
    """Print a profile as it stands in its file; --json prints every key with its value."""
    from gptcli.profiles import find_profile, load_profile

    file = find_profile(name)
    profile = load_profile(file.path)
    if as_json:
        emit({"name": file.name, "path": file.path, "profile": profile.model_dump(mode="json")}, "", as_json=True)
    else:
        write_stdout(file.path.read_text("utf-8"))
