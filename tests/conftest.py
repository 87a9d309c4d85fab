"""Fixtures shared by all tests: real text, and a process environment that nobody's home folder leaks into."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real texts beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real texts in {SHARED_DATA.parent.name}/data beside the checkout")
    return SHARED_DATA
