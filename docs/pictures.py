"""Make the pictures of the docs from real commands: ``python docs/pictures.py``, with tmux and Chromium at hand.

Trains two small runs in a temporary folder (two minutes on two CPU cores), types commands into a terminal of 80
columns, and writes what it shows as SVG; the report is photographed by a browser.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
SESSION = f"gptcli-pictures-{os.getpid()}"
COLUMNS = 80
# rich's own, without the fonts that it would fetch from elsewhere.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
 font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def tmux(*args: str) -> str:
    """Run a command of tmux; returns what it prints."""
    return subprocess.run(["tmux", *args], check=True, capture_output=True, encoding="utf-8").stdout


def screen() -> str:
    """Return what the terminal shows, colours included, without empty lines below."""
    return tmux("capture-pane", "-p", "-e", "-t", SESSION).rstrip()


def wait_for(what: Callable[[str], bool], seconds: float = 600) -> str:
    """Look at the terminal until it shows what is waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what(shown := screen()):
            return shown
        time.sleep(0.5)
    raise SystemExit(f"It never came:\n{shown}")


def type_in(command: str, height: int) -> None:
    """Type a command into an empty terminal of so many lines."""
    tmux("resize-window", "-t", SESSION, "-x", str(COLUMNS), "-y", str(height))
    tmux("send-keys", "-t", SESSION, f"clear; {command}; echo 'all' said", "Enter")


def shown_by(command: str, height: int = 60) -> str:
    """Return what a command leaves on the screen."""
    type_in(command, height)
    shown = wait_for(lambda text: text.endswith("all said"))
    return shown.removesuffix("all said").rstrip()


def save_svg(name: str, command: str, shown: str) -> None:
    """Write a terminal picture."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi(shown), no_wrap=True, crop=True)
    PICTURES.joinpath(f"{name}.svg").write_text(
        console.export_svg(title=command, theme=MONOKAI, code_format=SVG, unique_id=name), "utf-8"
    )


def photograph(page: Path, name: str, *, dark: bool) -> None:
    """Let a headless Chromium draw the top of a page."""
    scheme = "0" if dark else "1"
    subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=760,1150"),
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={PICTURES / name}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
    )


def main() -> None:
    """Make them all."""
    PICTURES.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp())
    tools = shlex.quote(str(Path(sys.executable).parent))
    tmux("new-session", "-d", "-s", SESSION, "-x", str(COLUMNS), "-y", "40", "-c", str(folder), "sh")
    try:
        tmux("send-keys", "-t", SESSION, f"export PS1= PATH={tools}:$PATH", "Enter")
        command = "gptcli train --profile quickstart"
        type_in(command, 30)
        save_svg("train", command, wait_for(lambda text: "step 500/700" in text))
        wait_for(lambda text: text.endswith("all said"))
        shown_by("gptcli train --profile quickstart --set n_embd=96 --run narrow --quiet")
        for name, command in {
            "overview": "gptcli",
            "list": "gptcli runs list",
            "show": "gptcli runs show python-docs-quickstart",
            "compare": 'gptcli runs compare python-docs-quickstart narrow --prompt "The "',
        }.items():
            save_svg(name, command, shown_by(command))
        shown_by("gptcli runs plot python-docs-quickstart narrow -o two.png")
        shutil.copy(folder / "two.png", PICTURES / "two.png")
        shutil.copy(folder / "runs" / "python-docs-quickstart" / "loss.png", PICTURES / "loss.png")
        shown_by("gptcli runs report python-docs-quickstart -o report.html")
        photograph(folder / "report.html", "report-light.png", dark=False)
        photograph(folder / "report.html", "report-dark.png", dark=True)
    finally:
        tmux("kill-session", "-t", SESSION)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
