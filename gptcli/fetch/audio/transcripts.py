"""The transcript of a recording as a file: what was heard when, how sure Whisper was, and what is not believed of it.

Knows nothing of models, sound or documents. A transcript is written once and read ever after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptcli.errors import CorpusError, FormatError
from gptcli.files import read_json, write_json

FORMAT_VERSION = 1
WHAT = "the transcript of a recording"
AGAIN_HINT = "Delete the file, and gptcli fetch transcribes the recording again."


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech: seconds from the start of the recording, its words, and how sure Whisper was of them.

    ``text`` has the space before its first word where the language has spaces. The last three are those of the window
    of up to 30 seconds that the segment was heard in: mean log probability of a token, probability that nobody
    speaks, and how well the text compresses.
    """

    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float


@dataclass(frozen=True, slots=True)
class Doubt:
    """A segment that is not believed, and why."""

    segment: Segment
    why: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that was heard in a recording of ``seconds``, whose file is called ``file`` and has the SHA-256 ``sha256``.

    ``language`` is empty where nothing was heard; its ``language_probability`` is 1 where the user named it.
    ``damaged`` pieces of the file could not be decoded. ``model`` is the name of the Whisper model.
    """

    file: str
    sha256: str
    seconds: float
    model: str
    language: str
    language_probability: float
    damaged: int
    segments: tuple[Segment, ...]


def transcript_path(folder: Path, sha256: str, **settings: str | bool) -> Path:
    """Return where the transcript of a recording belongs that was made with these settings."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"{sha256}-{key}.json"


def write_transcript(path: Path, transcript: Transcript, doubts: Sequence[Doubt]) -> None:
    """Write a transcript with the list of what is not believed of it, where that differs from what is there.

    Raises ``CorpusError`` when the disk does not take it.
    """
    dropped = [
        {"start": doubt.segment.start, "end": doubt.segment.end, "text": doubt.segment.text.strip(), "why": doubt.why}
        for doubt in doubts
    ]
    value = {"format_version": FORMAT_VERSION, **asdict(transcript), "dropped": dropped}
    try:
        if not path.exists() or json.loads(path.read_bytes()) != json.loads(json.dumps(value)):
            write_json(path, value, checked=False)
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be written ({error.strerror}).",
            "Free some space or check the folder's permissions; the transcripts that are finished are kept.",
        ) from error


def read_transcript(path: Path) -> Transcript | None:
    """Read a transcript; None where there is none yet.

    Raises ``FormatError`` for a damaged one, which may be hours of work with one comma too many.
    """
    if not path.exists():
        return None
    if not path.is_file():  # a device has no end, and a pipe no beginning
        raise FormatError(f"{path}: {WHAT} should be a file, and this is none.", AGAIN_HINT)
    value = read_json(path, format_version=FORMAT_VERSION, what=WHAT)
    try:
        segments = tuple(_segment(item) for item in value["segments"])
        return Transcript(
            file=_text(value["file"]),
            sha256=_text(value["sha256"]),
            seconds=_number(value["seconds"]),
            model=_text(value["model"]),
            language=_text(value["language"]),
            language_probability=_number(value["language_probability"]),
            damaged=int(_number(value["damaged"])),
            segments=segments,
        )
    except (KeyError, TypeError, OverflowError) as error:
        raise FormatError(
            f"{path}: {WHAT} is damaged: fields are missing or of the wrong type ({error}).", AGAIN_HINT
        ) from error


def _segment(item: dict[str, Any]) -> Segment:
    return Segment(
        start=_number(item["start"]),
        end=_number(item["end"]),
        text=_text(item["text"]),
        avg_logprob=_number(item["avg_logprob"]),
        no_speech_prob=_number(item["no_speech_prob"]),
        compression_ratio=_number(item["compression_ratio"]),
    )


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"a number was expected, found {type(value).__name__}")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, found {type(value).__name__}")
    return value
