"""Sound files as samples: how long a recording is, and its sound in pieces that fit into memory.

The only place that knows PyAV. Speech, models and text are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AUDIO_SUFFIXES = frozenset({".mp3", ".wav", ".m4a", ".m4b", ".flac", ".ogg", ".oga", ".opus", ".aac"})
SAMPLE_RATE = 16_000
# Ten hours at once would take about 30 GB of spectrogram; pieces end where it is quietest in their last part.
PIECE_SECONDS = 300
CUT_SECONDS = 30
QUIET_SAMPLES = SAMPLE_RATE // 5
READ_HINT = "Check its name and permissions."
CONVERT_HINT = "Formats that are read: mp3, wav, m4a, m4b, flac, ogg, opus, aac."


class RecordingError(SourceError):
    """A file that cannot be read or has no sound that can be decoded; among others it is missing."""


@dataclass(slots=True)
class Recording:
    """A sound file; ``damaged`` counts the pieces of it that could not be decoded, ``decoded`` seconds those that were.

    Both are complete when ``pieces`` has ended.
    """

    path: Path
    label: str
    damaged: int = 0
    decoded: float = 0.0

    def seconds(self) -> float | None:
        """Return how long the recording says it is; None when it does not say, and where that cannot be read."""
        try:
            import av
        except ImportError:  # an extra, which transcripts that are there do without
            return None
        try:
            with av.open(str(self.path), metadata_errors="ignore") as container:
                if container.duration is not None and container.streams.audio:
                    return float(container.duration / av.time_base)
        except (av.FFmpegError, OSError, ValueError):
            pass  # it is told when the sound is read
        return None

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """Yield the sound as 16 kHz mono samples in -1..1, in pieces of about five minutes.

        Raises ``RecordingError`` for a file that cannot be read or has no sound.
        """
        import av
        import numpy as np

        waiting: list[NDArray[np.int16]] = []
        count = 0
        try:
            with av.open(str(self.path), metadata_errors="ignore") as container:
                for samples in self._samples(container):
                    waiting.append(samples)
                    count += len(samples)
                    if count >= PIECE_SECONDS * SAMPLE_RATE:
                        joined = np.concatenate(waiting)
                        end = _quietest(joined)
                        yield self._piece(joined[:end])
                        waiting, count = [joined[end:]], count - end
        except (av.FFmpegError, OSError) as error:
            raise self._broken(error) from error
        if count:
            yield self._piece(np.concatenate(waiting))
        if not self.decoded:
            raise RecordingError(f"{self.label} has no sound that can be decoded.", CONVERT_HINT)

    def _samples(self, container: Any) -> Iterator[NDArray[np.int16]]:  # noqa: ANN401
        import av

        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise RecordingError(f"{self.label} has no sound in it.", CONVERT_HINT)
        setup: tuple[str, str, int] | None = None
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        for frame in self._frames(container, stream):
            found = (frame.format.name, frame.layout.name, frame.sample_rate)
            before, setup = setup, found
            if before is not None and before != found:  # recordings may be several files in a row
                resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            frame.pts = None  # what is damaged leaves gaps, which the resampler would refuse
            for resampled in resampler.resample(frame):
                yield resampled.to_ndarray()[0]
        for resampled in resampler.resample(None) if setup else ():
            yield resampled.to_ndarray()[0]

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:  # noqa: ANN401
        import av

        begun = False
        packets = container.demux(stream)
        while True:
            packet = None
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else ()
            except av.FFmpegError:
                if packet is None and not begun:
                    raise
                self.damaged += 1
                frames = ()
            if packet is None:  # the end, or the container itself is broken from here on
                return
            for frame in frames:
                begun = True
                yield frame

    def _piece(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        import numpy as np

        self.decoded += len(samples) / SAMPLE_RATE
        scaled: NDArray[np.float32] = np.divide(samples, np.float32(32768.0), dtype=np.float32)
        return scaled

    def _broken(self, error: Exception) -> RecordingError:
        why = getattr(error, "strerror", None) or type(error).__name__
        if isinstance(error, OSError):
            return RecordingError(f"{self.label} cannot be read ({why}).", READ_HINT)
        return RecordingError(f"{self.label} is no sound file that can be read ({why}).", CONVERT_HINT)


def _quietest(samples: NDArray[np.int16]) -> int:
    """Return the middle of the quietest fifth of a second in the last half minute."""
    import numpy as np

    start = len(samples) - CUT_SECONDS * SAMPLE_RATE
    windows = (len(samples) - start) // QUIET_SAMPLES
    last = samples[start : start + windows * QUIET_SAMPLES].astype(np.float32).reshape(windows, QUIET_SAMPLES)
    return int(start + np.argmin(np.square(last).sum(axis=1)) * QUIET_SAMPLES + QUIET_SAMPLES // 2)
