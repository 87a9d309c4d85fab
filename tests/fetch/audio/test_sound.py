from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptcli.errors import SourceError
from gptcli.fetch.audio import sound
from gptcli.fetch.audio.sound import SAMPLE_RATE, Recording, RecordingError
from tests.fetch.recordings import encode, noise, save_wav, silence, tone

CODECS = {".mp3": "libmp3lame", ".flac": "flac", ".m4a": "aac", ".ogg": "libopus", ".opus": "libopus", ".aac": "aac"}


def loudest(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
    """Return the strongest frequency in hertz."""
    return int(np.argmax(np.abs(np.fft.rfft(samples))) * SAMPLE_RATE / len(samples))


@pytest.mark.parametrize("suffix", [".wav", *CODECS])
def test_every_format_is_read_as_the_sound_it_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    samples = tone(440, 1.5, rate=48_000)
    if suffix == ".wav":
        save_wav(path, samples, rate=48_000)
    else:
        encode(path, samples, CODECS[suffix], rate=48_000)
    recording = Recording(path, "a")
    (piece,) = recording.pieces()
    assert piece.dtype == np.float32
    assert 0.2 < np.abs(piece).max() <= 1.0
    assert abs(loudest(piece) - 440) <= 2
    assert recording.decoded == len(piece) / SAMPLE_RATE == pytest.approx(1.5, abs=0.15)
    if suffix != ".aac":  # a bare stream does not say how long it is
        assert recording.seconds() == pytest.approx(1.5, abs=0.15)


def test_stereo_becomes_mono(tmp_path: Path) -> None:
    save_wav(tmp_path / "a.wav", np.repeat(tone(440, 1), 2), channels=2)
    (piece,) = Recording(tmp_path / "a.wav", "a").pieces()
    assert abs(loudest(piece) - 440) <= 2
    assert len(piece) == SAMPLE_RATE


def test_a_long_recording_comes_in_pieces_cut_where_it_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sound, "PIECE_SECONDS", 4)
    monkeypatch.setattr(sound, "CUT_SECONDS", 3)
    whole = np.concatenate([tone(440, 2), silence(0.5), tone(440, 4), silence(0.5), tone(440, 2)])
    save_wav(tmp_path / "a.wav", whole)
    recording = Recording(tmp_path / "a.wav", "a")
    pieces = list(recording.pieces())
    assert np.array_equal(np.concatenate(pieces), whole.astype(np.float32) / 32768)
    assert recording.decoded == 9.0
    ends = np.cumsum([len(piece) / SAMPLE_RATE for piece in pieces])[:-1]
    assert len(ends) >= 2
    assert 2.0 < ends[0] < 2.5
    assert all(len(piece) <= 5 * SAMPLE_RATE for piece in pieces)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "x.mp3 is no sound file that can be read"),
        (b"It was a dark and stormy night.\n" * 99, "x.mp3 is no sound file that can be read"),
        (b"<?xml version='1.0'?><svg/>", "x.mp3 is no sound file that can be read"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path: Path, body: bytes, sentence: str) -> None:
    (tmp_path / "x.mp3").write_bytes(body)
    recording = Recording(tmp_path / "x.mp3", "x.mp3")
    assert recording.seconds() is None
    with pytest.raises(RecordingError, match=sentence):
        list(recording.pieces())


def test_a_file_that_is_gone_and_one_without_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"a\.wav cannot be read \(No such file"):
        list(Recording(tmp_path / "a.wav", "a.wav").pieces())
    save_wav(tmp_path / "b.wav", silence(0))
    with pytest.raises(SourceError, match=r"b\.wav has no sound that can be decoded"):
        list(Recording(tmp_path / "b.wav", "b.wav").pieces())


def test_damaged_pieces_are_counted_and_the_rest_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    encode(path, noise(3), "aac")
    body = bytearray(path.read_bytes())
    middle = len(body) // 2
    body[middle : middle + 2000] = b"\xff" * 2000
    path.write_bytes(body)
    recording = Recording(path, "a")
    list(recording.pieces())
    assert recording.damaged > 0
    assert 1.0 < recording.decoded < 3.1


def test_a_cut_file_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_wav(path, tone(440, 4))
    path.write_bytes(path.read_bytes()[: 2 * SAMPLE_RATE + 44])
    recording = Recording(path, "a")
    list(recording.pieces())
    assert recording.decoded == pytest.approx(1.0, abs=0.01)
