"""Where the processes of a job find each other, also after some or all of them have begun again.

torchrun's store outlives the processes that it restarts, and what the dead ones left there would be taken for that of
the living: gloo then waits for ever for a connection to nobody. So each process brings a word of its own, and those
whose words stand together on rank 0's list go on below a name that no earlier ones had.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gptcli.errors import RunError

PAUSE_SECONDS = 0.02


def meet(patience: timedelta) -> tuple[Store, int, int]:
    """Return a store for these processes alone, this one's rank, and their number, once all of them are there.

    ``RunError`` where some have not come within ``patience``.
    """
    store, rank, size = next(rendezvous("env://", timeout=patience))
    deadline = time.monotonic() + patience.total_seconds()
    words = [""] * size
    words[rank] = uuid.uuid4().hex
    store.set(f"gptcli/word/{rank}", words[rank])
    while True:
        # Rank 0 reads what the others brought, which may be of dead ones, until those that are there agree.
        words = _read(store, size) if rank == 0 else _listed(store, words, rank)
        name = hashlib.sha256(json.dumps(words).encode()).hexdigest()
        if rank == 0:
            store.set("gptcli/list", json.dumps(words))
        if all(words):
            store.set(f"gptcli/{name}/{rank}", "here")
            if store.check([f"gptcli/{name}/{other}" for other in range(size)]):
                return PrefixStore(name, store), rank, size
        if time.monotonic() > deadline:
            missing = [str(other) for other in range(size) if not store.check([f"gptcli/{name}/{other}"])]
            raise RunError(
                f"{size} processes were to train together, and rank {', '.join(missing)} has not come.",
                "Look at what those said, and begin again on every machine.",
            )
        time.sleep(PAUSE_SECONDS)


def _read(store: Store, size: int) -> list[str]:
    """Return the words that the processes brought, "" for those that have brought none."""
    keys = [f"gptcli/word/{rank}" for rank in range(size)]
    return [store.get(key).decode() if store.check([key]) else "" for key in keys]


def _listed(store: Store, words: list[str], rank: int) -> list[str]:
    """Return rank 0's list where it has this process's word, else this process's word alone."""
    if store.check(["gptcli/list"]):
        listed: list[str] = json.loads(store.get("gptcli/list"))
        if len(listed) == len(words) and listed[rank] == words[rank]:
            return listed
    return ["" if other != rank else word for other, word in enumerate(words)]
