"""What a prepare that was ended leaves to the next one of the same order: a journal in the folder of its tokens.

The survey's findings are noted once, then after each whole shard what was written by then. The journal is replaced at
once and names the SHA-256 of every file it speaks of, so nothing half-written is ever gone on with.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
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
    if folder.is_symlink() or any(path.is_symlink() or not path.is_file() for path in folder.glob("*")):
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
    index, lengths = (folder / f"{name}-{progress.stretch}.npz" for name in ("index", "lengths"))
    progress.index.put_down(index)
    with lengths.open("wb") as file:
        train, val = (np.array(progress.totals[split].lengths, np.int64) for split in get_args(SplitName))
        np.savez(file, train=train, val=val)
    value = {
        "format_version": FORMAT_VERSION,
        "order": dict(order),
        "files": {name: sha256_file(folder / name) for name in (PLAN, index.name, lengths.name)},
        "plan": _plain(progress.plan, "sides", "lengths"),
        "stretch": progress.stretch,
        "begun": {split: asdict(begun) for split, begun in progress.begun.items()},
        "totals": {split: _plain(total, "lengths") for split, total in progress.totals.items()},
    }
    write_json(folder / JOURNAL, value)
    for path in _numbered(folder):
        if path not in (index, lengths):
            path.unlink()


def read_progress(folder: Path) -> Progress | None:
    """Return how far a folder is; None where there is no journal or a file is not what the journal says."""
    with contextlib.suppress(FormatError, OSError, ValueError, TypeError, KeyError):
        value = read_json(folder / JOURNAL, format_version=FORMAT_VERSION, what=WHAT)
        written = [name for begun in value["begun"].values() for name, _, _ in begun["open"]]
        written += [shard["name"] for begun in value["begun"].values() for shard in begun["shards"]]
        if not all(_PLAIN.fullmatch(name) for name in (*value["files"], *written)):
            return None
        if any(sha256_file(folder / name) != digest for name, digest in value["files"].items()):
            return None
        with np.load(folder / PLAN, allow_pickle=False) as known:
            sides, lengths, begins = known["sides"].tobytes(), known["lengths"].tolist(), known["begins"]
        _, index, of_talks = value["files"]
        begun = {split: _begun(value["begun"][split]) for split in get_args(SplitName)}
        if not all(part.is_in(folder) for part in begun.values()):
            return None
        return Progress(
            SplitPlan(**value["plan"], sides=sides, lengths=dict(lengths)),
            begins,
            load_tokenizer(folder / TOKENIZER_NAME),
            value["stretch"],
            begun,
            _totals(value["totals"], folder / of_talks),
            IndexWriter.take_up(folder / index),
        )
    return None


def forget(folder: Path) -> None:
    """Remove the journal and what it alone needs."""
    for path in (folder / JOURNAL, folder / PLAN, *_numbered(folder), *folder.glob(".*.tmp")):
        path.unlink(missing_ok=True)


def _numbered(folder: Path) -> Iterator[Path]:
    for name in ("index", "lengths"):
        yield from folder.glob(f"{name}-*.npz")


def _plain(value: SplitPlan | SplitTotals, *but: str) -> dict[str, Any]:
    """Return the fields of a value but some, which may be large: ``asdict`` would copy them first."""
    return {one.name: getattr(value, one.name) for one in fields(value) if one.name not in but}


def _begun(value: dict[str, Any]) -> Begun:
    shards = tuple(Shard(**shard) for shard in value["shards"])
    return Begun(**{**value, "shards": shards, "open": tuple(map(tuple, value["open"]))})


def _totals(values: dict[str, dict[str, Any]], lengths: Path) -> Totals:
    with np.load(lengths, allow_pickle=False) as known:
        of = {split: array("q", known[split].astype(np.int64).tobytes()) for split in get_args(SplitName)}
    return {split: SplitTotals(**values[split], lengths=of[split]) for split in get_args(SplitName)}
