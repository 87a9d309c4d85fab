"""A real Datasette on loopback over a table of posts, behind a proxy that counts what is asked of it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.loopback import serving

ROWS = 1650
PAGE_ROWS = 100
START_SECONDS = 60.0


@dataclass(frozen=True)
class Post:
    """A row of the table, and the words that a reader of it reads; none where there is nothing to read."""

    id: int
    title_html: str
    title: str
    body: str | None
    words: tuple[str, ...]


def posts() -> list[Post]:
    """The rows in their order: every kind of HTML a blog has, some empty bodies, and some bodies that are the same."""
    return [_post(number) for number in range(1, ROWS + 1)]


def _post(number: int) -> Post:
    bodies: list[tuple[str | None, str]] = [
        (f"<p>Post {number} &amp; more.</p>\n<p>It&#8217;s caf&eacute;.</p>", f"Post {number} & more. It\u2019s café."),
        (
            f'<p>See <a\n   href="/x?a=1&amp;b={number}"\n   title="1 > 0"\n>post\n{number}</a>.</p><hr\n/><p>End</p>',
            f"See post {number}. End",
        ),
        (f"<ul>\n<li>one {number}</li>\n<li>two\n<li>three</ul>", f"- one {number} - two - three"),
        (
            f"<p>Code:</p><pre><code>if a &lt; {number}:\n    print(&quot;&lt;b&gt;&quot;)\n</code></pre>",
            f'Code: if a < {number}: print("<b>")',
        ),
        (f"<script>var a = '<p>no</p>';</script><style>p {{}}</style><p>Seen {number}</p>", f"Seen {number}"),
        (f"<p>Ελλάδα 日本語 🙂 {number}</p>", f"Ελλάδα 日本語 🙂 {number}"),
        (f"<blockquote>Long {number}</blockquote>" + "<p>word </p>" * 400, f"Long {number} " + "word " * 400),
        (f"No tag, 5 &lt; 6 &amp; {number}", f"No tag, 5 < 6 & {number}"),
        ("<p>The same every time.</p>", "The same every time."),
        (f"<p>Broken <b>bold {number}<p>next</i> <br>line", f"Broken bold {number} next line"),
    ]
    body, text = bodies[number % len(bodies)]
    if number % 40 == 7:
        body, text = None, ""
    if number % 40 == 23:
        body, text = "", ""
    if number == 99:
        body, text = "<p> </p>", ""
    return Post(
        number, f"Post &#8220;{number}&#8221; &amp;c", f"Post \u201c{number}\u201d &c", body, tuple(text.split())
    )


def write_database(path: Path, rows: list[Post]) -> None:
    """Write the posts into ``blog_entry``, as a blog's export would have them."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE blog_entry (id INTEGER PRIMARY KEY, created TEXT, title TEXT, body TEXT)")
        database.executemany(
            "INSERT INTO blog_entry VALUES (?, ?, ?, ?)",
            [(row.id, f"2024-01-01T00:{row.id // 60:02}:{row.id % 60:02}", row.title_html, row.body) for row in rows],
        )


@dataclass
class DatasetteSite:
    """``url`` is that of the proxy; ``requests`` are the paths that were asked for, in their order.

    ``on_request`` is called with their number and the moment ("asked", "halfway" through the body, "answered").
    """

    url: str
    table: str
    posts: list[Post]
    requests: list[str] = field(default_factory=list)
    on_request: Callable[[int, str], object] = lambda *_: None


@contextlib.contextmanager
def datasette_site(folder: Path) -> Iterator[DatasetteSite]:
    """Serve 1,650 posts in pages of at most 100 with a real ``datasette serve``; both servers end with the block."""
    rows = posts()
    write_database(folder / "blog.db", rows)
    with _datasette(folder / "blog.db") as port:
        site = DatasetteSite("", "", rows)
        with _proxy(port, site) as own:
            site.url = f"http://127.0.0.1:{own}"
            site.table = f"{site.url}/blog/blog_entry.json"
            yield site


@contextlib.contextmanager
def _datasette(database: Path) -> Iterator[int]:
    port = _free_port()
    command = [sys.executable, "-m", "datasette", "serve", str(database), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--setting", "max_returned_rows", str(PAGE_ROWS)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_ready(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "datasette has ended before it answered"
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
            client.request("GET", "/-/versions.json")
            if client.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise AssertionError("datasette does not answer")


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def _proxy(port: int, site: DatasetteSite) -> Iterator[int]:
    """Pass requests on to the server on ``port``, which learns the proxy's own name from their Host header."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.requests.append(self.path)
            number = len(site.requests)
            site.on_request(number, "asked")
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                client.request("GET", self.path, headers=headers)
                answer = client.getresponse()
                body = answer.read()
            with contextlib.suppress(OSError):  # whoever asked may have been killed
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "content-length", "connection", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                site.on_request(number, "halfway")
                self.wfile.write(body[len(body) // 2 :])
                self.wfile.flush()
                site.on_request(number, "answered")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield int(url.rpartition(":")[2])
