"""Sampling settings as a person types them: read all at once, refused all at once, shown beside the run's own."""

from __future__ import annotations

import difflib
import re
import shlex
from typing import Any

from pydantic import ValidationError

from gptcli.chat.commands import CommandError
from gptcli.config import SampleConfig
from gptcli.strict_yaml import StrictYamlError, load_value

# The others of SampleConfig are the text itself and what /best-of asks for.
NAMES = tuple(name for name in SampleConfig.model_fields if name not in ("prompt", "num_samples"))
_INSTEAD = {
    "prompt": "prompt is the text itself: send it as a line, or /load FILE",
    "num_samples": "num_samples is the number behind /best-of",
}
USAGE = "Such as: /set temperature 0.7 top_k 50   /params shows all settings."
_ONE_STOP, _STOPS = "each stop string has a stop before it", "Such as: /set stop . stop ,"
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def read_settings(text: str, config: SampleConfig) -> tuple[SampleConfig, list[str]]:
    """Lay ``NAME VALUE NAME VALUE ...`` over ``config``; also return the names, in the order they were typed.

    ``NAME=VALUE`` and hyphens in a name are understood too.
    ``none`` empties a setting. ``stop`` may come several times, and knows the escapes \\n, \\t and two backslashes.
    Raises ``CommandError`` that names every unknown name, missing and impossible value.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    words = _words(text)
    if not words:
        raise CommandError("/set needs a name and a value.", USAGE)
    for name, value in _pairs(words):
        if name not in NAMES:
            problems.append(_unknown(name, after_stop="stop" in values))
        elif value is None:
            problems.append(f"{name} has no value")
        elif name in values and name != "stop":
            problems.append(f"{name} stands twice")
        else:
            values[name] = _value(name, value, values.get(name))
    try:
        found = SampleConfig.model_validate({**config.model_dump(), **values})
    except ValidationError as error:
        problems += [_describe(item["loc"], item["msg"], item["type"], item["input"]) for item in error.errors()]
    if problems:
        hint = _STOPS if any(problem.endswith(_ONE_STOP) for problem in problems) else USAGE
        lines = problems if len(problems) == 1 else ["", *(f"  {problem}" for problem in problems)]
        raise CommandError("Nothing was set: " + "\n".join(lines).rstrip(".") + ".", hint)
    return found, list(values)


def changed_settings(config: SampleConfig, base: SampleConfig) -> dict[str, Any]:
    """Return the settings that differ from ``base``, as JSON has them."""
    own, others = config.model_dump(mode="json"), base.model_dump(mode="json")
    return {name: own[name] for name in NAMES if own[name] != others[name]}


def shown_value(value: object) -> str:
    """Return a setting's value as it could be typed."""
    if value is None or value == () or value == []:
        return "none"
    if isinstance(value, (tuple, list)):
        return " ".join('"' + _escaped(str(text)) + '"' for text in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_table(config: SampleConfig, base: SampleConfig, next_seed: int) -> str:
    """Return every setting on a line, with the value of ``base`` where it is another, and the next reply's seed."""
    width = max(map(len, NAMES))
    changed = changed_settings(config, base)
    lines = []
    for name in NAMES:
        line = f"{name:{width}}  {shown_value(getattr(config, name))}"
        lines.append(line + (f"   (not the default, {shown_value(getattr(base, name))})" if name in changed else ""))
    return "\n".join((*lines, f"The next reply draws from seed {next_seed}."))


def _words(text: str) -> list[str]:
    """Split at white space but between quotes; a backslash stays what it is."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="")
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise CommandError("A quotation mark is not closed.", 'Such as: /set stop "\\n\\n"') from error


def _pairs(words: list[str]) -> list[tuple[str, str | None]]:
    """Return names with their values; None for a last name without one."""
    pairs: list[tuple[str, str | None]] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        pairs.append((_name(name), value if equals else next(rest, None)))
    return pairs


def _name(word: str) -> str:
    return word.lstrip("-").replace("-", "_").lower()


def _value(name: str, text: str, before: Any) -> Any:  # noqa: ANN401 - what pydantic shall judge
    if name == "stop":
        more = () if text.lower() == "none" else (_unescaped(text),)
        return (*(before or ()), *more)
    if text.lower() in ("none", "null"):
        return None
    try:
        return load_value(text)
    except StrictYamlError:
        return text


def _unknown(name: str, *, after_stop: bool) -> str:
    if name in _INSTEAD:
        return _INSTEAD[name]
    nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    if after_stop and not nearest:
        return f"there is no setting {name!r}; {_ONE_STOP}"
    return f"there is no setting {name!r}" + (f"; the nearest is {nearest[0]}" if nearest else "")


def _describe(path: tuple[int | str, ...], message: str, kind: str, found: object) -> str:
    if kind == "value_error":
        return f"{path[0]}: {message.removeprefix('Value error, ')}"
    text = (message[0].lower() + message[1:]).replace("input should be", "expected")
    return f"{path[0]}: {text}, found {'none' if found is None else found}"


def _unescaped(text: str) -> str:
    return re.sub(r"\\([nt\\])", lambda match: _ESCAPES[match[1]], text)


def _escaped(text: str) -> str:
    return "".join(next((f"\\{key}" for key, value in _ESCAPES.items() if value == mark), mark) for mark in text)
