"""A corpus that is not here yet: whether it can be had, and how a command that needs it fetches it.

Which texts there are, and what a source is, is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gptcli.corpora import CORPORA, is_fetched, is_recipe, locate_corpus, text_here, unknown_corpus
from gptcli.fetch.fetching import fetch
from gptcli.fetch.recipes import find_recipe


def check_corpus(corpus: str, corpora_dir: Path = CORPORA) -> bool:
    """Say whether a corpus is fetched; raises ``CorpusError`` that lists what there is where it cannot be."""
    if is_fetched(corpus, corpora_dir):
        return True
    if not is_recipe(corpus, corpora_dir) and text_here(corpus, corpora_dir) is None:
        raise unknown_corpus(corpus, corpora_dir)
    return False


def is_vast(corpus: str, corpora_dir: Path = CORPORA) -> bool:
    """Say whether a corpus that is not here would be fetched as a whole data set of a hub, which is gigabytes."""
    if is_fetched(corpus, corpora_dir) or not is_recipe(corpus, corpora_dir):
        return False
    recipe = find_recipe(locate_corpus(corpus, corpora_dir)[0], corpora_dir)
    return recipe is not None and recipe.source.startswith("hf:") and recipe.limit_bytes is None


def fetch_missing(
    corpus: str, corpora_dir: Path, on_notice: Callable[[str], None], on_progress: Callable[[str], None]
) -> str:
    """Fetch a recipe by its name, or a text that lies here, and return the path of the corpus."""
    name, source = None, corpus
    if is_recipe(corpus, corpora_dir):
        name = source = locate_corpus(corpus, corpora_dir)[0]
        on_notice(f"The corpus {name} is not here yet: fetching it.")
    else:
        on_notice(f"{corpus} is a {text_here(corpus, corpora_dir)}, not a corpus yet: fetching it.")
    result = fetch(source, name=name, corpora_dir=corpora_dir, on_progress=on_progress)
    for note in result.notes:
        on_notice(note)
    return str(result.folder)
