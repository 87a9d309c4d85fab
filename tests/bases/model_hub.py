"""A hub of models on loopback: the part of the real one's protocol that downloads need, and its refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.loopback import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What the real hub answers instead of a file: status, and the code its library reads.
REFUSALS = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "down": (500, ""), "token": (403, "")}


@dataclass
class ModelHub:
    """Repositories by name, each a folder or the word for a refusal; ``sent`` are the files that were downloaded."""

    url: str = ""
    repositories: dict[str, Path | str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, hub: ModelHub, *args: Any) -> None:  # noqa: ANN401
        self.hub = hub
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        if content is not None:
            self.hub.sent.append(self.path.rpartition("/")[2])
            self.wfile.write(content)

    def answer(self) -> bytes | None:
        """Send the head of an answer to ``/OWNER/NAME/resolve/REVISION/FILE``; returns the file, if there is one."""
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        found = self.hub.repositories.get(repository)
        if isinstance(found, str):
            self.refuse(*REFUSALS[found])
            return None
        if found is None:
            self.refuse(404, "RepoNotFound")
            return None
        if revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
            return None
        if not (found / name).is_file():
            self.refuse(404, "EntryNotFound")
            return None
        content = (found / name).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{name}-{len(content)}"')
        self.end_headers()
        return content

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("X-Repo-Commit", COMMIT)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[ModelHub]:
    """Serve an empty hub as long as the block lasts."""
    hub = ModelHub()
    with serving(partial(_Handler, hub)) as hub.url:
        yield hub
