"""Starts the processes of one machine that train together, with torchrun's own agent, and says what becomes of them.

The agent finds a free port, restarts all processes where one has failed, and passes signals on. What the processes do
is their command's business.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from gptcli.encode_processes import usable_cores
from gptcli.world import EXIT_LOST, EXIT_REFUSED, LAUNCHER

# A large model may take this long to finish its step and be saved.
SECONDS_TO_STOP = 600
# What is left of processes of which one has failed has nothing to save.
SECONDS_TO_END = 30
# A signal of its own has stopped a process after its step: hung up, interrupted, terminated.
STOPPED = {129, 130, 143}
MONITOR_SECONDS = 0.1
Say = Callable[[str], None]


def launch(arguments: Sequence[str], *, nproc: int, max_restarts: int, say: Say) -> int:
    """Run ``python -m gptcli`` with ``arguments`` in ``nproc`` processes; returns the exit code, 0 where all did well.

    Where a process fails all are restarted, up to ``max_restarts`` times; ``say`` is told which. A signal goes to all,
    and the exit code is the shell's for it; a second one ends them at once.
    """
    _silence()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // nproc)))
    caught = [name for name in ("SIGTERM", "SIGINT", "SIGHUP") if _is_heard(name)]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(caught)
    os.environ[LAUNCHER] = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="gptcli-") as logs:
        agent = _Agent(_spec(arguments, nproc, max_restarts), logs, say)
        try:
            result = agent.run()
        except SignalException as stop:
            agent.end_at_once()
            return 128 + int(stop.sigval)
    return agent.stopped or int(result.is_failed())


def _is_heard(name: str) -> bool:
    number = getattr(signal, name, None)
    return number is not None and signal.getsignal(number) is not signal.SIG_IGN


def _silence() -> None:
    """Leave it to us to say what became of a process."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _spec(arguments: Sequence[str], nproc: int, max_restarts: int) -> WorkerSpec:
    rendezvous = RendezvousParameters(
        backend="c10d", endpoint="localhost:0", run_id=uuid.uuid4().hex, min_nodes=1, max_nodes=1, is_host="true"
    )
    return WorkerSpec(
        role="train",
        local_world_size=nproc,
        entrypoint=sys.executable,
        args=("-m", "gptcli", *(argument.replace("$", "$$") for argument in arguments)),  # torch fills in templates
        rdzv_handler=get_rendezvous_handler(rendezvous),
        max_restarts=max_restarts,
        monitor_interval=MONITOR_SECONDS,
        local_addr="localhost",
    )


class _Agent(LocalElasticAgent):
    """torchrun's agent, which also says what became of a process, and never restarts what a user has to mend."""

    def __init__(self, spec: WorkerSpec, logs: str, say: Say) -> None:
        super().__init__(spec, logs_specs=DefaultLogsSpecs(log_dir=logs))
        self._say = say
        self.stopped = 0
        """The exit code of processes that a signal of their own has stopped after a step."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            codes = {rank: failure.exitcode for rank, failure in sorted(result.failures.items())}
            stopped = STOPPED.intersection(codes.values())
            if EXIT_REFUSED in codes.values() or stopped:
                self._remaining_restarts = 0  # it has said why, and would again
                self.stopped = max(stopped, default=0)
            else:
                self._tell(codes)
        return result

    def _tell(self, codes: dict[int, int]) -> None:
        # Who has only lost another one, or was then ended by the agent, is not the cause.
        causes = {rank: code for rank, code in codes.items() if code not in (EXIT_LOST, -signal.SIGTERM)} or codes
        ends = ", ".join(f"rank {rank} {_how(code)}" for rank, code in causes.items())
        left, most = self._remaining_restarts, self._worker_group.spec.max_restarts
        if left:
            what = f"All begin again from the last checkpoint (restart {most - left + 1} of {most})."
        else:
            what = "The job has ended." if not most else f"The job has ended after {most} restarts."
        self._say(f"{ends[0].upper()}{ends[1:]}. {what}")

    def _shutdown(self, death_sig: signal.Signals | None = None, timeout: int = 0) -> None:  # noqa: ARG002 - torch's
        """End the processes; those that pass a signal on to them give them time to finish a step and to save."""
        if self._pcontext is not None:
            patience = SECONDS_TO_END if death_sig is None else SECONDS_TO_STOP
            self._pcontext.close(death_sig or signal.SIGTERM, patience)

    def end_at_once(self) -> None:
        """End what is still there of the processes."""
        self._shutdown(signal.SIGKILL)


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
