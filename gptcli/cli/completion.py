"""What a shell completes: names of runs, corpora and profiles, models to begin from, keys of a profile.

Reads names in this folder, and nothing that is slow. A shell that asks gets no error: what cannot be read has no names.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator

MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
TOKENIZERS = ("auto", "char", "gpt2", "bpe:512", "bpe:1024", "bpe:4096")
DEVICES = ("auto", "cpu", "cuda", "mps")

# zsh evaluates what it is offered, and bash splits it: a folder in a clone may be called like a command.
HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/=-]*")

Completion = Callable[[str], list[str]]


def _completes(names: Callable[[], Iterable[str]]) -> Completion:
    """Return what typer asks with the word so far: the names that begin with it, in their own order."""

    def complete(incomplete: str) -> list[str]:
        with contextlib.suppress(OSError):
            return [name for name in dict.fromkeys(names()) if name.startswith(incomplete) and HARMLESS.fullmatch(name)]
        return []

    return complete


def _runs() -> Iterator[str]:
    from gptcli.runs import run_names

    yield from run_names()


def _corpora() -> Iterator[str]:
    from gptcli.corpora import corpus_names

    yield from corpus_names()


def _corpora_and_recipes() -> Iterator[str]:
    from gptcli.fetch.recipes import recipes

    yield from _corpora()
    yield from (file.name for file in recipes())


def _profiles() -> Iterator[str]:
    from gptcli.profiles import profiles

    yield from (file.name for file in profiles())


def _models() -> Iterator[str]:
    yield from _runs()
    yield from MODELS


def _keys() -> Iterator[str]:
    """The keys of a profile with the sign behind them."""
    from gptcli.profile_docs import key_docs

    yield from (f"{'.'.join(map(str, key.path))}=" for key in key_docs())


complete_runs = _completes(_runs)
complete_corpora = _completes(_corpora)
complete_sources = _completes(_corpora_and_recipes)
complete_profiles = _completes(_profiles)
complete_models = _completes(_models)
complete_keys = _completes(_keys)
complete_tokenizers = _completes(lambda: TOKENIZERS)
complete_devices = _completes(lambda: DEVICES)
