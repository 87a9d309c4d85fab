"""Makes ``python -m gptcli`` the same as ``gptcli``."""

from __future__ import annotations

from gptcli.cli.app import main

if __name__ == "__main__":
    main()
