"""The first lines of ``gptcli`` and ``python -m gptcli``: what Ctrl-C does before anything is imported, and what is
said where a package that is needed cannot be.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line; Ctrl-C ends the process silently until a command works, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from gptcli.cli.app import main as run

        run()
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "gptcli"):
            raise
        hint = f"pip install {package}; gptcli doctor then says what else is missing."
        sys.exit(f"Error: gptcli needs the package {package}: {error}.\n{hint}")


if __name__ == "__main__":
    main()
