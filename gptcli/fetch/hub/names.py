"""How people name a data set of the Hugging Face hub. Asks nobody."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from gptcli.errors import SourceError

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_REPO = r"([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)"
NAME_HINT = "A data set is named like hf:roneneldan/TinyStories, with hf:owner/name:column where it has to be a column."


@dataclass(frozen=True, slots=True)
class DataSet:
    """What the user named: a repository, a revision of it, a configuration, folder or file ``inside``, a column."""

    repo: str
    revision: str = "main"
    inside: str = ""
    column: str = ""

    @property
    def name(self) -> str:
        """The name as one types it, without the column."""
        revision = "" if self.revision == "main" else f"@{quote(self.revision, safe='')}"
        return f"hf:{self.repo}{revision}" + (f"/{self.inside}" if self.inside else "")


def is_hub(where: str) -> bool:
    """Say whether the words name a data set of the hub; the address of one of its files is an address like others."""
    return where.startswith("hf:") or _in_address(where) is not None


def hub_name(where: str) -> str:
    """Return what a corpus of the data set is called."""
    return parse_name(where).repo.rpartition("/")[2]


def parse_name(where: str) -> DataSet:
    """Read ``hf:owner/name[@revision][/inside][:column]``, ``hf://datasets/…`` or the address of a data set's page.

    Raises ``SourceError`` for what is none of them.
    """
    if (found := _in_address(where)) is not None:
        return found
    rest = re.sub(r"^(hf:)?(//)?(datasets/)?", "", where)
    path, _, column = rest.partition(":")
    match = re.fullmatch(rf"{_REPO}(?:@([^/]+))?(?:/(.+?))?/?", path, re.ASCII)
    other = where.startswith(("hf://models", "hf://spaces", "hf://buckets"))
    if match is None or other or (match[3] and "/" not in match[1]):
        raise SourceError(f"{where} is not the name of a data set.", NAME_HINT)
    return DataSet(match[1], unquote(match[2] or "main"), unquote(match[3] or ""), column)


def _in_address(where: str) -> DataSet | None:
    if not re.match(r"https?://", where):
        return None
    try:
        parts = urlsplit(where)
        own = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
    except ValueError:
        return None
    if parts.netloc.lower() not in {*_HOSTS, own.lower() or _HOSTS[0]}:
        return None
    page = rf"/datasets/{_REPO}(?:/(tree|blob|viewer)/([^/]+)(?:/(.*?))?)?/?"
    match = re.fullmatch(page, parts.path, re.ASCII)
    if match is None:
        return None
    if match[2] == "viewer":
        return DataSet(match[1], inside=unquote(match[3]))
    return DataSet(match[1], unquote(match[3] or "main"), unquote(match[4] or ""))
