"""The page of a run in a real browser: it shows what it says, fits a phone, runs nothing and asks nobody."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptcli.config import ModelConfig, RunProfile, SampleConfig, TrainConfig
from gptcli.figures import visible
from gptcli.report import make_report
from tests.cli.conftest import working_in
from tests.hostile_run import ATTACKS, make_hostile_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs chromium, google-chrome or chrome on the path"),
    pytest.mark.slow,
]
# What a browser does by itself has nothing to do with a page.
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--no-default-browser-check", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-default-apps", "--disable-extensions", "--disable-domain-reliability", "--metrics-recording-only"),
    *("--disable-client-side-phishing-detection", "--no-pings", "--hide-scrollbars", "--force-device-scale-factor=1"),
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication,NetworkTimeServiceQuerying",
)
OWN_REQUESTS = re.compile(r"^\w+ (https?://)?([a-z0-9-]+\.)*(google|googleapis|gvt1|gstatic)\.com[:/]")
# Frames of three widths report what is in them: what a page may not do, the page around it may.
MEASURE = """<!doctype html><body><script>
const found = {};
let left = 3;
for (const width of [320, 400, 900]) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:800px;border:0`;
  frame.onload = () => setTimeout(() => {
    const page = frame.contentDocument, root = page.documentElement;
    const style = frame.contentWindow.getComputedStyle(page.body), all = [...page.querySelectorAll("*")];
    const wide = [...page.querySelectorAll("body *")].filter(e => !e.closest("svg") && !e.closest("pre")
      && e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.tagName);
    found[width] = {scroll: root.scrollWidth, client: root.clientWidth, wide, title: page.title,
      text: page.body.innerText, pre: [...page.querySelectorAll("pre")].map(e => e.textContent),
      scripts: page.scripts.length, images: page.images.length,
      frames: page.querySelectorAll("iframe,object,embed,a,form,base").length,
      page: style.backgroundColor, ink: style.color,
      picture: page.querySelector("figure svg").getBoundingClientRect().width,
      handlers: all.flatMap(e => [...e.attributes]).filter(a => a.name.startsWith("on")).length};
    if (--left === 0) {
      const pre = document.createElement("pre");
      pre.id = "found";
      pre.textContent = JSON.stringify(found);
      document.body.replaceChildren(pre);
    }
  }, 100);
  frame.src = "page.html";
  document.body.append(frame);
}
</script>"""


@contextmanager
def proxy() -> Iterator[tuple[int, list[str]]]:
    """Listen as a proxy that answers nothing; yields its port and the first lines of what it is asked for."""
    asked = list[str]()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.settimeout(5)
                        asked.append(connection.recv(4096).split(b"\r\n")[0].decode("latin-1"))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield server.getsockname()[1], asked
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def browse(folder: Path, page: Path, *options: str, port: int = 9) -> tuple[str, str]:
    """Open a page in a browser of its own; returns stdout and stderr."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, *QUIET, f"--user-data-dir={folder / 'browser'}", f"--proxy-server=http://127.0.0.1:{port}",
            "--proxy-bypass-list=<-loopback>", "--enable-logging=stderr", "--virtual-time-budget=8000",
            "--allow-file-access-from-files", *options, page.as_uri(),
        ],
        capture_output=True, encoding="utf-8", errors="replace", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


class Found(HTMLParser):
    """The text of the element with the id ``found``."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inside, self.text = False, ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the base's
        """Note where the element begins."""
        self.inside = self.inside or ("id", "found") in attrs

    def handle_data(self, data: str) -> None:
        """Take what is in it."""
        self.text += data if self.inside else ""


def measure(folder: Path, *options: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Return what frames of three widths found in ``page.html``, and what the browser complained about."""
    (folder / "measure.html").write_text(MEASURE, "utf-8")
    dumped, complaints = browse(folder, folder / "measure.html", "--dump-dom", *options)
    found = json.loads(Found(dumped).text)
    assert isinstance(found, dict)
    return found, complaints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``page.html``, the report of a hostile run."""
    profile = RunProfile(
        model=ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16),
        train=TrainConfig(batch_size=4, max_steps=8, warmup_steps=2, eval_interval=4, log_interval=2, device="cpu"),
        sample=SampleConfig(prompt="One ", max_new_tokens=8),
    )
    folder = tmp_path_factory.mktemp("chromium")
    run = make_hostile_run(folder, profile)
    with working_in(folder):
        (folder / "page.html").write_text(make_report(run, draws=False), "utf-8")
    return folder


def test_page_shows_hostile_texts_as_texts_and_fits_every_window(folder: Path) -> None:
    found, complaints = measure(folder)
    assert sorted(found, key=int) == ["320", "400", "900"]
    for width, page in found.items():
        assert page["title"] == "r"
        assert page["scroll"] <= page["client"] == int(width)
        assert page["wide"] == []
        assert [page[kind] for kind in ("scripts", "images", "frames", "handlers")] == [0, 0, 0, 0]
        assert page["picture"] > 0.8 * int(width)
        sample = next(text for text in page["pre"] if "tracker.example" in text)
        for attack in ATTACKS:
            assert visible(attack) in sample, attack
        assert "Its best val_loss is" in page["text"]
    assert "CONSOLE" not in complaints, complaints


def test_page_is_dark_where_the_window_is(folder: Path) -> None:
    brightness = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        page = measure(folder, f"--blink-settings=preferredColorScheme={number}")[0]["900"]
        brightness[scheme] = [sum(map(int, page[what][4:-1].split(","))) / 3 for what in ("page", "ink")]
    assert brightness["dark"][0] < 60 < 180 < brightness["dark"][1]
    assert brightness["light"][1] < 60 < 220 < brightness["light"][0]


@pytest.mark.parametrize("width", [500, 900])
def test_page_is_drawn(folder: Path, width: int) -> None:
    from matplotlib.image import imread

    picture = folder / f"{width}.png"
    browse(folder, folder / "page.html", f"--screenshot={picture}", f"--window-size={width},1400")
    pixels = np.asarray(imread(picture))[:, :, :3]
    assert pixels.shape[:2] == (1400, width)
    assert len(np.unique((pixels.reshape(-1, 3) * 255).astype(np.uint8), axis=0)) > 50
    blue = np.array([0x00, 0x72, 0xB2]) / 255
    assert (np.abs(pixels - blue).max(axis=2) < 0.02).sum() > 200  # the curve


def of_pages(asked: list[str]) -> list[str]:
    """Leave out what the browser asks its makers by itself, with any page."""
    return [line for line in asked if not OWN_REQUESTS.search(line)]


def test_page_asks_nobody_for_anything(folder: Path) -> None:
    (folder / "asks.html").write_text("<img src='http://asked.example/x'>", "utf-8")
    with proxy() as (port, asked):
        browse(folder, folder / "page.html", "--dump-dom", port=port)
        assert of_pages(asked) == []
        browse(folder, folder / "asks.html", "--dump-dom", port=port)
        assert {line.split()[1] for line in of_pages(asked)} == {"http://asked.example/x"}
