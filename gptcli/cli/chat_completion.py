"""What a half-typed line of a chat can become: commands, settings, runs and files. It knows no terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from gptcli.figures import visible

Suggestion = tuple[str, int, str]
MAX_FILES = 500


def suggestions(
    before: str, commands: Mapping[str, str], settings: Mapping[str, str], runs: Callable[[], Iterable[str]]
) -> Iterator[Suggestion]:
    """Yield for the text before the cursor what may be put in, how many characters it replaces, and what it is.

    ``commands`` and ``settings`` have a line of explanation for every name. Only a line that begins with a slash is
    completed.
    """
    if not before.startswith("/") or "\n" in before:
        return
    command, space, rest = before.partition(" ")
    if not space:
        yield from _beginning(command[1:], commands)
        return
    word = rest.rpartition(" ")[2]
    if command == "/set" and len(rest.split(" ")) % 2:
        yield from _beginning(word, settings)
    elif command == "/help":
        yield from _beginning(word.removeprefix("/"), commands)
    elif command == "/compare":
        yield from _beginning(word, dict.fromkeys(runs(), "run"))
    elif command in ("/save", "/load"):
        yield from _files(rest)


def _beginning(typed: str, known: Mapping[str, str]) -> Iterator[Suggestion]:
    return ((name, len(typed), said) for name, said in known.items() if name.startswith(typed))


def _files(typed: str) -> Iterator[Suggestion]:
    """Yield the files and folders whose names begin with the last part of a path; hidden ones when it has a dot."""
    folder, name = os.path.split(typed)
    try:
        found = sorted(Path(folder or ".").expanduser().iterdir())[:MAX_FILES]
    except (OSError, RuntimeError):
        return
    for path in found:
        if path.name.startswith(name) and (name or not path.name.startswith(".")) and visible(path.name) == path.name:
            yield path.name + ("/" if path.is_dir() else ""), len(name), ""
