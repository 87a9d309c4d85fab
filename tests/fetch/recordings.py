"""Sound made for tests: tones, noise and silence, saved as wav or in another format."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Samples = NDArray[np.int16]


def tone(hertz: float, seconds: float, *, rate: int = RATE) -> Samples:
    times = np.arange(int(seconds * rate)) / rate
    return (12_000 * np.sin(2 * np.pi * hertz * times)).astype(np.int16)


def noise(seconds: float) -> Samples:
    return (np.random.default_rng(0).normal(size=int(seconds * RATE)) * 3000).astype(np.int16)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), dtype=np.int16)


def save_wav(path: Path, samples: Samples, *, rate: int = RATE, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def encode(path: Path, samples: Samples, codec: str, *, rate: int = RATE) -> None:
    """Save mono samples in the format that the suffix names."""
    import av

    container = "adts" if path.suffix == ".aac" else "ogg" if path.suffix == ".opus" else None
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or 1024
        )
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(ready))
        output.mux(stream.encode(None))
