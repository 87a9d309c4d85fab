"""Paragraphs of a Gutenberg text that are not the work: who made the etext, and what the transcriber has to say.

Given the text between the markers; knows neither markers nor headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEAD_PARAGRAPHS = 16
_HEAD_CHARS = 12_000
_TAIL_CHARS = 6_000
_PARAGRAPH_CHARS = 3_000
# How long a note without brackets may be at the beginning, at the end, and between.
_NOTE_CHARS = (6_000, 40_000, 3_000)
_TAIL_SHARE = 0.85

_TEXT = (
    r"(?:project gutenberg['\u2019]?s? )?(?:e-?texts?|e-?books?|electronic (?:texts?|editions?|versions?)"
    r"|digital (?:text|edition)|html(?: version| file)?|text file|file)"
)
_MADE = (
    r"(?:re-?)?(?:produced|prepared|transcribed|scanned|digiti[sz]ed|typed|keyed|proof-?(?:read|ed)|created|converted"
    r"|submitted|contributed|provided|processed|formatted)"
)
_TEAM = r"(?:distributed proofread|proofreading team|\bpgdp\b|project gutenberg|\be-?text\b|@|david widger)"
# What only the first paragraphs may be told by, since a story could say such a thing.
_CREDIT = re.compile(
    rf"\W*(?:first |originally )?{_MADE}\b.{{0,40}}?\b(?:by|from|for|with|and)\b"
    r"|\W*(?:credits?:|html version\b|(?:many |special )?thanks to\b)"
    r"|\W*(?:note: ?)?(?:images|scans|the original (?:page )?images) (?:of|from|are|courtesy|generously)\b"
    r"|\W*note: ?(?:project gutenberg|the original|this (?:e-?book|e-?text|file)|there (?:is|are))\b"
    r"|\W*see (?:the )?transcriber['\u2019]?s?['\u2019]? notes?\b"
    r"|.{0,800}(?:\bpgdp\b|distributed proofread|proofreading team|project gutenberg|\be-?texts?\b"
    r"|gutenberg\.(?:org|net)\b)|.{0,120}[\w.]@[\w-]+\.\w",
    re.IGNORECASE,
)
# What is a credit, or the heading of an etext, near the beginning and at the very end.
_SURE_CREDIT = re.compile(
    rf"\W*(?:this |the |these )?{_TEXT} (?:(?:was|were|is|are|has been) )?"
    rf"(?:(?:originally|kindly|graciously) )?{_MADE}\b"
    rf"|\W*{_MADE}\b.{{0,200}}{_TEAM}"
    r"|\W*(?:this|the) (?:is the \w+ )?etext (?:file )?(?:is )?(?:presented|has certain copyright)"
    r"|\W*(?:this|the) text (?:was|is) (?:prepared|produced|transcribed|scanned)\b"
    r"|\W*there is an improved edition of this title|\W*this ebook was one of project gutenberg['\u2019]s early files"
    r"|\W*project gutenberg is proud to cooperate"
    r"|\W*(?:the )?project gutenberg(?:['\u2019]s)? (?:e-?text|e-?book)s? of\b.{0,300}$"
    r"|\W*pg has multiple editions of\b|\W*(?:also available at )?project gutenberg (?:also )?has\b"
    r"|\W*also available at project gutenberg\b",
    re.IGNORECASE,
)
_LAST_WORDS = re.compile(
    r"^[^\w\n]{0,40}(?:the )?(?:end|ende|fin|fine|fim|einde|slut|slutet|loppu|koniec)\b[^\n]{0,60}?"
    r"\bpro(?:ject|jekt|jet|getto|yecto|jeto|jekti|jektu)[-\s]gutenberg"
    r"|^[^\w\n]{0,40}end of (?:this |the )?(?:e-?text|e-?book)\b|^[^\w\n]{0,40}ende (?:dieses?|des) (?:e-?text|e-?book)"
    r"|^[^\w\n]{0,40}fin de (?:l['\u2019]|ce |cet )?(?:e-?text|e-?book)"
    r"|^[^\w\n]{0,40}end of this is copyrighted"
    r"|^[^\w\n]{0,40}more information about this book is at the top of this file"
    r"|^[^\w\n]{0,40}ce document fut pr[eé]sent[eé] en lecture",
    re.IGNORECASE | re.MULTILINE,
)
_NOTER = r"(?:e-?text |digital |html )?(?:transcriber|transcription|scanner|preparer|redactor|proofreader)"
_NOTES = (
    rf"(?:the |original )?{_NOTER}['\u2019]?s?['\u2019]? *(?:end)?-?(?:notes?|comments?|remarks?|corrections?|errata)\b"
    rf"|notes? (?:of|by|from|on) (?:the )?{_NOTER}\b"
    r"|(?:the following )?(?:typographical|printer['\u2019]?s?) errors (?:(?:were|have been) )?corrected\b"
    r"|(?:executive director|etext editor|etext preparer)['\u2019]?s?['\u2019]? (?:notes?|bookmarks)\b"
    r"|anmerkung(?:en)? (?:zur transkription|de[sr] (?:transkribenten|bearbeiters))|hinweise zur transkription"
    r"|notes? (?:de (?:la )?transcription|du transcripteur|au lecteur de ce fichier)|notas? del transcriptor"
    r"|notas? d[eo] transcri(?:ción|ção|tor)|nota del trascrittore|opmerkingen van de bewerker"
)
_NOTE = re.compile(rf"^(?:[^\w\[\n]|_){{0,80}}(?P<words>{_NOTES})", re.IGNORECASE | re.MULTILINE)
# Rules and ornaments above a note go with it; above them, a paragraph has to end.
_ABOVE_NOTE = re.compile(r"(?:\A|\n[ \t]*\n)(?:[^\w\[]|_)*\Z")
_ABOVE_CHARS = 300
_BRACKETED = re.compile(
    rf"[ \t]{{0,80}}\[[ \t\n]{{0,80}}(?:see )?[\"“]?(?:{_NOTES})(?:[^\[\]]|\[[^\[\]]{{0,400}}\]){{0,6000}}\]",
    re.IGNORECASE,
)
_BOX = re.compile(
    r"^[ \t]*[+*][-=*]{8,}[+*]?[ \t]*\n(?:[ \t]*[|*][^\n]*\n){1,200}[ \t]*[+*][-=*]{8,}[+*]?[ \t]*$", re.MULTILINE
)
_BOXED_NOTE = re.compile(_NOTES, re.IGNORECASE)
_PARAGRAPH = re.compile(r"\S[^\n]*(?:\n[ \t]*\S[^\n]*)*")
_WIDE_GAP = re.compile(r"\n(?:[ \t]*\n){3,}")
_GAP = re.compile(r"\n(?:[ \t]*\n){2,}")
# The number of an etext stands under the title of each one in a file of several.
_NUMBER_LINE = re.compile(
    r"^[A-Z][a-z]{2,8},? \d{4} +\[E-?(?:text|book) #\d+\]\*?[ \t]*$\n?", re.MULTILINE | re.IGNORECASE
)
_HEADING = re.compile(
    r"\W*(?:contents|preface|introduction|prologue|foreword|chapter\b.{0,80}|by [^.]{0,60}|[^a-zß-ÿ]{4,80})\W*"
)


def without_notes(text: str) -> str:
    """Remove the transcriber's notes: bracketed and boxed ones anywhere, others up to a gap of three blank lines."""
    text = _BRACKETED.sub("", text)
    text = _BOX.sub(lambda box: "" if _BOXED_NOTE.search(box[0]) else box[0], text)
    text = _NUMBER_LINE.sub("", text)
    pieces, at = [], 0
    for note in _NOTE.finditer(text):
        begins = max(at, note.start() - _ABOVE_CHARS)
        above = _ABOVE_NOTE.search(text, begins, note.start()) if note.start() >= at else None
        if above:
            pieces.append(f"{text[at : above.start()]}\n\n")
            at = _note_end(text, note.start("words"))
    return "".join([*pieces, text[at:]])


def without_credits(text: str, title: str = "") -> str:
    """Remove who produced the etext at the beginning, and that it ends at its end; ``title`` is never taken away."""
    kept, at, leading = [], 0, True
    for paragraph in _first_paragraphs(text):
        plain = " ".join(paragraph[0][:_PARAGRAPH_CHARS].split())
        if _is_title(plain, title):
            leading = False
        elif _SURE_CREDIT.match(plain) or (leading and _CREDIT.match(plain)):
            kept.append(text[at : paragraph.start()])
            at = paragraph.end()
        else:
            leading = False
    return _without_last_words("".join([*kept, text[at:]]))


def _without_last_words(text: str) -> str:
    tail = max(len(text) - _TAIL_CHARS, 0)
    if end := _LAST_WORDS.search(text, tail):
        text = text[: end.start()]
    while True:
        text = text.rstrip()
        last = text.rfind("\n\n") + 1
        plain = " ".join(text[last:][:_PARAGRAPH_CHARS].split())
        if not plain or not _SURE_CREDIT.match(plain):
            return text
        text = text[:last]


def _note_end(text: str, start: int) -> int:
    """Return where the note that begins at ``start`` ends: at a wide gap or a heading, at least one paragraph on."""
    first = _PARAGRAPH.search(text, start)
    assert first is not None
    at_end = start > _TAIL_SHARE * len(text)
    last = start + _NOTE_CHARS[0 if start < _HEAD_CHARS else 1 if at_end else 2]
    wide, gap = _WIDE_GAP.search(text, first.end(), last), _GAP.search(text, first.end(), last)
    if wide is None and at_end and len(text) <= last:
        end = len(text)
    else:
        found = wide or gap
        end = found.start() if found else first.end()
    for paragraph in _PARAGRAPH.finditer(text, first.end(), end):
        plain = " ".join(paragraph[0].split())
        if len(plain) <= 100 and _HEADING.fullmatch(plain):
            return paragraph.start()
    return end


def _first_paragraphs(text: str) -> Iterator[re.Match[str]]:
    for number, paragraph in enumerate(_PARAGRAPH.finditer(text)):
        if number >= _HEAD_PARAGRAPHS or paragraph.start() > _HEAD_CHARS:
            return
        yield paragraph


def _is_title(plain: str, title: str) -> bool:
    words, wanted = (re.sub(r"\W+", " ", text).strip().casefold() for text in (plain, title))
    return bool(words) and wanted.startswith(words)
