from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.errors import SourceError
from gptcli.fetch.text import (
    TextEncoding,
    binary_kind,
    choose_encoding,
    declared_charset,
    decode_file,
    decode_pieces,
    lines_of,
)

MakeFile = Callable[[bytes], Path]


@pytest.fixture
def made(tmp_path: Path) -> MakeFile:
    def make(data: bytes) -> Path:
        path = tmp_path / "file.txt"
        path.write_bytes(data)
        return path

    return make


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text") / "file.txt"


@given(text=st.text())
def test_any_utf8_comes_back_with_plain_newlines(scratch: Path, text: str) -> None:
    scratch.write_bytes(("a" + text).encode())
    if binary_kind(("a" + text).encode()):
        return
    assert decode_file(scratch)[0] == ("a" + text).replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides_and_is_dropped(made: MakeFile, encoding: str) -> None:
    path = made("Grüße, 世界 😀\r\nzwei\rdrei".encode(encoding))
    assert decode_file(path)[0] == "Grüße, 世界 😀\nzwei\ndrei"
    assert not choose_encoding(path).guessed


def test_characters_and_newlines_across_the_pieces_of_a_file_stay_whole(made: MakeFile) -> None:
    text = "é\r\n" * 1_000_000
    pieces = list(decode_pieces(made(b"a" + text.encode()), TextEncoding("utf-8")))
    assert len(pieces) > 2
    assert "".join(pieces) == "a" + text.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Das ist ein schöner Tag für große Männer.", "cp1252"),
        ("Größe", "cp1252"),
        ("L\u2019été dernier, nous sommes allés à la plage.", "cp1252"),
        ("El niño está aquí, ¿verdad? ¡Sí!", "cp1252"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy. " * 4, "cp1250"),
        ("Café, déjà vu, naïve résumé. It\u2019s what the \u201cwaiter\u201d said about it.", "cp1252"),
        ("これは日本語の文章です。今日は天気がいいですね。" * 4, "cp932"),
        ("Это русский текст, который нужно прочитать. " * 4, "cp1251"),
        ("这是一段中文文本。用来测试编码检测。" * 4, "gb18030"),
    ],
)
def test_other_encodings_are_detected(made: MakeFile, text: str, encoding: str) -> None:
    path = made(text.encode(encoding))
    assert choose_encoding(path) == TextEncoding(encoding, guessed=True)
    assert decode_file(path)[0] == text


def test_a_book_in_cp1252_is_detected(made: MakeFile, shared_data: Path) -> None:
    text = (shared_data / "gutenberg" / "863-0.txt").read_text("utf-8-sig")
    path = made(text.encode("cp1252"))
    assert choose_encoding(path).name == "cp1252"
    assert decode_file(path)[0] == text


def test_the_first_strange_byte_may_stand_late(made: MakeFile) -> None:
    path = made(b"plain words\n" * 200_000 + "Ein schöner Gruß für Männer.".encode("cp1252"))
    assert decode_file(path)[0].endswith("Ein schöner Gruß für Männer.")


def test_what_no_encoding_has_is_read_as_cp1252_with_replacement(made: MakeFile) -> None:
    data = "déjà vu ".encode("cp1252") * 20 + b"\x81 \x8d"
    path = made(data)
    chosen = choose_encoding(path)
    assert chosen.guessed
    assert len(decode_file(path)[0]) == len(data)


def test_a_servers_charset_is_believed_where_the_bytes_allow_it(made: MakeFile) -> None:
    path = made("Příliš žluťoučký kůň".encode("iso8859_2"))
    assert choose_encoding(path, declared="iso-8859-2") == TextEncoding("iso8859-2")
    assert choose_encoding(made("Grüße".encode()), declared="iso-8859-1") == TextEncoding("utf-8")
    assert choose_encoding(made(b"gr\xfc\xdfe"), declared="ascii").name == "cp1252"
    assert choose_encoding(made(b"gr\xfc\xdfe"), declared="no-such-charset").name == "cp1252"


def test_an_insisted_encoding_is_followed(made: MakeFile) -> None:
    path = made("naïve".encode("utf-16-le"))
    assert decode_file(path, "UTF-16-LE")[0] == "naïve"
    assert decode_file(made("é".encode()), "latin-1")[0] == "Ã©"


@pytest.mark.parametrize(
    ("data", "encoding", "offset"),
    [
        (b"abc\xff", "utf-8", "3"),
        (b"x" * 2_000_000 + b"\xe9t\xe9", "ascii", "2,000,000"),
        (b"x" * ((1 << 20) - 1) + b"\xe2\x82x", "utf-8", "1,048,575"),
        (b"abc\xe2\x82", "utf-8", "3"),
        (b"a\0b", "utf-16-le", "2"),
    ],
)
def test_an_insisted_encoding_that_does_not_fit_names_the_byte(
    made: MakeFile, data: bytes, encoding: str, offset: str
) -> None:
    with pytest.raises(SourceError, match=f"is not {encoding}: the byte at offset {offset} cannot be decoded"):
        decode_file(made(data), encoding)


@pytest.mark.parametrize("encoding", ["klingon", "hex", "rot13", ""])
def test_an_unknown_encoding_is_refused(made: MakeFile, encoding: str) -> None:
    with pytest.raises(SourceError, match="no text encoding called"):
        choose_encoding(made(b"abc"), encoding)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"%PDF-1.7\n...", "it is a PDF"),
        (b"PK\x03\x04word/document.xml", "it is a ZIP archive"),
        (b"\x1f\x8b\x08\x00", "it is a gzip archive"),
        (b"{\\rtf1 text", "it is an RTF file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is a picture (PNG)"),
        (b"text with a \0 in it", "it has bytes that a text has not"),
        (bytes(range(256)) * 10, "it has bytes that a text has not"),
        ("no mark".encode("utf-16-le"), "it has bytes that a text has not"),
    ],
)
def test_binary_files_are_refused(made: MakeFile, data: bytes, kind: str) -> None:
    with pytest.raises(SourceError) as caught:
        decode_file(made(data))
    assert f"looks binary: {kind}" in caught.value.message
    assert caught.value.hint


def test_a_binary_tail_behind_text_is_noticed(made: MakeFile) -> None:
    with pytest.raises(SourceError, match="looks binary"):
        decode_file(made(b"header\n" * 300_000 + b"\xff\xd8\0\0\x01\x02" * 10_000))


def test_colours_and_form_feeds_are_text() -> None:
    assert binary_kind(b"\x1b[31mred\x1b[0m\f\n" * 3) == ""


def test_a_file_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        decode_file(tmp_path / "nothing.txt")


@given(text=st.text(st.sampled_from("ab\n\r\u2028\x85\f")), size=st.integers(1, 5))
def test_lines_end_at_newlines_alone_however_the_text_is_cut(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    lines = list(lines_of(pieces, max_chars=1000, label="a"))
    assert "".join(lines) == text
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in lines[:-1])


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    endless = (piece for piece in ["one\ntwo\n", *["x" * 100] * 50])
    with pytest.raises(SourceError, match="a:3: the line is longer than 1,000 characters"):
        list(lines_of(endless, max_chars=1000, label="a"))
    assert len(list(endless)) > 30


@pytest.mark.parametrize(
    ("head", "charset"),
    [
        (b'<?xml version="1.0" encoding="ISO-8859-1"?><html>', "iso-8859-1"),
        (b"\xef\xbb\xbf<?xml version='1.0' encoding='utf-8'?>", "utf-8"),
        (b'<html><head><META http-equiv="x" content="text/html; charset=Windows-1252">', "windows-1252"),
        (b"<meta charset=koi8-r>", "koi8-r"),
        (b"<p>charset=utf-8</p>", ""),
        (b"", ""),
    ],
)
def test_markup_says_its_charset(head: bytes, charset: str) -> None:
    assert declared_charset(head) == charset
