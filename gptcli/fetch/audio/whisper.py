"""Whisper on this machine, through faster-whisper: which model it is, where it lies, and what it hears.

The only place that knows faster-whisper. Which segments are believed, and what becomes of them, is not known here.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.errors import SourceError
from gptcli.fetch.audio.sound import SAMPLE_RATE, Recording
from gptcli.fetch.audio.transcripts import Segment

# Megabytes to download, by name; those for English alone are as large.
SIZES = {
    "tiny": 75,
    "base": 145,
    "small": 484,
    "medium": 1530,
    "large-v1": 3090,
    "large-v2": 3090,
    "large-v3": 3090,
    "large-v3-turbo": 1620,
    "distil-small.en": 332,
    "distil-medium.en": 789,
    "distil-large-v2": 1510,
    "distil-large-v3": 1510,
}
ENGLISH = ("tiny.en", "base.en", "small.en", "medium.en")
OTHER_NAMES = {"large": "large-v3", "turbo": "large-v3-turbo"}
INSTALL_HINT = "pip install 'gptcli[audio]'"
CONVERT_HINT = (
    "ct2-transformers-converter --model openai/whisper-small --output_dir FOLDER "
    "--copy_files tokenizer.json preprocessor_config.json makes such a folder."
)
DETECTION_WINDOWS = 4
SURE_OF_LANGUAGE = 0.5
_FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Whisper:
    """A Whisper model that was chosen: ``folder`` is that of the user, None for a model of the hub.

    ``identity`` is what tells it from other models; ``megabytes`` is None where the size is not known.
    """

    name: str
    identity: str
    folder: Path | None
    megabytes: int | None

    @property
    def size(self) -> str:
        """How much has to be downloaded, to be put behind the name."""
        return f"about {self.megabytes:,} MB" if self.megabytes else "of unknown size"


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard in a recording, and its language, which is empty where nothing was heard."""

    segments: tuple[Segment, ...]
    language: str
    probability: float


def choose_whisper(wanted: str) -> Whisper:
    """Find the model called ``wanted``: a size, a folder with a model of CTranslate2, or ``owner/name`` on the hub.

    Raises ``SourceError`` for a name that is none, and for a folder without a model.
    """
    path = Path(wanted)
    with contextlib.suppress(RuntimeError):  # there is no such user
        path = path.expanduser()
    if path.is_dir():
        return Whisper(wanted, _fingerprint(path), path, None)
    name = OTHER_NAMES.get(wanted, wanted)
    if name not in {*SIZES, *ENGLISH} and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        nearest = difflib.get_close_matches(wanted, [*SIZES, *ENGLISH, *OTHER_NAMES], n=1)
        meant = f"Did you mean --whisper {nearest[0]}? " if nearest else ""
        raise SourceError(
            f"There is no Whisper model called {wanted!r}, and no folder of that name. "
            f"The models are {', '.join([*SIZES, *ENGLISH, *OTHER_NAMES])}.",
            f"{meant}--whisper FOLDER takes a model of your own in CTranslate2's format.",
        )
    return Whisper(name, name, None, SIZES.get(name.removesuffix(".en")) or SIZES.get(name))


def _fingerprint(folder: Path) -> str:
    """Return what tells a model in a folder from others: the start and the end of its weights, and their size."""
    missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"The folder {folder} has no {' and no '.join(missing)}; "
            "a Whisper model in CTranslate2's format was expected.",
            CONVERT_HINT,
        )
    weights = folder / "model.bin"
    try:
        size = weights.stat().st_size
        with weights.open("rb") as file:
            head = file.read(_FINGERPRINT_BYTES)
            file.seek(max(size - _FINGERPRINT_BYTES, 0))
            tail = file.read()
    except OSError as error:
        raise SourceError(f"{weights} cannot be read ({error.strerror}).", "Check its permissions.") from error
    return f"{size}:{hashlib.sha256(head + tail).hexdigest()}"


def find_folder(whisper: Whisper) -> Path | None:
    """Return where the model lies on this machine; None where it has to be downloaded first.

    Raises ``SourceError`` where faster-whisper is not installed.
    """
    if whisper.folder is not None:
        return whisper.folder
    faster_whisper = _faster_whisper()
    # Anything else that is wrong with the cache is told when the model is loaded.
    with contextlib.suppress(Exception):
        folder = Path(faster_whisper.download_model(whisper.name, local_files_only=True))
        return folder if (folder / "model.bin").is_file() else None
    return None


def _faster_whisper() -> Any:  # noqa: ANN401 - an extra that may be missing
    if importlib.util.find_spec("faster_whisper") is None:
        raise SourceError("Recordings are transcribed by faster-whisper, which is not installed.", INSTALL_HINT)
    try:
        import faster_whisper
    except ImportError as error:
        raise SourceError(f"faster-whisper is installed but cannot be used ({_line(error)}).", INSTALL_HINT) from error
    return faster_whisper


def load_whisper(whisper: Whisper, *, offline: bool, on_progress: Callable[[str], None]) -> Any:  # noqa: ANN401
    """Load a model, which is downloaded first if need be and unless ``offline``.

    Raises ``SourceError`` when it cannot be had or read, with what would help.
    """
    faster_whisper = _faster_whisper()
    folder = find_folder(whisper)
    if folder is None:
        if offline:
            raise _not_to_be_had(whisper, "and --offline forbids to download it")
        on_progress(f"downloading the Whisper model {whisper.name} ({whisper.size})")
        try:
            folder = Path(faster_whisper.download_model(whisper.name))
        except Exception as error:  # the hub's library lets the errors of its HTTP client through
            raise _not_to_be_had(whisper, f"and cannot be downloaded ({_line(error)})") from error
    on_progress(f"loading the Whisper model {whisper.name}")
    try:
        import ctranslate2

        ctranslate2.set_random_seed(0)  # words that are hard to hear are drawn; the same work hears the same again
        return faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="int8")
    except Exception as error:  # a damaged file can raise anything
        raise SourceError(f"{folder}: the Whisper model cannot be read ({_line(error)}).", CONVERT_HINT) from error


def _not_to_be_had(whisper: Whisper, why: str) -> SourceError:
    smaller = [f"{name} ({size:,} MB)" for name, size in list(SIZES.items())[:4] if size < (whisper.megabytes or 0)]
    others = f" Smaller ones: --whisper {', '.join(smaller)}." if smaller else ""
    return SourceError(
        f"The Whisper model {whisper.name} ({whisper.size}) is not on this machine {why}.",
        f"Connect once, or copy a folder with the model from elsewhere and give it: --whisper FOLDER.{others}",
    )


def check_language(model: Any, language: str | None, whisper: Whisper) -> None:  # noqa: ANN401
    """Raise ``SourceError`` for a language that the model does not know."""
    known = model.supported_languages
    if language is None or language in known:
        return
    if len(known) == 1:
        raise SourceError(
            f"The Whisper model {whisper.name} knows English only, not {language!r}.",
            f"--whisper {whisper.name.removesuffix('.en')} knows about a hundred languages.",
        )
    raise SourceError(
        f"The Whisper model {whisper.name} knows no language {language!r}; it knows {', '.join(known)}.",
        "For German: --language de. Without --language it is detected.",
    )


def hear(
    model: Any,  # noqa: ANN401
    recording: Recording,
    *,
    language: str | None,
    vad: bool,
    on_position: Callable[[float], None] = lambda _: None,
) -> Heard:
    """Transcribe a recording, some minutes in memory at a time; ``on_position`` is told how many seconds are done.

    The language is that of the first piece in which it is likelier than all others together. Nothing is left out here,
    however doubtful. Raises ``SourceError`` where the recording or the model fails on the way.
    """
    segments: list[Segment] = []
    sure, likeliest, begins = language, (0.0, ""), 0.0
    for samples in recording.pieces():
        try:
            found, info = model.transcribe(
                samples,
                language=sure,
                vad_filter=vad,
                condition_on_previous_text=False,
                no_speech_threshold=None,  # it would leave out windows without saying so
                language_detection_segments=DETECTION_WINDOWS,
            )
            before = len(segments)
            for segment in _segments(found, begins, len(samples) / SAMPLE_RATE):
                segments.append(segment)
                on_position(segment.end)
        except SourceError:
            raise
        except Exception as error:  # the runtime raises RuntimeError, ValueError, MemoryError and others
            raise SourceError(f"{recording.label} cannot be transcribed ({_line(error)}).", INSTALL_HINT) from error
        if len(segments) > before:
            likeliest = max(likeliest, (float(info.language_probability), info.language))
            sure = likeliest[1] if likeliest[0] > SURE_OF_LANGUAGE else None
        begins += len(samples) / SAMPLE_RATE
        on_position(begins)
    return Heard(tuple(segments), likeliest[1], round(likeliest[0], 4))


def _segments(found: Iterator[Any], begins: float, seconds: float) -> Iterator[Segment]:
    """Turn faster-whisper's segments, which it hears one after the other as they are asked for, into ours."""
    for item in found:
        yield Segment(
            # A window is always 30 seconds long, so that its last segment may end after the sound.
            start=round(begins + min(item.start, seconds), 2),
            end=round(begins + min(item.end, seconds), 2),
            text=item.text,
            avg_logprob=_finite(item.avg_logprob),
            no_speech_prob=_finite(item.no_speech_prob),
            compression_ratio=_finite(item.compression_ratio),
        )


def _finite(value: float) -> float:
    return round(value, 4) if math.isfinite(value) else -100.0


def _line(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return " ".join(first.split()).rstrip(".") or type(error).__name__
