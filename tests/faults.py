"""The command line in forked processes of which one write fails, as on a full, broken or forbidden disk.

``python -m tests.faults`` reads jobs from stdin, one JSON object a line, and answers each with one.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # threads do not live through a fork

ROOT = Path(__file__).resolve().parents[1]
WRITING = frozenset("wax+")


class Outcome(NamedTuple):
    """What a command did: its exit code, both streams, and how many writes it came to."""

    code: int
    stdout: str
    stderr: str
    writes: int


class Faults:
    """A process that forks one for each command; ended as a context."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
        )

    def run(self, folder: Path, *arguments: str, fault: int | None = None, error: int = errno.ENOSPC) -> Outcome:
        """Run ``gptcli ARGUMENTS`` in ``folder`` with write number ``fault`` (from 0) failing, or none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"folder": str(folder), "arguments": arguments, "fault": fault, "error": error}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


class _Writes:
    """Counts what writes below a folder, and lets one of it fail."""

    def __init__(self, folder: Path, fault: int | None, error: int) -> None:
        self.folder, self.fault, self.error, self.count = str(folder.resolve()), fault, error, 0

    def __call__(self, path: object) -> None:
        if isinstance(path, str | os.PathLike) and not str(Path(path).absolute()).startswith(self.folder):
            return
        self.count += 1
        if self.count - 1 == self.fault:
            raise OSError(self.error, os.strerror(self.error), path if isinstance(path, str | os.PathLike) else None)


class _Written:
    """A file whose first write may fail, as the others do: what is full or broken says so at any of them."""

    def __init__(self, file: Any, writes: _Writes) -> None:  # noqa: ANN401
        self._file, self._writes, self._is_counted = file, writes, False

    def write(self, data: Any) -> Any:  # noqa: ANN401
        if not self._is_counted:
            self._is_counted = True
            self._writes(getattr(self._file, "name", None))
        return self._file.write(data)

    def writelines(self, lines: Any) -> None:  # noqa: ANN401
        for line in lines:
            self.write(line)

    def __enter__(self) -> _Written:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:  # noqa: ANN401
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:  # noqa: ANN401
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._file, name)


def _install(writes: _Writes) -> None:
    """Put the counter before everything in Python and safetensors that writes."""
    import safetensors.torch
    from safetensors import SafetensorError

    def before(function: Callable[..., Any], wanted: Callable[..., bool] = lambda *_, **__: True) -> Callable[..., Any]:
        def counted(path: object, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if wanted(*args, **kwargs):
                writes(path)
            return function(path, *args, **kwargs)

        return counted

    def creates(flags: int, *_: object, **__: object) -> bool:
        return bool(flags & os.O_CREAT)

    for name in ("fsync", "mkdir", "replace", "rename"):
        setattr(os, name, before(getattr(os, name)))
    os.open = before(os.open, creates)
    _install_open(writes, before(io.open, _opens_to_write))
    serialize = vars(safetensors.torch)["serialize_file"]

    def serialized(tensors: object, path: str, *args: object, **kwargs: object) -> None:
        try:
            writes(path)
        except OSError as error:
            raise SafetensorError(f"Error while serializing: I/O error: {error.strerror}") from None
        serialize(tensors, path, *args, **kwargs)

    vars(safetensors.torch)["serialize_file"] = serialized


def _opens_to_write(mode: object = "r", *_: object, **__: object) -> bool:
    return bool(WRITING & set(str(mode)))


def _install_open(writes: _Writes, opened: Callable[..., Any]) -> None:
    """Let the files of ``open`` and ``os.fdopen`` count what is written to them."""

    def written(file: Any, mode: object) -> Any:  # noqa: ANN401
        return _Written(file, writes) if _opens_to_write(mode) else file

    def open_(path: object, mode: str = "r", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        file = opened(path, mode, *args, **kwargs)
        return file if isinstance(path, int) else written(file, mode)  # numbers are streams of the process, or fdopen's

    def fdopen(number: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return written(opened(number, mode, *args, **kwargs), mode)

    vars(os)["fdopen"] = fdopen
    vars(io)["open"] = vars(builtins)["open"] = open_


def _run(job: dict[str, Any], out: int, err: int) -> dict[str, Any]:
    """Run the command in this process; returns its exit code, the number of its writes and what it imported."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(job["folder"])
    writes = _Writes(Path(job["folder"]), job["fault"], job["error"])
    _install(writes)
    sys.argv = ["gptcli", *job["arguments"]]
    from gptcli.cli.app import main

    code = 1
    try:
        main()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # noqa: BLE001 - what a user would see
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return {"code": code, "writes": writes.count, "modules": list(sys.modules)}


def _answer(job: dict[str, Any]) -> Outcome:
    import tempfile

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as end:
        number = os.fork()
        if not number:
            found = _run(job, out.fileno(), err.fileno())
            os.write(end.fileno(), json.dumps(found).encode())
            os._exit(0)
        os.waitpid(number, 0)
        texts = []
        for file in (out, err, end):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    found = json.loads(texts[2])
    for module in found["modules"]:  # once here, so that the next command has them
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    return Outcome(found["code"], texts[0], texts[1], found["writes"])


def main() -> None:
    """Answer jobs until there are no more."""
    import safetensors.torch
    import torch

    assert torch.get_num_threads() == 1
    assert safetensors.torch
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(json.loads(line))._asdict()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
