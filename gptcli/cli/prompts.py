"""Where the prompts of ``gptcli sample`` come from: an option, a text file, stdin, or JSON lines with many of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from gptcli.cli.common import read_text, wrong_options
from gptcli.errors import ProfileError, SourceError

if TYPE_CHECKING:
    from gptcli.config import SampleConfig

MANY = ".jsonl"
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
        raise ProfileError(f"{where}: these settings cannot be:", LINES_HINT, tuple(problems))
    return found


def _laid_over(base: SampleConfig, prompt: GivenPrompt, problems: list[str]) -> SampleConfig:
    from pydantic import ValidationError

    try:
        return type(base).model_validate({**base.model_dump(), **prompt.settings, "prompt": prompt.text})
    except ValidationError as error:
        wrong = wrong_options(error, "").problems
        problems += [f"line {prompt.line}: {problem.removeprefix('--')}" for problem in wrong]
        return base


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
    if prompt is not None and not _is_utf8(prompt):
        raise SourceError("The prompt is not UTF-8 text.", "Put it into a file: gptcli sample --prompt-file FILE")
    return [GivenPrompt(prompt or "")], None


def _is_utf8(text: str) -> bool:
    """Bytes of the command line that are not UTF-8 arrive as halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _parse_lines(text: str, where: str) -> list[GivenPrompt]:
    """Return the prompt of every line that is not empty; every line that is neither is named."""
    prompts, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
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
    if not _is_utf8(prompt):
        raise ValueError("its prompt is not UTF-8 text")
    return prompt
