"""A hub of data sets for tests: it answers at the addresses of the real one, files by way of a redirect as it does."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tests.fetch.conftest import Page, Site

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def parquet(columns: Mapping[str, Sequence[Any]], *, row_group_size: int | None = None) -> bytes:
    """Return a parquet file of these columns."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), file, row_group_size=row_group_size)
    return file.getvalue()


def serve(
    site: Site,
    repo: str,
    files: Mapping[str, bytes],
    *,
    card: Mapping[str, Any] | None = None,
    revision: str = "main",
    commit: str = COMMIT,
    page_size: int = 1000,
    cdn: str = "",
) -> None:
    """Put a revision of a data set on the site; ``cdn`` is the host that its files are redirected to."""
    named = "" if revision == "main" else f"/revision/{quote(revision, safe='')}"
    info = {"id": repo, "sha": commit, "gated": False, "cardData": dict(card or {})}
    site.pages[f"/api/datasets/{repo}{named}"] = _json(info)
    items = [
        {"type": "directory", "oid": "0", "size": 0, "path": "data"},
        *({"type": "file", "oid": "0", "size": len(body), "path": path} for path, body in files.items()),
    ]
    tree = f"/api/datasets/{repo}/tree/{commit}"
    for start in range(0, len(items), page_size):
        query = "?recursive=true" + (f"&cursor={start}" if start else "")
        following = f"{site.url}{tree}?recursive=true&cursor={start + page_size}"
        link = {"Link": f'<{following}>; rel="next"'} if start + page_size < len(items) else {}
        site.pages[tree + query] = _json(items[start : start + page_size], link)
    for path, body in files.items():
        kept = f"/cdn/{repo}/{commit}/{quote(path)}"
        site.pages[kept] = Page(body, content_type="application/octet-stream", etag=f'"{path}"')
        site.pages[f"/datasets/{repo}/resolve/{commit}/{quote(path)}"] = Page(
            status=302, headers={"Location": f"{cdn or site.url}{kept}?signature=1"}
        )


def downloads(site: Site) -> list[str]:
    """Return the names of the files that were sent, in order."""
    return [path.partition("?")[0].rpartition("/")[2] for path in site.asked if path.startswith("/cdn/")]


def _json(value: object, headers: Mapping[str, str] | None = None) -> Page:
    return Page(json.dumps(value).encode(), content_type="application/json", headers=headers or {})
