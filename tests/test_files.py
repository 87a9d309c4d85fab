from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from gptcli.errors import FormatError
from gptcli.files import atomic_folder, atomic_write, read_json, sha256_file, write_json


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with contextlib.suppress(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208 - hidden files count


def test_a_file_appears_whole_and_with_the_usual_permissions(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "deep" / "a.txt"
    plain.touch()
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with atomic_folder(path) as folder:
        (folder / "one").write_bytes(b"1")
    with contextlib.suppress(RuntimeError), atomic_folder(path) as folder:
        (folder / "two").write_bytes(b"2")
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["one"]
    with atomic_folder(path) as folder:
        (folder / "two").write_bytes(b"2")
    assert [p.name for p in path.iterdir()] == ["two"]
    assert os.listdir(tmp_path) == ["tokens"]  # noqa: PTH208 - hidden files count


def test_json_comes_back_and_nan_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"format_version": 1, "text": "Ünïcode\n"})
    assert read_json(path, format_version=1, what="a test file") == {"format_version": 1, "text": "Ünïcode\n"}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"x": float("nan")})
    assert sha256_file(path) == sha256_file(path)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b'{"format_version": 2}', "has format_version 2, this gptcli reads 1"),
        (b"{}", "has format_version None"),
        (b"[1]", "a JSON object was expected, found list"),
        (b'{"format_version": 1', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_or_unknown_json_file_is_named(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=fragment) as caught:
        read_json(path, format_version=1, what="a test file")
    assert str(path) in caught.value.message


def test_a_missing_json_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"gone\.json: a test file cannot be read"):
        read_json(tmp_path / "gone.json", format_version=1, what="a test file")


def test_a_folder_that_cannot_take_the_old_ones_place_leaves_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "tokens", Path.replace
    with atomic_folder(path) as folder:
        (folder / "one").write_bytes(b"1")

    def interrupted(source: Path, target: Path) -> Path:
        if target == path and source.suffix == ".tmp":
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with contextlib.suppress(KeyboardInterrupt), atomic_folder(path) as folder:
        (folder / "two").write_bytes(b"2")
    assert [p.name for p in path.iterdir()] == ["one"]
    assert os.listdir(tmp_path) == ["tokens"]  # noqa: PTH208 - hidden files count
