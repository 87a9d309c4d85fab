"""Archives that are a few megabytes on disk and gigabytes in memory, or that show two programs two contents."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcli.bases.nanogpt import MAX_PICKLE, open_nanogpt
from gptcli.bases.nanogpt_meta import meta_pickle
from gptcli.errors import FormatError
from tests.bases.nanogpt_recipe import nanogpt_checkpoint

ALPHABET = tuple(" abcdefghijklmno")
MARKS = b"\x80\x02" + b"(" * (MAX_PICKLE - 1)
Change = Callable[[str, bytes], bytes]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(nanogpt_checkpoint(len(ALPHABET)), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(meta_pickle(ALPHABET))
    return tmp_path / "ckpt.pt"


def pack(path: Path, change: Change, compression: int = zipfile.ZIP_STORED) -> None:
    """Write the archive again with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def refused(path: Path) -> str:
    """Return why the file is refused, after making sure that next to no memory went into it."""
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"ckpt\.pt is not a checkpoint of nanoGPT: torch\.save did not") as caught:
        open_nanogpt(path)
    assert tracemalloc.get_traced_memory()[1] < MAX_PICKLE / 4
    tracemalloc.stop()
    assert "ckpt.pt that nanoGPT's train.py writes" in caught.value.hint
    return caught.value.message


def test_what_torch_saved_is_opened(checkpoint: Path) -> None:
    assert open_nanogpt(checkpoint).config.vocab_size == len(ALPHABET)


def test_compressed_pickle_is_refused_before_it_is_unpacked(checkpoint: Path) -> None:
    pack(checkpoint, lambda name, content: MARKS if name.endswith("data.pkl") else content, zipfile.ZIP_DEFLATED)
    assert checkpoint.stat().st_size < MAX_PICKLE / 50
    assert "'ckpt/data.pkl' in it is compressed" in refused(checkpoint)


def test_pickle_larger_than_any_models_is_refused(checkpoint: Path) -> None:
    pack(checkpoint, lambda name, content: MARKS if name.endswith("data.pkl") else content)
    assert "data.pkl in it has 8,388,609 bytes, more than 8,388,608" in refused(checkpoint)


def test_members_that_are_more_than_the_file_are_refused(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(b"ckpt/data/0"))
    checkpoint.write_bytes(content[: at + 20] + (2**31).to_bytes(4, "little") * 2 + content[at + 28 :])
    assert "its table of contents is not that of the file" in refused(checkpoint)


def test_archive_behind_another_one_is_refused(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-22] + content)
    assert "its table of contents is not that of the file" in refused(checkpoint)
