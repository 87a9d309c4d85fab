"""Recordings: each becomes one document, by way of a transcript that is kept beside the corpus and made only once.

Owns the order of the work, what is told of it and what is missing. Sound, Whisper and the rules of text are elsewhere.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptcli.documents import Document, document_parts
from gptcli.errors import SourceError
from gptcli.fetch.audio.sound import AUDIO_SUFFIXES, READ_HINT, Recording, RecordingError
from gptcli.fetch.audio.spoken import DOUBTS, doubtful, drop_sentences, join_paragraphs, paragraphs
from gptcli.fetch.audio.transcripts import Transcript, read_transcript, transcript_path, write_transcript
from gptcli.fetch.audio.whisper import (
    SURE_OF_LANGUAGE,
    Heard,
    Whisper,
    check_language,
    choose_whisper,
    find_folder,
    hear,
    load_whisper,
)
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.source import Missing, Plan, Source, shown
from gptcli.fetch.web.progress import clock
from gptcli.files import refuse_links_out, sha256_file
from gptcli.progress import Portion

__all__ = ["AUDIO_SUFFIXES", "open_audio"]

Progress = Callable[[str], None]
TRANSCRIPTS = Path("raw") / "transcripts"
# A recording of which less than this share could be decoded is told; containers only estimate how long they are.
WHOLE = 0.9
MAX_EXAMPLES = 3


def open_audio(
    files: Sequence[tuple[Path, str]], where: str, name: str, folder: Path, options: FetchOptions, on_progress: Progress
) -> Source:
    """Open recordings, each with the label that messages call it by; one document each, ``Chapter 2`` before ``10``.

    Transcripts lie in the corpus's ``folder`` under ``raw/transcripts``: what is there is read and not heard again.
    Reading the documents raises ``SourceError`` when there is no faster-whisper or no model, and for a single recording
    that is broken or in which nobody speaks; among several those are missing or counted. Raises ``FormatError`` where
    that folder is a symbolic link out of the corpus.
    """
    ordered = sorted(files, key=lambda item: _by_number(item[1]))
    source = Source("audio", name, where, drops_lines=True)
    refuse_links_out(folder, str(TRANSCRIPTS.parent), str(TRANSCRIPTS))
    shelf = _Shelf(source, [Recording(*item) for item in ordered], folder / TRANSCRIPTS, options, on_progress)
    source.documents = shelf.documents()
    source.plan = shelf.plan
    return source


@dataclass(slots=True)
class _Shelf:
    """The recordings of one source on their way to text."""

    source: Source
    recordings: list[Recording]
    folder: Path
    options: FetchOptions
    on_progress: Progress
    languages: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)
    broken: list[SourceError] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    model: Any = None

    def documents(self) -> Iterator[Document]:
        whisper = choose_whisper(self.options.whisper)
        self.on_progress(f"looking at {_recordings(len(self.recordings))}")
        lengths = [recording.seconds() for recording in self.recordings]
        pace = _Pace(sum(length or 0.0 for length in lengths))
        for number, (recording, length) in enumerate(zip(self.recordings, lengths, strict=True), 1):
            try:
                transcript, path = self._transcript(whisper, recording, pace, number, length)
            except RecordingError as error:
                self.source.missing.append(Missing(recording.label, error.message))
                self.broken.append(error)
                pace.total -= length or 0.0
                continue
            pace.done += length or 0.0
            self._check_whole(recording, transcript, length)
            yield from self._text(recording, transcript, path)
        self._sum_up()

    def _transcript(
        self, whisper: Whisper, recording: Recording, pace: _Pace, number: int, length: float | None
    ) -> tuple[Transcript, Path]:
        """Return the transcript of a recording and where it lies: the one that is there, else a new one."""
        path = self._path(whisper, recording)
        if (transcript := read_transcript(path)) is not None:
            return transcript, path
        if self.model is None:
            self.model = load_whisper(whisper, offline=self.options.offline, on_progress=self.on_progress)
            check_language(self.model, self.options.language, whisper)
        what = f"recording {number:,} of {len(self.recordings):,}: {recording.label}"
        pace.begin()
        self.on_progress(what)
        heard = hear(
            self.model,
            recording,
            language=self.options.language,
            vad=self.options.vad,
            on_position=lambda position: self.on_progress(
                Portion(f"{what}, {pace.told(position, length)}", pace.done + position, pace.total)
            ),
        )
        pace.end(recording.decoded)
        transcript = _transcript_of(recording, whisper, path, heard)
        write_transcript(path, transcript, doubtful(transcript.segments)[1])
        return transcript, path

    def _path(self, whisper: Whisper, recording: Recording) -> Path:
        try:
            digest = sha256_file(recording.path)
        except OSError as error:
            raise RecordingError(f"{recording.label} cannot be read ({error.strerror}).", READ_HINT) from error
        return transcript_path(
            self.folder,
            digest,
            whisper=whisper.identity,
            language=self.options.language or "",
            vad=self.options.vad,
        )

    def _text(self, recording: Recording, transcript: Transcript, path: Path) -> Iterator[Document]:
        believed, doubts = doubtful(transcript.segments)
        write_transcript(path, transcript, doubts)
        self.source.dropped.update(Counter(doubt.why for doubt in doubts))
        blocks = paragraphs(believed)
        if not blocks:
            self.silent.append(recording.label)
            if len(self.recordings) == 1:
                raise self._nobody_speaks(recording, len(doubts), path)
            return
        for pattern in self.options.drop_lines:
            blocks, dropped = drop_sentences(blocks, pattern)
            self.source.dropped[f"lines with {pattern}"] += len(dropped)
            self.lines.setdefault(pattern, []).extend(dropped)
        self.languages[transcript.language] += 1
        if transcript.language_probability < SURE_OF_LANGUAGE:
            self.source.notes.append(
                f"{recording.label}: the language is probably {transcript.language}, but that is not sure. "
                "Pass --language to insist on one."
            )
        yield from document_parts(
            [join_paragraphs(blocks)], title=Path(recording.label).stem, language=transcript.language
        )

    def _nobody_speaks(self, recording: Recording, doubts: int, path: Path) -> SourceError:
        seen = f" ({path} lists {_segments(doubts)})" if doubts else ""
        ways = "a larger model (--whisper medium)" + (" or --no-vad" if self.options.vad else "")
        return SourceError(
            f"No speech was recognised in {recording.label}{seen}.", f"If somebody speaks in it, try {ways}."
        )

    def _check_whole(self, recording: Recording, transcript: Transcript, length: float | None) -> None:
        notes = self.source.notes
        if length is not None and length > 1 and transcript.seconds < WHOLE * length:
            notes.append(
                f"{recording.label} says that it is {clock(length)} long, but only {clock(transcript.seconds)} "
                "could be decoded."
            )
        elif transcript.damaged:
            notes.append(f"{recording.label}: {transcript.damaged:,} damaged pieces of sound were passed over.")

    def _sum_up(self) -> None:
        """Say what was noticed over all recordings; raises when not one of them could be read."""
        if len(self.broken) == len(self.recordings):
            first = self.broken[0]
            none = f"None of the {len(self.broken):,} recordings can be read. " if len(self.broken) > 1 else ""
            raise SourceError(f"{none}{first.message}", first.hint)
        notes = self.source.notes
        if self.silent:
            self.source.dropped["recordings without speech"] += len(self.silent)
            notes.append(f"No speech was recognised in {_recordings(len(self.silent))}: {shown(self.silent)}.")
        if self.languages and self.options.language is None:
            found = ", ".join(f"{code} ({_recordings(count)})" for code, count in self.languages.most_common())
            notes.append(f"The language was detected: {found}. Pass --language to insist on one.")
        for pattern, dropped in self.lines.items():
            examples = ", ".join(f'"{text}"' for text in dropped[:MAX_EXAMPLES])
            removed = "1 sentence" if len(dropped) == 1 else f"{len(dropped):,} sentences"
            notes.append(
                f"--drop-lines {pattern} removed {removed}: {examples}."
                if dropped
                else f"--drop-lines {pattern} is found in no sentence."
            )
        if count := sum(doubt for why, doubt in self.source.dropped.items() if why in DOUBTS):
            notes.append(f"Left out: {_segments(count)}; the transcripts in {self.folder} say which.")

    def plan(self) -> Plan:
        """Say what will be heard, by which model, and how much of it is transcribed already."""
        whisper = choose_whisper(self.options.whisper)
        lengths = [recording.seconds() for recording in self.recordings]
        untold = sum(length is None for length in lengths)
        together = f"{clock(sum(length or 0.0 for length in lengths))} together"
        steps = [f"{_recordings(len(lengths))}, {together}{f', {untold:,} of unknown length' if untold else ''}"]
        done = sum(self._is_done(whisper, recording) for recording in self.recordings)
        if done:
            steps.append(f"{done:,} of them transcribed before, which is kept")
        download = False
        if done < len(lengths):
            download = find_folder(whisper) is None
            where = f"which is downloaded first ({whisper.size})" if download else "which is on this machine"
            steps.append(f"transcribe with the Whisper model {whisper.name}, {where}")
        size = (whisper.megabytes or 0) * 1_000_000 or None
        return Plan(
            tuple(steps),
            requests=None if download else 0,
            seconds=0.0 if done == len(lengths) else None,
            bytes=size if download else 0,
        )

    def _is_done(self, whisper: Whisper, recording: Recording) -> bool:
        try:
            return self.folder.is_dir() and self._path(whisper, recording).exists()
        except RecordingError:
            return False


@dataclass(slots=True)
class _Pace:
    """How fast the work goes: seconds of sound, ``total`` and ``done``, and those heard since this program began."""

    total: float
    done: float = 0.0
    heard: float = 0.0
    spent: float = 0.0
    began: float = 0.0

    def begin(self) -> None:
        self.began = time.monotonic()

    def end(self, seconds: float) -> None:
        self.spent += time.monotonic() - self.began
        self.heard += seconds

    def told(self, position: float, length: float | None) -> str:
        """Say how far a recording is, how fast it goes, and when all will be done."""
        spent = self.spent + time.monotonic() - self.began
        speed = (self.heard + position) / max(spent, 1e-3)
        of = f" of {clock(length)}" if length else ""
        left = max(self.total - self.done - position, 0.0) / max(speed, 1e-3)
        return f"{clock(position)}{of}, {speed:.1f} times as fast as it is spoken, about {clock(left)} left"


def _transcript_of(recording: Recording, whisper: Whisper, path: Path, heard: Heard) -> Transcript:
    return Transcript(
        file=recording.label,
        sha256=path.name.partition("-")[0],
        seconds=round(recording.decoded, 2),
        model=whisper.name,
        language=heard.language,
        language_probability=heard.probability,
        damaged=recording.damaged,
        segments=heard.segments,
    )


def _by_number(label: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts names with their numbers in order."""
    parts = re.findall(r"\d+|\D+", label)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _recordings(count: int) -> str:
    return "1 recording" if count == 1 else f"{count:,} recordings"


def _segments(count: int) -> str:
    return "1 doubtful segment" if count == 1 else f"{count:,} doubtful segments"
