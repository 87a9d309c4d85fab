"""A run that is killed again and again, in the middle of saves too, ends as the one that nobody disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "killed_runs.py"
KILLS, IN_A_SAVE = 50, 15


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the attempts are forked")
def test_fifty_kills_of_which_fifteen_are_in_a_save_lose_nothing(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--kills", str(KILLS), "--json", str(found)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(found.read_text("utf-8"))
    assert result["lost"] == []
    assert result["kills"] == KILLS
    assert result["in_a_save"] >= IN_A_SAVE
