"""What a shell completes: names of runs, corpora and profiles, models to begin from, keys of a profile.

Reads names in this folder, and nothing that is slow. A shell that asks gets no error: what cannot be read has no names.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, MutableMapping

MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
TOKENIZERS = ("auto", "char", "gpt2", "bpe:512", "bpe:1024", "bpe:4096")
DEVICES = ("auto", "cpu", "cuda", "mps")

# zsh evaluates what it is offered, and bash splits it: a folder in a clone may be called like a command.
HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/=-]*")

# How many letters of the word that is being typed a bash puts what it is told in place of, where it is not all of it.
REPLACED = "_GPTCLI_REPLACED"

Completion = Callable[[str], list[str]]


class _Rest(str):
    """What bash is told of a name that begins with the word so far; typer looks whether it begins with all of it."""

    __slots__ = ()

    def startswith(self, *_: object) -> bool:
        return True


def join_words(environ: MutableMapping[str, str]) -> None:
    """Join again what bash splits: ``bpe:5`` and ``train.seed=1`` are three words to it, of which it asks the last."""
    if not environ.get("COMP_CWORD", "").isdigit():
        return
    words = environ["COMP_WORDS"].split("\n")[: int(environ["COMP_CWORD"]) + 1]
    joined: list[str] = []
    for word in words:
        if joined and (word in (":", "=") or (word and joined[-1].endswith((":", "=")))):
            joined[-1] += word
        else:
            joined.append(word)
    if len(joined) == len(words):
        return
    if joined[-1] != words[-1]:
        environ[REPLACED] = str(0 if words[-1] in (":", "=") else len(words[-1]))
    environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(len(joined) - 1))


def _completes(names: Callable[[str], Iterable[str]]) -> Completion:
    """Return what typer asks with the word so far: the names that begin with it, in their own order."""

    def complete(incomplete: str) -> list[str]:
        there = len(incomplete) - int(os.environ.get(REPLACED, len(incomplete)))
        with contextlib.suppress(OSError):
            found = (name for name in dict.fromkeys(names(incomplete)) if name.startswith(incomplete))
            return [_Rest(name[there:]) for name in found if HARMLESS.fullmatch(name)]
        return []

    return complete


def _runs(_: str = "") -> Iterator[str]:
    from gptcli.runs import run_names

    yield from run_names()


def _corpora(_: str = "") -> Iterator[str]:
    from gptcli.corpora import corpus_names

    yield from corpus_names()


def _corpora_and_recipes(_: str = "") -> Iterator[str]:
    from gptcli.fetch.recipes import recipes

    yield from _corpora()
    yield from (file.name for file in recipes())


def _profiles(_: str = "") -> Iterator[str]:
    from gptcli.profiles import profiles

    yield from (file.name for file in profiles())


def _models(_: str = "") -> Iterator[str]:
    yield from _runs()
    yield from MODELS


def _keys(incomplete: str) -> Iterator[str]:
    """The keys of a profile with the sign behind them; of a single one also what it may be, and its default.

    A shell ends a word that can only go on in one way with a space, and the value is to come.
    """
    from gptcli.profile_docs import key_docs, value_text

    wanted, sign, _ = incomplete.partition("=")
    keys = {".".join(map(str, key.path)): key for key in key_docs()}
    fitting = [name for name in keys if name.startswith(wanted) and not (sign and name != wanted)]
    yield from (f"{name}=" for name in fitting)
    if len(fitting) == 1:
        key = keys[fitting[0]]
        default = "null" if key.default is None else value_text(key.default)
        values = (*re.findall("`([^`]+)`", key.kind), default)
        yield from (f"{fitting[0]}={value}" for value in values)


complete_runs = _completes(_runs)
complete_corpora = _completes(_corpora)
complete_sources = _completes(_corpora_and_recipes)
complete_profiles = _completes(_profiles)
complete_models = _completes(_models)
complete_keys = _completes(_keys)
complete_tokenizers = _completes(lambda _: TOKENIZERS)
complete_devices = _completes(lambda _: DEVICES)
