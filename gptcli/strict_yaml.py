"""YAML read strictly: ``1e-3`` is a number, a key given twice is an error, and every value knows its line.

Knows nothing of profiles or recipes; they hand it text and turn its findings into their own errors.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

KeyPath = tuple[str | int, ...]
MAX_BYTES = 1 << 20
MAX_TAG = 40  # characters of it that a message shows
MAX_DIGITS = 1000


class StrictYamlError(Exception):
    """A text that is not the YAML expected here; ``line`` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 floats, where the stock one reads ``3e-4`` as a string, and without tags."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:  # noqa: ANN401 - a key or a number
        """Refuse what has a tag, which plain data does not need and PyYAML's constructors take at its word."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if (tag := getattr(event, "tag", None)) is not None:
            short = tag.replace("tag:yaml.org,2002:", "!!")[:MAX_TAG]
            raise StrictYamlError(event.start_mark.line + 1, f"tags such as {short!r} are not used in these files")
        node: Node | None = super().compose_node(parent, index)
        return node


def _construct_int(loader: _Loader, node: ScalarNode) -> int:
    # YAML 1.1 reads 1:30:00 as a number to the base of 60, which takes minutes where there are enough colons.
    if len(node.value) > MAX_DIGITS:
        raise StrictYamlError(node.start_mark.line + 1, f"a number of more than {MAX_DIGITS:,} digits was found")
    return int(loader.construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


class _Dumper(yaml.SafeDumper):
    """The writer that fits: it quotes the strings which ``_Loader`` would read as numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)$"),
        list("-+.0123456789"),
    )


def _represent_text(dumper: _Dumper, text: str) -> ScalarNode:
    # Only between double quotes are these escaped; elsewhere a reader takes them for line ends.
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(value: dict[str, Any]) -> str:
    """Return plain data as YAML text in the order of its keys; ``load_yaml`` gives an equal value."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def read_yaml_file(path: Path) -> str:
    """Return the text of a YAML file; ``StrictYamlError`` for one above 1 MiB, which nobody wrote by hand.

    So is what is no file: a pipe would be waited for, and a device has no end. Raises ``OSError`` and
    ``UnicodeDecodeError`` as ``Path.read_text``.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise StrictYamlError(1, "this is not a regular file, so it was not read")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise StrictYamlError(1, f"the file is larger than {MAX_BYTES:,} bytes, so it was not read")
    return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def load_yaml(text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Read a YAML mapping; also return the line of every value, by its path of keys and indices.

    An empty text is an empty mapping. Raises ``StrictYamlError`` for anything else than a mapping, for syntax errors,
    keys that are not strings, keys given twice, aliases and tags.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return {}, {(): 1}
            lines: dict[KeyPath, int] = {}
            _walk(node, (), lines, set())
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise StrictYamlError(mark.line + 1 if mark else 1, error.problem or "this is not valid YAML") from error
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        raise StrictYamlError(1, f"this is not valid YAML ({error})") from error
    if not isinstance(value, dict):
        raise StrictYamlError(1, f"a mapping of keys to values was expected, found {type(value).__name__}")
    return value, lines


def load_value(text: str) -> Any:  # noqa: ANN401 - YAML scalars and lists of any type
    """Read one YAML value, as in ``--set key=VALUE``; raises ``StrictYamlError`` when it is not valid YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        raise StrictYamlError(1, f"{text!r} is not a valid YAML value") from error


def _walk(node: Node, path: KeyPath, lines: dict[KeyPath, int], seen: set[int]) -> None:
    """Record the line of every node and refuse repeated keys, non-string keys and aliases."""
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise StrictYamlError(line, "aliases (*name) are not used in these files")
    seen.add(id(node))
    lines[path] = line
    if isinstance(node, MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, ScalarNode) or not key.tag.endswith(":str"):
                raise StrictYamlError(key.start_mark.line + 1, "every key has to be a plain word")
            if key.value in keys:
                raise StrictYamlError(key.start_mark.line + 1, f"the key {key.value!r} is given twice")
            keys.add(key.value)
            inner = (*path, key.value)
            _walk(value, inner, lines, seen)
            lines[inner] = key.start_mark.line + 1
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, seen)
