"""A data set on a hub of the tests, and a fetch of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gptcli.documents import Document
from gptcli.fetch.hub import open_hub
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Source
from gptcli.fetch.web import Web
from tests.fetch.conftest import Site
from tests.fetch.hub_server import parquet, serve

TALES = [f"Tale {number}. Once upon a time there was a princess & a dragon." for number in range(9)]


@pytest.fixture
def hub(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A hub with the data set someone/tales of three shards, and a shard for tests."""
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    files = {f"data/train-0000{n}-of-00003.parquet": parquet({"text": TALES[3 * n : 3 * n + 3]}) for n in range(3)}
    files["data/test-00000-of-00001.parquet"] = parquet({"text": ["A tale for tests."]})
    serve(
        site, "someone/tales", {"README.md": b"# Tales", **dict(reversed(files.items()))}, card={"license": "cc0-1.0"}
    )
    return site


class Fetched:
    """A fetch of a data set into a corpus: what came, what was noticed, and what was asked for."""

    def __init__(self, folder: Path, where: str, *, finish: bool = False, **options: Any) -> None:  # noqa: ANN401
        settings = FetchOptions(**{"delay": 0.0, **options})
        self.items: list[Document] = []
        with Web(folder / "corpora" / "tales", where, settings) as web:
            self.source: Source = open_hub(where, web, settings)
            for item in self.source.documents:
                self.items.append(item)
            self.requests = web.requests
            if finish:
                web.finish()

    @property
    def texts(self) -> list[str]:
        return [item.text for item in self.items]
