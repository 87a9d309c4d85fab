"""The same figures where people look: TensorBoard, Weights & Biases, trackio.

Takes the events of a run and passes them on, each sink into a folder of its own inside the run. ``metrics.jsonl`` is
the run's own log, whatever becomes of these: a sink that fails is left out, and that is said once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from gptcli.errors import GptcliError
from gptcli.events import (
    Evaluated,
    Notice,
    RunFinished,
    RunStarted,
    SampleDrawn,
    StepLogged,
    TrainEvent,
    WentBack,
    from_record,
    to_record,
)
from gptcli.files import refuse_links_out
from gptcli.metrics import read_events
from gptcli.runs import RunDir

PROJECT = "gptcli"
# What of the events is passed on, under its name in metrics.jsonl.
FIGURES = {
    StepLogged: (
        *("train_loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu"),
        *("epoch", "tokens_seen", "skipped_steps"),
    ),
    Evaluated: ("val_loss", "val_loss_stderr", "perplexity", "bits_per_byte"),
}
# What TensorBoard lists beside the keys of the profile.
HPARAM_METRICS = ("train_loss", "val_loss", "bits_per_byte")
# wandb waits so many seconds for an answer at the beginning, and for the rest to be sent at the end.
WANDB_INIT_SECONDS, WANDB_FINISH_SECONDS = 10.0, 30.0


class TensorBoard:
    """Event files in ``tensorboard/``; TensorBoard hides what of an older file lies behind the step a newer begins at.

    Written here and not by a thread as torch's writer does, whose errors nobody could catch.
    """

    name = "tensorboard"

    def __init__(self, run: RunDir, step: int) -> None:
        import torch.utils.tensorboard.summary as summaries

        self._folder = run.path / self.name
        self.is_new = not self._folder.exists()
        self.where = f"tensorboard --logdir {run.path.parent} shows the run"
        self._summaries: Any = summaries  # which are not typed
        self._begin(step)
        settings = {key: value for key, value in _flat(_profile(run)).items() if value is not None}
        for summary in self._summaries.hparams(settings, dict.fromkeys(HPARAM_METRICS, 0.0)):
            self._write(step, summary=summary)
        self._write(step, summary=self._summaries.text("profile", _verbatim(run.profile_path.read_text("utf-8"))))

    def _begin(self, step: int) -> None:
        """Begin a file that goes on from ``step``; its name sorts behind those of before."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(exist_ok=True)
        self._file = (self._folder / f"events.out.tfevents.{time.time_ns()}").open("xb", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(step + 1, file_version="brain.Event:2")
        self._write(step + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **what: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), step=step, **what).SerializeToString())

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Write the figures of a step."""
        for name, value in figures.items():
            self._write(step, summary=self._summaries.scalar(name, value))

    def write(self, event: SampleDrawn) -> None:
        """Write a sample as text."""
        self._write(event.step, summary=self._summaries.text("sample", _verbatim(event.prompt + event.text)))

    def go_back(self, step: int) -> None:
        """Hide what came after ``step``."""
        self._file.close()
        self._begin(step)

    def close(self, *, finished: bool) -> None:  # noqa: ARG002 - files have no end but this
        """Close the file."""
        self._file.close()


class Wandb:
    """A run of Weights & Biases in ``wandb/``: sent where somebody is logged in, else kept for ``wandb sync``.

    It only ever appends: steps that are made again are there twice, over the same ``step``.
    """

    name = "wandb"

    def __init__(self, run: RunDir, step: int) -> None:  # noqa: ARG002 - it has no way to go back
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it reports to its makers, offline too
        os.environ.setdefault("WANDB_DISABLE_GIT", "true")  # else it sends the address and the commit of the folder
        import wandb

        folder = run.path / self.name
        before = sorted(folder.glob("*run-*-*"), key=lambda path: path.stat().st_mtime)
        folder.mkdir(exist_ok=True)  # else wandb takes a temporary one without an error
        wandb.setup(settings=wandb.Settings(silent=True, console="off"))
        self._wandb, self.is_new = wandb, not before
        options = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "name": run.name,
            "id": before[-1].name.rpartition("-")[2] if before else None,
            "resume": "allow" if before else None,
            "dir": str(run.path),
            "config": _profile(run),
        }
        self._run, why = self._begin(options)
        for name, summary in (("step", "last"), ("*", "last"), ("val_loss", "min")):
            self._run.define_metric(name, step_metric=None if name == "step" else "step", summary=summary)
        kept = Path(self._run.dir).parent
        kept = kept.relative_to(Path.cwd()) if kept.is_relative_to(Path.cwd()) else kept
        self.where = f"the log stays in this folder, {why}; wandb sync {kept} sends it" if why else self._run.url

    def _begin(self, options: dict[str, Any]) -> tuple[Any, str]:
        """Return the run, and why nothing is sent, if that is so."""
        limits = {"init_timeout": WANDB_INIT_SECONDS, "finish_timeout": WANDB_FINISH_SECONDS}
        settings = self._wandb.Settings(silent=True, console="off", **limits)
        why = "as nobody is logged in to wandb"
        if self._wandb.login(prompt=False, verify=False):
            try:
                begun = self._wandb.init(**options, settings=settings)
            except self._wandb.errors.Error as error:
                why = f"as wandb cannot be reached ({_first_line(error)})"
            else:
                return begun, "as wandb is set to" if begun.offline else ""
        return self._wandb.init(**options, settings=settings, mode="offline"), why

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Append the figures of a step."""
        self._run.log({"step": step, **figures})

    def write(self, event: SampleDrawn) -> None:
        """Append a sample as a table of one row."""
        columns = ["step", "prompt", "text"]
        table = self._wandb.Table(columns=columns, data=[[event.step, event.prompt, event.text]])
        self._run.log({"step": event.step, "sample": table})

    def go_back(self, step: int) -> None:
        """Leave what is written: nothing of it can be taken back."""

    def close(self, *, finished: bool) -> None:
        """Send or write the rest, for a limited time; a run that was stopped is no finished one."""
        try:
            self._run.finish(exit_code=0 if finished else 1)
        finally:
            self._wandb.teardown()


class Trackio:
    """A database of trackio in ``trackio/``, or where ``TRACKIO_DIR`` says; only appended to, as wandb is."""

    name = "trackio"

    def __init__(self, run: RunDir, step: int) -> None:
        folder = Path(os.environ.setdefault("TRACKIO_DIR", str((run.path / self.name).resolve())))
        self.is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        resume = "allow" if step else "never"  # a folder of the person's own may have other runs of this name
        with _quiet():
            import trackio  # reads TRACKIO_DIR while it is imported

            self._trackio = trackio
            self._run = trackio.init(project=PROJECT, name=run.name, config=_profile(run), resume=resume, embed=False)
        local = f"TRACKIO_DIR={folder} trackio show --project {PROJECT}"
        space = os.environ.get("TRACKIO_SPACE_ID")
        self.where = f"the Space {space} shows the run" if space else f"{local} shows the run"

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Append the figures of a step."""
        self._run.log(figures, step=step)

    def write(self, event: SampleDrawn) -> None:
        """Append a sample as text."""
        text = self._trackio.Markdown(_verbatim(event.prompt + event.text))
        self._run.log({"sample": text}, step=event.step)

    def go_back(self, step: int) -> None:
        """Leave what is written."""

    def close(self, *, finished: bool) -> None:  # noqa: ARG002 - trackio knows no end
        """Write the rest."""
        with _quiet():
            self._trackio.finish()


KINDS = {kind.name: kind for kind in (TensorBoard, Wandb, Trackio)}


class Sinks:
    """The sinks of one run, opened when it starts; ``say`` gets what a person should know."""

    def __init__(self, run: RunDir, names: Sequence[str], say: Callable[[Notice], None]) -> None:
        self._run, self._names, self._say = run, tuple(dict.fromkeys(names)), say
        self._sinks: list[TensorBoard | Wandb | Trackio] = []
        self._step, self._finished = 0, False

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in list(self._sinks):
            with self._surviving(sink.name):
                sink.close(finished=self._finished)

    def take(self, event: TrainEvent) -> None:
        """Pass an event on to every sink that still works; the first event of a run opens them."""
        self._step = event.step
        if isinstance(event, RunStarted):
            for name in self._names:
                self._open(name, event.step)
            return
        self._finished = isinstance(event, RunFinished) and event.reason in ("completed", "stopped_early")
        for sink in list(self._sinks):
            with self._surviving(sink.name):
                _pass_on(event, sink)

    def _open(self, name: str, step: int) -> None:
        """Open a sink; one that comes to the run later, on a resume, is told what was before."""
        with self._surviving(name):
            refuse_links_out(self._run.path, name)
            sink = KINDS[name](self._run, step)
            self._sinks.append(sink)
            if sink.is_new:
                for record in read_events(self._run.metrics_path):
                    if (past := from_record(record)) is not None:
                        _pass_on(past, sink)
            self._say(Notice(step, f"--log {name}: {sink.where}."))

    @contextlib.contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        """Leave a sink out that fails, and say so: the run goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - what other people's services raise is theirs
            for sink in [sink for sink in self._sinks if sink.name == name]:
                self._sinks.remove(sink)
                with contextlib.suppress(Exception):
                    sink.close(finished=False)
            text = (
                f"--log {name} has failed, so the run goes on without it ({_first_line(error)}). metrics.jsonl has all."
            )
            self._say(Notice(self._step, text))


def check_sinks(names: Sequence[str]) -> None:
    """Raise ``GptcliError`` for a sink whose package is not installed, with the command that installs it."""
    for name in names:
        # A folder of that name, as wandb leaves in a working directory, is a package without an origin.
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise GptcliError(
                f"--log {name} needs the package {name}, which is not installed.",
                f"pip install 'gptcli[{name}]', or from a clone pip install -e '.[{name}]'",
            )


def _pass_on(event: TrainEvent, sink: TensorBoard | Wandb | Trackio) -> None:
    if isinstance(event, StepLogged | Evaluated):
        record = to_record(event)
        sink.log(event.step, {name: record[name] for name in FIGURES[type(event)] if record[name] is not None})
    elif isinstance(event, SampleDrawn):
        sink.write(event)
    elif isinstance(event, WentBack):
        sink.go_back(event.step)


def _profile(run: RunDir) -> dict[str, Any]:
    return run.profile().model_dump(mode="json")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"model": {"n_layer": 4}}`` as ``{"model.n_layer": 4}``, what is no single value as text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str | None) else str(value)
    return flat


def _verbatim(text: str) -> str:
    """Return a text as Markdown that shows it as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _first_line(error: Exception) -> str:
    """Return what an error says; its kind, where that is nothing, as wandb writes it too."""
    said = str(error).strip().removeprefix("<no message>")
    return next(iter(said.splitlines()), type(error).__name__).rstrip(".")


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Keep what trackio prints from stdout, which is data."""
    return contextlib.redirect_stdout(io.StringIO())
