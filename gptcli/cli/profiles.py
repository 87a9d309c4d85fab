"""``gptcli profiles``: which run profiles there are, what is in one, what is wrong with one, and how two differ.

Holds the group; ``suggest`` and ``import`` have files of their own and are only listed here.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.common import (
    EXIT_ERROR,
    JsonOption,
    QuietOption,
    emit,
    emit_columns,
    note,
    padded,
    reports_errors,
    stdout_width,
    write_stdout,
)
from gptcli.cli.completion import complete_keys, complete_profiles
from gptcli.cli.profiles_import import import_command, profile_name
from gptcli.cli.profiles_suggest import suggest_command
from gptcli.errors import GptcliError, ProfileError

if TYPE_CHECKING:
    from gptcli.config import RunProfile
    from gptcli.profiles import ProfileFile

profiles_app = typer.Typer(
    help="Run profiles: list, show, copy, check, compare, suggest one, import nanoGPT's.", no_args_is_help=True
)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=complete_profiles, help="Name of a profile, or the path of a YAML file."
    ),
]


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


@reports_errors
def list_command(as_json: JsonOption = False) -> None:
    """List all profiles with what each is for, and what it promises on which machine.

    Yours, those of ./configs, are marked; they stand in place of built-in ones of the same name.

    Example: gptcli profiles list
    """
    from rich.cells import cell_len
    from rich.text import Text

    from gptcli.figures import visible

    rows = [_row(*found) for found in all_profiles()]
    if rows and not as_json and stdout_width() is not None:
        pairs = ((str(row["name"]), f"{_inline(row['description'])}\n{_promise(row)}{_yours(row)}") for row in rows)
        emit_columns([(Text(visible(name)), Text(visible(said))) for name, said in pairs])
        return
    width = max((cell_len(str(row["name"])) for row in rows), default=0)
    lines = [
        f"{padded(str(row['name']), width)}  {_inline(row['description'])}; {_promise(row)}{_yours(row)}"
        for row in rows
    ]
    emit({"profiles": rows}, "\n".join(lines), as_json=as_json)


def _row(file: ProfileFile, profile: RunProfile | None, problem: str) -> dict[str, Any]:
    from gptcli.profiles import builtin_profile

    promise = {} if profile is None else profile.expects.model_dump(mode="json")
    return {
        "name": file.name,
        "description": profile.description if profile else problem,
        "path": file.path,
        "builtin": file.builtin,
        "replaces_builtin": not file.builtin and builtin_profile(file.name) is not None,
        "readable": profile is not None,
        "corpus": profile.data.corpus if profile else None,
        "base": profile.finetune.base if profile else None,
        **{key: promise.get(key) for key in ("minutes", "machine", "val_loss", "tokenizer")},
    }


def _promise(row: dict[str, Any]) -> str:
    """Say how long a profile takes, where, and what comes of it."""
    from gptcli.figures import duration_text

    if not row["readable"]:
        return f"gptcli profiles check {quote(str(row['path']))}"
    time = "" if row["minutes"] is None else duration_text(60 * row["minutes"])
    where = f"{time} on {row['machine']}" if time and row["machine"] else time
    tokens = f" in {row['tokenizer']} tokens" if row["tokenizer"] else ""
    loss = "" if row["val_loss"] is None else f"val_loss {row['val_loss']:g}{tokens}"
    nothing = "time and loss not measured yet" if row["corpus"] else "time and loss depend on the text"
    return ", ".join(filter(None, (where, loss))) or nothing


def _yours(row: dict[str, Any]) -> str:
    """Say that a profile is one of the working directory, and which it hides."""
    instead = ", in place of the built-in one" if row["replaces_builtin"] else ""
    return "" if row["builtin"] else f"; yours, {row['path']}{instead}"


def _inline(text: object) -> str:
    return " ".join(str(text).split())


@reports_errors
def show_command(
    name: NameArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            autocompletion=complete_keys,
            help="Show it with one key changed. May be repeated.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print every key of a profile with its value and what it means; what is printed is a profile too.

    A star marks what the profile sets itself; all else is a default.

    Example: gptcli profiles show quickstart --set n_layer=6
    """
    from gptcli.profile_docs import commented
    from gptcli.profiles import find_profile, given_keys, header_of, load_profile

    file = find_profile(name)
    profile = load_profile(file.path, overrides or [])
    given = given_keys(file.path, overrides or [])
    if as_json:
        keys = sorted(".".join(map(str, path)) for path in given)
        facts = {"name": file.name, "path": file.path, "profile": profile.model_dump(mode="json"), "given": keys}
        emit(facts, "", as_json=True)
    else:
        write_stdout(commented(profile, given, header_of(file.path.read_text("utf-8"))))


@reports_errors
def copy_command(
    name: NameArgument,
    place: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="A .yaml file, or a new name in ./configs; else the same name there."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a profile that is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Copy a profile as it was written, comments too, to change it; prints where it is.

    The schema that tells an editor what every key means is put into ./configs, if it is not there yet.

    Example: gptcli profiles copy quickstart my
    """
    from gptcli.config import FinetuneConfig
    from gptcli.profiles import copy_profile, find_profile, load_profile

    target = Path("configs") / f"{find_profile(name).name}.yaml" if place is None else _place(place)
    is_there = target.exists() and not force
    path = copy_profile(name, target, force=force)
    if not quiet:
        if is_there:
            note(f"{path} is there already, and the same.")
        verb = "train" if load_profile(path).finetune == FinetuneConfig() else "finetune"
        note(f"Change it, then: gptcli {verb} --profile {quote(profile_name(path))}")
    emit({"path": path}, str(path), as_json=as_json)


def _place(text: str) -> Path:
    """Return the file that a name or a path means."""
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        return path
    if path.suffix or path.name != text or text == "..":
        raise typer.BadParameter(f"{text}: a profile is a .yaml file, or a plain name for one in ./configs.")
    return Path("configs") / f"{text}.yaml"


@reports_errors
def check_command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="FILE", autocompletion=complete_profiles, help="YAML files, folders of them, or names."),
    ],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read profiles and print every mistake of each as FILE:LINE: MISTAKE; exit code 1 if there is one.

    Example: gptcli profiles check configs/my.yaml quickstart
    """
    found = [item for name in names for item in _mistakes(name)]
    lines: list[str] = []
    for where, mistakes in found:
        places = (where if line is None else f"{where}:{line}" for line, _ in mistakes)
        lines += [f"{place}: {said}" for place, (_, said) in zip(places, mistakes, strict=True)] or [f"{where}: ok"]
    bad = [mistakes for _, mistakes in found if mistakes]
    facts = [
        {"path": where, "ok": not mistakes, "mistakes": [{"line": n, "mistake": said} for n, said in mistakes]}
        for where, mistakes in found
    ]
    emit({"ok": not bad, "files": facts}, "\n".join(lines), as_json=as_json)
    if bad:
        if not quiet:
            count = sum(map(len, bad))
            said = f"{count} mistake{'' if count == 1 else 's'} in {len(bad)} of {len(found)}."
            note(f"{said} gptcli profiles show quickstart has every key and what it means.")
        raise typer.Exit(EXIT_ERROR)


def _mistakes(name: str) -> Iterator[tuple[str, list[tuple[int | None, str]]]]:
    """Yield the files that a name, a file or a folder stands for, and the mistakes of each; a name may be one too."""
    from gptcli.profiles import find_profile, profile_mistakes

    path = Path(name)
    if name and path.is_dir():
        files = sorted((*path.glob("*.yaml"), *path.glob("*.yml")))
        if not files:
            yield name, [(None, "there is no profile, no .yaml file, in this folder.")]
    elif path.suffix in (".yaml", ".yml") or path.is_file():
        files = [path]
    else:
        try:
            files = [find_profile(name).path]
        except ProfileError as error:
            files = []
            yield name, [(None, f"{error.message} {error.hint}")]
    yield from ((str(file), profile_mistakes(file)) for file in files)


@reports_errors
def schema_command(as_json: JsonOption = False) -> None:
    """Print the JSON Schema of a profile file, which tells an editor every key and what it may be.

    It is JSON in any case; --json puts it into one line.

    Example: gptcli profiles schema > profile.schema.json
    """
    from gptcli.profile_docs import profile_schema, schema_text

    if as_json:
        emit(profile_schema(), "", as_json=True)
    else:
        write_stdout(schema_text())


@reports_errors
def diff_command(
    left: Annotated[
        str, typer.Argument(metavar="A", autocompletion=complete_profiles, help="A profile, a YAML file, or a run.")
    ],
    right: Annotated[
        str, typer.Argument(metavar="B", autocompletion=complete_profiles, help="What it is compared with.")
    ],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Print only the keys in which two profiles differ, with both values; a run stands for the profile it was given.

    The name of a built-in profile stands for that one beside your own file of the same name.

    Example: gptcli profiles diff quickstart macbook
    """
    from gptcli.profile_docs import value_text
    from gptcli.profiles import load_profile, profile_differences

    if (original := _hidden(left, right)) is not None:
        a, b, left = load_profile(original.path), _profile_of(right), f"built-in {left}"
    elif (original := _hidden(right, left)) is not None:
        a, b, right = _profile_of(left), load_profile(original.path), f"built-in {right}"
    else:
        a, b = _profile_of(left), _profile_of(right)
    rows = profile_differences(a, b)
    width = max((len(key) for key, _, _ in rows), default=0)
    lines = [f"{key:<{width}}  {value_text(was)} -> {value_text(now)}" for key, was, now in rows]
    if not quiet:
        note(f"{left} -> {right}" if rows else f"{left} and {right} are the same in every key.")
    differences = [{"key": key, "a": was, "b": now} for key, was, now in rows]
    emit({"a": left, "b": right, "differences": differences}, "\n".join(lines), as_json=as_json)


def _hidden(name: str, other: str) -> ProfileFile | None:
    """Return the built-in profile called ``name`` where ``other`` is the file that stands in its place."""
    from gptcli.profiles import builtin_profile, find_profile

    with contextlib.suppress(ProfileError):
        mine, beside = find_profile(name), find_profile(other)
        if not mine.builtin and mine.path.samefile(beside.path):
            return builtin_profile(name)
    return None


def _profile_of(name: str) -> RunProfile:
    """Return a profile by name or file, or that of a run; raises for a name that is neither."""
    from gptcli.profiles import find_profile, load_profile
    from gptcli.runs import find_run, run_names

    try:
        file = find_profile(name)
    except ProfileError as unknown:
        try:
            return find_run(name).profile()
        except GptcliError as error:
            if name in run_names():
                raise
            if name.endswith((".yaml", ".yml")):
                raise unknown from error
            hint = f"{unknown.hint} gptcli runs list shows the runs."
            raise ProfileError(f"There is no profile and no run called {name!r}.", hint) from error
    return load_profile(file.path)


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_command,
    "show": show_command,
    "copy": copy_command,
    "check": check_command,
    "diff": diff_command,
    "suggest": suggest_command,
    "schema": schema_command,
    "import": import_command,
}
for _name, _command in COMMANDS.items():
    # A line of a docstring ends where the source wants it; typer would end it there in any window.
    _paragraphs = inspect.cleandoc(_command.__doc__ or "").split("\n\n")
    profiles_app.command(_name, help="\n\n".join(" ".join(text.split()) for text in _paragraphs))(_command)
