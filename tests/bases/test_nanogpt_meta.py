from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.bases.nanogpt_meta import MAX_META_BYTES, find_alphabet, meta_pickle, plain_pickle, read_meta
from gptcli.errors import FormatError, TokenizerError

# Reads or writes a pickle with Python's own module, which this repository never imports itself.
DUMP = """
import json, pickle, sys
characters, protocol = json.loads(sys.argv[1]), int(sys.argv[2])
meta = {
    "vocab_size": len(characters),
    "itos": dict(enumerate(characters)),
    "stoi": {character: token_id for token_id, character in enumerate(characters)},
}
sys.stdout.buffer.write(pickle.dumps(meta, protocol=protocol))
"""
LOAD = "import pickle, sys; print(ascii(pickle.load(sys.stdin.buffer)))"
MANY = "[chr(code) for code in range(0x4E00, 0x4E00 + 70_000) if not 0xD800 <= code < 0xE000]"
CHARACTERS = ("\n", " ", "'", "a", "b", "é", "\u2028", "中", "🎭")

alphabets = st.lists(st.characters(exclude_categories=["Cs"]), min_size=1, unique=True).map(tuple)


def python(code: str, *args: str, stdin: bytes = b"") -> bytes:
    return subprocess.run([sys.executable, "-c", code, *args], input=stdin, capture_output=True, check=True).stdout


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_of_any_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(python(DUMP, json.dumps(CHARACTERS), str(protocol)))
    assert read_meta(tmp_path / "meta.pkl") == CHARACTERS


def test_tens_of_thousands_of_characters_are_read(tmp_path: Path) -> None:
    many = tuple(chr(code) for code in range(0x4E00, 0x4E00 + 70_000) if not 0xD800 <= code < 0xE000)
    (tmp_path / "meta.pkl").write_bytes(python(DUMP.replace("json.loads(sys.argv[1])", MANY), "", "4"))
    assert read_meta(tmp_path / "meta.pkl") == many


def test_python_unpickles_what_is_written() -> None:
    stoi = {character: token_id for token_id, character in enumerate(CHARACTERS)}
    expected = {"vocab_size": len(CHARACTERS), "itos": dict(enumerate(CHARACTERS)), "stoi": stoi}
    assert python(LOAD, stdin=meta_pickle(CHARACTERS)).decode().strip() == ascii(expected)


@given(alphabets)
def test_what_is_written_is_read(characters: tuple[str, ...]) -> None:
    meta = plain_pickle(meta_pickle((*characters, "")))
    assert isinstance(meta, dict)
    assert meta["itos"] == dict(enumerate((*characters, "")))
    assert meta["stoi"] == {character: token_id for token_id, character in enumerate(characters)}


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x02}", meta_pickle(("a", "b"))[:-1]]))
def test_noise_is_refused_by_a_value_error_or_is_plain(noise: bytes, before: bytes) -> None:
    try:
        value = plain_pickle(before + noise)
    except ValueError:
        return
    assert type(value) in (dict, str, int)


def test_every_cut_is_refused() -> None:
    whole = meta_pickle(CHARACTERS)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="no whole pickle"):
            plain_pickle(whole[:length])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"cos\nsystem\n(Vtrue\ntR.", "asks for 'os.system'"),
        (b"(Vtrue\nios\nsystem\n.", "asks for 'os.system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "asks for 'os.system'"),
        (b"\x80\x02}(X\x01\x00\x00\x00aK\x01ub.", "(BUILD)"),
        (b"\x80\x02\x82\x01.", "(EXT1)"),
        (b"Ppersistent\n.", "(PERSID)"),
        (b"\x80\x02G?\xf0\x00\x00\x00\x00\x00\x00.", "(BINFLOAT)"),
        (b"\x80\x02](K\x01e.", "(EMPTY_LIST)"),
        (b"\x80\x02}(}K\x01u.", "no whole pickle"),
        (b"\x80\x02}(K\x01u.", "no whole pickle"),
        (b"\x80\x02K\x01K\x02.", "no whole pickle"),
        (b"\x80\x02h\x07.", "no whole pickle"),
        (b"\x80\x02(.", "no whole pickle"),
        (b"", "no whole pickle"),
    ],
)
def test_pickle_that_holds_more_than_plain_data_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        plain_pickle(data)


def text(characters: str) -> bytes:
    return b"X" + len(characters.encode()).to_bytes(4, "little") + characters.encode()


def with_itos(items: bytes, rest: bytes = b"") -> bytes:
    return b"\x80\x02}(" + text("itos") + b"}(" + items + b"u" + rest + b"u."


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x80\x02K\x01.", "has no itos"),
        (b"\x80\x02}.", "has no itos"),
        (with_itos(b""), "has no itos"),
        (with_itos(b"K\x01" + text("a")), "ids are not 0, 1, 2"),
        (with_itos(text("0") + text("a")), "ids are not 0, 1, 2"),
        (with_itos(b"K\x00" + text("the")), "no character: 'the'"),
        (with_itos(b"K\x00K\x07"), "no character: '7'"),
        (with_itos(b"K\x00X\x03\x00\x00\x00\xed\xa0\x80"), "no character"),
        (with_itos(b"K\x00" + text("a") + b"K\x01" + text("a")), "a character twice"),
        (with_itos(b"K\x00" + text("")), "a character twice"),
        (with_itos(b"K\x00" + text("a"), text("vocab_size") + b"K\x05"), "contradict"),
        (with_itos(b"K\x00" + text("a"), text("stoi") + b"}" + text("a") + b"K\x03s"), "contradict"),
    ],
)
def test_plain_data_that_is_no_alphabet_is_refused(data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(data)
    with pytest.raises(FormatError) as caught:
        read_meta(tmp_path / "meta.pkl")
    assert told in caught.value.message


def nested(levels: int, inside: bytes) -> bytes:
    """Return ``inside`` as the value of a dictionary in a dictionary, and so on."""
    return b"}K\x00" * levels + inside + b"s" * levels


def doubled(levels: int) -> bytes:
    """Return a dictionary that takes 2 ** levels words to write out, in a few bytes for each level."""
    return b"(K\x00" * levels + b"}" + b"q\x00K\x01h\x00d" * levels


@pytest.mark.parametrize("value", [doubled(60), nested(100_000, b"}")], ids=["doubled", "nested"])
def test_dictionary_that_is_endless_when_written_out_is_only_named(value: bytes, tmp_path: Path) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(with_itos(b"K\x00" + value))
    with pytest.raises(FormatError, match="no character: 'a dict'"):
        read_meta(path)
    path.write_bytes(with_itos(b"K\x00" + text("a"), text("stoi") + b"}" + text("a") + value + b"s"))
    with pytest.raises(FormatError, match="contradict"):
        read_meta(path)
    with pytest.raises(ValueError, match=re.escape("asks for 'a dict.system'")):
        plain_pickle(b"\x80\x04" + value + b"\x8c\x06system\x93.")


def test_long_text_is_shown_in_part(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(with_itos(b"K\x00" + text("a" * 1_000_000)))
    with pytest.raises(FormatError, match="no character: 'aaaa") as caught:
        read_meta(tmp_path / "meta.pkl")
    assert len(caught.value.message) < len(str(tmp_path)) + 200
    with pytest.raises(ValueError, match="asks for 'aaaa") as refused:
        plain_pickle(b"c" + b"a" * 1_000_000 + b"\nb\n.")
    assert len(str(refused.value)) < 200


def test_dictionaries_within_dictionaries_are_filled_by_their_own_marks() -> None:
    data = b"(K\x01(K\x02}(K\x03K\x04udK\x05K\x06d."
    assert plain_pickle(data) == {1: {2: {3: 4}}, 5: 6}


@pytest.mark.parametrize(
    "data",
    [
        b"}K\x01(s.",  # a mark as a value
        b"}(K\x01s.",  # and as a key
        b"}(q\x00K\x01h\x00u.",  # and out of the memo
        b"}u.",
        b"K\x01d.",
        b"}(\x8a\x09" + bytes(8) + b"\x01" + b"K\x01u.",  # a key of 65 bits
        b"}(J\xff\xff\xff\xffK\x01u.",  # one below 0
    ],
)
def test_odd_dictionary_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no whole pickle"):
        plain_pickle(b"\x80\x02" + data)


def test_meta_without_stoi_is_enough(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(with_itos(b"K\x00" + text("b") + b"K\x01" + text("a")))
    assert read_meta(tmp_path / "meta.pkl") == ("b", "a")


def test_file_too_large_or_not_a_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "meta.pkl").open("wb") as file:
        file.truncate(MAX_META_BYTES + 1)
    with pytest.raises(FormatError, match="larger than"):
        read_meta(tmp_path / "meta.pkl")
    with pytest.raises(FormatError, match="cannot be read"):
        read_meta(tmp_path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without an end that says it is empty")
def test_file_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(FormatError, match="larger than"):
        read_meta(Path("/dev/zero"))


def test_meta_of_another_size_is_passed_over_and_told(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(meta_pickle(CHARACTERS))
    found = find_alphabet(tmp_path / "ckpt.pt", None, 2, lambda: iter("ab"))
    assert found.characters == ("a", "b")
    assert any("it has 9 characters" in note for note in found.notes)
    with pytest.raises(TokenizerError, match="it has 9 characters"):
        find_alphabet(tmp_path / "ckpt.pt", None, 2, None)


def test_data_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "input.txt").write_bytes(b"b\r\na")
    monkeypatch.chdir(tmp_path)
    assert find_alphabet(Path("far/away/ckpt.pt"), "mine", 3, None).characters == ("\n", "a", "b")
