"""Run profiles as files: found by name, read strictly, overridden with ``--set``, written back whole, compared.

All mistakes of a profile are reported at once, each with its file, line and the nearest valid key.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import BaseModel, ValidationError

from gptcli.config import FinetuneConfig, RunProfile
from gptcli.errors import ProfileError
from gptcli.files import atomic_write
from gptcli.profile_docs import MODELINE, SCHEMA_NAME, leaves, schema_text
from gptcli.strict_yaml import KeyPath, StrictYamlError, dump_yaml, load_value, load_yaml, read_yaml_file

LIST_HINT = "gptcli profiles list shows what there is."
CHECKSUM = "# checksum: "
SHOW_HINT = "gptcli profiles show quickstart shows how a profile is written."
KEYS_HINT = "gptcli profiles show quickstart shows every key and what it means."

# What people arriving from nanoGPT type, and what it is called here.
NANOGPT_KEYS = {
    "max_iters": "train.max_steps",
    "lr_decay_iters": "train.max_steps (the schedule always ends at the last step)",
    "warmup_iters": "train.warmup_steps",
    "gradient_accumulation_steps": "train.grad_accum_steps",
    "eval_iters": "train.eval_tokens (the whole val split is scored when it is empty)",
    "eval_only": "the command gptcli eval RUN",
    "decay_lr": "train.schedule (false is `schedule: constant`)",
    "always_save_checkpoint": "train.save_interval",
    "init_from": "finetune.base, or the option of gptcli finetune --from",
    "out_dir": "the option --run",
    "dataset": "data.corpus",
    "start": "sample.prompt",
}


@dataclass(frozen=True, slots=True)
class ProfileFile:
    """A profile by name and where its file lies; ``builtin`` is False for one of the working directory."""

    name: str
    path: Path
    builtin: bool


def builtin_folder(kind: str) -> Path:
    """Return the folder of built-in ``configs`` or ``corpora``: inside an installed package, else the checkout's."""
    package = Path(__file__).resolve().parent
    packed = package / "builtin" / kind
    return packed if packed.is_dir() else package.parent / kind


def profiles(folder: Path = Path("configs")) -> Iterator[ProfileFile]:
    """Yield every profile by name, those of ``folder`` before built-in ones of the same name."""
    builtin = builtin_folder("configs")
    found = {path.stem: ProfileFile(path.stem, path, builtin=True) for path in builtin.glob("*.yaml")}
    if folder.resolve() != builtin.resolve():
        found |= {path.stem: ProfileFile(path.stem, path, builtin=False) for path in folder.glob("*.yaml")}
    yield from (found[name] for name in sorted(found))


def builtin_profile(name: str) -> ProfileFile | None:
    """Return the built-in profile of a name, whatever stands in its place; None if there is none."""
    path = builtin_folder("configs") / f"{name}.yaml"
    return ProfileFile(name, path, builtin=True) if path.name == f"{name}.yaml" and path.is_file() else None


def find_profile(name: str) -> ProfileFile:
    """Find a profile by name, or by the path of a YAML file; raises ``ProfileError`` with the nearest names."""
    # os.path says no to what cannot be a path at all, where pathlib raises.
    is_file, is_folder = os.path.isfile(name), os.path.isdir(name)  # noqa: PTH112, PTH113
    if is_file and name.endswith((".yaml", ".yml")):
        return ProfileFile(Path(name).stem, Path(name), builtin=False)
    known = {profile.name: profile for profile in profiles()}
    if name in known:
        return known[name]
    beside = f"{name.rstrip('/')}.yaml"
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    nearest = [beside] if os.path.isfile(beside) else nearest  # noqa: PTH113
    if is_folder:
        hint = f"Did you mean {beside}? " if beside in nearest else ""
        raise ProfileError(
            f"{name} is a folder, not a profile.", f"{hint}gptcli profiles check {quote(name)} reads all in it."
        )
    if is_file:
        raise ProfileError(f"{name} is not a profile: the name of a profile's file ends in .yaml.", LIST_HINT)
    if name.endswith((".yaml", ".yml")):
        raise ProfileError(f"There is no profile file {name}.", LIST_HINT)
    hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
    raise ProfileError(f"There is no profile called {name!r}.", f"{hint}gptcli profiles list shows them all.")


def profile_for(corpus: str) -> str:
    """Return the name of the profile to train with on a corpus: one that is for it, your own first, else macbook."""
    for file in sorted(profiles(), key=lambda file: file.builtin):
        with contextlib.suppress(ProfileError):
            profile = load_profile(file.path)
            if profile.data.corpus == corpus and profile.finetune == FinetuneConfig():
                return file.name
    return "macbook"


def load_profile(path: Path, overrides: Sequence[str] = (), *, checked: bool = False) -> RunProfile:
    """Read a profile file and apply ``--set key=value`` overrides to it.

    Raises ``ProfileError`` that lists every mistake of the file and of the overrides, file errors with their line. The
    profile of a run is ``checked``: one that is not what the checksum in its first line says is an error too.
    """
    try:
        text = read_yaml_file(path)
        first, _, rest = text.partition("\n")
        if checked and first.startswith(CHECKSUM) and first.removeprefix(CHECKSUM) != _checksum(rest):
            raise ProfileError(
                f"{path}: the profile is damaged or was changed by hand: its content is not that of its checksum.",
                "Restore it from a copy. Or keep a change of train.* or sample.* by deleting the first line; next time "
                "gptcli train --resume --set KEY=VALUE makes it.",
            )
        return _read_profile(text, str(path), tuple(overrides))
    except StrictYamlError as problem:
        raise ProfileError(f"{path}: {problem.message}.", SHOW_HINT) from problem
    except OSError as error:
        raise ProfileError(f"{path}: the profile cannot be read ({error.strerror}).", LIST_HINT) from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: the profile is not UTF-8 text.", SHOW_HINT) from error


# A command asks for its run's profile half a dozen times, and PyYAML takes its time.
@functools.lru_cache(maxsize=16)
def _read_profile(text: str, where: str, overrides: tuple[str, ...]) -> RunProfile:
    try:
        values, lines = load_yaml(text)
    except StrictYamlError as problem:
        raise ProfileError(f"{where}:{problem.line}: {problem.message}.", SHOW_HINT) from problem
    return build_profile(values, overrides, where=where, lines=lines)


def build_profile(
    values: dict[str, Any],
    overrides: Sequence[str] = (),
    *,
    where: str = "profile",
    lines: dict[KeyPath, int] | None = None,
) -> RunProfile:
    """Make a profile of plain values and overrides, reporting all mistakes at once (``ProfileError``)."""
    lines = lines or {}
    problems: list[str] = []
    sources: dict[KeyPath, str] = {}
    written = copy.deepcopy(values)
    _apply_overrides(values, overrides, sources, problems)

    def place(path: KeyPath) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in sources:
                return sources[path[:length]]
            if path[:length] in lines:
                return f"{where}:{lines[path[:length]]}"
        return where

    _drop_unknown_keys(values, RunProfile, (), place, problems)
    try:
        profile = RunProfile.model_validate(values)
    except ValidationError as error:
        before = _refused(written) if sources else set()
        for item in error.errors():
            path = tuple(item["loc"])
            behind = "" if (path, item["msg"]) in before else _overrides_behind(path, item["msg"], sources)
            problems.append(f"{behind or place(path)}: {_describe(path, item['msg'], item['type'], item['input'])}")
    if problems:
        many = f"{len(problems)} mistakes" if len(problems) > 1 else "a mistake"
        message = f"There {'are' if len(problems) > 1 else 'is'} {many} in the profile:"
        raise ProfileError(message, KEYS_HINT, tuple(problems))
    return profile


def _refused(values: dict[str, Any]) -> set[tuple[KeyPath, str]]:
    """Return place and message of what the values of a file are refused for without any override."""
    _drop_unknown_keys(values, RunProfile, (), str, [])
    try:
        RunProfile.model_validate(values)
    except ValidationError as error:
        return {(tuple(item["loc"]), item["msg"]) for item in error.errors()}
    return set()


def _overrides_behind(path: KeyPath, message: str, sources: dict[KeyPath, str]) -> str:
    """Return the overrides that made a section wrong whose keys do not go together: those named, else all in it."""
    inside = {key: said for key, said in sources.items() if len(key) > len(path) and key[: len(path)] == path}
    named = [said for key, said in inside.items() if re.search(rf"\b{key[-1]}\b", message)]
    return ", ".join(named or inside.values())


def given_keys(path: Path, overrides: Sequence[str] = ()) -> frozenset[KeyPath]:
    """Return the keys that a valid profile file and ``--set`` overrides set; all others have their defaults."""
    values, _ = load_yaml(read_yaml_file(path))
    overridden = (override_path(override.partition("=")[0].strip()) for override in overrides)
    # A section with nothing behind it sets nothing.
    return frozenset((*(path for path, _ in leaves(values)), *overridden)) & frozenset(_key_paths(RunProfile))


def header_of(text: str) -> str:
    """Return the comments at the top of a profile file, without the lines that are for programs."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.split("\n"))
    return "\n".join(line for line in lines if not line.startswith((MODELINE, CHECKSUM)))


def profile_differences(a: RunProfile, b: RunProfile) -> list[tuple[str, Any, Any]]:
    """Return every key in which two profiles differ, in the order of the fields, with both values as YAML has them."""
    left, right = (dict(leaves(profile.model_dump(mode="json"))) for profile in (a, b))
    return [(".".join(map(str, path)), left[path], right[path]) for path in left if left[path] != right[path]]


def profile_mistakes(path: Path) -> list[tuple[int | None, str]]:
    """Return every mistake of a profile file, each with its line where it has one, by line; none for a valid file."""
    try:
        load_profile(path, checked=True)
    except ProfileError as error:
        found = [_line_and_mistake(str(path), mistake) for mistake in error.problems or (error.message,)]
        return sorted(found, key=lambda mistake: mistake[0] or 0)
    return []


def _line_and_mistake(where: str, mistake: str) -> tuple[int | None, str]:
    """Take the place off a mistake's sentence, which begins with it."""
    number, colon, said = mistake.removeprefix(f"{where}:").partition(": ")
    if colon and number.isdigit():
        return int(number), said
    return None, mistake.removeprefix(f"{where}: ")


def copy_profile(name: str, place: Path | None = None, *, force: bool = False) -> Path:
    """Copy a profile as it was written, comments too, to ``configs/NAME.yaml`` or ``place``, with a schema it can name.

    The schema is written where it is missing: into ``configs``, or beside a file outside the working directory. Returns
    where the profile is. Raises ``ProfileError`` where another file is there already, unless ``force``.
    """
    file = find_profile(name)
    place = place or Path("configs") / f"{file.name}.yaml"
    if place.is_file() and place.samefile(file.path):
        file = builtin_profile(name) or file
    load_profile(file.path)
    inside = place.resolve().is_relative_to(Path.cwd())
    schema = (Path("configs") if inside else place.parent) / SCHEMA_NAME
    relative = Path(os.path.relpath(schema.resolve(), place.resolve().parent)).as_posix()
    modeline = f"{MODELINE}{relative if relative.startswith('.') else f'./{relative}'}\n"
    lines = read_yaml_file(file.path).splitlines(keepends=True)
    content = "".join((modeline, *(line for line in lines if not line.startswith((MODELINE, CHECKSUM))))).encode()
    if place.is_dir():
        raise ProfileError(
            f"{place} is a folder.", f"gptcli profiles copy {quote(name)} {quote(str(place / 'my.yaml'))}"
        )
    if place.exists() and place.read_bytes() != content and not force:
        raise ProfileError(
            f"{place} is there already, and differs. It is left as it is.",
            "--force replaces it; another FILE keeps both.",
        )
    writes = {place: content} if schema.exists() else {place: content, schema: schema_text().encode()}
    for path, written in writes.items():
        with atomic_write(path) as out:
            out.write(written)
    return place


def dump_profile(profile: RunProfile) -> str:
    """Return the profile as YAML text with every key written out; reading it back gives an equal profile."""
    return dump_yaml(profile.model_dump(mode="json"))


def write_profile(path: Path, profile: RunProfile) -> None:
    """Write the resolved profile to ``path`` atomically, below a checksum that tells a file damaged since."""
    text = dump_profile(profile)
    with atomic_write(path) as file:
        file.write(f"{CHECKSUM}{_checksum(text)}\n{text}".encode())


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def override_path(key: str) -> KeyPath:
    """Turn ``model.n_layer``, or the bare leaf ``n_layer`` where it is unique, into a path of keys.

    Raises ``ProfileError`` for an unknown key (with ours for a nanoGPT name) and for an ambiguous leaf.
    """
    known = list(_key_paths(RunProfile))
    dotted = tuple(key.split("."))
    if dotted in known:
        return dotted
    if len(dotted) == 1:
        # Nobody overrides a promise by its bare name.
        matches = [path for path in known if path[-1] == key and path[0] != "expects"]
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = " or ".join(".".join(map(str, path)) for path in matches)
            raise ProfileError(f"{key!r} stands in several sections: write {choices}", KEYS_HINT)
    raise ProfileError(_unknown_key(key, [".".join(map(str, path)) for path in known]), KEYS_HINT)


def _apply_overrides(
    values: dict[str, Any], overrides: Sequence[str], sources: dict[KeyPath, str], problems: list[str]
) -> None:
    """Write each ``key=value`` into ``values`` and remember in ``sources`` where it came from."""
    for override in overrides:
        key, equals, text = override.partition("=")
        source = f"--set {override}"
        if not equals:
            problems.append(f"{source}: write it as --set key=value")
            continue
        try:
            path = override_path(key.strip())
            value = _override_value(_annotation(path), text)
        except ProfileError as error:
            problems.append(f"{source}: {error.message}")
            continue
        except StrictYamlError as problem:
            problems.append(f"{source}: {problem.message}")
            continue
        section = values
        for part in path[:-1]:
            inner = section.get(str(part))
            section = section.setdefault(str(part), {}) if isinstance(inner, dict) or inner is None else {}
        section[str(path[-1])] = value
        sources[path] = source


def _override_value(annotation: object, text: str) -> Any:  # noqa: ANN401 - YAML scalars and lists of any type
    """Return the value that the text of an override stands for; raises ``StrictYamlError`` for a text that has none.

    A field of text takes it letter by letter, where YAML would strip, cut and convert it; only a field that may stay
    empty knows ``null``. A field of several texts takes a YAML list, or else the text as its only one.
    """
    if annotation not in (str, str | None, tuple[str, ...]):
        return load_value(text)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StrictYamlError(1, "the value is not UTF-8 text") from error
    if annotation == str | None and text in ("", "null"):
        return None
    if annotation == tuple[str, ...]:
        with contextlib.suppress(StrictYamlError):
            value = load_value(text)
            return value if isinstance(value, list) else text
    return text


def _annotation(path: KeyPath) -> object:
    """Return the type of the field at the end of a path that ``override_path`` gave."""
    section: type[BaseModel] = RunProfile
    for part in path[:-1]:
        inner = section.model_fields[str(part)].annotation
        assert isinstance(inner, type), "only sections have keys"
        section = inner
    return section.model_fields[str(path[-1])].annotation


def _drop_unknown_keys(
    values: dict[str, Any],
    section: type[BaseModel],
    path: KeyPath,
    place: Callable[[KeyPath], str],
    problems: list[str],
) -> None:
    """Remove keys the section does not have, so that the rest can be checked too, and report each."""
    for key in list(values):
        field = section.model_fields.get(key)
        here = (*path, key)
        if field is None:
            problems.append(f"{place(here)}: {_unknown_key(key, section.model_fields, '.'.join(map(str, path)))}")
            del values[key]
            continue
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if values[key] is None:
                values[key] = {}
            if isinstance(values[key], dict):
                _drop_unknown_keys(values[key], inner, here, place, problems)


def _unknown_key(key: str, candidates: Sequence[str] | dict[str, Any], section: str = "") -> str:
    leaf = key.rsplit(".", 1)[-1]
    if leaf in NANOGPT_KEYS:
        return f"{key!r} is nanoGPT's name; here it is {NANOGPT_KEYS[leaf]}"
    message = f"unknown key {key!r}" + (f" in {section}" if section else "")
    elsewhere = [".".join(map(str, path)) for path in _key_paths(RunProfile) if path[-1] == leaf]
    if elsewhere:
        return f"{message}; it belongs to {' or '.join(elsewhere)}"
    nearest = difflib.get_close_matches(key, list(candidates), n=1, cutoff=0.5)
    if not nearest:
        leaves = {str(path[-1]): ".".join(map(str, path)) for path in _key_paths(RunProfile)}
        nearest = [leaves[name] for name in difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.6)]
    return f"{message}; the nearest is {nearest[0]!r}" if nearest else message


def _describe(path: KeyPath, message: str, kind: str, found: object) -> str:
    """One mistake as a sentence: the key, what was expected, what was found."""
    key = ".".join(str(part) for part in path if not _is_union_label(part))
    if kind == "value_error":
        return f"{key}{': ' if key else ''}{message.removeprefix('Value error, ')}"
    text = message[0].lower() + message[1:]
    return f"{key}: {text.replace('input should be', 'expected')}, found {found!r}"


def _is_union_label(part: str | int) -> bool:
    return isinstance(part, str) and (part == "bool" or "[" in part)


def _key_paths(section: type[BaseModel], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every leaf key."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _key_paths(inner, (*path, name))
        else:
            yield (*path, name)
