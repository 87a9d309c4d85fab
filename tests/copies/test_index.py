"""The index is small whatever the text is, the same however the text arrives, and no file breaks its reader."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from gptcli.copies import index as index_module
from gptcli.copies.grams import CYCLE, MAX_RATE, full_rate, pattern
from gptcli.copies.index import HEADER, IndexWriter, NgramIndex, NgramsFile, job_grams, parse_ngrams, read_ngrams
from gptcli.errors import FormatError

MakeIndex = Callable[..., NgramIndex]


def write(folder: Path, pieces: list[list[tuple[str, str | None]]], size: int) -> bytes:
    """Write the index of pieces that arrive in jobs."""
    writer = IndexWriter()
    for job in pieces:
        writer.add(job_grams(job))
    assert writer.write(folder / "index", size) is not None
    return (folder / "index").read_bytes()


def chinese(characters: int, seed: int = 0) -> str:
    """Characters as frequent as by Zipf's law."""
    rng = random.Random(seed)
    weights = [1 / (rank + 10) for rank in range(3000)]
    return "".join(rng.choices([chr(0x4E00 + rank) for rank in range(3000)], weights, k=characters))


def texts_of_kind(kind: str, prose: list[str]) -> list[str]:
    whole = "\n".join(prose)
    if kind == "chinese":
        return [chinese(2000, seed) for seed in range(50)]
    if kind == "code":
        return [path.read_text("utf-8") for path in sorted(Path(random.__file__).parent.glob("a*.py"))]
    if kind == "tiny documents":
        return [whole[start : start + 60] for start in range(0, len(whole), 60)]
    if kind == "a few kilobytes":
        return [whole[:5000]]
    if kind == "symbols":
        return ["a + b = c\n" * 5000]
    return prose


@pytest.mark.parametrize("kind", ["english", "chinese", "code", "tiny documents", "a few kilobytes", "symbols"])
@pytest.mark.parametrize("titled", [True, False])
def test_the_index_is_under_2_percent_of_the_corpus(
    kind: str, titled: bool, prose: list[str], make_index: MakeIndex
) -> None:
    texts = texts_of_kind(kind, prose)
    index = make_index(texts, [f"The title of text {number}" if titled else "" for number in range(len(texts))])
    assert index.documents == len(texts)
    bits = 8 * index.stream.size
    used = bits / (8 * sum(len(text.encode()) for text in texts))
    assert used > 0.01, "what there is room for is used"


@pytest.mark.parametrize("text", ["", "two words", "A sentence of a few words is too little for an index."])
def test_next_to_no_text_has_no_index(text: str, tmp_path: Path) -> None:
    writer = IndexWriter()
    writer.add(job_grams([(text, "")]))
    assert writer.write(tmp_path / "index", len(text)) is None
    assert not (tmp_path / "index").exists()


def test_how_the_text_arrives_changes_no_byte(prose: list[str], tmp_path: Path) -> None:
    texts = ["", *prose[:20], "one", "two words", "", prose[20]]
    size = sum(len(text) for text in texts)
    whole: list[tuple[str, str | None]] = [(text, f"t{number}") for number, text in enumerate(texts)]
    expected = write(tmp_path, [whole], size)
    assert write(tmp_path, [[piece] for piece in whole], size) == expected
    rng = random.Random(1)
    jobs: list[list[tuple[str, str | None]]] = []
    for text, title in whole:
        at, name = 0, title
        while at < len(text) or name is not None:
            space = text.find(" ", at + rng.randrange(1, 300))
            end = space if space > 0 else len(text)
            jobs.append([(text[at:end], name)])
            at, name = end, None
    assert write(tmp_path, jobs, size) == expected


@pytest.mark.parametrize("titled", [True, False])
def test_a_writer_that_is_put_down_after_every_job_writes_the_same_index(
    prose: list[str], tmp_path: Path, titled: bool
) -> None:
    jobs: list[list[tuple[str, str | None]]] = [
        [(text, f"tïtle {n}" if titled else "")] for n, text in enumerate(prose)
    ]
    jobs[7:7] = [[("", "")], [(" that goes on", None)]]
    size = sum(len(text) for text in prose)
    expected = write(tmp_path, jobs, size)
    IndexWriter().put_down(tmp_path / "writer")
    for job in jobs:
        writer = IndexWriter.take_up(tmp_path / "writer")
        writer.add(job_grams(job))
        writer.put_down(tmp_path / "writer")
    IndexWriter.take_up(tmp_path / "writer").write(tmp_path / "index", size)
    assert (tmp_path / "index").read_bytes() == expected


def test_documents_are_counted_and_named(make_index: MakeIndex, prose: list[str]) -> None:
    texts = [*prose[:10], "No more than five words.", "", prose[11]]
    index = make_index(texts, [f"Title\n{number} " + "x" * 100 for number in range(len(texts))])
    assert index.titles == [(f"Title {number} " + "x" * 100)[:80] for number in range(len(texts))]
    sizes = np.diff(index.ends, prepend=0).tolist()
    assert sizes[10:12] == [5, 0]
    assert index.words == sum(sizes)


def test_a_stream_thinned_on_the_way_is_the_one_that_was_not(
    prose: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(prose)
    jobs: list[list[tuple[str, str | None]]] = [
        [(text[start : start + 9000], None)] for start in range(0, len(text), 9000)
    ]
    monkeypatch.setattr(index_module, "MAX_STREAM", 1500)
    once = write(tmp_path, [[(text, None)]], len(text))
    writer = IndexWriter()
    held = 0
    for job in jobs:
        writer.add(job_grams(job))
        held = max(held, len(writer._stream))
    assert held <= 3000, "memory does not grow with the text"
    assert writer.write(tmp_path / "index", len(text)) is not None
    assert parse_ngrams(once, "index").stream.size <= 1500
    monkeypatch.setattr(index_module, "MAX_STREAM", 1 << 25)
    rate = parse_ngrams(once, "index").rate
    full = IndexWriter()
    full.add(job_grams([(text, None)]))
    stream = np.unpackbits(parse_ngrams(write(tmp_path, [[(text, None)]], 100 * len(text)), "index").stream)
    cycles = stream[: full.words // CYCLE * MAX_RATE].reshape(-1, MAX_RATE)
    kept = pattern(rate)
    expected = cycles[:, kept.words * 2 + kept.bits].ravel()
    assert np.unpackbits(parse_ngrams(once, "index").stream)[: expected.size].tolist() == expected.tolist()


@pytest.mark.parametrize("rate", [1, 2, 3, 27, 45, 61, 64, 65, 127, 128])
def test_a_pattern_is_spread_evenly_over_that_of_the_next_power_of_two(rate: int) -> None:
    kept, full = pattern(rate), pattern(full_rate(rate))
    slots = kept.words * 2 + kept.bits
    assert kept.rate == rate == np.unique(slots).size
    assert set(slots.tolist()) <= set((full.words * 2 + full.bits).tolist())
    for bits in (1, 7, 32):
        words = kept.words_for(bits)
        starts = [kept.stream_bits(start + words) - kept.stream_bits(start) for start in range(CYCLE)]
        fewer = [kept.stream_bits(start + words - 1) - kept.stream_bits(start) for start in range(CYCLE)]
        assert min(starts) >= bits > min(fewer)


@pytest.fixture
def content(prose: list[str], tmp_path: Path) -> bytes:
    pieces: list[tuple[str, str | None]] = [(text, f"title {number}") for number, text in enumerate(prose)]
    return write(tmp_path, [pieces], sum(len(text) for text in prose))


def with_header(content: bytes, **changes: int) -> bytes:
    names = ("magic", "version", "shift", "rate", "documents", "words", "counts", "titles")
    values = {**dict(zip(names, HEADER.unpack_from(content), strict=True)), **changes}
    return HEADER.pack(*values.values()) + content[HEADER.size :]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"rate": 0},
        {"rate": 129},
        {"rate": 65535},
        {"shift": 255},
        {"shift": 3},
        {"documents": 0},
        {"documents": 2**32 - 1},
        {"words": 0},
        {"words": 2**64 - 1},
        {"words": 2**40},
        {"counts": 2**32 - 1},
        {"titles": 0},
    ],
)
def test_a_header_that_lies_is_refused_without_much_memory(content: bytes, changes: dict[str, int]) -> None:
    damaged = with_header(content, **changes)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"^here: "):
            parse_ngrams(damaged, "here")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_cut_and_flipped_files_are_refused_or_read_but_never_crash(content: bytes) -> None:
    for length in (0, 5, HEADER.size - 1, HEADER.size, len(content) - 1):
        with pytest.raises(FormatError):
            parse_ngrams(content[:length], "here")
    with pytest.raises(FormatError):
        parse_ngrams(content + b"x", "here")
    rng = random.Random(2)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        place = rng.choice([rng.randrange(HEADER.size), rng.randrange(len(content) - 300, len(content))])
        damaged[place] ^= 1 << rng.randrange(8)
        try:
            index = parse_ngrams(bytes(damaged), "here")
            assert index.words == index.ends[-1]
        except FormatError:
            refused += 1
    assert refused > 200


def test_a_bomb_is_not_unpacked(content: bytes) -> None:
    *_, documents, words, counts, titles = HEADER.unpack_from(content)
    bomb = zlib.compress(bytes(50_000_000), 9)
    stream = content[HEADER.size : len(content) - counts - titles]
    packed = content[len(content) - counts - titles : len(content) - titles]
    rate = struct.unpack_from("<H", content, 10)[0]
    for parts in ((bomb, b""), (packed, bomb)):
        header = HEADER.pack(b"gptgrams", 1, 0, rate, documents, words, len(parts[0]), len(parts[1]))
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match="packed part"):
                parse_ngrams(header + stream + b"".join(parts), "here")
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()


def test_counts_that_wrap_around_are_refused(content: bytes) -> None:
    *_, documents, words, counts, titles = HEADER.unpack_from(content)
    sizes = np.zeros(documents, "<u8")
    sizes[:3] = 2**64 - 1, 1, words
    packed = zlib.compress(sizes.view(np.uint8).reshape(-1, 8).T.tobytes())
    damaged = content[: len(content) - counts - titles] + packed
    with pytest.raises(FormatError, match="not as many words"):
        parse_ngrams(with_header(damaged, counts=len(packed), titles=0), "here")


def test_titles_for_another_number_of_documents_are_refused(content: bytes) -> None:
    titles = HEADER.unpack_from(content)[-1]
    packed = zlib.compress(b"one\ntwo")
    damaged = content[: len(content) - titles] + packed
    with pytest.raises(FormatError, match="2 titles for"):
        parse_ngrams(with_header(damaged, titles=len(packed)), "here")


def test_a_file_that_the_manifest_does_not_know_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "index"
    expected = NgramsFile(len(content), sha256(content).hexdigest())
    assert read_ngrams(path, expected) == content
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FormatError, match="sha256"):
        read_ngrams(path, expected)
    path.write_bytes(content + b"x")
    with pytest.raises(FormatError, match="bytes"):
        read_ngrams(path, expected)
    path.unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        read_ngrams(path, expected)
