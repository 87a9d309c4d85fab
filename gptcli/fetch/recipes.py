"""Corpus recipes: small YAML files that say where a text is, how it is cleaned and under which licence it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gptcli.config import TOKENIZER_NAME
from gptcli.documents import CLEANERS
from gptcli.errors import SourceError
from gptcli.fetch.options import AsKind, FetchOptions
from gptcli.profiles import builtin_folder
from gptcli.strict_yaml import StrictYamlError, load_yaml, read_yaml_file

LIST_HINT = "gptcli corpora list shows every recipe, and what is wrong with one."


class Recipe(BaseModel):
    """One corpus recipe."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of the corpus; the file is called the same."""
    description: str = ""
    """What the text is, in a sentence."""
    source: Annotated[str, Field(min_length=1)]
    """What `gptcli fetch` takes: a web address, `gutenberg:…`, `hf:…`, a file, folder or pattern; or `python:…`."""
    kind: AsKind | None = None
    """Which kind of source that is, where its address or answer would not tell."""
    items: str | None = None
    """Where the list of items is in a JSON answer."""
    text_fields: list[str] = []
    """Fields of a record that hold its text, joined in this order."""
    next_page: str | None = None
    """Where the address of the next page is in a JSON answer."""
    limit_bytes: Annotated[int, Field(gt=0)] | None = None
    """How many bytes of text are enough."""
    language: str | None = None
    """Language of recordings, or of the book that is looked for by its title."""
    whisper: str | None = None
    """Size of the model that writes recordings down."""
    cleaners: list[str] = []
    """Cleaning functions, applied in this order."""
    drop_lines: list[str] = []
    """Regular expressions; lines in which one is found are removed."""
    licence: str = ""
    """Under which licence the text stands."""
    notes: list[str] = []
    """Sentences that a user should read who fetches this."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the source's bytes, where it is one file that never changes."""
    tokenizer: str | None = None
    """Tokenizer that suits this text."""
    split: Literal["document", "paragraph"] | None = None
    """How val is set apart, where the usual rule does not suit this text."""
    split_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction at which the text is usually cut into train and val."""

    @field_validator("cleaners")
    @classmethod
    def _known_cleaners(cls, value: list[str]) -> list[str]:
        if unknown := [name for name in value if name not in CLEANERS]:
            raise ValueError(f"unknown cleaner {unknown[0]!r}; there are {', '.join(CLEANERS)}")
        return value

    @field_validator("drop_lines")
    @classmethod
    def _valid_patterns(cls, value: list[str]) -> list[str]:
        pattern = ""
        try:
            for pattern in value:
                re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
        return value

    @field_validator("tokenizer")
    @classmethod
    def _known_tokenizer(cls, value: str | None) -> str | None:
        if value is not None and not TOKENIZER_NAME.fullmatch(value):
            raise ValueError(f"tokenizer {value!r} is unknown; choose char, gpt2 or bpe:N")
        return value


def recipe_options(recipe: Recipe, options: FetchOptions) -> FetchOptions:
    """Return the options of a fetch of this recipe: those of the command line win, lines to drop are those of both."""
    default = FetchOptions()
    ours: dict[str, Any] = {
        "as_kind": recipe.kind,
        "items": recipe.items,
        "text_fields": tuple(recipe.text_fields),
        "next_page": recipe.next_page,
        "limit_bytes": recipe.limit_bytes,
        "language": recipe.language,
        "whisper": recipe.whisper,
    }
    unsaid = {key: value for key, value in ours.items() if value and getattr(options, key) == getattr(default, key)}
    patterns = dict.fromkeys((*recipe.drop_lines, *options.drop_lines))
    return replace(options, drop_lines=tuple(patterns), **unsaid)


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe by name and where its file lies; ``builtin`` is False for one of the working directory."""

    name: str
    path: Path
    builtin: bool


def recipes(folder: Path = Path("corpora")) -> Iterator[RecipeFile]:
    """Yield every recipe by name, those of ``folder`` before built-in ones of the same name."""
    builtin = builtin_folder("corpora")
    found = {path.stem: RecipeFile(path.stem, path, builtin=True) for path in builtin.glob("*.yaml")}
    if folder.resolve() != builtin.resolve():
        found |= {path.stem: RecipeFile(path.stem, path, builtin=False) for path in folder.glob("*.yaml")}
    yield from (found[name] for name in sorted(found))


def find_recipe(name: str, folder: Path = Path("corpora")) -> Recipe | None:
    """Return the recipe of this name, or None; raises ``SourceError`` when its file is wrong."""
    for file in recipes(folder):
        if file.name == name:
            return load_recipe(file.path)
    return None


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file; raises ``SourceError`` that lists every mistake with its line."""
    try:
        values, lines = load_yaml(read_yaml_file(path))
    except OSError as error:
        raise SourceError(f"{path}: the recipe cannot be read ({error.strerror}).", LIST_HINT) from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: the recipe is not UTF-8 text.", LIST_HINT) from error
    except StrictYamlError as problem:
        raise SourceError(f"{path}:{problem.line}: {problem.message}.", LIST_HINT) from problem
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = tuple(item["loc"])
            line = lines.get(key, lines.get(key[:1], 1))
            name = ".".join(str(part) for part in key)
            problems.append(f"{path}:{line}: {name}: {item['msg'].removeprefix('Value error, ')}")
        raise SourceError("The recipe is wrong:\n  " + "\n  ".join(problems), LIST_HINT) from error
    if recipe.name != path.stem:
        raise SourceError(
            f"{path}:{lines[('name',)]}: the name is {recipe.name!r}, but the file is {path.name}.", LIST_HINT
        )
    return recipe
