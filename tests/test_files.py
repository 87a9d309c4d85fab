from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from gptcli.errors import FormatError
from gptcli.files import (
    atomic_folder,
    atomic_write,
    read_json,
    refuse_links_out,
    scratch_folder,
    sha256_file,
    write_json,
)


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


def test_an_empty_folder_is_filled_and_keeps_its_permissions(tmp_path: Path) -> None:
    for name, mode in (("private", 0o700), ("shared", 0o775)):
        path = tmp_path / name
        path.mkdir()
        path.chmod(mode)
        with atomic_folder(path, replace=False) as folder:
            (folder / "one").write_bytes(b"1")
        assert [p.name for p in path.iterdir()] == ["one"]
        assert stat.S_IMODE(path.stat().st_mode) == mode
    with atomic_folder(tmp_path / "new", replace=False) as folder:
        (folder / "one").write_bytes(b"1")
    assert sorted(os.listdir(tmp_path)) == ["new", "private", "shared"]  # noqa: PTH208 - hidden files count


@pytest.mark.parametrize("what", ["file inside", "file", "link"])
def test_what_came_to_lie_in_the_place_of_a_folder_stays_there(what: str, tmp_path: Path) -> None:
    path, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()

    def write() -> None:
        with atomic_folder(path, replace=False) as folder:
            (folder / "one").write_bytes(b"1")
            if what == "file inside":
                path.mkdir()
                (path / "mine").write_bytes(b"mine")
            elif what == "file":
                path.write_bytes(b"mine")
            else:
                path.symlink_to(other)

    with pytest.raises(OSError, match="out"):
        write()
    found = path / "mine" if what == "file inside" else path
    assert path.is_symlink() if what == "link" else found.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]  # noqa: PTH208 - hidden files count


@pytest.mark.skipif(sys.platform == "win32", reason="a killed process cannot be told from a live one there")
def test_what_a_killed_process_left_goes_before_the_next_try_and_what_a_live_one_has_stays(tmp_path: Path) -> None:
    path = tmp_path / "run"
    other = tmp_path / ".run.backup.tmp"
    other.mkdir()
    dies = (
        "import os, sys; from pathlib import Path; from gptcli.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'weights').write_bytes(b'1'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", dies, str(path)], check=False)
    (left,) = tmp_path.glob(".run.????????.tmp")
    with scratch_folder(path) as live:
        assert not left.exists()
        with atomic_folder(path) as folder:
            (folder / "one").write_bytes(b"1")
        assert live.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".run.backup.tmp", "run"]


def test_a_folder_that_another_process_took_for_a_left_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, mkdtemp = list[str](), tempfile.mkdtemp

    def taken_at_first(**names: Any) -> str:  # noqa: ANN401
        made.append(mkdtemp(**names))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken_at_first)
    with scratch_folder(tmp_path / "run") as folder:
        (folder / "one").write_bytes(b"1")
    assert len(made) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a killed process cannot be told from a live one there")
def test_what_a_killed_process_left_is_gone_on_with_where_it_can_be_and_by_one_alone(tmp_path: Path) -> None:
    def can_be(folder: Path) -> bool:
        return (folder / "journal").exists()

    for name in (".run.aaaaaaaa.tmp", ".run.bbbbbbbb.tmp", ".run.cccccccc.tmp"):
        (tmp_path / name).mkdir()
    for name in ("aaaaaaaa", "cccccccc"):
        (tmp_path / f".run.{name}.tmp" / "journal").write_bytes(b"1")
    with contextlib.suppress(KeyboardInterrupt), scratch_folder(tmp_path / "run", can_be) as first:
        assert (first / "journal").read_bytes() == b"1"
        assert [path for path in tmp_path.iterdir() if path != first] == []
        with scratch_folder(tmp_path / "run", can_be) as second:
            assert (second != first, list(second.iterdir())) == (True, [])
        raise KeyboardInterrupt
    with atomic_folder(tmp_path / "run", goes_on=can_be) as third:
        assert third == first
        (third / "one").write_bytes(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with scratch_folder(tmp_path / "run", can_be) as fourth:
        (fourth / "other").write_bytes(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_a_number_that_json_does_not_have_is_damage(tmp_path: Path, number: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(f'{{"format_version": 1, "loss": {number}, "checksum": "0123456789abcdef"}}')
    with pytest.raises(FormatError, match=r"x\.json: a thing is damaged: it is not valid JSON"):
        read_json(path, format_version=1, what="a thing")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_may_have_no_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    for name in ("zero", "pipe"):
        with pytest.raises(FormatError, match=f"{name}: a thing is not a regular file"):
            read_json(tmp_path / name, format_version=1, what="a thing")


def test_a_json_file_changed_by_hand_is_read_once_its_checksum_is_null(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"format_version": 1, "name": "a"})
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(FormatError, match="not that of its checksum") as caught:
        read_json(path, format_version=1, what="a thing")
    assert '"checksum": null' in caught.value.hint
    path.write_text(re.sub('"checksum": ".*"', '"checksum": null', path.read_text()))
    assert read_json(path, format_version=1, what="a thing")["name"] == "b"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_a_link_that_leads_out_of_a_folder_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    folder, place = tmp_path / "sent", tmp_path / "mine"
    (folder / "there").mkdir(parents=True)
    place.mkdir()
    (folder / "inside").symlink_to(folder / "there")
    (folder / "out").symlink_to(place)
    refuse_links_out(folder, "inside", "there", "nothing")
    with pytest.raises(FormatError, match=r"out: this is a symbolic link that leads out of .*sent"):
        refuse_links_out(folder, "inside", "out")
