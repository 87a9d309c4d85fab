"""Token files: the exact bytes, reads over their borders, and everything that may be wrong with one."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli import batches, shards
from gptcli.batches import BatchStream, eval_batches
from gptcli.chat_template import ChatTemplate
from gptcli.errors import CorpusError, FormatError
from gptcli.files import sha256_file, write_json
from gptcli.shard_writer import ShardWriter
from gptcli.shards import (
    ArrayTokens,
    Conversations,
    DatasetManifest,
    DtypeName,
    SplitSummary,
    TokenReader,
    dtype_for,
    open_dataset,
    read_manifest,
    remake_hint,
)
from gptcli.tokenizer import char_tokenizer, save_tokenizer

TEXT = "Alas, poor Yorick! I knew him, Horatio: a fellow of infinite jest."


def write(folder: Path, ids: npt.NDArray[Any], dtype: DtypeName = "uint16", shard_tokens: int = 1000) -> ShardWriter:
    with ShardWriter(folder, "train", dtype, shard_tokens=shard_tokens) as writer:
        writer.write(ids)
    return writer


def make_dataset(folder: Path) -> Path:
    """Write a whole folder of tokens, as ``prepare`` leaves it, with train in several shards."""
    tokenizer = char_tokenizer([TEXT], end_of_text=False)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = dtype_for(tokenizer.vocab_size)
    with ShardWriter(folder, "train", dtype, shard_tokens=25) as train, ShardWriter(folder, "val", dtype) as val:
        train.write(tokenizer.encode(TEXT))
        val.write(tokenizer.encode("a fellow"))
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    manifest = DatasetManifest(
        corpus="hamlet",
        corpus_sha256="0" * 64,
        licence="public domain",
        tokenizer="char",
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        split="paragraph",
        split_reason="a one-document corpus is split at a paragraph near 90 %",
        val_fraction=0.1,
        split_at=None,
        duplicates_removed=0,
        created_at="2026-11-20T12:00:00+00:00",
        train=SplitSummary(train.tokens, len(TEXT), 1, train.shards),
        val=SplitSummary(val.tokens, 8, 1, val.shards),
    )
    write_json(folder / "manifest.json", manifest.to_json())
    return folder


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "checksum": None, **changes}), "utf-8")


def test_two_byte_tokens_have_exactly_the_bytes_that_llm_c_reads(tmp_path: Path) -> None:
    writer = write(tmp_path, np.array([1, 258, 65535]))
    expected = struct.pack("<3i", 20240520, 1, 3) + bytes(4 * 253) + b"\x01\x00\x02\x01\xff\xff"
    assert (tmp_path / "train-00000.bin").read_bytes() == expected
    assert [(shard.name, shard.tokens) for shard in writer.shards] == [("train-00000.bin", 3)]
    assert writer.shards[0].sha256 == sha256_file(tmp_path / "train-00000.bin")


def test_four_byte_tokens_have_exactly_the_bytes_of_llm_c_s_llama_3_files(tmp_path: Path) -> None:
    write(tmp_path, np.array([1, 65536]), "uint32")
    expected = struct.pack("<3i", 20240801, 7, 2) + bytes(4 * 253) + b"\x01\x00\x00\x00\x00\x00\x01\x00"
    assert (tmp_path / "train-00000.bin").read_bytes() == expected


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_dtype_is_the_smallest_that_holds_the_vocabulary(vocab_size: int, dtype: str) -> None:
    assert dtype_for(vocab_size) == dtype


@pytest.mark.parametrize(("ids", "named"), [([1, 65536], "65536"), ([-1, 5], "-1")])
def test_an_id_that_would_wrap_around_is_refused(tmp_path: Path, ids: list[int], named: str) -> None:
    with (
        pytest.raises(FormatError, match=rf"Token id {named} does not fit into uint16"),
        ShardWriter(tmp_path, "train", "uint16") as writer,
    ):
        writer.write(np.array(ids))


@settings(deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), shard_tokens=st.integers(1, 30))
def test_any_read_over_shard_borders_gives_the_tokens_as_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sizes: list[int], shard_tokens: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    ids = np.arange(sum(sizes)) * 7 % 65536
    with ShardWriter(folder, "val", "uint16", shard_tokens=shard_tokens) as writer:
        for piece in np.split(ids, np.cumsum(sizes)[:-1]):
            writer.write(piece)
    assert len(writer.shards) == -(-ids.size // shard_tokens)
    tokens = TokenReader(folder, writer.shards, "uint16")
    assert len(tokens) == writer.tokens == ids.size
    start = data.draw(st.integers(0, ids.size))
    count = data.draw(st.integers(0, ids.size - start))
    read = tokens.read(start, count)
    assert read.dtype == np.uint16
    assert read.tolist() == ids[start : start + count].tolist()


def test_tokens_in_memory_read_as_those_on_disk_do(tmp_path: Path) -> None:
    ids = np.arange(50, dtype=np.uint16)
    on_disk = TokenReader(tmp_path, write(tmp_path, ids, shard_tokens=7).shards, "uint16")
    in_memory = ArrayTokens(ids)
    assert (len(in_memory), in_memory.nbytes) == (len(on_disk), on_disk.nbytes) == (50, 100)
    assert in_memory.read(5, 30).tolist() == on_disk.read(5, 30).tolist()
    assert in_memory.read(50, 0).tolist() == on_disk.read(50, 0).tolist() == []


@settings(deadline=None)
@given(data=st.data())
def test_any_flipped_byte_of_a_small_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    writer = write(folder, np.arange(20))
    path = folder / "train-00000.bin"
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"train-00000\.bin: the token file"):
        TokenReader(folder, writer.shards, "uint16")


@pytest.mark.parametrize(
    ("offset", "problem"),
    [(0, "magic number"), (4, "version 0, the manifest needs 1"), (8, "token count 21"), (1023, "header is damaged")],
)
def test_a_flipped_byte_in_the_header_is_named(
    tmp_path: Path, offset: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = write(tmp_path, np.arange(20))
    path = tmp_path / "train-00000.bin"
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("gptcli.shards.SMALL_BYTES", 0)  # so that the header check stands alone
    with pytest.raises(FormatError, match=problem):
        TokenReader(tmp_path, writer.shards, "uint16")


@pytest.mark.parametrize(("size", "problem"), [(100, "ends inside its header"), (1030, "1,030 bytes"), (1100, "1,100")])
def test_a_truncated_or_grown_file_is_refused(tmp_path: Path, size: int, problem: str) -> None:
    writer = write(tmp_path, np.arange(20))
    path = tmp_path / "train-00000.bin"
    path.write_bytes((path.read_bytes() + bytes(100))[:size])
    with pytest.raises(FormatError, match=problem):
        TokenReader(tmp_path, writer.shards, "uint16")


def test_a_file_of_the_other_dtype_is_refused(tmp_path: Path) -> None:
    writer = write(tmp_path, np.arange(20))
    with pytest.raises(FormatError, match="magic number 20240520, the manifest needs 20240801"):
        TokenReader(tmp_path, writer.shards, "uint32")


def test_a_writer_that_fails_closes_its_file_and_lists_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", "uint16")
    with pytest.raises(FormatError), writer:  # noqa: PT012 - the first write opens the file
        writer.write(np.array([1, 2]))
        writer.write(np.array([-1]))
    assert writer.shards == ()
    (tmp_path / "train-00000.bin").unlink()  # Windows refuses this while a file is open


def test_a_dataset_opens_with_its_tokens_and_tokenizer(tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path / "tokens"))
    assert dataset.tokenizer().decode(dataset.train.read(0, len(dataset.train)).tolist()) == TEXT
    assert len(dataset.val) == dataset.manifest.val.tokens == 8
    assert len(dataset.manifest.train.shards) == 3


def test_a_manifest_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    manifest = read_manifest(make_dataset(tmp_path / "tokens"))
    assert DatasetManifest.from_json(json.loads(json.dumps(manifest.to_json())), "here") == manifest


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"vocab_size": "65"}, "damaged at 'vocab_size'"),
        ({"vocab_size": 10**9}, "damaged at 'vocab_size'"),
        ({"corpus": "../../../../etc"}, "damaged at 'corpus'"),
        ({"corpus": "/etc"}, "damaged at 'corpus'"),
        ({"corpus": ".."}, "damaged at 'corpus'"),
        ({"tokenizer": "../x"}, "damaged at 'tokenizer'"),
        ({"fingerprint": "../../x"}, "damaged at 'fingerprint'"),
        ({"corpus": "a" * 5000}, "damaged at 'corpus'"),
        ({"dtype": "float32"}, "damaged at 'dtype'"),
        ({"split": "random"}, "damaged at 'split'"),
        ({"val": None}, "damaged at 'val'"),
        ({"ngrams": {"bytes": 10**9, "sha256": "0" * 64}}, r"damaged at 'ngrams\.bytes'"),
        ({"ngrams": {"bytes": 10, "sha256": "../x"}}, r"damaged at 'ngrams\.sha256'"),
        ({"train": {"tokens": -1, "bytes": 1, "documents": 1, "shards": []}}, r"damaged at 'train\.tokens'"),
        ({"train": {"tokens": 9, "bytes": 1, "documents": 1, "shards": []}}, "train has 9 tokens, its shards 0"),
        (
            {"val": {"tokens": 1, "bytes": 1, "documents": 1,
                     "shards": [{"name": "../val-00000.bin", "tokens": 1, "sha256": "0" * 64}]}},
            r"damaged at 'val\.shards\.0\.name'",
        ),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused_with_the_field(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    folder = make_dataset(tmp_path / "tokens")
    edit_manifest(folder, **changes)
    with pytest.raises(FormatError, match=problem):
        open_dataset(folder)


def test_a_missing_shard_is_refused_with_the_command_that_makes_it_again(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "tokens")
    (folder / "train-00001.bin").unlink()
    with pytest.raises(FormatError, match="cannot be read") as caught:
        open_dataset(folder)
    assert caught.value.hint.startswith("gptcli prepare hamlet --tokenizer char --force")


def put_an_id_into(path: Path, token_id: int, manifest: Path) -> None:
    """Change the last token of a shard, and the manifest so that it agrees."""
    content = path.read_bytes()
    path.write_bytes(content[:-2] + token_id.to_bytes(2, "little"))
    manifest.write_text(
        re.sub('"checksum": "[^"]*"', '"checksum": null', manifest.read_text("utf-8")).replace(
            sha256(content).hexdigest(), sha256(path.read_bytes()).hexdigest()
        ),
        "utf-8",
    )


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00002.bin", "val-00000.bin"])
def test_an_id_outside_of_the_vocabulary_is_refused_with_its_shard(tmp_path: Path, name: str) -> None:
    folder = make_dataset(tmp_path / "tokens")
    vocab_size = read_manifest(folder).vocab_size
    put_an_id_into(folder / name, vocab_size - 1, folder / "manifest.json")
    open_dataset(folder)
    put_an_id_into(folder / name, vocab_size, folder / "manifest.json")
    with pytest.raises(FormatError, match=rf"{name}: .* id {vocab_size} of {vocab_size} was found") as caught:
        open_dataset(folder)
    assert caught.value.hint.startswith("gptcli prepare hamlet --tokenizer char --force")


def test_an_id_outside_of_the_vocabulary_of_a_large_split_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = write(tmp_path, np.array([3, 1, 4, 1, 5, 9, 2, 6]), shard_tokens=4)
    monkeypatch.setattr(shards, "SMALL_BYTES", 15)
    reader = TokenReader(tmp_path, writer.shards, "uint16", vocab_size=9)
    assert reader.read(0, 5).tolist() == [3, 1, 4, 1, 5]
    assert reader.read(8, 0).size == 0
    for start, count in ((0, 8), (5, 1), (4, 4)):
        with pytest.raises(FormatError, match=r"train-0000[01]\.bin: .* id 9 of 9 was found") as caught:
            reader.read(start, count)
        assert "gptcli prepare" in caught.value.hint
    monkeypatch.setattr(batches, "SMALL_BYTES", 15)
    stream = BatchStream(reader, block_size=3, batch_size=4, seed=1)
    with pytest.raises(FormatError, match="id 9 of 9"):
        stream.next_batch()
    with pytest.raises(FormatError, match="id 9 of 9"):
        list(eval_batches(reader, block_size=3, batch_size=2))


def test_a_vocabulary_that_is_not_the_tokenizer_s_is_refused(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "tokens")
    n = read_manifest(folder).vocab_size
    edit_manifest(folder, vocab_size=n + 1)
    with pytest.raises(FormatError, match=f"vocab_size is {n}, but the tokens were made with {n + 1}"):
        open_dataset(folder).tokenizer()


def test_commands_quote_what_a_manifest_says(tmp_path: Path) -> None:
    manifest = replace(read_manifest(make_dataset(tmp_path)), corpus="book; touch x", tokenizer="char$(y)")
    assert remake_hint(manifest).startswith("gptcli prepare 'book; touch x' --tokenizer 'char$(y)' --force")


def test_a_folder_without_tokens_is_a_corpus_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no tokens") as caught:
        open_dataset(tmp_path)
    assert "gptcli prepare" in caught.value.hint


def test_a_tokenizer_that_is_not_the_manifest_s_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "tokens")
    other = char_tokenizer(["something else"], end_of_text=False)
    save_tokenizer(other, folder / "tokenizer.json")
    dataset = open_dataset(folder)
    with pytest.raises(FormatError) as caught:
        dataset.tokenizer()
    assert other.fingerprint in caught.value.message
    assert dataset.manifest.fingerprint in caught.value.message


def make_masked(folder: Path) -> Path:
    """A folder of tokens with masks: every third token of train is scored."""
    make_dataset(folder)
    tokenizer = char_tokenizer([TEXT], end_of_text=False)
    manifest = read_manifest(folder)
    ids = tokenizer.encode(TEXT)
    with (
        ShardWriter(folder, "train", "uint16", shard_tokens=25, masked=True) as train,
        ShardWriter(folder, "val", "uint16", masked=True) as val,
    ):
        train.write(ids[:40], np.arange(40) % 3 == 0)
        train.write(ids[40:])
        val.write(tokenizer.encode("a fellow"))
    found = Conversations(2, 3, train.scored_tokens, 30, 32, 34)
    manifest = replace(
        manifest,
        chat=ChatTemplate(user_start="Q: "),
        given_tokenizer=True,
        train=replace(manifest.train, shards=train.shards, conversations=found),
        val=replace(manifest.val, shards=val.shards, conversations=found),
    )
    write_json(folder / "manifest.json", manifest.to_json())
    return folder


def test_what_is_scored_is_read_over_shard_borders(tmp_path: Path) -> None:
    dataset = open_dataset(make_masked(tmp_path))
    expected = [*(np.arange(40) % 3 == 0).tolist(), *([True] * (len(TEXT) - 40))]
    for start, count in ((0, len(TEXT)), (20, 30), (25, 25), (len(TEXT), 0)):
        mask = dataset.train.scored(start, count)
        assert mask is not None
        assert mask.dtype == np.bool_
        assert mask.tolist() == expected[start : start + count]
    assert (tmp_path / "train-00000.mask").read_bytes() == bytes(expected[:25])
    assert dataset.manifest.train.conversations is not None
    assert dataset.manifest.train.conversations.scored_tokens == sum(expected)


def test_the_manifest_of_conversations_survives_its_file_and_an_ordinary_one_says_nothing_of_them(
    tmp_path: Path,
) -> None:
    manifest = read_manifest(make_masked(tmp_path / "chat"))
    assert manifest.chat == ChatTemplate(user_start="Q: ")
    assert manifest.given_tokenizer
    ordinary = json.loads((make_dataset(tmp_path / "plain") / "manifest.json").read_text("utf-8"))
    assert set(ordinary["train"]) == {"tokens", "bytes", "documents", "shards"}
    assert set(ordinary["train"]["shards"][0]) == {"name", "tokens", "sha256"}
    assert ordinary.keys().isdisjoint({"chat", "given_tokenizer"})
    dataset = open_dataset(tmp_path / "plain")
    assert dataset.train.scored(0, 5) is None
    assert ArrayTokens(np.arange(5, dtype=np.uint16)).scored(0, 5) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x01" * 25, "its sha256 is not the one in the manifest"),
        (b"\x01", "has 1 bytes, one for each of 25 tokens is needed"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_mask_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    make_masked(tmp_path)
    path = tmp_path / "train-00000.mask"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FormatError, match=problem) as caught:
        open_dataset(tmp_path)
    assert caught.value.hint == "gptcli prepare hamlet --run RUN --force makes the tokens again."


def test_conversations_without_a_mask_are_refused(tmp_path: Path) -> None:
    edit_manifest(make_dataset(tmp_path), chat=asdict(ChatTemplate()))
    with pytest.raises(FormatError, match="a mask beside each shard of train"):
        read_manifest(tmp_path)


def test_tokens_are_made_again_by_name_where_a_name_says_which_tokenizer(tmp_path: Path) -> None:
    manifest = read_manifest(make_dataset(tmp_path))
    assert "--tokenizer char" in remake_hint(manifest)
    assert "--run RUN" in remake_hint(replace(manifest, given_tokenizer=True))
    assert "--tokenizer gpt2" in remake_hint(replace(manifest, tokenizer="gpt2", given_tokenizer=True))
