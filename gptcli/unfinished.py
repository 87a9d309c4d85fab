"""What a prepare that was ended leaves to the next one of the same order: a journal in the folder of its tokens.

The survey's findings are noted once, then after each whole shard what was written by then. The journal is replaced at
once and names the SHA-256 of every file it speaks of, so nothing half-written is ever gone on with.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from gptcli.copies.index import IndexWriter
from gptcli.encode import SplitTotals, Totals, no_totals
from gptcli.errors import FormatError
from gptcli.files import read_json, sha256_file, write_json
from gptcli.shard_writer import Begun
from gptcli.shards import TOKENIZER_NAME, Shard, SplitName
from gptcli.split import SplitPlan
from gptcli.survey import Ints
from gptcli.tokenizer import Tokenizer, load_tokenizer, save_tokenizer

FORMAT_VERSION = 1
JOURNAL = "journal.json"
PLAN = "plan.npz"
WHAT = "the journal of a prepare"
_IN_PLAN = ("sides", "lengths")
# A journal that somebody sent must not lead out of its folder.
_PLAIN = re.compile(r"[a-z]+(-[0-9]+)?\.(npz|bin|mask)")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the tokens of an order are: ``stretch`` is the next one to be encoded."""

    plan: SplitPlan
    begins: Ints
    tokenizer: Tokenizer
    stretch: int = 0
    begun: Mapping[SplitName, Begun] = field(default_factory=lambda: {"train": Begun(), "val": Begun()})
    totals: Totals = field(default_factory=no_totals)
    index: IndexWriter = field(default_factory=IndexWriter)

    def said(self, verb: str = "Going on") -> str:
        """Return the sentence that says after which shard this goes on."""
        done = [f"shard {len(begun.shards)} of {split}" for split, begun in self.begun.items() if begun.shards]
        return f"{verb} after {' and '.join(done) or 'the survey of the text'}."


def is_of(folder: Path, order: Mapping[str, Any]) -> bool:
    """Say whether a folder has the journal of this order, and no link through which something else were written."""
    if folder.is_symlink() or any(path.is_symlink() for path in folder.glob("*")):
        return False
    with contextlib.suppress(FormatError):
        return bool(read_json(folder / JOURNAL, format_version=FORMAT_VERSION, what=WHAT)["order"] == order)
    return False


def write_survey(folder: Path, order: Mapping[str, Any], progress: Progress) -> None:
    """Begin the journal of an order with what is known before the first token."""
    plan = progress.plan
    with (folder / PLAN).open("wb") as file:
        np.savez(
            file,
            sides=np.frombuffer(plan.sides, np.uint8),
            lengths=np.array(list(plan.lengths.items()), np.int64).reshape(-1, 2),
            begins=progress.begins,
        )
    save_tokenizer(progress.tokenizer, folder / TOKENIZER_NAME)
    write_progress(folder, order, progress)


def write_progress(folder: Path, order: Mapping[str, Any], progress: Progress) -> None:
    """Note what has been written by now; the journal of before holds until then."""
    index = folder / f"index-{progress.stretch}.npz"
    progress.index.put_down(index)
    kept = {PLAN: sha256_file(folder / PLAN), index.name: sha256_file(index)}
    plan = {key: value for key, value in asdict(replace(progress.plan, sides=b"")).items() if key not in _IN_PLAN}
    totals = {split: {**asdict(total), "lengths": list(total.lengths)} for split, total in progress.totals.items()}
    value = {
        "format_version": FORMAT_VERSION,
        "order": dict(order),
        "files": kept,
        "plan": plan,
        "stretch": progress.stretch,
        "begun": {split: asdict(begun) for split, begun in progress.begun.items()},
        "totals": totals,
    }
    write_json(folder / JOURNAL, value)
    for path in _indexes(folder):
        if path != index:
            path.unlink()


def read_progress(folder: Path) -> Progress | None:
    """Return how far a folder is; None where there is no journal or a file is not what the journal says."""
    with contextlib.suppress(FormatError, OSError, ValueError, TypeError, KeyError):
        value = read_json(folder / JOURNAL, format_version=FORMAT_VERSION, what=WHAT)
        opened = [name for begun in value["begun"].values() for name, _, _ in begun["open"]]
        if not all(_PLAIN.fullmatch(name) for name in (*value["files"], *opened)):
            return None
        if any(sha256_file(folder / name) != digest for name, digest in value["files"].items()):
            return None
        with np.load(folder / PLAN, allow_pickle=False) as known:
            sides, lengths, begins = known["sides"].tobytes(), known["lengths"].tolist(), known["begins"]
        (index,) = (name for name in value["files"] if name != PLAN)
        begun = {split: _begun(value["begun"][split]) for split in get_args(SplitName)}
        if not all(part.is_in(folder) for part in begun.values()):
            return None
        return Progress(
            SplitPlan(**value["plan"], sides=sides, lengths=dict(lengths)),
            begins,
            load_tokenizer(folder / TOKENIZER_NAME),
            value["stretch"],
            begun,
            {split: _total(value["totals"][split]) for split in get_args(SplitName)},
            IndexWriter.take_up(folder / index),
        )
    return None


def forget(folder: Path) -> None:
    """Remove the journal and what it alone needs."""
    for path in (folder / JOURNAL, folder / PLAN, *_indexes(folder), *folder.glob(".*.tmp")):
        path.unlink(missing_ok=True)


def _indexes(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("index-*.npz"))


def _begun(value: dict[str, Any]) -> Begun:
    shards = tuple(Shard(**shard) for shard in value["shards"])
    return Begun(**{**value, "shards": shards, "open": tuple(map(tuple, value["open"]))})


def _total(value: dict[str, Any]) -> SplitTotals:
    return SplitTotals(**{**value, "lengths": array("q", value["lengths"])})
