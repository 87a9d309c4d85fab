"""From what Whisper heard to text: what is not to be believed, where sentences end, where paragraphs begin.

Pure functions on segments. Knows nothing of files, models or documents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gptcli.fetch.audio.transcripts import Doubt, Segment

# The thresholds of OpenAI's Whisper (transcribe.py).
MAX_NO_SPEECH = 0.6
MIN_LOGPROB = -1.0
MAX_COMPRESSION = 2.4
# A well-known phrase is doubted from here on.
SOME_NO_SPEECH = 0.3
SOME_LOGPROB = -0.6
# A segment of fewer words may well be said twice in a row.
REPEATED_WORDS = 3
PARAGRAPH_SECONDS = 2.0
SENTENCE_SECONDS = 0.5

NO_SPEECH = "segments without speech"
REPETITIVE = "segments that go round in circles"
WELL_KNOWN = "phrases that Whisper makes up"
REPEATED = "segments that repeat the one before"
DOUBTS = (NO_SPEECH, REPETITIVE, WELL_KNOWN, REPEATED)

# What Whisper says into silence, from the subtitles it was trained on; words only, in lower case.
PHRASES = frozenset(
    {
        "you",
        "thank you",
        "thank you very much",
        "thank you so much",
        "thank you for watching",
        "thanks for watching",
        "thanks for listening",
        "please subscribe",
        "please subscribe to my channel",
        "like and subscribe",
        "see you in the next video",
        "bye",
        "bye bye",
        "subtitles by the amara org community",
        "transcription by castingwords",
        "untertitel der amara org community",
        "untertitelung des zdf 2020",
        "vielen dank",
        "vielen dank für s zuschauen",
        "sous titres réalisés para la communauté d amara org",
        "sous titres réalisés par la communauté d amara org",
        "merci d avoir regardé cette vidéo",
        "subtítulos realizados por la comunidad de amara org",
        "gracias por ver el video",
        "sottotitoli creati dalla comunità amara org",
        "legendas pela comunidade amara org",
        "продолжение следует",
        "субтитры сделал dimatorzok",
        "ご視聴ありがとうございました",
        "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目",
    }
)

_ABBREVIATIONS = re.compile(
    r"(?:^|\W)(?:mr|mrs|ms|dr|prof|st|sr|jr|capt|col|gen|lt|maj|sgt|rev|hon|messrs|mme|vs|etc|cf|esp|approx)$",
    re.IGNORECASE,
)
_CLOSING = "\"')\\]\u2019\u201d\u00bb"
_WIDE_END = "\u3002\uff01\uff1f"
_WIDE_CLOSING = "\u300d\u300f\u201d\u2019\uff09"
# An end is followed by a space and no small letter; in Chinese and Japanese by anything.
_END = re.compile(rf"[.!?…]+[{_CLOSING}]*(?=\s+(?P<next>\S))|[{_WIDE_END}]+[{_WIDE_CLOSING}]*(?=\s*\S)")
_FINISHED = re.compile(rf"[.!?…{_WIDE_END}][{_CLOSING}{_WIDE_CLOSING}]*\s*$")
_INITIAL = re.compile(r"(?:^|\s)[A-HJ-UW-Z]$")  # I and V number chapters


def doubtful(segments: Sequence[Segment]) -> tuple[list[Segment], list[Doubt]]:
    """Part the segments into those to believe and those that Whisper probably made up, with the reason."""
    believed: list[Segment] = []
    doubts: list[Doubt] = []
    before, run = "", 0
    for segment in segments:
        words = _words(segment.text)
        run = run + 1 if words and words == before else 0
        before = words
        why = _doubt(segment, words) or (REPEATED if _is_loop(words, run) else "")
        if why:
            doubts.append(Doubt(segment, why))
        else:
            believed.append(segment)
    return believed, doubts


def _doubt(segment: Segment, words: str) -> str:
    """Say why a segment is not to be believed for itself, or return nothing."""
    if segment.no_speech_prob > MAX_NO_SPEECH and segment.avg_logprob < MIN_LOGPROB:
        return NO_SPEECH
    # The ratio counts bytes: a script of three bytes a letter compresses better without saying less.
    wide = len(segment.text.encode()) / max(len(segment.text), 1)
    if segment.compression_ratio > MAX_COMPRESSION * max(wide, 1.0):
        return REPETITIVE
    unsure = segment.no_speech_prob > SOME_NO_SPEECH or segment.avg_logprob < SOME_LOGPROB
    return WELL_KNOWN if unsure and words in PHRASES else ""


def _is_loop(words: str, run: int) -> bool:
    """Say whether words that were just said ``run`` times before are a loop and not emphasis."""
    return run > (0 if len(words.split()) >= REPEATED_WORDS else 1)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def paragraphs(segments: Sequence[Segment]) -> list[list[str]]:
    """Return the sentences of each paragraph; a pause of more than two seconds begins a new one.

    Words that do not end a sentence go on in the next segment, except after a pause where that begins with a capital.
    """
    found: list[list[str]] = []
    for block in _blocks(segments):
        sentences = [sentence for stretch in _stretches(block) for sentence in split_sentences(stretch)]
        if sentences:
            found.append(sentences)
    return found


def _blocks(segments: Sequence[Segment]) -> list[list[Segment]]:
    blocks: list[list[Segment]] = []
    for segment in segments:
        if blocks and segment.start - blocks[-1][-1].end <= PARAGRAPH_SECONDS:
            blocks[-1].append(segment)
        else:
            blocks.append([segment])
    return blocks


def _stretches(block: Sequence[Segment]) -> list[str]:
    """Join the segments of a paragraph wherever a sentence may go on from one to the next."""
    stretches: list[str] = []
    end = 0.0
    for segment in block:
        capital = segment.text.lstrip()[:1].isupper()
        pause = segment.start - end > SENTENCE_SECONDS and capital
        if stretches and not _FINISHED.search(stretches[-1]) and not pause:
            stretches[-1] += segment.text
        else:
            stretches.append(segment.text)
        end = segment.end
    return stretches


def split_sentences(text: str) -> list[str]:
    """Cut a text behind the ends of its sentences; every sentence keeps the space before it, so they join again."""
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(text):
        following = match["next"]
        if following is not None and (following.islower() or _is_abbreviation(text[start : match.start()], match[0])):
            continue
        sentences.append(text[start : match.end()])
        start = match.end()
    sentences.append(text[start:])
    return [sentence for sentence in sentences if sentence.strip()]


def _is_abbreviation(before: str, mark: str) -> bool:
    return mark == "." and bool(_ABBREVIATIONS.search(before) or _INITIAL.search(before))


def drop_sentences(blocks: Sequence[Sequence[str]], pattern: str) -> tuple[list[list[str]], list[str]]:
    """Remove the sentences in which the regular expression is found; returns the paragraphs left, and what went."""
    dropped = [text.strip() for block in blocks for text in block if re.search(pattern, text.strip())]
    kept = [[text for text in block if not re.search(pattern, text.strip())] for block in blocks]
    return [block for block in kept if block], dropped


def join_paragraphs(blocks: Sequence[Sequence[str]]) -> str:
    """Return paragraphs of sentences as text, with a blank line between two paragraphs."""
    return "\n\n".join(" ".join("".join(_spaced(block)).split()) for block in blocks)


def _spaced(block: Sequence[str]) -> list[str]:
    # Where a segment was cut at a sentence's end, its space may have been lost; Chinese and Japanese have none.
    return [text if text[:1].isspace() or ord(text[0]) >= 0x2E80 else f" {text}" for text in block]
