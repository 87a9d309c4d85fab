"""A JSON list on a site of the tests, and what reading it gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptcli.documents import Document
from gptcli.fetch.json_api import open_json
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Plan, Source
from gptcli.fetch.web import Web
from tests.fetch.conftest import Page, Site


def read(url: str, folder: Path, **options: Any) -> tuple[Source, list[Document]]:  # noqa: ANN401
    """Open a list and read all of it, as one fetch does."""
    asked = FetchOptions(delay=0, **options)
    with Web(folder, url, asked) as web:
        source = open_json(url, web.get(url), web, asked)
        return source, list(source.documents)


def plan(url: str, folder: Path) -> tuple[Plan, int]:
    """Return the plan for a list, and how many requests making it took."""
    options = FetchOptions(delay=0)
    with Web(folder, url, options) as web:
        found = open_json(url, web.get(url), web, options).plan()
        return found, web.requests


def serve(site: Site, path: str, value: object, **headers: str) -> str:
    """Put JSON at a path of the site; returns its address."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    site.pages[path] = Page(body, content_type="application/json", headers=names)
    return f"{site.url}{path}"


def records(first: int, last: int) -> list[dict[str, Any]]:
    return [{"id": number, "body": f"text {number}"} for number in range(first, last + 1)]


def texts(documents: list[Document]) -> list[str]:
    return [item.text for item in documents]
