from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

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


@pytest.mark.skipif(sys.platform == "win32", reason="needs Ctrl-C as a signal")
@pytest.mark.parametrize("command", ["sample", "chat"])
@pytest.mark.parametrize("moment", ["gptcli.cli", "typer", "numpy", "torch.nn", "torch"])
def test_ctrl_c_before_a_command_works_ends_it_silently(trained: Path, command: str, moment: str) -> None:
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "gptcli", command, "tiny"],
        cwd=trained,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
        encoding="utf-8",
        **options,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert moment in (line.rpartition("|")[2].strip() for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest, text = process.stderr.read(), process.stdout.read()
    assert process.returncode == -signal.SIGINT
    assert (text, "Traceback" in rest) == ("", False)


@pytest.mark.skipif(sys.platform == "win32", reason="needs Ctrl-C as a signal")
def test_ctrl_c_ends_the_process_while_torch_is_imported_and_interrupts_it_afterwards() -> None:
    python = signal.getsignal(signal.SIGINT)
    assert python is signal.default_int_handler
    with importing():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is python


@pytest.mark.skipif(sys.platform == "win32", reason="needs Ctrl-C as a signal")
def test_ctrl_c_that_is_ignored_or_somebody_elses_stays_so() -> None:
    def theirs(number: int, frame: object) -> None:
        raise AssertionError

    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.SIG_IGN, theirs):
            signal.signal(signal.SIGINT, handler)
            with importing():
                assert signal.getsignal(signal.SIGINT) is handler
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_imports_of_another_thread_leave_the_signals_alone() -> None:
    def import_there() -> None:
        with importing():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=import_there)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


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
