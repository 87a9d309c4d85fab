"""Write the pages that are made from the program: ``python docs/generate.py``; ``--check`` says whether they are so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gptcli.cli.reference import command_reference  # noqa: E402 - of this checkout, whatever is installed
from gptcli.files import atomic_write  # noqa: E402

PAGES: list[tuple[str, Callable[[], str]]] = [
    ("docs/cli.md", command_reference),
]


def main(arguments: list[str]) -> int:
    """Write every page that differs; with ``--check`` name them instead, and return 1 if there are any."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python docs/generate.py [--check]\n")
        return 2
    stale = [(name, text) for name, make in PAGES if _differs(ROOT / name, text := make())]
    for name, text in stale:
        if arguments:
            sys.stderr.write(f"{name} is not what the program says. Write it anew: make docs\n")
        else:
            with atomic_write(ROOT / name) as file:
                file.write(text.encode())
            sys.stderr.write(f"{name} written\n")
    return int(bool(stale and arguments))


def _differs(path: Path, text: str) -> bool:
    return not path.is_file() or path.read_text("utf-8") != text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
