"""The Hugging Face hub, or a mirror of it, as far as data sets go: what one is, which files it has, and a file.

The token of the environment goes to the hub's own host and nowhere else, and is kept nowhere. Which files are worth
reading is not known here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from gptcli.errors import SourceError
from gptcli.fetch.hub.files import HubFile
from gptcli.fetch.web import PAGE_BYTES, FetchError, Response, Web

ENDPOINT = "https://huggingface.co"
FILE_BYTES = 64 * 1024**3


class UnknownDataSetError(SourceError):
    """The hub has no such data set or no such revision of it, or does not show it."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A data set at one commit: its name as the hub has it, and what its card says."""

    repo: str
    commit: str
    card: Mapping[str, Any]

    @property
    def is_commit(self) -> bool:
        """Whether this names one state for good: on some mirrors it is the name of a branch."""
        return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.commit) is not None

    @property
    def licence(self) -> str:
        """The licence that the card states."""
        stated = self.card.get("license")
        names = stated if isinstance(stated, list) else [stated]
        return ", ".join(name for name in names if isinstance(name, str) and name != "unknown")


class Hub:
    """The hub at ``mirror``, else at HF_ENDPOINT of the environment, else the public one."""

    def __init__(self, web: Web, mirror: str | None) -> None:
        self._web = web
        self._endpoint = (mirror or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        self._asked: list[str] = []

    def revision(self, repo: str, name: str = "main") -> Revision:
        """Ask for a revision of a data set; raises ``UnknownDataSetError``, or ``FetchError`` as ``Web.get`` does."""
        url = f"{self._endpoint}/api/datasets/{repo}"
        if name != "main":
            url = f"{url}/revision/{quote(name, safe='')}"
        try:
            value = self._json(self._get(url))
        except FetchError as error:
            if error.reason in {"gone", "refused"}:
                raise self._unknown(repo, name) from error
            raise
        self._asked.append(url)
        if not isinstance(value, dict):
            raise self._strange(url, value)
        known, commit, card = value.get("id"), value.get("sha"), value.get("cardData")
        return Revision(
            repo=known if isinstance(known, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", known) else repo,
            commit=commit if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,64}", commit) else name,
            card=card if isinstance(card, dict) else {},
        )

    def files(self, revision: Revision) -> list[HubFile]:
        """Return all files of a revision but the hidden ones; raises ``FetchError``, or ``SourceError`` for no list."""
        tree = f"{self._endpoint}/api/datasets/{revision.repo}/tree/{quote(revision.commit, safe='')}?recursive=true"
        found: list[HubFile] = []
        seen: set[str] = set()
        url: str | None = tree
        while url is not None and url not in seen:
            seen.add(url)
            response = self._get(url)
            page = self._json(response)
            if not isinstance(page, list):
                raise self._strange(url, page)
            found += [file for item in page if (file := _file(item)) is not None]
            following = response.link("next")
            # On a mirror the link may lead back to the hub itself; only its query is of use.
            url = f"{tree.partition('?')[0]}?{urlsplit(following).query}" if following else None
        return found

    def download(self, revision: Revision, file: HubFile) -> Response:
        """Return a file, which at one commit never changes.

        Raises ``SourceError`` where the data set is gated, ``FetchError`` as ``Web.get`` does.
        """
        commit, path = quote(revision.commit, safe=""), quote(file.path)
        try:
            url = f"{self._endpoint}/datasets/{revision.repo}/resolve/{commit}/{path}"
            return self._get(url, FILE_BYTES, immutable=revision.is_commit)
        except FetchError as error:
            if error.reason == "refused":
                raise _gated(revision.repo, error) from error
            raise

    def forget(self, *responses: Response) -> None:
        """Forget answers that were no use, and which commits the names of revisions stood for.

        The next fetch asks for these again, and for nothing else while the commits are the same.
        """
        for url in (*(response.url for response in responses), *self._asked):
            self._web.forget(url)

    def _json(self, response: Response) -> Any:  # noqa: ANN401 - JSON is anything
        try:
            return response.json()
        except SourceError:
            self.forget(response)
            raise

    def _strange(self, url: str, value: object) -> SourceError:
        self._web.forget(url)
        return SourceError(
            f"{url} does not answer as the hub does: a {type(value).__name__} was not expected.",
            "Check HF_ENDPOINT and --mirror.",
        )

    def _get(self, url: str, max_bytes: int = PAGE_BYTES, *, immutable: bool = False) -> Response:
        token = _token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._web.get(url, max_bytes=max_bytes, extra_headers=headers, immutable=immutable)

    def _unknown(self, repo: str, name: str) -> UnknownDataSetError:
        of = "" if name == "main" else f" with a revision {name!r}"
        to_whom = " to the token in HF_TOKEN" if _token() else ""
        return UnknownDataSetError(
            f"There is no data set called {repo!r}{of} on {urlsplit(self._endpoint).hostname}, "
            f"or it is not open{to_whom}.",
            "Check its name; for a private one set HF_TOKEN to a token that opens it.",
        )


def _token() -> str:
    token = os.environ.get("HF_TOKEN", "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise SourceError(
            "HF_TOKEN is no token: it has spaces or letters that no token has.", "Set it again, or unset it."
        )
    return token


def _gated(repo: str, error: FetchError) -> SourceError:
    ready = "the token in HF_TOKEN does not open it" if _token() else "HF_TOKEN is not set"
    return SourceError(
        f"The data set {repo} is gated: its terms have to be accepted, and {ready} ({error.message.rstrip('.')}).",
        f"Accept them at {ENDPOINT}/datasets/{repo}, make a token at {ENDPOINT}/settings/tokens, "
        "and set HF_TOKEN to it.",
    )


def _file(item: object) -> HubFile | None:
    """Return the file that an item of the listing is; None for folders, hidden files and anything else."""
    if not isinstance(item, dict) or item.get("type") != "file" or not isinstance(item.get("path"), str):
        return None
    path: str = item["path"]
    if any(part.startswith((".", "__")) for part in path.split("/")):
        return None
    size = item.get("size")
    return HubFile(path, size if isinstance(size, int) else 0)
