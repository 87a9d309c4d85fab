"""The tokens that a run is trained on: written down when it begins, and found again, on this machine or another.

Knows where tokens may lie, and when they are the same; nothing else of a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from gptcli.errors import CorpusError
from gptcli.shards import DatasetManifest, TokenDataset, can_be_named, given_folder, open_dataset


@dataclass(frozen=True, slots=True)
class RunTokens:
    """What is known of a run's tokens."""

    run: str
    folder: Path
    """Where they lay when the run was created."""
    manifest: DatasetManifest
    """As it was then."""
    begin: str
    """The command that begins such a run anew."""

    def open(self) -> TokenDataset:
        """Open them; raises ``CorpusError`` when they are gone or are not the same, ``FormatError`` for damaged ones.

        The working directory comes first, so that a copied workspace uses its own tokens.
        """
        # `gptcli prepare --run` makes them in a folder that is called after the very tokenizer.
        here = Path("corpora") / self.manifest.corpus / "tokens"
        again = given_folder(self.manifest.tokenizer, self.manifest.fingerprint)
        places = [here / self.folder.name, here / again, self.folder, self.folder.parent / again]
        # os.path says no to what cannot be a path at all, where pathlib raises.
        found = [open_dataset(place) for place in places if os.path.isdir(place)]  # noqa: PTH112
        for dataset in found:
            if not list(_differences(dataset.manifest, self.manifest)):
                return dataset
        for dataset in found:
            what, now, then = next(_differences(dataset.manifest, self.manifest))
            raise CorpusError(
                f"{dataset.folder}: the tokens are not those the run {self.run!r} began with "
                f"({what} {now}, the run has {then}).",
                f"If the text is the same, type: {self._prepare_command()}   Else start a new run: {self.begin}",
            )
        raise CorpusError(
            f"The tokens of the run {self.run!r} are gone: {self.folder} does not exist.",
            f"Fetch the text again (gptcli fetch SOURCE --name {quote(self.manifest.corpus)}) and type: "
            f"{self._prepare_command()}   Without the corpus: gptcli eval {quote(self.run)} --text FILE",
        )

    def _prepare_command(self) -> str:
        """Return the command that makes these tokens again from the same text."""
        manifest = self.manifest
        if not can_be_named(manifest):
            return f"gptcli prepare {quote(manifest.corpus)} --run {quote(self.run)}"
        how = f"--split-at {manifest.split_at}" if manifest.split_at is not None else f"--split {manifest.split}"
        return f"gptcli prepare {quote(manifest.corpus)} --tokenizer {quote(manifest.tokenizer)} {how}"

    def to_json(self) -> dict[str, Any]:
        """Return it as another process can read it."""
        return {"run": self.run, "folder": str(self.folder), "manifest": self.manifest.to_json(), "begin": self.begin}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunTokens:
        """Read what ``to_json`` gave."""
        manifest = DatasetManifest.from_json(value["manifest"], "the dataset of the run")
        return cls(value["run"], Path(value["folder"]), manifest, value["begin"])


def _differences(now: DatasetManifest, then: DatasetManifest) -> Iterator[tuple[str, str, str]]:
    """Yield what differs between two manifests of what should be the same tokens."""
    for what in ("fingerprint", "corpus_sha256"):
        if getattr(now, what) != getattr(then, what):
            yield what, getattr(now, what), getattr(then, what)
    for split in ("train", "val"):
        found, expected = (
            tuple((shard.sha256, shard.mask_sha256) for shard in getattr(m, split).shards) for m in (now, then)
        )
        if found != expected:
            yield f"{split} split, cut by", now.split_reason, then.split_reason
