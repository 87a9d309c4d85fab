"""What is written about the keys of a profile, made from the fields themselves: a reference, a JSON Schema, comments.

Pure: fields in, text out. ``python docs/generate.py`` writes the two files that are kept in the repository.
Finding and reading profiles is not known here.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from gptcli.config import TOKENIZER_NAME, RunProfile
from gptcli.strict_yaml import KeyPath, dump_yaml

SCHEMA_NAME = "profile.schema.json"
MODELINE = "# yaml-language-server: $schema="
WIDTH = 100
# A largest value from here on is a guard against slips of the finger and of no use to a reader.
NO_LIMIT = 2**20
DEVICE_PATTERN = r"^(auto|cpu|mps|cuda(:[0-9]+)?)$"
STAR = "A star marks what this profile sets itself; all else is a default."

INTRODUCTION = f"""\
# Profiles

A profile is one YAML file, and one run. What it leaves out has the default below, so the smallest profile is an empty
file. The resolved one, every key written out, is kept in the run.

```
gptcli profiles list                         # what there is, for which machine, how long, which loss
gptcli profiles copy quickstart my           # configs/my.yaml to edit; the editor knows every key of it
gptcli profiles check my                     # every mistake at once, with its line
gptcli profiles diff my quickstart           # only what differs
gptcli train --profile my --set n_layer=6    # any key can be changed for one run
gptcli profiles suggest CORPUS --minutes 10  # one for your text, this machine and your time
```

* A profile is found by its name in `configs/` of the working directory, then among the built-in ones; a path that ends
  in `.yaml` is read as it is.
* `--set model.n_layer=6` changes a key for one run; the last word alone is enough where only one section has it.
* "Empty" is written `null` in YAML, or by leaving the key out.
* A mistyped key is an error that names the nearest one, and a key of nanoGPT's is answered with ours.
* `expects` holds what a profile promises, measured with its own corpus and its own values. The run says at its end
  whether it was reached; with any other text, or with `--set`, nothing is promised.
* The first line of the built-in files, `{MODELINE}./{SCHEMA_NAME}`,
  tells an editor with a YAML language server (VS Code, Neovim, Helix, JetBrains) where the schema is.
  `gptcli profiles schema` prints it.

## What `suggest` goes by

`gptcli profiles suggest CORPUS --minutes 10` times some steps on this machine, and writes above each value why it has
it. The size of the network: the largest whose weights each see a token or more in the time, with three weights for each
byte of the text at most, that the memory of the device holds. The batch: what keeps the machine busy, in as many parts
as the memory wants. The rates: on the curve through the runs of 145, 760 and 3800 steps that were tuned by hand.
Dropout and weight decay: by how often the text is read. The steps: what the time leaves after starting and evaluating,
and no more than read the text 100 times. The rules are in
`gptcli/sizing.py`, the runs behind them in [the log](log.md); they were found on CPUs with models of up to 2M weights,
and are a first guess beyond.

The tables below are made from the docstrings of `gptcli/config.py` by `python docs/generate.py`.
"""


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One key of a profile: its path, what it may be, its default, and its docstring."""

    path: KeyPath
    kind: str
    default: object
    text: str


def key_docs(section: type[BaseModel] = RunProfile, path: KeyPath = ()) -> Iterator[KeyDoc]:
    """Yield every key that has a value of its own, in the order of the fields."""
    properties = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from key_docs(inner, (*path, name))
        else:
            yield KeyDoc((*path, name), _kind(_repaired((*path, name), properties[name])), field.default, _doc(field))


def section_of(annotation: object) -> type[BaseModel] | None:
    """Return the section that a field's type stands for; None for a field with a value."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def profile_reference() -> str:
    """Return docs/profiles.md: the introduction, and a table of the keys of each section."""
    rows: dict[KeyPath, list[str]] = {}
    for key in key_docs():
        default = f"`{_inline(key.default)}`" if key.default is not None else "empty"
        rows.setdefault(key.path[:-1], []).append(f"| `{key.path[-1]}` | {key.kind} | {default} | {key.text} |")
    parts = [INTRODUCTION]
    for path, lines in rows.items():
        title, said = _section_words(path)
        parts.append(
            f"## {title}\n\n{said}\n\n| key | value | default | |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
        )
    return "\n".join(parts)


def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a profile file, for editors.

    It knows every key and the values it may have; rules between keys, such as that ``n_head`` divides ``n_embd``, are
    checked by reading the profile alone.
    """
    schema = _without_titles(RunProfile.model_json_schema())
    sections = schema.pop("$defs")
    for name, field in RunProfile.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None:
            continue
        whole = sections[inner.__name__]
        for key in whole["properties"]:
            whole["properties"][key] = _repaired((name, key), whole["properties"][key])
        # `model:` with nothing behind it is a section with nothing set.
        schema["properties"][name] = {**whole, "type": ["object", "null"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run profile of gptcli",
        **schema,
    }


def schema_text() -> str:
    """Return the JSON Schema as the text of a file."""
    return json.dumps(profile_schema(), indent=2, ensure_ascii=False) + "\n"


def commented(profile: RunProfile, given: Collection[KeyPath] = (), header: str = "") -> str:
    """Return a profile as YAML with every key, its value and its docstring above it, below the lines of ``header``.

    The docstrings of the ``given`` keys begin with a star. Reading the text back gives an equal profile.
    """
    said = {key.path: f"{'* ' if key.path in given else ''}{key.text}" for key in key_docs()}
    legend = f"# {STAR}\n" if given else ""
    top = f"{header.rstrip()}\n#\n" if header.strip() else ""
    return f"{top}{legend}{_commented_yaml(profile.model_dump(mode='json'), said)}"


def explained(profile: RunProfile, reasons: Mapping[KeyPath, str], header: str = "") -> str:
    """Return as YAML only those keys of a profile that have a reason, each below its reason; a reason may be empty."""
    values: dict[str, Any] = {}
    for path, value in leaves(profile.model_dump(mode="json")):
        if path in reasons:
            inner = values
            for part in path[:-1]:
                inner = inner.setdefault(str(part), {})
            inner[str(path[-1])] = value
    lines = [f"# {line}\n" for line in header.splitlines()]
    return "".join(lines) + _commented_yaml(values, reasons, sections=False)


def value_text(value: object) -> str:
    """Return a value of a profile in one line, as YAML and ``--set`` read it; ``empty`` for None."""
    return "empty" if value is None else _inline(value)


def leaves(values: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield path and value of every key of plain values that is no section."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _commented_yaml(values: Mapping[str, Any], said: Mapping[KeyPath, str], *, sections: bool = True) -> str:
    parts = []
    for name, value in values.items():
        if not isinstance(value, dict):
            parts.append(_comment(said.get((name,), ""), "") + dump_yaml({name: value}))
            continue
        title = "\n" + _comment(_section_words((name,))[1], "") if sections else ""
        keys = (
            # Written below its section, so that what takes several lines is indented as YAML wants it.
            _comment(said.get((name, key), ""), "  ") + dump_yaml({name: {key: inner}}).partition("\n")[2]
            for key, inner in value.items()
        )
        parts.append(f"{title}{name}:\n" + "".join(keys))
    return "".join(parts)


def _comment(text: str, indent: str) -> str:
    # A word is never broken: --set examples and paths are there to be copied.
    lines = textwrap.wrap(text, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{indent}# {line}\n" for line in lines)


def _section_words(path: KeyPath) -> tuple[str, str]:
    """Return heading and docstring of a section; the keys at the top are the profile's own."""
    if not path:
        return "At the top", "What stands in no section."
    inner = section_of(RunProfile.model_fields[str(path[0])].annotation)
    assert inner is not None, "only sections have keys below them"
    return f"`{path[0]}`", " ".join((inner.__doc__ or "").split())


def _doc(field: Any) -> str:  # noqa: ANN401 - pydantic's FieldInfo
    return " ".join((field.description or "").split())


def _repaired(path: KeyPath, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key with what its validator allows or refuses, which pydantic cannot see."""
    if path == ("data", "tokenizer"):
        return {**schema, "pattern": f"^({TOKENIZER_NAME.pattern})$", "examples": ["auto", "char", "gpt2", "bpe:512"]}
    if path == ("train", "device"):
        return {**schema, "pattern": DEVICE_PATTERN, "examples": ["auto", "cpu", "cuda", "cuda:0", "mps"]}
    if path == ("finetune", "lora_targets"):
        return _one_or_several(schema, "minItems")
    if path == ("sample", "stop"):
        schema = {**schema, "items": {"type": "string", "minLength": 1}}
        return _one_or_several(schema, "")
    return schema


def _one_or_several(schema: dict[str, Any], at_least: str) -> dict[str, Any]:
    """Allow a single text where a list of them is meant, as the fields themselves do."""
    several = {"type": "array", "items": schema["items"], **({at_least: 1} if at_least else {})}
    rest = {key: value for key, value in schema.items() if key not in ("type", "items")}
    return {"anyOf": [schema["items"], several], **rest}


def _without_titles(schema: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a schema without pydantic's titles, which repeat the keys in capitals."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {k: _without_titles(v) for k, v in schema.items() if not (k == "title" and isinstance(v, str))}


def _kind(schema: dict[str, Any]) -> str:
    """Return in words what a key may be."""
    if "anyOf" in schema:
        kinds = ["empty" if item.get("type") == "null" else _kind(item) for item in schema["anyOf"]]
        return " or ".join(kinds)
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"a list of {_kind(schema['items'])}s"
    if "examples" in schema:
        return "text, such as " + ", ".join(f"`{value}`" for value in schema["examples"])
    words = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    return words[schema["type"]] + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    said = [f"{word} {schema[key]:g}" for key, word in words.items() if abs(schema.get(key, NO_LIMIT)) < NO_LIMIT]
    return " " + ", ".join(said) if said else ""


def _inline(value: object) -> str:
    """Return a value as YAML of one line."""
    if isinstance(value, str) and value and value == dump_yaml({"k": value})[3:-1]:
        return value
    return json.dumps(value, ensure_ascii=False)
