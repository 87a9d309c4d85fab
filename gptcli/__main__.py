"""The first lines of ``gptcli`` and ``python -m gptcli``: what Ctrl-C does before anything is imported."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line; Ctrl-C ends the process silently until a command works, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gptcli.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
