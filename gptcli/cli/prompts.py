"""Where the prompts of ``gptcli sample`` come from: an option, a text file, stdin, or JSON lines with many of them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from gptcli.cli.common import read_text, refused_values, shortened
from gptcli.errors import ProfileError, SourceError, TokenizerError

if TYPE_CHECKING:
    from gptcli.config import SampleConfig

T = TypeVar("T")
MANY = ".jsonl"
# More problems than these are counted.
SHOWN_PROBLEMS = 20
LINES_HINT = (
    'Each line is a JSON string, or an object such as {"prompt": "Once", "temperature": 0.5, "seed": 7}; '
    "gptcli sample --help explains the settings."
)


@dataclass(frozen=True, slots=True)
class GivenPrompt:
    """A prompt, and where it is one of many, the settings of its own and the line it stands in."""

    text: str
    settings: dict[str, Any] = field(default_factory=dict)
    line: int | None = None


def lay_over(base: SampleConfig, prompts: Sequence[GivenPrompt], where: str | None) -> list[SampleConfig]:
    """Return the settings for every prompt of the file ``where``; all that cannot be is named at once."""
    problems: list[str] = []
    found = [_laid_over(base, prompt, problems) for prompt in prompts]
    if problems:
        raise ProfileError(f"{where}: these settings cannot be:", LINES_HINT, _first(problems))
    return found


def _laid_over(base: SampleConfig, prompt: GivenPrompt, problems: list[str]) -> SampleConfig:
    from pydantic import ValidationError

    names = [name for name in type(base).model_fields if name != "prompt"]
    wrong = [(name, _unknown(name, names)) for name in prompt.settings if name not in names]
    known = {name: value for name, value in prompt.settings.items() if name in names}
    found = base
    try:
        found = type(base).model_validate({**base.model_dump(), **known, "prompt": prompt.text})
    except ValidationError as error:
        wrong += refused_values(error)
    problems += [f"line {prompt.line}: {shortened(name)}: {what}" for name, what in wrong]
    return found


def _unknown(name: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return "there is no such setting" + (f"; the nearest is {nearest[0]}" if nearest else "")


def _first(problems: list[str]) -> tuple[str, ...]:
    rest = len(problems) - SHOWN_PROBLEMS
    return (*problems[:SHOWN_PROBLEMS], *([f"and {rest:,} more"] if rest > 0 else []))


def encode_all(prompts: Sequence[GivenPrompt], where: str | None, encode: Callable[[str], T]) -> list[T]:
    """Return what ``encode`` makes of every prompt.

    ``TokenizerError`` for characters that the model does not have; the lines of the file ``where`` that have such are
    named at once.
    """
    if where is None:
        return [encode(prompt.text) for prompt in prompts]
    refused: list[tuple[int | None, TokenizerError]] = []
    found = [value for prompt in prompts for value in _encoded(prompt, encode, refused)]
    if refused:
        problems = _first([f"line {line}: {error.message}" for line, error in refused])
        message = "\n  ".join((f"{where}: the model cannot read these prompts:", *problems))
        raise TokenizerError(message, refused[0][1].hint)
    return found


def _encoded(
    prompt: GivenPrompt, encode: Callable[[str], T], refused: list[tuple[int | None, TokenizerError]]
) -> list[T]:
    try:
        return [encode(prompt.text)]
    except TokenizerError as error:
        refused.append((prompt.line, error))
        return []


def read_prompts(
    stdin: str | None, prompt: str | None, prompt_file: str | None, encoding: str | None
) -> tuple[list[GivenPrompt], str | None]:
    """Read what was given: one prompt, many and the file they stand in, or an empty one (a new text begins)."""
    given = [
        name
        for name, value in (("-", stdin), ("--prompt", prompt), ("--prompt-file", prompt_file))
        if value is not None
    ]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} both give a prompt; choose one.")
    where = stdin or prompt_file
    if where is not None:
        text = read_text(where, encoding, "the prompt")
        if where.lower().endswith(MANY):
            return _parse_lines(text, where), where
        return [GivenPrompt(text.removesuffix("\n"))], None
    if encoding is not None:
        raise typer.BadParameter("--encoding is for a prompt that is read; give one with --prompt-file or -.")
    from gptcli.config import is_utf8

    if prompt is not None and not is_utf8(prompt):
        raise SourceError("The prompt is not UTF-8 text.", "Put it into a file: gptcli sample --prompt-file FILE")
    return [GivenPrompt(prompt or "")], None


def _parse_lines(text: str, where: str) -> list[GivenPrompt]:
    """Return the prompt of every line that is not empty; every line that is neither is named."""
    prompts, problems = [], []
    # splitlines would also split at U+2028 and others, which JSON has inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                prompts.append(_parse(line, number))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    if problems:
        raise SourceError(f"{where}: {problems[0]}{_more(problems)}.", LINES_HINT)
    if not prompts:
        raise SourceError(f"{where} holds no prompt.", LINES_HINT)
    return prompts


def _more(problems: list[str]) -> str:
    rest = [problem.partition(":")[0] for problem in problems[1:]]
    return f"; the same holds for {', '.join(rest[:5])}{' and more' if len(rest) > 5 else ''}" if rest else ""


def _parse(line: str, number: int) -> GivenPrompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if isinstance(value, str):
        return GivenPrompt(_checked(value), {}, number)
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise ValueError("it is neither a string nor an object with a prompt")
    return GivenPrompt(_checked(value.pop("prompt")), value, number)


def _checked(prompt: str) -> str:
    from gptcli.config import is_utf8

    if not is_utf8(prompt):
        raise ValueError("its prompt is not UTF-8 text")
    return prompt
