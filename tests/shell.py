"""``gptcli`` for a real shell, without a start of Python and torch for each command: one process runs them all.

``Shell`` starts that process and puts a command named ``gptcli`` on the path of bash, which only passes its arguments,
its folder and its stdin on. The environment is set before anything is imported, as a user's is.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 120
COMMAND = """#!{python} -ES
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as there:
    there.connect({socket!r})
    asked = {{"args": sys.argv[1:], "folder": os.getcwd(), "stdin": sys.stdin.buffer.read().decode()}}
    there.sendall(json.dumps(asked).encode())
    there.shutdown(socket.SHUT_WR)
    answer = json.load(there.makefile("rb"))
sys.stdout.buffer.write(answer["stdout"].encode())
sys.stderr.buffer.write(answer["stderr"].encode())
sys.stdout.flush()
sys.exit(answer["code"])
"""


@dataclass(frozen=True, slots=True)
class Shell:
    """bash with a ``gptcli`` on its path."""

    bin: Path
    environment: Mapping[str, str]

    def run(self, line: str, folder: Path, stdin: str) -> subprocess.CompletedProcess[str]:
        """Run a line as it is typed in ``folder``; it fails where any part of it does."""
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", line],
            cwd=folder,
            env={**self.environment, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=TIMEOUT_SECONDS,
        )


@contextlib.contextmanager
def open_shell(**environment: str) -> Iterator[Shell]:
    """Open a shell whose ``gptcli`` sees these variables; no proxy, no login and no settings of the hub but those."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("HF_", "GPTCLI_"))
    }
    fixed = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        address = str(place / "socket")
        script = place / "gptcli"
        script.write_text(COMMAND.format(python=sys.executable, socket=address), "utf-8")
        script.chmod(0o755)
        variables = {**kept, **fixed, **environment}
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.shell", address],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield Shell(place, variables)
            finally:
                process.terminate()


def serve(address: str) -> None:
    """Answer one command after the other, until the process is ended."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            here, _ = listening.accept()
            with here:
                asked = json.loads(here.makefile("rb").read())
                answer = json.dumps(_run(asked["args"], asked["folder"], asked["stdin"]))
                with contextlib.suppress(OSError):
                    here.sendall(answer.encode())


def _run(args: list[str], folder: str, stdin: str) -> dict[str, object]:
    from typer.testing import CliRunner

    from gptcli.cli.app import app

    os.chdir(folder)
    if "--nproc" in args:  # whose processes print by themselves
        command = [sys.executable, "-m", "gptcli", *args]
        done = subprocess.run(command, input=stdin, capture_output=True, encoding="utf-8", check=False)
        return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    result = CliRunner().invoke(app, args, input=stdin)
    if result.exception is None or isinstance(result.exception, SystemExit):
        return {"code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}
    told = io.StringIO()
    traceback.print_exception(result.exception, file=told)
    return {"code": 70, "stdout": result.stdout, "stderr": result.stderr + told.getvalue()}


if __name__ == "__main__":
    serve(sys.argv[1])
