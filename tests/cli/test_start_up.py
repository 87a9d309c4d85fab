from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.cli.common import importing

ROOT = Path(__file__).resolve().parents[2]
# Each takes a tenth of a second to several seconds; torch imports the first two for a tensor without memory.
NEEDLESS = ("torch._dynamo", "sympy", "transformers", "tokenizers", "huggingface_hub", "httpx", "prompt_toolkit")
PROBE = f"""
import json, sys
from gptcli.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
print("\\n" + json.dumps([name for name in {NEEDLESS!r} if name in sys.modules]))
"""


def test_a_run_writes_without_importing_what_it_does_not_need(trained: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "sample", "tiny", "--prompt", "The", "--max-new-tokens", "2"],
        cwd=trained,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The")
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("was_on", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_is_collected_again_once_imports_are_done(was_on: bool, fails: bool) -> None:
    try:
        (gc.enable if was_on else gc.disable)()
        try:
            with importing():
                assert not gc.isenabled()
                if fails:
                    raise ModuleNotFoundError
        except ModuleNotFoundError:
            assert fails
        assert gc.isenabled() == was_on
    finally:
        gc.enable()
        gc.unfreeze()
