"""Which files of a data set's repository hold the text: configuration and split, by its card or by their names.

The hub's own rules, as far as they matter for text: https://huggingface.co/docs/hub/datasets-data-files-configuration.
Pure functions on names; asks nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gptcli.errors import SourceError
from gptcli.fetch.source import shown

# Words in a path that name a split; a path with none of them is of the training split.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository, and how many bytes it has."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files to read, in order, and a sentence about those that were left alone, if there are any."""

    files: tuple[HubFile, ...]
    note: str = ""


def choose_files(
    files: Sequence[HubFile], card: Mapping[str, Any], inside: str, *, repo: str, converted: bool = False
) -> Chosen:
    """Choose the training split of the default configuration, or what is called ``inside``, else no files.

    ``inside`` is a configuration, a folder or a file. ``converted`` says that the files lie as
    ``configuration/split/0000.parquet``; else the ``card`` may say which are which. Raises ``SourceError`` where
    nothing is called ``inside``.
    """
    files = sorted(files, key=lambda file: file.path)
    single = [file for file in files if file.path == inside]
    if single:
        return Chosen(tuple(single))
    configs = _by_folder(files) if converted else _by_card(files, card)
    if not configs:
        configs = {"": _by_name(files)}
    name = _config(configs, inside, card)
    if name is None:
        within = [file for file in files if file.path.startswith(f"{inside.rstrip('/')}/")]
        if not within:
            raise _nothing_inside(repo, inside, configs, files)
        return _train(repo, _by_name(within), ())
    return _train(repo, configs[name], tuple(other for other in configs if other != name), name)


def _config(configs: Mapping[str, object], inside: str, card: Mapping[str, Any]) -> str | None:
    """Return the name of the configuration that is meant; None where ``inside`` is none."""
    if inside:
        return inside if inside in configs else None
    marked = [str(item["config_name"]) for item in _card_configs(card) if item.get("default") is True]
    return next((name for name in (*marked, "default") if name in configs), next(iter(configs)))


def _train(repo: str, splits: Mapping[str, Sequence[HubFile]], others: Sequence[str], name: str = "") -> Chosen:
    """Choose the training split, else the first, and say what is left alone."""
    split = "train" if "train" in splits else next(iter(splits), "")
    left = [f"{other} ({len(splits[other]):,})" for other in splits if other != split]
    notes = []
    if others:
        notes.append(
            f"Of the configurations of {repo} this is {name}; "
            f"gptcli fetch hf:{repo}/{others[0]} reads another ({shown(others)})."
        )
    if left:
        notes.append(f"The split {split} of {repo} is read; left alone with their files: {', '.join(left)}.")
    return Chosen(tuple(splits.get(split, ())), " ".join(notes))


def _by_card(files: Sequence[HubFile], card: Mapping[str, Any]) -> dict[str, dict[str, list[HubFile]]]:
    """Return the files by configuration and split that the card names; a configuration without files is left out."""
    configs: dict[str, dict[str, list[HubFile]]] = {}
    for item in _card_configs(card):
        splits: dict[str, list[HubFile]] = {}
        for split, pattern in _patterns(item.get("data_files")):
            found = [file for file in files if _matches(file.path, pattern)]
            for name, inside in (_by_name(found) if not split else {split: found}).items():
                splits.setdefault(name, []).extend(file for file in inside if file not in splits.get(name, ()))
        if any(splits.values()):
            configs[str(item["config_name"])] = {split: found for split, found in splits.items() if found}
    return configs


def _card_configs(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    configs = card.get("configs")
    found = configs if isinstance(configs, list) else []
    return [item for item in found if isinstance(item, Mapping) and isinstance(item.get("config_name"), str)]


def _patterns(data_files: object) -> Iterator[tuple[str, str]]:
    """Yield split and pattern of what a card calls ``data_files``; the split is empty where the card names none."""
    if isinstance(data_files, str):
        yield "", data_files
    elif isinstance(data_files, Mapping) and "path" not in data_files:
        for split, value in data_files.items():
            yield from ((str(split), pattern) for _, pattern in _patterns(value))
    elif isinstance(data_files, Mapping):
        split = data_files.get("split")
        yield from ((str(split or ""), pattern) for _, pattern in _patterns(data_files["path"]))
    elif isinstance(data_files, list):
        for value in data_files:
            yield from _patterns(value)


def _matches(path: str, pattern: str) -> bool:
    pattern = pattern.removeprefix("./")
    return fnmatchcase(path, pattern) or fnmatchcase(path, pattern.replace("**/", ""))


def _by_folder(files: Sequence[HubFile]) -> dict[str, dict[str, list[HubFile]]]:
    configs: dict[str, dict[str, list[HubFile]]] = {}
    for file in files:
        folder, _, rest = file.path.partition("/")
        split = rest.rpartition("/")[0].removeprefix("partial-") or "train"
        configs.setdefault(folder, {}).setdefault(split, []).append(file)
    return configs


def _by_name(files: Sequence[HubFile]) -> dict[str, list[HubFile]]:
    splits: dict[str, list[HubFile]] = {}
    for file in files:
        words = set(re.findall(r"[a-z]+", file.path.lower()))
        named = (split for split, names in _SPLITS.items() if words.intersection(names))
        splits.setdefault(next(named, "train"), []).append(file)
    return splits


def _nothing_inside(repo: str, inside: str, configs: Mapping[str, object], files: Sequence[HubFile]) -> SourceError:
    folders = {file.path.rpartition("/")[0] for file in files}
    there = sorted(filter(None, {*configs, *folders}))
    return SourceError(
        f"The data set {repo} has no configuration, folder or file called {inside!r}; "
        f"it has {', '.join(there[:20]) or 'none at all'}.",
        f"gptcli fetch hf:{repo}" + (f"/{there[0]}" if there else ""),
    )
