"""How a run is trained in several processes: ``--nproc`` starts them here, and torchrun may have started this one.

Each process runs the same command; rank 0 alone prints. What they do together is ``train``'s business.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli.cli.common import EXIT_ERROR, import_torch, note, show_error
from gptcli.cli.training import Following, follow
from gptcli.errors import GptcliError, RunError, is_device_lost

if TYPE_CHECKING:
    from gptcli.config import RunProfile
    from gptcli.runs import RunDir
    from gptcli.shards import TokenDataset
    from gptcli.world import World

NprocOption = Annotated[
    int, typer.Option("--nproc", min=1, metavar="N", help="Train in N processes of this machine, one a GPU.")
]
RestartsOption = Annotated[
    int,
    typer.Option("--max-restarts", min=0, metavar="N", help="Where a process fails, go on from the last checkpoint."),
]


@dataclass(frozen=True, slots=True)
class Found:
    """The run that all processes train, on the tokens of this machine."""

    run: RunDir
    profile: RunProfile | None
    """On rank 0 None where it is the run's own."""
    dataset: TokenDataset


def is_worker() -> bool:
    """Say whether torchrun, or ``--nproc``, has started this process."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys()


@dataclass(frozen=True, slots=True)
class Processes:
    """In how many processes of this machine a run is trained, and how often they may begin again."""

    nproc: int
    max_restarts: int

    @property
    def several(self) -> bool:
        """Whether they are started apart from this one."""
        return self.nproc > 1 or self.max_restarts > 0


def check_alone(processes: Processes, command: str, *, budget: float | None, dry_run: bool) -> None:
    """Refuse what looks at one process where there are several, and what torchrun cannot start."""
    if (budget is not None or dry_run) and (processes.several or is_worker()):
        raise typer.BadParameter("--budget and --dry-run look at one process; leave out --nproc and --max-restarts.")
    if is_worker() and (processes.several or command != "train"):
        raise typer.BadParameter(
            "torchrun starts gptcli train, and says in how many processes; leave out --nproc and --max-restarts."
        )


def check_share(profile: RunProfile, nproc: int, device: str | None) -> None:
    """Raise ``ProfileError`` where so many processes cannot share a step, ``DeviceError`` for want of devices."""
    from gptcli.device import detect
    from gptcli.parallel import check_world_size
    from gptcli.trainer import make_setup
    from gptcli.world import check_devices

    check_world_size(profile, nproc)
    if nproc > 1 and not is_worker():
        check_devices(make_setup(profile, device).device, detect(), nproc, asked=device or profile.train.device)


def train_in(
    processes: Processes, run: RunDir, changed: RunProfile | None, how: Following, overrides: list[str]
) -> None:
    """Train a run that is there, here or in processes of their own; ``overrides`` are those that made ``changed``."""
    if not processes.several:
        follow(run, changed, how)
        return
    from gptcli.encode_processes import usable_cores
    from gptcli.launch import launch
    from gptcli.runs import run_names
    from gptcli.trainer import make_setup

    cores = usable_cores()
    if processes.nproc > cores and make_setup(run.profile(), how.device).device.type == "cpu":
        note(f"warning: {processes.nproc} processes share {cores} cores; more than one a core are slower, not faster.")
    named = run.path.parent == Path("runs") and run.name in run_names()
    command = ["train", "--resume", "--run", run.name if named else str(run.path)]
    command += [] if how.device is None else ["--device", how.device]
    command += [word for override in overrides for word in ("--set", override)]
    command += [word for name in how.log for word in ("--log", name)]
    command += [*(["--json"] if how.as_json else []), *(["--quiet"] if how.quiet else [])]
    if code := launch(command, nproc=processes.nproc, max_restarts=processes.max_restarts, say=note):
        raise typer.Exit(code)


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Find the other processes, and end this one with its body; an error is said once, by rank 0 or by who has it."""
    import_torch()
    from gptcli import world

    rank, code = os.environ.get("RANK", "0"), 0
    try:
        with world.joined() as found:
            yield found
    except typer.Exit as end:
        code = end.exit_code
    except world.PeerError:
        code = world.EXIT_REFUSED
    except GptcliError as error:
        show_error(error.message if rank == "0" else f"rank {rank}: {error.message}", error.hint)
        lost = isinstance(error.__cause__, RuntimeError) and is_device_lost(error.__cause__)
        code = EXIT_ERROR if lost else world.EXIT_REFUSED
    except RuntimeError as error:
        if not world.has_lost_another(error):
            raise
        if rank == "0":
            note(f"Another process has ended: {str(error).splitlines()[0]}")
        code = world.EXIT_LOST
    world.leave(code)


def device_here(world: World, found: Found, device: str | None) -> str | None:
    """Return the device of this process, of those that ``--device`` or the profile asks for."""
    from gptcli.trainer import make_setup
    from gptcli.world import own_device

    if world.is_alone:
        return device
    profile = found.profile or found.run.profile()
    own = own_device(world, world.together(lambda: make_setup(profile, device).device))
    return str(own) if own.type == "cuda" else device  # else it would say that it was asked for


def find_together(
    world: World,
    run: str | None,
    *,
    begin: Callable[[], tuple[RunDir, RunProfile | None]] | None,
    go_on: Callable[[], tuple[RunDir, RunProfile | None]],
    prepare: Callable[[], object],
) -> Found:
    """Return the run: rank 0 creates it (``begin``), or finds it where there is one (``go_on``), and tells the others.

    The first process of every other machine makes the tokens of a new run there, where they are missing (``prepare``).
    """
    from gptcli.config import RunProfile
    from gptcli.parallel import check_world_size
    from gptcli.run_tokens import RunTokens
    from gptcli.runs import RunDir, run_names

    found, changed = None, None
    facts: dict[str, Any] | None = None
    # An agent whose own processes have not failed does not count.
    restarted = any(world.gathered(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"))
    has_run = world.gathered(begin is not None and restarted and run in run_names())
    if world.leads:
        if begin is not None and run is None and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
            raise RunError("A run that may be restarted needs a name, to be found again by.", "Add one: --run NAME")
        if any(has_run) and not has_run[0]:
            raise RunError(
                f"The run {run!r} lies where rank {has_run.index(True)} is now, and not on the machine of rank 0.",
                "Put the folder runs/ on a disk that all machines share, or copy it to this one and use --resume.",
            )
        found, changed = go_on() if begin is None or has_run[0] else begin()
        profile = (changed or found.profile()).model_dump(mode="json")
        facts = {"path": str(found.path), "profile": profile, "tokens": found.tokens().to_json()}
    told = world.told(facts)
    assert told is not None, "rank 0 has found it"

    def open_here() -> TokenDataset:
        check_world_size(RunProfile.model_validate(told["profile"]), world.size)
        if begin is not None and not world.leads and world.local_rank == 0:
            prepare()
        return RunTokens.from_json(told["tokens"]).open()

    dataset = world.together(open_here)
    if found is not None:
        return Found(found, changed, dataset)
    return Found(RunDir(Path(told["path"])), RunProfile.model_validate(told["profile"]), dataset)
